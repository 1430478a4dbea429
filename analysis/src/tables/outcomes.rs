//! Failure modes, the thesis's classes, the host and the blast radius.

use super::window_words;
use crate::grid::{Cell, Column, Digits, Grid, Row, runs, share_cells};
use crate::rows::{Judged, RunRow, share_of};
use crate::stats::Share;
use serde::Serialize;
use std::collections::BTreeMap;
use xfi_model::{FailureMode, HostOutcome, ThesisClass};

/// Failure mode × (target, bystander), by the primary label.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutcomeTable {
    /// Every mode in the order of gravity.
    pub rows: Vec<OutcomeRow>,
    /// The denominator: injections that fired, or may have.
    pub total: u64,
    /// Of these, unjudged.
    pub unjudged: u64,
    /// The window W, nanoseconds.
    pub window_ns: u64,
    /// K: the snapshots that these runs started from.
    pub snapshots: u32,
    /// Runs of whose target or bystander more than one label holds.
    pub several_labels: u64,
}

/// One failure mode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutcomeRow {
    /// The mode.
    pub mode: FailureMode,
    /// Runs in which it is the target's primary label.
    pub target: Share,
    /// Runs in which it is among the target's labels.
    pub target_any: Share,
    /// Runs in which it is the primary label of the bystander worst hit.
    pub bystander: Share,
    /// Runs in which it is among any bystander's labels.
    pub bystander_any: Share,
}

type Side = fn(&RunRow) -> Option<&Judged>;
const TARGET: Side = |r| r.target.as_ref();
const BYSTANDER: Side = |r| r.bystander.as_ref();

impl OutcomeTable {
    pub(crate) fn new(counted: &[&RunRow], window_ns: u64, snapshots: u32) -> OutcomeTable {
        let primary = |side: Side, mode| {
            share_of(counted.iter().copied(), |r| {
                judged(r, side, |j| j.primary == mode)
            })
        };
        let any = |side: Side, mode| {
            share_of(counted.iter().copied(), |r| {
                judged(r, side, |j| j.labels.contains(&mode))
            })
        };
        let rows = FailureMode::ALL
            .iter()
            .map(|mode| OutcomeRow {
                mode: *mode,
                target: primary(TARGET, *mode),
                target_any: any(TARGET, *mode),
                bystander: primary(BYSTANDER, *mode),
                bystander_any: any(BYSTANDER, *mode),
            })
            .collect();
        let several = |r: &RunRow| {
            [TARGET(r), BYSTANDER(r)]
                .into_iter()
                .flatten()
                .any(|j| j.labels.len() > 1)
        };
        OutcomeTable {
            rows,
            total: counted.len() as u64,
            unjudged: counted
                .iter()
                .filter(|r| r.disposition == "unjudged")
                .count() as u64,
            window_ns,
            snapshots,
            several_labels: counted.iter().filter(|r| several(r)).count() as u64,
        }
    }

    /// The table by primary label: its shares sum to one.
    pub fn grid(&self) -> Grid {
        let mut columns = vec![Column::words("failure_mode", "failure mode")];
        columns.extend(Column::share(Some("target")));
        columns.extend(Column::share(Some("bystander")));
        let mut rows: Vec<_> = self
            .rows
            .iter()
            .map(|r| {
                let mut cells = vec![Cell::code(r.mode.label())];
                cells.extend(share_cells(&r.target));
                cells.extend(share_cells(&r.bystander));
                Row::body(cells)
            })
            .collect();
        let digits = Digits::for_total(self.total);
        let whole = |name, n: u64, total: u64| {
            let share = Cell::Percent((total > 0).then(|| n as f64 / total as f64), digits);
            let three = [Cell::Count(n), share, Cell::Empty];
            let mut cells = vec![Cell::text(name)];
            cells.extend(three.clone());
            cells.extend(three);
            cells
        };
        if self.unjudged > 0 {
            rows.push(Row::body(whole("unjudged", self.unjudged, self.total)));
        }
        rows.push(Row::total(whole(
            "injections that fired",
            self.total,
            self.total,
        )));
        let mut notes = vec![format!(
            "no_effect: none within {}. Intervals are Clopper-Pearson's, conditional on the {} \
             snapshots used.",
            window_words(self.window_ns),
            self.snapshots
        )];
        if self.unjudged > 0 {
            notes.push(
                "Unjudged runs stay in the denominator; each interval spans counting them as \
                 this outcome and as any other."
                    .to_owned(),
            );
        }
        if self.rows.iter().any(|r| r.target.weighted) {
            notes.push(
                "Shares are weighted by the fault space each run stands for; counts are plain."
                    .to_owned(),
            );
        }
        if self.several_labels > 0 {
            notes.push(format!(
                "{} with several labels; here each counts once, under its gravest.",
                runs(self.several_labels)
            ));
        }
        Grid {
            id: "outcomes",
            title: "What the clients saw".to_owned(),
            columns,
            rows,
            notes,
        }
    }

    /// The table by all labels: a run may count more than once.
    pub fn labels_grid(&self) -> Grid {
        let mut columns = vec![Column::words("failure_mode", "label")];
        columns.extend(Column::share(Some("target")));
        columns.extend(Column::share(Some("bystander")));
        let rows = self
            .rows
            .iter()
            .map(|r| {
                let mut cells = vec![Cell::code(r.mode.label())];
                cells.extend(share_cells(&r.target_any));
                cells.extend(share_cells(&r.bystander_any));
                Row::body(cells)
            })
            .collect();
        Grid {
            id: "labels",
            title: "All labels".to_owned(),
            columns,
            rows,
            notes: vec![format!(
                "A run counts under each of its labels, so that shares may sum to more than \
                 100 %. Of {} injections that fired.",
                self.total
            )],
        }
    }
}

fn judged(row: &RunRow, side: Side, test: impl Fn(&Judged) -> bool) -> Option<bool> {
    // A judged run without a bystander has no bystander that failed.
    row.host.map(|_| side(row).is_some_and(test))
}

/// The thesis's classes (§4.2).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ThesisTable {
    /// Each class.
    pub rows: Vec<ThesisRow>,
    /// The denominator.
    pub total: u64,
}

/// One of the thesis's classes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ThesisRow {
    /// The class.
    pub class: ThesisClass,
    /// As the thesis prints it.
    pub name: &'static str,
    /// Runs whose target is in it.
    pub target: Share,
    /// Runs whose bystander worst hit is in it.
    pub bystander: Share,
}

const CLASSES: &[(ThesisClass, &str)] = &[
    (ThesisClass::IncorrectContent, "Incorrect content"),
    (ThesisClass::CorruptedOutput, "Corrupted output"),
    (ThesisClass::ConnectionReset, "Connection reset"),
    (ThesisClass::ClientTimeout, "Client-side timeout"),
    (ThesisClass::Hang, "Hang"),
    (ThesisClass::NoEffect, "No effect"),
];

impl ThesisTable {
    pub(crate) fn new(counted: &[&RunRow]) -> ThesisTable {
        let of = |side: Side, class| {
            share_of(counted.iter().copied(), |r| {
                judged(r, side, |j| j.class_thesis == class)
            })
        };
        ThesisTable {
            rows: CLASSES
                .iter()
                .map(|(class, name)| ThesisRow {
                    class: *class,
                    name,
                    target: of(TARGET, *class),
                    bystander: of(BYSTANDER, *class),
                })
                .collect(),
            total: counted.len() as u64,
        }
    }

    /// The table.
    pub fn grid(&self) -> Grid {
        let mut columns = vec![Column::words("class", "class")];
        columns.extend(Column::share(Some("target")));
        columns.extend(Column::share(Some("bystander")));
        let rows = self
            .rows
            .iter()
            .map(|r| {
                let mut cells = vec![Cell::text(r.name)];
                cells.extend(share_cells(&r.target));
                cells.extend(share_cells(&r.bystander));
                Row::body(cells)
            })
            .collect();
        Grid {
            id: "thesis",
            title: "The same in the thesis's classes".to_owned(),
            columns,
            rows,
            notes: vec![format!(
                "Of {} injections that fired. The class follows from the gravest label; an error \
                 reply is corrupted output, and a merely degraded service no effect.",
                self.total
            )],
        }
    }
}

/// The host's state at the end of the runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HostTable {
    /// Each state.
    pub rows: Vec<HostRow>,
    /// The thesis's "unresponsive": ours and crashed together.
    pub unresponsive_thesis: Share,
    /// The denominator.
    pub total: u64,
}

/// One state of the host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HostRow {
    /// The state.
    pub state: HostOutcome,
    /// Runs that ended with it.
    pub share: Share,
}

impl HostTable {
    pub(crate) fn new(counted: &[&RunRow]) -> HostTable {
        let of = |test: &dyn Fn(HostOutcome) -> bool| {
            share_of(counted.iter().copied(), |r| r.host.map(test))
        };
        let states = [
            HostOutcome::Responsive,
            HostOutcome::Unresponsive,
            HostOutcome::Crashed,
        ];
        HostTable {
            rows: states
                .into_iter()
                .map(|state| HostRow {
                    state,
                    share: of(&|h| h == state),
                })
                .collect(),
            unresponsive_thesis: of(&|h| h != HostOutcome::Responsive),
            total: counted.len() as u64,
        }
    }

    /// The table.
    pub fn grid(&self) -> Grid {
        let mut columns = vec![Column::words("host", "host")];
        columns.extend(Column::share(None));
        let row = |cell: Cell, share: &Share| {
            let mut cells = vec![cell];
            cells.extend(share_cells(share));
            cells
        };
        let mut rows: Vec<_> = self
            .rows
            .iter()
            .map(|r| Row::body(row(Cell::code(r.state.label()), &r.share)))
            .collect();
        rows.push(Row::total(row(
            Cell::text("not responsive"),
            &self.unresponsive_thesis,
        )));
        Grid {
            id: "host",
            title: "The host, by its integrity test".to_owned(),
            columns,
            rows,
            notes: vec![format!(
                "Of {} injections that fired. Not responsive: the thesis's \"unresponsive\".",
                self.total
            )],
        }
    }
}

/// Which of target, bystanders and host failed together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BlastTable {
    /// The combinations seen, and "nobody".
    pub rows: Vec<BlastRow>,
}

/// One combination.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BlastRow {
    /// Who failed, in words.
    pub who: String,
    /// Runs.
    pub share: Share,
}

impl BlastTable {
    pub(crate) fn new(counted: &[&RunRow]) -> BlastTable {
        let mut seen: BTreeMap<_, ()> = BTreeMap::new();
        for radius in counted.iter().filter_map(|r| r.blast_radius) {
            seen.insert((radius.host, radius.bystanders, radius.target), ());
        }
        let rows = seen
            .into_keys()
            .map(|(host, bystanders, target)| {
                let names: Vec<_> = [
                    (target, "target"),
                    (bystanders, "bystander"),
                    (host, "host"),
                ]
                .into_iter()
                .filter_map(|(failed, name)| failed.then_some(name))
                .collect();
                let who = if names.is_empty() {
                    "nobody".into()
                } else {
                    names.join(" + ")
                };
                let share = share_of(counted.iter().copied(), |r| {
                    r.blast_radius
                        .map(|b| (b.host, b.bystanders, b.target) == (host, bystanders, target))
                });
                BlastRow { who, share }
            })
            .collect();
        BlastTable { rows }
    }

    /// The table.
    pub fn grid(&self) -> Grid {
        let mut columns = vec![Column::words("who", "who failed")];
        columns.extend(Column::share(None));
        let rows = self
            .rows
            .iter()
            .map(|r| {
                let mut cells = vec![Cell::text(r.who.clone())];
                cells.extend(share_cells(&r.share));
                Row::body(cells)
            })
            .collect();
        Grid {
            id: "blast-radius",
            title: "Blast radius".to_owned(),
            columns,
            rows,
            notes: vec![
                "A domain failed when its clients saw any failure (a degraded service is one) or \
                 it ended crashed; the host when it was not responsive."
                    .to_owned(),
            ],
        }
    }
}
