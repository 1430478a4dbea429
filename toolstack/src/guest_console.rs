//! What xenconsoled logged of a guest's console.

use crate::{Error, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// xenconsoled's directory of logs (`XENCONSOLED_TRACE=guest`).
pub const DIRECTORY: &str = "/var/log/xen/console";

/// No more than this is read of a log's end.
const TAIL: u64 = 256 * 1024;

/// A guest's log.
///
/// # Errors
/// [`Error::BadGuest`] for a name that is no file name.
pub fn path(domain: &str) -> Result<PathBuf> {
    if domain.is_empty() || domain.contains(['/', '\0']) || domain.len() > 200 {
        return Err(Error::BadGuest {
            name: domain.to_owned(),
            why: "this is no domain's name".to_owned(),
        });
    }
    Ok(Path::new(DIRECTORY).join(format!("guest-{domain}.log")))
}

/// The log's length, 0 when there is none yet.
///
/// # Errors
/// As for [`path`].
pub fn length(domain: &str) -> Result<u64> {
    Ok(path(domain)?.metadata().map_or(0, |m| m.len()))
}

/// The last `count` lines of a guest's console.
///
/// # Errors
/// When there is no log, or it cannot be read.
pub fn tail(domain: &str, count: usize) -> Result<Vec<String>> {
    let path = path(domain)?;
    let mut lines = read_from(&path, None)?;
    lines.drain(..lines.len().saturating_sub(count));
    Ok(lines)
}

/// Whether a line that contains `needle` was written after the first `skip`
/// bytes of a guest's log.
///
/// # Errors
/// When the log is there but cannot be read.
pub fn has_line(domain: &str, needle: &str, skip: u64) -> Result<bool> {
    let path = path(domain)?;
    if !path.exists() {
        return Ok(false);
    }
    Ok(read_from(&path, Some(skip))?
        .iter()
        .any(|line| line.contains(needle)))
}

fn read_from(path: &Path, skip: Option<u64>) -> Result<Vec<String>> {
    let fail = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(fail)?;
    let len = file.metadata().map_err(fail)?.len();
    let from = match skip {
        // A log that is shorter than it was has been started anew.
        Some(skip) if skip <= len => skip.max(len.saturating_sub(TAIL)),
        _ => len.saturating_sub(TAIL),
    };
    file.seek(SeekFrom::Start(from)).map_err(fail)?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).map_err(fail)?;
    Ok(String::from_utf8_lossy(&bytes)
        .lines()
        .map(|line| line.trim_end_matches('\r').to_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        for name in ["", "../../etc/passwd", "a/b", "a\0b"] {
            assert!(path(name).is_err(), "{name:?}");
        }
        assert!(path("web1").unwrap().ends_with("guest-web1.log"));
    }

    #[test]
    fn only_what_was_written_since_counts() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, "xfi: web ready\r\n").unwrap();
        assert_eq!(read_from(&log, None).unwrap(), ["xfi: web ready"]);
        assert!(read_from(&log, Some(16)).unwrap().is_empty());
        // Started anew, shorter than before.
        assert_eq!(read_from(&log, Some(1000)).unwrap(), ["xfi: web ready"]);
    }
}
