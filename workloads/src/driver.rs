//! The load driver as a process of its own, as campaigns start it.

use crate::WorkloadError;
use crate::exec::ExecWorkload;
use crate::http::run_driver;
use crate::load::run;
use std::fs;
use std::path::Path;
use tokio::signal::unix::{SignalKind, signal};
use xfi_model::LoadSpec;

/// Parses a load's file; `path` is for messages alone.
///
/// # Errors
/// [`WorkloadError::Spec`].
pub fn parse_spec(path: &Path, text: &[u8]) -> Result<LoadSpec, WorkloadError> {
    serde_json::from_slice(text).map_err(|source| WorkloadError::Spec {
        path: path.to_owned(),
        source,
    })
}

/// Applies the load that `spec` (a JSON [`LoadSpec`]) describes and writes the
/// log; the body of the hidden command `xfi workload driver`. SIGTERM and
/// SIGINT stop it at once, with requests under way logged as `unfinished`; that
/// is no error.
///
/// # Errors
/// A load that cannot be applied, or that this machine cannot go on with.
pub fn run_spec(spec: &Path, log: &Path) -> Result<(), WorkloadError> {
    let text = fs::read(spec).map_err(|source| WorkloadError::Read {
        path: spec.to_owned(),
        source,
    })?;
    let load = parse_spec(spec, &text)?;
    block_on(async {
        let mut term = signal(SignalKind::terminate()).map_err(WorkloadError::Runtime)?;
        let mut int = signal(SignalKind::interrupt()).map_err(WorkloadError::Runtime)?;
        let stop = async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        };
        match &load {
            LoadSpec::Http(load) => run_driver(load, log, stop).await.map(drop),
            LoadSpec::Exec(load) => {
                let workload = ExecWorkload::new(load)?;
                run(&workload, &load.load, Some(log), stop, |_| {})
                    .await
                    .map(drop)
            }
        }
    })
}

/// Runs a load's future on a runtime of one thread, this one.
///
/// # Errors
/// The future's, or [`WorkloadError::Runtime`].
pub fn block_on<T>(
    load: impl Future<Output = Result<T, WorkloadError>>,
) -> Result<T, WorkloadError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(WorkloadError::Runtime)?
        .block_on(load)
}
