//! The journal's lines: append-only, one JSON object each.

use crate::{InjectionRecord, Outcome, RunId, RunRecord};
use serde::{Deserialize, Serialize};

/// A line of `journal.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "a line is written or read once and dropped"
)]
pub enum JournalLine {
    /// First line, and again at each resume.
    Header {
        /// The file format's version; 1.
        format: u32,
        /// SHA-256 of the plan.
        plan_hash: String,
        /// Wall-clock time, RFC 3339, UTC.
        at: String,
    },
    /// On disk before anything is armed.
    Intent {
        /// The run.
        run: RunId,
        /// Which attempt, from 1.
        attempt: u32,
        /// Wall-clock time, RFC 3339, UTC.
        at: String,
    },
    /// On disk as soon as the flip is known.
    Fired {
        /// The run.
        run: RunId,
        /// Which attempt.
        attempt: u32,
        /// Xen's record.
        injection: InjectionRecord,
    },
    /// The attempt failed before anything could fire: the run may be repeated.
    Unfired {
        /// The run.
        run: RunId,
        /// Which attempt.
        attempt: u32,
        /// Wall-clock time, RFC 3339, UTC.
        at: String,
        /// What failed.
        reason: String,
    },
    /// The run's end.
    Result {
        /// The run.
        run: RunId,
        /// All that is known of it.
        record: RunRecord,
        /// What the classifier said then; a report classifies anew.
        outcome: Outcome,
    },
    /// A person's or the harness's remark.
    Note {
        /// The run it is about, if one.
        run: Option<RunId>,
        /// Wall-clock time, RFC 3339, UTC.
        at: String,
        /// The remark.
        text: String,
    },
}
