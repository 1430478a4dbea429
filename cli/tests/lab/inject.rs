//! Faults in registers, by the command.

use crate::host::{Lab, hex, text};
use serde_json::Value;

#[test]
fn an_injection_flips_exactly_the_bit_asked_for() {
    let Some(lab) = Lab::up() else { return };
    let printed = lab.ok("inject --reg rbx --bit 21");
    for word in [
        "web1",
        "vCPU 0",
        "rip",
        "rbx",
        "exactly bit 21 of rbx",
        "from arming",
    ] {
        assert!(printed.contains(word), "no '{word}' in:\n{printed}");
    }
    let json = lab.json("inject --reg r13 --bit 63", "inject");
    assert_eq!(json["changed"], serde_json::json!({ "r13": [63] }));
    for file in ["before", "after"] {
        assert_eq!(json[file].as_object().unwrap().len(), 24);
    }
}

#[test]
fn mistakes_are_told_with_the_valid_values() {
    let Some(lab) = Lab::up() else { return };
    let out = lab.xfi("inject --domain nosuch --reg rbx --bit 1");
    assert_eq!(out.status.code(), Some(5));
    let line = text(&out);
    assert!(
        line.contains("nosuch") && line.contains("web1") && line.contains("web2"),
        "{line}"
    );

    // Half-open, and no instruction of a guest lies there.
    let args = "inject --domain web1 --reg r12 --bit 40 --rip 0x10..0x20 --expire 2s";
    let out = lab.xfi(args);
    assert_eq!(out.status.code(), Some(3), "{}", text(&out));
    let line = text(&out);
    assert!(
        line.contains("events seen") && line.contains("none matched"),
        "{line}"
    );
    let armed = lab.ok("disarm");
    assert!(armed.contains("nothing was armed"), "{armed}");

    let second = lab.xfi("testbed up");
    assert_eq!(second.status.code(), Some(6), "{}", text(&second));
    lab.ok("testbed down");
    lab.wait_for_no_emulator();
}

#[test]
fn a_fault_is_put_where_a_symbol_or_a_mode_says() {
    let Some(lab) = Lab::up() else { return };
    let inject = |more: &str| -> Value {
        // The guest need not survive a flip in its kernel.
        lab.ok("testbed reset");
        let args = format!("inject --reg r15 --output json {more}");
        serde_json::from_str(&lab.ok(&args)).unwrap()
    };
    // The domain is the one whose symbols are named. Any of the kernel's code:
    // a guest is not for long in one function.
    let text = "0xffffffff80000000..0xffffffffc0000000";
    let json = inject(&format!("--domain web2 --bit 0 --rip {text}"));
    assert_eq!(json["guest_mode"], "kernel", "{json:#}");
    assert!(json["rip_symbol"].is_string(), "{json:#}");
    let json = inject("--bit 1 --rip web2:_stext.._etext");
    assert_eq!(
        (&json["domain"], &json["guest_mode"]),
        (&"web2".into(), &"kernel".into())
    );
    assert!(hex(&json["rip"]) >= 0xffff_ffff_8000_0000, "{json:#}");
    let json = inject("--mask 0x5 --rip kernel --trigger switch");
    assert_eq!(json["guest_mode"], "kernel", "{json:#}");
    assert_eq!(json["bit"], Value::Null);
    assert_eq!(json["changed"], serde_json::json!({ "r15": [0, 2] }));
    let json = inject("--bit 2 --op set");
    assert_eq!(hex(&json["after"]["r15"]), hex(&json["before"]["r15"]) | 4);

    let refused = |line: &str, says: &[&str]| lab.refused(line, 2, says);
    refused(
        "inject --reg r15 --bit 0 --vcpu 1",
        &["--vcpu", "web1 has no vCPU 1", "valid: 0"],
    );
    refused(
        "inject --reg r15 --bit 0 --rip web1:shedule",
        &["'shedule'", "near: schedule"],
    );
    refused(
        "inject --reg r15 --bit 0 --rip schedule",
        &["DOMAIN:schedule"],
    );
    refused(
        "inject --reg r15 --bit 0 --rip do_iret",
        &["could never match", "--hypercall"],
    );
    refused("inject --reg r15 --bit 0 --rip xen", &["PV guest"]);
    refused("inject --reg rflags --bit 9", &["PV guest", "6-8"]);
    refused(
        "inject --hypercall iret --at 100000 --reg rbx --bit 1",
        &["--at", "'100000'", "do_iret", "locations iret"],
    );
    lab.ok("testbed reset");
}

#[test]
fn the_handlers_of_the_booted_xen_are_listed() {
    let Some(lab) = Lab::new() else { return };
    let json = lab.json("locations", "hypercalls");
    let calls = json["hypercalls"].as_array().unwrap();
    let one = |name: &str| calls.iter().find(|c| c["hypercall"] == name).unwrap();
    for (name, number) in [("iret", 23), ("stack_switch", 3), ("multicall", 13)] {
        assert_eq!(one(name)["number"], number);
        assert_eq!(one(name)["handler"], format!("do_{name}"));
    }
    let json = lab.json("locations iret", "locations");
    let all = json["instructions"].as_array().unwrap();
    assert_eq!(
        all.len() as u64,
        one("iret")["instructions"].as_u64().unwrap()
    );
    assert_eq!(all[0]["symbol"], "do_iret");
    assert_eq!(all[0]["path"], "straight");
    let printed = lab.ok("locations iret");
    for i in all {
        for field in ["address", "symbol", "bytes", "text"] {
            let word = i[field].as_str().unwrap();
            assert!(printed.contains(word), "no {word} in:\n{printed}");
        }
    }
}
