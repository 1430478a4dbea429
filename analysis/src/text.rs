//! The report for a terminal.

use crate::analysis::Analysis;
use crate::grid::{Digits, percent, wrap};
use crate::tables::window_words;
use std::fmt::Write as _;

/// Columns of the text report.
pub const TEXT_WIDTH: u16 = 92;

/// The report as plain text, at most [`TEXT_WIDTH`] columns wide, no colour.
pub fn render_text(a: &Analysis) -> String {
    let h = &a.headline;
    let mut out = String::new();
    let digits = Digits::for_total(h.fired);
    let (interval, kind) = h.interval();
    let _ = writeln!(
        out,
        "{}: {} runs planned, {} of {} injections fired, {} unjudged",
        a.manifest.campaign, h.planned, h.fired, h.injections, h.unjudged
    );
    let share = h.failed.share.map_or_else(
        || "no injection fired".to_owned(),
        |p| {
            format!(
                "{} % failed within {}, 95 % interval [{}; {}] %,\n{kind}",
                percent(p, digits),
                window_words(h.window_ns),
                percent(interval.lo, digits),
                percent(interval.hi, digits)
            )
        },
    );
    let _ = writeln!(out, "{share}");
    let _ = writeln!(
        out,
        "false failures: {} of {} golden and dummy runs, at most {} %\n",
        h.false_failures.count,
        h.false_failures.total,
        percent(
            h.false_failures.interval.hi,
            Digits::for_total(h.false_failures.total)
        )
    );
    let noise_labels = a.noise.labels_grid();
    let mut grids = vec![
        a.outcomes.grid(),
        a.host.grid(),
        a.dispositions.grid(),
        a.registers.failing_grid(),
    ];
    if !noise_labels.rows.is_empty() {
        grids.push(noise_labels);
    }
    for grid in grids {
        let _ = writeln!(out, "{}", grid.to_text(TEXT_WIDTH));
    }
    if !a.threats.is_empty() {
        out.push_str("What to distrust\n");
        for t in &a.threats {
            let text = format!("{}: {}", t.title, t.text);
            for (i, line) in wrap(&text, usize::from(TEXT_WIDTH) - 4)
                .into_iter()
                .enumerate()
            {
                let _ = writeln!(out, "  {} {line}", if i == 0 { "-" } else { " " });
            }
        }
    }
    if !a.notes.is_empty() {
        out.push_str("\nNotes\n");
        for note in &a.notes {
            let _ = writeln!(out, "  - {note}");
        }
    }
    out
}
