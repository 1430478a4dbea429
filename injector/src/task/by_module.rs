//! One attempt at a task's kernel side, by the module `xfi_task`.

use super::registers::hex;
use super::{Attempt, Plan};
use crate::{InjectError, Result};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use xfi_model::{BitOp, GuestMode, Moment, TaskFlip, TaskRegister, TaskRegisterFile};

/// The module's device (injector/kmod/xfi_task.h).
const DEVICE: &str = "/dev/xfi-task";
const VERSION: u32 = 1;
const REQUEST_BYTES: usize = 40;
const RECORD_BYTES: usize = 256;
const SYMBOL_BYTES: usize = 80;

fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(DEVICE)
}

/// Whether the module is there.
pub(super) fn available() -> Result<()> {
    open().map(drop).map_err(|source| InjectError::NoModule {
        path: DEVICE,
        source,
    })
}

pub(super) fn attempt(plan: &Plan) -> Attempt {
    let register = plan
        .register
        .and_then(|r| TaskRegister::KERNEL.iter().position(|k| *k == r));
    let Some(register) = register else {
        return Attempt::Refused("no register of the kernel side".to_owned());
    };
    let request = request(plan, register as u32);
    match call(&request) {
        Ok(record) => match read_record(&record) {
            Some(flip) => Attempt::Fired(flip),
            None => Attempt::Refused(format!("{DEVICE} is of another version")),
        },
        Err(e) if e.raw_os_error() == Some(nix::libc::ESRCH) => Attempt::Gone,
        Err(e) => Attempt::Refused(match e.raw_os_error() {
            Some(nix::libc::EBUSY) => {
                "it is on a processor even while all others are stopped".to_owned()
            }
            Some(nix::libc::EFAULT) => "its saved stack pointer is outside its stack".to_owned(),
            _ => format!("{DEVICE}: {e}"),
        }),
    }
}

fn call(request: &[u8]) -> io::Result<[u8; RECORD_BYTES]> {
    let mut device = open()?;
    // One write carries it out, whole.
    if device.write(request)? != request.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    let mut record = [0; RECORD_BYTES];
    device.read_exact(&mut record)?;
    Ok(record)
}

/// `struct xfi_task_request`.
fn request(plan: &Plan, register: u32) -> Vec<u8> {
    let op: u32 = match plan.op {
        BitOp::Flip => 0,
        BitOp::Set => 1,
        BitOp::Clear => 2,
    };
    let flags = u32::from(plan.dummy);
    let mut bytes = Vec::with_capacity(REQUEST_BYTES);
    for word in [VERSION, plan.chosen.task.tid, register, op, flags, 0] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    for word in [plan.mask, plan.chosen.task.start_ticks] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// `struct xfi_task_record`.
fn read_record(bytes: &[u8; RECORD_BYTES]) -> Option<TaskFlip> {
    let u64_at = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(bytes.get(at..at + 8)?);
        Some(u64::from_ne_bytes(word))
    };
    // Version and, behind it, the thread's number.
    if u64_at(0)? as u32 != VERSION {
        return None;
    }
    let mut before = TaskRegisterFile::new();
    let mut after = TaskRegisterFile::new();
    let mut changed = std::collections::BTreeMap::new();
    for (i, r) in TaskRegister::KERNEL.into_iter().enumerate() {
        let (a, b) = (u64_at(32 + 8 * i)?, u64_at(96 + 8 * i)?);
        before.insert(r, hex(r, std::iter::once(a)));
        after.insert(r, hex(r, std::iter::once(b)));
        let bits: Vec<u32> = (0..64).filter(|bit| (a ^ b) >> bit & 1 == 1).collect();
        if !bits.is_empty() {
            changed.insert(r, bits);
        }
    }
    let symbol = bytes.get(160..160 + SYMBOL_BYTES)?;
    let symbol: Vec<u8> = symbol.iter().copied().take_while(|b| *b != 0).collect();
    Some(TaskFlip {
        at: Moment {
            monotonic_ns: u64_at(8)?,
            realtime_ns: u64_at(16)?,
        },
        held_ns: u64_at(24)?,
        mode: GuestMode::Kernel,
        syscall: None,
        kernel_symbol: Some(String::from_utf8_lossy(&symbol).into_owned())
            .filter(|s| !s.is_empty()),
        before,
        after,
        changed,
    })
}
