//! Failures by register, by bit, and by what the vCPU was executing.

use crate::grid::{Cell, Column, Grid, Row, share_cells};
use crate::rows::{RunRow, share_of};
use crate::stats::Share;
use serde::Serialize;
use std::collections::BTreeMap;
use xfi_model::{FailureMode, GuestMode, Register};

/// Failure share by register, with the heatmap's cells.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegisterTable {
    /// One row a register that was hit, in the order of the ABI.
    pub rows: Vec<RegisterRow>,
    /// One cell a (register, bit) that was hit.
    pub cells: Vec<BitCell>,
}

/// One register.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegisterRow {
    /// The register.
    pub register: Register,
    /// Runs in which anything failed: target, bystander or host.
    pub failed: Share,
    /// Runs by the target's primary label, failures only.
    pub modes: BTreeMap<FailureMode, u64>,
}

/// Runs that hit one bit of one register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BitCell {
    /// The register.
    pub register: Register,
    /// The bit.
    pub bit: u32,
    /// Runs that fired, or may have.
    pub runs: u64,
    /// Runs in which anything failed.
    pub failed: u64,
    /// Runs that were not judged.
    pub unjudged: u64,
}

impl RegisterTable {
    pub(crate) fn new(counted: &[&RunRow]) -> RegisterTable {
        let mut by_register: BTreeMap<Register, Vec<&RunRow>> = BTreeMap::new();
        let mut by_bit: BTreeMap<(Register, u32), BitCell> = BTreeMap::new();
        for row in counted {
            let Some(register) = row.register else {
                continue;
            };
            by_register.entry(register).or_default().push(row);
            let Some(bit) = row.bit else { continue };
            let cell = by_bit.entry((register, bit)).or_insert(BitCell {
                register,
                bit,
                runs: 0,
                failed: 0,
                unjudged: 0,
            });
            cell.runs += 1;
            match row.failed() {
                Some(true) => cell.failed += 1,
                Some(false) => {}
                None => cell.unjudged += 1,
            }
        }
        let rows = by_register
            .into_iter()
            .map(|(register, rows)| {
                let mut modes = BTreeMap::new();
                for judged in rows.iter().filter_map(|r| r.target.as_ref()) {
                    if judged.primary.is_failure() {
                        *modes.entry(judged.primary).or_insert(0) += 1;
                    }
                }
                RegisterRow {
                    register,
                    failed: share_of(rows, RunRow::failed),
                    modes,
                }
            })
            .collect();
        RegisterTable {
            rows,
            cells: by_bit.into_values().collect(),
        }
    }

    /// The table, the registers with the most failures first.
    pub fn grid(&self) -> Grid {
        let mut columns = vec![
            Column::words("register", "register"),
            Column::numbers("injections", "fired"),
        ];
        let [runs, share, interval] = Column::share(None);
        columns.extend([
            Column {
                key: "failed".into(),
                head: "failed".into(),
                ..runs
            },
            share,
            interval,
            Column::words("modes", "the target's failure modes"),
        ]);
        let mut order: Vec<_> = self.rows.iter().collect();
        order.sort_by(|a, b| {
            let share = |r: &RegisterRow| r.failed.share.unwrap_or(0.0);
            b.failed
                .count
                .cmp(&a.failed.count)
                .then_with(|| share(b).total_cmp(&share(a)))
                .then_with(|| a.register.cmp(&b.register))
        });
        let rows = order
            .into_iter()
            .map(|r| {
                let modes: Vec<_> = r.modes.iter().map(|(m, n)| format!("{n} {m}")).collect();
                let mut cells = vec![Cell::code(r.register.name()), Cell::Count(r.failed.total)];
                cells.extend(share_cells(&r.failed));
                cells.push(Cell::text(modes.join(", ")));
                Row::body(cells)
            })
            .collect();
        Grid {
            id: "registers",
            title: "Failures by register".to_owned(),
            columns,
            rows,
            notes: vec![
                "failed: target, bystander or host. Intervals are per register and not corrected \
                 for looking at many."
                    .to_owned(),
            ],
        }
    }

    /// The table without the registers that never led to a failure; a note has
    /// them.
    pub fn failing_grid(&self) -> Grid {
        let mut grid = self.grid();
        let failing = self.rows.iter().filter(|r| r.failed.count > 0).count();
        // Rows are in the order of failures.
        grid.rows.truncate(failing);
        let quiet: Vec<_> = self
            .rows
            .iter()
            .filter(|r| r.failed.count == 0)
            .map(|r| format!("{} {}", r.register, r.failed.total))
            .collect();
        if !quiet.is_empty() {
            grid.notes
                .insert(0, format!("No failure (fired): {}.", quiet.join(", ")));
        }
        grid
    }

    /// The heatmap's numbers.
    pub fn bits_grid(&self) -> Grid {
        let rows = self
            .cells
            .iter()
            .map(|c| {
                Row::body([
                    Cell::code(c.register.name()),
                    Cell::Count(u64::from(c.bit)),
                    Cell::Count(c.runs),
                    Cell::Count(c.failed),
                    Cell::Count(c.unjudged),
                ])
            })
            .collect();
        Grid {
            id: "register-bits",
            title: "Failures by register and bit".to_owned(),
            columns: vec![
                Column::words("register", "register"),
                Column::numbers("bit", "bit"),
                Column::numbers("injections", "fired"),
                Column::numbers("failed", "failed"),
                Column::numbers("unjudged", "unjudged"),
            ],
            rows,
            notes: Vec::new(),
        }
    }
}

/// Failure share by what the vCPU was executing: separate strata.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StrataTable {
    /// The strata seen.
    pub rows: Vec<StratumRow>,
}

/// One stratum.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StratumRow {
    /// `user`, `kernel`, `hypervisor` or `unknown`.
    pub stratum: &'static str,
    /// Runs in which anything failed.
    pub failed: Share,
}

impl StrataTable {
    pub(crate) fn new(counted: &[&RunRow]) -> StrataTable {
        let strata = [
            ("user", Some(GuestMode::User)),
            ("kernel", Some(GuestMode::Kernel)),
            ("hypervisor", Some(GuestMode::Hypervisor)),
            ("unknown", None),
        ];
        let rows = strata
            .into_iter()
            .filter_map(|(stratum, mode)| {
                let rows: Vec<&RunRow> =
                    counted.iter().copied().filter(|r| r.mode == mode).collect();
                (!rows.is_empty()).then(|| StratumRow {
                    stratum,
                    failed: share_of(rows, RunRow::failed),
                })
            })
            .collect();
        StrataTable { rows }
    }

    /// The table.
    pub fn grid(&self) -> Grid {
        let [runs, share, interval] = Column::share(None);
        let rows = self
            .rows
            .iter()
            .map(|r| {
                let mut cells = vec![Cell::code(r.stratum), Cell::Count(r.failed.total)];
                cells.extend(share_cells(&r.failed));
                Row::body(cells)
            })
            .collect();
        Grid {
            id: "strata",
            title: "Failures by what the vCPU was executing".to_owned(),
            columns: vec![
                Column::words("mode", "mode"),
                Column::numbers("injections", "fired"),
                Column {
                    key: "failed".into(),
                    head: "failed".into(),
                    ..runs
                },
                share,
                interval,
            ],
            rows,
            notes: Vec::new(),
        }
    }
}
