//! Prepares a layout's snapshots, restores them again and again, and prints
//! what `make bench` wants to know:
//!
//!     cargo run --release -p xfi-testbed --example restore_times [LAYOUT [K [N]]]

use std::time::{Duration, Instant};
use xfi_model::{Command, SnapshotIndex};
use xfi_testbed::{
    Artifacts, EmulatedTestbed, Evidence, Health, Progress, SnapshotSet, Testbed, find_layout,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let layout = find_layout(&args.next().unwrap_or_else(|| "http".to_owned()))?;
    let count = args.next().map_or(Ok(1), |k| k.parse())?;
    let runs: u32 = args.next().map_or(Ok(20), |n| n.parse())?;
    let artifacts = Artifacts::find()?;
    let set = SnapshotSet::prepare(&artifacts, &layout, count, &mut |p| match p {
        Progress::Begin { step, expected } => eprintln!("{step} (about {expected:?})"),
        Progress::Note { text } => eprintln!("  {text}"),
        Progress::End { step, took } => eprintln!("{step}: {took:.1?}"),
    })?;
    let mut testbed = EmulatedTestbed::new(&set, 0)?;
    let dir = std::env::temp_dir().join(format!("xfi-restore-times-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let evidence = Evidence { dir: dir.clone() };
    let mut restores = Vec::new();
    let mut answers = Vec::new();
    for run in 0..runs {
        let start = Instant::now();
        let report = testbed.reset(SnapshotIndex(run % count), &evidence)?;
        testbed
            .agent()?
            .ask(Command::Domains, Duration::from_secs(30))?;
        answers.push(start.elapsed());
        restores.push(report.restore);
        assert_eq!(testbed.health(), Health::Running);
    }
    testbed.stop()?;
    for (what, mut times) in [
        ("restore to running", restores),
        ("to the agent's answer", answers),
    ] {
        times.sort();
        let at = |q: usize| times[(times.len() - 1) * q / 100];
        println!(
            "{what}: p50 {:.1?}, p95 {:.1?}, n {}",
            at(50),
            at(95),
            times.len()
        );
    }
    println!(
        "peak RSS {} MiB, private {} MiB",
        testbed.peak_rss_mib().unwrap_or(0),
        testbed.private_mib().unwrap_or(0)
    );
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
