//! What can go wrong with a campaign.

use std::path::PathBuf;

/// Errors of this crate. Each says what, where, and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum CampaignError {
    /// The campaign file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The campaign file is not valid; the message names line and column.
    #[error("{path}:{line}:{column}: {message}", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// The file is well-formed but asks for something impossible.
    #[error("{path}: {message}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What, and what would be valid.
        message: String,
    },
    /// The run directory cannot be written.
    #[error("{path}: {source}; free some space or choose another --out", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Too little room to begin another run.
    #[error(
        "{path}: only {free_mib} MiB left, {needed_mib} MiB are kept free so that no result is \
         lost; free some space, then run it again, or resume it if it had begun",
        path = path.display()
    )]
    DiskFull {
        /// The run directory.
        path: PathBuf,
        /// Free space.
        free_mib: u64,
        /// Wanted space.
        needed_mib: u64,
    },
    /// Another process works in this run directory.
    #[error("{path} is in use by another xfi process; wait for it or stop it", path = .0.display())]
    InUse(PathBuf),
    /// The run directory exists already.
    #[error(
        "{path} exists already; choose another --out, or `xfi campaign resume {path}`",
        path = .0.display()
    )]
    Exists(PathBuf),
    /// Not a run directory, or one of another version.
    #[error("{path} is not a run directory: {why}", path = path.display())]
    NotARunDir {
        /// The directory.
        path: PathBuf,
        /// What is missing or wrong.
        why: String,
    },
    /// A journal line in the middle cannot be read.
    #[error("{path}:{line}: not a journal line: {message}", path = path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// Calibration found the workload failing without any fault.
    #[error(
        "golden calibration runs failed: {0}; `xfi testbed reset`, or rebuild with `xfi testbed build`"
    )]
    Calibration(String),
    /// Runs kept failing before their flip.
    #[error("{failed} runs in a row failed before their flip, the last: {last}; see the journal")]
    TooManyFailures {
        /// How many.
        failed: u32,
        /// The last one's reason.
        last: String,
    },
    /// The load driver could not be started.
    #[error("cannot start the load driver {path}: {source}", path = path.display())]
    Driver {
        /// The program.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The testbed.
    #[error(transparent)]
    Testbed(#[from] xfi_testbed::TestbedError),
    /// The load driver's log.
    #[error(transparent)]
    Workload(#[from] xfi_workloads::WorkloadError),
}
