//! The tables of a report: typed, each with a [`crate::grid::Grid`].
//!
//! Unit and denominator of every outcome: a *run* whose injection fired, or
//! may have. Unjudged runs are a row of their own and widen every interval.

mod dispositions;
mod noise;
mod outcomes;
mod registers;
mod rip;

pub use dispositions::{DispositionRow, DispositionTable};
pub use noise::{LabelNoise, NoiseTable};
pub use outcomes::{
    BlastRow, BlastTable, HostRow, HostTable, OutcomeRow, OutcomeTable, ThesisRow, ThesisTable,
};
pub use registers::{BitCell, RegisterRow, RegisterTable, StrataTable, StratumRow};
pub(crate) use rip::mode_word;
pub use rip::{RipRow, RipTable};

/// `W = 2.0 s`, for whoever prints `no_effect`.
pub(crate) fn window_words(window_ns: u64) -> String {
    format!("W = {} s", seconds(window_ns))
}

/// Nanoseconds as seconds with as many decimals as they need, one at least.
pub(crate) fn seconds(ns: u64) -> String {
    let text = format!("{:.3}", ns as f64 / 1e9);
    let text = text.trim_end_matches('0');
    if text.ends_with('.') {
        format!("{text}0")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn seconds_have_one_decimal_at_least() {
        assert_eq!(super::seconds(2_000_000_000), "2.0");
        assert_eq!(super::seconds(2_130_000_000), "2.13");
        assert_eq!(super::seconds(1_000_000), "0.001");
    }
}
