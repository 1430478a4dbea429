//! Known-answer tests on the real, emulated Xen: guests that hold known values
//! in their registers say which bit of which changed (`injector/kat`).
//!
//! `XFI_LAB=long` flips every bit of every register.

use std::fmt::Write as _;
use std::time::{Duration, Instant};
use xfi_lab::{PATIENCE, Shared, ask, console, inject, next, refusal, run_of, say};
use xfi_model::{
    AgentRun, BitOp, Command, DomainState, EventBody, Fault, Hex64, InjectionRecord,
    InjectionState, ModeFilter, Register, RipRange, TriggerKind,
};
use xfi_testbed::AgentLink;

static LAB: Shared = Shared::new("kat", "known-answer tests");

const GUESTS: [(&str, &str); 2] = [("kat-pv", "PV"), ("kat-pvh", "PVH")];

/// All that the guest's program can hold: not rip, and rsp as an extra.
const REGISTERS: [Register; 16] = [
    Register::Rax,
    Register::Rbx,
    Register::Rcx,
    Register::Rdx,
    Register::Rsi,
    Register::Rdi,
    Register::Rbp,
    Register::Rsp,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

const FLAGS: [(&str, u32); 7] = [
    ("CF", 0),
    ("PF", 2),
    ("AF", 4),
    ("ZF", 6),
    ("SF", 7),
    ("DF", 10),
    ("OF", 11),
];

/// Set by the processor itself on the way through Xen; the guest cannot see it.
const RESUME_FLAG: u64 = 1 << 16;

// ---- asking ----------------------------------------------------------------

fn fault(guest: &str, register: Register, bit: u32) -> Fault {
    xfi_lab::vcpu_fault(guest, 0, register, 1 << bit, BitOp::Flip)
}

fn armed(agent: &mut AgentLink) -> Vec<InjectionRecord> {
    let events = ask(agent, Command::Status);
    let Some(EventBody::Injections { records, .. }) = events.into_iter().next().map(|e| e.body)
    else {
        panic!("no records");
    };
    records
        .into_iter()
        .filter(|r| r.state == InjectionState::Armed)
        .collect()
}

// ---- the guest's words -----------------------------------------------------

#[derive(Debug, Clone, PartialEq, Eq)]
struct Report {
    register: String,
    expected: u64,
    found: u64,
    diff: u64,
}

fn reports(lines: &[String]) -> Vec<Report> {
    lines
        .iter()
        .filter_map(|line| {
            let rest = line.split_once("xfi-kat: reg=")?.1;
            let mut words = rest.split_whitespace();
            let register = words.next()?.to_owned();
            let mut value = |name: &str| {
                let text = words.next()?.strip_prefix(name)?;
                text.parse::<Hex64>().ok().map(|h| h.0)
            };
            Some(Report {
                register,
                expected: value("expected=")?,
                found: value("found=")?,
                diff: value("diff=")?,
            })
        })
        .collect()
}

/// Where a flip is seen for certain: of general registers, of the flags.
fn ranges(lines: &[String]) -> (RipRange, RipRange) {
    let ready = lines
        .iter()
        .find(|l| l.contains("xfi: kat ready"))
        .expect("a ready line");
    let range = |name: &str| {
        ready
            .split_whitespace()
            .find_map(|word| word.strip_prefix(name)?.parse::<RipRange>().ok())
            .expect("a range")
    };
    (range("gpr="), range("flags="))
}

fn wait_for_reports(agent: &mut AgentLink, guest: &str, count: usize) -> Vec<Report> {
    let end = Instant::now() + PATIENCE;
    loop {
        let seen = reports(&console(agent, guest));
        if seen.len() >= count || Instant::now() >= end {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Long enough for the guest to go round its loops, twice.
fn settle(agent: &mut AgentLink, guest: &str) -> Vec<Report> {
    std::thread::sleep(Duration::from_millis(1500));
    reports(&console(agent, guest))
}

/// Flips one bit and compares what Xen recorded and what the guest saw.
/// `None` when both agree that exactly this bit changed.
fn flip_and_compare(
    agent: &mut AgentLink,
    guest: &str,
    register: Register,
    bit: u32,
    range: RipRange,
    seen_before: usize,
) -> Option<String> {
    let mut fault = fault(guest, register, bit);
    fault.trigger.rip = Some(range);
    let record = inject(agent, fault, false);
    if record.state != InjectionState::Fired {
        return Some(format!("it ended {:?}: {record:?}", record.state));
    }
    if record.changed_bits() != [(register, 1 << bit)] {
        return Some(format!(
            "Xen's record: changed {:x?}",
            record.changed_bits()
        ));
    }
    let flip = record.flip.as_ref()?;
    let value = |file: &xfi_model::RegisterFile| file.get(&register).map_or(0, |h| h.0);
    let hidden = if register == Register::Rflags {
        RESUME_FLAG
    } else {
        0
    };
    if !range.contains(flip.before.get(&Register::Rip).map_or(0, |h| h.0)) {
        return Some(format!("it fired outside {range}"));
    }
    let seen = wait_for_reports(agent, guest, seen_before + 1);
    let expected = Report {
        register: register.name().to_owned(),
        expected: value(&flip.before) & !hidden,
        found: value(&flip.after) & !hidden,
        diff: 1 << bit,
    };
    let new = &seen[seen_before.min(seen.len())..];
    (new != [expected.clone()])
        .then(|| format!("the guest should have said {expected:x?}, it said {new:x?}"))
}

// ---- the tests ---------------------------------------------------------------

#[test]
fn exactly_the_flipped_bit_is_seen_by_the_guest_in_every_register() {
    let Some(mut lab) = LAB.get() else { return };
    let agent = lab.agent();
    let mut table = String::from(
        "guest mode  register  bits          flipped exactly once  others untouched\n",
    );
    let mut failures = Vec::new();
    for (guest, mode) in GUESTS {
        let lines = console(agent, guest);
        let (gpr, flags) = ranges(&lines);
        let mut seen = reports(&lines).len();
        assert_eq!(seen, 0, "the guest saw a fault before the first");
        let mut row = |agent: &mut AgentLink, name: &str, register, bits: &[u32], range| {
            let mut wrong = 0;
            for bit in bits {
                match flip_and_compare(agent, guest, register, *bit, range, seen) {
                    None => seen += 1,
                    Some(why) => {
                        wrong += 1;
                        failures.push(format!("{mode} {name} bit {bit}: {why}"));
                        seen = settle(agent, guest).len();
                    }
                }
            }
            let shown = match bits {
                [bit] => bit.to_string(),
                [first, .., last] if bits.len() > 8 => format!("{first}..{last}"),
                _ => bits
                    .iter()
                    .map(u32::to_string)
                    .collect::<Vec<_>>()
                    .join(","),
            };
            let word = if wrong == 0 { "yes" } else { "NO" };
            let _ = writeln!(table, "{mode:<11} {name:<9} {shown:<13} {word:<21} {word}");
        };
        for (i, register) in REGISTERS.into_iter().enumerate() {
            let i = i as u32;
            // One low, one high, all bits covered by some register.
            let bits: Vec<u32> = if xfi_lab::long() {
                (0..64).collect()
            } else {
                vec![2 * i, 63 - 2 * i]
            };
            row(agent, register.name(), register, &bits, gpr);
        }
        for (name, bit) in FLAGS {
            row(agent, name, Register::Rflags, &[bit], flags);
        }
        // Nothing came late, and nothing came twice.
        let after = settle(agent, guest).len();
        if after != seen {
            failures.push(format!("{mode}: {} reports more than flips", after - seen));
        }
    }
    say(&table);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_range_that_does_not_match_changes_nothing() {
    let Some(mut lab) = LAB.get() else { return };
    let agent = lab.agent();
    for (guest, mode) in GUESTS {
        let mut f = fault(guest, Register::R12, 40);
        f.trigger.rip = Some(RipRange::new(0x10, 0x20).unwrap());
        f.trigger.expire_ns = Some(1_000_000_000);
        let record = inject(agent, f, false);
        assert_eq!(record.state, InjectionState::Expired, "{mode}");
        assert!(
            record.events_seen > 0,
            "{mode}: the vCPU was never looked at: {record:?}"
        );
        assert_eq!(record.events_matched, 0, "{mode}");
        assert_eq!(record.flip, None, "{mode}");
        assert_eq!(settle(agent, guest), [], "{mode}");
        assert_eq!(armed(agent), [], "{mode}");
    }
}

#[test]
fn a_dummy_does_everything_but_the_flip() {
    let Some(mut lab) = LAB.get() else { return };
    let agent = lab.agent();
    for (guest, mode) in GUESTS {
        let mut f = fault(guest, Register::Rbx, 21);
        f.trigger.rip = Some(ranges(&console(agent, guest)).0);
        let record = inject(agent, f, true);
        assert_eq!(
            (record.state, record.dummy),
            (InjectionState::Fired, true),
            "{mode}"
        );
        assert_eq!(record.changed_bits(), [], "{mode}");
        assert_eq!(settle(agent, guest), [], "{mode}");
    }
}

#[test]
fn both_triggers_and_both_mode_filters_fire() {
    let Some(mut lab) = LAB.get() else { return };
    let agent = lab.agent();
    for (guest, mode) in GUESTS {
        for kind in [TriggerKind::Kick, TriggerKind::Switch] {
            for (filter, expected) in [
                (ModeFilter::User, xfi_model::GuestMode::User),
                (ModeFilter::Kernel, xfi_model::GuestMode::Kernel),
            ] {
                let mut f = fault(guest, Register::Rbx, 21);
                f.trigger.kind = kind;
                f.trigger.mode = Some(filter);
                // A kernel does not survive every flip: nothing is changed.
                let record = inject(agent, f, true);
                assert_eq!(
                    record.state,
                    InjectionState::Fired,
                    "{mode} {kind:?} {filter:?}"
                );
                let flip = record.flip.unwrap();
                assert_eq!(flip.guest_mode, expected, "{mode} {kind:?}");
            }
        }
    }
}

#[test]
fn an_unprivileged_guests_call_is_refused() {
    let Some(mut lab) = LAB.get() else { return };
    let agent = lab.agent();
    for (guest, mode) in GUESTS {
        let lines = console(agent, guest);
        let said = |what: &str| lines.iter().find(|l| l.contains(what));
        // Without this one, the guest's own kernel may have refused the rest.
        let control = said("hypercall control xen_version ret=0x")
            .unwrap_or_else(|| panic!("{mode}: no hypercall reaches Xen: {lines:?}"));
        assert!(control.contains("0x0004"), "{mode}: {control}");
        // 0 to 5 are the operations, 6 is none.
        for op in 0..=6 {
            let line = said(&format!("hypercall op={op} "))
                .unwrap_or_else(|| panic!("{mode}: op {op} was not tried: {lines:?}"));
            assert!(line.ends_with("ret=-1 (EPERM)"), "{mode}: {line}");
        }
    }
}

#[test]
fn a_run_ends_with_the_hosts_integrity_its_domains_and_xens_console() {
    let Some(mut lab) = LAB.get() else { return };
    let agent = lab.agent();
    let start = Instant::now();
    let events = ask(
        agent,
        Command::Run(AgentRun {
            fault: Some(fault("kat-pv", Register::Rbx, 21)),
            dummy: true,
            poll_ms: 10,
            observe_ms: Some(500),
            final_checks: true,
        }),
    );
    assert!(
        start.elapsed() >= Duration::from_millis(400),
        "{:?}",
        start.elapsed()
    );
    let at = |wanted: fn(&EventBody) -> bool| {
        events
            .iter()
            .find(|e| wanted(&e.body))
            .map(|e| e.at_ns)
            .expect("an event")
    };
    let flip = at(|e| matches!(e, EventBody::Injection { .. }));
    let (checks, done) = (
        at(|e| matches!(e, EventBody::Integrity(_))),
        at(|e| matches!(e, EventBody::Done)),
    );
    let mut took = 0;
    for event in &events {
        match &event.body {
            EventBody::Integrity(result) => {
                assert!(result.passed(), "{result:?}");
                took = result.took_ns;
            }
            EventBody::Domains { domains } => {
                let names: Vec<_> = domains.iter().map(|d| d.name.as_str()).collect();
                assert_eq!(names, ["Domain-0", "kat-pv", "kat-pvh"]);
                assert!(
                    domains.iter().all(|d| d.state == DomainState::Running),
                    "{domains:?}"
                );
            }
            _ => {}
        }
    }
    at(|e| matches!(e, EventBody::Domains { .. }));
    at(|e| matches!(e, EventBody::XenConsole { .. }));
    say(&format!(
        "final checks: integrity {} ms, the rest {} ms; {} ms from flip to the first check",
        took / 1_000_000,
        (done - checks) / 1_000_000,
        (checks - took).saturating_sub(flip) / 1_000_000,
    ));
}

#[test]
fn cancelling_a_run_disarms() {
    let Some(mut lab) = LAB.get() else { return };
    let agent = lab.agent();
    let mut f = fault("kat-pv", Register::R12, 40);
    f.trigger.rip = Some(RipRange::new(0x10, 0x20).unwrap());
    let run = agent.send(run_of(f, false)).unwrap();
    next(agent, run, |e| matches!(e, EventBody::Armed { .. }));
    assert_eq!(armed(agent).len(), 1);
    ask(agent, Command::Cancel);
    let end = next(agent, run, |e| matches!(e, EventBody::Injection { .. }));
    let EventBody::Injection { record, .. } = end else {
        unreachable!()
    };
    assert_eq!(record.state, InjectionState::Disarmed);
    assert_eq!(armed(agent), []);
}

#[test]
fn a_domain_destroyed_while_armed_leaks_nothing() {
    let Some(mut lab) = LAB.get() else { return };
    let agent = lab.agent();
    for (guest, mode) in GUESTS {
        let mut f = fault(guest, Register::R12, 40);
        f.trigger.rip = Some(RipRange::new(0x10, 0x20).unwrap());
        f.trigger.expire_ns = None;
        let run = agent.send(run_of(f, false)).unwrap();
        next(agent, run, |e| matches!(e, EventBody::Armed { .. }));
        ask(
            agent,
            Command::DestroyDomain {
                domain: guest.to_owned(),
            },
        );
        let end = next(agent, run, |e| matches!(e, EventBody::Injection { .. }));
        let EventBody::Injection { record, .. } = end else {
            unreachable!()
        };
        assert_eq!(record.state, InjectionState::TargetGone, "{mode}");
        next(agent, run, |e| matches!(e, EventBody::Done));

        let Some(EventBody::Domains { domains }) =
            ask(agent, Command::Domains).pop().map(|e| e.body)
        else {
            panic!("no domains");
        };
        assert!(
            domains.iter().all(|d| d.name != guest || d.domid.is_none()),
            "{mode}: still there: {domains:?}"
        );
        assert!(
            domains.iter().all(|d| d.state != DomainState::Dying),
            "{mode}: a zombie: {domains:?}"
        );
        assert_eq!(armed(agent), [], "{mode}");
        assert_eq!(
            ask(agent, Command::Disarm { id: None })[0].body,
            EventBody::Disarmed { count: 0 }
        );
        // A name that is gone is answered with those there are.
        let (_, message) = refusal(agent, run_of(fault(guest, Register::Rbx, 1), false));
        assert!(
            message.contains(guest) && message.contains("Domain-0"),
            "{message}"
        );
    }
}
