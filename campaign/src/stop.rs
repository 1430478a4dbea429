//! How a campaign is asked to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// A request to stop, shared with a signal handler.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicU8>);

impl Stop {
    /// Asks once more. The first time no new run begins and those under way
    /// are finished; from the second on they are ended at once.
    pub fn request(&self) {
        let _ = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| {
                Some(n.saturating_add(1))
            });
    }

    /// Whether no new run should begin.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst) >= 1
    }

    /// Whether runs under way should be ended at once.
    pub fn at_once(&self) -> bool {
        self.0.load(Ordering::SeqCst) >= 2
    }
}
