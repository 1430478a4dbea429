//! A campaign expanded to runs.

use crate::{Fault, GoldenBand, RunId, SnapshotIndex};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The plan: a function of the campaign file, the resolved timings and the
/// seed alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The file format's version; 1.
    pub format: u32,
    /// The campaign's name.
    pub campaign: String,
    /// The seed.
    pub seed: u64,
    /// Timings, all resolved.
    pub timing: Timing,
    /// The size of the fault space (location × bit), moments apart.
    pub fault_space_bits: u64,
    /// What golden runs led to expect of each guest's service.
    pub bands: BTreeMap<String, GoldenBand>,
    /// The runs, in the order in which they are begun.
    pub runs: Vec<PlannedRun>,
}

/// The resolved timings of each run of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Load before the earliest flip, nanoseconds.
    pub lead_ns: u64,
    /// Moments are uniform over this long after the lead.
    pub moments_ns: u64,
    /// The observation window W after the flip.
    pub window_ns: u64,
    /// The clients' timeout.
    pub timeout_ns: u64,
    /// An injection that has not fired this long after its drawn moment
    /// expires.
    pub expire_after_moment_ns: u64,
    /// The request period of golden runs from which the above were derived.
    pub golden_period_ns: u64,
    /// The golden runs' 99.9th percentile of latency.
    pub golden_p999_ns: u64,
}

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// One injection.
    Injection,
    /// No injection.
    Golden,
    /// Everything of an injection but the flip.
    Dummy,
}

/// One run of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedRun {
    /// Its id, also its place in the order.
    pub id: RunId,
    /// What it is for.
    pub kind: RunKind,
    /// The fault; none for a golden run. A dummy's fault has an empty mask.
    pub fault: Option<Fault>,
    /// The snapshot it starts from.
    pub snapshot: SnapshotIndex,
    /// The drawn moment, nanoseconds after the load's start.
    pub moment_ns: u64,
    /// The fault's weight: how many points of the fault space it stands for.
    pub weight: f64,
    /// Seed of the load driver.
    pub load_seed: u64,
}
