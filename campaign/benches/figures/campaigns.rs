//! What a campaign takes.

use crate::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};
use xfi_campaign::journal;
use xfi_model::JournalLine;

/// Of one campaign.
#[derive(Default)]
pub(crate) struct Measured {
    pub(crate) restore_ns: Vec<u64>,
    pub(crate) took_ns: Vec<u64>,
    wall: Duration,
    pub(crate) peak_rss_mib: u64,
}

impl Measured {
    pub(crate) fn runs(&self) -> usize {
        self.took_ns.len()
    }

    pub(crate) fn runs_per_hour(&self) -> f64 {
        self.runs() as f64 * 3600.0 / self.wall.as_secs_f64()
    }
}

/// Runs `examples/<name>.toml`.
pub(crate) fn campaign(tree: &Path, name: &str) -> Result<Measured, Error> {
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
