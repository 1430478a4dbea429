//! How often which hypercall is made (`XFI_OP_profile` of public/xfi.h; the
//! thesis's table 10, with the cycles it wished for).

use crate::hypercall::{Hypercall, common, errno};
use crate::{Error, Result};
use nix::libc::{EBUSY, ENOENT, ESRCH};
use xfi_model::DomId;
use xfi_xenctrl_sys::abi;

/// Counts of one hypercall.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// Calls made directly. One that Xen preempted counts again when continued.
    pub calls: u64,
    /// TSC cycles in these; multicall's include its parts'.
    pub cycles: u64,
    /// Calls made as a part of a multicall.
    pub sub_calls: u64,
    /// TSC cycles in those.
    pub sub_cycles: u64,
}

/// A profile of hypercalls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HypercallProfile {
    /// Whose calls; none for all domains'.
    pub domid: Option<DomId>,
    /// Still counting.
    pub running: bool,
    /// Xen's `NOW()` at the start, nanoseconds.
    pub start_now_ns: u64,
    /// Xen's `NOW()` at the end, or when this was read, nanoseconds.
    pub end_now_ns: u64,
    /// By hypercall number, 0 to 63.
    pub counts: Vec<CallCounts>,
}

impl Hypercall {
    /// Starts counting, from 0: the calls of one domain, or all.
    ///
    /// # Errors
    /// [`Error::ProfileRunning`], [`Error::NoSuchDomainId`].
    pub fn profile_start(&self, domid: Option<DomId>) -> Result<()> {
        let domain = domid.map_or(abi::XFI_ANY, |d| u32::from(d.0));
        self.profile(abi::XFI_PROFILE_START, domain, 0).map(drop)
    }

    /// Stops counting; what was counted can still be read. Nothing to stop is
    /// no error.
    ///
    /// # Errors
    /// When the call fails.
    pub fn profile_stop(&self) -> Result<()> {
        self.profile(abi::XFI_PROFILE_STOP, 0, 0).map(drop)
    }

    /// The profile, of now or of the last time. While it is running, the numbers
    /// are read one after the other, and reading them counts.
    ///
    /// # Errors
    /// [`Error::NoProfile`].
    pub fn profile_read(&self) -> Result<HypercallProfile> {
        let mut counts = Vec::with_capacity(abi::XFI_NR_HYPERCALLS as usize);
        let mut last = abi::xfi_profile::default();
        for nr in 0..abi::XFI_NR_HYPERCALLS {
            last = self.profile(abi::XFI_PROFILE_READ, 0, nr)?;
            counts.push(CallCounts {
                calls: last.calls,
                cycles: last.cycles,
                sub_calls: last.sub_calls,
                sub_cycles: last.sub_cycles,
            });
        }
        let domid = match last.domid {
            abi::XFI_ANY => None,
            n => Some(DomId(u16::try_from(n).map_err(|_| Error::Nonsense {
                op: "profile",
                what: format!("domain {n}"),
            })?)),
        };
        Ok(HypercallProfile {
            domid,
            running: last.running != 0,
            start_now_ns: last.now_start,
            end_now_ns: last.now_end,
            counts,
        })
    }

    fn profile(&self, cmd: u32, domid: u32, nr: u32) -> Result<abi::xfi_profile> {
        let mut p = abi::xfi_profile {
            version: abi::XFI_ABI_VERSION,
            cmd,
            domid,
            nr,
            ..Default::default()
        };
        self.call(abi::XFI_OP_profile, &mut p)
            .map_err(|e| match errno(&e) {
                Some(EBUSY) => Error::ProfileRunning,
                Some(ENOENT) => Error::NoProfile,
                Some(ESRCH) => Error::NoSuchDomainId {
                    domid: u16::try_from(domid).unwrap_or(u16::MAX),
                },
                _ => common("profile", e),
            })?;
        Ok(p)
    }
}
