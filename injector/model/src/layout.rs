//! What is fixed about a testbed.

use crate::GuestKind;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;

/// A layout file: it fixes a testbed and, with the digests of QEMU, Xen, image
/// and agent, keys the snapshots made of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// The file format's version; 1.
    pub format: u32,
    /// The layout's name.
    pub name: String,
    /// How the world outside relates to the one inside.
    #[serde(default)]
    pub mode: ExecutionMode,
    /// The host.
    pub host: HostLayout,
    /// The guests, in the order in which they are started.
    pub guests: Vec<GuestLayout>,
    /// The domain meant when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_target: Option<String>,
}

/// The two ways to run an emulated testbed (DESIGN §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutionMode {
    /// Clients outside the emulated world, as on a real host.
    #[default]
    Throughput,
    /// The whole world a function of snapshot and fault.
    Exact,
}

/// The emulated machine and its Xen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostLayout {
    /// RAM, MiB.
    pub memory_mib: u32,
    /// Physical CPUs.
    pub smp: u32,
    /// QEMU's `-cpu` value.
    pub cpu: String,
    /// Xen's command line.
    pub xen_args: String,
    /// dom0's kernel command line. Commas would split QEMU's module list.
    pub dom0_args: String,
    /// The credit2 scheduler's rate limit or timeslice, microseconds, when set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeslice_us: Option<u32>,
    /// The Xen binary: `patched` or `stock`.
    #[serde(default)]
    pub xen: XenBuild,
    /// Xen's release, and with it Debian's for dom0 and guests.
    #[serde(default)]
    pub release: XenRelease,
}

/// A Xen release that we have patches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum XenRelease {
    /// Of Debian 12.
    #[serde(rename = "4.17")]
    V4_17,
    /// Of Debian 13.
    #[default]
    #[serde(rename = "4.20")]
    V4_20,
}

impl XenRelease {
    /// All of them.
    pub const ALL: [XenRelease; 2] = [XenRelease::V4_17, XenRelease::V4_20];

    /// As Xen calls it.
    pub const fn name(self) -> &'static str {
        match self {
            XenRelease::V4_17 => "4.17",
            XenRelease::V4_20 => "4.20",
        }
    }

    /// The Debian release that has it.
    pub const fn debian(self) -> &'static str {
        match self {
            XenRelease::V4_17 => "bookworm",
            XenRelease::V4_20 => "trixie",
        }
    }

    /// The release of this name.
    pub fn named(name: &str) -> Option<XenRelease> {
        XenRelease::ALL.into_iter().find(|r| r.name() == name)
    }
}

impl fmt::Display for XenRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which Xen boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum XenBuild {
    /// Ours, with the hypercall built in.
    #[default]
    Patched,
    /// Debian's own binary.
    Stock,
}

/// One guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestLayout {
    /// The domain's name.
    pub name: String,
    /// PV, PVH or HVM.
    pub kind: GuestKind,
    /// RAM, MiB.
    pub memory_mib: u32,
    /// vCPUs.
    #[serde(default = "one")]
    pub vcpus: u32,
    /// Kernel, as a path in dom0.
    pub kernel: String,
    /// Initramfs, as a path in dom0.
    pub ramdisk: String,
    /// Kernel command line.
    pub args: String,
    /// Its address on the bridge; none for a guest without a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ipv4Addr>,
    /// TCP port that the host forwards to, when the guest serves something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// A line on the guest's console that tells it is ready.
    pub ready_line: String,
}

const fn one() -> u32 {
    1
}
