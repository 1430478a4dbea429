//! Hypercalls that are counted: stopped when dropped.

use crate::{InjectError, Result};
use std::rc::Rc;
use std::time::Duration;
use xfi_model::{CallCount, DomId, MAX_PROFILE_MS, ProfileRecord};
use xfi_toolstack::{Hypercall, HypercallProfile, HypervisorInfo};

/// The capability that this takes (`XFI_FEAT_PROFILE`).
pub const FEATURE: &str = "profile";

/// Hypercalls that Xen counts because this process asked it to.
#[derive(Debug)]
pub struct Counting {
    xen: Rc<Hypercall>,
    domain: Option<String>,
    tsc_khz: u64,
    stopped: bool,
}

/// Checks a profile's length.
///
/// # Errors
/// [`InjectError::BadProfileTime`].
pub fn check_time(for_ms: u64) -> Result<Duration> {
    if for_ms == 0 || for_ms > MAX_PROFILE_MS {
        return Err(InjectError::BadProfileTime(for_ms));
    }
    Ok(Duration::from_millis(for_ms))
}

impl Counting {
    /// Starts counting from 0: the calls of this domain, or all.
    ///
    /// # Errors
    /// [`InjectError::NotAvailable`]; when Xen is counting for someone else.
    pub fn start(
        xen: Rc<Hypercall>,
        info: &HypervisorInfo,
        domain: Option<(DomId, String)>,
    ) -> Result<Counting> {
        if !info.capabilities.features.iter().any(|f| f == FEATURE) {
            return Err(InjectError::NotAvailable(
                "profile of hypercalls; the patched Xen has it, a livepatch cannot",
            ));
        }
        let (domid, domain) = domain.unzip();
        xen.profile_start(domid)?;
        Ok(Counting {
            xen,
            domain,
            tsc_khz: u64::from(info.tsc_khz),
            stopped: false,
        })
    }

    /// Stops, and tells what was counted.
    ///
    /// # Errors
    /// When a call fails; it is then stopped again when dropped.
    pub fn finish(mut self) -> Result<ProfileRecord> {
        self.xen.profile_stop()?;
        self.stopped = true;
        let profile = self.xen.profile_read()?;
        Ok(record(&profile, self.domain.take(), self.tsc_khz))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if !self.stopped {
            // Nothing more can be done about it here; disarming everything
            // stops it, too.
            let _ = self.xen.profile_stop();
        }
    }
}

fn record(profile: &HypercallProfile, domain: Option<String>, tsc_khz: u64) -> ProfileRecord {
    ProfileRecord {
        domain,
        domid: profile.domid,
        counted_ns: profile.end_now_ns.saturating_sub(profile.start_now_ns),
        tsc_khz,
        calls: (0..)
            .zip(&profile.counts)
            .filter(|(_, c)| c.calls > 0 || c.sub_calls > 0)
            .map(|(number, c)| CallCount {
                number,
                calls: c.calls,
                cycles: c.cycles,
                sub_calls: c.sub_calls,
                sub_cycles: c.sub_cycles,
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xfi_toolstack::CallCounts;

    #[test]
    fn calls_that_were_made_keep_their_numbers() {
        let mut counts = vec![CallCounts::default(); 64];
        counts[23].calls = 5;
        counts[3].sub_calls = 2;
        let profile = HypercallProfile {
            domid: Some(DomId(1)),
            running: false,
            start_now_ns: 10,
            end_now_ns: 30,
            counts,
        };
        let r = record(&profile, Some("web1".to_owned()), 7);
        assert_eq!((r.counted_ns, r.tsc_khz), (20, 7));
        let seen: Vec<_> = r.calls.iter().map(|c| (c.number, c.calls)).collect();
        assert_eq!(seen, [(3, 0), (23, 5)]);
    }

    #[test]
    fn times_that_make_no_profile_are_named() {
        for ms in [0, MAX_PROFILE_MS + 1, u64::MAX] {
            let e = check_time(ms).unwrap_err().to_string();
            assert!(e.contains(&format!("{ms} ms")), "{e}");
        }
        assert_eq!(check_time(1).unwrap(), Duration::from_millis(1));
    }
}
