//! Newtypes for identifiers, so that they cannot be mixed up.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A Xen domain id (`domid_t`, 0 to 0x7fef). dom0 is 0.
    DomId(u16)
);
id!(
    /// A vCPU's index inside its domain, from 0.
    VcpuId(u32)
);
id!(
    /// A run's index inside its campaign's plan, from 0.
    RunId(u32)
);
id!(
    /// The id that Xen gave an injection: unique since that Xen booted.
    InjectionId(u64)
);
id!(
    /// One of a campaign's K independently warmed snapshots, from 0.
    SnapshotIndex(u32)
);

impl DomId {
    /// The privileged VM (PVM).
    pub const DOM0: DomId = DomId(0);
    /// No domain (`DOMID_INVALID`).
    pub const INVALID: DomId = DomId(0x7ff4);
}
