//! From arming to firing, by Xen's clock.

use crate::Figures;
use xfi_lab::{Shared, inject, vcpu_fault};
use xfi_model::{BitOp, InjectionState, Register, TriggerKind};

/// A vCPU that computes without end, beside another one; and one that sleeps,
/// which fires when its guest next has something to do.
static LOADS: [(&str, Shared, &str, usize); 2] = [
    ("busy", Shared::new("kat", "latency"), "kat-pv", 40),
    ("idle", Shared::new("http", "latency"), "web1", 20),
];

pub(crate) fn measure(figures: &mut Figures) {
    for (load, lab, guest, n) in &LOADS {
        for (name, kind) in [("kick", TriggerKind::Kick), ("switch", TriggerKind::Switch)] {
            let Some(mut lab) = lab.get() else { return };
            let took: Vec<u64> = (0..*n)
                .map(|_| {
                    let mut fault = vcpu_fault(guest, 0, Register::Rbx, 1, BitOp::Flip);
                    fault.trigger.kind = kind;
                    let record = inject(lab.agent(), fault, true);
                    assert_eq!(record.state, InjectionState::Fired, "{record:?}");
                    let flip = record.flip.expect("a flip");
                    flip.now_ns.saturating_sub(record.armed_now_ns)
                })
                .collect();
            figures.percentiles(&format!("arm_to_fire_ms_{name}_{load}"), &took, 1e6, "ms");
        }
    }
}
