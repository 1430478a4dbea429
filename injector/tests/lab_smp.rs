//! Guests with two vCPUs on the real, emulated Xen: a fault in one vCPU is seen
//! by the program that is pinned there, and by no other (`injector/kat`).
//!
//! Skipped, with the reason, where QEMU or the artefacts are missing; never
//! where `CI` is set.

use std::time::{Duration, Instant};
use xfi_model::{
    AgentErrorCode, AgentRun, BitOp, Command, Event, EventBody, Fault, Hex64, InjectionRecord,
    InjectionState, Location, Register, RipRange, SnapshotIndex, Trigger, TriggerKind, VcpuId,
};
use xfi_testbed::{
    AgentLink, Artifacts, EmulatedTestbed, Evidence, SnapshotSet, Testbed, TestbedError,
    find_layout,
};

/// Emulation is slow when the machine is busy.
const PATIENCE: Duration = Duration::from_secs(60);

fn testbed() -> Option<EmulatedTestbed> {
    let layout = find_layout("kat-smp").expect("layouts/kat-smp.toml");
    let made = Artifacts::find()
        .and_then(|artifacts| SnapshotSet::prepare(&artifacts, &layout, 1, &mut |_| {}))
        .and_then(|set| EmulatedTestbed::new(&set, 0));
    match made {
        Ok(testbed) => Some(testbed),
        Err(
            e @ (TestbedError::NoArtifactRoot
            | TestbedError::NotBuilt { .. }
            | TestbedError::MissingProgram { .. }),
        ) if std::env::var_os("CI").is_none() => {
            println!("SKIPPED: tests with two vCPUs: {e}");
            None
        }
        Err(e) => panic!("the testbed: {e}"),
    }
}

fn fault(guest: &str, vcpu: u32, register: Register, mask: u64, op: BitOp) -> Fault {
    Fault {
        location: Location::VcpuRegister {
            domain: guest.to_owned(),
            vcpu: VcpuId(vcpu),
            register,
        },
        mask: Hex64(mask),
        op,
        trigger: Trigger {
            kind: TriggerKind::Kick,
            after_ns: 0,
            nth: 1,
            expire_ns: Some(PATIENCE.as_nanos() as u64),
            rip: None,
            mode: None,
        },
    }
}

fn run(agent: &mut AgentLink, fault: Fault) -> Vec<Event> {
    let command = Command::Run(AgentRun {
        fault: Some(fault),
        dummy: false,
        poll_ms: 5,
        observe_ms: None,
        final_checks: false,
    });
    agent.ask(command, 2 * PATIENCE).expect("an answer")
}

fn inject(agent: &mut AgentLink, fault: Fault) -> InjectionRecord {
    run(agent, fault.clone())
        .into_iter()
        .find_map(|event| match event.body {
            EventBody::Injection { record, .. } => Some(record),
            EventBody::Error { message, .. } => panic!("{fault:?}: {message}"),
            _ => None,
        })
        .expect("an injection's end")
}

fn console(agent: &mut AgentLink, guest: &str) -> Vec<String> {
    let command = Command::GuestConsole {
        domain: guest.to_owned(),
        lines: 10_000,
    };
    match agent.ask(command, PATIENCE).unwrap().pop().unwrap().body {
        EventBody::GuestConsole { lines } => lines,
        other => panic!("{other:?}"),
    }
}

/// The program's words behind `xfi-kat: `, without the values.
fn reports(lines: &[String]) -> Vec<String> {
    lines
        .iter()
        .filter_map(|l| l.split_once("xfi-kat: ").map(|(_, r)| r.trim().to_owned()))
        .collect()
}

#[test]
fn a_fault_in_one_vcpu_is_seen_there_and_nowhere_else() {
    let Some(mut testbed) = testbed() else { return };
    let evidence = tempfile::tempdir().unwrap();
    let evidence = Evidence {
        dir: evidence.path().to_owned(),
    };
    testbed.reset(SnapshotIndex(0), &evidence).unwrap();
    let agent = testbed.agent().unwrap();
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
            let mut f = fault(guest, vcpu, register, mask, op);
            f.trigger.rip = Some(range);
            let record = inject(agent, f);
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

        let refused = run(agent, fault(guest, 2, Register::Rbx, 1, BitOp::Flip));
        let Some(EventBody::Error { code, message }) = refused.last().map(|e| &e.body) else {
            panic!("{refused:?}")
        };
        assert_eq!(*code, AgentErrorCode::NoSuchDomain);
        assert!(
            message.contains(guest) && message.contains("no vCPU 2; it has 2"),
            "{message}"
        );
    }
    testbed.stop().unwrap();
}
