//! Stopping a thread and reading and changing its user registers by ptrace(2).
//!
//! A thread is seized, not attached to: no `SIGSTOP` is sent, so that the
//! process, its parent and its group stops see nothing but a pause. All calls
//! on a [`Tracee`] come from the thread that made it, as ptrace demands.

#![expect(unsafe_code, reason = "ptrace(2) and waitpid(2) take raw pointers")]

use nix::errno::Errno;
use nix::libc::{self, c_int, c_uint, c_void};
use std::marker::PhantomData;
use std::time::Duration;

/// Register sets of the kernel (`NT_*` in elf.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RegSet {
    /// `struct user_regs_struct`: general registers, segments, flags.
    General,
    /// The 512 bytes of FXSAVE: x87 and SSE.
    Fxsave,
    /// The same of a thread that the kernel takes for a 32-bit one.
    FxsaveCompat,
    /// The XSAVE area in its standard layout.
    Xstate,
}

impl RegSet {
    const fn number(self) -> usize {
        match self {
            RegSet::General => 1,
            RegSet::Fxsave => 2,
            RegSet::FxsaveCompat => 0x46e6_2b7f,
            RegSet::Xstate => 0x202,
        }
    }
}

/// What waiting for a thread to stop came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// It stands still and nothing is being done to it.
    Stopped,
    /// It did not stop in time: it sleeps where no signal wakes it.
    Stuck,
    /// It ended.
    Gone,
}

/// A thread that this one traces. Dropped, it runs on.
#[derive(Debug)]
pub(super) struct Tracee {
    tid: libc::pid_t,
    stopped: bool,
    gone: bool,
    /// Not to be sent to another thread.
    _here: PhantomData<*const ()>,
}

fn ptrace(request: c_uint, tid: libc::pid_t, address: usize, data: usize) -> Result<(), Errno> {
    // SAFETY: the callers below pass either plain numbers or, for register
    // sets, an iovec that lives and is exclusively theirs during the call; the
    // kernel writes no more than its length.
    let r = unsafe { libc::ptrace(request, tid, address as *mut c_void, data as *mut c_void) };
    Errno::result(r).map(drop)
}

impl Tracee {
    /// Begins to trace a thread; it runs on until [`Tracee::halt`].
    pub(super) fn seize(tid: u32) -> Result<Self, Errno> {
        let tid = libc::pid_t::try_from(tid).map_err(|_| Errno::ESRCH)?;
        ptrace(libc::PTRACE_SEIZE, tid, 0, 0)?;
        Ok(Tracee {
            tid,
            stopped: false,
            gone: false,
            _here: PhantomData,
        })
    }

    /// Stops it. A signal that comes first is delivered, and the stop follows
    /// in the handler or where the thread was.
    /// Waits for as long as `go_on` says so.
    pub(super) fn halt(&mut self, go_on: impl Fn() -> bool) -> Result<Halt, Errno> {
        ptrace(libc::PTRACE_INTERRUPT, self.tid, 0, 0)?;
        let mut pause = Duration::from_micros(20);
        loop {
            let mut status: c_int = 0;
            // SAFETY: `status` is a live c_int of ours.
            let got =
                unsafe { libc::waitpid(self.tid, &raw mut status, libc::__WALL | libc::WNOHANG) };
            match Errno::result(got) {
                Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => {
                    self.gone = true;
                    return Ok(Halt::Gone);
                }
                Err(e) => return Err(e),
                Ok(0) if !go_on() => return Ok(Halt::Stuck),
                Ok(0) => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(1));
                }
                Ok(_) if libc::WIFSTOPPED(status) => {
                    if status >> 16 == libc::PTRACE_EVENT_STOP {
                        self.stopped = true;
                        return Ok(Halt::Stopped);
                    }
                    // About to take a signal: it shall have it.
                    let signal = libc::WSTOPSIG(status) as usize;
                    ptrace(libc::PTRACE_CONT, self.tid, 0, signal)?;
                }
                Ok(_) => {
                    self.gone = true;
                    return Ok(Halt::Gone);
                }
            }
        }
    }

    /// Reads a register set; returns how much of `buffer` it fills.
    pub(super) fn read(&self, set: RegSet, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut iov = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        let iov_at = &raw mut iov as usize;
        ptrace(libc::PTRACE_GETREGSET, self.tid, set.number(), iov_at)?;
        Ok(iov.iov_len)
    }

    /// Writes a register set.
    pub(super) fn write(&self, set: RegSet, data: &mut [u8]) -> Result<(), Errno> {
        let mut iov = libc::iovec {
            iov_base: data.as_mut_ptr().cast(),
            iov_len: data.len(),
        };
        let iov_at = &raw mut iov as usize;
        ptrace(libc::PTRACE_SETREGSET, self.tid, set.number(), iov_at)
    }

    /// Reads one word of `struct user_regs_struct`, the nth.
    pub(super) fn peek(&self, nth: usize) -> Result<u64, Errno> {
        let mut word = 0u64;
        // SAFETY: the system call itself (unlike glibc's wrapper) stores one
        // word through its fourth argument, which is ours.
        let r = unsafe {
            libc::syscall(
                libc::SYS_ptrace,
                libc::c_long::from(libc::PTRACE_PEEKUSER),
                libc::c_long::from(self.tid),
                nth * 8,
                &raw mut word,
            )
        };
        Errno::result(r)?;
        Ok(word)
    }

    /// Writes one word of `struct user_regs_struct`, the nth.
    pub(super) fn poke(&self, nth: usize, value: u64) -> Result<(), Errno> {
        ptrace(libc::PTRACE_POKEUSER, self.tid, nth * 8, value as usize)
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // One that is not stopped cannot be let go of; the kernel does so
        // when this thread ends, which it then does at once.
        if self.stopped && !self.gone {
            let _ = ptrace(libc::PTRACE_DETACH, self.tid, 0, 0);
        }
    }
}

/// Where the XSAVE area has the upper halves of the ymm registers: component
/// 2 in the standard layout (SDM vol. 1, 13.5.2), as this processor says.
pub(super) fn ymm_offset() -> usize {
    const USUAL: usize = 576;
    match std::arch::x86_64::__cpuid_count(0xd, 2).ebx as usize {
        0 => USUAL,
        offset => offset,
    }
}
