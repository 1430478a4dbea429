//! Where snapshots are kept: state and disk beside the artefacts, memory in a
//! file under /dev/shm.

use crate::error::IoContext;
use crate::lock::Lock;
use crate::machine_facts::free_mib;
use crate::private::{private_dir, remove_dir, shm_dir, write_atomically};
use crate::{Artifacts, Digests, TestbedError};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use xfi_model::{Layout, XenRelease};

/// The version of what a snapshot consists of: raised when QEMU's command line
/// or the files change.
const FORMAT: u32 = 2;

/// Room beside the memory itself that must stay free under /dev/shm, MiB.
const SHM_SPARE_MIB: u64 = 64;

/// `snapshot.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Meta {
    pub(crate) format: u32,
    pub(crate) key: String,
    pub(crate) index: u32,
    /// The memory's file, its size and inode.
    pub(crate) ram: PathBuf,
    pub(crate) ram_bytes: u64,
    pub(crate) ram_inode: u64,
    /// The disk that the snapshot's own disk is an overlay of.
    pub(crate) image: PathBuf,
    /// Latency at which each guest came to rest, milliseconds.
    pub(crate) warm_ms: Vec<(String, u64)>,
    pub(crate) made_unix_s: u64,
    pub(crate) made_from: Digests,
}

/// A snapshot that can be restored, for as long as this is held.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) dir: PathBuf,
    pub(crate) meta: Meta,
    _in_use: Lock,
}

impl Snapshot {
    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub(crate) fn template(&self) -> PathBuf {
        self.dir.join("template.qcow2")
    }
}

/// What keys a layout's snapshots.
pub(crate) fn key(layout: &Layout, digests: &Digests) -> String {
    let all = serde_json::json!({ "format": FORMAT, "layout": layout, "made_from": digests });
    crate::digest::sha256_bytes(all.to_string().as_bytes())
}

/// The place of one layout's snapshots under one key.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    /// `…/testbed/snapshots`.
    base: PathBuf,
    layout: String,
    key: String,
}

impl Store {
    pub(crate) fn new(artifacts: &Artifacts, layout: &Layout, key: &str) -> Store {
        Store {
            base: snapshots_dir(artifacts),
            // One release's snapshots stay when another's are made.
            layout: match layout.host.release {
                usual if usual == XenRelease::default() => layout.name.clone(),
                other => format!("{}-{other}", layout.name),
            },
            key: key.to_owned(),
        }
    }

    fn own_name(&self) -> String {
        format!("{}-{}", self.layout, &self.key[..12.min(self.key.len())])
    }

    pub(crate) fn dir(&self, index: u32) -> PathBuf {
        self.base.join(self.own_name()).join(index.to_string())
    }

    /// Opens snapshot `index`, if it is there, whole and made of what is there
    /// now. (After a reboot the memory's file is gone.)
    pub(crate) fn open(&self, index: u32, image: &Path) -> Result<Option<Snapshot>, TestbedError> {
        let dir = self.dir(index);
        let Some(meta) = read_meta(&dir) else {
            return Ok(None);
        };
        let image = image.canonicalize().context("reading", image)?;
        let whole = meta.format == FORMAT
            && meta.key == self.key
            && meta.image == image
            && ["state", "disk.qcow2", "template.qcow2"]
                .iter()
                .all(|f| dir.join(f).is_file());
        if !whole {
            return Ok(None);
        }
        let Some(ram_dir) = meta.ram.parent().filter(|d| d.is_dir()) else {
            return Ok(None);
        };
        let Some(in_use) = Lock::try_shared(&ram_dir.join("lock"))? else {
            return Ok(None);
        };
        // Looked at under the lock: nobody removes it now.
        let same = meta
            .ram
            .metadata()
            .is_ok_and(|m| (m.len(), m.ino()) == (meta.ram_bytes, meta.ram_inode));
        Ok(same.then_some(Snapshot {
            dir,
            meta,
            _in_use: in_use,
        }))
    }

    /// A fresh directory for snapshot `index`; what was there is removed.
    pub(crate) fn fresh_dir(&self, index: u32) -> Result<PathBuf, TestbedError> {
        let dir = self.dir(index);
        if let Some(old) = read_meta(&dir) {
            remove_ram(&old.ram);
        }
        remove_dir(&dir)?;
        std::fs::create_dir_all(&dir).context("creating", &dir)?;
        private_dir(&dir)?;
        Ok(dir)
    }

    /// A place for the memory of snapshot `index`: under /dev/shm when there is
    /// room, else beside the snapshot, which is slower. `tell` hears of that.
    pub(crate) fn place_for_ram(
        &self,
        index: u32,
        memory_mib: u32,
        mut tell: impl FnMut(&str),
    ) -> Result<RamPlace, TestbedError> {
        let needed = u64::from(memory_mib) + SHM_SPARE_MIB;
        let dir = self.dir(index);
        let nonce = format!("{:x}", crate::machine_facts::monotonic_ns());
        let shm = shm_dir().transpose()?;
        let ram_dir = match shm {
            Some(shm) if free_mib(&shm)? >= needed => {
                shm.join(format!("{}-{index}-{nonce}", self.own_name()))
            }
            _ => {
                let free = free_mib(&dir)?;
                if free < needed {
                    return Err(TestbedError::NoRoom {
                        path: dir,
                        needed_mib: needed,
                        available_mib: free,
                    });
                }
                tell(&format!(
                    "/dev/shm has less than {needed} MiB free: the snapshot's memory goes to \
                     disk, where restores are slower"
                ));
                dir.join("ram")
            }
        };
        private_dir(&ram_dir)?;
        let lock = Lock::try_exclusive(&ram_dir.join("lock"))?;
        let lock = lock.map_err(|pid| TestbedError::Locked { pid })?;
        let owner = ram_dir.join("owner");
        std::fs::write(&owner, dir.display().to_string()).context("writing", &owner)?;
        Ok(RamPlace {
            ram: ram_dir.join("ram"),
            dir: ram_dir,
            keep: false,
            _building: lock,
        })
    }

    /// Completes snapshot `index`: from now on it is found.
    pub(crate) fn finish(&self, mut place: RamPlace, meta: &Meta) -> Result<(), TestbedError> {
        let path = self.dir(meta.index).join("snapshot.json");
        let text = serde_json::to_vec_pretty(meta).map_err(std::io::Error::from);
        write_atomically(&path, &text.context("writing", &path)?, 0o600)
            .context("writing", &path)?;
        place.keep = true;
        Ok(())
    }

    /// A `Meta` for a memory file that is complete.
    pub(crate) fn meta(
        &self,
        index: u32,
        ram: &Path,
        image: &Path,
        warm: &[(String, std::time::Duration)],
        made_from: &Digests,
    ) -> Result<Meta, TestbedError> {
        let ram_meta = ram.metadata().context("reading", ram)?;
        Ok(Meta {
            format: FORMAT,
            key: self.key.clone(),
            index,
            ram: ram.to_owned(),
            ram_bytes: ram_meta.len(),
            ram_inode: ram_meta.ino(),
            image: image.canonicalize().context("reading", image)?,
            warm_ms: warm
                .iter()
                .map(|(g, t)| (g.clone(), t.as_millis() as u64))
                .collect(),
            made_unix_s: super::unix_now(),
            made_from: made_from.clone(),
        })
    }

    /// Removes this layout's snapshots under other keys, and memory files that
    /// belong to no snapshot any more. What is in use stays.
    pub(crate) fn prune(&self) {
        let own = self.own_name();
        let prefix = format!("{}-", self.layout);
        for entry in list(&self.base) {
            let Some(name) = entry.file_name().and_then(|n| n.to_str()) else {
                continue;
            };
            let key = name.strip_prefix(&prefix).unwrap_or_default();
            if name != own && key.len() == 12 && key.bytes().all(|b| b.is_ascii_hexdigit()) {
                list(&entry).iter().for_each(|dir| remove_snapshot(dir));
                let _ = std::fs::remove_dir(&entry);
            }
        }
        remove_orphans();
    }
}

/// Where a snapshot's memory is being made. Removed again unless finished.
#[derive(Debug)]
pub(crate) struct RamPlace {
    pub(crate) ram: PathBuf,
    dir: PathBuf,
    keep: bool,
    _building: Lock,
}

impl Drop for RamPlace {
    fn drop(&mut self) {
        if !self.keep
            && let Err(e) = remove_dir(&self.dir)
        {
            tracing::warn!("{e}");
        }
    }
}

/// Removes all snapshots made from these artefacts, but for those in use.
/// How many MiB of memory files went.
pub(crate) fn remove_all(artifacts: &Artifacts) -> u64 {
    let mut freed = 0;
    for layout in list(&snapshots_dir(artifacts)) {
        for dir in list(&layout) {
            let blocks = read_meta(&dir)
                .and_then(|m| m.ram.metadata().ok())
                .map(|m| m.blocks());
            remove_snapshot(&dir);
            if !dir.exists() {
                freed += blocks.unwrap_or(0) / 2048;
            }
        }
        let _ = std::fs::remove_dir(&layout);
    }
    remove_orphans();
    if let Some(Ok(shm)) = shm_dir() {
        // Goes only when it is empty.
        let _ = std::fs::remove_dir(shm);
    }
    freed
}

fn snapshots_dir(artifacts: &Artifacts) -> PathBuf {
    artifacts.root().join("testbed/snapshots")
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.is_dir())
        .collect()
}

fn read_meta(dir: &Path) -> Option<Meta> {
    serde_json::from_slice(&std::fs::read(dir.join("snapshot.json")).ok()?).ok()
}

fn remove_snapshot(dir: &Path) {
    if let Some(meta) = read_meta(dir)
        && !remove_ram(&meta.ram)
    {
        return;
    }
    if let Err(e) = remove_dir(dir) {
        tracing::warn!("{e}");
    }
}

/// Removes a memory file's directory unless someone uses it.
fn remove_ram(ram: &Path) -> bool {
    let Some(dir) = ram.parent().filter(|d| d.join("owner").is_file()) else {
        return true;
    };
    let Ok(Ok(_lock)) = Lock::try_exclusive(&dir.join("lock")) else {
        return false;
    };
    remove_dir(dir)
        .inspect_err(|e| tracing::warn!("{e}"))
        .is_ok()
}

/// Memory files whose snapshot is gone or has another: left by a build that
/// was killed, or by a tree that was deleted.
fn remove_orphans() {
    let Some(Ok(shm)) = shm_dir() else { return };
    for dir in list(&shm) {
        let Ok(owner) = std::fs::read_to_string(dir.join("owner")) else {
            continue;
        };
        let owned = read_meta(Path::new(&owner)).is_some_and(|m| m.ram.parent() == Some(&dir));
        // A build under way holds the lock, so that this leaves it alone.
        if !owned && remove_ram(&dir.join("ram")) {
            tracing::info!("removed {}: its snapshot is gone", dir.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests() -> Digests {
        let d = || "00".to_owned();
        Digests {
            qemu_version: "QEMU emulator version 10.0.2".to_owned(),
            qemu: d(),
            xen: d(),
            kernel: d(),
            initrd: d(),
            image: d(),
            agent: d(),
            guest_agent: None,
        }
    }

    /// A store with one snapshot whose memory lies under `base`.
    fn store(base: &Path, key: &str) -> (Store, PathBuf) {
        let layout = crate::find_layout("http").unwrap();
        let store = Store::new(&Artifacts::at(base), &layout, key);
        let dir = store.fresh_dir(0).unwrap();
        for file in ["state", "disk.qcow2", "template.qcow2"] {
            std::fs::write(dir.join(file), "x").unwrap();
        }
        let ram_dir = base.join(format!("ram-{key}"));
        private_dir(&ram_dir).unwrap();
        std::fs::write(ram_dir.join("owner"), dir.display().to_string()).unwrap();
        let (ram, image) = (ram_dir.join("ram"), base.join("dom0.img"));
        std::fs::write(&ram, "memory").unwrap();
        std::fs::write(&image, "disk").unwrap();
        let meta = store.meta(0, &ram, &image, &[], &digests()).unwrap();
        let text = serde_json::to_vec(&meta).unwrap();
        std::fs::write(dir.join("snapshot.json"), text).unwrap();
        (store, image)
    }

    #[test]
    fn the_key_depends_on_layout_and_artefacts() {
        let http = crate::find_layout("http").unwrap();
        let kat = crate::find_layout("kat").unwrap();
        let other = Digests {
            agent: "01".to_owned(),
            ..digests()
        };
        let keys = [
            key(&http, &digests()),
            key(&kat, &digests()),
            key(&http, &other),
        ];
        assert_eq!(keys[0].len(), 64);
        assert!(keys[0] != keys[1] && keys[0] != keys[2]);
        assert_eq!(keys[0], key(&http, &digests()));
    }

    #[test]
    fn after_a_reboot_the_memory_is_gone_and_the_snapshot_with_it() {
        let base = tempfile::tempdir().unwrap();
        let (store, image) = store(base.path(), &"a".repeat(64));
        let found = store.open(0, &image).unwrap().unwrap();
        assert!(store.open(1, &image).unwrap().is_none());
        let ram = found.meta.ram.clone();
        drop(found);
        std::fs::remove_dir_all(ram.parent().unwrap()).unwrap();
        assert!(store.open(0, &image).unwrap().is_none());
    }

    #[test]
    fn a_memory_file_that_is_another_is_not_taken() {
        let base = tempfile::tempdir().unwrap();
        let (store, image) = store(base.path(), &"a".repeat(64));
        let ram = store.open(0, &image).unwrap().unwrap().meta.ram.clone();
        std::fs::write(&ram, "longer memory").unwrap();
        assert!(store.open(0, &image).unwrap().is_none());
    }

    #[test]
    fn old_keys_are_pruned_unless_in_use() {
        let base = tempfile::tempdir().unwrap();
        let (old, image) = store(base.path(), &"a".repeat(64));
        let (new, _) = store(base.path(), &"b".repeat(64));
        let in_use = old.open(0, &image).unwrap().unwrap();
        new.prune();
        assert!(in_use.meta.ram.is_file() && in_use.dir.is_dir());
        let (ram, dir) = (in_use.meta.ram.clone(), in_use.dir.clone());
        drop(in_use);
        new.prune();
        assert!(!ram.exists() && !dir.exists());
        assert!(new.open(0, &image).unwrap().is_some());
    }
}
