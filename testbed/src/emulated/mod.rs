//! A whole Xen host inside QEMU's TCG (DESIGN §4).

use crate::{
    AgentLink, Artifacts, Digests, Endpoint, Evidence, Health, ProgressFn, ResetReport, Testbed,
    TestbedError,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xfi_model::{Layout, SnapshotIndex};

/// QEMU's binary.
pub(crate) fn qemu_program() -> Result<PathBuf, TestbedError> {
    Err(TestbedError::NotUp)
}

/// QEMU's version line.
pub(crate) fn qemu_version(_program: &Path) -> Result<String, TestbedError> {
    Err(TestbedError::NotUp)
}

/// How many workers this machine can feed: its cores, at least one. More
/// oversubscribe and change outcomes.
pub fn capacity() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

/// K warm snapshots of one layout, ready to restore. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SnapshotSet {
    inner: Arc<SetInner>,
}

#[derive(Debug)]
struct SetInner {
    layout: Layout,
    key: String,
    digests: Digests,
    count: u32,
}

impl SnapshotSet {
    /// Finds the layout's first `count` snapshots, making those that are
    /// missing: each is booted and warmed on its own.
    ///
    /// # Errors
    /// When artefacts, QEMU, memory or room are missing, or the host does not
    /// come up.
    pub fn prepare(
        _artifacts: &Artifacts,
        _layout: &Layout,
        _count: u32,
        _progress: &mut ProgressFn<'_>,
    ) -> Result<SnapshotSet, TestbedError> {
        Err(TestbedError::NotUp)
    }

    /// How many of the layout's first `count` snapshots exist; what `prepare`
    /// would still make is the rest.
    ///
    /// # Errors
    /// As for [`Artifacts::digests`].
    pub fn existing(
        _artifacts: &Artifacts,
        _layout: &Layout,
        _count: u32,
    ) -> Result<u32, TestbedError> {
        Ok(0)
    }

    /// The layout.
    pub fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// What keys the snapshots: a hash over layout, QEMU and all artefacts.
    pub fn key(&self) -> &str {
        &self.inner.key
    }

    /// What they were made from.
    pub fn digests(&self) -> &Digests {
        &self.inner.digests
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.inner.count
    }
}

/// One worker's emulated testbed.
#[derive(Debug)]
pub struct EmulatedTestbed {
    set: SnapshotSet,
}

impl EmulatedTestbed {
    /// A testbed for worker `worker`; nothing runs until `reset`.
    ///
    /// # Errors
    /// When its private directory cannot be made.
    pub fn new(set: &SnapshotSet, _worker: u32) -> Result<EmulatedTestbed, TestbedError> {
        Ok(EmulatedTestbed { set: set.clone() })
    }

    /// QEMU's process id, when one runs.
    pub fn pid(&self) -> Option<u32> {
        None
    }

    /// Largest memory QEMU has had that no other process shares, MiB.
    pub fn private_mib(&self) -> Option<u64> {
        None
    }
}

impl Testbed for EmulatedTestbed {
    fn layout(&self) -> &Layout {
        self.set.layout()
    }

    fn reset(
        &mut self,
        _snapshot: SnapshotIndex,
        _evidence: &Evidence,
    ) -> Result<ResetReport, TestbedError> {
        Err(TestbedError::NotRunning)
    }

    fn agent(&mut self) -> Result<&mut AgentLink, TestbedError> {
        Err(TestbedError::NotRunning)
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        Vec::new()
    }

    fn health(&mut self) -> Health {
        Health::Gone { reason: "not started".to_owned() }
    }

    fn stop(&mut self) -> Result<(), TestbedError> {
        Ok(())
    }

    fn packet_record(&self) -> Option<&Path> {
        None
    }
}
