//! What can go wrong between here and Xen.

use std::path::PathBuf;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong between here and Xen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This host cannot do it at all: no Xen, no patch, no library.
    #[error("not available here: {0}")]
    NotAvailable(String),
    /// Xen refused this caller.
    #[error("Xen refused the call: {0} needs dom0's privilege")]
    NotPermitted(&'static str),
    /// Something is armed on that vCPU already.
    #[error("an injection is armed on domain {domid} vCPU {vcpu} already; disarm it first")]
    Busy {
        /// The domain.
        domid: u16,
        /// The vCPU.
        vcpu: u32,
    },
    /// Something is armed in that hypercall already.
    #[error(
        "an injection is armed in hypercall {hypercall} for the same domain or all; a debug \
         register holds one address: disarm it first"
    )]
    HypercallBusy {
        /// The hypercall's number.
        hypercall: u32,
    },
    /// No breakpoint can be put there.
    #[error(
        "{address:#x} is not an address in Xen's code where a register can be changed (Xen's \
         entry code and its handler of debug exceptions are left out)"
    )]
    BadLocation {
        /// The address.
        address: u64,
    },
    /// Nothing is mapped there.
    #[error("nothing is mapped at {address:#x} in {whose}")]
    NotMapped {
        /// The address.
        address: u64,
        /// Whose address it is.
        whose: String,
    },
    /// What is mapped there is no memory.
    #[error("what is mapped at {address:#x} in Xen is a device's, not memory")]
    NotMemory {
        /// The address.
        address: u64,
    },
    /// A word that cannot be accessed at once.
    #[error(
        "{size} bytes at {address:#x} cannot be accessed at once: valid are 1, 2, 4 and 8, at a \
         multiple of the size"
    )]
    BadWord {
        /// The address.
        address: u64,
        /// The size, bytes.
        size: u32,
    },
    /// A mask that does not fit.
    #[error("mask {mask:#x} is not within {size} bytes, or empty")]
    BadMask {
        /// The mask.
        mask: u64,
        /// The word's size, bytes.
        size: u32,
    },
    /// Profiles are one at a time.
    #[error("Xen is counting hypercalls already; let that end, or disarm everything")]
    ProfileRunning,
    /// Nothing was ever counted.
    #[error("Xen has counted no hypercalls since it booted")]
    NoProfile,
    /// Every slot is armed.
    #[error("all of Xen's {slots} injection slots are armed; disarm some first")]
    NoFreeSlot {
        /// How many there are.
        slots: u32,
    },
    /// Xen refused an argument.
    #[error("Xen refused an argument of {0}")]
    Invalid(&'static str),
    /// No domain has this id.
    #[error("there is no domain {domid}, or it is being destroyed")]
    NoSuchDomainId {
        /// The id asked for.
        domid: u16,
    },
    /// No domain has this name.
    #[error("no running domain is called '{name}'; running: {}", list(running))]
    NoSuchDomain {
        /// The name asked for.
        name: String,
        /// The names there are.
        running: Vec<String>,
    },
    /// The domain has no such vCPU.
    #[error("domain '{domain}' has no vCPU {vcpu}; it has {vcpus}")]
    NoSuchVcpu {
        /// The domain.
        domain: String,
        /// The vCPU asked for.
        vcpu: u32,
        /// How many it has.
        vcpus: u32,
    },
    /// Xen knows no injection with this id, or no longer.
    #[error("Xen knows no injection {0}, or no longer")]
    NoSuchInjection(u64),
    /// Not for this kind of guest.
    #[error("this Xen cannot do that to this kind of guest ({0})")]
    Unsupported(&'static str),
    /// The hypercall speaks another version of its interface.
    #[error(
        "the running Xen has version {theirs} of the xfi interface, this program needs {ours}; \
         rebuild one of them"
    )]
    OtherVersion {
        /// Xen's.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// Any other error of a hypercall.
    #[error("{op}: {source}")]
    Hypercall {
        /// The operation.
        op: &'static str,
        /// What Xen or the kernel said.
        source: std::io::Error,
    },
    /// Xen answered with something that makes no sense.
    #[error("Xen answered {op} with {what}")]
    Nonsense {
        /// The operation.
        op: &'static str,
        /// What came.
        what: String,
    },
    /// libvirt failed.
    #[error("libvirt: {what}: {message}")]
    Libvirt {
        /// What was tried.
        what: String,
        /// What libvirt said.
        message: String,
    },
    /// A guest as described cannot be made.
    #[error("guest '{name}': {why}")]
    BadGuest {
        /// The guest.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// XenStore failed.
    #[error("XenStore: {what}: {source}")]
    XenStore {
        /// What was tried.
        what: String,
        /// What came back.
        source: std::io::Error,
    },
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}
