//! Faults in tasks on the real, emulated Xen: in dom0 by its agent, in a PV and
//! a PVH guest by theirs, in user processes and in kernel threads.
//!
//! `XFI_LAB=long` flips every bit of the kernel threads'.

mod table;

use std::time::{Duration, Instant};
use xfi_lab::{PATIENCE, Shared, console, long, say};
use xfi_model::{
    BitOp, DOM0_NAME, Event, EventBody, Fault, Hex64, InjectionState, Location, RipRange,
    TaskMethod, TaskRecord, TaskRegister, TaskSelector, Trigger, TriggerKind,
};
use xfi_testbed::AgentLink;

const GUESTS: [&str; 2] = ["task-pv", "task-pvh"];

static LAB: Shared = Shared::new("task", "faults in tasks");

// ---- asking --------------------------------------------------------------------

fn role(role: &str) -> TaskSelector {
    TaskSelector::Role {
        role: role.to_owned(),
        pick: 0,
    }
}

fn process(name: &str) -> TaskSelector {
    TaskSelector::Process {
        task: name.into(),
        pick: 0,
    }
}

fn kthread(name: &str) -> TaskSelector {
    TaskSelector::Kthread {
        task: name.into(),
        pick: 0,
    }
}

fn fault(domain: &str, task: TaskSelector, register: &str, bit: u32) -> Fault {
    let register: TaskRegister = register.parse().unwrap();
    let (word, bit) = register.place(bit).unwrap();
    Fault {
        location: Location::Task {
            domain: domain.to_owned(),
            task,
            register,
            word,
        },
        mask: Hex64(1 << bit),
        op: BitOp::Flip,
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

fn try_inject(agent: &mut AgentLink, fault: &Fault, dummy: bool) -> Result<TaskRecord, String> {
    let events = agent
        .ask(xfi_lab::run_of(fault.clone(), dummy), 4 * PATIENCE)
        .unwrap_or_else(|e| panic!("{fault:?}: {e}"));
    for Event { body, .. } in events {
        match body {
            EventBody::Error { message, .. } => return Err(message),
            EventBody::TaskInjection { record } => return Ok(*record),
            _ => {}
        }
    }
    panic!("{fault:?}: no end")
}

fn inject(agent: &mut AgentLink, fault: &Fault) -> TaskRecord {
    let record = try_inject(agent, fault, false).unwrap_or_else(|e| panic!("{fault:?}: {e}"));
    assert_eq!(record.state, InjectionState::Fired, "{record:?}");
    record
}

/// What the guest's known-answer process said so far.
fn reports(agent: &mut AgentLink, guest: &str) -> Vec<String> {
    let lines = console(agent, guest);
    let reports = lines
        .iter()
        .filter_map(|l| l.split_once("xfi-task-kat: reg="));
    reports.map(|(_, r)| r.trim().to_owned()).collect()
}

fn wait_for_reports(agent: &mut AgentLink, guest: &str, count: usize) -> Vec<String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let seen = reports(agent, guest);
        if seen.len() >= count || Instant::now() >= end {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Where the known-answer process guards something.
fn range(agent: &mut AgentLink, guest: &str, name: &str) -> RipRange {
    let lines = console(agent, guest);
    lines
        .iter()
        .filter(|l| l.contains("xfi: task kat ready"))
        .find_map(|l| {
            l.split_whitespace()
                .find_map(|w| w.strip_prefix(name)?.parse().ok())
        })
        .expect("a ready line")
}

// ---- the tests -------------------------------------------------------------------

#[test]
fn each_process_of_the_pvm_is_found_by_its_role() {
    let Some(mut lab) = LAB.get() else { return };
    let agent = lab.agent();
    for (name, comm, by) in [
        ("oxenstored", "oxenstored", TaskMethod::Ptrace),
        ("xenconsoled", "xenconsoled", TaskMethod::Ptrace),
        ("xenwatchdogd", "xenwatchdogd", TaskMethod::Ptrace),
        ("qemu", "xen-qemu-system", TaskMethod::Ptrace),
        ("xenbus", "xenbus", TaskMethod::Module),
        ("xenwatch", "xenwatch", TaskMethod::Module),
    ] {
        let f = fault(DOM0_NAME, role(name), "r12", 40);
        let record = try_inject(agent, &f, true).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(record.state, InjectionState::Fired, "{record:?}");
        assert_eq!(
            (record.task.comm.as_str(), record.method),
            (comm, by),
            "{record:?}"
        );
        let flip = record.flip.expect("a flip");
        assert!(
            flip.changed.is_empty() && flip.before == flip.after,
            "{name}"
        );
        say(&format!(
            "dom0 {name:15} pid {:5} {comm:15} {by:?}, held {} us",
            record.task.pid,
            flip.held_ns / 1000
        ));
        // The same with the flip: what it does to the host is not asked here.
        let record = inject(agent, &f);
        let flip = record.flip.expect("a flip");
        let changed: Vec<_> = flip.changed.into_iter().collect();
        assert_eq!(changed, [("r12".parse().unwrap(), vec![40])], "{name}");
        // And back again, before it hurts: a sleeping task has not seen it.
        let back = try_inject(agent, &f, false);
        if let Ok(TaskRecord {
            flip: Some(back), ..
        }) = back
        {
            say(&format!("  and back: {:?}", back.changed));
        }
    }
}

#[test]
fn what_a_kernel_thread_does_not_have_is_refused() {
    let Some(mut lab) = LAB.get() else { return };
    let agent = lab.agent();
    for (fault, word) in [
        (
            fault(DOM0_NAME, kthread("xenwatch"), "rax", 1),
            "valid: rbx rbp r12",
        ),
        (
            fault(GUESTS[0], role("xenwatch"), "xmm3", 100),
            "valid: rbx rbp r12",
        ),
        (
            fault(GUESTS[1], process("kthreadd"), "rbx", 1),
            "no process 'kthreadd'",
        ),
        (
            fault(DOM0_NAME, process("2"), "rbx", 1),
            "choose it by --kthread",
        ),
        (fault(DOM0_NAME, process("1"), "rbx", 1), "is init"),
        (
            fault(GUESTS[0], role("qemu"), "rbx", 1),
            "no task with the role 'qemu'",
        ),
        (fault(GUESTS[0], process("httpd"), "rbx", 1), "there are:"),
        (
            fault(DOM0_NAME, role("xenbus-frontend"), "rbx", 1),
            "by xenwatch",
        ),
        (fault("nobody", process("1"), "rbx", 1), "nobody"),
    ] {
        let e = try_inject(agent, &fault, false).expect_err("a refusal");
        assert!(e.contains(word), "{e}");
        assert!(!e.contains('\n'), "{e}");
    }
}
