//! Running counts for a live view.

use std::collections::BTreeMap;
use std::fmt;
use xfi_model::{Disposition, FailureMode, HostOutcome, Outcome};

/// What finished runs came to so far. Order does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs planned.
    pub planned: u64,
    /// Runs finished.
    pub done: u64,
    /// Injections judged.
    pub fired: u64,
    /// Golden and dummy runs judged.
    pub controls: u64,
    /// Golden and dummy runs in which anything failed.
    pub false_failures: u64,
    /// Injections by the target's primary label, failures only.
    pub target: BTreeMap<FailureMode, u64>,
    /// Injections in which a bystander failed.
    pub bystander_failed: u64,
    /// Injections after which the host was not responsive.
    pub host_failed: u64,
    /// Runs that did not fire.
    pub not_fired: u64,
    /// Runs that were invalid.
    pub invalid: u64,
    /// Runs that the harness failed.
    pub harness_errors: u64,
    /// Runs that fired, or may have, and could not be judged.
    pub unjudged: u64,
}

impl Tally {
    /// A tally of no run yet.
    pub fn new(planned: u64) -> Tally {
        Tally {
            planned,
            ..Tally::default()
        }
    }

    /// Counts one run's end.
    pub fn add(&mut self, outcome: &Outcome) {
        self.done += 1;
        match outcome.disposition {
            Disposition::Golden | Disposition::Dummy => {
                self.controls += 1;
                let failed = outcome
                    .blast_radius
                    .is_some_and(|b| b.target || b.bystanders || b.host);
                self.false_failures += u64::from(failed);
            }
            Disposition::Fired => {
                self.fired += 1;
                let worst = outcome
                    .services
                    .iter()
                    .filter(|s| s.is_target)
                    .map(|s| s.primary);
                if let Some(mode) = worst.min().filter(|m| m.is_failure()) {
                    *self.target.entry(mode).or_insert(0) += 1;
                }
                let radius = outcome.blast_radius;
                self.bystander_failed += u64::from(radius.is_some_and(|b| b.bystanders));
                let host = outcome.host.is_some_and(|h| h != HostOutcome::Responsive);
                self.host_failed += u64::from(host);
            }
            Disposition::NotFired { .. } => self.not_fired += 1,
            Disposition::Invalid { .. } => self.invalid += 1,
            Disposition::HarnessError { .. } => self.harness_errors += 1,
            Disposition::Unjudged { .. } => self.unjudged += 1,
        }
    }
}

/// One line: `24/50 runs · 18 fired · 3 hang · 1 incorrect_content · …`.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{} runs · {} fired",
            self.done, self.planned, self.fired
        )?;
        for (mode, count) in &self.target {
            write!(f, " · {count} {mode}")?;
        }
        for (count, what) in [
            (self.bystander_failed, "bystander failed"),
            (self.host_failed, "host failed"),
            (self.false_failures, "FALSE FAILURES"),
            (self.not_fired, "not fired"),
            (self.invalid, "invalid"),
            (self.harness_errors, "harness errors"),
            (self.unjudged, "unjudged"),
        ] {
            if count > 0 {
                write!(f, " · {count} {what}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use xfi_model::{BlastRadius, ServiceOutcome, ThesisClass};

    fn outcome(disposition: Disposition, mode: FailureMode) -> Outcome {
        let failed = mode.is_failure();
        Outcome {
            disposition,
            services: vec![ServiceOutcome {
                guest: "web1".to_owned(),
                is_target: true,
                labels: BTreeSet::from([mode]),
                sub_labels: BTreeSet::new(),
                primary: mode,
                class_thesis: ThesisClass::NoEffect,
                first_failure_after_ns: None,
            }],
            host: Some(HostOutcome::Responsive),
            blast_radius: Some(BlastRadius {
                target: failed,
                bystanders: false,
                host: false,
            }),
        }
    }

    #[test]
    fn counts_do_not_depend_on_order_and_false_failures_stand_out() {
        let runs = [
            outcome(Disposition::Fired, FailureMode::Hang),
            outcome(Disposition::Fired, FailureMode::NoEffect),
            outcome(Disposition::Golden, FailureMode::Hang),
            outcome(Disposition::Dummy, FailureMode::NoEffect),
            outcome(
                Disposition::Unjudged {
                    reason: String::new(),
                },
                FailureMode::NoEffect,
            ),
        ];
        let (mut forth, mut back) = (Tally::new(9), Tally::new(9));
        runs.iter().for_each(|r| forth.add(r));
        runs.iter().rev().for_each(|r| back.add(r));
        assert_eq!(forth, back);
        assert_eq!(
            forth.to_string(),
            "5/9 runs · 2 fired · 1 hang · 1 FALSE FAILURES · 1 unjudged"
        );
    }
}
