//! Golden runs made beforehand, from which timings and bands are derived.

use crate::driver::Driver;
use crate::engine::{Progress, TestbedFactory};
use crate::execute::{Milestones, RunContext, execute};
use crate::{CampaignError, CampaignFile, Stop, TestbedSection};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;
use xfi_model::{
    GoldenBand, InjectionRecord, Plan, PlannedRun, RunId, RunKind, RunRecord, SnapshotIndex, Timing,
};
use xfi_workloads::load;

/// Golden runs for each worker and snapshot.
const ROUNDS: u32 = 2;
const SECOND_NS: u64 = 1_000_000_000;

/// What golden runs on these snapshots, with this load and as many workers at
/// once, looked like.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Calibration {
    /// Golden runs made.
    pub runs: u32,
    /// Right answers seen.
    pub answers: u64,
    /// Median latency, nanoseconds.
    pub p50_ns: u64,
    /// 99.9th percentile of latency, cold starts included, nanoseconds.
    pub p999_ns: u64,
    /// A client's time from one request to the next, nanoseconds.
    pub period_ns: u64,
    /// The band outside which a service is `degraded`, by guest.
    pub bands: BTreeMap<String, GoldenBand>,
}

struct Nothing;

impl Milestones for Nothing {
    fn arming(&mut self) -> Result<(), CampaignError> {
        Ok(())
    }
    fn fired(&mut self, _: &InjectionRecord) -> Result<(), CampaignError> {
        Ok(())
    }
}

/// Makes the golden runs, with all workers at once, as the campaign will.
///
/// # Errors
/// [`CampaignError::Calibration`] when an answer was wrong or none came.
pub fn calibrate(
    file: &CampaignFile,
    testbeds: &TestbedFactory<'_>,
    workers: u32,
    driver: &Path,
    scratch: &Path,
    stop: &Stop,
    progress: &dyn Progress,
) -> Result<Calibration, CampaignError> {
    let TestbedSection::Emulated { snapshots, .. } = &file.testbed;
    let plan = Plan {
        format: 1,
        campaign: file.name.clone(),
        seed: file.seed,
        timing: Timing {
            lead_ns: SECOND_NS,
            moments_ns: 0,
            window_ns: 3 * SECOND_NS,
            timeout_ns: 20 * SECOND_NS,
            expire_after_moment_ns: 0,
            golden_period_ns: 0,
            golden_p999_ns: 0,
        },
        fault_space_bits: 0,
        bands: BTreeMap::new(),
        runs: (0..(workers * ROUNDS).max(*snapshots))
            .map(|i| PlannedRun {
                id: RunId(i),
                kind: RunKind::Golden,
                fault: None,
                snapshot: SnapshotIndex(i % snapshots),
                moment_ns: SECOND_NS,
                weight: 0.0,
                load_seed: file.seed ^ u64::from(i),
            })
            .collect(),
    };
    let ctx = RunContext {
        plan: &plan,
        workload: &file.workload,
        driver,
        watchdog: Duration::from_secs(60),
        stop,
    };
    let total = plan.runs.len();
    progress.step(
        &format!("calibrating: {total} golden runs"),
        Duration::from_secs(6 * total as u64),
    );
    let queue = Mutex::new(plan.runs.iter());
    let records = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..workers)
            .map(|worker| {
                let (queue, records, ctx) = (&queue, &records, &ctx);
                scope.spawn(move || -> Result<(), CampaignError> {
                    let mut testbed = testbeds(worker)?;
                    loop {
                        let next = queue.lock().unwrap_or_else(|e| e.into_inner()).next();
                        let Some(planned) = next.filter(|_| !stop.requested()) else {
                            return Ok(());
                        };
                        let dir = scratch.join(planned.id.to_string());
                        std::fs::create_dir_all(&dir).map_err(|source| CampaignError::Write {
                            path: dir.clone(),
                            source,
                        })?;
                        let record =
                            execute(&mut *testbed, ctx, planned, (worker, 1), dir, &mut Nothing)?;
                        records
                            .lock()
                            .unwrap_or_else(|e| e.into_inner())
                            .push(record);
                    }
                })
            })
            .collect();
        tasks
            .into_iter()
            .try_for_each(|t| t.join().expect("a worker does not panic"))
    })?;
    let records = records.into_inner().unwrap_or_else(|e| e.into_inner());
    digest(&records, file, scratch)
}

fn digest(
    records: &[RunRecord],
    file: &CampaignFile,
    scratch: &Path,
) -> Result<Calibration, CampaignError> {
    if let Some(reason) = records.iter().find_map(|r| r.harness_error.clone()) {
        return Err(CampaignError::Calibration(reason));
    }
    let logs: Vec<_> = records
        .iter()
        .map(|r| Driver::log_in(&scratch.join(r.planned.id.to_string())))
        .collect();
    let golden = load::calibrate(&logs).map_err(|e| CampaignError::Calibration(e.to_string()))?;
    let services = records.iter().flat_map(|r| &r.observations.services);
    Ok(Calibration {
        runs: records.len() as u32,
        answers: golden.answers,
        p50_ns: golden.p50_ns,
        p999_ns: golden.p999_ns,
        period_ns: golden.period_ns,
        bands: load::bands(services, file.workload.degraded_factor()),
    })
}
