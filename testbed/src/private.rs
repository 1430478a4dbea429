//! Directories and files that only this user can reach.

use crate::TestbedError;
use crate::error::IoContext;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

fn uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

static RUNTIME_DIR: OnceLock<PathBuf> = OnceLock::new();

/// Uses `dir` for sockets, locks and the long-lived testbed, so that tests do
/// not meet the user's own. Once, before anything else; later calls change
/// nothing.
#[doc(hidden)]
pub fn use_runtime_dir(dir: PathBuf) {
    let _ = RUNTIME_DIR.set(dir);
}

/// The directory for sockets, locks and what is running: `$XFI_RUNTIME_DIR`,
/// else `$XDG_RUNTIME_DIR/xfi`, else `/tmp/xfi-UID`. Short, because a socket's
/// path may have 107 bytes.
pub(crate) fn runtime_dir() -> Result<PathBuf, TestbedError> {
    let chosen = RUNTIME_DIR.get().cloned();
    let from_env = std::env::var_os("XFI_RUNTIME_DIR").filter(|v| !v.is_empty());
    let dir = match chosen.or(from_env.map(PathBuf::from)) {
        Some(dir) => dir,
        None => match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
            Some(base) if base.is_absolute() && base.is_dir() && base.as_os_str().len() < 48 => {
                base.join("xfi")
            }
            _ => PathBuf::from(format!("/tmp/xfi-{}", uid())),
        },
    };
    private_dir(&dir)?;
    Ok(dir)
}

/// The directory for snapshots' memory, or none when there is no /dev/shm.
pub(crate) fn shm_dir() -> Option<Result<PathBuf, TestbedError>> {
    let base = Path::new("/dev/shm");
    base.is_dir().then(|| {
        let dir = base.join(format!("xfi-{}", uid()));
        private_dir(&dir)?;
        Ok(dir)
    })
}

/// Makes sure that `dir` exists, is a directory of this user's and nobody
/// else's.
pub(crate) fn private_dir(dir: &Path) -> Result<(), TestbedError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e).context("creating", dir),
    }
    let bad = |why: String| {
        Err(TestbedError::UnsafeDirectory {
            path: dir.to_owned(),
            why,
        })
    };
    let meta = dir.symlink_metadata().context("reading", dir)?;
    if !meta.is_dir() {
        return bad("is not a directory".to_owned());
    }
    if meta.uid() != uid() {
        return bad(format!("belongs to user {}, not to you", meta.uid()));
    }
    if meta.mode() & 0o077 != 0 {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
            .context("closing to others", dir)?;
    }
    Ok(())
}

/// Writes a file so that a reader sees the old content or the new, whole.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let write = || {
        let mut file = create(&temporary, mode)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
}

/// Removes a directory and all in it; one that is not there is no error.
pub(crate) fn remove_dir(dir: &Path) -> Result<(), TestbedError> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.context("removing", dir),
    }
}

/// Removes a file; one that is not there is no error.
pub(crate) fn remove_file(file: &Path) -> Result<(), TestbedError> {
    match std::fs::remove_file(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.context("removing", file),
    }
}
