//! `xfi inject`.

use crate::args::{Inject, Mode, Output, Trigger};
use crate::exit::{Exit, coded};
use crate::host::{Host, guests, refusal};
use crate::output;
use anyhow::{Result, bail};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use xfi_model::{
    AgentRun, BitOp, Command, DomainInfo, EventBody, Fault, Hex64, InjectionRecord, InjectionState,
    Location, ModeFilter, Register, RegisterFile, RipRange, TriggerKind, VcpuId,
};

/// How much later than its expiry the end of an injection may be heard of.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the command.
pub(crate) fn run(args: &Inject) -> Result<()> {
    let request = validate(args)?;
    let mut host = Host::find().map_err(|e| match &args.domain {
        Some(name) => e.context(format!("cannot look up domain '{name}'")),
        None => e,
    })?;
    let hello = host.hello()?;
    if hello.capabilities.is_none() {
        return Err(coded(
            Exit::NoHost,
            format!(
                "the Xen of {} has no xfi hypercall; load it with: xfi livepatch load (or boot the \
                 patched Xen: docs/real-host.md)",
                hello.hostname
            ),
        ));
    }
    let domain = choose(
        args.domain.as_deref(),
        host.default_target.as_deref(),
        &hello.domains,
    )?;
    let fault = Fault {
        location: Location::VcpuRegister {
            domain,
            vcpu: VcpuId(args.vcpu),
            register: request.register,
        },
        mask: Hex64(1 << request.bit),
        op: BitOp::Flip,
        trigger: request.trigger,
    };
    let expire = Duration::from_nanos(fault.trigger.expire_ns.unwrap_or(0));
    let mut record = inject(&mut host, fault, expire)?;
    symbolise(&host, &mut record);
    let view = InjectView::from(&record);
    match args.output.output {
        Output::Json => output::json(&view)?,
        Output::Text => output::print(&text(&record, &view)),
    }
    if record.state == InjectionState::Fired {
        Ok(())
    } else {
        Err(coded(Exit::NotFired, why_not(&record)))
    }
}

struct Validated {
    register: Register,
    bit: u32,
    trigger: xfi_model::Trigger,
}

fn validate(args: &Inject) -> Result<Validated> {
    let usage = |m: String| coded(Exit::Usage, m);
    let register: Register = args.reg.parse().map_err(|e| usage(format!("--reg: {e}")))?;
    let bit: u32 = args.bit.parse().map_err(|_| {
        usage(format!(
            "--bit: '{}' is not a bit number; valid for {register}: 0 to {}",
            args.bit,
            register.width() - 1
        ))
    })?;
    register
        .check_bit(bit)
        .map_err(|e| usage(format!("--bit: {e}")))?;
    let rip: Option<RipRange> = match &args.rip {
        Some(text) => Some(text.parse().map_err(|e| usage(format!("--rip: {e}")))?),
        None => None,
    };
    let duration = |name: &str, text: &str| {
        humantime::parse_duration(text).map_err(|_| {
            usage(format!(
                "{name}: '{text}' is not a duration; valid: 500ms, 2s, 1m"
            ))
        })
    };
    let after = duration("--after", &args.after)?;
    let expire = duration("--expire", &args.expire)?;
    if expire <= after {
        return Err(usage(format!(
            "--expire: '{}' is not later than --after '{}'; the injection could never fire",
            args.expire, args.after
        )));
    }
    if args.nth == 0 {
        return Err(usage("--nth: 0 is not an event; valid: 1 and up".into()));
    }
    Ok(Validated {
        register,
        bit,
        trigger: xfi_model::Trigger {
            kind: match args.trigger {
                Trigger::Kick => TriggerKind::Kick,
                Trigger::Switch => TriggerKind::Switch,
            },
            after_ns: after.as_nanos() as u64,
            nth: args.nth,
            expire_ns: Some(expire.as_nanos() as u64),
            rip,
            mode: args.mode.map(|m| match m {
                Mode::User => ModeFilter::User,
                Mode::Kernel => ModeFilter::Kernel,
            }),
        },
    })
}

/// The named domain, else the layout's default target, else the only guest.
fn choose(named: Option<&str>, default: Option<&str>, domains: &[DomainInfo]) -> Result<String> {
    let names: Vec<&str> = guests(domains).map(|d| d.name.as_str()).collect();
    let list = if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(" ")
    };
    if let Some(name) = named {
        if name == "Domain-0" {
            return Err(coded(
                Exit::NoDomain,
                format!("--domain: 'Domain-0' is the PVM, not a guest; valid: {list}"),
            ));
        }
        return if names.contains(&name) {
            Ok(name.to_owned())
        } else {
            Err(coded(
                Exit::NoDomain,
                format!("--domain: no guest '{name}' is running; valid: {list}"),
            ))
        };
    }
    if let Some(name) = default.filter(|d| names.contains(d)) {
        return Ok(name.to_owned());
    }
    match names.as_slice() {
        [only] => Ok((*only).to_owned()),
        [] => Err(coded(Exit::NoDomain, "no guest is running on this host")),
        _ => Err(coded(
            Exit::NoDomain,
            format!("several guests are running; name one with --domain: {list}"),
        )),
    }
}

fn inject(host: &mut Host, fault: Fault, expire: Duration) -> Result<InjectionRecord> {
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
    let mut deadline = Instant::now() + expire + PATIENCE;
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
            EventBody::Injection { record, .. } => ended = Some(record),
            EventBody::Error { code, message } => return Err(refusal(code, &message)),
            EventBody::Done => break,
            _ => {}
        }
    }
    progress.finish_and_clear();
    match ended {
        Some(record) if !cancelled || record.state == InjectionState::Fired => Ok(record),
        _ if cancelled => Err(coded(
            Exit::Interrupted,
            "interrupted; nothing is left armed",
        )),
        Some(record) => Ok(record),
        None => bail!("the agent ended the run without a word on the injection"),
    }
}

fn symbolise(host: &Host, record: &mut InjectionRecord) {
    let Some(flip) = &mut record.flip else { return };
    let Some(rip) = flip.before.get(&Register::Rip) else {
        return;
    };
    flip.rip_symbol = host.symbols().name(flip.guest_mode, rip.0);
}

/// What `xfi inject --output json` prints. The committed schema is
/// `docs/schema/inject.json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct InjectView {
    /// The format's version; 1.
    format: u32,
    /// `fired`, `expired`, `disarmed`, `target_gone` or `refused`.
    state: String,
    /// The injection's id, unique since that Xen booted.
    id: u64,
    /// The domain's name.
    domain: String,
    /// Its id.
    domid: u16,
    /// The vCPU.
    vcpu: u32,
    /// The register asked for.
    register: String,
    /// The bit asked for.
    bit: u32,
    /// `pv`, `hvm` or `pvh`; null when it did not fire.
    guest_kind: Option<String>,
    /// `user`, `kernel` or `hypervisor`; null when it did not fire.
    guest_mode: Option<String>,
    /// The physical CPU; null when it did not fire.
    pcpu: Option<u32>,
    /// RIP before the flip, as `0x…`; null when it did not fire.
    rip: Option<String>,
    /// RIP as `symbol+0x…`, where known.
    rip_symbol: Option<String>,
    /// All registers before, by name, as `0x…`; null when it did not fire.
    before: Option<BTreeMap<String, String>>,
    /// All registers after, by name, as `0x…`; null when it did not fire.
    after: Option<BTreeMap<String, String>>,
    /// The bits that differ between before and after, by register.
    changed: BTreeMap<String, Vec<u32>>,
    /// From arming to the flip, nanoseconds; null when it did not fire.
    arm_to_fire_ns: Option<u64>,
    /// The vCPU's state at the drawn moment: `running`, `runnable`, `blocked`
    /// or `offline`.
    runstate_at_drawn: Option<String>,
    /// Context-switch events seen since the drawn moment.
    events_seen: u64,
    /// Of these, those that passed the filters.
    events_matched: u64,
    /// Times a timer stopped the vCPU.
    kicks: u64,
}

impl From<&InjectionRecord> for InjectView {
    fn from(r: &InjectionRecord) -> Self {
        let file = |f: &RegisterFile| {
            f.iter()
                .map(|(r, v)| (r.to_string(), v.to_string()))
                .collect()
        };
        let bits = |mask: u64| (0..64).filter(|b| mask >> b & 1 == 1).collect();
        let flip = r.flip.as_ref();
        InjectView {
            format: 1,
            state: output::word(&r.state),
            id: r.id.0,
            domain: r.domain.clone(),
            domid: r.domid.0,
            vcpu: r.vcpu.0,
            register: r.register.to_string(),
            bit: r.mask.0.trailing_zeros(),
            guest_kind: flip.map(|f| output::word(&f.guest_kind)),
            guest_mode: flip.map(|f| output::word(&f.guest_mode)),
            pcpu: flip.map(|f| f.pcpu),
            rip: flip.and_then(|f| Some(f.before.get(&Register::Rip)?.to_string())),
            rip_symbol: flip.and_then(|f| f.rip_symbol.clone()),
            before: flip.map(|f| file(&f.before)),
            after: flip.map(|f| file(&f.after)),
            changed: r
                .changed_bits()
                .into_iter()
                .map(|(r, m)| (r.to_string(), bits(m)))
                .collect(),
            arm_to_fire_ns: r.arm_to_fire_ns(),
            runstate_at_drawn: r.runstate_at_drawn.map(|s| output::word(&s)),
            events_seen: r.events_seen,
            events_matched: r.events_matched,
            kicks: r.kicks,
        }
    }
}

fn text(r: &InjectionRecord, view: &InjectView) -> String {
    let Some(flip) = &r.flip else {
        return format!(
            "{}: injection {} into {} of {} vCPU {}; {} events seen, {} matched; nothing is armed",
            view.state, r.id, r.register, r.domain, r.vcpu, r.events_seen, r.events_matched
        );
    };
    let value = |f: &RegisterFile| f.get(&r.register).map_or("?".into(), Hex64::to_string);
    let changed: Vec<String> = view
        .changed
        .iter()
        .map(|(reg, bits)| {
            let list: Vec<_> = bits.iter().map(u32::to_string).collect();
            format!("bit {} of {reg}", list.join(", "))
        })
        .collect();
    let changed = match changed.as_slice() {
        [] => "nothing".to_owned(),
        [one] if r.changed_bits() == [(r.register, r.mask.0)] => format!("exactly {one}"),
        several => several.join("; "),
    };
    let symbol = flip
        .rip_symbol
        .as_ref()
        .map_or(String::new(), |s| format!("  {s}"));
    format!(
        "fired    injection {id} in {domain} (domain {domid}), vCPU {vcpu} on pCPU {pcpu}\n\
         guest    {kind}, in {mode} mode\n\
         rip      {rip}{symbol}\n\
         before   {reg} = {before}\n\
         after    {reg} = {after}\n\
         changed  {changed}\n\
         timing   {time} from arming to firing; {seen} events seen, {matched} matched",
        id = r.id,
        domain = r.domain,
        domid = r.domid,
        vcpu = r.vcpu,
        pcpu = flip.pcpu,
        kind = output::word(&flip.guest_kind).to_uppercase(),
        mode = output::word(&flip.guest_mode),
        rip = view.rip.as_deref().unwrap_or("?"),
        reg = r.register,
        before = value(&flip.before),
        after = value(&flip.after),
        time = output::duration(r.arm_to_fire_ns().unwrap_or(0)),
        seen = r.events_seen,
        matched = r.events_matched,
    )
}

fn why_not(r: &InjectionRecord) -> String {
    match r.state {
        InjectionState::Expired => format!(
            "the injection expired unfired: {} events seen, {} matched",
            r.events_seen,
            if r.events_matched == 0 {
                "none".into()
            } else {
                r.events_matched.to_string()
            }
        ),
        InjectionState::Disarmed => "the injection was disarmed before it fired".into(),
        InjectionState::TargetGone => format!("domain {} went away before it fired", r.domain),
        InjectionState::Refused => {
            "Xen refused the flip, as the guest could not have run with it; nothing was changed"
                .into()
        }
        InjectionState::Armed | InjectionState::Fired => "the injection did not end".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_schema_is_the_one_of_the_code() {
        let schema = serde_json::to_string_pretty(&schemars::schema_for!(InjectView)).unwrap();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schema/inject.json");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(
            committed.trim(),
            schema,
            "docs/schema/inject.json is out of date; the test's right side is the new one"
        );
    }
}
