//! Words of memory, and how often Xen is called: what the agent reads of a host
//! besides registers.

use crate::{BitOp, DomId, Hex64, InjectionState, Location, Moment};
use serde::{Deserialize, Serialize};

/// Words that can be read in one request.
pub const MAX_PEEK_WORDS: u32 = 1024;

/// The longest profile in one request, milliseconds: a day.
pub const MAX_PROFILE_MS: u64 = 24 * 60 * 60 * 1000;

/// A word of memory as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryWord {
    /// Its address, as the location counts addresses.
    pub address: Hex64,
    /// Its value.
    pub value: Hex64,
    /// Its machine address; none for an HVM or PVH guest's.
    pub machine_address: Option<Hex64>,
}

/// What became of a fault in a word of memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRecord {
    /// Fired, or disarmed before its moment.
    pub state: InjectionState,
    /// True when everything but the change was done.
    pub dummy: bool,
    /// [`Location::XenMemory`] or [`Location::GuestMemory`].
    pub location: Location,
    /// The bits of the word.
    pub mask: Hex64,
    /// How they change.
    pub op: BitOp,
    /// When it was armed, by dom0's clocks.
    pub armed: Moment,
    /// What is known only once it fired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flip: Option<MemoryFlip>,
}

/// The change itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryFlip {
    /// When, by dom0's clocks.
    pub at: Moment,
    /// The word before.
    pub before: Hex64,
    /// The word after.
    pub after: Hex64,
    /// Its machine address; none for an HVM or PVH guest's.
    pub machine_address: Option<Hex64>,
    /// Xen's `NOW()`, nanoseconds; none where Xen was not asked to do it.
    pub now_ns: Option<u64>,
    /// The time-stamp counter; none where Xen was not asked to do it.
    pub tsc: Option<Hex64>,
}

/// How often which hypercall was made (thesis, table 10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileRecord {
    /// Whose calls, by name; none for all domains'.
    pub domain: Option<String>,
    /// The same by id.
    pub domid: Option<DomId>,
    /// How long Xen counted, nanoseconds.
    pub counted_ns: u64,
    /// The time-stamp counter's frequency, kHz, to make time of cycles.
    pub tsc_khz: u64,
    /// Hypercalls that were made, by number.
    pub calls: Vec<CallCount>,
}

/// One hypercall's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallCount {
    /// Its number in `public/xen.h`.
    pub number: u32,
    /// Calls made directly. One that Xen preempted counts again when continued.
    pub calls: u64,
    /// TSC cycles in these; multicall's include its parts'.
    pub cycles: u64,
    /// Calls made as a part of a multicall.
    pub sub_calls: u64,
    /// TSC cycles in those.
    pub sub_cycles: u64,
}
