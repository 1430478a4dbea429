//! Talks to a Xen host: the xfi hypercall, domains, console.
//!
//! - [`Hypercall`]: arm, status, disarm, capabilities; words of Xen's memory;
//!   registers inside hypercalls; how often which hypercall is made.
//! - [`memory`]: words of domains' memory.
//! - [`DomainTable`]: which domains there are, by name; cheap enough to ask
//!   while an experiment runs (one hypercall, no daemon).
//! - [`Libvirt`] (feature `libvirt`): start and destroy guests.
//! - [`XenControl`]: Xen's console ring and the machine's size.
//! - [`guest_console`]: what xenconsoled logged of a guest.
//! - [`Mailbox`]: a byte stream between dom0 and a guest's agent.
//! - [`host`]: versions and the build id.
//!
//! Every library of Xen is loaded at run time. On a machine without Xen the
//! same calls return [`Error::NotAvailable`] and say what is missing.

mod domains;
mod domxml;
mod error;
pub mod guest_console;
pub mod host;
mod hypercall;
mod hypercall_memory;
mod hypercall_profile;
mod hypercall_registers;
#[cfg(feature = "libvirt")]
mod libvirt;
mod mailbox;
pub mod memory;
mod record;
mod xenctl;
mod xenstore;

pub use domains::{DomainTable, Target};
pub use domxml::{BRIDGE, domain_xml, mac_address};
pub use error::{Error, Result};
pub use hypercall::{ArmRequest, Hypercall, HypervisorInfo, RegisterMasks, Snapshot};
pub use hypercall_memory::{MemoryRecord, WordSize};
pub use hypercall_profile::{CallCounts, HypercallProfile};
pub use hypercall_registers::{HypercallFlip, HypercallRecord, HypercallRequest};
#[cfg(feature = "libvirt")]
pub use libvirt::{Libvirt, StartOutcome};
pub use mailbox::Mailbox;
pub use xenctl::{MachineInfo, XenControl, XenDomain};
pub use xenstore::XenStore;
