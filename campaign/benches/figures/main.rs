//! The figures this project is held to: `make bench`.
//!
//! Runs the example campaigns with the built `xfi` and reads their journals, so
//! that what is measured is what a user gets; asks an emulated host how long arming
//! takes to fire ([`latency`]), and what the hooks cost that does not inject
//! ([`slowdown`]). `cargo bench … -- slowdown` measures that part alone (others:
//! campaigns, instructions, latency). Prints a table and writes
//! `target/bench.json`: `{name: {"value", "unit", "n", "commit"}}`.

mod campaigns;
mod latency;
mod slowdown;

use campaigns::campaign;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::process::Command;

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

    // A part alone, by name.
    let wanted = |part: &str| {
        let named: Vec<_> = std::env::args()
            .skip(1)
            .filter(|a| !a.starts_with('-'))
            .collect();
        named.is_empty() || named.iter().any(|n| n == part)
    };
    if wanted("campaigns") {
        measure_campaigns(&tree, &mut figures)?;
    }
    if wanted("instructions") {
        count_instructions(&tree, &mut figures)?;
    }
    if wanted("latency") {
        latency::measure(&mut figures);
    }
    if wanted("slowdown") {
        slowdown::measure(&mut figures);
    }

    let out = tree.join("target/bench.json");
    // What is not measured this time stays as it is; each has its commit.
    let mut all: Map<String, Value> = std::fs::read(&out)
        .ok()
        .and_then(|json| serde_json::from_slice(&json).ok())
        .unwrap_or_default();
    all.append(&mut figures.all);
    std::fs::write(&out, serde_json::to_vec_pretty(&all)?)?;
    println!("{} (commit {})", machine(), figures.commit);
    println!("written to target/bench.json");
    Ok(())
}

fn measure_campaigns(tree: &Path, figures: &mut Figures) -> Result<(), Error> {
    let quick = campaign(tree, "http-quick")?;
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
    let ten = campaign(tree, "http-ten-clients")?;
    figures.add(
        "runs_per_hour_http_ten_clients",
        ten.runs_per_hour(),
        "runs/h",
        ten.runs(),
    );
    Ok(())
}

fn count_instructions(tree: &Path, figures: &mut Figures) -> Result<(), Error> {
    let count = Command::new(tree.join("xen-patches/count-disarmed.sh")).output()?;
    if !count.status.success() {
        return Err(String::from_utf8_lossy(&count.stderr).into_owned().into());
    }
    let count: Value = serde_json::from_slice(&count.stdout)?;
    let max = count["max"]
        .as_f64()
        .ok_or("count-disarmed.sh printed no max")?;
    figures.add("disarmed_instructions", max, "instructions", 3);
    Ok(())
}

struct Figures {
    commit: String,
    all: Map<String, Value>,
}

impl Figures {
    fn add(&mut self, name: &str, value: f64, unit: &str, n: usize) {
        println!("{name:34} {value:10.4} {unit:12} n={n}");
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
