//! Restoring a snapshot into a fresh QEMU.

use super::command::{self, Forwards, Start};
use super::launch::Life;
use super::machine::{Machine, Plan};
use crate::TestbedError;
use crate::error::IoContext;
use std::path::Path;
use std::time::{Duration, Instant};
use xfi_model::Layout;

/// What a snapshot consists of.
pub(crate) struct RestoreFrom<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) xen: &'a Path,
    pub(crate) state: &'a Path,
    /// An empty overlay of the snapshot's disk, to be copied.
    pub(crate) template: &'a Path,
    pub(crate) ram: &'a Path,
}

/// Restores into a QEMU that works in `dir`. The machine runs when this
/// returns, its console is watched and the agent's port is connected. The time
/// is from the beginning to the machine running.
pub(crate) fn restore(
    from: &RestoreFrom<'_>,
    dir: &Path,
    life: Life,
    console_log: &Path,
    packets: Option<&Path>,
    forwards: &mut Forwards,
    fixed_ssh: bool,
) -> Result<(Machine, Duration), TestbedError> {
    let start = Instant::now();
    super::build::link(from.xen, &dir.join(command::XEN))?;
    let disk = dir.join(command::DISK);
    crate::private::remove_file(&disk)?;
    std::fs::copy(from.template, &disk).context("copying the disk to", &disk)?;
    let plan = Plan {
        layout: from.layout,
        start: Start::Restore,
        life,
        dir,
        ram: from.ram,
        console_log: console_log.to_owned(),
        packets: packets.map(Path::to_owned),
    };
    let mut machine = Machine::start(&plan, forwards, fixed_ssh)?;
    // Both before it runs: not a word is missed.
    machine.watch_console()?;
    machine.connect_agent()?;
    let running = machine.restore(from.state)?;
    Ok((machine, running.saturating_duration_since(start)))
}
