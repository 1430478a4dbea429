//! Faults in a register of Xen, at an instruction of a hypercall's handler
//! (thesis §3.2.2.1).

use crate::times::check_times;
use crate::{InjectError, Result};
use xfi_model::{DomId, Fault, Location, Register, TriggerKind};
use xfi_toolstack::{HypercallRequest, HypervisorInfo};

/// The capability that this takes (`XFI_FEAT_HYPERCALL`).
pub const FEATURE: &str = "hypercall";

/// Checks a fault against what this Xen can do, before anything is armed.
/// `caller` is the domain that the fault names, when it names one.
///
/// # Errors
/// Names the offending value and the valid ones.
pub fn check(
    fault: &Fault,
    dummy: bool,
    caller: Option<DomId>,
    info: &HypervisorInfo,
) -> Result<HypercallRequest> {
    if !info.capabilities.features.iter().any(|f| f == FEATURE) {
        return Err(InjectError::NotAvailable(
            "injection inside hypercalls; the patched Xen has it, a livepatch cannot",
        ));
    }
    check_against(fault, dummy, caller, |register| info.xen.bits(register))
}

fn check_against(
    fault: &Fault,
    dummy: bool,
    caller: Option<DomId>,
    armable: impl Fn(Register) -> u64,
) -> Result<HypercallRequest> {
    let Location::HypercallRegister {
        number,
        address,
        register,
        ..
    } = &fault.location
    else {
        return Err(InjectError::NotOfHypercall(fault.location.to_string()));
    };
    let valid = armable(*register);
    let refused = fault.mask.0 & !valid;
    if refused != 0 {
        return Err(InjectError::BitsNotArmableInXen {
            register: *register,
            bits: refused,
            valid,
        });
    }
    if fault.mask.0 == 0 && !dummy {
        return Err(InjectError::EmptyMask);
    }
    let trigger = &fault.trigger;
    if trigger.kind != TriggerKind::Address || trigger.rip.is_some() || trigger.mode.is_some() {
        return Err(InjectError::NotAvailable(
            "trigger but the instruction's address inside a hypercall",
        ));
    }
    check_times(trigger)?;
    Ok(HypercallRequest {
        hypercall: *number,
        address: address.0,
        domid: caller,
        vcpu: None,
        register: *register,
        mask: fault.mask.0,
        op: fault.op,
        dummy,
        not_before_ns: trigger.after_ns,
        nth: u64::from(trigger.nth),
        expire_ns: trigger.expire_ns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use xfi_model::{BitOp, Hex64, Trigger, VcpuId};

    fn fault() -> Fault {
        Fault {
            location: Location::HypercallRegister {
                hypercall: "iret".to_owned(),
                number: 23,
                address: Hex64(0xffff_82d0_402f_1c60),
                symbol: "do_iret+0x10".to_owned(),
                domain: None,
                register: Register::Rbx,
            },
            mask: Hex64(1 << 21),
            op: BitOp::Flip,
            trigger: Trigger {
                kind: TriggerKind::Address,
                after_ns: 10,
                nth: 3,
                expire_ns: Some(99),
                rip: None,
                mode: None,
            },
        }
    }

    fn check(f: &Fault, dummy: bool) -> Result<HypercallRequest> {
        check_against(f, dummy, Some(DomId(1)), |r| r.writable_bits())
    }

    #[test]
    fn the_request_is_the_fault() {
        let request = check(&fault(), false).unwrap();
        assert_eq!((request.hypercall, request.nth), (23, 3));
        assert_eq!(request.address, 0xffff_82d0_402f_1c60);
        assert_eq!(request.domid, Some(DomId(1)));
        assert_eq!(request.mask, 1 << 21);
    }

    #[test]
    fn what_could_never_fire_is_refused_with_the_value() {
        let with = |change: &dyn Fn(&mut Fault)| {
            let mut f = fault();
            change(&mut f);
            f
        };
        for (f, word) in [
            (with(&|f| f.trigger.nth = 0), "nth"),
            (with(&|f| f.trigger.expire_ns = Some(10)), "later than"),
            (with(&|f| f.trigger.kind = TriggerKind::Kick), "trigger"),
            (with(&|f| f.mask = Hex64(0)), "mask"),
            (
                with(&|f| {
                    f.location = Location::VcpuRegister {
                        domain: "web1".to_owned(),
                        vcpu: VcpuId(0),
                        register: Register::Rbx,
                    };
                }),
                "web1 rbx",
            ),
        ] {
            let e = check(&f, false).unwrap_err().to_string();
            assert!(e.contains(word), "{e}");
        }
        assert!(check(&with(&|f| f.mask = Hex64(0)), true).is_ok());
    }
}
