//! Classifier, statistics, tables, figures, report.
//!
//! ```text
//! load(dir) -> CampaignData -> analyse -> Analysis -> render_text, render_html, write_report
//!                   |
//!                classify(&RunRecord) -> Outcome, for each run, always anew
//! ```
//!
//! Everything between reading a run directory and writing a report is a pure
//! function of the recorded data: no clock, no network, no randomness. It
//! builds and runs on a laptop without Xen.

mod analysis;
mod classify;
mod data;
mod error;
pub mod figures;
pub mod grid;
mod report;
mod rows;
pub mod stats;
pub mod tables;
mod tally;
mod text;
mod threats;

pub use analysis::{Analysis, Headline, analyse};
pub use classify::classify;
pub use data::{CampaignData, FORMAT, Fate, Orphan, assemble, load};
pub use error::AnalysisError;
pub use report::{evidence_dir, render_html, write_report};
pub use rows::{Judged, RunRow, WrongAnswer};
pub use tally::Tally;
pub use text::{TEXT_WIDTH, render_text};
pub use threats::{Level, Threat};
