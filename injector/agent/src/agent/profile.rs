//! Hypercalls counted for a while.

use super::{Agent, Handled, Run};
use crate::owner::Owner;
use std::time::Instant;
use xfi_injector::profile::{Counting, check_time};
use xfi_model::{AgentRun, DOM0_NAME, DomId, EventBody};

impl Agent {
    /// Counting changes no guest's state: the host need not have opted in.
    pub(super) fn start_profile(
        &mut self,
        seq: u64,
        domain: Option<String>,
        for_ms: u64,
    ) -> Handled {
        let long = check_time(for_ms)?;
        let xen = self.host.hypercall()?;
        let info = xen.info()?;
        let domain = match domain {
            None => None,
            Some(name) if name == DOM0_NAME => Some((DomId::DOM0, name)),
            Some(name) => Some((self.host.target(&name)?.domid, name)),
        };
        let owner = Owner::take()?;
        let counting = Counting::start(xen, &info, domain)?;
        self.run = Some(Run {
            profile: Some(counting),
            owner: Some(owner),
            end: Some(Instant::now() + long),
            ..Run::of(
                seq,
                &AgentRun {
                    fault: None,
                    dummy: false,
                    poll_ms: 1,
                    observe_ms: None,
                    final_checks: false,
                },
            )
        });
        Ok(())
    }

    pub(super) fn end_profile(&mut self, seq: u64, counting: Counting) -> Handled {
        let record = Box::new(counting.finish()?);
        self.emit(seq, EventBody::Profile { record });
        Ok(())
    }
}
