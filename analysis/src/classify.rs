//! From a run's record to its outcome (DESIGN §6; thesis §4.2).
//!
//! [`classify`] is pure and total: the same record gives the same outcome on
//! any machine at any time, whatever order the services, answers and labels
//! were written in. It never looks at a clock, a file or another run.
//!
//! # Disposition
//! In this order, the first that holds:
//!
//! 1. `invalid`: a validator's reason, a wrong answer *before* the flip, or an
//!    injection record that is not of the planned fault or changed other bits
//!    than asked. All of these precede the fault's effects: judging a run
//!    invalid by what the fault did would select the outcomes. Golden and
//!    dummy runs are held to the same rule at their drawn moment, so that they
//!    stay a fair control.
//! 2. the harness failed: `harness_error` when the flip cannot have happened,
//!    `unjudged` when it had or may have.
//! 3. `not_fired`: Xen says it expired, was disarmed, or its target went away.
//! 4. `unjudged`: it fired, but there is nothing to judge it by (no services
//!    seen, a driver's log without its end, no moment to divide the answers
//!    at, no request at all).
//! 5. `golden`, `dummy` or `fired`, with labels.
//!
//! A host that died before Xen's record could be read has no record. When the
//! fault was armed (`may_have_fired`), the harness did not fail and the host
//! did not pass its integrity test, the run counts as fired: the silence is
//! the effect. When the host did pass, a missing record is the harness's fault
//! and the run is unjudged.

mod disposition;
mod service;

pub(crate) use service::{primary, thesis_class};

use disposition::Standing;
use xfi_model::{
    BlastRadius, Disposition, DomainState, HostObservation, HostOutcome, Outcome, RunKind,
    RunRecord, ServiceOutcome,
};

/// What a run came to. A function of the record alone.
pub fn classify(record: &RunRecord) -> Outcome {
    let disposition = match disposition::standing(record) {
        Standing::Judgeable => match record.planned.kind {
            RunKind::Golden => Disposition::Golden,
            RunKind::Dummy => Disposition::Dummy,
            RunKind::Injection => Disposition::Fired,
        },
        Standing::Ends(disposition) => {
            return Outcome {
                disposition,
                services: Vec::new(),
                host: None,
                blast_radius: None,
            };
        }
    };
    let mut services: Vec<ServiceOutcome> = record
        .observations
        .services
        .iter()
        .map(|s| service::judge(s, &record.observations))
        .collect();
    services.sort_by(|a, b| {
        b.is_target
            .cmp(&a.is_target)
            .then_with(|| a.guest.cmp(&b.guest))
    });
    let host = host_outcome(&record.observations.host);
    let blast_radius = blast_radius(record, &services, host);
    Outcome {
        disposition,
        services,
        host: Some(host),
        blast_radius: Some(blast_radius),
    }
}

/// The host's state. The thesis's "unresponsive" is our `unresponsive` and
/// `crashed` together.
pub(crate) fn host_outcome(host: &HostObservation) -> HostOutcome {
    if host.panic_line.is_some() || host.guest_reset {
        HostOutcome::Crashed
    } else if host.integrity.as_ref().is_some_and(|i| i.passed()) {
        HostOutcome::Responsive
    } else {
        HostOutcome::Unresponsive
    }
}

/// Who failed. A domain failed when its service has any label that
/// [`xfi_model::FailureMode::is_failure`] counts (`degraded` is one), or when
/// the host saw it end crashed; the host failed when it is not responsive.
fn blast_radius(record: &RunRecord, services: &[ServiceOutcome], host: HostOutcome) -> BlastRadius {
    let target_domain = record
        .planned
        .fault
        .as_ref()
        .and_then(|f| f.location.domain());
    let is_target = |name: &str| {
        target_domain == Some(name) || services.iter().any(|s| s.is_target && s.guest == name)
    };
    let mut radius = BlastRadius {
        target: false,
        bystanders: false,
        host: host != HostOutcome::Responsive,
    };
    let failed_services = services
        .iter()
        .filter(|s| s.primary.is_failure())
        .map(|s| s.guest.as_str());
    let crashed_domains = record
        .observations
        .host
        .domains
        .iter()
        .filter(|d| d.state == DomainState::Crashed)
        .map(|d| d.name.as_str());
    for name in failed_services.chain(crashed_domains) {
        if is_target(name) {
            radius.target = true;
        } else {
            radius.bystanders = true;
        }
    }
    radius
}
