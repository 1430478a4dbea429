//! `xfi campaign`.

use crate::args::{Campaign, Output};
use crate::exit::{Exit, coded};
use crate::output;
use crate::progress::{CampaignProgress, Steps};
use crate::{report, show};
use anyhow::{Context, Result};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;
use xfi_campaign::engine::{self, Engine, Summary, TestbedFacts};
use xfi_campaign::{
    Calibration, CampaignError, CampaignFile, RunDir, Stop, TestbedSection, calibrate, plan,
    resolve,
};
use xfi_model::{GuestLayout, Layout, Plan, RunKind};
use xfi_symbols::{RipExpr, RipFilter, Symbols};
use xfi_testbed::{
    Artifacts, Digests, EmulatedTestbed, SnapshotSet, Testbed, capacity, find_layout, snapshot_key,
};

/// Above this many workers, emulated hosts disturb each other on most
/// machines.
const MAX_WORKERS: u32 = 2;

/// Runs one of the subcommands.
pub(crate) fn run(command: Campaign) -> Result<()> {
    match command {
        Campaign::Plan { file, output } => show_plan(&file, output.output),
        Campaign::Run {
            file,
            out,
            workers,
            output,
        } => start(&file, out, workers, output.output),
        Campaign::Resume { dir, output } => resume(&dir, output.output),
        Campaign::Show { dir, run, output } => show::run(&dir, run, output.output),
    }
}

/// A campaign file with the testbed it names.
struct Setup {
    file: CampaignFile,
    path: PathBuf,
    layout: Layout,
    artifacts: Artifacts,
    snapshots: u32,
    workers: u32,
    target: GuestLayout,
}

impl Setup {
    fn new(file: CampaignFile, path: &Path, workers: Option<u32>) -> Result<Setup> {
        let TestbedSection::Emulated {
            layout,
            snapshots,
            workers: in_file,
        } = &file.testbed;
        let layout = find_layout(layout)?;
        let wanted = file
            .faults
            .target
            .as_ref()
            .or(layout.default_target.as_ref());
        let target = match layout.guests.iter().find(|g| Some(&g.name) == wanted) {
            Some(guest) => guest.clone(),
            None => {
                let given = wanted.map_or("none".into(), |t| format!("'{t}'"));
                let names: Vec<&str> = layout.guests.iter().map(|g| g.name.as_str()).collect();
                return Err(coded(
                    Exit::Usage,
                    format!(
                        "{}: faults.target is {given}; layout {} has: {}",
                        path.display(),
                        layout.name,
                        names.join(" ")
                    ),
                ));
            }
        };
        let cores = capacity();
        let workers = workers
            .or(*in_file)
            .unwrap_or_else(|| cores.min(MAX_WORKERS))
            .max(1);
        if workers > cores {
            eprintln!(
                "warning: {workers} workers on {cores} cores: oversubscription changes outcomes"
            );
        }
        let snapshots = *snapshots;
        plan::check_space(&file, path, &target)?;
        let setup = Setup {
            file,
            path: path.to_owned(),
            layout,
            artifacts: Artifacts::find()?,
            snapshots,
            workers,
            target,
        };
        // What can be told before anything is built or started.
        let named = setup.file.faults.rip.as_ref();
        let symbols = setup.artifacts.symbols(&setup.layout.host);
        if !symbols.kernel.is_empty() || !named.is_some_and(RipExpr::needs_symbols) {
            setup.filter(&symbols)?;
        }
        Ok(setup)
    }

    /// What `rip` and `mode` of the file mean in this testbed.
    fn filter(&self, symbols: &Symbols) -> Result<RipFilter, CampaignError> {
        plan::resolve_filter(&self.file, &self.path, &self.target, symbols)
    }

    fn snapshots(&self) -> Result<SnapshotSet> {
        let mut steps = Steps::default();
        Ok(SnapshotSet::prepare(
            &self.artifacts,
            &self.layout,
            self.snapshots,
            &mut |s| {
                steps.take(s);
            },
        )?)
    }

    /// Golden figures for these snapshots, this load and as many workers are
    /// kept: making them anew takes half a minute.
    fn calibration_path(&self, digests: &Digests) -> PathBuf {
        let on = (
            snapshot_key(&self.layout, digests),
            self.snapshots,
            self.workers,
            &self.file.workload,
        );
        let key = serde_json::to_vec(&on).expect("plain data");
        let hash: String = Sha256::digest(key)
            .iter()
            .take(8)
            .map(|b| format!("{b:02x}"))
            .collect();
        self.artifacts
            .root()
            .join("calibration")
            .join(format!("{hash}.json"))
    }

    fn calibration(&self, set: &SnapshotSet, stop: &Stop) -> Result<Calibration> {
        let path = self.calibration_path(set.digests());
        if let Some(known) = read_calibration(&path) {
            return Ok(known);
        }
        let scratch = tempfile::tempdir().context("a temporary directory")?;
        let progress = CampaignProgress::new(0, 0);
        let made = calibrate(
            &self.file,
            &|worker| testbed(set, worker),
            self.workers,
            &std::env::current_exe()?,
            scratch.path(),
            stop,
            &progress,
        )?;
        if stop.requested() {
            return Err(coded(Exit::Interrupted, "interrupted before the first run"));
        }
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)
                .and_then(|()| std::fs::write(&path, serde_json::to_vec_pretty(&made)?))
                .with_context(|| path.display().to_string())?;
        }
        Ok(made)
    }
}

fn read_calibration(path: &Path) -> Option<Calibration> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn testbed(set: &SnapshotSet, worker: u32) -> Result<Box<dyn Testbed>, xfi_testbed::TestbedError> {
    Ok(Box::new(EmulatedTestbed::new(set, worker)?))
}

/// Ctrl-C and SIGTERM ask to stop; the second time, at once.
fn stop_on_signals() -> Result<Stop> {
    let stop = Stop::default();
    let asked = stop.clone();
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
    ])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            asked.request();
            eprintln!(
                "{}",
                if asked.at_once() {
                    "ending the runs under way"
                } else {
                    "finishing the runs under way; once more to end them now"
                }
            );
        }
    });
    Ok(stop)
}

fn start(path: &Path, out: Option<PathBuf>, workers: Option<u32>, output: Output) -> Result<()> {
    let file = CampaignFile::read(path)?;
    let setup = Setup::new(file, path, workers)?;
    // Taken first: nobody wants to learn of a bad --out after the calibration.
    let out = out.unwrap_or_else(|| engine::default_out(&setup.file.name));
    let dir = RunDir::create(&out)?;
    let stop = stop_on_signals()?;
    let set = setup.snapshots()?;
    let golden = setup.calibration(&set, &stop)?;
    let timing = resolve(&setup.file, &setup.path, &golden)?;
    let filter = setup.filter(&setup.artifacts.symbols(&setup.layout.host))?;
    let plan = plan::expand(&setup.file, &setup.target, filter, timing, &golden);
    let progress = CampaignProgress::new(plan.runs.len(), 0);
    let engine = Engine {
        testbeds: &|worker| testbed(&set, worker),
        workers: setup.workers,
        driver: std::env::current_exe()?,
        stop: &stop,
        progress: &progress,
    };
    eprintln!(
        "{} runs into {}, {} at a time, about {} (Ctrl-C stops; resume goes on)",
        plan.runs.len(),
        dir.path().display(),
        setup.workers,
        humantime::format_duration(expected(&plan, setup.workers))
    );
    let facts = facts(&setup, &set);
    let summary = engine::run(&engine, &dir, &setup.file, &plan, facts);
    progress.finish();
    finish(&dir, summary?, output)
}

fn resume(path: &Path, output: Output) -> Result<()> {
    let dir = RunDir::open(path)?;
    let (file, plan) = engine::description(&dir)?;
    let setup = Setup::new(file, &path.join("campaign.json"), None)?;
    let stop = stop_on_signals()?;
    let set = setup.snapshots()?;
    let progress = CampaignProgress::new(plan.runs.len(), 0);
    let engine = Engine {
        testbeds: &|worker| testbed(&set, worker),
        workers: setup.workers,
        driver: std::env::current_exe()?,
        stop: &stop,
        progress: &progress,
    };
    let summary = engine::resume(&engine, &dir);
    progress.finish();
    finish(&dir, summary?, output)
}

fn finish(dir: &RunDir, summary: Summary, output: Output) -> Result<()> {
    report::run(dir.path(), None, output)?;
    if summary.done < summary.planned {
        return Err(coded(
            Exit::Stopped,
            format!(
                "stopped after {} of {} runs; go on with: xfi campaign resume {}",
                summary.done,
                summary.planned,
                dir.path().display()
            ),
        ));
    }
    Ok(())
}

/// What matters here of a Xen's `manifest.json`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct XenManifest {
    #[serde(rename = "xen")]
    version: Option<String>,
    build_id: Option<String>,
}

fn facts(setup: &Setup, set: &SnapshotSet) -> TestbedFacts {
    let digests = set.digests();
    let xen: XenManifest = std::fs::read(setup.artifacts.xen_manifest(&setup.layout.host))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    TestbedFacts {
        layout: setup.layout.name.clone(),
        xen_version: xen.version,
        xen_build_id: xen.build_id,
        image_digest: Some(digests.image.clone()),
        qemu_version: Some(digests.qemu_version.clone()),
        git: setup.artifacts.source_tree().and_then(git_state),
        snapshots: setup.snapshots,
    }
}

/// The source tree's commit, and whether files differ from it.
fn git_state(tree: &Path) -> Option<(String, bool)> {
    let git = |args: &[&str]| {
        let out = std::process::Command::new("git")
            .arg("-C")
            .arg(tree)
            .args(args)
            .output()
            .ok()?;
        out.status
            .success()
            .then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    Some((
        git(&["rev-parse", "HEAD"])?,
        !git(&["status", "--porcelain"])?.is_empty(),
    ))
}

/// Seconds of each run beyond load and window: restore, arming, checks.
const OVERHEAD: Duration = Duration::from_millis(1500);

fn expected(plan: &Plan, workers: u32) -> Duration {
    let runs: u64 = plan
        .runs
        .iter()
        .map(|r| r.moment_ns + plan.timing.window_ns + OVERHEAD.as_nanos() as u64)
        .sum();
    Duration::from_secs(runs / 1_000_000_000 / u64::from(workers) + 1)
}

#[derive(Serialize)]
struct PlanView<'a> {
    format: u32,
    plan_hash: Option<String>,
    fault_space_bits: u64,
    injections: u32,
    golden: u32,
    dummy: u32,
    target: &'a str,
    workers: u32,
    snapshots: u32,
    expected_s: Option<u64>,
    half_width_at_half: f64,
    timing: Option<xfi_model::Timing>,
}

fn show_plan(path: &Path, output: Output) -> Result<()> {
    let file = CampaignFile::read(path)?;
    let setup = Setup::new(file, path, None)?;
    // Timings need golden runs; a plan must not take minutes, so it uses those
    // that were made, and says so when there are none.
    let golden = setup
        .artifacts
        .digests(&setup.layout)
        .ok()
        .and_then(|digests| read_calibration(&setup.calibration_path(&digests)));
    let plan = match &golden {
        Some(golden) => {
            let timing = resolve(&setup.file, &setup.path, golden)?;
            let filter = setup.filter(&setup.artifacts.symbols(&setup.layout.host))?;
            let (file, target) = (&setup.file, &setup.target);
            Some(plan::expand(file, target, filter, timing, golden))
        }
        None => None,
    };
    let f = &setup.file.faults;
    let space = plan::fault_space(&setup.file, setup.target.kind).len() as u64;
    let view = PlanView {
        format: 1,
        plan_hash: plan.as_ref().map(plan::hash),
        fault_space_bits: space,
        injections: f.injections,
        golden: f.golden,
        dummy: f.dummy,
        target: &setup.target.name,
        workers: setup.workers,
        snapshots: setup.snapshots,
        expected_s: plan.as_ref().map(|p| expected(p, setup.workers).as_secs()),
        half_width_at_half: plan::half_width(f.injections),
        timing: plan.as_ref().map(|p| p.timing),
    };
    if output == Output::Json {
        return output::json(&view);
    }
    let mut text = format!(
        "campaign     {} (seed {})\n\
         runs         {} injections, {} golden, {} dummy\n\
         target       {}, {} registers, {space} {} to choose from\n\
         testbed      layout {}, {} snapshots, {} workers\n\
         precision    a share near 50 % will be known to +-{:.1} points (95 %); \n\
         \x20            +-5 points need {} injections, +-1 point {}\n",
        setup.file.name,
        setup.file.seed,
        f.injections,
        f.golden,
        f.dummy,
        setup.target.name,
        f.registers.len(),
        if f.mask.is_some() { "places" } else { "bits" },
        setup.layout.name,
        setup.snapshots,
        setup.workers,
        100.0 * view.half_width_at_half,
        plan::sample_size(0.05),
        plan::sample_size(0.01),
    );
    match &plan {
        Some(p) => {
            let t = &p.timing;
            text += &format!(
                "timings      window W {}, client timeout {}, moments over {} after {} of load\n\
                 golden       request period {}, p99.9 {}\n\
                 time         about {}\n\
                 plan hash    {}\n",
                output::duration(t.window_ns),
                output::duration(t.timeout_ns),
                output::duration(t.moments_ns),
                output::duration(t.lead_ns),
                output::duration(t.golden_period_ns),
                output::duration(t.golden_p999_ns),
                humantime::format_duration(expected(p, setup.workers)),
                view.plan_hash.as_deref().unwrap_or("?"),
            );
            let kinds: String = p
                .runs
                .iter()
                .map(|r| match r.kind {
                    RunKind::Injection => 'i',
                    RunKind::Golden => 'G',
                    RunKind::Dummy => 'D',
                })
                .take(100)
                .collect();
            text += &format!(
                "order        {kinds}{}\n",
                if p.runs.len() > 100 { "..." } else { "" }
            );
        }
        None => {
            text += "timings      not known yet: `xfi campaign run` makes golden runs first and \
                     derives them\n";
        }
    }
    output::print(&text);
    Ok(())
}
