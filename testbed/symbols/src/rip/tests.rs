use super::*;
use crate::Symbol;
use proptest::prelude::*;

fn table(symbols: &[(&str, u64, u64)]) -> SymbolTable {
    SymbolTable::from_symbols(symbols.iter().map(|(name, address, size)| Symbol {
        address: *address,
        name: (*name).to_owned(),
        size: Some(*size),
        code: true,
    }))
}

const IRET: u64 = 0xffff_82d0_402f_1860;
const SCHEDULE: u64 = 0xffff_ffff_8100_1000;

fn symbols() -> Symbols {
    Symbols {
        xen: table(&[
            ("do_iret", IRET, 0x170),
            ("do_iret.cold", IRET - 0x1000, 0x4c),
        ]),
        kernel: table(&[
            ("schedule", SCHEDULE, 0x80),
            ("schedule_idle", SCHEDULE + 0x80, 0x20),
            ("far", SCHEDULE + 0x1000, 0x20),
        ]),
    }
}

fn resolve(text: &str, kind: GuestKind) -> Result<RipFilter, SymbolsError> {
    text.parse::<RipExpr>()?.resolve(&symbols(), kind)
}

fn range(text: &str, kind: GuestKind) -> (u64, u64) {
    let filter = resolve(text, kind).unwrap();
    assert_eq!(filter.mode, None, "{text}");
    let range = filter.range.unwrap();
    (range.start(), range.end())
}

#[track_caller]
fn error(text: &str, kind: GuestKind) -> String {
    let e = resolve(text, kind).unwrap_err().to_string();
    assert!(!e.contains('\n'), "{e}");
    e
}

#[test]
fn every_form_gives_the_half_open_range_it_says() {
    for (text, expected) in [
        ("0x10..0x20", (0x10, 0x20)),
        ("16..0x2_0", (0x10, 0x20)),
        ("web1:schedule", (SCHEDULE, SCHEDULE + 0x80)),
        ("web1:schedule+0x10", (SCHEDULE + 0x10, SCHEDULE + 0x11)),
        (
            "web1:schedule+0x10..+0x40",
            (SCHEDULE + 0x10, SCHEDULE + 0x40),
        ),
        ("web1:schedule..+0x80", (SCHEDULE, SCHEDULE + 0x80)),
        ("web1:schedule..far", (SCHEDULE, SCHEDULE + 0x1000)),
        ("web1:schedule..web1:far+4", (SCHEDULE, SCHEDULE + 0x1004)),
        // What touches is one range.
        (
            "web1:schedule,web1:schedule_idle",
            (SCHEDULE, SCHEDULE + 0xa0),
        ),
        ("0x18..0x20, 0x10..0x19", (0x10, 0x20)),
    ] {
        assert_eq!(range(text, GuestKind::Pv), expected, "{text}");
    }
    assert_eq!(range("do_iret", GuestKind::Pvh), (IRET, IRET + 0x170));
    assert_eq!(
        range("do_iret.cold+0x39", GuestKind::Hvm).0,
        IRET - 0x1000 + 0x39
    );
}

#[test]
fn modes_are_filters_of_their_own() {
    for (text, mode) in [
        ("user", ModeFilter::User),
        ("kernel", ModeFilter::Kernel),
        ("xen", ModeFilter::Hypervisor),
        ("user,user", ModeFilter::User),
    ] {
        let filter = resolve(text, GuestKind::Pvh).unwrap();
        assert_eq!((filter.mode, filter.range), (Some(mode), None), "{text}");
    }
    let both = RipFilter {
        range: None,
        mode: Some(ModeFilter::User),
    };
    assert_eq!(both.and_mode(None).unwrap(), both);
    assert_eq!(both.and_mode(Some(ModeFilter::User)).unwrap(), both);
    let e = both
        .and_mode(Some(ModeFilter::Kernel))
        .unwrap_err()
        .to_string();
    assert!(e.contains("mode user besides mode kernel"), "{e}");
}

#[test]
fn what_cannot_be_parsed_is_named_with_what_can() {
    for (text, why) in [
        ("", "is empty"),
        ("0x10", "has no '..'"),
        ("0x10..0x5", "is reversed"),
        ("5..5", "is empty"),
        ("x y..0x5", "has a bad start"),
        ("0x5..", "has a bad end"),
        ("0x1..+0x5", "has a bad end"),
        ("0x1..0x1_0000_0000_0000_0000_0", "has a bad end"),
        ("-5", "is no symbol"),
        ("web1:", "is no symbol"),
        (":schedule", "is no symbol"),
        ("web1:schedule+", "is no symbol"),
        ("web1:schedule+x", "is no symbol"),
        ("web1:schedule+-1", "is no symbol"),
        ("a,,b", "is empty"),
        ("do_iret-0x10", "is no symbol"),
        ("schedule ()", "is no symbol"),
    ] {
        let e = error(text, GuestKind::Pv);
        assert!(
            e.starts_with(&format!("'{text}' {why}; valid: START..END")),
            "{e}"
        );
    }
}

#[test]
fn unknown_names_are_answered_with_near_ones() {
    assert_eq!(
        error("web1:shedule", GuestKind::Pv),
        "web1's kernel has no symbol 'shedule'; near: schedule schedule_idle"
    );
    assert_eq!(
        error("schedule", GuestKind::Pv),
        "Xen has no symbol 'schedule'; the guests' kernel has: write DOMAIN:schedule"
    );
    assert_eq!(
        error("web1:schedule+0x80", GuestKind::Pv),
        "offset 0x80 is outside 'schedule', which has 0x80 bytes"
    );
    let none = "web1:schedule".parse::<RipExpr>().unwrap();
    let e = none
        .resolve(&Symbols::default(), GuestKind::Pv)
        .unwrap_err()
        .to_string();
    assert!(
        e.contains("no symbols of web1's kernel") && e.contains("--kernel-symbols"),
        "{e}"
    );
}

#[test]
fn what_one_injection_cannot_check_is_refused_with_the_reason() {
    for (text, what) in [
        ("0x10..0x20,0x30..0x40", "2 separate ranges"),
        ("web1:schedule,web1:far", "2 separate ranges"),
        ("user,kernel", "2 modes"),
        ("user,0x10..0x20", "a mode or else a range"),
        ("web1:schedule,web2:far", "kernels of 2 domains"),
    ] {
        let e = error(text, GuestKind::Pv);
        assert!(
            e.contains(what) && e.contains("one RIP range and one mode"),
            "{e}"
        );
    }
}

#[test]
fn what_a_pv_vcpu_never_executes_is_refused() {
    for (text, word) in [
        ("do_iret", "DOMAIN:do_iret"),
        ("xen", "never runs hypervisor code"),
        (
            "0xffff82d040200000..0xffff82d040300000",
            "never runs hypervisor code",
        ),
    ] {
        let e = error(text, GuestKind::Pv);
        assert!(e.contains("could never match") && e.contains(word), "{e}");
        assert!(resolve(text, GuestKind::Pvh).is_ok(), "{text}");
    }
}

#[test]
fn reversed_symbols_are_refused() {
    let e = error("web1:far..schedule", GuestKind::Pv);
    assert!(e.contains("is reversed"), "{e}");
}

#[test]
fn the_text_survives_a_file() {
    let expr: RipExpr = "web1:schedule+0x10..+0x40".parse().unwrap();
    let json = serde_json::to_string(&expr).unwrap();
    assert_eq!(json, "\"web1:schedule+0x10..+0x40\"");
    assert_eq!(serde_json::from_str::<RipExpr>(&json).unwrap(), expr);
    assert_eq!(expr.domain().unwrap(), Some("web1"));
    assert!(expr.needs_symbols());
    let plain = RipExpr::from(RipRange::new(1, 2).unwrap());
    assert_eq!(plain.to_string().parse::<RipExpr>().unwrap(), plain);
    assert!(!plain.needs_symbols());
}

proptest! {
    #[test]
    fn any_text_is_resolved_or_refused(text in "[a-z0-9_.:+, x-]{0,40}") {
        if let Ok(filter) = resolve(&text, GuestKind::Pvh) {
            prop_assert!(filter.range.is_some() != filter.mode.is_some());
        }
    }

    #[test]
    fn a_range_of_numbers_is_itself(a in 0u64..u64::MAX, n in 1u64..1000) {
        let b = a.saturating_add(n);
        let text = format!("{a:#x}..{b}");
        prop_assert_eq!(range(&text, GuestKind::Pvh), (a, b));
    }
}
