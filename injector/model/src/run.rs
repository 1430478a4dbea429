//! One run, whole.

use crate::{InjectionRecord, Observations, PlannedRun};
use serde::{Deserialize, Serialize};

/// Everything known of one run. The classifier is a function of this alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// What was planned.
    pub planned: PlannedRun,
    /// The worker that ran it, from 0.
    pub worker: u32,
    /// Which attempt this was, from 1; only runs that did not fire are tried
    /// again.
    pub attempt: u32,
    /// Wall-clock start, RFC 3339, UTC.
    pub started_at: String,
    /// Wall time of the whole run, reset included, nanoseconds.
    pub took_ns: u64,
    /// Time from the start of the restore to the machine running, nanoseconds.
    pub restore_ns: u64,
    /// Xen's record of the injection, when one was read.
    pub injection: Option<InjectionRecord>,
    /// What was seen.
    pub observations: Observations,
    /// What a validator found wrong before the flip.
    #[serde(default)]
    pub invalid: Vec<String>,
    /// What failed in the harness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub harness_error: Option<String>,
    /// True when the flip had happened, or may have, before the harness failed.
    #[serde(default)]
    pub may_have_fired: bool,
}
