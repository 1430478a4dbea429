//! Systems under test.
//!
//! A [`Testbed`] is a warm Xen host that can be put back to its snapshot. The
//! run loop knows nothing else of it, so an emulated host, a host over SSH and
//! this very dom0 are driven by the same code.

mod artifacts;
mod cpio;
mod digest;
pub mod emulated;
mod error;
mod layout;
mod link;
mod lock;
mod machine_facts;
mod private;
mod progress;
pub mod up;

pub use artifacts::{Artifacts, BootFiles, Digests};
pub use emulated::{
    EmulatedTestbed, Ping, SnapshotSet, capacity, installed_qemu, is_panic_line, remove_snapshots,
    snapshot_key,
};
pub use error::TestbedError;
pub use layout::{find_layout, layout_names, load_layout, parse_layout, release_asked_for};
pub use link::{AgentLink, LinkError};
pub use private::use_runtime_dir;
pub use progress::{Progress, ProgressFn};

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use xfi_model::{GuestMode, Layout, SnapshotIndex};

/// Where one run's evidence goes. The testbed creates the files it records.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The run's directory; exists, mode 0700.
    pub dir: PathBuf,
}

/// How a reset went.
#[derive(Debug, Clone, Copy)]
pub struct ResetReport {
    /// From the start of the restore to the machine running.
    pub restore: Duration,
}

/// Whether the machine is still there, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It runs, as far as can be seen from outside.
    Running,
    /// Xen or dom0 panicked: the console says so.
    Panicked {
        /// The panic's first line.
        line: String,
        /// Console lines around it.
        context: Vec<String>,
        /// `CLOCK_MONOTONIC` when it was seen, nanoseconds.
        seen_ns: u64,
    },
    /// The machine was reset or shut down from within.
    GuestReset,
    /// The emulator or the host is gone for a reason that is not the guest's.
    Gone {
        /// What is known of it.
        reason: String,
    },
}

/// A guest's service as the load driver reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The guest's name.
    pub guest: String,
    /// Where to connect.
    pub addr: SocketAddr,
}

/// A warm Xen host that can be put back to its snapshot.
pub trait Testbed: Send {
    /// The layout it was made from.
    fn layout(&self) -> &Layout;

    /// Puts the host back to a warm snapshot and starts it. Whatever ran before
    /// is ended. Console and packet records go to `evidence`.
    ///
    /// # Errors
    /// When no warm system could be had; nothing is left running then.
    fn reset(
        &mut self,
        snapshot: SnapshotIndex,
        evidence: &Evidence,
    ) -> Result<ResetReport, TestbedError>;

    /// The agent in dom0. Valid after a successful `reset`.
    fn agent(&mut self) -> Result<&mut AgentLink, TestbedError>;

    /// The guests' services, in the layout's order.
    fn endpoints(&self) -> Vec<Endpoint>;

    /// What can be seen of the machine from outside, without asking it.
    fn health(&mut self) -> Health;

    /// Begins to ping dom0; none where that cannot be done.
    fn ping(&mut self, patience: Duration) -> Option<Ping>;

    /// Ends the machine and completes the evidence (packet record flushed).
    fn stop(&mut self) -> Result<(), TestbedError>;

    /// A name for an address that a vCPU in this mode executed at, where known.
    fn symbol(&self, mode: GuestMode, address: u64) -> Option<String>;

    /// The packet record of the run, in pcap format, when there is one.
    fn packet_record(&self) -> Option<&Path>;
}
