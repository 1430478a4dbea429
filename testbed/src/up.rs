//! The long-lived testbed: `xfi testbed up`, `down`, `status`, `reset`.

use crate::emulated::{
    Forwards, Life, RestoreHow, agent_answers, kill_and_wait, kill_leftover, panic_in_log, pid_in,
    runs_in, unix_now,
};
use crate::error::IoContext;
use crate::lock::Lock;
use crate::machine_facts::{free_port, need_memory, port_is_free, process_memory};
use crate::private::{private_dir, remove_dir, remove_file, runtime_dir, write_atomically};
use crate::progress::step;
use crate::{AgentLink, Artifacts, ProgressFn, ResetReport, SnapshotSet, TestbedError};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use xfi_model::{Layout, SnapshotIndex};

const FORMAT: u32 = 1;

/// How long a second client waits for the first.
const PATIENCE: Duration = Duration::from_secs(5);

/// A host that has panicked never answers; one that is busy does.
const GREETED_WITHIN: Duration = Duration::from_secs(20);

/// What the testbed takes beside its snapshot, MiB.
const NEEDED_MIB: u64 = 400;

/// What the user may choose for [`up`].
#[derive(Debug, Clone, Default)]
pub struct UpOptions {
    /// This port on 127.0.0.1 leads to dom0's sshd; a free one when none.
    pub ssh_port: Option<u16>,
}

/// A testbed that is up, as `up.json` records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpInfo {
    /// The file format's version; 1.
    pub format: u32,
    /// QEMU's process id.
    pub pid: u32,
    /// The layout.
    pub layout: Layout,
    /// What keys the snapshot it was restored from.
    pub snapshot_key: String,
    /// Where its artefacts are.
    pub artifacts: PathBuf,
    /// Port on 127.0.0.1 that leads to dom0's sshd.
    pub ssh_port: u16,
    /// The user chose that port.
    pub ssh_port_fixed: bool,
    /// The private key that dom0's sshd accepts.
    pub ssh_key: PathBuf,
    /// Guests' services: name and address on this machine.
    pub endpoints: Vec<(String, SocketAddr)>,
    /// The serial console's log.
    pub console_log: PathBuf,
    /// A unix socket with the serial console (Xen's and dom0's).
    pub console_socket: PathBuf,
    /// When it came up, seconds since 1970.
    pub started_unix_s: u64,
}

/// What `xfi testbed status` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UpStatus {
    /// As recorded.
    pub info: UpInfo,
    /// Since it came up, seconds.
    pub uptime_s: u64,
    /// The emulator's largest resident set so far, MiB.
    pub peak_rss_mib: u64,
    /// Memory of the emulator that no other process shares, MiB.
    pub private_mib: u64,
    /// A panic seen on the console.
    pub panic_line: Option<String>,
}

fn up_dir(runtime: &Path) -> PathBuf {
    runtime.join("up")
}

/// Held by whoever brings the testbed up or down.
fn lock(runtime: &Path) -> Result<Lock, TestbedError> {
    Lock::try_exclusive(&runtime.join("up.lock"))?.map_err(|pid| TestbedError::Locked { pid })
}

/// The testbed recorded in `dir`, if its QEMU lives.
fn recorded(dir: &Path) -> Option<UpInfo> {
    let info: UpInfo = serde_json::from_slice(&std::fs::read(dir.join("up.json")).ok()?).ok()?;
    (info.format == FORMAT && runs_in(info.pid, dir)).then_some(info)
}

/// Brings a testbed up: makes the snapshot when there is none, restores it
/// into a QEMU that outlives this program.
///
/// # Errors
/// [`TestbedError::Locked`] when another process is at it,
/// [`TestbedError::AlreadyUp`], [`TestbedError::PortTaken`], and whatever
/// stops it from starting; nothing is left running then.
pub fn up(
    artifacts: &Artifacts,
    layout: &Layout,
    options: &UpOptions,
    progress: &mut ProgressFn<'_>,
) -> Result<UpInfo, TestbedError> {
    let runtime = runtime_dir()?;
    let _lock = lock(&runtime)?;
    let dir = up_dir(&runtime);
    if let Some(info) = recorded(&dir) {
        return Err(TestbedError::AlreadyUp {
            layout: info.layout.name,
            pid: info.pid,
        });
    }
    clear(&dir)?;
    if let Some(port) = options.ssh_port.filter(|p| !port_is_free(*p)) {
        return Err(TestbedError::PortTaken { port });
    }
    let ssh = match options.ssh_port {
        Some(port) => port,
        None => free_port()?,
    };
    let set = SnapshotSet::prepare(artifacts, layout, 1, progress)?;
    need_memory("keep the testbed up", NEEDED_MIB)?;
    let mut forwards = set.forwards(Some(ssh))?;
    let started = step(
        progress,
        "restoring the snapshot",
        Duration::from_secs(2),
        |_| {
            start(
                artifacts,
                &set,
                &dir,
                &mut forwards,
                options.ssh_port.is_some(),
            )
        },
    );
    match started {
        Ok((info, _)) => Ok(info),
        Err(e) => {
            clear(&dir)?;
            Err(e)
        }
    }
}

/// Restores into `dir`, waits for the agent and records it.
fn start(
    artifacts: &Artifacts,
    set: &SnapshotSet,
    dir: &Path,
    forwards: &mut Forwards,
    ssh_port_fixed: bool,
) -> Result<(UpInfo, Duration), TestbedError> {
    private_dir(dir)?;
    let console_log = dir.join("console.log");
    let how = RestoreHow {
        dir,
        life: Life::OnItsOwn,
        console_log: &console_log,
        packets: None,
        fixed_ssh: ssh_port_fixed,
    };
    let (mut machine, restore) = set.restore(SnapshotIndex(0), &how, forwards)?;
    agent_answers(&mut machine)?;
    let info = UpInfo {
        format: FORMAT,
        pid: machine.pid(),
        layout: set.layout().clone(),
        snapshot_key: set.key().to_owned(),
        artifacts: artifacts.root().to_owned(),
        ssh_port: forwards.ssh.unwrap_or_default(),
        ssh_port_fixed,
        ssh_key: set.files().ssh_key.clone(),
        endpoints: set
            .endpoints(forwards)
            .into_iter()
            .map(|e| (e.guest, e.addr))
            .collect(),
        console_log,
        console_socket: dir.join("console"),
        started_unix_s: unix_now(),
    };
    let record = dir.join("up.json");
    let text = serde_json::to_vec_pretty(&info).map_err(std::io::Error::from);
    write_atomically(&record, &text.context("writing", &record)?, 0o600)
        .context("writing", &record)?;
    machine.let_go();
    Ok((info, restore))
}

/// Ends the QEMU in `dir`, if any, and removes `dir`.
fn clear(dir: &Path) -> Result<bool, TestbedError> {
    let live = pid_in(dir);
    match live {
        Some(pid) => kill_and_wait(pid, dir),
        None => kill_leftover(dir),
    }
    remove_dir(dir)?;
    Ok(live.is_some())
}

/// Ends the testbed and removes all its files but the snapshots (see
/// [`crate::remove_snapshots`]). `false` when none was up (what a dead one
/// left is removed all the same).
///
/// # Errors
/// [`TestbedError::Locked`], or when a file cannot be removed.
pub fn down() -> Result<bool, TestbedError> {
    let runtime = runtime_dir()?;
    let held = lock(&runtime)?;
    let was_up = clear(&up_dir(&runtime))?;
    remove_file(&runtime.join("up.lock"))?;
    drop(held);
    // Goes only when no worker is in it.
    let _ = std::fs::remove_dir(&runtime);
    Ok(was_up)
}

/// The testbed that is up.
#[derive(Debug)]
pub struct Up {
    info: UpInfo,
    runtime: PathBuf,
}

impl Up {
    /// Finds it. A record of a QEMU that is gone counts as none.
    ///
    /// # Errors
    /// [`TestbedError::NotUp`].
    pub fn find() -> Result<Up, TestbedError> {
        let runtime = runtime_dir()?;
        match recorded(&up_dir(&runtime)) {
            Some(info) => Ok(Up { info, runtime }),
            None => {
                // Goes only when it is empty: looking leaves no trace.
                let _ = std::fs::remove_dir(&runtime);
                Err(TestbedError::NotUp)
            }
        }
    }

    /// What is recorded of it.
    pub fn info(&self) -> &UpInfo {
        &self.info
    }

    /// Its state.
    ///
    /// # Errors
    /// [`TestbedError::NotUp`] when it has just ended.
    pub fn status(&self) -> Result<UpStatus, TestbedError> {
        let memory = process_memory(self.info.pid).ok_or(TestbedError::NotUp)?;
        let log = std::fs::read(&self.info.console_log).unwrap_or_default();
        Ok(UpStatus {
            info: self.info.clone(),
            uptime_s: unix_now().saturating_sub(self.info.started_unix_s),
            peak_rss_mib: memory.peak_rss_mib,
            private_mib: memory.private_mib,
            panic_line: panic_in_log(&log).map(|p| p.line),
        })
    }

    /// Connects to the agent. One client at a time: a second waits briefly,
    /// then gets [`TestbedError::ClientBusy`]. The link holds the client lock.
    ///
    /// # Errors
    /// As said, when QEMU is gone, and when the agent does not answer within
    /// 20 seconds.
    pub fn connect(&self) -> Result<AgentLink, TestbedError> {
        let dir = up_dir(&self.runtime);
        let client = Lock::exclusive_within(&dir.join("client.lock"), PATIENCE)?
            .map_err(|pid| TestbedError::ClientBusy { pid })?;
        let mut link = AgentLink::connect(&dir.join("agent"))?.holding(client);
        link.greet(GREETED_WITHIN)?;
        Ok(link)
    }

    /// Puts it back to its snapshot; ports stay. The console's log begins
    /// anew.
    ///
    /// # Errors
    /// As for [`up`]; the testbed is down then.
    pub fn reset(&mut self, progress: &mut ProgressFn<'_>) -> Result<ResetReport, TestbedError> {
        let _lock = lock(&self.runtime)?;
        let dir = up_dir(&self.runtime);
        if recorded(&dir).is_none() {
            return Err(TestbedError::NotUp);
        }
        let client = Lock::exclusive_within(&dir.join("client.lock"), PATIENCE)?
            .map_err(|pid| TestbedError::ClientBusy { pid })?;
        let artifacts = Artifacts::at(&self.info.artifacts);
        let set = SnapshotSet::prepare(&artifacts, &self.info.layout, 1, progress)?;
        let mut forwards = set.forwards(Some(self.info.ssh_port))?;
        if self.info.endpoints.len() == forwards.services.len() {
            forwards.services = self.info.endpoints.iter().map(|(_, a)| a.port()).collect();
        }
        drop(client);
        clear(&dir)?;
        match start(
            &artifacts,
            &set,
            &dir,
            &mut forwards,
            self.info.ssh_port_fixed,
        ) {
            Ok((info, restore)) => {
                self.info = info;
                Ok(ResetReport { restore })
            }
            Err(e) => {
                clear(&dir)?;
                Err(e)
            }
        }
    }

    /// The command that logs in to dom0 (`ssh … root@127.0.0.1`); a remote
    /// command may follow.
    pub fn ssh_command(&self) -> Vec<String> {
        let port = self.info.ssh_port.to_string();
        let key = self.info.ssh_key.display().to_string();
        // The testbed's host key is as ephemeral as its disk.
        let options = [
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
        ];
        let mut command = vec![
            "ssh".to_owned(),
            "-i".to_owned(),
            key,
            "-p".to_owned(),
            port,
        ];
        command.extend(
            options
                .iter()
                .flat_map(|o| ["-o".to_owned(), (*o).to_owned()]),
        );
        command.push("root@127.0.0.1".to_owned());
        command
    }
}
