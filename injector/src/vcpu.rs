//! Faults in a register of a guest's vCPU (thesis §3.2.2.2).

use crate::times::check_times;
use crate::{InjectError, Result};
use xfi_model::{Fault, GuestKind, Location, Register, TriggerKind};
use xfi_toolstack::{ArmRequest, HypervisorInfo, Target};

/// The domain a vCPU fault is meant for.
///
/// # Errors
/// [`InjectError::NotOfVcpu`] for a fault that is in no vCPU's register.
pub fn domain_of(fault: &Fault) -> Result<&str> {
    match &fault.location {
        Location::VcpuRegister { domain, .. } => Ok(domain),
        other => Err(InjectError::NotOfVcpu(other.to_string())),
    }
}

/// Checks a fault against the domain and against what this Xen can do, before
/// anything is armed.
///
/// # Errors
/// Names the offending value and the valid ones.
pub fn check(
    fault: &Fault,
    dummy: bool,
    target: &Target,
    info: &HypervisorInfo,
) -> Result<ArmRequest> {
    check_bits(fault, dummy, target, |kind, register| {
        info.bits(kind, register)
    })
}

fn check_bits(
    fault: &Fault,
    dummy: bool,
    target: &Target,
    armable: impl Fn(GuestKind, Register) -> u64,
) -> Result<ArmRequest> {
    let (vcpu, register) = match &fault.location {
        Location::VcpuRegister { vcpu, register, .. } => (vcpu, register),
        other => return Err(InjectError::NotOfVcpu(other.to_string())),
    };
    target.check_vcpu(*vcpu)?;
    let valid = armable(target.kind, *register);
    let refused = fault.mask.0 & !valid;
    if refused != 0 {
        return Err(InjectError::BitsNotArmable {
            register: *register,
            bits: refused,
            valid,
            kind: target.kind,
        });
    }
    if fault.mask.0 == 0 && !dummy {
        return Err(InjectError::EmptyMask);
    }
    let trigger = &fault.trigger;
    match trigger.kind {
        TriggerKind::Address => {
            return Err(InjectError::NotAvailable(
                "address trigger for a vCPU; valid: kick, switch",
            ));
        }
        TriggerKind::Deadline { unix_ns } => {
            return Err(InjectError::BadTrigger {
                what: "deadline",
                value: unix_ns,
                valid: "for a vCPU: kick or switch",
            });
        }
        TriggerKind::Kick | TriggerKind::Switch => {}
    }
    check_times(trigger)?;
    Ok(ArmRequest {
        domid: target.domid,
        vcpu: *vcpu,
        register: *register,
        mask: fault.mask.0,
        op: fault.op,
        dummy,
        trigger: trigger.kind,
        not_before_ns: trigger.after_ns,
        nth: trigger.nth,
        expire_ns: trigger.expire_ns,
        rip: trigger.rip,
        mode: trigger.mode,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use xfi_model::{BitOp, DomId, Hex64, Trigger, VcpuId};

    fn target() -> Target {
        Target {
            name: "web1".to_owned(),
            domid: DomId(1),
            kind: GuestKind::Pv,
            vcpus: 1,
        }
    }

    fn fault() -> Fault {
        Fault {
            location: Location::VcpuRegister {
                domain: "web1".to_owned(),
                vcpu: VcpuId(0),
                register: Register::Rbx,
            },
            mask: Hex64(1 << 21),
            op: BitOp::Flip,
            trigger: Trigger {
                kind: TriggerKind::Kick,
                after_ns: 10,
                nth: 1,
                expire_ns: None,
                rip: None,
                mode: None,
            },
        }
    }

    fn all_bits(_: GuestKind, register: Register) -> u64 {
        register.writable_bits()
    }

    #[test]
    fn faults_that_could_never_fire_are_refused_with_the_value() {
        let check = |f: &Fault, dummy| check_bits(f, dummy, &target(), all_bits);
        let with = |change: &dyn Fn(&mut Fault)| {
            let mut f = fault();
            change(&mut f);
            f
        };
        for (f, word) in [
            (with(&|f| f.trigger.nth = 0), "nth"),
            (
                with(&|f| f.trigger.expire_ns = Some(10)),
                "later than after_ns",
            ),
            (
                with(&|f| f.trigger.after_ns = u64::MAX),
                "18446744073709551615",
            ),
            (with(&|f| f.mask = Hex64(0)), "mask"),
            (
                with(&|f| {
                    f.location = Location::VcpuRegister {
                        domain: "web1".to_owned(),
                        vcpu: VcpuId(3),
                        register: Register::Rbx,
                    };
                }),
                "no vCPU 3",
            ),
            (
                with(&|f| {
                    f.location = Location::VcpuRegister {
                        domain: "web1".to_owned(),
                        vcpu: VcpuId(0),
                        register: Register::Cs,
                    };
                }),
                "bits 21 of cs",
            ),
        ] {
            let e = check(&f, false).unwrap_err().to_string();
            assert!(e.contains(word), "{e}");
        }
        assert!(check(&with(&|f| f.mask = Hex64(0)), true).is_ok());
    }
}
