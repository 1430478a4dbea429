//! What can go wrong when a run directory is read or a report written.

use std::io;
use std::path::PathBuf;

/// Why a campaign could not be analysed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnalysisError {
    /// A file of the run directory could not be read.
    #[error("cannot read {path}: {source}; is this a campaign's run directory?")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not the JSON it should be.
    #[error("{path} is malformed: {source}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A journal line, not the last, is not what it should be.
    #[error("{path}:{line} is malformed: {source}; only the last line may be cut off")]
    JournalLine {
        /// The journal.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// A file of a format this version does not know.
    #[error("{path} has format {found}; this xfi reads format {expected}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The format known.
        expected: u32,
    },
    /// A file of the report could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The page's template failed; a defect of xfi.
    #[error("the report's template failed: {0}")]
    Template(#[from] minijinja::Error),
    /// A table could not be written as CSV or JSON; a defect of xfi.
    #[error("cannot serialise {what}: {reason}")]
    Serialise {
        /// The table.
        what: String,
        /// Why.
        reason: String,
    },
}
