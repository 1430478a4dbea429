//! QEMU's working directories.

use super::kill_leftover;
use crate::TestbedError;
use crate::lock::OwnedDir;
use crate::private::{remove_dir, runtime_dir};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory for one QEMU at a time, with a short path for its sockets.
/// Removed when dropped; one whose owner died is removed by the next.
#[derive(Debug)]
pub(crate) struct OwnDir {
    dir: OwnedDir,
    runtime: PathBuf,
}

impl OwnDir {
    pub(crate) fn create() -> Result<OwnDir, TestbedError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep(&runtime_dir()?);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.{number}", std::process::id());
        let mut tries = 0;
        loop {
            let runtime = runtime_dir()?;
            match OwnedDir::create(runtime.join(&name)) {
                Ok(dir) => return Ok(OwnDir { dir, runtime }),
                // Another xfi has just removed the empty directory above it.
                Err(_) if tries < 5 => tries += 1,
                Err(e) => return Err(e),
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for OwnDir {
    fn drop(&mut self) {
        if let Err(e) = remove_dir(self.dir.path()) {
            tracing::warn!("{e}");
        }
        // Goes only when it is empty.
        let _ = std::fs::remove_dir(&self.runtime);
    }
}

/// Ends and removes what workers that died have left.
fn sweep(runtime: &Path) {
    let entries = std::fs::read_dir(runtime).into_iter().flatten();
    for path in entries.filter_map(|e| Some(e.ok()?.path())) {
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        let ours = name
            .split_once('.')
            .is_some_and(|(a, b)| a.parse::<u32>().is_ok() && b.parse::<u32>().is_ok());
        if ours && OwnedDir::is_stale(&path) {
            kill_leftover(&path);
            if let Err(e) = remove_dir(&path) {
                tracing::warn!("{e}");
            }
        }
    }
}
