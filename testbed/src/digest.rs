//! SHA-256 of files, remembered while size and time of change stay the same.

use crate::TestbedError;
use crate::error::IoContext;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    inode: u64,
    size: u64,
    mtime_ns: i128,
    sha256: String,
}

/// A cache of digests in a file. Losing it costs time, nothing else.
#[derive(Debug)]
pub(crate) struct DigestCache {
    file: PathBuf,
    entries: BTreeMap<String, Entry>,
    changed: bool,
}

impl DigestCache {
    pub(crate) fn open(file: &Path) -> DigestCache {
        let entries = std::fs::read(file)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        DigestCache {
            file: file.to_owned(),
            entries,
            changed: false,
        }
    }

    /// The digest of `path`'s content, in hexadecimal.
    pub(crate) fn sha256(&mut self, path: &Path) -> Result<String, TestbedError> {
        let real = path.canonicalize().context("reading", path)?;
        let key = real.display().to_string();
        let meta = real.metadata().context("reading", &real)?;
        let mtime_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        if let Some(e) = self.entries.get(&key)
            && (e.inode, e.size, e.mtime_ns) == (meta.ino(), meta.size(), mtime_ns)
        {
            return Ok(e.sha256.clone());
        }
        let sha256 = sha256_file(&real)?;
        let entry = Entry {
            inode: meta.ino(),
            size: meta.size(),
            mtime_ns,
            sha256: sha256.clone(),
        };
        self.entries.insert(key, entry);
        self.changed = true;
        Ok(sha256)
    }

    /// Writes the cache; failing to is no error.
    pub(crate) fn save(&self) {
        if !self.changed {
            return;
        }
        let Ok(text) = serde_json::to_vec_pretty(&self.entries) else {
            return;
        };
        if let Some(dir) = self.file.parent() {
            let _ = std::fs::create_dir_all(dir);
        }
        if let Err(e) = crate::private::write_atomically(&self.file, &text, 0o600) {
            tracing::debug!("digest cache not written: {e}");
        }
    }
}

fn sha256_file(path: &Path) -> Result<String, TestbedError> {
    let mut file = File::open(path).context("opening", path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).context("reading", path)?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..n]);
    }
}

/// The digest of some bytes, in hexadecimal.
pub(crate) fn sha256_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_gets_a_new_digest() {
        let dir = tempfile::tempdir().unwrap();
        let (file, cache) = (dir.path().join("f"), dir.path().join("cache.json"));
        std::fs::write(&file, "abc").unwrap();
        let mut c = DigestCache::open(&cache);
        let abc = c.sha256(&file).unwrap();
        assert_eq!(
            abc,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        c.save();
        let mut c = DigestCache::open(&cache);
        assert_eq!(c.sha256(&file).unwrap(), abc);
        assert!(!c.changed, "the second look was served from the cache");
        std::fs::write(&file, "abcd").unwrap();
        assert_ne!(c.sha256(&file).unwrap(), abc);
    }
}
