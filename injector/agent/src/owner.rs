//! One owner at a time: who arms faults on a host holds its lock until the run
//! is over. The lock is on an open file, so that it dies with its process.

use crate::host::Refusal;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use xfi_model::AgentErrorCode;

/// The lock file; it has its holder's process id.
pub(crate) const FILE: &str = "/run/xfi/owner";

/// The right to arm faults on this host.
#[derive(Debug)]
pub(crate) struct Owner {
    _file: File,
}

impl Owner {
    /// Takes the right, or says who has it.
    pub(crate) fn take() -> Result<Owner, Refusal> {
        Self::take_at(Path::new(FILE))
    }

    fn take_at(path: &Path) -> Result<Owner, Refusal> {
        let failed = |e: std::io::Error| Refusal {
            code: AgentErrorCode::Failed,
            message: format!("{}: {e}", path.display()),
        };
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(failed)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| writeln!(file, "{}", std::process::id()))
                    .map_err(failed)?;
                Ok(Owner { _file: file })
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                Err(Refusal {
                    code: AgentErrorCode::Busy,
                    message: format!(
                        "process {} is injecting into this host; wait until it is done, or end it",
                        match holder.trim() {
                            "" => "another",
                            pid => pid,
                        }
                    ),
                })
            }
            Err(TryLockError::Error(e)) => Err(failed(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn there_is_one_owner_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("xfi/owner");
        let first = Owner::take_at(&path).unwrap();
        let refusal = Owner::take_at(&path).unwrap_err();
        assert!(matches!(refusal.code, AgentErrorCode::Busy));
        let holder = std::process::id().to_string();
        assert!(refusal.message.contains(&holder), "{}", refusal.message);
        drop(first);
        Owner::take_at(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_a_killed_owner_left_is_no_hindrance() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("owner");
        fs::write(&path, "4194304\n").unwrap();
        Owner::take_at(&path).unwrap();
    }
}
