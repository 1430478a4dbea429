use super::*;
use crate::args::{Cli, Command};
use clap::Parser;
use xfi_model::{DomId, DomainState};

fn args(line: &str) -> Inject {
    let words = ["xfi", "inject"].into_iter().chain(line.split_whitespace());
    match Cli::try_parse_from(words)
        .unwrap_or_else(|e| panic!("{e}"))
        .command
    {
        Command::Inject(inject) => *inject,
        other => panic!("{other:?}"),
    }
}

fn hello() -> AgentHello {
    let domain = |id, name: &str, kind, vcpus| DomainInfo {
        name: name.to_owned(),
        domid: Some(DomId(id)),
        kind,
        state: DomainState::Running,
        vcpus,
        memory_kib: 131_072,
    };
    AgentHello {
        protocol: 1,
        version: "0".into(),
        hostname: "dom0".into(),
        kernel: "6".into(),
        xen_version: None,
        xen_build_id: Some("00ff".into()),
        opted_in: true,
        capabilities: None,
        domains: vec![
            domain(0, "Domain-0", None, 1),
            domain(1, "web1", Some(GuestKind::Pv), 1),
            domain(2, "inner", Some(GuestKind::Pvh), 2),
        ],
    }
}

fn symbols() -> Symbols {
    Symbols {
        xen: SymbolTable::parse("ffff82d040200000 T do_iret\nffff82d040200100 T next\n"),
        kernel: SymbolTable::parse("ffffffff81000000 T schedule\nffffffff81000080 T next\n"),
    }
}

fn fault(line: &str) -> Result<Fault> {
    let args = args(line);
    Request::check(&args)?.fault(Some("web1"), &hello(), &symbols())
}

#[track_caller]
fn refused(line: &str, says: &[&str]) {
    let e = fault(line).unwrap_err().to_string();
    assert_eq!(e.lines().count(), 1, "{e}");
    for word in says {
        assert!(e.contains(word), "{line}: no '{word}' in: {e}");
    }
}

#[test]
fn everything_asked_for_is_in_the_fault() {
    let line = "--domain inner --vcpu 1 --reg rax --mask 0x8000000000000003 --op set \
                --trigger switch --after 2s --nth 3 --expire 5s --rip do_iret --mode hypervisor";
    let f = fault(line).unwrap();
    assert_eq!(f.location.to_string(), "inner vCPU 1 rax");
    assert_eq!((f.mask.0, f.op), (1 << 63 | 3, BitOp::Set));
    let t = &f.trigger;
    assert_eq!((t.kind, t.nth), (TriggerKind::Switch, 3));
    assert_eq!(
        (t.after_ns, t.expire_ns),
        (2_000_000_000, Some(5_000_000_000))
    );
    let range = t.rip.unwrap().to_string();
    assert_eq!(range, "0xffff82d040200000..0xffff82d040200100");
    assert_eq!(t.mode, Some(ModeFilter::Hypervisor));
}

#[test]
fn what_is_not_asked_for_has_its_default() {
    let f = fault("--reg rbx --bit 21").unwrap();
    assert_eq!(f.location.to_string(), "web1 rbx");
    assert_eq!((f.mask.0, f.op), (1 << 21, BitOp::Flip));
    let t = &f.trigger;
    assert_eq!((t.kind, t.nth, t.after_ns), (TriggerKind::Kick, 1, 0));
    assert_eq!((t.rip, t.mode), (None, None));
    // Ten seconds from the moment on, not from arming.
    let f = fault("--reg rbx --bit 21 --after 10s").unwrap();
    assert_eq!(f.trigger.expire_ns, Some(20_000_000_000));
    let f = fault("--reg rbx --bit 21 --after 24h --expire 24h");
    assert!(f.unwrap_err().to_string().contains("never fire"));
}

#[test]
fn a_symbols_domain_is_the_faults_domain() {
    let f = fault("--reg rbx --bit 1 --rip inner:schedule+0x10..+0x40").unwrap();
    assert_eq!(f.location.domain(), Some("inner"));
    let range = f.trigger.rip.unwrap().to_string();
    assert_eq!(range, "0xffffffff81000010..0xffffffff81000040");
    refused(
        "--domain web1 --reg rbx --bit 1 --rip inner:schedule",
        &["--rip", "'inner:schedule' is in inner", "web1"],
    );
    refused(
        "--reg rbx --bit 1 --rip nosuch:schedule",
        &["--rip: no guest 'nosuch'", "web1 inner"],
    );
}

#[test]
fn a_vcpu_that_the_domain_does_not_have_is_named_with_those_it_has() {
    refused(
        "--reg rbx --bit 1 --vcpu 1",
        &["--vcpu", "web1 has no vCPU 1", "valid: 0"],
    );
    refused(
        "--domain inner --reg rbx --bit 1 --vcpu 2",
        &["inner has no vCPU 2", "valid: 0 to 1"],
    );
}

#[test]
fn bits_that_this_kind_of_guest_cannot_have_changed_are_named() {
    refused(
        "--reg rflags --bit 9",
        &[
            "--bit: 9 of rflags",
            "PV guest",
            "valid: 0, 2, 4, 6-8, 10-11, 14",
        ],
    );
    refused(
        "--reg rflags --mask 0x3200",
        &["--mask: 9, 12-13 of rflags", "PV guest"],
    );
    assert!(fault("--domain inner --reg rflags --mask 0x3200").is_ok());
}

#[test]
fn a_place_no_vcpu_is_ever_in_is_refused_with_the_reason() {
    refused(
        "--reg rbx --bit 1 --rip do_iret",
        &["could never match", "DOMAIN:do_iret", "--hypercall"],
    );
    refused("--reg rbx --bit 1 --rip xen", &["PV guest", "hypervisor"]);
    refused(
        "--reg rbx --bit 1 --mode hypervisor",
        &["--mode: web1 is a PV guest", "user"],
    );
    refused(
        "--domain inner --reg rbx --bit 1 --rip user --mode kernel",
        &["mode user besides mode kernel"],
    );
    assert!(fault("--domain inner --reg rbx --bit 1 --rip xen").is_ok());
}

#[test]
fn a_hypercalls_options_and_a_vcpus_do_not_mix() {
    for line in [
        "--hypercall iret --reg rbx --bit 1",
        "--at 5 --reg rbx --bit 1",
        "--hypercall iret --at 5 --reg rbx --bit 1 --vcpu 0",
        "--hypercall iret --at 5 --reg rbx --bit 1 --trigger kick",
        "--hypercall iret --at 5 --reg rbx --bit 1 --rip user",
        "--hypercall iret --at 5 --reg rbx --bit 1 --mode user",
        "--reg rbx",
        "--reg rbx --bit 1 --mask 0x2",
    ] {
        let words = ["xfi", "inject"].into_iter().chain(line.split_whitespace());
        assert!(Cli::try_parse_from(words).is_err(), "{line}");
    }
}
