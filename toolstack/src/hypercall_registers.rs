//! Registers of Xen's own, inside a hypercall: trigger `HYPERCALL` of
//! public/xfi.h (thesis §3.2.2.1).

use crate::hypercall::{Hypercall, common, errno};
use crate::{Error, Result, record};
use nix::libc::{EBUSY, ENOENT, ENOSPC, ENXIO, ESRCH};
use xfi_model::{
    BitOp, DomId, GuestKind, InjectionId, InjectionState, Register, RegisterFile, VcpuId,
};
use xfi_xenctrl_sys::abi;

/// What to arm inside a hypercall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HypercallRequest {
    /// The hypercall's number, 0 to 63.
    pub hypercall: u32,
    /// The instruction's address in Xen's code. One that is no instruction's
    /// start never fires.
    pub address: u64,
    /// Whose calls; none for any domain's, dom0's included.
    pub domid: Option<DomId>,
    /// Of which of the domain's vCPUs; none for any.
    pub vcpu: Option<VcpuId>,
    /// One of rax to r15, or rip.
    pub register: Register,
    /// The bits; none only in a dummy.
    pub mask: u64,
    /// What is done to them.
    pub op: BitOp,
    /// Do everything but the flip.
    pub dummy: bool,
    /// Count from this moment on, nanoseconds after the call.
    pub not_before_ns: u64,
    /// Fire at the nth time the address is reached, from 1.
    pub nth: u64,
    /// Give up this long after the call; none waits for ever.
    pub expire_ns: Option<u64>,
}

/// Xen's record of an injection inside a hypercall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HypercallRecord {
    /// The id Xen gave it.
    pub id: InjectionId,
    /// What became of it.
    pub state: InjectionState,
    /// True when everything but the flip was done.
    pub dummy: bool,
    /// The hypercall's number.
    pub hypercall: u32,
    /// The instruction's address.
    pub address: u64,
    /// Whose calls; none for any domain's.
    pub domid: Option<DomId>,
    /// Of which vCPU; none for any.
    pub vcpu: Option<VcpuId>,
    /// The register.
    pub register: Register,
    /// The bits asked for.
    pub mask: u64,
    /// At which hit it was to fire.
    pub nth: u64,
    /// Xen's `NOW()` when armed, nanoseconds.
    pub armed_now_ns: u64,
    /// Xen's `NOW()` when it ended, nanoseconds, if it has.
    pub finished_now_ns: Option<u64>,
    /// Calls of the hypercall watched so far.
    pub calls_watched: u64,
    /// Times the address was reached in these.
    pub hits: u64,
    /// Times the handler of an interrupt reached it; not counted as hits.
    pub hits_by_interrupts: u64,
    /// What is known only once it fired.
    pub flip: Option<HypercallFlip>,
}

/// The flip itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HypercallFlip {
    /// The domain whose call was hit.
    pub domid: DomId,
    /// Its vCPU.
    pub vcpu: VcpuId,
    /// PV, HVM or PVH.
    pub guest_kind: GuestKind,
    /// The physical CPU.
    pub pcpu: u32,
    /// Xen's `NOW()` at the flip, nanoseconds.
    pub now_ns: u64,
    /// The time-stamp counter at the flip.
    pub tsc: u64,
    /// Xen's registers before.
    pub before: RegisterFile,
    /// Xen's registers after.
    pub after: RegisterFile,
}

impl Hypercall {
    /// Arms a fault inside a hypercall.
    ///
    /// # Errors
    /// [`Error::BadLocation`] for an address outside of Xen's code, or in the
    /// part of it that must not be stopped; [`Error::HypercallBusy`];
    /// [`Error::Unsupported`] for rip where Xen uses a shadow stack; others as
    /// [`Hypercall::arm`].
    pub fn arm_hypercall(&self, request: &HypercallRequest) -> Result<InjectionId> {
        let mut arm = argument(request);
        self.call(abi::XFI_OP_arm, &mut arm)
            .map_err(|e| match errno(&e) {
                Some(ENXIO) => Error::BadLocation {
                    address: request.address,
                },
                Some(EBUSY) => Error::HypercallBusy {
                    hypercall: request.hypercall,
                },
                Some(ESRCH) => Error::NoSuchDomainId {
                    domid: request.domid.map_or(u16::MAX, |d| d.0),
                },
                Some(ENOENT) => Error::NoSuchVcpu {
                    domain: request.domid.map_or(String::new(), |d| d.to_string()),
                    vcpu: request.vcpu.map_or(u32::MAX, |v| v.0),
                    vcpus: 0,
                },
                Some(ENOSPC) => Error::NoFreeSlot {
                    slots: self.slots(),
                },
                _ => common("arming inside a hypercall", e),
            })?;
        Ok(InjectionId(arm.id))
    }

    /// State and record of an injection inside a hypercall.
    ///
    /// # Errors
    /// [`Error::NoSuchInjection`] when Xen has none with this id (any more).
    pub fn hypercall_status(&self, id: InjectionId) -> Result<HypercallRecord> {
        const OP: &str = "status";
        let mut status = abi::xfi_status {
            version: abi::XFI_ABI_VERSION,
            id: id.0,
            ..Default::default()
        };
        self.call(abi::XFI_OP_status, &mut status)
            .map_err(|e| match errno(&e) {
                Some(ENOENT) => Error::NoSuchInjection(id.0),
                _ => common(OP, e),
            })?;
        from_status(&status).map_err(|what| Error::Nonsense { op: OP, what })
    }
}

fn argument(request: &HypercallRequest) -> abi::xfi_arm {
    abi::xfi_arm {
        version: abi::XFI_ABI_VERSION,
        flags: if request.dummy { abi::XFI_ARM_DUMMY } else { 0 },
        domid: request.domid.map_or(abi::XFI_ANY, |d| u32::from(d.0)),
        vcpu: request.vcpu.map_or(abi::XFI_ANY, |v| v.0),
        reg: request.register as u32,
        op: record::bit_op(request.op),
        trigger: abi::XFI_TRIGGER_HYPERCALL,
        hypercall: request.hypercall,
        mask: request.mask,
        rip_start: request.address,
        rip_end: 0,
        nth: request.nth,
        not_before_ns: request.not_before_ns,
        kick_period_ns: 0,
        expire_ns: request.expire_ns.unwrap_or(0),
        id: 0,
    }
}

fn domid(n: u32) -> std::result::Result<DomId, String> {
    u16::try_from(n)
        .map(DomId)
        .map_err(|_| format!("domain {n}"))
}

fn from_status(status: &abi::xfi_status) -> std::result::Result<HypercallRecord, String> {
    let r = &status.record;
    if r.trigger != abi::XFI_TRIGGER_HYPERCALL {
        return Err("a record of an injection into a vCPU".to_owned());
    }
    let state = record::state(status.state)?;
    let fired = r.flags & abi::XFI_REC_FIRED != 0;
    if (state == InjectionState::Fired) != fired {
        return Err(format!("state {state:?} but flags {:#x}", r.flags));
    }
    let flip = if fired {
        Some(HypercallFlip {
            domid: domid(r.flip_domid)?,
            vcpu: VcpuId(r.flip_vcpu),
            guest_kind: record::guest_kind(r.guest_kind)?,
            pcpu: r.pcpu,
            now_ns: r.now_flip,
            tsc: r.tsc_flip,
            before: record::registers(&r.before),
            after: record::registers(&r.after),
        })
    } else {
        None
    };
    Ok(HypercallRecord {
        id: InjectionId(r.id),
        state,
        dummy: r.arm_flags & abi::XFI_ARM_DUMMY != 0,
        hypercall: r.hypercall,
        address: r.rip_start,
        domid: match r.domid {
            abi::XFI_ANY => None,
            n => Some(domid(n)?),
        },
        vcpu: (r.vcpu != abi::XFI_ANY).then_some(VcpuId(r.vcpu)),
        register: Register::from_number(r.reg)
            .ok_or_else(|| format!("unknown register {}", r.reg))?,
        mask: r.mask,
        nth: r.nth,
        armed_now_ns: r.now_armed,
        finished_now_ns: if fired {
            Some(r.now_flip)
        } else {
            (r.now_finished != 0).then_some(r.now_finished)
        },
        calls_watched: r.events_seen,
        hits: r.events_matched,
        hits_by_interrupts: r.events_skipped_io,
        flip,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> HypercallRequest {
        HypercallRequest {
            hypercall: 23,
            address: 0xffff_82d0_402f_1c60,
            domid: None,
            vcpu: None,
            register: Register::Rbx,
            mask: 1 << 21,
            op: BitOp::Flip,
            dummy: false,
            not_before_ns: 5,
            nth: 3,
            expire_ns: Some(9),
        }
    }

    fn fired() -> abi::xfi_status {
        let arm = argument(&request());
        let mut status = abi::xfi_status {
            state: abi::XFI_STATE_FIRED,
            ..Default::default()
        };
        let r = &mut status.record;
        r.id = 7;
        r.domid = arm.domid;
        r.vcpu = arm.vcpu;
        r.trigger = arm.trigger;
        r.hypercall = arm.hypercall;
        r.rip_start = arm.rip_start;
        r.reg = arm.reg;
        r.mask = arm.mask;
        r.nth = arm.nth;
        r.flags = abi::XFI_REC_FIRED;
        r.guest_kind = abi::XFI_GUEST_PV;
        r.guest_mode = abi::XFI_MODE_XEN;
        r.flip_domid = 4;
        r.now_flip = 2000;
        r.now_finished = 2100;
        r.events_matched = 3;
        r.after.r[1] = 1 << 21;
        status
    }

    #[test]
    fn a_request_becomes_the_argument_that_the_header_describes() {
        let arm = argument(&request());
        assert_eq!((arm.domid, arm.vcpu), (abi::XFI_ANY, abi::XFI_ANY));
        assert_eq!((arm.rip_start, arm.rip_end), (0xffff_82d0_402f_1c60, 0));
        assert_eq!((arm.trigger, arm.hypercall), (2, 23));
        let one = HypercallRequest {
            domid: Some(DomId(0)),
            vcpu: Some(VcpuId(2)),
            dummy: true,
            ..request()
        };
        let arm = argument(&one);
        assert_eq!((arm.domid, arm.vcpu, arm.flags), (0, 2, 1));
    }

    #[test]
    fn a_fired_record_says_whose_call_was_hit() {
        let r = from_status(&fired()).unwrap();
        assert_eq!((r.domid, r.hypercall, r.hits), (None, 23, 3));
        assert_eq!(r.finished_now_ns, Some(2000));
        let flip = r.flip.unwrap();
        assert_eq!(flip.domid, DomId(4));
        assert_eq!(flip.after[&Register::Rbx].0, 1 << 21);
    }

    #[test]
    fn the_two_kinds_of_records_are_not_taken_for_each_other() {
        let mut status = fired();
        assert!(record::snapshot(&status).unwrap_err().contains("hypercall"));
        status.record.trigger = abi::XFI_TRIGGER_KICK;
        assert!(from_status(&status).unwrap_err().contains("vCPU"));
    }

    proptest! {
        #[test]
        fn no_answer_of_xen_makes_the_conversion_panic(
            state in 0u32..9, reg in 0u32..30, flags: u32, kind in 0u32..5,
            domid: u32, hit: u32,
        ) {
            let mut status = fired();
            status.state = state;
            status.record.reg = reg;
            status.record.flags = flags;
            status.record.guest_kind = kind;
            status.record.domid = domid;
            status.record.flip_domid = hit;
            let _ = from_status(&status);
        }
    }
}
