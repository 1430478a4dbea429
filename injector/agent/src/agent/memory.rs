//! Runs with a fault in a word of memory, and words that are read.

use super::{Agent, Handled, REMEMBERED, Run};
use crate::host::{Host, Refusal};
use crate::owner::Owner;
use std::time::{Duration, Instant};
use xfi_injector::InjectError;
use xfi_injector::memory::{Memory, PlannedFlip};
use xfi_model::{AgentRun, EventBody, Location, MemoryRecord};

impl Agent {
    /// The memory that a location is in. Reading it changes nothing, so that the
    /// host need not have opted in.
    pub(super) fn memory(&mut self, location: &Location) -> Result<Memory, Refusal> {
        Ok(match location {
            Location::XenMemory { .. } => {
                let xen = self.host.hypercall()?;
                let info = xen.info()?;
                Memory::of_xen(xen, &info)?
            }
            Location::GuestMemory { domain, .. } => {
                Memory::of_domain(self.host.xen_domain(domain)?)?
            }
            other => return Err(InjectError::NotOfMemory(other.to_string()).into()),
        })
    }

    pub(super) fn start_memory_run(&mut self, seq: u64, run: AgentRun) -> Handled {
        let Some(fault) = &run.fault else {
            return Ok(());
        };
        Host::check_opted_in("injecting faults")?;
        let owner = Owner::take()?.says(fault)?;
        let memory = self.memory(&fault.location)?;
        if run.final_checks {
            self.before_run();
        }
        let flip = PlannedFlip::plan(memory, fault, run.dummy)?;
        self.run = Some(Run {
            next_poll: flip.due(),
            memory: Some(flip),
            owner: Some(owner),
            ..Run::of(seq, &run)
        });
        Ok(())
    }

    /// Makes the flip when its moment has come.
    pub(super) fn tick_memory(&mut self, run: &mut Run, flip: PlannedFlip) -> Handled {
        let now = Instant::now();
        if now < flip.due() {
            run.next_poll = flip.due();
            run.memory = Some(flip);
            return Ok(());
        }
        self.memory_ended(run.seq, flip.fire()?);
        run.end = Some(now + run.observe.unwrap_or(Duration::ZERO));
        Ok(())
    }

    /// Tells of the end, and remembers it.
    pub(super) fn memory_ended(&mut self, seq: u64, record: MemoryRecord) {
        self.ended_memory.push_back(record.clone());
        if self.ended_memory.len() > REMEMBERED {
            self.ended_memory.pop_front();
        }
        let record = Box::new(record);
        self.emit(seq, EventBody::MemoryInjection { record });
    }
}
