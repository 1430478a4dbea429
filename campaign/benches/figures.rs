//! The figures this project is held to: `make bench`.
//!
//! Runs the example campaigns with the built `xfi` and reads their journals, so
//! that what is measured is what a user gets. Prints a table and writes
//! `target/bench.json`: `{name: {"value", "unit", "n", "commit"}}`.

use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};
use xfi_campaign::journal;
use xfi_model::JournalLine;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    // `cargo test` and clippy build benches too; they must not run them.
    if !std::env::args().any(|a| a == "--bench") {
        return Ok(());
    }
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()?;
    let commit = commit(&tree);
    let mut figures = Figures {
        commit,
        all: Map::new(),
    };

    let quick = campaign(&tree, "http-quick")?;
    figures.percentiles("restore_ms", &quick.restore_ns, 1e6, "ms");
    figures.percentiles("run_s", &quick.took_ns, 1e9, "s");
    figures.add(
        "runs_per_hour_http_quick",
        quick.runs_per_hour(),
        "runs/h",
        quick.runs(),
    );
    figures.add(
        "worker_rss_mib",
        quick.peak_rss_mib as f64,
        "MiB",
        quick.runs(),
    );
    let ten = campaign(&tree, "http-ten-clients")?;
    figures.add(
        "runs_per_hour_http_ten_clients",
        ten.runs_per_hour(),
        "runs/h",
        ten.runs(),
    );

    let count = Command::new(tree.join("xen-patches/count-disarmed.sh")).output()?;
    if !count.status.success() {
        return Err(String::from_utf8_lossy(&count.stderr).into_owned().into());
    }
    let count: Value = serde_json::from_slice(&count.stdout)?;
    let max = count["max"]
        .as_f64()
        .ok_or("count-disarmed.sh printed no max")?;
    figures.add("disarmed_instructions", max, "instructions", 3);

    let out = tree.join("target/bench.json");
    std::fs::write(&out, serde_json::to_vec_pretty(&figures.all)?)?;
    println!("{} (commit {})", machine(), figures.commit);
    println!("written to target/bench.json");
    Ok(())
}

struct Figures {
    commit: String,
    all: Map<String, Value>,
}

impl Figures {
    fn add(&mut self, name: &str, value: f64, unit: &str, n: usize) {
        println!("{name:34} {value:10.2} {unit:12} n={n}");
        let figure = json!({ "value": value, "unit": unit, "n": n, "commit": self.commit });
        self.all.insert(name.to_owned(), figure);
    }

    /// p50, p95, and the spread from least to most.
    fn percentiles(&mut self, name: &str, values_ns: &[u64], scale: f64, unit: &str) {
        let mut sorted = values_ns.to_vec();
        sorted.sort_unstable();
        let at = |p: f64| {
            let rank = (p * sorted.len() as f64).ceil() as usize;
            sorted[rank.clamp(1, sorted.len()) - 1] as f64 / scale
        };
        for (suffix, p) in [("p50", 0.5), ("p95", 0.95), ("min", 0.0), ("max", 1.0)] {
            self.add(&format!("{name}_{suffix}"), at(p), unit, sorted.len());
        }
    }
}

#[derive(Default)]
struct Measured {
    restore_ns: Vec<u64>,
    took_ns: Vec<u64>,
    wall: Duration,
    peak_rss_mib: u64,
}

impl Measured {
    fn runs(&self) -> usize {
        self.took_ns.len()
    }

    fn runs_per_hour(&self) -> f64 {
        self.runs() as f64 * 3600.0 / self.wall.as_secs_f64()
    }
}

fn campaign(tree: &Path, name: &str) -> Result<Measured, Error> {
    let out = tree.join(format!("runs/bench-{name}-{}", std::process::id()));
    eprintln!("running examples/{name}.toml ...");
    let mut child = Command::new(tree.join("target/release/xfi"))
        .args(["campaign", "run", &format!("examples/{name}.toml"), "--out"])
        .arg(&out)
        .current_dir(tree)
        .stdout(Stdio::null())
        .spawn()?;
    let mut peak_rss_mib = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        peak_rss_mib = peak_rss_mib.max(emulators_peak_rss_mib(child.id()));
        std::thread::sleep(Duration::from_millis(200));
    };
    if !status.success() {
        return Err(format!("xfi campaign run examples/{name}.toml: {status}").into());
    }
    let mut m = Measured {
        peak_rss_mib,
        ..Measured::default()
    };
    let (mut begin, mut end) = (None, SystemTime::UNIX_EPOCH);
    for line in journal::read(&out.join("journal.jsonl"))? {
        match line {
            JournalLine::Header { at, .. } => {
                begin.get_or_insert(humantime::parse_rfc3339(&at)?);
            }
            JournalLine::Result { record, .. } => {
                m.restore_ns.push(record.restore_ns);
                m.took_ns.push(record.took_ns);
                let started = humantime::parse_rfc3339(&record.started_at)?;
                end = end.max(started + Duration::from_nanos(record.took_ns));
            }
            _ => {}
        }
    }
    m.wall = end.duration_since(begin.ok_or("the journal has no header")?)?;
    std::fs::remove_dir_all(&out)?;
    Ok(m)
}

/// The largest resident set that any emulator started by `parent` has had.
fn emulators_peak_rss_mib(parent: u32) -> u64 {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return 0;
    };
    processes
        .filter_map(|p| {
            let dir: PathBuf = p.ok()?.path();
            let status = std::fs::read_to_string(dir.join("status")).ok()?;
            let field = |key: &str| {
                let line = status.lines().find_map(|l| l.strip_prefix(key))?;
                line.split_whitespace().next().map(str::to_owned)
            };
            let ours =
                field("PPid:")? == parent.to_string() && field("Name:")?.starts_with("qemu-system");
            ours.then(|| field("VmHWM:")?.parse::<u64>().ok()).flatten()
        })
        .max()
        .unwrap_or(0)
        / 1024
}

fn commit(tree: &Path) -> String {
    let out = Command::new("git")
        .arg("-C")
        .arg(tree)
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .output();
    out.map_or_else(
        |_| "unknown".into(),
        |o| String::from_utf8_lossy(&o.stdout).trim().to_owned(),
    )
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown CPU", |(_, m)| m.trim());
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    format!("{model}, {cores} cores")
}
