//! Between the ABI's integers and the model's types.

use crate::hypercall::{ArmRequest, Snapshot};
use xfi_model::{
    BitOp, DomId, Flip, GuestKind, GuestMode, Hex64, InjectionId, InjectionRecord, InjectionState,
    ModeFilter, Register, RegisterFile, RunState, TriggerKind, VcpuId,
};
use xfi_xenctrl_sys::abi;

pub(crate) fn feature_names(bits: u64) -> Vec<String> {
    const NAMES: &[(u64, &str)] = &[
        (abi::XFI_FEAT_KICK as u64, "kick"),
        (abi::XFI_FEAT_SWITCH as u64, "switch"),
        (abi::XFI_FEAT_RIP_RANGE as u64, "rip-range"),
        (abi::XFI_FEAT_MODE_FILTER as u64, "mode-filter"),
        (abi::XFI_FEAT_NTH as u64, "nth"),
        (abi::XFI_FEAT_NOT_BEFORE as u64, "not-before"),
        (abi::XFI_FEAT_EXPIRE as u64, "expire"),
        (abi::XFI_FEAT_MASK_OPS as u64, "mask-ops"),
        (abi::XFI_FEAT_DUMMY as u64, "dummy"),
        (abi::XFI_FEAT_SEGMENTS as u64, "segments"),
        (abi::XFI_FEAT_MEMORY as u64, "memory"),
        (abi::XFI_FEAT_HYPERCALL as u64, "hypercall"),
        (abi::XFI_FEAT_PROFILE as u64, "profile"),
        (abi::XFI_FEAT_PV as u64, "pv"),
        (abi::XFI_FEAT_PV32 as u64, "pv32"),
        (abi::XFI_FEAT_HVM as u64, "hvm"),
        (abi::XFI_FEAT_SVM as u64, "svm"),
        (abi::XFI_FEAT_VMX as u64, "vmx"),
    ];
    let mut names: Vec<String> = NAMES
        .iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect();
    let unknown = NAMES.iter().fold(bits, |rest, (bit, _)| rest & !bit);
    if unknown != 0 {
        names.push(format!("unknown-{unknown:#x}"));
    }
    names
}

pub(crate) fn arm_argument(request: &ArmRequest) -> abi::xfi_arm {
    let mut flags = 0;
    if request.dummy {
        flags |= abi::XFI_ARM_DUMMY;
    }
    match request.mode {
        None => {}
        Some(ModeFilter::User) => flags |= abi::XFI_ARM_USER,
        Some(ModeFilter::Kernel) => flags |= abi::XFI_ARM_KERNEL,
        Some(ModeFilter::Hypervisor) => flags |= abi::XFI_ARM_HYPERVISOR,
    }
    abi::xfi_arm {
        version: abi::XFI_ABI_VERSION,
        flags,
        domid: u32::from(request.domid.0),
        vcpu: request.vcpu.0,
        reg: request.register as u32,
        op: bit_op(request.op),
        trigger: match request.trigger {
            // Refused before it comes here; a number Xen does not know.
            TriggerKind::Deadline { .. } => u32::MAX,
            TriggerKind::Kick => abi::XFI_TRIGGER_KICK,
            TriggerKind::Switch => abi::XFI_TRIGGER_SWITCH,
            // No trigger of a vCPU: Xen refuses it.
            TriggerKind::Address => u32::MAX,
        },
        hypercall: 0,
        mask: request.mask,
        rip_start: request.rip.map_or(0, |r| r.start()),
        rip_end: request.rip.map_or(0, |r| r.end()),
        nth: u64::from(request.nth.max(1)),
        not_before_ns: request.not_before_ns,
        kick_period_ns: 0,
        expire_ns: request.expire_ns.unwrap_or(0),
        id: 0,
    }
}

pub(crate) fn state(state: u32) -> Result<InjectionState, String> {
    Ok(match state {
        abi::XFI_STATE_ARMED => InjectionState::Armed,
        abi::XFI_STATE_FIRED => InjectionState::Fired,
        abi::XFI_STATE_EXPIRED => InjectionState::Expired,
        abi::XFI_STATE_DISARMED => InjectionState::Disarmed,
        abi::XFI_STATE_TARGET_GONE => InjectionState::TargetGone,
        abi::XFI_STATE_REFUSED => InjectionState::Refused,
        n => return Err(format!("unknown state {n}")),
    })
}

pub(crate) fn guest_kind(kind: u32) -> Result<GuestKind, String> {
    Ok(match kind {
        abi::XFI_GUEST_PV => GuestKind::Pv,
        abi::XFI_GUEST_HVM => GuestKind::Hvm,
        abi::XFI_GUEST_PVH => GuestKind::Pvh,
        n => return Err(format!("unknown guest kind {n}")),
    })
}

pub(crate) fn bit_op(op: BitOp) -> u32 {
    match op {
        BitOp::Flip => abi::XFI_MASK_XOR,
        BitOp::Set => abi::XFI_MASK_SET,
        BitOp::Clear => abi::XFI_MASK_CLEAR,
    }
}

pub(crate) fn snapshot(status: &abi::xfi_status) -> Result<Snapshot, String> {
    let r = &status.record;
    let state = state(status.state)?;
    if r.trigger == abi::XFI_TRIGGER_HYPERCALL {
        return Err("a record of an injection inside a hypercall".to_owned());
    }
    let register =
        Register::from_number(r.reg).ok_or_else(|| format!("unknown register {}", r.reg))?;
    let fired = r.flags & abi::XFI_REC_FIRED != 0;
    if (state == InjectionState::Fired) != fired && state != InjectionState::Refused {
        return Err(format!("state {state:?} but flags {:#x}", r.flags));
    }
    let flip = if fired {
        Some(Flip {
            now_ns: r.now_flip,
            tsc: Hex64(r.tsc_flip),
            pcpu: r.pcpu,
            guest_kind: guest_kind(r.guest_kind)?,
            guest_mode: match r.guest_mode {
                abi::XFI_MODE_USER => GuestMode::User,
                abi::XFI_MODE_KERNEL => GuestMode::Kernel,
                abi::XFI_MODE_HYPERVISOR => GuestMode::Hypervisor,
                n => return Err(format!("unknown guest mode {n}")),
            },
            rip_symbol: None,
            before: registers(&r.before),
            after: registers(&r.after),
        })
    } else {
        None
    };
    let finished_now_ns = (state != InjectionState::Armed)
        .then_some(if fired { r.now_flip } else { r.now_finished })
        .filter(|now| *now != 0);
    Ok(Snapshot {
        record: InjectionRecord {
            id: InjectionId(r.id),
            state,
            dummy: r.arm_flags & abi::XFI_ARM_DUMMY != 0,
            domain: String::new(),
            domid: DomId(u16::try_from(r.domid).map_err(|_| format!("domain {}", r.domid))?),
            vcpu: VcpuId(r.vcpu),
            register,
            mask: Hex64(r.mask),
            armed_now_ns: r.now_armed,
            drawn_now_ns: r.now_armed.saturating_add(r.not_before_ns),
            runstate_at_drawn: match r.runstate_moment {
                abi::XFI_RUNSTATE_RUNNING => Some(RunState::Running),
                abi::XFI_RUNSTATE_RUNNABLE => Some(RunState::Runnable),
                abi::XFI_RUNSTATE_BLOCKED => Some(RunState::Blocked),
                abi::XFI_RUNSTATE_OFFLINE => Some(RunState::Offline),
                _ => None,
            },
            events_seen: r.events_seen,
            events_matched: r.events_matched,
            events_skipped_io: r.events_skipped_io,
            kicks: r.kicks,
            flip,
        },
        finished_now_ns,
    })
}

pub(crate) fn registers(regs: &abi::xfi_regs) -> RegisterFile {
    Register::ALL
        .iter()
        .map(|r| (*r, Hex64(regs.r[*r as usize])))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use xfi_model::RipRange;

    fn request() -> ArmRequest {
        ArmRequest {
            domid: DomId(3),
            vcpu: VcpuId(1),
            register: Register::R12,
            mask: 1 << 40,
            op: BitOp::Flip,
            dummy: false,
            trigger: TriggerKind::Kick,
            not_before_ns: 5,
            nth: 2,
            expire_ns: Some(9),
            rip: Some(RipRange::new(0x10, 0x20).unwrap()),
            mode: Some(ModeFilter::User),
        }
    }

    #[test]
    fn register_numbers_are_those_of_the_header() {
        for (register, number) in [
            (Register::Rax, abi::XFI_REG_RAX),
            (Register::Rbx, abi::XFI_REG_RBX),
            (Register::Rcx, abi::XFI_REG_RCX),
            (Register::Rdx, abi::XFI_REG_RDX),
            (Register::Rsi, abi::XFI_REG_RSI),
            (Register::Rdi, abi::XFI_REG_RDI),
            (Register::Rbp, abi::XFI_REG_RBP),
            (Register::Rsp, abi::XFI_REG_RSP),
            (Register::R8, abi::XFI_REG_R8),
            (Register::R9, abi::XFI_REG_R9),
            (Register::R10, abi::XFI_REG_R10),
            (Register::R11, abi::XFI_REG_R11),
            (Register::R12, abi::XFI_REG_R12),
            (Register::R13, abi::XFI_REG_R13),
            (Register::R14, abi::XFI_REG_R14),
            (Register::R15, abi::XFI_REG_R15),
            (Register::Rip, abi::XFI_REG_RIP),
            (Register::Rflags, abi::XFI_REG_RFLAGS),
            (Register::Cs, abi::XFI_REG_CS),
            (Register::Ss, abi::XFI_REG_SS),
            (Register::Ds, abi::XFI_REG_DS),
            (Register::Es, abi::XFI_REG_ES),
            (Register::Fs, abi::XFI_REG_FS),
            (Register::Gs, abi::XFI_REG_GS),
        ] {
            assert_eq!(register as u32, number, "{register}");
        }
        assert_eq!(Register::ALL.len(), abi::XFI_NR_REGS as usize);
    }

    #[test]
    fn a_request_becomes_the_argument_that_the_header_describes() {
        let arm = arm_argument(&request());
        assert_eq!((arm.domid, arm.vcpu, arm.reg), (3, 1, abi::XFI_REG_R12));
        assert_eq!(
            (arm.rip_start, arm.rip_end, arm.mask),
            (0x10, 0x20, 1 << 40)
        );
        assert_eq!((arm.nth, arm.not_before_ns, arm.expire_ns), (2, 5, 9));
        assert_eq!(arm.flags, abi::XFI_ARM_USER);
        assert_eq!(arm.version, abi::XFI_ABI_VERSION);
        let all = ArmRequest {
            rip: None,
            mode: None,
            expire_ns: None,
            dummy: true,
            ..request()
        };
        let arm = arm_argument(&all);
        assert_eq!((arm.rip_start, arm.rip_end, arm.expire_ns), (0, 0, 0));
        assert_eq!(arm.flags, abi::XFI_ARM_DUMMY);
    }

    fn fired() -> abi::xfi_status {
        let mut status = abi::xfi_status {
            state: abi::XFI_STATE_FIRED,
            ..Default::default()
        };
        let r = &mut status.record;
        r.id = 7;
        r.domid = 3;
        r.reg = abi::XFI_REG_RBX;
        r.mask = 1 << 21;
        r.now_armed = 1000;
        r.not_before_ns = 500;
        r.now_flip = 2000;
        r.now_finished = 2000;
        r.flags = abi::XFI_REC_FIRED;
        r.guest_kind = abi::XFI_GUEST_PVH;
        r.guest_mode = abi::XFI_MODE_KERNEL;
        r.after.r[1] = 1 << 21;
        status
    }

    #[test]
    fn a_fired_record_keeps_every_register() {
        let s = snapshot(&fired()).unwrap();
        assert_eq!(s.finished_now_ns, Some(2000));
        assert_eq!(s.record.drawn_now_ns, 1500);
        assert_eq!(s.record.arm_to_fire_ns(), Some(1000));
        assert_eq!(s.record.changed_bits(), [(Register::Rbx, 1 << 21)]);
        assert_eq!(s.record.flip.unwrap().before.len(), 24);
    }

    #[test]
    fn an_answer_that_contradicts_itself_is_an_error() {
        let mut status = fired();
        status.record.flags = 0;
        assert!(snapshot(&status).is_err());
        let mut status = fired();
        status.state = 99;
        assert!(snapshot(&status).unwrap_err().contains("99"));
        let mut status = fired();
        status.record.guest_mode = 0;
        assert!(snapshot(&status).is_err());
    }

    #[test]
    fn features_have_names_and_unknown_ones_are_shown() {
        assert_eq!(feature_names(0b11), ["kick", "switch"]);
        assert_eq!(feature_names(1 << 63), ["unknown-0x8000000000000000"]);
    }

    proptest! {
        #[test]
        fn no_answer_of_xen_makes_the_conversion_panic(
            state in 0u32..9, reg in 0u32..30, flags: u32, kind in 0u32..5, mode in 0u32..5,
            domid: u32, runstate: u32,
        ) {
            let mut status = fired();
            status.state = state;
            status.record.reg = reg;
            status.record.flags = flags;
            status.record.guest_kind = kind;
            status.record.guest_mode = mode;
            status.record.domid = domid;
            status.record.runstate_moment = runstate;
            let _ = snapshot(&status);
        }
    }
}
