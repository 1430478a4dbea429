//! Every planned run accounted for.

use crate::grid::{Cell, Column, Grid, Row, runs};
use crate::rows::RunRow;
use serde::Serialize;
use xfi_model::RunKind;

/// How the planned runs ended; the rows sum to what was planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DispositionTable {
    /// One row a disposition, in a fixed order; those nobody has are left out.
    pub rows: Vec<DispositionRow>,
    /// What was planned.
    pub planned: DispositionRow,
    /// Runs that took more than one attempt.
    pub retried: u64,
    /// Why runs were not judged: reason and count, the commonest first.
    pub reasons: Vec<(String, u64)>,
}

/// Runs of each kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DispositionRow {
    /// The disposition, or `planned`.
    pub disposition: &'static str,
    /// Injections.
    pub injection: u64,
    /// Dummy runs.
    pub dummy: u64,
    /// Golden runs.
    pub golden: u64,
}

impl DispositionRow {
    fn count(disposition: &'static str, rows: &[&RunRow]) -> DispositionRow {
        let of = |kind| rows.iter().filter(|r| r.kind == kind).count() as u64;
        DispositionRow {
            disposition,
            injection: of(RunKind::Injection),
            dummy: of(RunKind::Dummy),
            golden: of(RunKind::Golden),
        }
    }

    /// All kinds together.
    pub fn total(&self) -> u64 {
        self.injection + self.dummy + self.golden
    }
}

/// Each disposition with what it means, in the order of the table.
const DISPOSITIONS: &[(&str, &str)] = &[
    ("fired", "judged below"),
    ("golden", "judged; no injection"),
    ("dummy", "judged; all but the flip"),
    ("unjudged", "fired or may have; stays in the denominator"),
    ("not_fired", "no matching event before it expired"),
    ("invalid", "something before the flip was wrong"),
    ("harness_error", "failed before the flip"),
    ("not_run", "planned, not begun"),
];

impl DispositionTable {
    pub(crate) fn new(rows: &[RunRow]) -> DispositionTable {
        let table = DISPOSITIONS
            .iter()
            .map(|(name, _)| {
                let of: Vec<_> = rows.iter().filter(|r| r.disposition == *name).collect();
                DispositionRow::count(name, &of)
            })
            .filter(|r| r.total() > 0)
            .collect();
        let mut reasons = std::collections::BTreeMap::new();
        for r in rows {
            if let Some(reason) = &r.reason {
                *reasons
                    .entry(format!("{}: {reason}", r.disposition))
                    .or_insert(0) += 1;
            }
        }
        let mut reasons: Vec<_> = reasons.into_iter().collect();
        reasons.sort_by(|a: &(String, u64), b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        DispositionTable {
            rows: table,
            planned: DispositionRow::count("planned", &rows.iter().collect::<Vec<_>>()),
            retried: rows.iter().filter(|r| r.attempts > 1).count() as u64,
            reasons,
        }
    }

    /// Runs with this disposition, of all kinds.
    pub fn total_of(&self, disposition: &str) -> u64 {
        self.rows
            .iter()
            .find(|r| r.disposition == disposition)
            .map_or(0, DispositionRow::total)
    }

    /// The table.
    pub fn grid(&self) -> Grid {
        let cells = |r: &DispositionRow, means: &str| {
            [
                Cell::code(r.disposition),
                Cell::Count(r.injection),
                Cell::Count(r.dummy),
                Cell::Count(r.golden),
                Cell::Count(r.total()),
                Cell::text(means),
            ]
        };
        let means = |name: &str| {
            DISPOSITIONS
                .iter()
                .find(|(n, _)| *n == name)
                .map_or("", |(_, m)| *m)
        };
        let mut rows: Vec<_> = self
            .rows
            .iter()
            .map(|r| Row::body(cells(r, means(r.disposition))))
            .collect();
        rows.push(Row::total(cells(&self.planned, "")));
        let mut notes = Vec::new();
        if self.retried > 0 {
            notes.push(format!(
                "{} took more than one attempt; only attempts that cannot have fired are \
                 repeated.",
                runs(self.retried)
            ));
        }
        Grid {
            id: "dispositions",
            title: "Every planned run".to_owned(),
            columns: vec![
                Column::words("disposition", "ended"),
                Column::numbers("injection", "injections"),
                Column::numbers("dummy", "dummy"),
                Column::numbers("golden", "golden"),
                Column::numbers("total", "all"),
                Column::words("meaning", "meaning"),
            ],
            rows,
            notes,
        }
    }
}
