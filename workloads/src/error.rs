//! What can go wrong on our side. What goes wrong on the server's side is a
//! verdict, never an error.

use std::io;
use std::path::PathBuf;
use thiserror::Error;
use xfi_model::Verdict;

/// An error of a load driver, or of reading what one wrote.
#[derive(Debug, Error)]
pub enum WorkloadError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The log could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The load's file is not a load.
    #[error("{}: not a load: {source}", path.display())]
    Spec {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A value of the load is out of range.
    #[error("load: {field} is {value}; {valid}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// The value found.
        value: String,
        /// What would be valid.
        valid: &'static str,
    },
    /// There is no load of that name.
    #[error("no profile '{name}'; there are {}", profile_names())]
    NoSuchProfile {
        /// The name given.
        name: String,
    },
    /// A complete line of a log is not what a driver writes.
    #[error("{}:{line}: not a line of a load log: {source}", path.display())]
    LogLine {
        /// The log.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A log of another format version.
    #[error("{}: load log of format {found}; this xfi reads {}", path.display(), crate::load::LOG_FORMAT)]
    LogFormat {
        /// The log.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A golden run had an answer that was not right.
    #[error("golden run {}: {guest} gave {verdict:?}{}", path.display(), detail.as_deref().map(|d| format!(": {d}")).unwrap_or_default())]
    GoldenNotRight {
        /// The log.
        path: PathBuf,
        /// The guest.
        guest: String,
        /// The verdict.
        verdict: Verdict,
        /// What was wrong.
        detail: Option<String>,
    },
    /// There is nothing to calibrate on.
    #[error("no golden run has a right answer")]
    NoGoldenAnswer,
    /// The packet record is not one.
    #[error("{}: not a packet record: {what}", path.display())]
    Pcap {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// There is no server, or not the right one, before any load was applied.
    #[error("{url}: {what}")]
    NoServer {
        /// What was asked.
        url: String,
        /// What came instead.
        what: String,
    },
    /// A program cannot be run.
    #[error("cannot run '{program}': {source}")]
    Program {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// This machine, not the server, failed a request: out of files, ports or
    /// memory, or no permission.
    #[error("cannot ask {addr}: {source}")]
    Local {
        /// The server meant.
        addr: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The driver's own machinery could not start.
    #[error("cannot start the load driver: {0}")]
    Runtime(#[source] io::Error),
}

fn profile_names() -> String {
    let names: Vec<_> = crate::load::PROFILES.iter().map(|p| p.name).collect();
    names.join(", ")
}
