//! Faults in words of memory: Xen's own, and domains' (thesis §4.5.1).
//!
//! Nothing waits in Xen for these: the word is changed by the caller's own hand,
//! at once or when a moment has come.

use crate::task::now;
use crate::times::MAX_DELAY_NS;
use crate::{InjectError, Result};
use std::rc::Rc;
use std::time::{Duration, Instant};
use xfi_model::{
    Fault, Hex64, InjectionState, Location, MAX_PEEK_WORDS, MemoryFlip, MemoryRecord, MemoryWord,
    TriggerKind,
};
use xfi_toolstack::memory::DomainMemory;
use xfi_toolstack::{Hypercall, HypervisorInfo, MemoryRecord as Seen, WordSize, XenDomain};

/// The capability that Xen's own memory takes (`XFI_FEAT_MEMORY`).
pub const FEATURE: &str = "memory";

/// Whose memory, and the way to it.
#[derive(Debug)]
pub enum Memory {
    /// Xen's.
    Xen(Rc<Hypercall>),
    /// A domain's.
    Domain(DomainMemory, XenDomain),
}

impl Memory {
    /// Xen's own, if it lets itself be read.
    ///
    /// # Errors
    /// [`InjectError::NotAvailable`].
    pub fn of_xen(xen: Rc<Hypercall>, info: &HypervisorInfo) -> Result<Memory> {
        if info.capabilities.features.iter().any(|f| f == FEATURE) {
            Ok(Memory::Xen(xen))
        } else {
            Err(InjectError::NotAvailable(
                "access to Xen's memory; the patched Xen has it, a livepatch cannot",
            ))
        }
    }

    /// A domain's.
    ///
    /// # Errors
    /// When foreign memory cannot be mapped on this host.
    pub fn of_domain(domain: XenDomain) -> Result<Memory> {
        Ok(Memory::Domain(DomainMemory::open()?, domain))
    }

    /// Reads so many words from a place on.
    ///
    /// # Errors
    /// The first address that cannot be read; a count that is refused.
    pub fn peek(&self, location: &Location, count: u32) -> Result<Vec<MemoryWord>> {
        let (address, size) = place(location)?;
        if count == 0 || count > MAX_PEEK_WORDS {
            return Err(InjectError::BadWordCount {
                count,
                most: MAX_PEEK_WORDS,
            });
        }
        let mut words = Vec::new();
        for n in 0..u64::from(count) {
            // Past the end of all addresses nothing is mapped, nor at its start.
            let at = address.wrapping_add(n * u64::from(size.bytes()));
            let seen = self.read(at, size)?;
            words.push(MemoryWord {
                address: Hex64(at),
                value: Hex64(seen.before),
                machine_address: seen.machine_address.map(Hex64),
            });
        }
        Ok(words)
    }

    fn read(&self, address: u64, size: WordSize) -> Result<Seen> {
        Ok(match self {
            Memory::Xen(xen) => xen.peek_xen(address, size)?,
            Memory::Domain(memory, domain) => memory.peek(domain, address, size)?,
        })
    }
}

/// Address and size of a word.
fn place(location: &Location) -> Result<(u64, WordSize)> {
    match location {
        Location::XenMemory { address, size, .. } | Location::GuestMemory { address, size, .. } => {
            Ok((address.0, WordSize::try_from(*size)?))
        }
        other => Err(InjectError::NotOfMemory(other.to_string())),
    }
}

/// A flip whose moment has not come.
#[derive(Debug)]
pub struct PlannedFlip {
    memory: Memory,
    address: u64,
    size: WordSize,
    due: Instant,
    record: MemoryRecord,
}

impl PlannedFlip {
    /// Checks everything, that the word is there among it.
    ///
    /// # Errors
    /// Names the offending value and the valid ones.
    pub fn plan(memory: Memory, fault: &Fault, dummy: bool) -> Result<PlannedFlip> {
        let (address, size, after) = check(fault, dummy)?;
        memory.read(address, size)?;
        Ok(PlannedFlip {
            memory,
            address,
            size,
            due: Instant::now() + after,
            record: MemoryRecord {
                state: InjectionState::Armed,
                dummy,
                location: fault.location.clone(),
                mask: fault.mask,
                op: fault.op,
                armed: now(),
                flip: None,
            },
        })
    }

    /// When it is to be made.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Makes it now.
    ///
    /// # Errors
    /// When the word went away since.
    pub fn fire(mut self) -> Result<MemoryRecord> {
        let (mask, op) = (self.record.mask.0, self.record.op);
        let seen = if self.record.dummy {
            self.memory.read(self.address, self.size)?
        } else {
            match &self.memory {
                Memory::Xen(xen) => xen.flip_xen(self.address, self.size, mask, op)?,
                Memory::Domain(memory, domain) => {
                    memory.flip(domain, self.address, self.size, mask, op)?
                }
            }
        };
        self.record.state = InjectionState::Fired;
        self.record.flip = Some(MemoryFlip {
            at: now(),
            before: Hex64(seen.before),
            after: Hex64(seen.after),
            machine_address: seen.machine_address.map(Hex64),
            now_ns: seen.now_ns,
            tsc: seen.tsc.map(Hex64),
        });
        Ok(self.record)
    }

    /// Gives it up.
    pub fn disarm(mut self) -> MemoryRecord {
        self.record.state = InjectionState::Disarmed;
        self.record
    }
}

fn check(fault: &Fault, dummy: bool) -> Result<(u64, WordSize, Duration)> {
    let (address, size) = place(&fault.location)?;
    let trigger = &fault.trigger;
    if fault.mask.0 == 0 && !dummy {
        return Err(InjectError::EmptyMask);
    }
    let bad = |what, value, valid| Err(InjectError::BadTrigger { what, value, valid });
    if trigger.kind != TriggerKind::Kick || trigger.rip.is_some() || trigger.mode.is_some() {
        return Err(InjectError::NotAvailable(
            "trigger for memory but a moment (kick)",
        ));
    }
    if trigger.nth != 1 {
        return bad("nth", u64::from(trigger.nth), "memory has no events: 1");
    }
    if trigger.after_ns > MAX_DELAY_NS {
        return bad("after_ns", trigger.after_ns, "at most one day");
    }
    if let Some(n) = trigger.expire_ns {
        return bad(
            "expire_ns",
            n,
            "a flip in memory cannot expire: leave it out",
        );
    }
    Ok((address, size, Duration::from_nanos(trigger.after_ns)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use xfi_model::{BitOp, Register, Trigger, VcpuId};

    fn fault() -> Fault {
        Fault {
            location: Location::GuestMemory {
                domain: "web1".to_owned(),
                address: Hex64(0x1000),
                size: 4,
            },
            mask: Hex64(1 << 21),
            op: BitOp::Flip,
            trigger: Trigger {
                kind: TriggerKind::Kick,
                after_ns: 5,
                nth: 1,
                expire_ns: None,
                rip: None,
                mode: None,
            },
        }
    }

    #[test]
    fn a_word_and_a_moment_are_taken_from_the_fault() {
        let (address, size, after) = check(&fault(), false).unwrap();
        assert_eq!(
            (address, size, after),
            (0x1000, WordSize::U32, Duration::from_nanos(5))
        );
    }

    #[test]
    fn what_memory_cannot_have_is_refused_with_the_value() {
        let with = |change: &dyn Fn(&mut Fault)| {
            let mut f = fault();
            change(&mut f);
            f
        };
        let vcpu = Location::VcpuRegister {
            domain: "web1".to_owned(),
            vcpu: VcpuId(0),
            register: Register::Rbx,
        };
        let sized = |size| Location::XenMemory {
            address: Hex64(0x1000),
            symbol: None,
            size,
        };
        for (f, word) in [
            (with(&|f| f.location = vcpu.clone()), "web1 rbx"),
            (with(&|f| f.location = sized(3)), "1, 2, 4 and 8"),
            (with(&|f| f.location = sized(0)), "1, 2, 4 and 8"),
            (with(&|f| f.mask = Hex64(0)), "mask"),
            (with(&|f| f.trigger.kind = TriggerKind::Switch), "trigger"),
            (with(&|f| f.trigger.nth = 2), "nth is 2"),
            (with(&|f| f.trigger.nth = 0), "nth is 0"),
            (with(&|f| f.trigger.expire_ns = Some(9)), "expire_ns is 9"),
            (with(&|f| f.trigger.after_ns = u64::MAX), "one day"),
        ] {
            let e = check(&f, false).unwrap_err().to_string();
            assert!(e.contains(word), "no '{word}' in: {e}");
        }
        assert!(check(&with(&|f| f.mask = Hex64(0)), true).is_ok());
    }
}
