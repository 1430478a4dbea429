//! What a run came to (DESIGN §6).

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// How a service failed, or that it did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureMode {
    /// Valid content with a wrong value: silent data corruption.
    IncorrectContent,
    /// Malformed output.
    CorruptedOutput,
    /// An error status.
    ErrorReply,
    /// RST, refused, or closed early.
    ConnectionReset,
    /// The service never answered again.
    Hang,
    /// Some answers did not come; later ones did.
    ClientTimeout,
    /// Right answers, outside the golden band.
    Degraded,
    /// None within the window.
    NoEffect,
}

impl FailureMode {
    /// All modes, the gravest first: the order in which a primary label is
    /// chosen.
    pub const ALL: &'static [FailureMode] = &[
        FailureMode::IncorrectContent,
        FailureMode::CorruptedOutput,
        FailureMode::ErrorReply,
        FailureMode::ConnectionReset,
        FailureMode::Hang,
        FailureMode::ClientTimeout,
        FailureMode::Degraded,
        FailureMode::NoEffect,
    ];

    /// The label, as in files.
    pub const fn label(self) -> &'static str {
        match self {
            FailureMode::IncorrectContent => "incorrect_content",
            FailureMode::CorruptedOutput => "corrupted_output",
            FailureMode::ErrorReply => "error_reply",
            FailureMode::ConnectionReset => "connection_reset",
            FailureMode::Hang => "hang",
            FailureMode::ClientTimeout => "client_timeout",
            FailureMode::Degraded => "degraded",
            FailureMode::NoEffect => "no_effect",
        }
    }

    /// Whether a user of the service would call it a failure.
    pub const fn is_failure(self) -> bool {
        !matches!(self, FailureMode::NoEffect)
    }
}

impl fmt::Display for FailureMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// The thesis's classes for the HTTP workload (§4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThesisClass {
    /// Incorrect content.
    IncorrectContent,
    /// Corrupted output; an error reply counts here.
    CorruptedOutput,
    /// Connection reset.
    ConnectionReset,
    /// Client-side timeout.
    ClientTimeout,
    /// Hang.
    Hang,
    /// No effect; a merely degraded service counts here.
    NoEffect,
}

/// One service's outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceOutcome {
    /// The guest.
    pub guest: String,
    /// Whether the fault was in it.
    pub is_target: bool,
    /// All labels that hold.
    pub labels: BTreeSet<FailureMode>,
    /// Sub-labels, such as `missing_value` or a reset's cause.
    #[serde(default)]
    pub sub_labels: BTreeSet<String>,
    /// The gravest.
    pub primary: FailureMode,
    /// The thesis's class, derived from the labels.
    pub class_thesis: ThesisClass,
    /// From the flip to the end of the first answer that was not right,
    /// nanoseconds.
    pub first_failure_after_ns: Option<u64>,
}

/// The host's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostOutcome {
    /// The integrity test passed.
    Responsive,
    /// It did not, and nothing crashed.
    Unresponsive,
    /// Panic or reset.
    Crashed,
}

impl HostOutcome {
    /// The label, as in files.
    pub const fn label(self) -> &'static str {
        match self {
            HostOutcome::Responsive => "responsive",
            HostOutcome::Unresponsive => "unresponsive",
            HostOutcome::Crashed => "crashed",
        }
    }
}

/// Who failed in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlastRadius {
    /// The domain the fault was in.
    pub target: bool,
    /// Any other domain.
    pub bystanders: bool,
    /// The host.
    pub host: bool,
}

/// How a run ended, before any question of effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Disposition {
    /// A golden run, completed.
    Golden,
    /// A dummy run, whose non-flip fired.
    Dummy,
    /// The fault fired and the run could be judged.
    Fired,
    /// The fault did not fire.
    NotFired {
        /// Expired, disarmed, target gone, with what was seen.
        reason: String,
    },
    /// Something that precedes the flip was wrong.
    Invalid {
        /// What.
        reason: String,
    },
    /// The harness failed before the flip.
    HarnessError {
        /// How.
        reason: String,
    },
    /// It fired, or may have, and could not be judged. It stays in the
    /// denominator.
    Unjudged {
        /// Why.
        reason: String,
    },
}

impl Disposition {
    /// The status word, as in files.
    pub const fn label(&self) -> &'static str {
        match self {
            Disposition::Golden => "golden",
            Disposition::Dummy => "dummy",
            Disposition::Fired => "fired",
            Disposition::NotFired { .. } => "not_fired",
            Disposition::Invalid { .. } => "invalid",
            Disposition::HarnessError { .. } => "harness_error",
            Disposition::Unjudged { .. } => "unjudged",
        }
    }
}

/// What the classifier says of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    #[serde(flatten)]
    pub disposition: Disposition,
    /// Each service's outcome; empty when the run was not judged.
    pub services: Vec<ServiceOutcome>,
    /// The host's outcome; none when the run was not judged.
    pub host: Option<HostOutcome>,
    /// Who failed; none when the run was not judged.
    pub blast_radius: Option<BlastRadius>,
}
