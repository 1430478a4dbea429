//! Guests with two vCPUs on the real, emulated Xen: a fault in one vCPU is seen
//! by the program that is pinned there, and by no other (`injector/kat`).

use std::time::{Duration, Instant};
use xfi_lab::{Lab, PATIENCE, console, inject, refusal, run_of, vcpu_fault};
use xfi_model::{AgentErrorCode, BitOp, InjectionState, Register, RipRange, VcpuId};
use xfi_testbed::Testbed as _;

/// The program's words behind `xfi-kat: `, without the values.
fn reports(lines: &[String]) -> Vec<String> {
    lines
        .iter()
        .filter_map(|l| l.split_once("xfi-kat: ").map(|(_, r)| r.trim().to_owned()))
        .collect()
}

#[test]
fn a_fault_in_one_vcpu_is_seen_there_and_nowhere_else() {
    let Some(mut lab) = Lab::start("kat-smp", "tests with two vCPUs") else {
        return;
    };
    let agent = lab.agent();
    for guest in ["smp-pv", "smp-pvh"] {
        let lines = console(agent, guest);
        let range: RipRange = lines
            .iter()
            .find_map(|l| l.split_whitespace().find_map(|w| w.strip_prefix("gpr=")))
            .expect("a ready line")
            .parse()
            .unwrap();
        let mut seen = reports(&lines);
        assert_eq!(seen, [""; 0], "{guest}: a report before the first fault");
        for (vcpu, register, mask, op) in [
            (1, Register::R12, 1 << 40, BitOp::Flip),
            (0, Register::Rbx, 1 << 3, BitOp::Flip),
            // Several bits at once, the ends among them.
            (1, Register::R8, 1 << 63 | 0b1011, BitOp::Flip),
            // Bits that are stuck.
            (1, Register::Rdi, 0xff00, BitOp::Set),
            (0, Register::Rsi, 0xff00, BitOp::Clear),
        ] {
            let what = format!("{guest} vCPU {vcpu} {register} {mask:#x} {op:?}");
            let mut f = vcpu_fault(guest, vcpu, register, mask, op);
            f.trigger.rip = Some(range);
            let record = inject(agent, f, false);
            assert_eq!(record.state, InjectionState::Fired, "{what}: {record:?}");
            assert_eq!(record.vcpu, VcpuId(vcpu), "{what}");
            let flip = record.flip.as_ref().unwrap();
            let (before, after) = (flip.before[&register].0, flip.after[&register].0);
            assert_eq!(after, op.apply(before, mask), "{what}");
            assert_eq!(
                record.changed_bits(),
                [(register, before ^ after)],
                "{what}"
            );
            let whose = if vcpu == 0 {
                String::new()
            } else {
                format!("cpu={vcpu} ")
            };
            seen.push(format!(
                "{whose}reg={register} expected={before:#018x} found={after:#018x} \
                 diff={:#018x}",
                before ^ after
            ));
            let end = Instant::now() + PATIENCE;
            while reports(&console(agent, guest)).len() < seen.len() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(reports(&console(agent, guest)), seen, "{what}");
        }
        // Nothing comes late, from either.
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(reports(&console(agent, guest)), seen, "{guest}");

        let absent = vcpu_fault(guest, 2, Register::Rbx, 1, BitOp::Flip);
        let (code, message) = refusal(agent, run_of(absent, false));
        assert_eq!(code, AgentErrorCode::NoSuchDomain);
        assert!(
            message.contains(guest) && message.contains("no vCPU 2; it has 2"),
            "{message}"
        );
    }
    lab.testbed.stop().unwrap();
}
