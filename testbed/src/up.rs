//! The long-lived testbed: `xfi testbed up`, `down`, `status`, `reset`.

use crate::{AgentLink, Artifacts, ProgressFn, ResetReport, TestbedError};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;
use xfi_model::Layout;

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
    /// The snapshot it was restored from.
    pub snapshot_key: String,
    /// Port on 127.0.0.1 that leads to dom0's sshd.
    pub ssh_port: u16,
    /// Guests' services: name and address on this machine.
    pub endpoints: Vec<(String, std::net::SocketAddr)>,
    /// The serial console's log.
    pub console_log: PathBuf,
    /// A unix socket with the serial console.
    pub console_socket: PathBuf,
    /// When it came up, seconds since 1970.
    pub started_unix_s: u64,
}

/// What `xfi testbed status` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UpStatus {
    /// As recorded.
    pub info: UpInfo,
    /// Since it came up.
    pub uptime: Duration,
    /// Memory of the emulator that no other process shares, MiB.
    pub private_mib: u64,
    /// A panic seen on the console.
    pub panic_line: Option<String>,
}

/// Brings a testbed up: makes the snapshot when there is none, restores it
/// into a QEMU that outlives this program.
///
/// # Errors
/// [`TestbedError::Locked`] when another process is at it,
/// [`TestbedError::AlreadyUp`], and whatever stops it from starting.
pub fn up(
    _artifacts: &Artifacts,
    _layout: &Layout,
    _options: &UpOptions,
    _progress: &mut ProgressFn<'_>,
) -> Result<UpInfo, TestbedError> {
    Err(TestbedError::NotUp)
}

/// Ends the testbed and removes all its files. `false` when none was up (what
/// a dead one left is removed all the same).
///
/// # Errors
/// [`TestbedError::Locked`], or when a file cannot be removed.
pub fn down() -> Result<bool, TestbedError> {
    Ok(false)
}

/// The testbed that is up.
#[derive(Debug)]
pub struct Up {
    info: UpInfo,
}

impl Up {
    /// Finds it. A record of a QEMU that is gone counts as none.
    ///
    /// # Errors
    /// [`TestbedError::NotUp`].
    pub fn find() -> Result<Up, TestbedError> {
        Err(TestbedError::NotUp)
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
        Err(TestbedError::NotUp)
    }

    /// Connects to the agent. One client at a time: a second waits briefly,
    /// then gets [`TestbedError::ClientBusy`]. The link holds the client lock.
    ///
    /// # Errors
    /// As said, and when the agent does not answer.
    pub fn connect(&self) -> Result<AgentLink, TestbedError> {
        Err(TestbedError::NotUp)
    }

    /// Puts it back to its snapshot; ports stay.
    ///
    /// # Errors
    /// As for [`up`].
    pub fn reset(&mut self) -> Result<ResetReport, TestbedError> {
        Err(TestbedError::NotUp)
    }

    /// The command that logs in to dom0 (`ssh …`), without a remote command.
    pub fn ssh_command(&self) -> Vec<String> {
        Vec::new()
    }
}
