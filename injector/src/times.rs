//! What Xen takes as times and counts of a trigger.

use crate::{InjectError, Result};
use xfi_model::Trigger;

/// Times in a request are refused above this (`XFI_MAX_DELAY_NS`).
pub(crate) const MAX_DELAY_NS: u64 = 86_400_000_000_000;

/// Refuses a trigger that could never fire, or that Xen would not take.
pub(crate) fn check_times(trigger: &Trigger) -> Result<()> {
    let bad = |what, value, valid| Err(InjectError::BadTrigger { what, value, valid });
    if trigger.nth == 0 {
        return bad("nth", 0, "the first event is 1");
    }
    if trigger.after_ns > MAX_DELAY_NS {
        return bad("after_ns", trigger.after_ns, "at most one day");
    }
    match trigger.expire_ns {
        Some(0) => bad("expire_ns", 0, "leave it out to wait for ever"),
        Some(n) if n > MAX_DELAY_NS => bad("expire_ns", n, "at most one day"),
        Some(n) if n <= trigger.after_ns => bad("expire_ns", n, "it must be later than after_ns"),
        _ => Ok(()),
    }
}
