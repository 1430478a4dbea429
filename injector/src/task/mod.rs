//! Faults in a Linux task, put there from inside its own domain (thesis
//! §3.2.2.1, §4.1.4): the user registers of a process by ptrace, the kernel
//! side of any task by the module `xfi_task` (`injector/kmod`).
//!
//! # What the registers mean
//! A user thread is stopped where it next leaves the kernel. One that sleeps in
//! a system call is woken for that, and the kernel then makes the call again.
//! In such a *restarting* call rip and rax are about to be rewritten by the
//! kernel, which would undo a flip in rax and shift one in rip; for a fault in
//! these two the rewriting is done here, before the flip: rip is at the
//! `syscall` instruction, rax is the call's number, and the kernel is told that
//! there is no call to restart. All other registers are flipped as they are;
//! rcx and r11 are overwritten by the instruction itself.

mod by_module;
mod by_ptrace;
mod procfs;
mod ptrace;
mod registers;
mod roles;
mod select;

use crate::times::MAX_DELAY_NS;
use crate::{InjectError, Result};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use select::Chosen;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};
use xfi_model::{
    BitOp, Fault, InjectionState, Location, ModeFilter, Moment, RipRange, TaskFlip, TaskIdentity,
    TaskMethod, TaskRecord, TaskRegister, TaskSelector, TriggerKind,
};

/// The flags that ptrace lets be changed (Linux `FLAG_MASK`,
/// arch/x86/kernel/ptrace.c): CF PF AF ZF SF TF DF OF NT RF AC.
const RFLAGS_CHANGEABLE: u64 = 0x0005_4dd5;

/// While the clock may be set: look at it again this often.
const CLOCK_SLICE: Duration = Duration::from_millis(500);

/// Between two stops, when the first was not at a place that was asked for.
const BETWEEN_STOPS: Duration = Duration::from_micros(300);

/// A fault in a task that passed all checks.
#[derive(Debug, Clone)]
struct Plan {
    chosen: Chosen,
    method: TaskMethod,
    register: Option<TaskRegister>,
    word: u32,
    mask: u64,
    op: BitOp,
    dummy: bool,
    when: When,
    expire: Option<Duration>,
    rip: Option<RipRange>,
    mode: Option<ModeFilter>,
    nth: u32,
    domain: String,
}

#[derive(Debug, Clone, Copy)]
enum When {
    After(Duration),
    At { unix_ns: u64 },
}

/// What one attempt came to.
#[derive(Debug)]
enum Attempt {
    Fired(TaskFlip),
    /// Stopped elsewhere than asked for.
    NoMatch,
    Gone,
    /// It does not stop.
    Stuck,
    Refused(String),
}

/// A fault in a task, waiting for its moment in a thread of its own. Dropped
/// while it waits, it is disarmed.
#[derive(Debug)]
pub struct ArmedTask {
    identity: TaskIdentity,
    moment_in: Duration,
    cancel: Option<Sender<()>>,
    result: Receiver<TaskRecord>,
}

impl ArmedTask {
    /// Checks the fault, chooses the task and arms.
    ///
    /// # Errors
    /// When no task fits, when the task or the register cannot be reached (a
    /// kernel thread by ptrace, this process, pid 1, ymm without AVX), when the
    /// kernel module is needed and not loaded, or the trigger cannot fire.
    pub fn arm(fault: &Fault, dummy: bool) -> Result<Self> {
        let plan = check(fault, dummy)?;
        let identity = plan.chosen.identity();
        let (cancel, cancelled) = channel();
        let (done, result) = channel();
        let armed = now();
        let moment_in = plan.moment_in(armed);
        std::thread::Builder::new()
            .name("xfi-task".to_owned())
            .spawn(move || {
                let record = plan.carry_out(armed, &cancelled);
                // Nobody waits for it when it was dropped.
                let _ = done.send(record);
            })
            .map_err(|e| InjectError::TaskRefused(format!("starting a thread: {e}")))?;
        Ok(ArmedTask {
            identity,
            moment_in,
            cancel: Some(cancel),
            result,
        })
    }

    /// The task that was chosen.
    pub fn identity(&self) -> &TaskIdentity {
        &self.identity
    }

    /// From arming to the moment.
    pub fn moment_in(&self) -> Duration {
        self.moment_in
    }

    /// The record, once the injection ended.
    pub fn poll(&mut self) -> Option<TaskRecord> {
        self.result.try_recv().ok()
    }

    /// Disarms it, unless it ended first, and returns its record either way.
    ///
    /// # Errors
    /// When its thread does not end in time.
    pub fn disarm(&mut self) -> Result<TaskRecord> {
        self.cancel = None;
        self.result
            .recv_timeout(Duration::from_secs(5))
            .map_err(|e| InjectError::TaskRefused(format!("disarming: {e}")))
    }
}

fn check(fault: &Fault, dummy: bool) -> Result<Plan> {
    let refuse = |why: String| Err(InjectError::TaskRefused(why));
    let (domain, selector, target) = match &fault.location {
        Location::Task {
            domain,
            task,
            register,
            word,
        } => (domain, task, Some((*register, *word))),
        Location::TaskKill { domain, task } => (domain, task, None),
        other => {
            return refuse(format!("{} is not in a task", other));
        }
    };
    let (when, expire) = check_trigger(fault)?;
    let chosen = select::choose(selector)?;
    let method = match (target, chosen.kernel_side) {
        (None, _) => TaskMethod::Kill,
        (Some(_), true) => TaskMethod::Module,
        (Some(_), false) => TaskMethod::Ptrace,
    };
    check_task(&chosen, selector, method)?;
    let (register, word) = target.unzip();
    let word = word.unwrap_or(0);
    if let Some(register) = register {
        check_register(register, word, fault.mask.0, dummy, &chosen, method)?;
    }
    let trigger = &fault.trigger;
    if method != TaskMethod::Ptrace
        && (trigger.rip.is_some() || trigger.mode.is_some() || trigger.nth != 1)
    {
        return refuse(
            "rip, mode and nth are for user registers; a kernel thread and a kill have none"
                .to_owned(),
        );
    }
    if method == TaskMethod::Module {
        by_module::available()?;
    }
    Ok(Plan {
        chosen,
        method,
        register,
        word,
        mask: fault.mask.0,
        op: fault.op,
        dummy,
        when,
        expire,
        rip: trigger.rip,
        mode: trigger.mode,
        nth: trigger.nth,
        domain: domain.clone(),
    })
}

fn check_trigger(fault: &Fault) -> Result<(When, Option<Duration>)> {
    let trigger = &fault.trigger;
    let bad = |what, value, valid| Err(InjectError::BadTrigger { what, value, valid });
    if trigger.nth == 0 {
        return bad("nth", 0, "the first stop is 1");
    }
    if trigger.mode == Some(ModeFilter::Hypervisor) {
        return Err(InjectError::TaskRefused(
            "a task never runs hypervisor code; valid modes: user, kernel".to_owned(),
        ));
    }
    if trigger.after_ns > MAX_DELAY_NS {
        return bad("after_ns", trigger.after_ns, "at most one day");
    }
    let expire = trigger.expire_ns;
    if let Some(n) = expire.filter(|n| *n == 0 || *n > MAX_DELAY_NS) {
        return bad("expire_ns", n, "more than 0, at most one day");
    }
    let delay = match trigger.kind {
        TriggerKind::Kick => trigger.after_ns,
        TriggerKind::Switch | TriggerKind::Address => {
            return Err(InjectError::TaskRefused(
                "the triggers switch and address are Xen's; a task is stopped at a moment"
                    .to_owned(),
            ));
        }
        TriggerKind::Deadline { unix_ns } => {
            let left = unix_ns.saturating_sub(now().realtime_ns);
            if left > MAX_DELAY_NS {
                return bad("deadline", unix_ns, "at most one day from now");
            }
            left
        }
    };
    let (when, expire) = match trigger.kind {
        // Who asks may have another clock: the expiry counts from the moment.
        TriggerKind::Deadline { unix_ns } => (
            When::At { unix_ns },
            expire.map(|e| e.saturating_add(delay)),
        ),
        _ => (When::After(Duration::from_nanos(delay)), expire),
    };
    if let Some(n) = expire.filter(|n| *n <= delay) {
        return bad("expire_ns", n, "it must be later than the moment");
    }
    Ok((when, expire.map(Duration::from_nanos)))
}

fn check_task(chosen: &Chosen, selector: &TaskSelector, method: TaskMethod) -> Result<()> {
    let task = &chosen.task;
    let refuse = |why: &str| {
        Err(InjectError::TaskRefused(format!(
            "{selector}: task {} ('{}') {why}",
            task.tid, task.comm
        )))
    };
    if task.pid == std::process::id() {
        return refuse("is the agent itself");
    }
    if method == TaskMethod::Module {
        return Ok(());
    }
    if task.kthread {
        return refuse(match method {
            TaskMethod::Kill => "is a kernel thread, which no signal ends",
            _ => "is a kernel thread, which ptrace cannot reach; choose it by --kthread",
        });
    }
    if task.pid == 1 {
        return refuse("is init: when it dies the kernel panics, whatever the flip did");
    }
    if !task.lives() {
        return refuse("has ended");
    }
    if method == TaskMethod::Ptrace && task.tracer() != 0 {
        return refuse(&format!("is traced by process {} already", task.tracer()));
    }
    Ok(())
}

fn check_register(
    register: TaskRegister,
    word: u32,
    mask: u64,
    dummy: bool,
    chosen: &Chosen,
    method: TaskMethod,
) -> Result<()> {
    let refuse = |why: String| Err(InjectError::TaskRefused(why));
    if method == TaskMethod::Module && !TaskRegister::KERNEL.contains(&register) {
        let valid: Vec<_> = TaskRegister::KERNEL
            .iter()
            .map(ToString::to_string)
            .collect();
        return refuse(format!(
            "{register}: of task {} ('{}') the kernel keeps what it saved when it switched away \
             from it; valid: {}",
            chosen.task.tid,
            chosen.task.comm,
            valid.join(" ")
        ));
    }
    if method == TaskMethod::Ptrace && register == TaskRegister::Ret {
        return refuse("ret is a register of a kernel thread; of a process take rip".to_owned());
    }
    if mask == 0 && !dummy {
        return Err(InjectError::EmptyMask);
    }
    let mut valid = register.word_bits(word);
    if register == TaskRegister::Rflags {
        valid = RFLAGS_CHANGEABLE;
    }
    if mask & !valid != 0 {
        return refuse(format!(
            "bits {} of word {word} of {register} cannot be changed; valid: {}",
            xfi_model::bit_list(mask & !valid),
            xfi_model::bit_list(valid)
        ));
    }
    Ok(())
}

impl Plan {
    /// Waits for the moment, then for a place that matches.
    fn carry_out(&self, armed: Moment, cancelled: &Receiver<()>) -> TaskRecord {
        let start = Instant::now();
        let drawn_in = self.moment_in(armed);
        let mut record = TaskRecord {
            state: InjectionState::Disarmed,
            dummy: self.dummy,
            domain: self.domain.clone(),
            task: self.chosen.identity(),
            method: self.method,
            register: self.register,
            word: self.word,
            mask: xfi_model::Hex64(self.mask),
            op: self.op,
            armed,
            drawn_monotonic_ns: armed.monotonic_ns + drawn_in.as_nanos() as u64,
            stops: 0,
            reason: None,
            flip: None,
        };
        if !self.sleep(start, cancelled) {
            return record;
        }
        let end = self.expire.map(|e| start + e);
        let over = || end.is_some_and(|e| Instant::now() >= e);
        let dropped = || !matches!(cancelled.try_recv(), Err(TryRecvError::Empty));
        let mut left = self.nth;
        loop {
            if dropped() {
                return record;
            }
            if !self.chosen.task.lives() {
                record.state = InjectionState::TargetGone;
                return record;
            }
            record.stops += 1;
            let attempt = match self.method {
                TaskMethod::Ptrace => by_ptrace::attempt(self, left == 1, || !over() && !dropped()),
                TaskMethod::Module => by_module::attempt(self),
                TaskMethod::Kill => self.kill(),
            };
            match attempt {
                Attempt::Fired(_) if left > 1 => left -= 1,
                Attempt::Fired(flip) => {
                    record.state = InjectionState::Fired;
                    record.flip = Some(flip);
                    return record;
                }
                Attempt::NoMatch => {}
                Attempt::Gone => {
                    record.state = InjectionState::TargetGone;
                    return record;
                }
                Attempt::Refused(why) => {
                    record.state = InjectionState::Refused;
                    record.reason = Some(why);
                    return record;
                }
                Attempt::Stuck => {
                    if over() {
                        record.state = InjectionState::Expired;
                        record.reason =
                            Some("it slept where nothing wakes it (state D)".to_owned());
                    }
                    return record;
                }
            }
            if over() {
                record.state = InjectionState::Expired;
                return record;
            }
            std::thread::sleep(BETWEEN_STOPS);
        }
    }

    /// From `armed` to the moment.
    fn moment_in(&self, armed: Moment) -> Duration {
        match self.when {
            When::After(delay) => delay,
            When::At { unix_ns } => Duration::from_nanos(unix_ns.saturating_sub(armed.realtime_ns)),
        }
    }

    /// Sleeps until the moment; false when it was disarmed first.
    fn sleep(&self, start: Instant, cancelled: &Receiver<()>) -> bool {
        loop {
            let left = match self.when {
                When::After(delay) => delay.saturating_sub(start.elapsed()),
                // Slices, as the clock may be set meanwhile.
                When::At { unix_ns } => {
                    Duration::from_nanos(unix_ns.saturating_sub(now().realtime_ns)).min(CLOCK_SLICE)
                }
            };
            match cancelled.recv_timeout(left) {
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return true,
                Err(RecvTimeoutError::Timeout) => {}
                _ => return false,
            }
        }
    }

    fn kill(&self) -> Attempt {
        let pid = Pid::from_raw(self.chosen.task.pid.cast_signed());
        let held = Instant::now();
        if !self.dummy
            && let Err(e) = kill(pid, Signal::SIGKILL)
        {
            return Attempt::Refused(format!("killing it: {e}"));
        }
        Attempt::Fired(TaskFlip {
            at: now(),
            held_ns: held.elapsed().as_nanos() as u64,
            mode: xfi_model::GuestMode::User,
            syscall: None,
            kernel_symbol: None,
            before: Default::default(),
            after: Default::default(),
            changed: Default::default(),
        })
    }
}

/// Now, by both clocks.
pub(crate) fn now() -> Moment {
    let read = |clock| {
        clock_gettime(clock).map_or(0, |t| Duration::from(t).as_nanos().try_into().unwrap_or(0))
    };
    Moment {
        monotonic_ns: read(ClockId::CLOCK_MONOTONIC),
        realtime_ns: read(ClockId::CLOCK_REALTIME),
    }
}
