//! One owner at a time: who arms faults on a host holds its lock until the run
//! is over. The lock is on an open file, so that it dies with its process. The
//! file says who it is and what is armed.

use crate::host::Refusal;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;
use xfi_model::{AgentErrorCode, Fault};

/// The lock file: its holder's process id, then the fault as JSON.
pub(crate) const FILE: &str = "/run/xfi/owner";

/// Somebody looking who has the lock holds it for a moment.
const GLANCES: u32 = 20;

/// The right to arm faults on this host.
#[derive(Debug)]
pub(crate) struct Owner {
    file: File,
}

/// Who has that right.
#[derive(Debug, PartialEq)]
pub(crate) struct Holder {
    /// Its process.
    pub(crate) pid: u32,
    /// What it said it arms.
    pub(crate) fault: Option<Fault>,
}

impl Owner {
    /// Takes the right, or says who has it.
    pub(crate) fn take() -> Result<Owner, Refusal> {
        Self::take_at(Path::new(FILE))
    }

    fn take_at(path: &Path) -> Result<Owner, Refusal> {
        let failed = |e: io::Error| failed(path, &e);
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
        let mut glances = 0;
        loop {
            match file.try_lock() {
                Ok(()) => {
                    file.set_len(0)
                        .and_then(|()| file.rewind())
                        .and_then(|()| writeln!(file, "{}", std::process::id()))
                        .map_err(failed)?;
                    return Ok(Owner { file });
                }
                Err(TryLockError::WouldBlock) if glances < GLANCES => {
                    glances += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(TryLockError::WouldBlock) => {
                    let holder = read(&mut file).pid;
                    return Err(Refusal {
                        code: AgentErrorCode::Busy,
                        message: format!(
                            "process {} is injecting into this host; wait until it is done, or \
                             end it: xfi disarm --all",
                            match holder {
                                0 => "another".to_owned(),
                                pid => pid.to_string(),
                            }
                        ),
                    });
                }
                Err(TryLockError::Error(e)) => return Err(failed(e)),
            }
        }
    }

    /// Says what is armed.
    pub(crate) fn says(mut self, fault: &Fault) -> Result<Owner, Refusal> {
        let written = serde_json::to_string(fault)
            .map_err(io::Error::from)
            .and_then(|text| writeln!(self.file, "{text}"));
        written.map_err(|e| failed(Path::new(FILE), &e))?;
        Ok(self)
    }

    /// Who has the right now; none when nobody has.
    pub(crate) fn holder() -> Result<Option<Holder>, Refusal> {
        Self::holder_at(Path::new(FILE))
    }

    fn holder_at(path: &Path) -> Result<Option<Holder>, Refusal> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(path, &e)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(read(&mut file))),
            Err(TryLockError::Error(e)) => Err(failed(path, &e)),
        }
    }
}

fn failed(path: &Path, e: &io::Error) -> Refusal {
    Refusal {
        code: AgentErrorCode::Failed,
        message: format!("{}: {e}", path.display()),
    }
}

/// What cannot be read is not known.
fn read(file: &mut File) -> Holder {
    let mut text = String::new();
    let _ = file.read_to_string(&mut text);
    let mut lines = text.lines();
    Holder {
        pid: lines
            .next()
            .and_then(|l| l.trim().parse().ok())
            .unwrap_or(0),
        fault: lines.next().and_then(|l| serde_json::from_str(l).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use xfi_model::{BitOp, Hex64, Location, Trigger, TriggerKind};

    fn fault() -> Fault {
        Fault {
            location: Location::GuestMemory {
                domain: "web1".to_owned(),
                address: Hex64(0x1000),
                size: 4,
            },
            mask: Hex64(1 << 21),
            op: BitOp::Flip,
            trigger: Trigger {
                kind: TriggerKind::Kick,
                after_ns: 5,
                nth: 1,
                expire_ns: None,
                rip: None,
                mode: None,
            },
        }
    }

    #[test]
    fn there_is_one_owner_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("xfi/owner");
        assert_eq!(Owner::holder_at(&path).unwrap(), None);
        let first = Owner::take_at(&path).unwrap();
        let refusal = Owner::take_at(&path).unwrap_err();
        assert!(matches!(refusal.code, AgentErrorCode::Busy));
        let holder = std::process::id().to_string();
        assert!(refusal.message.contains(&holder), "{}", refusal.message);
        drop(first);
        assert_eq!(Owner::holder_at(&path).unwrap(), None);
        Owner::take_at(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_owner_says_what_it_armed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("owner");
        let owner = Owner::take_at(&path).unwrap();
        let known = |fault| {
            Some(Holder {
                pid: std::process::id(),
                fault,
            })
        };
        assert_eq!(Owner::holder_at(&path).unwrap(), known(None));
        let owner = owner.says(&fault()).unwrap();
        assert_eq!(Owner::holder_at(&path).unwrap(), known(Some(fault())));
        drop(owner);
        // The next one's fault is not the last one's.
        let _next = Owner::take_at(&path).unwrap();
        assert_eq!(Owner::holder_at(&path).unwrap(), known(None));
    }

    #[test]
    fn what_a_killed_owner_left_is_no_hindrance() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("owner");
        fs::write(&path, "4194304\n").unwrap();
        Owner::take_at(&path).unwrap();
    }
}
