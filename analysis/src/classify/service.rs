//! One service's labels from what its clients saw.
//!
//! # A host that crashed
//! After a panic or reset the run is ended early: what was under way is
//! `unfinished` and no probes are sent, so the clients' log alone would show
//! no failure. Nothing is answered through a dead host (its network backend is
//! in dom0), so every service of a host that crashed *within the window* is
//! `hang`, unless probes after the crash were answered. A crash is taken to be
//! within the window unless its time says otherwise or the host's integrity
//! test, which comes after the window, got an answer. Labels that the clients
//! did see are kept beside `hang`.
//!
//! # Without probes
//! When requests went unanswered and no probe was sent, `hang` is claimed only
//! if nothing at all was answered after the flip; otherwise `client_timeout`.

use super::host_outcome;
use std::collections::BTreeSet;
use xfi_model::{
    DomainState, FailureMode, GoldenBand, HostOutcome, Observations, RequestRecord, ResetCause,
    ServiceObservation, ServiceOutcome, ThesisClass, Verdict,
};

pub(super) fn judge(service: &ServiceObservation, all: &Observations) -> ServiceOutcome {
    let mut labels = BTreeSet::new();
    let mut sub_labels = BTreeSet::new();
    let seen = |v: Verdict| service.after_flip.get(&v).copied().unwrap_or(0);
    let mut sub = |text: &str| {
        sub_labels.insert(text.to_owned());
    };

    if seen(Verdict::IncorrectContent) + seen(Verdict::MissingValue) > 0 {
        labels.insert(FailureMode::IncorrectContent);
    }
    if seen(Verdict::MissingValue) > 0 {
        sub("missing_value");
    }
    if seen(Verdict::CorruptedOutput) > 0 {
        labels.insert(FailureMode::CorruptedOutput);
    }
    if seen(Verdict::ErrorReply) > 0 {
        labels.insert(FailureMode::ErrorReply);
    }
    if seen(Verdict::ConnectionReset) > 0 {
        labels.insert(FailureMode::ConnectionReset);
        for cause in after_flip(service, all).filter_map(|r| r.reset_cause) {
            sub(cause_label(cause));
        }
        if service.tcp.is_some_and(|t| t.rst_from_guest > 0) {
            sub("rst_on_wire");
        }
    }
    match silence(service, all) {
        Some(Silence::HostCrashed) => {
            labels.insert(FailureMode::Hang);
            sub("host_crashed");
        }
        Some(Silence::ForEver) => {
            labels.insert(FailureMode::Hang);
        }
        Some(Silence::Passing) => {
            labels.insert(FailureMode::ClientTimeout);
        }
        None => {}
    }
    if labels.is_empty()
        && let Some(band) = &service.golden_band
    {
        for outside in outside_band(service, band) {
            labels.insert(FailureMode::Degraded);
            sub(outside);
        }
    }
    if all
        .host
        .domains
        .iter()
        .any(|d| d.name == service.guest && d.state == DomainState::Crashed)
    {
        sub("domain_crashed");
    }
    if labels.is_empty() {
        labels.insert(FailureMode::NoEffect);
    }
    let primary = primary(&labels);
    ServiceOutcome {
        guest: service.guest.clone(),
        is_target: service.is_target,
        primary,
        class_thesis: thesis_class(primary),
        first_failure_after_ns: first_failure(service, all),
        labels,
        sub_labels,
    }
}

/// The gravest label, by the order of [`FailureMode::ALL`].
pub(crate) fn primary(labels: &BTreeSet<FailureMode>) -> FailureMode {
    FailureMode::ALL
        .iter()
        .copied()
        .find(|m| labels.contains(m))
        .unwrap_or(FailureMode::NoEffect)
}

/// The thesis's class (§4.2) of a primary label. The thesis has no class for
/// an error status: it is output that breaks the agreed form, as its
/// "corrupted output". It calls a late right answer no effect.
pub(crate) const fn thesis_class(primary: FailureMode) -> ThesisClass {
    match primary {
        FailureMode::IncorrectContent => ThesisClass::IncorrectContent,
        FailureMode::CorruptedOutput | FailureMode::ErrorReply => ThesisClass::CorruptedOutput,
        FailureMode::ConnectionReset => ThesisClass::ConnectionReset,
        FailureMode::Hang => ThesisClass::Hang,
        FailureMode::ClientTimeout => ThesisClass::ClientTimeout,
        FailureMode::Degraded | FailureMode::NoEffect => ThesisClass::NoEffect,
    }
}

enum Silence {
    /// Nothing can come any more.
    HostCrashed,
    /// Fresh connections after the window were not answered either.
    ForEver,
    /// Some requests were not answered, others were.
    Passing,
}

fn silence(service: &ServiceObservation, all: &Observations) -> Option<Silence> {
    if crashed_within_window(all) && service.probes_answered == 0 {
        return Some(Silence::HostCrashed);
    }
    if service.probes_sent > 0 && service.probes_answered == 0 {
        return Some(Silence::ForEver);
    }
    let unanswered = service
        .after_flip
        .get(&Verdict::ClientTimeout)
        .copied()
        .unwrap_or(0);
    if unanswered == 0 {
        return None;
    }
    let answered: u64 = service
        .after_flip
        .iter()
        .filter(|(v, _)| !matches!(v, Verdict::ClientTimeout | Verdict::Unfinished))
        .map(|(_, n)| *n)
        .sum();
    if service.probes_sent == 0 && answered == 0 {
        Some(Silence::ForEver)
    } else {
        Some(Silence::Passing)
    }
}

fn crashed_within_window(all: &Observations) -> bool {
    if host_outcome(&all.host) != HostOutcome::Crashed || all.host.integrity.is_some() {
        return false;
    }
    match (all.host.panic_ns, all.flip_ns) {
        (Some(panic), Some(flip)) => panic < flip.saturating_add(all.window_ns),
        _ => true,
    }
}

fn outside_band(service: &ServiceObservation, band: &GoldenBand) -> Vec<&'static str> {
    let mut outside = Vec::new();
    if let Some(latency) = &service.latency {
        if latency.p50_ns > band.p50_max_ns {
            outside.push("latency_p50");
        }
        if latency.max_ns > band.max_max_ns {
            outside.push("latency_max");
        }
    }
    if service.throughput_rps < band.throughput_min_rps {
        outside.push("throughput");
    }
    outside
}

/// Answers that were not right and came after the flip, probes left out.
fn after_flip<'a>(
    service: &'a ServiceObservation,
    all: &Observations,
) -> impl Iterator<Item = &'a RequestRecord> {
    let flip = all.flip_ns.unwrap_or(0);
    service.not_right.iter().filter(move |r| {
        !r.probe && r.end_ns >= flip && !matches!(r.verdict, Verdict::Correct | Verdict::Unfinished)
    })
}

fn first_failure(service: &ServiceObservation, all: &Observations) -> Option<u64> {
    let flip = all.flip_ns?;
    after_flip(service, all).map(|r| r.end_ns - flip).min()
}

const fn cause_label(cause: ResetCause) -> &'static str {
    match cause {
        ResetCause::Refused => "refused",
        ResetCause::Reset => "reset",
        ResetCause::EarlyClose => "early_close",
    }
}
