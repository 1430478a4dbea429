use super::*;
use crate::args::{Cli, Command};
use clap::Parser;
use xfi_model::{BitOp, DomId, DomainInfo, DomainState, GuestKind, MemoryFlip, Moment};

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
    let domain = |id, name: &str| DomainInfo {
        name: name.to_owned(),
        domid: Some(DomId(id)),
        kind: Some(GuestKind::Pv),
        state: DomainState::Running,
        vcpus: 1,
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
        domains: vec![domain(0, "Domain-0"), domain(1, "web1")],
    }
}

/// The word and its bits.
fn place(line: &str) -> Result<(Location, u64)> {
    let args = args(line);
    let asked = args.memory.asked()?.expect("a place");
    let bits = Bits::check(&args)?;
    let (location, _) = asked.locate(&hello(), None)?;
    let Location::GuestMemory { size, .. } = location else {
        panic!("{location}");
    };
    Ok((location, bits.mask(size)?))
}

#[track_caller]
fn refused(line: &str, says: &[&str]) {
    let e = place(line).unwrap_err().to_string();
    assert_eq!(e.lines().count(), 1, "{e}");
    for word in says {
        assert!(e.contains(word), "{line}: no '{word}' in: {e}");
    }
}

#[test]
fn a_word_is_as_wide_as_its_address_allows() {
    for (text, name, at, bytes) in [
        ("web1:0x1000", "web1", 0x1000, 8),
        ("web1:0x100c", "web1", 0x100c, 4),
        ("web1:4098", "web1", 4098, 2),
        ("dom0:0x1001", DOM0_NAME, 0x1001, 1),
        ("web1:0", "web1", 0, 8),
    ] {
        let (location, mask) = place(&format!("--guest-memory {text} --bit 7")).unwrap();
        let wanted = Location::GuestMemory {
            domain: name.to_owned(),
            address: Hex64(at),
            size: bytes,
        };
        assert_eq!((location, mask), (wanted, 1 << 7), "{text}");
    }
    let (location, mask) = place("--guest-memory web1:0x8 --size 1 --mask 0x81").unwrap();
    assert!(matches!(location, Location::GuestMemory { size: 1, .. }));
    assert_eq!(mask, 0x81);
}

#[test]
fn words_and_bits_that_are_not_there_are_named_with_those_that_are() {
    refused(
        "--guest-memory web1:0x1004 --size 8 --bit 0",
        &["--size: 0x1004 is no multiple of 8", "valid there: 1 2 4"],
    );
    refused(
        "--guest-memory web1:0x1004 --bit 32",
        &["--bit: 32", "4-byte", "0 to 31"],
    );
    refused(
        "--guest-memory web1:0x1001 --mask 0x100",
        &["--mask: 8 of 0x100", "0 to 7"],
    );
    refused("--guest-memory web1:0x1000 --bit 64", &["'64'", "0 to 63"]);
    refused("--guest-memory web1:0x1000 --mask 0", &["changes nothing"]);
    refused(
        "--guest-memory nosuch:0x1000 --bit 0",
        &["no domain 'nosuch'", "Domain-0 web1"],
    );
}

#[test]
fn symbols_of_a_xen_without_the_hypercall_are_not_asked_for() {
    let args = args("--xen-memory do_iret --bit 1");
    let asked = args.memory.asked().unwrap().unwrap();
    let e = asked.locate(&hello(), None).unwrap_err().to_string();
    assert!(e.contains("no xfi hypercall"), "{e}");
}

#[test]
fn memorys_options_and_a_registers_do_not_mix() {
    for line in [
        "--xen-memory do_iret",
        "--size 4 --reg rbx --bit 1",
        "--xen-memory 0x0 --guest-memory web1:0 --bit 1",
        "--xen-memory 0x0 --bit 1 --mask 0x1",
        "--xen-memory 0x0 --bit 1 --reg rbx",
        "--xen-memory 0x0 --bit 1 --domain web1",
        "--xen-memory 0x0 --bit 1 --vcpu 0",
        "--xen-memory 0x0 --bit 1 --trigger kick",
        "--xen-memory 0x0 --bit 1 --rip user",
        "--xen-memory 0x0 --bit 1 --mode user",
        "--xen-memory 0x0 --bit 1 --nth 1",
        "--xen-memory 0x0 --bit 1 --expire 1s",
        "--xen-memory 0x0 --bit 1 --hypercall iret --at 1",
        "--xen-memory 0x0 --bit 1 --role qemu",
        "--guest-memory web1:0 --bit 1 --kthread xenbus",
    ] {
        let words = ["xfi", "inject"].into_iter().chain(line.split_whitespace());
        assert!(Cli::try_parse_from(words).is_err(), "{line}");
    }
}

fn record(before: u64, after: u64, op: BitOp) -> MemoryRecord {
    let at = Moment {
        monotonic_ns: 1,
        realtime_ns: 1_000_000_000,
    };
    MemoryRecord {
        state: InjectionState::Fired,
        dummy: false,
        location: Location::XenMemory {
            address: Hex64(0xffff_82d0_4020_0004),
            symbol: Some("jiffies+0x4".to_owned()),
            size: 4,
        },
        mask: Hex64(0x20_0000),
        op,
        armed: at,
        flip: Some(MemoryFlip {
            at,
            before: Hex64(before),
            after: Hex64(after),
            machine_address: Some(Hex64(0x5004)),
            now_ns: Some(7),
            tsc: Some(Hex64(9)),
        }),
    }
}

#[test]
fn what_is_printed_says_which_bits_changed() {
    let r = record(0x10, 0x20_0010, BitOp::Flip);
    let view = MemoryView::of(&r);
    assert_eq!(view.changed, [21]);
    assert_eq!(view.before.as_deref(), Some("0x00000010"));
    let printed = text(&r, &view);
    for word in [
        "Xen's memory at 0xffff82d040200004 (jiffies+0x4)",
        "machine address 0x0000000000005004",
        "after    0x00200010",
        "exactly bit 21",
        "1970-01-01T00:00:01",
    ] {
        assert!(printed.contains(word), "no '{word}' in:\n{printed}");
    }
    for (after, op, says) in [
        (0x20_0010, BitOp::Set, "nothing: the bits were so already"),
        (0x20_0010, BitOp::Flip, "changed  nothing\n"),
        (0x00_0011, BitOp::Flip, "changed  bits 0, 21\n"),
    ] {
        let r = record(0x20_0010, after, op);
        let printed = text(&r, &MemoryView::of(&r));
        assert!(printed.contains(says), "no '{says}' in:\n{printed}");
    }
}

#[test]
fn the_committed_schema_is_the_one_of_the_code() {
    output::check_schema("inject-memory", &schemars::schema_for!(MemoryView));
}
