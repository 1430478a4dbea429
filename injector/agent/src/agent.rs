//! Requests in, events out, and the run under way.

mod arming;
mod memory;
mod prepare;
mod profile;
mod status;
mod tasks;

use crate::channel::{Channel, Got};
use crate::host::{Host, Refusal};
use crate::lines::{Line, Lines};
use crate::owner::Owner;
use nix::time::{ClockId, clock_gettime};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use xfi_injector::armed::{Armed, Ended, Place};
use xfi_injector::memory::PlannedFlip;
use xfi_injector::profile::Counting;
use xfi_model::{
    AgentErrorCode, AgentHello, AgentRun, Command, Event, EventBody, Fault, InjectionId,
    InjectionState, MemoryRecord, PROTOCOL_VERSION, Request, TaskRecord,
};
use xfi_toolstack::{Hypercall, guest_console, host};

/// Records of finished injections are asked for as long as Xen keeps them, but
/// no more than so many.
const REMEMBERED: usize = 64;

type Handled = Result<(), Refusal>;

/// The run under way.
#[derive(Debug)]
struct Run {
    seq: u64,
    poll: Duration,
    injection: Option<Armed<Hypercall>>,
    task: Option<tasks::TaskRun>,
    memory: Option<PlannedFlip>,
    profile: Option<Counting>,
    next_poll: Instant,
    /// How long to observe after the flip; none ends the run with it.
    observe: Option<Duration>,
    /// When the run ends; not known before the flip.
    end: Option<Instant>,
    final_checks: bool,
    /// Held while something of ours may be armed.
    owner: Option<Owner>,
}

/// The agent.
#[derive(Debug)]
pub(crate) struct Agent {
    channel: Channel,
    lines: Lines,
    host: Host,
    run: Option<Run>,
    /// What this process armed, and where.
    known: VecDeque<(InjectionId, Place)>,
    /// What became of faults that were not in Xen's hands, the latest.
    ended_tasks: VecDeque<TaskRecord>,
    ended_memory: VecDeque<MemoryRecord>,
    signals: UnixStream,
    end_wanted: Arc<AtomicBool>,
    /// Somebody else wants the run cancelled.
    cancel_wanted: Arc<AtomicBool>,
    /// The output is gone: nothing can be reported any more.
    mute: bool,
}

impl Agent {
    pub(crate) fn new(channel: Channel) -> io::Result<Self> {
        let (signals, tell) = UnixStream::pair()?;
        signals.set_nonblocking(true)?;
        tell.set_nonblocking(true)?;
        let end_wanted = Arc::new(AtomicBool::new(false));
        let cancel_wanted = Arc::new(AtomicBool::new(false));
        for (signal, flag) in [
            (SIGTERM, &end_wanted),
            (SIGINT, &end_wanted),
            (SIGHUP, &end_wanted),
            (status::CANCEL as i32, &cancel_wanted),
        ] {
            // In this order, so that who wakes sees why.
            signal_hook::flag::register(signal, Arc::clone(flag))?;
            signal_hook::low_level::pipe::register(signal, tell.try_clone()?)?;
        }
        Ok(Agent {
            channel,
            lines: Lines::default(),
            host: Host::default(),
            run: None,
            known: VecDeque::new(),
            ended_tasks: VecDeque::new(),
            ended_memory: VecDeque::new(),
            signals,
            end_wanted,
            cancel_wanted,
            mute: false,
        })
    }

    /// Serves until the input ends or a signal comes. What was armed is
    /// disarmed then.
    pub(crate) fn serve(mut self) -> io::Result<()> {
        let mut buffer = vec![0u8; 64 * 1024];
        loop {
            let until = self.run.as_ref().map(Run::wakes);
            let readable = self.channel.wait(self.signals.as_fd(), until)?;
            if self.signalled() && self.end_wanted.load(Ordering::SeqCst) {
                break;
            }
            if self.cancel_wanted.swap(false, Ordering::SeqCst) {
                self.cancel();
            }
            if readable {
                match self.channel.read(&mut buffer)? {
                    Got::Bytes(n) => {
                        for line in self.lines.push(&buffer[..n]) {
                            self.line(line);
                        }
                    }
                    Got::Nothing => {}
                    // Nobody is there to learn how the run ends.
                    Got::Disconnected => {
                        self.lines.clear();
                        self.run = None;
                    }
                    Got::Ended => break,
                }
            }
            self.tick();
            if self.mute {
                break;
            }
        }
        // The guard in the run disarms.
        self.run = None;
        Ok(())
    }

    fn signalled(&mut self) -> bool {
        matches!(self.signals.read(&mut [0u8; 16]), Ok(n) if n > 0)
    }

    fn emit(&mut self, seq: u64, body: EventBody) {
        let event = Event {
            seq,
            at_ns: monotonic_ns(),
            body,
        };
        let mut line = match serde_json::to_vec(&event) {
            Ok(line) => line,
            Err(e) => {
                eprintln!("xfi-agent: an event cannot be written: {e}");
                return;
            }
        };
        line.push(b'\n');
        if self.channel.write(&line).is_err() {
            self.mute = true;
        }
    }

    fn progress(&mut self, seq: u64, message: String) {
        self.emit(seq, EventBody::Progress { message });
    }

    fn line(&mut self, line: Line) {
        let bad = |message: String| Refusal {
            code: AgentErrorCode::BadRequest,
            message,
        };
        let bytes = match line {
            Line::Whole(bytes) => bytes,
            Line::TooLong => {
                let message = format!("a request of more than {} bytes", crate::lines::LONGEST);
                return self.refuse(0, bad(message));
            }
        };
        // A line end may open a connection, to end whatever was there before.
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        match serde_json::from_slice::<Request>(&bytes) {
            Ok(request) => {
                let seq = request.seq;
                if let Err(refusal) = self.handle(request) {
                    self.refuse(seq, refusal);
                }
            }
            Err(e) => {
                // Perhaps at least the sequence number can be read.
                let seq = serde_json::from_slice::<serde_json::Value>(&bytes)
                    .ok()
                    .and_then(|v| v.get("seq")?.as_u64())
                    .unwrap_or(0);
                self.refuse(seq, bad(format!("this is no request: {e}")));
            }
        }
    }

    fn refuse(&mut self, seq: u64, refusal: Refusal) {
        self.emit(
            seq,
            EventBody::Error {
                code: refusal.code,
                message: refusal.message,
            },
        );
    }

    fn handle(&mut self, request: Request) -> Handled {
        let seq = request.seq;
        match request.command {
            Command::Hello => {
                let hello = self.hello();
                self.emit(seq, EventBody::Hello(hello));
            }
            Command::Domains => {
                let domains = self.host.all_domains()?;
                self.emit(seq, EventBody::Domains { domains });
            }
            Command::Prepare { guests, timeout_ms } => {
                self.not_during_a_run("prepare")?;
                self.prepare(seq, &guests, Duration::from_millis(timeout_ms))?;
                self.emit(seq, EventBody::Done);
            }
            Command::Run(run) => {
                self.not_during_a_run("run")?;
                self.start_run(seq, run)?;
            }
            Command::Cancel => {
                self.cancel();
                self.emit(seq, EventBody::Done);
            }
            Command::Status => {
                self.status(seq)?;
            }
            Command::Disarm { id } => {
                self.disarm(seq, id)?;
            }
            Command::XenConsole => {
                let lines = self.host.console()?;
                self.emit(seq, EventBody::XenConsole { lines });
            }
            Command::GuestConsole { domain, lines } => {
                let lines = guest_console::tail(&domain, lines as usize)?;
                self.emit(seq, EventBody::GuestConsole { lines });
            }
            Command::DestroyDomain { domain } => {
                Host::check_opted_in("destroying a domain")?;
                self.host.destroy(&domain)?;
                self.emit(seq, EventBody::Done);
            }
            Command::KernelSymbols => {
                self.not_during_a_run("kernel_symbols")?;
                let map = crate::host::kernel_symbols()?;
                self.emit(seq, EventBody::KernelSymbols { map });
            }
            Command::Integrity => {
                let result = self.host.integrity()?;
                self.emit(seq, EventBody::Integrity(result));
            }
            Command::Peek { location, count } => {
                let words = self.memory(&location)?.peek(&location, count)?;
                self.emit(seq, EventBody::Memory { words });
            }
            Command::Profile { domain, for_ms } => {
                self.not_during_a_run("profile")?;
                self.start_profile(seq, domain, for_ms)?;
            }
        }
        Ok(())
    }

    fn not_during_a_run(&self, what: &str) -> Handled {
        match &self.run {
            None => Ok(()),
            Some(run) => Err(Refusal {
                code: AgentErrorCode::Busy,
                message: format!("{what}: run {} is under way; cancel it first", run.seq),
            }),
        }
    }

    fn hello(&mut self) -> AgentHello {
        let capabilities = self
            .host
            .hypercall()
            .and_then(|hypercall| hypercall.info())
            .ok()
            .map(|info| info.capabilities);
        AgentHello {
            protocol: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hostname: host::hostname(),
            kernel: host::kernel_release(),
            xen_version: host::xen_version(),
            xen_build_id: host::xen_build_id(),
            opted_in: Host::opted_in(),
            capabilities,
            domains: self.host.domains().unwrap_or_default(),
        }
    }

    fn start_run(&mut self, seq: u64, run: AgentRun) -> Handled {
        let in_task = |f: &Fault| tasks::in_task(&f.location);
        if run.fault.as_ref().is_some_and(in_task) {
            return self.start_task_run(seq, run);
        }
        if run.fault.as_ref().is_some_and(|f| f.location.is_memory()) {
            return self.start_memory_run(seq, run);
        }
        let (mut injection, mut owner) = (None, None);
        if let Some(fault) = &run.fault {
            owner = Some(Owner::take()?.says(fault)?);
            injection = Some(self.arm(fault, &run)?);
        } else if run.final_checks {
            self.before_run();
        }
        let start = Instant::now();
        // Before the drawn moment there is nothing to ask.
        let first = Duration::from_nanos(run.fault.as_ref().map_or(0, |f| f.trigger.after_ns));
        let mut next = Run::of(seq, &run);
        next.end = injection
            .is_none()
            .then(|| start + next.observe.unwrap_or_default());
        next.next_poll = start + first.max(Duration::from_millis(1));
        if let Some(armed) = &injection {
            let (id, domid) = (armed.id(), armed.domid());
            self.known.push_back((id, armed.place().clone()));
            if self.known.len() > REMEMBERED {
                self.known.pop_front();
            }
            self.run = None;
            self.emit(seq, EventBody::Armed { id, domid });
        }
        next.injection = injection;
        next.owner = owner;
        self.run = Some(next);
        Ok(())
    }

    fn before_run(&mut self) {
        // What Xen wrote earlier is not this run's; what fails here fails
        // again at the end, and is told there.
        let _ = self.host.new_console_lines();
        let _ = self.host.prepare_integrity();
    }

    /// Does what is due in the run under way.
    fn tick(&mut self) {
        let now = Instant::now();
        let Some(mut run) = self.run.take_if(|run| run.wakes() <= now) else {
            return;
        };
        if let Some(mut armed) = run.injection.take() {
            match armed.poll() {
                Ok(Some(ended)) => {
                    let fired = ended.record.state == InjectionState::Fired;
                    let age = self.ended(run.seq, &armed, ended);
                    // Without a flip there is nothing to observe.
                    let observe = run.observe.filter(|_| fired).unwrap_or_default();
                    run.end = Some(now + observe.saturating_sub(age));
                }
                Ok(None) => {
                    run.injection = Some(armed);
                    run.next_poll = now + run.poll;
                }
                Err(e) => return self.refuse(run.seq, e.into()),
            }
        }
        if let Some(task) = run.task.take()
            && !self.tick_task(&mut run, task)
        {
            return;
        }
        if let Some(flip) = run.memory.take()
            && let Err(refusal) = self.tick_memory(&mut run, flip)
        {
            return self.refuse(run.seq, refusal);
        }
        if run.end.is_some_and(|end| end <= now) {
            if let Some(counting) = run.profile.take()
                && let Err(refusal) = self.end_profile(run.seq, counting)
            {
                return self.refuse(run.seq, refusal);
            }
            if run.final_checks {
                self.final_checks(run.seq);
            }
            self.emit(run.seq, EventBody::Done);
        } else {
            self.run = Some(run);
        }
    }

    /// Reports an injection's end; tells how long ago it was.
    fn ended(&mut self, seq: u64, armed: &Armed<Hypercall>, ended: Ended) -> Duration {
        let age_ns = armed.age_ns(&ended);
        self.emit(
            seq,
            EventBody::Injection {
                record: ended.record,
                age_ns,
            },
        );
        Duration::from_nanos(age_ns)
    }

    fn final_checks(&mut self, seq: u64) {
        match self.host.integrity() {
            Ok(result) => self.emit(seq, EventBody::Integrity(result)),
            Err(e) => self.progress(seq, e.message),
        }
        match self.host.domains() {
            Ok(domains) => self.emit(seq, EventBody::Domains { domains }),
            Err(e) => self.progress(seq, e.to_string()),
        }
        match self.host.new_console_lines() {
            Ok(lines) => self.emit(seq, EventBody::XenConsole { lines }),
            Err(e) => self.progress(seq, e.to_string()),
        }
    }

    fn cancel(&mut self) {
        let Some(mut run) = self.run.take() else {
            return;
        };
        if let Some(mut armed) = run.injection.take() {
            match armed.disarm() {
                Ok(ended) => {
                    self.ended(run.seq, &armed, ended);
                }
                Err(e) => return self.refuse(run.seq, e.into()),
            }
        }
        if let Some(task) = run.task.take()
            && let Err(refusal) = self.cancel_task(run.seq, task)
        {
            return self.refuse(run.seq, refusal);
        }
        if let Some(flip) = run.memory.take() {
            self.memory_ended(run.seq, flip.disarm());
        }
        if let Some(counting) = run.profile.take()
            && let Err(refusal) = self.end_profile(run.seq, counting)
        {
            return self.refuse(run.seq, refusal);
        }
        self.emit(run.seq, EventBody::Done);
    }
}

impl Run {
    /// Nothing in it yet, and no end.
    fn of(seq: u64, run: &AgentRun) -> Run {
        Run {
            seq,
            poll: Duration::from_millis(u64::from(run.poll_ms.max(1))),
            injection: None,
            task: None,
            memory: None,
            profile: None,
            next_poll: Instant::now(),
            observe: run.observe_ms.map(Duration::from_millis),
            end: None,
            final_checks: run.final_checks,
            owner: None,
        }
    }

    /// When it next needs attention.
    fn wakes(&self) -> Instant {
        let waits = self.injection.is_some() || self.task.is_some() || self.memory.is_some();
        match (waits, self.end) {
            (false, Some(end)) => end,
            _ => self.next_poll,
        }
    }
}

fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(|t| Duration::from(t).as_nanos().try_into().unwrap_or(u64::MAX))
        .unwrap_or(0)
}
