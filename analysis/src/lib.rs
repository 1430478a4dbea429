//! Classifier, statistics, tables, figures, report.
mod classify;
mod data;
mod error;
mod rows;
pub mod stats;

pub use classify::classify;
pub use data::{CampaignData, FORMAT, Fate, Orphan, assemble, load};
pub use error::AnalysisError;
pub use rows::{Judged, RunRow, WrongAnswer};
