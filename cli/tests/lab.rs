//! The command on a real emulated Xen host. Without QEMU or a built testbed
//! these are skipped, and say so; where `CI` is set they fail instead.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An emulated host on a busy machine: far more than any step takes.
const PATIENCE: Duration = Duration::from_secs(600);

/// A runtime directory of its own, so that a testbed of the user's is left
/// alone; the testbed that is up in it is stopped at the end.
struct Lab {
    dir: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    fn new() -> Option<Lab> {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // Sockets' paths are short: under /tmp whatever TMPDIR says.
        let dir = tempfile::Builder::new()
            .prefix("xfi-lab")
            .tempdir_in("/tmp")
            .unwrap();
        let lab = Lab { dir, _turn: turn };
        let doctor = lab.xfi(&["doctor"]);
        if doctor.status.success() {
            return Some(lab);
        }
        let why = text(&doctor.stdout);
        assert!(
            std::env::var_os("CI").is_none(),
            "CI needs the testbed: {why}"
        );
        println!("skipped: {why}");
        None
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_xfi"));
        c.args(args)
            .env("XFI_RUNTIME_DIR", self.dir.path().join("run"))
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        c
    }

    fn xfi(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let out = self.xfi(args);
        assert!(
            out.status.success(),
            "{args:?}: {}{}",
            text(&out.stdout),
            text(&out.stderr)
        );
        text(&out.stdout)
    }

    fn up(&self) {
        self.ok(&["testbed", "up"]);
    }

    /// A campaign of a few runs, as a file.
    fn campaign(&self, injections: u32, golden: u32, dummy: u32) -> PathBuf {
        let file = self.dir.path().join("lab.toml");
        let body = format!(
            "format = 1\nname = \"lab\"\nseed = 3\n\
             [testbed]\nkind = \"emulated\"\nlayout = \"http\"\nsnapshots = 1\n\
             [workload]\nkind = \"http\"\nclients_per_guest = 2\nhash_bytes = 196608\n\
             [faults]\ninjections = {injections}\ngolden = {golden}\ndummy = {dummy}\n"
        );
        std::fs::write(&file, body).unwrap();
        file
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn start(&self, campaign: &Path) -> Child {
        self.command(&["campaign", "run", campaign.to_str().unwrap(), "--out"])
            .arg(self.out())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn journal(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.out().join("journal.jsonl")).unwrap_or_default();
        text.lines()
            .filter_map(|l| serde_json::from_str(l).ok())
            .collect()
    }

    fn wait_for(&self, what: &str, mut done: impl FnMut(&[Value]) -> bool) {
        let begun = Instant::now();
        while !done(&self.journal()) {
            assert!(begun.elapsed() < PATIENCE, "{what} did not come");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Emulators whose sockets are in this lab's runtime directory.
    fn emulators(&self) -> Vec<u32> {
        let needle = self.dir.path().to_str().unwrap().to_owned();
        let Ok(processes) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        processes
            .filter_map(|p| {
                let p = p.ok()?.path();
                let command = std::fs::read(p.join("cmdline")).ok()?;
                let command = String::from_utf8_lossy(&command).into_owned();
                let ours = command.contains("qemu-system") && command.contains(&needle);
                ours.then(|| p.file_name()?.to_str()?.parse().ok())
                    .flatten()
            })
            .collect()
    }

    fn wait_for_no_emulator(&self) {
        let begun = Instant::now();
        while !self.emulators().is_empty() {
            assert!(
                begun.elapsed() < PATIENCE,
                "left running: {:?}",
                self.emulators()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.xfi(&["testbed", "down"]);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// How many result lines each run has.
fn results(journal: &[Value]) -> BTreeMap<u64, usize> {
    let mut count = BTreeMap::new();
    for line in journal.iter().filter(|l| l["kind"] == "result") {
        *count.entry(line["run"].as_u64().unwrap()).or_default() += 1;
    }
    count
}

fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .args([name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn an_injection_flips_exactly_the_bit_asked_for() {
    let Some(lab) = Lab::new() else { return };
    lab.up();
    let printed = lab.ok(&["inject", "--reg", "rbx", "--bit", "21"]);
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
    let json = lab.ok(&["inject", "--reg", "r13", "--bit", "63", "--output", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schema/inject.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(schema).unwrap()).unwrap();
    assert!(
        jsonschema::validator_for(&schema).unwrap().is_valid(&json),
        "{json:#}"
    );
    assert_eq!(json["changed"], serde_json::json!({ "r13": [63] }));
    for file in ["before", "after"] {
        assert_eq!(json[file].as_object().unwrap().len(), 24);
    }
}

#[test]
fn mistakes_are_told_with_the_valid_values() {
    let Some(lab) = Lab::new() else { return };
    lab.up();
    let out = lab.xfi(&["inject", "--domain", "nosuch", "--reg", "rbx", "--bit", "1"]);
    assert_eq!(out.status.code(), Some(5));
    let line = text(&out.stderr);
    assert!(
        line.contains("nosuch") && line.contains("web1") && line.contains("web2"),
        "{line}"
    );

    // Half-open, and no instruction of a guest lies there.
    let args = "inject --domain web1 --reg r12 --bit 40 --rip 0x10..0x20 --expire 2s";
    let out = lab.xfi(&args.split(' ').collect::<Vec<_>>());
    assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
    let line = text(&out.stderr);
    assert!(
        line.contains("events seen") && line.contains("none matched"),
        "{line}"
    );
    let armed = lab.ok(&["disarm"]);
    assert!(armed.contains("nothing was armed"), "{armed}");

    let second = lab.xfi(&["testbed", "up"]);
    assert_eq!(second.status.code(), Some(6), "{}", text(&second.stderr));
    lab.ok(&["testbed", "down"]);
    lab.wait_for_no_emulator();
}

/// `0x…` of a JSON string.
fn hex(value: &Value) -> u64 {
    let digits = value.as_str().unwrap().trim_start_matches("0x");
    u64::from_str_radix(digits, 16).unwrap()
}

#[test]
fn a_fault_is_put_where_a_symbol_or_a_mode_says() {
    let Some(lab) = Lab::new() else { return };
    lab.up();
    let inject = |more: &str| -> Value {
        // The guest need not survive a flip in its kernel.
        lab.ok(&["testbed", "reset"]);
        let args = format!("inject --reg r15 --output json {more}");
        let args: Vec<&str> = args.split_whitespace().collect();
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

    let refused = |args: &str, says: &[&str]| {
        let out = lab.xfi(&args.split_whitespace().collect::<Vec<_>>());
        let line = text_of(&out);
        assert_eq!(out.status.code(), Some(2), "{line}");
        for word in says {
            assert!(line.contains(word), "no '{word}' in: {line}");
        }
    };
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
    lab.ok(&["testbed", "reset"]);
}

fn text_of(out: &Output) -> String {
    text(&out.stdout) + &text(&out.stderr)
}

#[test]
fn the_handlers_of_the_booted_xen_are_listed() {
    let Some(lab) = Lab::new() else { return };
    let json: Value = serde_json::from_str(&lab.ok(&["locations", "--output", "json"])).unwrap();
    let valid = |name: &str, json: &Value| {
        let path = format!("{}/../docs/schema/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let schema = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        jsonschema::validator_for(&schema).unwrap().is_valid(json)
    };
    assert!(valid("hypercalls", &json));
    let calls = json["hypercalls"].as_array().unwrap();
    let one = |name: &str| calls.iter().find(|c| c["hypercall"] == name).unwrap();
    for (name, number) in [("iret", 23), ("stack_switch", 3), ("multicall", 13)] {
        assert_eq!(one(name)["number"], number);
        assert_eq!(one(name)["handler"], format!("do_{name}"));
    }
    let json = lab.ok(&["locations", "iret", "--output", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(valid("locations", &json));
    let all = json["instructions"].as_array().unwrap();
    assert_eq!(
        all.len() as u64,
        one("iret")["instructions"].as_u64().unwrap()
    );
    assert_eq!(all[0]["symbol"], "do_iret");
    assert_eq!(all[0]["path"], "straight");
    let printed = lab.ok(&["locations", "iret"]);
    for i in all {
        for field in ["address", "symbol", "bytes", "text"] {
            let word = i[field].as_str().unwrap();
            assert!(printed.contains(word), "no {word} in:\n{printed}");
        }
    }
}

#[test]
fn a_killed_campaign_is_resumed_with_no_run_lost_and_none_twice() {
    let Some(lab) = Lab::new() else { return };
    let file = lab.campaign(4, 1, 1);
    let mut child = lab.start(&file);
    lab.wait_for("the second result", |j| results(j).len() >= 2);
    signal(child.id(), "-KILL");
    child.wait().unwrap();
    // The emulators and drivers go with the orchestrator.
    lab.wait_for_no_emulator();
    lab.ok(&["campaign", "resume", lab.out().to_str().unwrap()]);
    let count = results(&lab.journal());
    assert_eq!(count.len(), 6, "{count:?}");
    assert!(count.values().all(|n| *n == 1), "{count:?}");
    lab.wait_for_no_emulator();
    // And the report accounts for all of them, from the journal alone.
    lab.ok(&["report", lab.out().to_str().unwrap()]);
    assert!(lab.out().join("report/index.html").exists());
}

#[test]
fn ctrl_c_finishes_what_is_under_way_and_says_how_to_go_on() {
    let Some(lab) = Lab::new() else { return };
    let file = lab.campaign(3, 0, 0);
    let child = lab.start(&file);
    lab.wait_for("the first intent", |j| {
        j.iter().any(|l| l["kind"] == "intent")
    });
    signal(child.id(), "-INT");
    let out = child.wait_with_output().unwrap();
    let journal = lab.journal();
    let begun = journal.iter().filter(|l| l["kind"] == "intent").count();
    assert_eq!(
        results(&journal).len(),
        begun,
        "each run that began has its result"
    );
    if begun < 3 {
        assert_eq!(out.status.code(), Some(7));
    }
    lab.wait_for_no_emulator();
}

#[test]
fn a_run_whose_emulator_is_killed_is_accounted_for() {
    let Some(lab) = Lab::new() else { return };
    let file = lab.campaign(2, 0, 0);
    let mut child = lab.start(&file);
    lab.wait_for("the first flip", |j| j.iter().any(|l| l["kind"] == "fired"));
    for pid in lab.emulators() {
        signal(pid, "-KILL");
    }
    assert!(child.wait().unwrap().success());
    let journal = lab.journal();
    assert_eq!(results(&journal).len(), 2);
    let fired: Vec<_> = journal.iter().filter(|l| l["kind"] == "fired").collect();
    let killed = journal
        .iter()
        .filter(|l| l["kind"] == "result" && l["outcome"]["status"] == "unjudged")
        .filter(|l| fired.iter().any(|f| f["run"] == l["run"]))
        .count();
    assert!(
        killed >= 1,
        "a fired run that was lost is unjudged, not repeated"
    );
}

#[test]
fn a_full_disk_is_told_before_anything_is_armed() {
    let Some(lab) = Lab::new() else { return };
    let file = lab.campaign(1, 0, 0);
    let small = lab.dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=16m none {dir} && exec {xfi} campaign run {file} --out {dir}/out",
        dir = small.display(),
        xfi = env!("CARGO_BIN_EXE_xfi"),
        file = file.display()
    );
    let out = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", &script])
        .env("XFI_RUNTIME_DIR", lab.dir.path().join("run"))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    let line = text(&out.stderr);
    if line.contains("unshare:") || line.contains("mount:") {
        println!("skipped: no mount namespace here: {line}");
        return;
    }
    assert_eq!(out.status.code(), Some(1), "{line}");
    assert!(
        line.contains("MiB left") && line.contains("resume"),
        "{line}"
    );
    lab.wait_for_no_emulator();
}

/// Debian's own Xen is downloaded and the payload is built by a command of its own.
fn stock_lab() -> Option<Lab> {
    let lab = Lab::new()?;
    let up = lab.xfi(&["testbed", "up", "--xen", "stock"]);
    if up.status.success() {
        return Some(lab);
    }
    let why = text(&up.stderr);
    assert!(
        why.contains("xfi livepatch build") && std::env::var_os("CI").is_none(),
        "{why}"
    );
    println!("skipped: {why}");
    None
}

impl Lab {
    fn in_dom0(&self, command: &str) -> Output {
        self.xfi(&["testbed", "ssh", command])
    }

    /// MiB that Xen has free, once it is done with what was freed.
    fn free_memory(&self) -> String {
        text(&self.in_dom0("xl info free_memory").stdout)
    }

    #[track_caller]
    fn host_is_healthy(&self) {
        let status: Value =
            serde_json::from_str(&self.ok(&["testbed", "status", "--output", "json"])).unwrap();
        assert_eq!(status["panic_line"], Value::Null);
        let domains = self.ok(&["domains"]);
        assert!(domains.contains("Domain-0") && domains.contains("web2"));
    }

    fn web1_runs(&self) -> bool {
        let domains: Value =
            serde_json::from_str(&self.ok(&["domains", "--output", "json"])).unwrap();
        let domains = domains.as_array().unwrap();
        let web1 = domains.iter().find(|d| d["name"] == "web1");
        web1.is_some_and(|d| d["state"] == "running" || d["state"] == "blocked")
    }
}

#[test]
fn a_livepatch_is_loaded_used_and_unloaded_twenty_times() {
    let Some(lab) = stock_lab() else { return };
    let inject = [
        "inject", "--reg", "r12", "--bit", "40", "--domain", "web1", "--output", "json",
    ];
    let before = lab.xfi(&inject);
    assert_eq!(before.status.code(), Some(4));
    let line = text(&before.stderr);
    assert!(line.contains("xfi livepatch load"), "{line}");
    let doctor = lab.ok(&["doctor"]);
    assert!(doctor.contains("has none (xfi livepatch load)"), "{doctor}");
    let free = lab.free_memory();
    let mut resets = 0;
    for cycle in 1..=20 {
        let loaded = lab.ok(&["livepatch", "load"]);
        assert!(loaded.contains("kick switch"), "{loaded}");
        if cycle == 1 {
            let doctor = lab.ok(&["doctor"]);
            assert!(doctor.contains("livepatch delivery"), "{doctor}");
            assert!(doctor.contains("registers inside hypercalls"), "{doctor}");
            let again = lab.ok(&["livepatch", "load"]);
            assert!(again.contains("loaded already"), "{again}");
        }
        let json: Value = serde_json::from_str(&lab.ok(&inject)).unwrap();
        assert_eq!(
            json["changed"],
            serde_json::json!({ "r12": [40] }),
            "{cycle}"
        );
        assert_eq!(lab.ok(&["livepatch", "unload"]).trim(), "unloaded");
        lab.host_is_healthy();
        // The flip may end the guest: the host's other guest and memory stay.
        if !lab.web1_runs() {
            resets += 1;
            lab.ok(&["testbed", "reset"]);
        }
    }
    assert_eq!(lab.free_memory(), free, "MiB free in Xen");
    println!("20 cycles; the guest did not survive {resets} of its flips");
    assert_eq!(lab.ok(&["livepatch", "unload"]).trim(), "it is not loaded");
    assert_eq!(lab.xfi(&inject).status.code(), Some(4));
}

#[test]
fn a_livepatch_stays_while_something_is_armed_and_a_dying_domain_is_forgotten() {
    let Some(lab) = stock_lab() else { return };
    lab.ok(&["livepatch", "load"]);
    // No guest executes anything there: armed until it expires.
    let args = "inject --domain web2 --reg r12 --bit 40 --rip 0x10..0x20 --expire 10m";
    let child = lab
        .command(&args.split(' ').collect::<Vec<_>>())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while lab.xfi(&["status"]).status.code() != Some(6) {
        assert!(begun.elapsed() < PATIENCE, "it never had the agent");
    }
    // It has the agent; arming is the next thing it does.
    std::thread::sleep(Duration::from_secs(5));
    let revert = lab.in_dom0("xen-livepatch revert xfi");
    assert!(!revert.status.success(), "reverted while it was armed");
    let log = text(&lab.in_dom0("xl dmesg").stdout);
    assert!(log.contains("xfi: 1 injections are armed"), "{log}");
    let unload = lab.xfi(&["livepatch", "unload"]);
    assert_eq!(unload.status.code(), Some(6), "{}", text(&unload.stderr));
    assert!(lab.in_dom0("xl destroy web2").status.success());
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
    let line = text(&out.stderr);
    assert!(line.contains("web2 went away before it fired"), "{line}");
    assert_eq!(lab.ok(&["livepatch", "unload"]).trim(), "unloaded");
    assert!(lab.ok(&["domains"]).contains("web1"));
}
