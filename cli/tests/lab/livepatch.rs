//! The same on Debian's own Xen, by a livepatch.

use crate::host::{Lab, PATIENCE, text};
use serde_json::Value;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Debian's own Xen is downloaded and the payload is built by a command of its own.
fn stock_lab() -> Option<Lab> {
    let lab = Lab::new()?;
    let up = lab.xfi("testbed up --xen stock");
    if up.status.success() {
        return Some(lab);
    }
    let why = text(&up);
    assert!(
        why.contains("xfi livepatch build") && std::env::var_os("CI").is_none(),
        "{why}"
    );
    println!("skipped: {why}");
    None
}

impl Lab {
    /// MiB that Xen has free, once it is done with what was freed.
    fn free_memory(&self) -> String {
        self.in_dom0("xl info free_memory")
    }

    #[track_caller]
    fn host_is_healthy(&self) {
        let status: Value = serde_json::from_str(&self.ok("testbed status --output json")).unwrap();
        assert_eq!(status["panic_line"], Value::Null);
        let domains = self.ok("domains");
        assert!(domains.contains("Domain-0") && domains.contains("web2"));
    }

    fn web1_runs(&self) -> bool {
        let domains: Value = serde_json::from_str(&self.ok("domains --output json")).unwrap();
        let domains = domains.as_array().unwrap();
        let web1 = domains.iter().find(|d| d["name"] == "web1");
        web1.is_some_and(|d| d["state"] == "running" || d["state"] == "blocked")
    }
}

#[test]
fn a_livepatch_is_loaded_used_and_unloaded_twenty_times() {
    let Some(lab) = stock_lab() else { return };
    let inject = "inject --reg r12 --bit 40 --domain web1 --output json";
    let before = lab.xfi(inject);
    assert_eq!(before.status.code(), Some(4));
    let line = text(&before);
    assert!(line.contains("xfi livepatch load"), "{line}");
    let doctor = lab.ok("doctor");
    assert!(doctor.contains("has none (xfi livepatch load)"), "{doctor}");
    let free = lab.free_memory();
    let mut resets = 0;
    for cycle in 1..=20 {
        let loaded = lab.ok("livepatch load");
        assert!(loaded.contains("kick switch"), "{loaded}");
        if cycle == 1 {
            let doctor = lab.ok("doctor");
            assert!(doctor.contains("livepatch delivery"), "{doctor}");
            assert!(doctor.contains("registers inside hypercalls"), "{doctor}");
            let again = lab.ok("livepatch load");
            assert!(again.contains("loaded already"), "{again}");
        }
        let json: Value = serde_json::from_str(&lab.ok(inject)).unwrap();
        assert_eq!(
            json["changed"],
            serde_json::json!({ "r12": [40] }),
            "{cycle}"
        );
        assert_eq!(lab.ok("livepatch unload").trim(), "unloaded");
        lab.host_is_healthy();
        // The flip may end the guest: the host's other guest and memory stay.
        if !lab.web1_runs() {
            resets += 1;
            lab.ok("testbed reset");
        }
    }
    assert_eq!(lab.free_memory(), free, "MiB free in Xen");
    println!("20 cycles; the guest did not survive {resets} of its flips");
    assert_eq!(lab.ok("livepatch unload").trim(), "it is not loaded");
    assert_eq!(lab.xfi(inject).status.code(), Some(4));
}

#[test]
fn a_livepatch_stays_while_something_is_armed_and_a_dying_domain_is_forgotten() {
    let Some(lab) = stock_lab() else { return };
    lab.ok("livepatch load");
    // No guest executes anything there: armed until it expires.
    let args = "inject --domain web2 --reg r12 --bit 40 --rip 0x10..0x20 --expire 10m";
    let child = lab
        .command(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while lab.xfi("domains").status.code() != Some(6) {
        assert!(begun.elapsed() < PATIENCE, "it never had the agent");
    }
    // It has the agent; arming is the next thing it does.
    std::thread::sleep(Duration::from_secs(5));
    let revert = lab.dom0("xen-livepatch revert xfi");
    assert!(!revert.status.success(), "reverted while it was armed");
    let log = lab.in_dom0("xl dmesg");
    assert!(log.contains("xfi: 1 injections are armed"), "{log}");
    let unload = lab.xfi("livepatch unload");
    assert_eq!(unload.status.code(), Some(6), "{}", text(&unload));
    lab.in_dom0("xl destroy web2");
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(3), "{}", text(&out));
    let line = text(&out);
    assert!(line.contains("web2 went away before it fired"), "{line}");
    assert_eq!(lab.ok("livepatch unload").trim(), "unloaded");
    assert!(lab.ok("domains").contains("web1"));
}
