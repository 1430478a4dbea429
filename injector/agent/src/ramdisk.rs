//! A guest's initramfs with the agent behind it, so that faults can be put in
//! the guest's tasks.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// An archive with the agent for guests, `xfi/xfi-agent`; it lies beside this
/// program where guests are to have it.
const ARCHIVE: &str = "guest-agent.cpio";

/// Memory, where it lives only while the guest is started.
const DIRECTORY: &str = "/run/xfi/guests";

/// The kernel looks for a further archive behind zeros up to such a multiple.
const ALIGNMENT: u64 = 512;

/// A guest's initramfs, as it is to be booted. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Ramdisk(PathBuf);

impl Ramdisk {
    /// None when there is no agent for guests, or the guest has no initramfs.
    pub(crate) fn with_agent(name: &str, ramdisk: &str) -> io::Result<Option<Self>> {
        let Ok(own) = std::env::current_exe() else {
            return Ok(None);
        };
        let agent = own.with_file_name(ARCHIVE);
        if ramdisk.is_empty() || name.contains('/') || !agent.exists() {
            return Ok(None);
        }
        fs::create_dir_all(DIRECTORY)?;
        let path = Path::new(DIRECTORY).join(format!("{name}.cpio"));
        join(Path::new(ramdisk), &agent, &path)?;
        Ok(Some(Ramdisk(path)))
    }

    pub(crate) fn path(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Ramdisk {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn join(first: &Path, second: &Path, to: &Path) -> io::Result<()> {
    let mut out = File::create(to)?;
    let length = io::copy(&mut File::open(first)?, &mut out)?;
    let gap = length.next_multiple_of(ALIGNMENT) - length;
    out.write_all(&vec![0; gap as usize])?;
    io::copy(&mut File::open(second)?, &mut out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_archive_begins_on_a_multiple() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for length in [1, 511, 512, 513] {
            fs::write(path("a"), vec![b'a'; length]).unwrap();
            fs::write(path("b"), "0707").unwrap();
            join(&path("a"), &path("b"), &path("c")).unwrap();
            let all = fs::read(path("c")).unwrap();
            let at = all.iter().position(|b| *b == b'0').unwrap();
            assert_eq!((at % 512, at < length + 512), (0, true), "{length}");
            assert!(all.ends_with(b"0707"));
        }
        assert!(join(&path("none"), &path("b"), &path("c")).is_err());
    }
}
