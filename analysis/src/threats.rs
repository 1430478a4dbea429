//! What to distrust, computed from the campaign's own data.

use crate::analysis::{Analysis, ROBUST_FROM};
use crate::data::CampaignData;
use crate::grid::{Digits, percent, runs, share_words};
use crate::stats::clopper_pearson;
use serde::Serialize;
use xfi_model::RunKind;

/// One reason for doubt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Threat {
    /// How much it matters.
    pub level: Level,
    /// In a few words.
    pub title: String,
    /// What the data show, and what to do about it.
    pub text: String,
}

/// How much a threat matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The numbers should not be published as they are.
    Serious,
    /// They hold with this said beside them.
    Caution,
    /// Worth knowing.
    Note,
}

/// Below this many counted injections a campaign is a trial.
const FEW_RUNS: u64 = 100;
/// A control upper bound above this leaves small failure shares unproven.
const LOOSE_CONTROL: f64 = 0.05;

/// More dummy runs than this are no advice.
const MANY_DUMMIES: u64 = 2000;

fn dummies(n: u64) -> String {
    if n == 1 {
        "1 dummy run".to_owned()
    } else {
        format!("{n} dummy runs")
    }
}

pub(crate) fn threats(a: &Analysis, data: &CampaignData) -> Vec<Threat> {
    let mut list = List(Vec::new());
    measurement(a, &mut list);
    sampling(a, data, &mut list);
    completeness(a, &mut list);
    provenance(a, data, &mut list);
    list.0.sort_by_key(|t| t.level);
    list.0
}

struct List(Vec<Threat>);

impl List {
    fn push(&mut self, level: Level, title: &str, text: String) {
        self.0.push(Threat {
            level,
            title: title.to_owned(),
            text,
        });
    }
}

fn measurement(a: &Analysis, list: &mut List) {
    let noise = &a.noise;
    let controls = noise.false_failures;
    if controls.count > 0 {
        list.push(
            Level::Serious,
            "False failures",
            format!(
                "{} of {} runs without a flip failed ({}). Some failures of injected runs are the \
                 testbed's own.",
                controls.count,
                controls.total,
                share_words(&controls)
            ),
        );
    } else if controls.total == 0 {
        list.push(
            Level::Serious,
            "No control runs",
            "No golden or dummy run was judged: nothing tells effects from noise.".to_owned(),
        );
    } else if controls.interval.hi > LOOSE_CONTROL {
        list.push(
            Level::Caution,
            "Few control runs",
            format!(
                "None of {} golden and dummy runs failed, which still allows a false-failure rate \
                 up to {} %.",
                controls.total,
                percent(controls.interval.hi, Digits::for_total(controls.total))
            ),
        );
    }
    let below: Vec<_> = noise.labels.iter().filter(|l| !l.above_noise).collect();
    if !below.is_empty() {
        let names: Vec<_> = below
            .iter()
            .map(|l| match l.dummies_needed {
                Some(n) if n <= MANY_DUMMIES => format!("{} ({n} dummy runs needed)", l.mode),
                _ => format!("{} (seen too rarely)", l.mode),
            })
            .collect();
        list.push(
            Level::Caution,
            "Labels not shown to be above noise",
            format!(
                "{}. There are {}.",
                names.join(", "),
                dummies(noise.dummy.total)
            ),
        );
    }
    let unjudged = noise.unjudged_injections;
    if unjudged.count > 0 {
        let level = if unjudged.share.unwrap_or(0.0) > 0.05 {
            Level::Serious
        } else {
            Level::Caution
        };
        list.push(
            level,
            "Unjudged runs",
            format!(
                "{} of {} injections fired, or may have, and could not be judged ({}); of dummy \
                 runs {} of {}. They stay in the denominator and widen every interval.",
                unjudged.count,
                unjudged.total,
                share_words(&unjudged),
                noise.unjudged_dummies.count,
                noise.unjudged_dummies.total
            ),
        );
    }
}

fn sampling(a: &Analysis, data: &CampaignData, list: &mut List) {
    let h = &a.headline;
    if h.fired < FEW_RUNS {
        let unseen = clopper_pearson(0, h.fired, crate::stats::CONFIDENCE).hi;
        list.push(
            Level::Caution,
            "Few runs",
            format!(
                "{} injections fired. An outcome that was not seen once may still have a share up \
                 to {} %.",
                h.fired,
                percent(unseen, Digits::for_total(h.fired))
            ),
        );
    }
    if h.fired > 0 && h.snapshots < ROBUST_FROM {
        list.push(
            Level::Caution,
            "Few snapshots",
            format!(
                "The runs started from {} warmed snapshot{}; intervals hold for these alone. What \
                 is to be published should draw from {ROBUST_FROM} or more. {}",
                h.snapshots,
                if h.snapshots == 1 { "" } else { "s" },
                h.robust_words()
            ),
        );
    } else if let Some(effect) = h.failed_robust.and_then(|r| r.design_effect)
        && effect > 2.0
    {
        list.push(
            Level::Caution,
            "Runs cluster by snapshot",
            format!("{} Read the robust interval.", h.robust_words()),
        );
    }
    if let (Some(share), Some(row)) = (a.rip.commonest_share, a.rip.rows.first())
        && a.rip.total >= 10
        && share > 0.2
    {
        let place = row.symbol.clone().unwrap_or_else(|| row.rip.to_string());
        list.push(
            if share > 0.4 {
                Level::Serious
            } else {
                Level::Caution
            },
            "Flips concentrate on one instruction",
            format!(
                "{} of {} flips ({} %) hit {place}. The moments are uniform in time, so this is \
                 where the vCPU spends it or where it is switched in; the shares are dominated \
                 by what this instruction does with its registers.",
                row.runs,
                a.rip.total,
                percent(share, Digits::for_total(a.rip.total))
            ),
        );
    }
    let timing = &data.plan.timing;
    if timing.moments_ns < 10 * timing.golden_period_ns {
        list.push(
            Level::Caution,
            "Moments cover few requests",
            format!(
                "Flips were drawn over {} s, {:.1} golden request periods; ten or more keep the \
                 phase of a request from deciding the outcome.",
                crate::tables::seconds(timing.moments_ns),
                timing.moments_ns as f64 / timing.golden_period_ns.max(1) as f64
            ),
        );
    }
}

fn completeness(a: &Analysis, list: &mut List) {
    let injections = |name: &str| {
        a.runs
            .iter()
            .filter(|r| r.kind == RunKind::Injection && r.disposition == name)
            .count() as u64
    };
    let (not_fired, planned) = (injections("not_fired"), a.headline.injections);
    let share = not_fired as f64 / planned.max(1) as f64;
    if not_fired > 0 {
        list.push(
            if share > 0.2 {
                Level::Serious
            } else if share > 0.05 {
                Level::Caution
            } else {
                Level::Note
            },
            "Injections that did not fire",
            format!(
                "{not_fired} of {planned}. Shares are of those that fired; moments at which the \
                 vCPU was idle or outside the filter are under-represented."
            ),
        );
    }
    let invalid = a.dispositions.total_of("invalid");
    if invalid > 0 {
        list.push(
            Level::Caution,
            "Invalid runs",
            format!(
                "{} left out for what preceded the flip; see the run list.",
                runs(invalid)
            ),
        );
    }
    let errors = a.dispositions.total_of("harness_error");
    let retried = a.dispositions.retried;
    if errors + retried > 0 {
        list.push(
            Level::Note,
            "Dropped and repeated runs",
            format!(
                "The harness failed {} before the flip; {} took more than one attempt.",
                runs(errors),
                runs(retried)
            ),
        );
    }
    let not_run = a.dispositions.total_of("not_run");
    if not_run > 0 {
        list.push(
            Level::Serious,
            "The campaign is not finished",
            format!(
                "{not_run} of {} planned runs were not begun. Intervals assume that stopping did \
                 not depend on the outcomes.",
                a.headline.planned
            ),
        );
    }
}

fn provenance(a: &Analysis, data: &CampaignData, list: &mut List) {
    let judged = data.results.iter().filter(|r| r.harness_error.is_none());
    let without_band = judged
        .filter(|r| {
            r.observations
                .services
                .iter()
                .any(|s| s.golden_band.is_none())
        })
        .count();
    if without_band > 0 {
        list.push(
            Level::Note,
            "No golden band",
            format!(
                "{} without one: a degraded service was not looked for.",
                runs(without_band as u64)
            ),
        );
    }
    if let Some(qemu) = &a.manifest.qemu_version {
        list.push(
            Level::Note,
            "Emulated hardware",
            format!(
                "The host ran in QEMU {qemu}: no caches and no real timing. Absolute latencies, \
                 and shares that depend on them, are this testbed's."
            ),
        );
    }
    if a.manifest.git_dirty {
        list.push(
            Level::Note,
            "Built from changed sources",
            "xfi was built from a tree with uncommitted changes: it cannot be rebuilt exactly."
                .to_owned(),
        );
    }
}
