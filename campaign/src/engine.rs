//! The run loop: workers take planned runs, the journal records them.

use crate::execute::{Milestones, RunContext, execute};
use crate::journal::{self, Journal};
use crate::{CampaignError, CampaignFile, RunDir, Stop, host_facts, plan};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};
use xfi_model::{
    Disposition, InjectionRecord, JournalLine, Manifest, Observations, Outcome, Plan, PlannedRun,
    RunId, RunKind, RunRecord,
};
use xfi_testbed::{Testbed, TestbedError};

/// Makes the testbed of a worker, numbered from 0.
pub type TestbedFactory<'a> = dyn Fn(u32) -> Result<Box<dyn Testbed>, TestbedError> + Sync + 'a;

/// Told what goes on.
pub trait Progress: Sync {
    /// A phase began that takes about this long.
    fn step(&self, _what: &str, _expected: Duration) {}
    /// A run began on a worker.
    fn run_began(&self, _worker: u32, _planned: &PlannedRun) {}
    /// A run has its result; `done` of `total` have.
    fn run_ended(&self, _record: &RunRecord, _outcome: &Outcome, _done: usize, _total: usize) {}
    /// A remark, such as a retry.
    fn remark(&self, _text: &str) {}
}

/// What a campaign is run with.
pub struct Engine<'a> {
    /// Makes testbeds.
    pub testbeds: &'a TestbedFactory<'a>,
    /// Testbeds at once.
    pub workers: u32,
    /// The program that is run as load driver (`xfi` itself).
    pub driver: PathBuf,
    /// The request to stop.
    pub stop: &'a Stop,
    /// Told what goes on.
    pub progress: &'a dyn Progress,
}

/// How a campaign's execution ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Runs in the plan.
    pub planned: usize,
    /// Runs that have a result.
    pub done: usize,
    /// It was asked to stop.
    pub stopped: bool,
}

/// Facts of a testbed that go into the manifest.
#[derive(Debug, Clone, Default)]
pub struct TestbedFacts {
    /// The layout's name.
    pub layout: String,
    /// Xen's version.
    pub xen_version: Option<String>,
    /// Xen's build id.
    pub xen_build_id: Option<String>,
    /// SHA-256 of the image.
    pub image_digest: Option<String>,
    /// QEMU's version.
    pub qemu_version: Option<String>,
    /// The commit `xfi` was built from, and whether the tree was changed.
    pub git: Option<(String, bool)>,
    /// K.
    pub snapshots: u32,
}

/// Executes a fresh plan in a new run directory.
///
/// # Errors
/// [`CampaignError`]; results on disk stay, and `resume` goes on.
pub fn run(
    engine: &Engine<'_>,
    dir: &RunDir,
    file: &CampaignFile,
    plan: &Plan,
    facts: TestbedFacts,
) -> Result<Summary, CampaignError> {
    let manifest = Manifest {
        format: 1,
        campaign: plan.campaign.clone(),
        created_at: now(),
        seed: plan.seed,
        plan_hash: plan::hash(plan),
        xfi_version: env!("CARGO_PKG_VERSION").into(),
        git_commit: facts.git.as_ref().map(|g| g.0.clone()),
        git_dirty: facts.git.is_some_and(|g| g.1),
        xen_version: facts.xen_version,
        xen_build_id: facts.xen_build_id,
        image_digest: facts.image_digest,
        qemu_version: facts.qemu_version,
        layout: facts.layout,
        snapshots: facts.snapshots,
        workers: engine.workers,
        host: host_facts::read(),
        window_ns: plan.timing.window_ns,
    };
    dir.check_space()?;
    dir.describe(file, plan, &manifest)?;
    let journal = dir.journal()?;
    work(engine, dir, file, plan, &journal, Vec::new())
}

/// The campaign file and plan of a run directory, to resume it.
///
/// # Errors
/// [`CampaignError::NotARunDir`].
pub fn description(dir: &RunDir) -> Result<(CampaignFile, Plan), CampaignError> {
    let (file, plan, manifest) = dir.description()?;
    if plan::hash(&plan) != manifest.plan_hash {
        return Err(CampaignError::NotARunDir {
            path: dir.path().to_owned(),
            why: "plan.json is not the plan that manifest.json names".into(),
        });
    }
    Ok((file, plan))
}

/// Goes on where the journal ends. A run that has a result is not repeated; one
/// that was armed, or may have been, is not either: it becomes `unjudged`.
///
/// # Errors
/// As for [`run`].
pub fn resume(engine: &Engine<'_>, dir: &RunDir) -> Result<Summary, CampaignError> {
    let (file, plan) = description(dir)?;
    let journal = dir.journal()?;
    let lines = journal::read(&dir.path().join("journal.jsonl"))?;
    work(engine, dir, &file, &plan, &journal, lines)
}

fn work(
    engine: &Engine<'_>,
    dir: &RunDir,
    file: &CampaignFile,
    plan: &Plan,
    journal: &Journal,
    earlier: Vec<JournalLine>,
) -> Result<Summary, CampaignError> {
    journal.append(&JournalLine::Header {
        format: 1,
        plan_hash: plan::hash(plan),
        at: now(),
    })?;
    let states = journal::states(&earlier);
    let mut queue = VecDeque::new();
    let mut done = 0;
    for planned in &plan.runs {
        let state = states.get(&planned.id).cloned().unwrap_or_default();
        if state.done {
            done += 1;
        } else if planned.kind != RunKind::Golden && (state.intent || state.fired.is_some()) {
            let record = orphan(planned, &state, plan);
            let outcome = xfi_analysis::classify(&record);
            journal.append(&JournalLine::Result {
                run: planned.id,
                record,
                outcome,
            })?;
            engine.progress.remark(&format!(
                "run {} was under way when the campaign was killed: unjudged, not repeated",
                planned.id
            ));
            done += 1;
        } else {
            queue.push_back((planned, state.attempts + 1));
        }
    }
    let shared = Shared {
        queue: Mutex::new(queue),
        done: Mutex::new(done),
        failures: Mutex::new(0),
        total: plan.runs.len(),
        stop_all: Stop::default(),
    };
    let ctx = RunContext {
        plan,
        workload: &file.workload,
        driver: &engine.driver,
        watchdog: file.limits.watchdog,
        stop: engine.stop,
    };
    let attempts = file.limits.attempts;
    let first_error = std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..engine.workers)
            .map(|worker| {
                let (shared, ctx) = (&shared, &ctx);
                scope.spawn(move || {
                    let result = worker_loop(engine, dir, ctx, journal, shared, worker, attempts);
                    if result.is_err() {
                        shared.stop_all.request();
                    }
                    result
                })
            })
            .collect();
        tasks
            .into_iter()
            .filter_map(|t| t.join().expect("a worker does not panic").err())
            .next()
    });
    if let Some(e) = first_error {
        return Err(e);
    }
    let done = *shared.done.lock().unwrap_or_else(|e| e.into_inner());
    Ok(Summary {
        planned: shared.total,
        done,
        stopped: engine.stop.requested(),
    })
}

struct Shared<'p> {
    queue: Mutex<VecDeque<(&'p PlannedRun, u32)>>,
    done: Mutex<usize>,
    /// Runs in a row that failed before their flip.
    failures: Mutex<u32>,
    total: usize,
    /// Set when one worker failed for good.
    stop_all: Stop,
}

/// Failures in a row, per allowed attempt, after which the campaign gives up.
const PATIENCE: u32 = 3;

fn worker_loop(
    engine: &Engine<'_>,
    dir: &RunDir,
    ctx: &RunContext<'_>,
    journal: &Journal,
    shared: &Shared<'_>,
    worker: u32,
    attempts: u32,
) -> Result<(), CampaignError> {
    let mut testbed = (engine.testbeds)(worker)?;
    loop {
        if engine.stop.requested() || shared.stop_all.requested() {
            return Ok(());
        }
        let next = shared
            .queue
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .pop_front();
        let Some((planned, attempt)) = next else {
            return Ok(());
        };
        dir.check_space()?;
        engine.progress.run_began(worker, planned);
        let mut lines = RunLines {
            journal,
            run: planned.id,
            attempt,
        };
        let record = execute(
            &mut *testbed,
            ctx,
            planned,
            (worker, attempt),
            dir.evidence(planned.id)?,
            &mut lines,
        )?;
        let before_flip = record.harness_error.is_some() && !record.may_have_fired;
        if before_flip {
            let reason = record.harness_error.clone().unwrap_or_default();
            journal.append(&JournalLine::Unfired {
                run: planned.id,
                attempt,
                at: now(),
                reason: reason.clone(),
            })?;
            if engine.stop.requested() {
                return Ok(());
            }
            let failed = {
                let mut f = shared.failures.lock().unwrap_or_else(|e| e.into_inner());
                *f += 1;
                *f
            };
            engine
                .progress
                .remark(&format!("run {}, attempt {attempt}: {reason}", planned.id));
            if failed >= attempts * PATIENCE {
                return Err(CampaignError::TooManyFailures {
                    failed,
                    last: reason,
                });
            }
            if attempt < attempts {
                shared
                    .queue
                    .lock()
                    .unwrap_or_else(|e| e.into_inner())
                    .push_front((planned, attempt + 1));
                continue;
            }
        } else {
            *shared.failures.lock().unwrap_or_else(|e| e.into_inner()) = 0;
        }
        let outcome = xfi_analysis::classify(&record);
        journal.append(&JournalLine::Result {
            run: planned.id,
            record: record.clone(),
            outcome: outcome.clone(),
        })?;
        let done = {
            let mut d = shared.done.lock().unwrap_or_else(|e| e.into_inner());
            *d += 1;
            *d
        };
        if let Disposition::HarnessError { reason } | Disposition::Unjudged { reason } =
            &outcome.disposition
        {
            engine.progress.remark(&format!(
                "run {}: {}: {reason}",
                planned.id,
                outcome.disposition.label()
            ));
        }
        engine
            .progress
            .run_ended(&record, &outcome, done, shared.total);
    }
}

struct RunLines<'a> {
    journal: &'a Journal,
    run: RunId,
    attempt: u32,
}

impl Milestones for RunLines<'_> {
    fn arming(&mut self) -> Result<(), CampaignError> {
        self.journal.append(&JournalLine::Intent {
            run: self.run,
            attempt: self.attempt,
            at: now(),
        })
    }

    fn fired(&mut self, record: &InjectionRecord) -> Result<(), CampaignError> {
        self.journal.append(&JournalLine::Fired {
            run: self.run,
            attempt: self.attempt,
            injection: record.clone(),
        })
    }
}

/// The record of a run that was under way when the orchestrator was killed.
fn orphan(planned: &PlannedRun, state: &journal::RunState, plan: &Plan) -> RunRecord {
    RunRecord {
        planned: planned.clone(),
        worker: 0,
        attempt: state.attempts,
        started_at: now(),
        took_ns: 0,
        restore_ns: 0,
        injection: state.fired.clone(),
        observations: Observations {
            window_ns: plan.timing.window_ns,
            ..Observations::default()
        },
        invalid: Vec::new(),
        harness_error: Some("the campaign was killed while this run was under way".into()),
        may_have_fired: true,
    }
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// Where a campaign's results go when the user does not say.
pub fn default_out(name: &str) -> PathBuf {
    let stamp = humantime::format_rfc3339_seconds(SystemTime::now())
        .to_string()
        .replace([':', '-'], "")
        .replace('T', "-")
        .replace('Z', "");
    Path::new("runs").join(format!("{name}-{stamp}"))
}
