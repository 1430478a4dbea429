//! `xfi inject`.

mod request;
mod view;

use crate::args::{Inject, Output};
use crate::exit::{Exit, coded};
use crate::host::{Host, refusal};
use crate::output;
use anyhow::{Result, bail};
use request::Request;
pub(crate) use request::{check_build, choose, duration, open_xen};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use view::{InjectView, text, why_not};
use xfi_model::{
    AgentHello, AgentRun, Command, EventBody, Fault, InjectionRecord, InjectionState, Location,
    Register,
};
use xfi_symbols::Symbols;

/// How much later than its expiry the end of an injection may be heard of.
const PATIENCE: Duration = Duration::from_secs(20);

/// A guest's own agent may take so long to arm (the agent in dom0 gives up then).
const ARMING: Duration = Duration::from_secs(30);

/// Runs the command.
pub(crate) fn run(args: &Inject) -> Result<()> {
    if let Some(task) = args.task.selector() {
        return crate::inject_task::run(args, task);
    }
    if let Some(asked) = args.memory.asked()? {
        return crate::memory::inject(args, &asked);
    }
    let request = Request::check(args)?;
    let mut host = Host::find().map_err(|e| match &args.domain {
        Some(name) => e.context(format!("cannot look up domain '{name}'")),
        None => e,
    })?;
    let hello = host.hello()?;
    need_hypercall(&hello)?;
    let symbols = request.symbols(host.artifacts())?;
    let fault = request.fault(host.default_target.as_deref(), &hello, &symbols)?;
    let op = fault.op;
    let location = fault.location.clone();
    let expire = Duration::from_nanos(fault.trigger.expire_ns.unwrap_or(0));
    let mut record = follow(&mut host, fault, expire, |body| match body {
        EventBody::Injection { record, .. } => {
            let fired = record.state == InjectionState::Fired;
            Some((record, fired))
        }
        _ => None,
    })?;
    symbolise(&symbols, &location, &mut record);
    let view = InjectView::of(&record, op);
    match args.output.output {
        Output::Json => output::json(&view)?,
        Output::Text => output::print(&text(&record, &view, op)),
    }
    if record.state == InjectionState::Fired {
        Ok(())
    } else {
        Err(coded(Exit::NotFired, why_not(&record)))
    }
}

/// Whether this Xen has the hypercall.
pub(crate) fn need_hypercall(hello: &AgentHello) -> Result<()> {
    if hello.capabilities.is_some() {
        return Ok(());
    }
    Err(coded(
        Exit::NoHost,
        format!(
            "the Xen of {} has no xfi hypercall; load it with: xfi livepatch load (or boot the \
             patched Xen: docs/real-host.md)",
            hello.hostname
        ),
    ))
}

/// Gives the agent the fault and waits for its end, which `end_of` tells from
/// other events; with the record, whether it fired.
pub(crate) fn follow<T>(
    host: &mut Host,
    fault: Fault,
    expire: Duration,
    end_of: impl Fn(EventBody) -> Option<(T, bool)>,
) -> Result<T> {
    // Xen arms at once.
    let arming = match fault.location.register() {
        None if !fault.location.is_memory() => ARMING,
        _ => Duration::ZERO,
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let seq = host.link().send(Command::Run(AgentRun {
        fault: Some(fault),
        dummy: false,
        poll_ms: 10,
        observe_ms: None,
        final_checks: false,
    }))?;
    let progress = crate::progress::countdown("armed; waiting for the trigger", expire);
    let mut deadline = Instant::now() + arming + expire + PATIENCE;
    let mut cancelled = false;
    let mut ended = None;
    loop {
        if interrupted.load(Ordering::SeqCst) && !cancelled {
            cancelled = true;
            deadline = Instant::now() + PATIENCE;
            host.link().send(Command::Cancel)?;
        }
        if Instant::now() >= deadline {
            bail!(
                "no word from the agent for {PATIENCE:?} after the expiry; the host may be down: \
                 see `xfi testbed console`, then `xfi testbed reset`"
            );
        }
        let Some(event) = host
            .link()
            .next_event(Instant::now() + Duration::from_millis(50))?
        else {
            continue;
        };
        if event.seq != seq {
            continue;
        }
        match event.body {
            EventBody::Error { code, message } => return Err(refusal(code, &message)),
            // By the clock of the task's domain, which may be another than ours.
            EventBody::TaskArmed { moment_in_ns, .. } => {
                deadline = Instant::now() + Duration::from_nanos(moment_in_ns) + expire + PATIENCE;
            }
            EventBody::Done => break,
            body => ended = end_of(body).or(ended),
        }
    }
    progress.finish_and_clear();
    match ended {
        Some((record, fired)) if !cancelled || fired => Ok(record),
        _ if cancelled => Err(coded(
            Exit::Interrupted,
            "interrupted; nothing is left armed",
        )),
        Some((record, _)) => Ok(record),
        None => bail!("the agent ended the run without a word on the injection"),
    }
}

/// Inside a hypercall RIP is Xen's own.
fn symbolise(symbols: &Symbols, location: &Location, record: &mut InjectionRecord) {
    let Some(flip) = &mut record.flip else { return };
    let Some(rip) = flip.before.get(&Register::Rip) else {
        return;
    };
    flip.rip_symbol = match location {
        Location::HypercallRegister { symbol, .. } => Some(symbol.clone()),
        _ => symbols.name(flip.guest_mode, rip.0),
    };
}
