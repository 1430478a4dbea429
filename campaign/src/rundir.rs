//! A campaign's run directory.

use crate::CampaignError;
use crate::journal::Journal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use xfi_model::{Manifest, Plan, RunId};

use crate::CampaignFile;

/// Kept free in the run directory's file system, so that a run that was begun
/// can be finished: its evidence is a few hundred KiB.
const KEEP_FREE_MIB: u64 = 64;

/// A run directory, locked for as long as this value lives.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes a new run directory and points `latest` beside it at it.
    ///
    /// # Errors
    /// [`CampaignError::Exists`], [`CampaignError::Write`],
    /// [`CampaignError::DiskFull`].
    pub fn create(path: &Path) -> Result<RunDir, CampaignError> {
        let fail = |source| CampaignError::Write {
            path: path.to_owned(),
            source,
        };
        if path.join("journal.jsonl").exists() {
            return Err(CampaignError::Exists(path.to_owned()));
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path.join("runs"))
            .map_err(fail)?;
        let dir = RunDir {
            path: path.to_owned(),
            _lock: lock(path)?,
        };
        dir.point_latest();
        Ok(dir)
    }

    /// Opens a run directory to go on in it.
    ///
    /// # Errors
    /// [`CampaignError::NotARunDir`], [`CampaignError::InUse`].
    pub fn open(path: &Path) -> Result<RunDir, CampaignError> {
        for name in [
            "campaign.json",
            "plan.json",
            "manifest.json",
            "journal.jsonl",
        ] {
            if !path.join(name).is_file() {
                return Err(CampaignError::NotARunDir {
                    path: path.to_owned(),
                    why: format!("{name} is missing"),
                });
            }
        }
        Ok(RunDir {
            path: path.to_owned(),
            _lock: lock(path)?,
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the journal.
    pub(crate) fn journal(&self) -> Result<Journal, CampaignError> {
        Journal::open(&self.path.join("journal.jsonl"))
    }

    /// Writes what the campaign is made of.
    pub(crate) fn describe(
        &self,
        file: &CampaignFile,
        plan: &Plan,
        manifest: &Manifest,
    ) -> Result<(), CampaignError> {
        self.write_json("campaign.json", file)?;
        self.write_json("plan.json", plan)?;
        self.write_json("manifest.json", manifest)
    }

    /// Reads back what [`RunDir::describe`] wrote.
    pub(crate) fn description(&self) -> Result<(CampaignFile, Plan, Manifest), CampaignError> {
        Ok((
            self.read_json("campaign.json")?,
            self.read_json("plan.json")?,
            self.read_json("manifest.json")?,
        ))
    }

    /// An empty directory for a run's evidence; that of an earlier attempt is
    /// kept beside it.
    pub(crate) fn evidence(&self, run: RunId) -> Result<PathBuf, CampaignError> {
        let dir = self.path.join(xfi_analysis::evidence_dir(run));
        let fail = |source| CampaignError::Write {
            path: dir.clone(),
            source,
        };
        if dir.exists() {
            let earlier = (1..)
                .map(|n| dir.with_extension(format!("attempt{n}")))
                .find(|p| !p.exists())
                .expect("a free name");
            std::fs::rename(&dir, earlier).map_err(fail)?;
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(fail)?;
        Ok(dir)
    }

    /// Refuses to go on when the disk is nearly full.
    pub(crate) fn check_space(&self) -> Result<(), CampaignError> {
        let Ok(stat) = nix::sys::statvfs::statvfs(&self.path) else {
            return Ok(());
        };
        let free_mib = (stat.blocks_available() * stat.fragment_size()) >> 20;
        if free_mib < KEEP_FREE_MIB {
            return Err(CampaignError::DiskFull {
                path: self.path.clone(),
                free_mib,
                needed_mib: KEEP_FREE_MIB,
            });
        }
        Ok(())
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), CampaignError> {
        let path = self.path.join(name);
        let fail = |source| CampaignError::Write {
            path: path.clone(),
            source,
        };
        let partial = self.path.join(format!(".{name}.partial"));
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)
            .map_err(fail)?;
        let mut text = serde_json::to_vec_pretty(value).expect("plain data");
        text.push(b'\n');
        file.write_all(&text)
            .and_then(|()| file.sync_all())
            .map_err(fail)?;
        std::fs::rename(&partial, &path).map_err(fail)
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T, CampaignError> {
        let path = self.path.join(name);
        let text = std::fs::read(&path).map_err(|source| CampaignError::Read {
            path: path.clone(),
            source,
        })?;
        serde_json::from_slice(&text).map_err(|e| CampaignError::NotARunDir {
            path: self.path.clone(),
            why: format!("{name}: {e}"),
        })
    }

    /// A convenience for people; its failure is no reason to stop.
    fn point_latest(&self) {
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return;
        };
        let link = parent.join("latest");
        if link.symlink_metadata().is_ok_and(|m| !m.is_symlink()) {
            return;
        }
        let partial = parent.join(format!(".latest.{}", std::process::id()));
        if symlink(name, &partial).is_ok() && std::fs::rename(&partial, &link).is_err() {
            let _ = std::fs::remove_file(&partial);
        }
    }
}

fn lock(path: &Path) -> Result<File, CampaignError> {
    let fail = |source| CampaignError::Write {
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join("lock"))
        .map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(CampaignError::InUse(path.to_owned())),
        Err(TryLockError::Error(e)) => Err(fail(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_use_is_refused_and_a_stale_lock_is_not_in_the_way() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("c1");
        let first = RunDir::create(&path).unwrap();
        assert!(matches!(
            RunDir::create(&path),
            Err(CampaignError::InUse(_))
        ));
        drop(first);
        assert!(path.join("lock").exists());
        RunDir::create(&path).unwrap();
        assert_eq!(
            std::fs::read_link(tmp.path().join("latest")).unwrap(),
            Path::new("c1")
        );
    }

    #[test]
    fn a_missing_part_is_named() {
        let tmp = tempfile::tempdir().unwrap();
        let e = RunDir::open(tmp.path()).unwrap_err().to_string();
        assert!(e.contains("campaign.json"), "{e}");
    }

    #[test]
    fn evidence_of_an_earlier_attempt_is_kept() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::create(&tmp.path().join("c")).unwrap();
        std::fs::write(dir.evidence(RunId(3)).unwrap().join("console"), "x").unwrap();
        assert!(!dir.evidence(RunId(3)).unwrap().join("console").exists());
        assert!(dir.path().join("runs/3.attempt1/console").exists());
    }
}
