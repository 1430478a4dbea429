//! A whole Xen host inside QEMU's TCG (DESIGN §4).

mod build;
mod command;
mod console;
mod launch;
mod machine;
mod own_dir;
mod ping;
mod qmp;
mod restore;
mod store;
mod warm;

pub(crate) use command::Forwards;
pub use console::is_panic_line;
pub(crate) use console::panic_in_log;
pub(crate) use launch::{Life, kill_and_wait, kill_leftover, pid_in, runs_in};
pub(crate) use own_dir::OwnDir;
pub use ping::Ping;

use crate::lock::Lock;
use crate::machine_facts::{free_port, need_memory};
use crate::{
    AgentLink, Artifacts, BootFiles, Digests, Endpoint, Evidence, Health, Progress, ProgressFn,
    ResetReport, Testbed, TestbedError,
};
use build::Job;
use machine::Machine;
use restore::RestoreFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use store::{Snapshot, Store};
use xfi_model::{GuestMode, Layout, SnapshotIndex};
use xfi_symbols::Symbols;

/// What a worker takes beside the memory that all share, MiB.
const WORKER_MIB: u64 = 400;

const QEMU_INSTALL: &str = "apt-get install qemu-system-x86 qemu-utils (Debian 13), or \
                            ansible/qemu-from-backports.sh (Debian 12)";

/// QEMU's binary: `$XFI_QEMU`, else from `$PATH`.
pub(crate) fn qemu_program() -> Result<PathBuf, TestbedError> {
    match std::env::var_os("XFI_QEMU").filter(|v| !v.is_empty()) {
        Some(path) => Ok(PathBuf::from(path)),
        None => launch::find_program("qemu-system-x86_64", QEMU_INSTALL),
    }
}

/// QEMU's version line.
pub(crate) fn qemu_version(program: &Path) -> Result<String, TestbedError> {
    let missing = |why: String| TestbedError::MissingProgram {
        program: program.display().to_string(),
        why,
        install: QEMU_INSTALL.to_owned(),
    };
    let out = std::process::Command::new(program)
        .arg("--version")
        .output()
        .map_err(|e| missing(e.to_string()))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let line = text.lines().next().unwrap_or_default().trim().to_owned();
    match major_version(&line) {
        Some(major) if major >= 10 => Ok(line),
        Some(_) => Err(missing(format!(
            "this is {line}, and QEMU 10 or later is needed"
        ))),
        None => Err(missing(format!("it does not say its version ({line:?})"))),
    }
}

/// The version line of the QEMU that is used.
///
/// # Errors
/// [`TestbedError::MissingProgram`] when there is none, or one too old.
pub fn installed_qemu() -> Result<String, TestbedError> {
    qemu_version(&qemu_program()?)
}

fn major_version(line: &str) -> Option<u32> {
    line.split_whitespace().find_map(|word| {
        word.split_once('.')
            .and_then(|(major, _)| major.parse().ok())
    })
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

/// How many workers this machine can feed: its cores, at least one. More
/// oversubscribe and change outcomes.
pub fn capacity() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

/// K warm snapshots of one layout, ready to restore. Cheap to clone; while one
/// exists nobody removes the snapshots.
#[derive(Debug, Clone)]
pub struct SnapshotSet {
    inner: Arc<SetInner>,
}

#[derive(Debug)]
struct SetInner {
    layout: Layout,
    key: String,
    files: BootFiles,
    digests: Digests,
    symbols: Symbols,
    snapshots: Vec<Snapshot>,
}

impl SnapshotSet {
    /// Finds the layout's first `count` snapshots, making those that are
    /// missing: each is booted and warmed on its own.
    ///
    /// # Errors
    /// When artefacts, QEMU, memory or room are missing, or the host does not
    /// come up.
    pub fn prepare(
        artifacts: &Artifacts,
        layout: &Layout,
        count: u32,
        progress: &mut ProgressFn<'_>,
    ) -> Result<SnapshotSet, TestbedError> {
        let files = artifacts.require(layout)?;
        let digests = artifacts.digests(layout)?;
        let key = store::key(layout, &digests);
        let store = Store::new(artifacts, layout, &key);
        let mut snapshots = Vec::new();
        for index in 0..count.max(1) {
            if let Some(snapshot) = store.open(index, &files.image)? {
                snapshots.push(snapshot);
                continue;
            }
            let lock_file = artifacts.root().join("testbed/build.lock");
            if let Some(dir) = lock_file.parent() {
                crate::private::private_dir(dir)?;
            }
            let _building = Lock::exclusive(&lock_file, |pid| {
                let text = format!("another xfi (pid {pid}) is making snapshots; waiting for it");
                progress(Progress::Note { text: &text });
            })?;
            // The other one may have made it.
            let mut snapshot = store.open(index, &files.image)?;
            if snapshot.is_none() {
                let job = Job {
                    artifacts,
                    layout,
                    files: &files,
                    digests: &digests,
                    store: &store,
                    index,
                    count: count.max(1),
                };
                build::make(&job, progress)?;
                snapshot = store.open(index, &files.image)?;
            }
            snapshots.push(snapshot.ok_or_else(|| TestbedError::SnapshotUnusable {
                tries: 1,
                why: "it vanished as soon as it was made".to_owned(),
            })?);
            store.prune();
        }
        let inner = SetInner {
            symbols: artifacts.symbols(&layout.host),
            layout: layout.clone(),
            key,
            files,
            digests,
            snapshots,
        };
        Ok(SnapshotSet {
            inner: Arc::new(inner),
        })
    }

    /// How many of the layout's first `count` snapshots exist; what `prepare`
    /// would still make is the rest.
    ///
    /// # Errors
    /// As for [`Artifacts::digests`].
    pub fn existing(
        artifacts: &Artifacts,
        layout: &Layout,
        count: u32,
    ) -> Result<u32, TestbedError> {
        let files = artifacts.require(layout)?;
        let key = store::key(layout, &artifacts.digests(layout)?);
        let store = Store::new(artifacts, layout, &key);
        let mut found = 0;
        for index in 0..count {
            found += u32::from(store.open(index, &files.image)?.is_some());
        }
        Ok(found)
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

    /// The files they were made from.
    pub fn files(&self) -> &BootFiles {
        &self.inner.files
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.inner.snapshots.len() as u32
    }

    /// Latency at which each guest came to rest before snapshot `index`,
    /// milliseconds.
    pub fn warm_ms(&self, index: SnapshotIndex) -> Option<&[(String, u64)]> {
        Some(&self.inner.snapshots.get(index.0 as usize)?.meta.warm_ms)
    }

    pub(crate) fn restore(
        &self,
        index: SnapshotIndex,
        how: &RestoreHow<'_>,
        forwards: &mut Forwards,
    ) -> Result<(Machine, Duration), TestbedError> {
        let missing = TestbedError::NoSuchSnapshot {
            index: index.0,
            count: self.count(),
        };
        let snapshot = self.inner.snapshots.get(index.0 as usize).ok_or(missing)?;
        let from = RestoreFrom {
            layout: &self.inner.layout,
            xen: &self.inner.files.xen,
            state: &snapshot.state(),
            template: &snapshot.template(),
            ram: &snapshot.meta.ram,
        };
        restore::restore(
            &from,
            how.dir,
            how.life,
            how.console_log,
            how.packets,
            forwards,
            how.fixed_ssh,
        )
    }

    /// Free ports for this layout's services.
    pub(crate) fn forwards(&self, ssh: Option<u16>) -> Result<Forwards, TestbedError> {
        let mut forwards = Forwards {
            ssh,
            services: Vec::new(),
        };
        for _ in command::serving(self.layout()) {
            forwards.services.push(free_port()?);
        }
        Ok(forwards)
    }

    pub(crate) fn endpoints(&self, forwards: &Forwards) -> Vec<Endpoint> {
        build::endpoints(self.layout(), forwards)
    }
}

/// How a snapshot is restored.
pub(crate) struct RestoreHow<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) life: Life,
    pub(crate) console_log: &'a Path,
    pub(crate) packets: Option<&'a Path>,
    pub(crate) fixed_ssh: bool,
}

/// Waits until the agent in a restored machine answers.
pub(crate) fn agent_answers(machine: &mut Machine) -> Result<(), TestbedError> {
    build::hello(machine, Duration::from_secs(60), "waiting for the agent").map(drop)
}

/// What keys this layout's snapshots made from these artefacts.
pub fn snapshot_key(layout: &Layout, made_from: &Digests) -> String {
    store::key(layout, made_from)
}

/// Removes all snapshots made from these artefacts, but for those in use, and
/// says how many MiB of memory that freed. They are made again when needed.
pub fn remove_snapshots(artifacts: &Artifacts) -> u64 {
    store::remove_all(artifacts)
}

/// One worker's emulated testbed.
#[derive(Debug)]
pub struct EmulatedTestbed {
    set: SnapshotSet,
    // Before the directory it works in: dropped first.
    machine: Option<Machine>,
    dir: OwnDir,
    forwards: Forwards,
    packets: Option<PathBuf>,
    peak_rss_mib: Option<u64>,
    private_mib: Option<u64>,
}

impl EmulatedTestbed {
    /// A testbed for worker `worker`; nothing runs until `reset`.
    ///
    /// # Errors
    /// When memory is short or its private directory cannot be made.
    pub fn new(set: &SnapshotSet, worker: u32) -> Result<EmulatedTestbed, TestbedError> {
        need_memory(&format!("start worker {worker}"), WORKER_MIB)?;
        Ok(EmulatedTestbed {
            set: set.clone(),
            machine: None,
            dir: OwnDir::create()?,
            forwards: set.forwards(None)?,
            packets: None,
            peak_rss_mib: None,
            private_mib: None,
        })
    }

    /// QEMU's process id, when one runs.
    pub fn pid(&self) -> Option<u32> {
        self.machine.as_ref().map(Machine::pid)
    }

    /// The largest resident set that any QEMU of this worker has had, MiB,
    /// shared pages included.
    pub fn peak_rss_mib(&self) -> Option<u64> {
        self.peak_rss_mib
    }

    /// The largest memory of this worker's QEMUs at their end that no other
    /// process shared, MiB.
    pub fn private_mib(&self) -> Option<u64> {
        self.private_mib
    }

    fn end_machine(&mut self) {
        let Some(machine) = self.machine.take() else {
            return;
        };
        if let Some(memory) = machine.memory() {
            self.peak_rss_mib = self.peak_rss_mib.max(Some(memory.peak_rss_mib));
            self.private_mib = self.private_mib.max(Some(memory.private_mib));
        }
        drop(machine);
    }
}

impl Testbed for EmulatedTestbed {
    fn layout(&self) -> &Layout {
        self.set.layout()
    }

    fn reset(
        &mut self,
        snapshot: SnapshotIndex,
        evidence: &Evidence,
    ) -> Result<ResetReport, TestbedError> {
        self.end_machine();
        let packets = evidence.dir.join("net.pcap");
        let how = RestoreHow {
            dir: self.dir.path(),
            life: Life::WithUs,
            console_log: &absolute(&evidence.dir.join("console.log")),
            packets: Some(&absolute(&packets)),
            fixed_ssh: false,
        };
        let (machine, restore) = self.set.restore(snapshot, &how, &mut self.forwards)?;
        self.machine = Some(machine);
        self.packets = Some(packets);
        Ok(ResetReport { restore })
    }

    fn agent(&mut self) -> Result<&mut AgentLink, TestbedError> {
        self.machine
            .as_mut()
            .ok_or(TestbedError::NotRunning)?
            .agent()
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        self.set.endpoints(&self.forwards)
    }

    fn health(&mut self) -> Health {
        match &mut self.machine {
            Some(machine) => machine.health(),
            None => Health::Gone {
                reason: "it was not started, or stopped".to_owned(),
            },
        }
    }

    fn ping(&mut self, patience: Duration) -> Option<Ping> {
        self.machine.as_ref()?;
        Ping::start(self.dir.path(), patience)
            .inspect_err(|e| tracing::warn!("cannot ping dom0: {e}"))
            .ok()
    }

    fn stop(&mut self) -> Result<(), TestbedError> {
        self.end_machine();
        Ok(())
    }

    fn symbol(&self, mode: GuestMode, address: u64) -> Option<String> {
        self.set.inner.symbols.name(mode, address)
    }

    fn packet_record(&self) -> Option<&Path> {
        self.packets.as_deref().filter(|p| p.is_file())
    }
}

impl Drop for EmulatedTestbed {
    fn drop(&mut self) {
        self.end_machine();
    }
}

/// QEMU works in a directory of its own.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let line = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)";
        assert_eq!(major_version(line), Some(10));
        assert_eq!(major_version("QEMU emulator version 7.2.15 (x)"), Some(7));
        assert_eq!(major_version(""), None);
    }
}
