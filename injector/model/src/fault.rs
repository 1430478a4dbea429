//! What to flip, and when.

use crate::{FaultError, Hex64, Register, TaskRegister, TaskSelector, VcpuId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One fault: a location, the bits, and a trigger (DESIGN: "fault").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Where.
    pub location: Location,
    /// The bits to change; one bit for a single bit flip, none for a dummy.
    pub mask: Hex64,
    /// How the bits change.
    #[serde(default)]
    pub op: BitOp,
    /// When.
    pub trigger: Trigger,
}

impl Fault {
    /// The bit, when the mask has exactly one.
    pub fn bit(&self) -> Option<u32> {
        (self.mask.0.count_ones() == 1).then(|| self.mask.0.trailing_zeros())
    }
}

/// Where a fault is put. Issue by issue this grows; files stay readable
/// because each kind is tagged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Location {
    /// A register of a guest's vCPU, changed as the vCPU is switched in
    /// (thesis §3.2.2.2).
    VcpuRegister {
        /// The domain's name.
        domain: String,
        /// The vCPU.
        vcpu: VcpuId,
        /// The register.
        register: Register,
    },
    /// A register of Xen itself, changed as an instruction of a hypercall's
    /// handler is about to run (thesis §3.2.2.1).
    HypercallRegister {
        /// The hypercall's name in `public/xen.h`, lower case: `iret`.
        hypercall: String,
        /// Its number there.
        number: u32,
        /// The instruction's address.
        address: Hex64,
        /// The same as `symbol+0x…`.
        symbol: String,
        /// Only calls that this domain makes; `None` for any domain's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
        /// The register; one of [`Register::IN_HYPERCALLS`].
        register: Register,
    },
    /// A register of a Linux task, changed by the agent in the task's own
    /// domain (thesis §3.2.2.1, §4.1.4).
    Task {
        /// The domain's name; [`crate::DOM0_NAME`] is dom0.
        domain: String,
        /// The task.
        task: TaskSelector,
        /// The register.
        register: TaskRegister,
        /// The 64-bit word of it that the mask is meant for.
        word: u32,
    },
    /// A user process that is killed: the crash fault.
    TaskKill {
        /// The domain's name.
        domain: String,
        /// The task.
        task: TaskSelector,
    },
    /// A word of Xen's own memory, changed at once (thesis §4.5.1).
    XenMemory {
        /// Its virtual address, a multiple of the size.
        address: Hex64,
        /// The same as `symbol+0x…`, where known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        symbol: Option<String>,
        /// The word's size: 1, 2, 4 or 8 bytes.
        size: u32,
    },
    /// A word of a domain's memory, changed at once (thesis §4.5.1).
    GuestMemory {
        /// The domain's name; [`crate::DOM0_NAME`] is dom0.
        domain: String,
        /// What the domain takes for the physical address, a multiple of the
        /// size.
        address: Hex64,
        /// The word's size: 1, 2, 4 or 8 bytes.
        size: u32,
    },
}

impl Location {
    /// The domain the fault is meant for, when it is meant for one.
    pub fn domain(&self) -> Option<&str> {
        match self {
            Location::VcpuRegister { domain, .. }
            | Location::Task { domain, .. }
            | Location::TaskKill { domain, .. }
            | Location::GuestMemory { domain, .. } => Some(domain),
            Location::HypercallRegister { domain, .. } => domain.as_deref(),
            Location::XenMemory { .. } => None,
        }
    }

    /// The register that Xen changes, when it is one.
    pub fn register(&self) -> Option<Register> {
        match self {
            Location::VcpuRegister { register, .. }
            | Location::HypercallRegister { register, .. } => Some(*register),
            Location::Task { .. }
            | Location::TaskKill { .. }
            | Location::XenMemory { .. }
            | Location::GuestMemory { .. } => None,
        }
    }

    /// Whether it is a word of memory.
    pub fn is_memory(&self) -> bool {
        matches!(
            self,
            Location::XenMemory { .. } | Location::GuestMemory { .. }
        )
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::VcpuRegister {
                domain,
                vcpu: VcpuId(0),
                register,
            } => write!(f, "{domain} {register}"),
            Location::VcpuRegister {
                domain,
                vcpu,
                register,
            } => write!(f, "{domain} vCPU {vcpu} {register}"),
            Location::HypercallRegister {
                symbol,
                domain,
                register,
                ..
            } => {
                write!(f, "{symbol} {register}")?;
                domain
                    .as_ref()
                    .map_or(Ok(()), |d| write!(f, " in calls by {d}"))
            }
            Location::Task {
                domain,
                task,
                register,
                ..
            } => write!(f, "{domain} {register} of {task}"),
            Location::TaskKill { domain, task } => write!(f, "{domain} {task}"),
            Location::XenMemory {
                address, symbol, ..
            } => {
                write!(f, "Xen's memory at {address}")?;
                symbol.as_ref().map_or(Ok(()), |s| write!(f, " ({s})"))
            }
            Location::GuestMemory {
                domain, address, ..
            } => write!(f, "{domain}'s memory at {address}"),
        }
    }
}

/// How the masked bits change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BitOp {
    /// Invert them: a transient bit flip.
    #[default]
    Flip,
    /// Set them: stuck at one.
    Set,
    /// Clear them: stuck at zero.
    Clear,
}

impl BitOp {
    /// The value after the fault.
    pub const fn apply(self, value: u64, mask: u64) -> u64 {
        match self {
            BitOp::Flip => value ^ mask,
            BitOp::Set => value | mask,
            BitOp::Clear => value & !mask,
        }
    }
}

/// How the vCPU comes to be switched in at the moment of the flip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerKind {
    /// A Xen timer stops the vCPU at the drawn moment; the flip happens as it
    /// is switched in again. A task is stopped likewise, memory is changed then.
    Kick,
    /// The next natural context switch after the drawn moment.
    Switch,
    /// The instruction at the location's address is about to run
    /// ([`Location::HypercallRegister`] alone).
    Address,
    /// At this time of the domain's own `CLOCK_REALTIME`, nanoseconds since
    /// 1970, or at once when it is past; faults in tasks only. An expiry counts
    /// from then on.
    Deadline {
        /// The moment.
        unix_ns: u64,
    },
}

/// Which privilege level the vCPU must be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModeFilter {
    /// Guest user mode only.
    User,
    /// Guest kernel mode only.
    Kernel,
    /// Code of a Xen inside an HVM or PVH guest only.
    Hypervisor,
}

impl fmt::Display for ModeFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ModeFilter::User => "user",
            ModeFilter::Kernel => "kernel",
            ModeFilter::Hypervisor => "hypervisor",
        })
    }
}

/// When a fault fires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// Kick or switch.
    pub kind: TriggerKind,
    /// The drawn moment, nanoseconds after arming; nothing fires before it.
    pub after_ns: u64,
    /// Fire on the nth matching event, from 1.
    #[serde(default = "one")]
    pub nth: u32,
    /// Give up this long after arming; `None` waits for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_ns: Option<u64>,
    /// Only when RIP lies in this range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rip: Option<RipRange>,
    /// Only in this mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ModeFilter>,
}

const fn one() -> u32 {
    1
}

/// A half-open range of instruction addresses: `start` is in, `end` is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RipRange {
    start: u64,
    end: u64,
}

impl RipRange {
    /// A range from `start` up to, but without, `end`.
    ///
    /// # Errors
    /// [`FaultError::BadRipRange`] unless `start < end`.
    pub fn new(start: u64, end: u64) -> Result<Self, FaultError> {
        if start < end {
            Ok(RipRange { start, end })
        } else {
            Err(FaultError::BadRipRange {
                text: format!("{start:#x}..{end:#x}"),
                why: if start == end {
                    "is empty"
                } else {
                    "is reversed"
                },
            })
        }
    }

    /// The first address inside.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// The first address past the range.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Whether `rip` lies inside.
    pub const fn contains(self, rip: u64) -> bool {
        self.start <= rip && rip < self.end
    }
}

impl fmt::Display for RipRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}

impl FromStr for RipRange {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |why| FaultError::BadRipRange {
            text: text.to_owned(),
            why,
        };
        let (start, end) = text.split_once("..").ok_or_else(|| bad("has no '..'"))?;
        let number = |t: &str| t.parse::<Hex64>().map(|h| h.0);
        let start = number(start).map_err(|_| bad("has a bad start"))?;
        let end = number(end).map_err(|_| bad("has a bad end"))?;
        RipRange::new(start, end).map_err(|e| match e {
            FaultError::BadRipRange { why, .. } => bad(why),
            other => other,
        })
    }
}

impl TryFrom<String> for RipRange {
    type Error = FaultError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RipRange> for String {
    fn from(range: RipRange) -> String {
        range.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rip_ranges_are_half_open() {
        let r: RipRange = "0x10..0x20".parse().unwrap();
        assert!(r.contains(0x10) && r.contains(0x1f) && !r.contains(0x20));
        assert_eq!(r.to_string(), "0x10..0x20");
    }

    #[test]
    fn locations_say_where_in_one_word_or_two() {
        let vcpu = |n| Location::VcpuRegister {
            domain: "web1".into(),
            vcpu: VcpuId(n),
            register: Register::Rbx,
        };
        assert_eq!(vcpu(0).to_string(), "web1 rbx");
        assert_eq!(vcpu(1).to_string(), "web1 vCPU 1 rbx");
        let call = Location::HypercallRegister {
            hypercall: "iret".into(),
            number: 23,
            address: Hex64(0xffff_82d0_402f_187c),
            symbol: "do_iret+0x1c".into(),
            domain: Some("web1".into()),
            register: Register::Rip,
        };
        assert_eq!(call.to_string(), "do_iret+0x1c rip in calls by web1");
        let json = serde_json::to_string(&call).unwrap();
        assert!(json.contains(r#""kind":"hypercall_register""#), "{json}");
        assert!(json.contains(r#""address":"0xffff82d0402f187c""#), "{json}");
        assert_eq!(serde_json::from_str::<Location>(&json).unwrap(), call);
        let word = Location::XenMemory {
            address: Hex64(0xffff_82d0_4020_0008),
            symbol: Some("jiffies+0x8".into()),
            size: 8,
        };
        assert_eq!(
            word.to_string(),
            "Xen's memory at 0xffff82d040200008 (jiffies+0x8)"
        );
        assert!(word.is_memory() && word.domain().is_none() && word.register().is_none());
        let json = r#"{"kind":"guest_memory","domain":"Domain-0","address":"0x1000","size":4}"#;
        let word: Location = serde_json::from_str(json).unwrap();
        assert_eq!(word.to_string(), "Domain-0's memory at 0x0000000000001000");
        assert_eq!((word.domain(), word.is_memory()), (Some("Domain-0"), true));
        let odd = json.replace("size", "sise");
        assert!(serde_json::from_str::<Location>(&odd).is_err());
    }

    #[test]
    fn reversed_empty_and_malformed_ranges_name_the_text() {
        for text in [
            "0x10..0x5",
            "5..5",
            "0x10",
            "x..0x5",
            "0x5..",
            "0x1..0x1_0000_0000_0000_0000_0",
        ] {
            let e = text.parse::<RipRange>().unwrap_err().to_string();
            assert!(e.contains(text), "{e}");
        }
    }
}
