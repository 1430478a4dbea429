//! What became of a fault once it was armed.

use crate::{DomId, InjectionId, Register, RegisterFile, VcpuId};
use serde::{Deserialize, Serialize};

/// An injection's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InjectionState {
    /// Waiting for its trigger.
    Armed,
    /// The flip happened (or, for a dummy, would have).
    Fired,
    /// Its time ran out before a matching event.
    Expired,
    /// Someone disarmed it.
    Disarmed,
    /// The domain or vCPU went away while it was armed.
    TargetGone,
    /// Its event came, but Xen could not let the guest run with the changed
    /// value (it would have had Xen's privilege, or VMX refuses to enter):
    /// nothing was changed.
    Refused,
}

/// How the guest is virtualized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestKind {
    /// Paravirtualized.
    Pv,
    /// Fully virtualized, with a device model.
    Hvm,
    /// Hardware-assisted without a device model.
    Pvh,
}

/// What the vCPU was executing when the flip happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestMode {
    /// Guest user mode.
    User,
    /// Guest kernel mode.
    Kernel,
    /// Hypervisor code (of a Xen inside the guest, or Xen itself).
    Hypervisor,
}

/// A vCPU's scheduling state (Xen `RUNSTATE_*`, public/vcpu.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// On a physical CPU.
    Running,
    /// Runnable, waiting for a CPU.
    Runnable,
    /// Blocked, usually idle.
    Blocked,
    /// Paused or offline.
    Offline,
}

/// Xen's record of one injection (`struct xfi_record` in public/xfi.h).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InjectionRecord {
    /// The id Xen gave it.
    pub id: InjectionId,
    /// What became of it.
    pub state: InjectionState,
    /// True when everything but the flip was done.
    pub dummy: bool,
    /// The domain's name when armed.
    pub domain: String,
    /// The domain's id.
    pub domid: DomId,
    /// The vCPU.
    pub vcpu: VcpuId,
    /// The register.
    pub register: Register,
    /// The bits asked for.
    pub mask: crate::Hex64,
    /// Xen's `NOW()` (ns since its boot) when armed.
    pub armed_now_ns: u64,
    /// Xen's `NOW()` at the drawn moment.
    pub drawn_now_ns: u64,
    /// The vCPU's scheduling state at the drawn moment, when it came.
    pub runstate_at_drawn: Option<RunState>,
    /// Context-switch events seen since the drawn moment.
    pub events_seen: u64,
    /// Of these, events that passed the RIP and mode filters.
    pub events_matched: u64,
    /// Of these, events passed over because I/O was pending (HVM).
    pub events_skipped_io: u64,
    /// Times the timer stopped the vCPU.
    pub kicks: u64,
    /// What is known only once it fired.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub flip: Option<Flip>,
}

/// The flip itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flip {
    /// Xen's `NOW()` at the flip.
    pub now_ns: u64,
    /// The time-stamp counter at the flip.
    pub tsc: crate::Hex64,
    /// The physical CPU.
    pub pcpu: u32,
    /// PV, HVM or PVH.
    pub guest_kind: GuestKind,
    /// User, kernel or hypervisor.
    pub guest_mode: GuestMode,
    /// RIP before the flip, as `symbol+0x…`, when the symbols are at hand.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rip_symbol: Option<String>,
    /// All registers before.
    pub before: RegisterFile,
    /// All registers after.
    pub after: RegisterFile,
}

impl InjectionRecord {
    /// Time from arming to the flip, in nanoseconds.
    pub fn arm_to_fire_ns(&self) -> Option<u64> {
        self.flip
            .as_ref()
            .map(|f| f.now_ns.saturating_sub(self.armed_now_ns))
    }

    /// The registers whose value differs between before and after, with the
    /// bits that differ.
    pub fn changed_bits(&self) -> Vec<(Register, u64)> {
        let Some(flip) = &self.flip else {
            return Vec::new();
        };
        flip.before
            .iter()
            .filter_map(|(r, before)| {
                let after = flip.after.get(r)?;
                let diff = before.0 ^ after.0;
                (diff != 0).then_some((*r, diff))
            })
            .collect()
    }
}
