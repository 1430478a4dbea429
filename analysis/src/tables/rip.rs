//! Where the flips landed: a few instructions may have taken most of them.

use crate::grid::{Cell, Column, Digits, Grid, Row};
use crate::rows::RunRow;
use serde::Serialize;
use std::collections::BTreeMap;
use xfi_model::{GuestMode, Hex64};

/// Injections by RIP at the flip.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RipTable {
    /// The commonest first.
    pub rows: Vec<RipRow>,
    /// Flips with a known RIP.
    pub total: u64,
    /// Different RIPs.
    pub distinct: u64,
    /// The share of flips at the commonest RIP; none without flips.
    pub commonest_share: Option<f64>,
}

/// One RIP.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RipRow {
    /// The address.
    pub rip: Hex64,
    /// `symbol+0x…`, when known.
    pub symbol: Option<String>,
    /// What the vCPU was executing.
    pub mode: Option<GuestMode>,
    /// Flips there.
    pub runs: u64,
    /// Of these, runs in which anything failed.
    pub failed: u64,
}

/// Rows printed; the CSV has the same, the JSON all.
const SHOWN: usize = 12;

impl RipTable {
    pub(crate) fn new(counted: &[&RunRow]) -> RipTable {
        let mut by_rip: BTreeMap<Hex64, RipRow> = BTreeMap::new();
        for row in counted {
            let Some(rip) = row.rip else { continue };
            let entry = by_rip.entry(rip).or_insert_with(|| RipRow {
                rip,
                symbol: None,
                mode: row.mode,
                runs: 0,
                failed: 0,
            });
            entry.runs += 1;
            entry.failed += u64::from(row.failed() == Some(true));
            if entry.symbol.is_none() {
                entry.symbol.clone_from(&row.rip_symbol);
            }
        }
        let mut rows: Vec<_> = by_rip.into_values().collect();
        rows.sort_by(|a, b| b.runs.cmp(&a.runs).then_with(|| a.rip.cmp(&b.rip)));
        let total: u64 = rows.iter().map(|r| r.runs).sum();
        RipTable {
            distinct: rows.len() as u64,
            commonest_share: rows.first().map(|r| r.runs as f64 / total as f64),
            total,
            rows,
        }
    }

    /// The rows that are printed and drawn.
    pub fn shown(&self) -> &[RipRow] {
        &self.rows[..self.rows.len().min(SHOWN)]
    }

    /// The table of the commonest.
    pub fn grid(&self) -> Grid {
        let digits = Digits::for_total(self.total);
        let rows = self
            .shown()
            .iter()
            .map(|r| {
                Row::body([
                    Cell::code(r.rip.to_string()),
                    Cell::code(r.symbol.clone().unwrap_or_default()),
                    Cell::text(mode_word(r.mode)),
                    Cell::Count(r.runs),
                    Cell::Percent(Some(r.runs as f64 / self.total as f64), digits),
                    Cell::Count(r.failed),
                ])
            })
            .collect();
        Grid {
            id: "rip",
            title: "Where the flips landed".to_owned(),
            columns: vec![
                Column::words("rip", "RIP"),
                Column::words("symbol", "symbol"),
                Column::words("mode", "mode"),
                Column::numbers("injections", "fired"),
                Column::numbers("share", "%"),
                Column::numbers("failed", "failed"),
            ],
            rows,
            notes: vec![format!(
                "{} flips at {} different instructions{}.",
                self.total,
                self.distinct,
                if self.rows.len() > SHOWN {
                    format!("; the {SHOWN} commonest are shown")
                } else {
                    String::new()
                }
            )],
        }
    }
}

/// The mode as one word.
pub(crate) const fn mode_word(mode: Option<GuestMode>) -> &'static str {
    match mode {
        Some(GuestMode::User) => "user",
        Some(GuestMode::Kernel) => "kernel",
        Some(GuestMode::Hypervisor) => "hypervisor",
        None => "",
    }
}
