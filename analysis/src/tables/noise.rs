//! What golden and dummy runs say about the measurement itself.
//!
//! A label counts as above noise only when the lower bound of its share among
//! injections exceeds the upper bound of its share among dummy runs (DESIGN
//! §7). Both are 95 % bounds, so that the test is conservative.

use crate::grid::{Cell, Column, Digits, Grid, Row, share_cells};
use crate::rows::{RunRow, share_of};
use crate::stats::{CONFIDENCE, Interval, Share, controls_needed};
use serde::Serialize;
use xfi_model::{FailureMode, RunKind};

/// False failures, unjudged rates, and each label against the dummy runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NoiseTable {
    /// Golden and dummy runs in which anything failed, of those judged.
    pub false_failures: Share,
    /// The same, golden runs alone.
    pub golden: Share,
    /// The same, dummy runs alone.
    pub dummy: Share,
    /// Unjudged among injections that fired, or may have.
    pub unjudged_injections: Share,
    /// Unjudged among dummy runs that fired, or may have.
    pub unjudged_dummies: Share,
    /// Each failure mode that any injection's target showed.
    pub labels: Vec<LabelNoise>,
}

/// One label of the target against the dummy runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LabelNoise {
    /// The label.
    pub mode: FailureMode,
    /// Its share among injections.
    pub injections: Share,
    /// Its share among dummy runs.
    pub dummies: Share,
    /// Whether its lower bound exceeds the dummy runs' upper bound.
    pub above_noise: bool,
    /// Dummy runs, none of which shows it, that would put it above noise at
    /// its present lower bound.
    pub dummies_needed: Option<u64>,
}

impl NoiseTable {
    pub(crate) fn new(rows: &[RunRow], counted: &[&RunRow]) -> NoiseTable {
        let judged = |kind: RunKind| {
            rows.iter()
                .filter(move |r| r.kind == kind && r.is_control())
        };
        let may_have_fired: Vec<&RunRow> = rows
            .iter()
            .filter(|r| r.kind == RunKind::Dummy && matches!(r.disposition, "dummy" | "unjudged"))
            .collect();
        let unjudged = |r: &RunRow| Some(r.disposition == "unjudged");
        let has = |mode: FailureMode| {
            move |r: &RunRow| {
                r.host
                    .map(|_| r.target.as_ref().is_some_and(|j| j.labels.contains(&mode)))
            }
        };
        let labels = FailureMode::ALL
            .iter()
            .copied()
            .filter(|mode| mode.is_failure())
            .map(|mode| {
                let injections = share_of(counted.iter().copied(), has(mode));
                let dummies = share_of(judged(RunKind::Dummy), has(mode));
                LabelNoise {
                    mode,
                    above_noise: injections.interval.lo > dummies.interval.hi,
                    dummies_needed: controls_needed(injections.interval.lo, CONFIDENCE),
                    injections,
                    dummies,
                }
            })
            .filter(|l| l.injections.count > 0)
            .collect();
        NoiseTable {
            false_failures: share_of(rows.iter().filter(|r| r.is_control()), RunRow::failed),
            golden: share_of(judged(RunKind::Golden), RunRow::failed),
            dummy: share_of(judged(RunKind::Dummy), RunRow::failed),
            unjudged_injections: share_of(counted.iter().copied(), unjudged),
            unjudged_dummies: share_of(may_have_fired, unjudged),
            labels,
        }
    }

    /// False failures and unjudged rates.
    pub fn grid(&self) -> Grid {
        let mut columns = vec![Column::words("what", ""), Column::numbers("of", "of")];
        columns.extend(Column::share(None));
        let row = |what: &str, share: &Share| {
            let mut cells = vec![Cell::text(what), Cell::Count(share.total)];
            cells.extend(share_cells(share));
            Row::body(cells)
        };
        Grid {
            id: "noise",
            title: "The measurement itself".to_owned(),
            columns,
            rows: vec![
                row("false failures, golden and dummy", &self.false_failures),
                row("false failures, golden", &self.golden),
                row("false failures, dummy", &self.dummy),
                row("unjudged, injections", &self.unjudged_injections),
                row("unjudged, dummy", &self.unjudged_dummies),
            ],
            notes: Vec::new(),
        }
    }

    /// Labels against the dummy runs.
    pub fn labels_grid(&self) -> Grid {
        let bound = |i: Interval, total: u64, low: bool| {
            Cell::Percent(
                Some(if low { i.lo } else { i.hi }),
                Digits::for_total(total),
            )
        };
        let rows = self
            .labels
            .iter()
            .map(|l| {
                Row::body([
                    Cell::code(l.mode.label()),
                    Cell::Count(l.injections.count),
                    bound(l.injections.interval, l.injections.total, true),
                    Cell::Count(l.dummies.count),
                    bound(l.dummies.interval, l.dummies.total, false),
                    l.dummies_needed.map_or(Cell::Empty, Cell::Count),
                    Cell::text(if l.above_noise { "yes" } else { "no" }),
                ])
            })
            .collect();
        Grid {
            id: "above-noise",
            title: "Is each label above the noise?".to_owned(),
            columns: vec![
                Column::words("label", "label of the target"),
                Column::grouped("injections", "injections", "runs"),
                Column::grouped("injections_lower", "injections", "at least %"),
                Column::grouped("dummies", "dummy", "runs"),
                Column::grouped("dummies_upper", "dummy", "at most %"),
                Column::grouped("dummies_needed", "dummy", "needed"),
                Column::words("above_noise", "above"),
            ],
            rows,
            notes: vec![
                "Above: the lower bound of its share among injections exceeds the upper bound of its \
                 share among dummy runs. Needed: so many dummy runs without it would show that."
                    .to_owned(),
            ],
        }
    }
}
