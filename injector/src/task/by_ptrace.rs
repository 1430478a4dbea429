//! One attempt at a user thread: stop, look, flip, read back, let go.

use super::ptrace::{Halt, Tracee};
use super::registers::{ORIG_RAX, RAX, RIP, Registers};
use super::{Attempt, Plan, now};
use nix::errno::Errno;
use std::time::Instant;
use xfi_model::{GuestMode, ModeFilter, TaskFlip, TaskRegister, TaskSyscall};

/// The `syscall` instruction.
const SYSCALL_BYTES: u64 = 2;
/// `restart_syscall(2)`.
const RESTART_SYSCALL: u64 = 219;

/// What the kernel left in rax when it will make the call again
/// (include/linux/errno.h).
const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;

/// The registers that a restart rewrites.
const REWRITTEN: [TaskRegister; 2] = [TaskRegister::Rip, TaskRegister::General(0)];

pub(super) fn attempt(plan: &Plan, last: bool, go_on: impl Fn() -> bool) -> Attempt {
    let Some(register) = plan.register else {
        return Attempt::Refused("no register".to_owned());
    };
    let mut tracee = match Tracee::seize(plan.chosen.task.tid) {
        Ok(tracee) => tracee,
        Err(Errno::ESRCH) => return Attempt::Gone,
        Err(e) => return Attempt::Refused(format!("tracing it: {e}")),
    };
    let held = Instant::now();
    match tracee.halt(go_on) {
        Ok(Halt::Stopped) => {}
        Ok(Halt::Gone) | Err(Errno::ESRCH) => return Attempt::Gone,
        Ok(Halt::Stuck) => return Attempt::Stuck,
        Err(e) => return Attempt::Refused(format!("stopping it: {e}")),
    }
    // A number is given anew once a task is gone; this one can no longer go.
    if !plan.chosen.task.lives() {
        return Attempt::Gone;
    }
    match flip(plan, register, last, &tracee, held) {
        Ok(attempt) => attempt,
        // Killed while it stood still.
        Err(Errno::ESRCH) => Attempt::Gone,
        Err(e) => Attempt::Refused(format!("reading its registers: {e}")),
    }
}

fn flip(
    plan: &Plan,
    register: TaskRegister,
    last: bool,
    tracee: &Tracee,
    held: Instant,
) -> Result<Attempt, Errno> {
    let mut before = Registers::read(tracee)?;
    if before.compat {
        return Ok(Attempt::Refused("it runs 32-bit code".to_owned()));
    }
    let syscall = syscall_of(&before);
    let restarts = syscall.is_some_and(|s| s.restarts);
    let mut rip = before.general(RIP);
    if restarts {
        rip = rip.wrapping_sub(SYSCALL_BYTES);
    }
    let mode = match syscall {
        None => GuestMode::User,
        Some(_) => GuestMode::Kernel,
    };
    let other_mode = match plan.mode {
        None => false,
        Some(ModeFilter::User) => mode != GuestMode::User,
        Some(ModeFilter::Kernel) => mode != GuestMode::Kernel,
        Some(ModeFilter::Hypervisor) => true,
    };
    if other_mode || plan.rip.is_some_and(|range| !range.contains(rip)) {
        return Ok(Attempt::NoMatch);
    }
    if !before.has(register) {
        return Ok(Attempt::Refused(format!(
            "{register} needs AVX, which this machine does not have (its kernel saves no AVX \
             state: no XSAVE)"
        )));
    }
    if last && !plan.dummy {
        if restarts && REWRITTEN.contains(&register) {
            restart_by_hand(tracee, &before, rip)?;
            before = Registers::read(tracee)?;
        }
        let Some(value) = before.get(register, plan.word) else {
            return Ok(Attempt::Refused(format!(
                "{register} has no word {}",
                plan.word
            )));
        };
        let value = plan.op.apply(value, plan.mask);
        if let Err(e) = before.put(tracee, register, plan.word, value) {
            return Ok(match e {
                Errno::ESRCH => Attempt::Gone,
                e => Attempt::Refused(format!(
                    "the kernel does not take {value:#x} for {register}: {e}"
                )),
            });
        }
    }
    let after = Registers::read(tracee)?;
    Ok(Attempt::Fired(TaskFlip {
        at: now(),
        held_ns: held.elapsed().as_nanos() as u64,
        mode,
        syscall,
        kernel_symbol: None,
        changed: before.changed(&after),
        before: before.file(),
        after: after.file(),
    }))
}

fn syscall_of(registers: &Registers) -> Option<TaskSyscall> {
    let number = registers.general(ORIG_RAX);
    let restarts = [
        ERESTARTSYS,
        ERESTARTNOINTR,
        ERESTARTNOHAND,
        ERESTART_RESTARTBLOCK,
    ]
    .contains(&registers.general(RAX).cast_signed());
    (number.cast_signed() >= 0).then_some(TaskSyscall { number, restarts })
}

/// Does what the kernel is about to do (arch/x86/kernel/signal.c,
/// `arch_do_signal_or_restart`), and tells it that there is nothing to do.
fn restart_by_hand(tracee: &Tracee, before: &Registers, rip: u64) -> Result<(), Errno> {
    let number = match before.general(RAX).cast_signed() {
        ERESTART_RESTARTBLOCK => RESTART_SYSCALL,
        _ => before.general(ORIG_RAX),
    };
    tracee.poke(RAX, number)?;
    tracee.poke(RIP, rip)?;
    tracee.poke(ORIG_RAX, u64::MAX)
}
