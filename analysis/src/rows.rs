//! One row a planned run: everything tables and figures are made of.

use crate::data::{CampaignData, Fate, Orphan};
use crate::{classify, stats};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use xfi_model::{
    BlastRadius, Disposition, FailureMode, Fault, GuestMode, HostOutcome, InjectionRecord,
    PlannedRun, Register, RequestRecord, RunId, RunKind, RunRecord, ThesisClass, Verdict,
};

/// What became of one planned run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunRow {
    /// Its id.
    pub id: RunId,
    /// What it was for.
    pub kind: RunKind,
    /// The snapshot it started from.
    pub snapshot: u32,
    /// How many points of the fault space it stands for.
    pub weight: f64,
    /// Attempts begun.
    pub attempts: u32,
    /// `golden`, `dummy`, `fired`, `not_fired`, `invalid`, `harness_error`,
    /// `unjudged` or `not_run`.
    pub disposition: &'static str,
    /// Why, when it was not judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The domain the fault is in.
    pub domain: Option<String>,
    /// The register.
    pub register: Option<Register>,
    /// The bit, when it is one.
    pub bit: Option<u32>,
    /// What the vCPU was executing.
    pub mode: Option<GuestMode>,
    /// RIP before the flip.
    pub rip: Option<xfi_model::Hex64>,
    /// The same as `symbol+0x…`.
    pub rip_symbol: Option<String>,
    /// From arming to the flip, nanoseconds.
    pub arm_to_fire_ns: Option<u64>,
    /// The target's outcome.
    pub target: Option<Judged>,
    /// The bystanders' outcome: the gravest of them, all their labels.
    pub bystander: Option<Judged>,
    /// The host's outcome.
    pub host: Option<HostOutcome>,
    /// Who failed.
    pub blast_radius: Option<BlastRadius>,
    /// From the flip to the end of the first answer of any service that was
    /// not right, nanoseconds.
    pub first_failure_after_ns: Option<u64>,
    /// That answer.
    pub first_wrong: Option<WrongAnswer>,
    /// First line of a panic.
    pub panic_line: Option<String>,
    /// Wall time of the run, nanoseconds.
    pub took_ns: Option<u64>,
}

/// One or several services' outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// The gravest label.
    pub primary: FailureMode,
    /// All labels.
    pub labels: BTreeSet<FailureMode>,
    /// All sub-labels.
    pub sub_labels: BTreeSet<String>,
    /// The thesis's class of the gravest label.
    pub class_thesis: ThesisClass,
}

/// An answer that was not right, cut to what a page can show; the run's own
/// directory has it whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WrongAnswer {
    /// Who answered.
    pub guest: String,
    /// What was wrong.
    pub verdict: Verdict,
    /// HTTP status, when one arrived.
    pub status: Option<u16>,
    /// What was wrong, in words.
    pub detail: Option<String>,
    /// The answer's beginning.
    pub excerpt: Option<String>,
}

/// The most characters of a wrong answer that a page shows.
const EXCERPT: usize = 320;

impl RunRow {
    /// Whether this is an injection that fired, or may have: the denominator
    /// of every outcome.
    pub fn counts(&self) -> bool {
        self.kind == RunKind::Injection && matches!(self.disposition, "fired" | "unjudged")
    }

    /// Whether it is a judged golden or dummy run.
    pub fn is_control(&self) -> bool {
        matches!(self.disposition, "golden" | "dummy")
    }

    /// Whether anything failed: target, bystander or host. None when the run
    /// was not judged.
    pub fn failed(&self) -> Option<bool> {
        self.blast_radius
            .map(|b| b.target || b.bystanders || b.host)
    }

    /// The run as a sample of some property.
    pub fn sample(&self, property: impl Fn(&RunRow) -> Option<bool>) -> stats::Sample {
        let truth = match property(self) {
            Some(true) => stats::Truth::Yes,
            Some(false) => stats::Truth::No,
            None => stats::Truth::Unjudged,
        };
        stats::Sample {
            truth,
            weight: self.weight,
            cluster: self.snapshot,
        }
    }
}

/// The share of `rows` that have `property`.
pub(crate) fn share_of<'a>(
    rows: impl IntoIterator<Item = &'a RunRow>,
    property: impl Fn(&RunRow) -> Option<bool>,
) -> stats::Share {
    let samples: Vec<_> = rows.into_iter().map(|r| r.sample(&property)).collect();
    stats::share(&samples)
}

/// The domain a fault is in.
pub(crate) fn fault_domain(fault: &Fault) -> &str {
    fault.location.domain()
}

/// One row for each planned run, in the plan's order.
pub(crate) fn rows(data: &CampaignData) -> Vec<RunRow> {
    let results: BTreeMap<RunId, &RunRecord> =
        data.results.iter().map(|r| (r.planned.id, r)).collect();
    let orphans: BTreeMap<RunId, &Orphan> = data.orphans.iter().map(|o| (o.run, o)).collect();
    data.plan
        .runs
        .iter()
        .map(|planned| {
            let mut row = empty(planned);
            row.attempts = data.attempts.get(&planned.id).copied().unwrap_or(0);
            if let Some(record) = results.get(&planned.id) {
                fill(&mut row, record);
            } else if let Some(orphan) = orphans.get(&planned.id) {
                orphaned(&mut row, orphan);
            }
            row
        })
        .collect()
}

fn empty(planned: &PlannedRun) -> RunRow {
    let register = planned
        .fault
        .as_ref()
        .and_then(|f| f.location.vcpu_register());
    RunRow {
        id: planned.id,
        kind: planned.kind,
        snapshot: planned.snapshot.0,
        weight: planned.weight,
        attempts: 0,
        disposition: "not_run",
        reason: None,
        domain: planned.fault.as_ref().map(|f| fault_domain(f).to_owned()),
        register,
        bit: planned.fault.as_ref().and_then(Fault::bit),
        mode: None,
        rip: None,
        rip_symbol: None,
        arm_to_fire_ns: None,
        target: None,
        bystander: None,
        host: None,
        blast_radius: None,
        first_failure_after_ns: None,
        first_wrong: None,
        panic_line: None,
        took_ns: None,
    }
}

fn orphaned(row: &mut RunRow, orphan: &Orphan) {
    row.attempts = row.attempts.max(orphan.attempt);
    if let Fate::Fired(injection) = &orphan.fate {
        put_flip(row, injection);
    }
    let (disposition, reason) = match (row.kind, &orphan.fate) {
        (_, Fate::Unfired(reason)) => ("harness_error", reason.as_str()),
        (RunKind::Golden, _) => ("harness_error", "begun, and the journal has no result"),
        (_, Fate::Fired(_)) => ("unjudged", "it fired, and the journal has no result"),
        (_, Fate::Unknown) => (
            "unjudged",
            "begun and may have fired; the journal has no result",
        ),
    };
    row.disposition = disposition;
    row.reason = Some(reason.to_owned());
}

fn put_flip(row: &mut RunRow, injection: &InjectionRecord) {
    row.arm_to_fire_ns = injection.arm_to_fire_ns();
    if let Some(flip) = &injection.flip {
        row.mode = Some(flip.guest_mode);
        row.rip = flip.before.get(&Register::Rip).copied();
        row.rip_symbol = flip.rip_symbol.clone();
    }
}

fn fill(row: &mut RunRow, record: &RunRecord) {
    let outcome = classify(record);
    row.attempts = row.attempts.max(record.attempt);
    row.took_ns = Some(record.took_ns);
    row.disposition = outcome.disposition.label();
    row.reason = match outcome.disposition {
        Disposition::NotFired { reason }
        | Disposition::Invalid { reason }
        | Disposition::HarnessError { reason }
        | Disposition::Unjudged { reason } => Some(reason),
        Disposition::Golden | Disposition::Dummy | Disposition::Fired => None,
    };
    if let Some(injection) = &record.injection {
        put_flip(row, injection);
    }
    row.host = outcome.host;
    row.blast_radius = outcome.blast_radius;
    row.first_failure_after_ns = outcome
        .services
        .iter()
        .filter_map(|s| s.first_failure_after_ns)
        .min();
    row.target = together(&outcome.services, true);
    row.bystander = together(&outcome.services, false);
    row.panic_line = record.observations.host.panic_line.clone();
    if row.failed() == Some(true) {
        row.first_wrong = first_wrong(record);
    }
}

fn together(services: &[xfi_model::ServiceOutcome], target: bool) -> Option<Judged> {
    let mut judged: Option<Judged> = None;
    for s in services.iter().filter(|s| s.is_target == target) {
        let all = judged.get_or_insert_with(|| Judged {
            primary: s.primary,
            labels: BTreeSet::new(),
            sub_labels: BTreeSet::new(),
            class_thesis: s.class_thesis,
        });
        all.labels.extend(s.labels.iter().copied());
        all.sub_labels.extend(s.sub_labels.iter().cloned());
    }
    let all = judged.as_mut()?;
    if all.labels.len() > 1 {
        // One bystander without effect beside one that failed.
        all.labels.remove(&FailureMode::NoEffect);
    }
    all.primary = classify::primary(&all.labels);
    all.class_thesis = classify::thesis_class(all.primary);
    judged
}

fn first_wrong(record: &RunRecord) -> Option<WrongAnswer> {
    let flip = record.observations.flip_ns?;
    let first: &RequestRecord = record
        .observations
        .services
        .iter()
        .flat_map(|s| &s.not_right)
        .filter(|r| {
            !r.probe
                && r.end_ns >= flip
                && !matches!(r.verdict, Verdict::Correct | Verdict::Unfinished)
        })
        .min_by_key(|r| (r.end_ns, &r.guest, r.client, r.seq))?;
    Some(WrongAnswer {
        guest: first.guest.clone(),
        verdict: first.verdict,
        status: first.status,
        detail: first.detail.clone(),
        excerpt: first.answer.as_ref().map(|a| excerpt(a)),
    })
}

fn excerpt(answer: &str) -> String {
    let clean: String = answer
        .chars()
        .map(|c| {
            if c.is_control() && c != '\n' && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .take(EXCERPT + 1)
        .collect();
    if clean.chars().count() > EXCERPT {
        let mut cut: String = clean.chars().take(EXCERPT).collect();
        cut.push('…');
        cut
    } else {
        clean
    }
}
