//! Mistakes on a machine with no testbed up and no Xen: one clear line that
//! names the offending value, a documented exit code, and no waiting.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

struct Ran {
    code: i32,
    stderr: String,
}

/// Far beyond what any of these takes; a hang is what it guards against.
const NO_HANG: Duration = Duration::from_secs(30);

fn xfi(args: &[&str]) -> Ran {
    // A runtime directory of its own: no testbed is up in there.
    let runtime = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let Output {
        status,
        stderr,
        stdout,
    } = Command::new(env!("CARGO_BIN_EXE_xfi"))
        .args(args)
        .env("XFI_RUNTIME_DIR", runtime.path())
        .output()
        .unwrap();
    assert!(
        begun.elapsed() < NO_HANG,
        "{args:?} took {:?}",
        begun.elapsed()
    );
    assert!(
        stdout.is_empty(),
        "{args:?} printed {}",
        String::from_utf8_lossy(&stdout)
    );
    Ran {
        code: status.code().unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

#[track_caller]
fn refused(args: &[&str], code: i32, says: &[&str]) {
    let ran = xfi(args);
    assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{args:?}: {}", ran.stderr);
    for word in says {
        assert!(
            ran.stderr.contains(word),
            "{args:?}: no '{word}' in: {}",
            ran.stderr
        );
    }
}

#[test]
fn a_bit_outside_the_register_is_named_with_the_valid_ones() {
    refused(
        &["inject", "--reg", "rbx", "--bit", "64"],
        2,
        &["64", "rbx", "0 to 63"],
    );
    refused(
        &["inject", "--reg", "cs", "--bit", "16"],
        2,
        &["16", "cs", "0 to 15"],
    );
    refused(
        &["inject", "--reg", "rflags", "--bit", "1"],
        2,
        &["bit 1", "rflags", "0 2 4"],
    );
    refused(
        &["inject", "--reg", "rbx", "--bit", "x"],
        2,
        &["'x'", "0 to 63"],
    );
    refused(
        &["inject", "--reg", "rbx", "--bit=-1"],
        2,
        &["'-1'", "0 to 63"],
    );
}

#[test]
fn an_unknown_register_is_named_with_the_valid_ones() {
    refused(
        &["inject", "--reg", "foo", "--bit", "0"],
        2,
        &["'foo'", "rax", "r15", "gs"],
    );
}

#[test]
fn a_reversed_rip_range_is_named() {
    let range = |r| ["inject", "--reg", "rbx", "--bit", "1", "--rip", r];
    refused(
        &range("0x10..0x5"),
        2,
        &["0x10..0x5", "reversed", "START..END"],
    );
    refused(&range("0x10..0x10"), 2, &["0x10..0x10", "empty"]);
    refused(&range("0x10"), 2, &["'0x10'", ".."]);
}

#[test]
fn an_expiry_before_the_moment_is_refused() {
    let args = [
        "inject", "--reg", "rbx", "--bit", "1", "--after", "2s", "--expire", "1s",
    ];
    refused(&args, 2, &["'1s'", "'2s'"]);
}

#[test]
fn a_domain_cannot_be_looked_up_without_a_host() {
    let args = ["inject", "--domain", "nosuch", "--reg", "rbx", "--bit", "1"];
    refused(&args, 4, &["nosuch", "xfi testbed up"]);
}

#[test]
fn commands_that_need_a_host_say_how_to_get_one() {
    for args in [
        &["inject", "--reg", "rbx", "--bit", "21"][..],
        &["domains"],
        &["status"],
        &["disarm"],
        &["profile"],
        &["peek", "--xen-memory", "do_iret"],
        &["peek", "--guest-memory", "web1:0x1000"],
        &["inject", "--xen-memory", "do_iret+0x8", "--bit", "1"],
        &["inject", "--guest-memory", "web1:0x1000", "--bit", "1"],
        &["testbed", "status"],
        &["testbed", "reset"],
        &["testbed", "ssh"],
        &["testbed", "console"],
    ] {
        refused(args, 4, &["xfi testbed up"]);
    }
}

#[test]
fn a_campaign_file_is_refused_with_line_and_column() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, "format = 1\nname = \"c\"\nseed = \"x\"\n").unwrap();
    let name = file.to_str().unwrap();
    refused(&["campaign", "plan", name], 2, &["c.toml:3:8:"]);
    refused(&["campaign", "run", name], 2, &["c.toml:3:8:"]);
    refused(&["campaign", "run", "nosuch.toml"], 1, &["nosuch.toml"]);
}

#[test]
fn what_is_no_run_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().to_str().unwrap();
    refused(
        &["campaign", "resume", name],
        2,
        &["campaign.json is missing"],
    );
    refused(&["report", name], 1, &["manifest.json"]);
    refused(&["campaign", "show", name], 1, &["manifest.json"]);
}

#[test]
fn an_unknown_layout_is_named_with_the_known_ones() {
    refused(
        &["testbed", "up", "--layout", "nosuch"],
        2,
        &["nosuch", "http"],
    );
}

#[test]
fn a_mask_is_refused_with_the_bits_that_are_wrong() {
    let mask = |reg, mask| ["inject", "--reg", reg, "--mask", mask];
    refused(
        &mask("cs", "0x10001"),
        2,
        &["--mask", "0x10001", "cs (16 bits)", ": 16;", "valid: 0-15"],
    );
    refused(&mask("rflags", "2"), 2, &["rflags", ": 1;", "6-14"]);
    refused(&mask("rbx", "0"), 2, &["0x0 changes nothing of rbx"]);
    refused(&mask("rbx", "0xzz"), 2, &["'0xzz'", "no 64-bit number"]);
    refused(
        &mask("rbx", "0x1ffffffffffffffff"),
        2,
        &["'0x1ffffffffffffffff'"],
    );
}

#[test]
fn a_rip_expression_is_refused_with_what_can_be_written() {
    let range = |r| ["inject", "--reg", "rbx", "--bit", "1", "--rip", r];
    for (text, why) in [
        ("web1:", "is no symbol"),
        ("web1:schedule+", "is no symbol"),
        ("+0x10..+0x20", "bad start"),
        ("schedule..0x", "bad end"),
        ("user,", "is empty"),
        ("a b", "is no symbol"),
    ] {
        refused(&range(text), 2, &["--rip", text, why, "web1:schedule"]);
    }
}

#[test]
fn times_are_refused_with_the_longest_there_is() {
    let after = |d| ["inject", "--reg", "rbx", "--bit", "1", "--after", d];
    refused(&after("25h"), 2, &["--after", "'25h'", "24h"]);
    refused(&after("1000years"), 2, &["'1000years'", "24h"]);
    refused(&after("soon"), 2, &["'soon'", "500ms"]);
    refused(
        &["inject", "--reg", "rbx", "--bit", "1", "--nth", "0"],
        2,
        &["--nth: 0"],
    );
}

#[test]
fn a_hypercall_is_refused_before_a_host_is_looked_for() {
    let call = |name, at, reg| {
        [
            "inject",
            "--hypercall",
            name,
            "--at",
            at,
            "--reg",
            reg,
            "--bit",
            "1",
        ]
    };
    refused(
        &call("stack_swich", "0", "rbx"),
        2,
        &["--hypercall", "'stack_swich'", "near: stack_switch"],
    );
    refused(&call("iret", "5x", "rbx"), 2, &["--at", "'5x'", "+OFFSET"]);
    refused(&call("iret", "5", "cs"), 2, &["--reg", "cs", "rax", "rip"]);
    refused(&call("iret", "5", "rbx"), 4, &["xfi testbed up"]);
}

#[test]
fn a_word_of_memory_is_refused_before_a_host_is_looked_for() {
    let inject = |option, place, bit| ["inject", option, place, "--bit", bit];
    let xen = |place, bit| inject("--xen-memory", place, bit);
    let guest = |place, bit| inject("--guest-memory", place, bit);
    refused(&xen("do iret", "1"), 2, &["'do iret'", "SYMBOL+OFFSET"]);
    refused(&xen("0xzz", "1"), 2, &["--xen-memory", "'0xzz'"]);
    refused(&xen("", "1"), 2, &["--xen-memory", "''"]);
    refused(&xen("do_iret", "64"), 2, &["--bit", "'64'", "0 to 63"]);
    refused(&xen("0x1001", "8"), 2, &["--bit: 8", "0 to 7"]);
    refused(&guest("web1", "1"), 2, &["'web1'", "DOMAIN:ADDRESS"]);
    refused(&guest("web1:", "1"), 2, &["'web1:'", "web1:0x1000000"]);
    refused(&guest(":0x1000", "1"), 2, &["':0x1000'"]);
    refused(&guest("web1:schedule", "1"), 2, &["'web1:schedule'"]);
    refused(&guest("web1:0x1002", "16"), 2, &["2-byte", "0 to 15"]);
    refused(&guest("web1:0x1000", "x"), 2, &["'x'", "0 to 63"]);
    refused(
        &["inject", "--xen-memory", "0x1004", "--mask", "0x100000000"],
        2,
        &["--mask", "32", "0 to 31"],
    );
    refused(
        &["inject", "--xen-memory", "0x1004", "--mask", "0x0"],
        2,
        &["--mask", "changes nothing"],
    );
    let sized = |size| ["peek", "--xen-memory", "0x1004", "--size", size];
    refused(&sized("8"), 2, &["no multiple of 8", "1 2 4"]);
    refused(&sized("3"), 2, &["--size: '3'", "1 2 4 8"]);
    let many = |count| ["peek", "--xen-memory", "0x1000", "--count", count];
    refused(&many("0"), 2, &["--count: '0'", "1 to 1024"]);
    refused(&many("1025"), 2, &["'1025'", "1 to 1024"]);
    refused(&many("x"), 2, &["'x'"]);
    refused(&["peek"], 2, &["--xen-memory", "--guest-memory"]);
}

#[test]
fn a_profiles_time_is_refused_with_the_longest_there_is() {
    refused(
        &["profile", "--for", "soon"],
        2,
        &["--for: 'soon'", "500ms"],
    );
    refused(&["profile", "--for", "25h"], 2, &["--for: '25h'", "24h"]);
    refused(&["profile", "--for", "0s"], 2, &["--for: '0s'", "1ms"]);
}

#[test]
fn a_campaign_with_faults_in_memory_is_refused_by_the_fields_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let name = file.to_str().unwrap();
    for field in ["xen_memory = \"jiffies\"", "guest_memory = \"web1:0x1000\""] {
        let body = format!(
            "format = 1\nname = \"c\"\nseed = 3\n[testbed]\nkind = \"emulated\"\nlayout = \
             \"http\"\n[workload]\nkind = \"http\"\n[faults]\ninjections = 1\ngolden = 0\ndummy = \
             0\n{field}\n"
        );
        std::fs::write(&file, body).unwrap();
        let says = [field.split(' ').next().unwrap(), "registers"];
        refused(&["campaign", "plan", name], 2, &says);
    }
}

#[test]
fn locations_of_what_is_no_xen_are_refused() {
    refused(&["locations", "nosuch"], 2, &["'nosuch'", "xfi locations"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("xen-syms");
    let name = file.to_str().unwrap();
    let locations = |name| ["locations", "iret", "--xen-symbols", name];
    refused(&locations(name), 2, &["--xen-symbols", "xen-syms"]);
    std::fs::write(&file, "MZ").unwrap();
    refused(&locations(name), 2, &["not a 64-bit ELF file", "xen-syms"]);
    // This very program is an ELF file with symbols, but no Xen.
    refused(
        &locations(env!("CARGO_BIN_EXE_xfi")),
        2,
        &["no handler do_iret", "candidates: none"],
    );
}
