//! Guests started, and what a run would otherwise do first done.

use super::{Agent, Handled};
use crate::host::Refusal;
use std::time::{Duration, Instant};
use xfi_model::{AgentErrorCode, GuestLayout};
use xfi_toolstack::guest_console;

/// How often guests' consoles are looked at while they start.
const READY_POLL: Duration = Duration::from_millis(100);

impl Agent {
    pub(super) fn prepare(
        &mut self,
        seq: u64,
        guests: &[GuestLayout],
        patience: Duration,
    ) -> Handled {
        let end = Instant::now() + patience;
        let mut waiting = Vec::new();
        for guest in guests {
            let before = guest_console::length(&guest.name)?;
            let (started, message) = self.host.start(guest)?;
            self.progress(seq, message);
            waiting.push((guest, if started { before } else { 0 }));
        }
        while !waiting.is_empty() {
            let mut still = Vec::new();
            for (guest, skip) in waiting {
                if guest_console::has_line(&guest.name, &guest.ready_line, skip)? {
                    self.progress(seq, format!("{} is ready", guest.name));
                } else {
                    still.push((guest, skip));
                }
            }
            waiting = still;
            let Some((guest, _)) = waiting.first() else {
                break;
            };
            if Instant::now() >= end {
                let last = guest_console::tail(&guest.name, 3).unwrap_or_default();
                return Err(Refusal {
                    code: AgentErrorCode::Failed,
                    message: format!(
                        "'{}' did not print '{}' within {} ms; the last lines of its console: {}",
                        guest.name,
                        guest.ready_line,
                        patience.as_millis(),
                        if last.is_empty() {
                            "none".to_owned()
                        } else {
                            last.join(" | ")
                        }
                    ),
                });
            }
            if self.signalled() {
                self.mute = true;
                break;
            }
            std::thread::sleep(READY_POLL);
        }
        self.warm_up();
        Ok(())
    }

    /// Does now what a run would otherwise do first: opens, looks up, learns.
    /// On a host that lacks one of these the run itself says so.
    fn warm_up(&mut self) {
        let _ = self.host.hypercall();
        let _ = self.host.domains();
        let _ = self.host.new_console_lines();
        let _ = self.host.integrity();
    }
}
