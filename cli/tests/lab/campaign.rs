//! Campaigns by the command: killed, resumed, interrupted.

use crate::host::{Lab, PATIENCE, signal, text};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

impl Lab {
    /// A campaign of a few runs, as a file.
    fn campaign(&self, injections: u32, golden: u32, dummy: u32) -> PathBuf {
        let file = self.dir().join("lab.toml");
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
        self.dir().join("out")
    }

    fn start_campaign(&self, campaign: &Path) -> Child {
        let (campaign, out) = (campaign.display(), self.out());
        self.command(&format!("campaign run {campaign} --out {}", out.display()))
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
}

/// How many result lines each run has.
fn results(journal: &[Value]) -> BTreeMap<u64, usize> {
    let mut count = BTreeMap::new();
    for line in journal.iter().filter(|l| l["kind"] == "result") {
        *count.entry(line["run"].as_u64().unwrap()).or_default() += 1;
    }
    count
}

#[test]
fn a_killed_campaign_is_resumed_with_no_run_lost_and_none_twice() {
    let Some(lab) = Lab::new() else { return };
    let file = lab.campaign(4, 1, 1);
    let mut child = lab.start_campaign(&file);
    lab.wait_for("the second result", |j| results(j).len() >= 2);
    signal(child.id(), "-KILL");
    child.wait().unwrap();
    // The emulators and drivers go with the orchestrator.
    lab.wait_for_no_emulator();
    lab.ok(&format!("campaign resume {}", lab.out().display()));
    let count = results(&lab.journal());
    assert_eq!(count.len(), 6, "{count:?}");
    assert!(count.values().all(|n| *n == 1), "{count:?}");
    lab.wait_for_no_emulator();
    // And the report accounts for all of them, from the journal alone.
    lab.ok(&format!("report {}", lab.out().display()));
    assert!(lab.out().join("report/index.html").exists());
}

#[test]
fn ctrl_c_finishes_what_is_under_way_and_says_how_to_go_on() {
    let Some(lab) = Lab::new() else { return };
    let file = lab.campaign(3, 0, 0);
    let child = lab.start_campaign(&file);
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
    let mut child = lab.start_campaign(&file);
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
    let small = lab.dir().join("small");
    std::fs::create_dir(&small).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=16m none {dir} && exec {xfi} campaign run {file} --out {dir}/out",
        dir = small.display(),
        xfi = env!("CARGO_BIN_EXE_xfi"),
        file = file.display()
    );
    let out = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", &script])
        .env("XFI_RUNTIME_DIR", lab.dir().join("run"))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    let line = text(&out);
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
