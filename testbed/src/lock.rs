//! Lock files: held by an open file, so that a holder that dies lets go.

use crate::TestbedError;
use crate::error::IoContext;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A lock, until dropped. The file says whose it is.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

fn open(path: &Path) -> Result<File, TestbedError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .context("opening", path)
}

fn same_file(file: &File, path: &Path) -> bool {
    let id = |m: &std::fs::Metadata| (m.dev(), m.ino());
    matches!((file.metadata(), path.metadata()), (Ok(a), Ok(b)) if id(&a) == id(&b))
}

impl Lock {
    /// Takes the lock alone, or says which process has it.
    pub(crate) fn try_exclusive(path: &Path) -> Result<Result<Lock, String>, TestbedError> {
        let mut file = open(path)?;
        match file.try_lock() {
            // Its last holder removed it in between: that one is nobody's.
            Ok(()) if !same_file(&file, path) => Lock::try_exclusive(path),
            Ok(()) => {
                let owner = format!("{}\n", std::process::id());
                file.set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| file.write_all(owner.as_bytes()))
                    .context("writing", path)?;
                Ok(Ok(Lock { _file: file }))
            }
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = file.read_to_string(&mut owner);
                let owner = owner.trim();
                let pid = if owner.is_empty() { "unknown" } else { owner };
                Ok(Err(pid.to_owned()))
            }
            Err(TryLockError::Error(e)) => Err(e).context("locking", path),
        }
    }

    /// As `try_exclusive`, trying again for a while.
    pub(crate) fn exclusive_within(
        path: &Path,
        patience: Duration,
    ) -> Result<Result<Lock, String>, TestbedError> {
        let deadline = Instant::now() + patience;
        loop {
            let result = Lock::try_exclusive(path)?;
            if result.is_ok() || Instant::now() >= deadline {
                return Ok(result);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Takes the lock alone, however long that takes. `waiting` is told once
    /// who has it.
    pub(crate) fn exclusive(path: &Path, waiting: impl FnOnce(&str)) -> Result<Lock, TestbedError> {
        let pid = match Lock::try_exclusive(path)? {
            Ok(lock) => return Ok(lock),
            Err(pid) => pid,
        };
        waiting(&pid);
        loop {
            if let Ok(lock) = Lock::exclusive_within(path, Duration::from_secs(60))? {
                return Ok(lock);
            }
        }
    }

    /// Takes the lock together with others who share it; `None` when someone
    /// has it alone.
    pub(crate) fn try_shared(path: &Path) -> Result<Option<Lock>, TestbedError> {
        let file = open(path)?;
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e).context("locking", path),
        }
    }
}

/// A directory of a process's own, removed with it; one that a dead process
/// left is recognised by its lock being free.
#[derive(Debug)]
pub(crate) struct OwnedDir {
    path: PathBuf,
    _lock: Lock,
}

impl OwnedDir {
    /// Makes `path` (mode 0700) and locks it.
    pub(crate) fn create(path: PathBuf) -> Result<OwnedDir, TestbedError> {
        crate::private::remove_dir(&path)?;
        crate::private::private_dir(&path)?;
        match Lock::try_exclusive(&path.join("lock"))? {
            Ok(lock) => Ok(OwnedDir { path, _lock: lock }),
            Err(pid) => Err(TestbedError::Locked { pid }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the process that made this directory is gone.
    pub(crate) fn is_stale(path: &Path) -> bool {
        // The directory comes first, its lock a moment later.
        let young = path
            .metadata()
            .and_then(|m| m.modified())
            .is_ok_and(|t| t.elapsed().is_ok_and(|age| age < Duration::from_secs(5)));
        let lock = path.join("lock");
        if !lock.exists() {
            return !young;
        }
        matches!(File::open(&lock).map(|f| f.try_lock_shared()), Ok(Ok(())))
    }
}

impl Drop for OwnedDir {
    fn drop(&mut self) {
        if let Err(e) = crate::private::remove_dir(&self.path) {
            tracing::warn!("{e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_names_its_holder_and_a_stale_one_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        // What a process that was killed leaves behind.
        std::fs::write(&path, "99999999\n").unwrap();
        let held = Lock::try_exclusive(&path)
            .unwrap()
            .expect("nobody holds it");
        let other = Lock::try_exclusive(&path).unwrap().unwrap_err();
        assert_eq!(other, std::process::id().to_string());
        assert!(Lock::try_shared(&path).unwrap().is_none());
        drop(held);
        let shared = Lock::try_shared(&path).unwrap();
        assert!(shared.is_some() && Lock::try_shared(&path).unwrap().is_some());
        assert!(Lock::try_exclusive(&path).unwrap().is_err());
    }

    #[test]
    fn an_owned_directory_goes_with_its_owner() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("w");
        let dir = OwnedDir::create(path.clone()).unwrap();
        assert!(!OwnedDir::is_stale(&path));
        drop(dir);
        assert!(!path.exists());
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("lock"), "1\n").unwrap();
        assert!(OwnedDir::is_stale(&path));
    }
}
