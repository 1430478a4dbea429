//! What is armed, here and in guests, and how to end it.

use super::{Agent, Handled};
use crate::host::Refusal;
use crate::owner::Owner;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};
use xfi_model::{AgentErrorCode, Command, DOM0_NAME, DomId, EventBody, InjectionId, UnderWay};
use xfi_toolstack::{Error, Mailbox, host};

/// A guest's agent that does not answer within this is passed over.
const GUEST_PATIENCE: Duration = Duration::from_secs(10);

/// Another process that was told to disarm lets go within this.
const LETS_GO: Duration = Duration::from_secs(10);

/// Tells an agent to cancel its run.
pub(crate) const CANCEL: Signal = Signal::SIGUSR1;

impl Agent {
    pub(super) fn status(&mut self, seq: u64) -> Handled {
        // In a guest, or with Debian's own Xen, there are only tasks.
        let records = match self.host.hypercall() {
            Ok(_) => self.records()?,
            Err(_) => Vec::new(),
        };
        let mut under_way: Vec<UnderWay> = Vec::new();
        if let Some(holder) = Owner::holder()? {
            under_way.extend(holder.fault.map(|fault| UnderWay {
                held_in: DOM0_NAME.to_owned(),
                pid: holder.pid,
                fault,
            }));
        } else {
            // A guest may hold what an agent here armed that was killed since.
            for (domid, name) in self.guests() {
                let answer = self.ask_guest(seq, domid, &name, &Command::Status);
                let Some(EventBody::Injections { under_way: its, .. }) = answer else {
                    continue;
                };
                under_way.extend(its.into_iter().map(|u| UnderWay {
                    held_in: name.clone(),
                    ..u
                }));
            }
        }
        let body = EventBody::Injections {
            records,
            tasks: self.ended_tasks.iter().cloned().collect(),
            memory: self.ended_memory.iter().cloned().collect(),
            under_way,
        };
        self.emit(seq, body);
        Ok(())
    }

    pub(super) fn disarm(&mut self, seq: u64, id: Option<InjectionId>) -> Handled {
        let mut count = match self.host.hypercall() {
            Ok(xen) => xen.disarm(id)?,
            Err(e) if id.is_some() => return Err(e.into()),
            Err(_) => 0,
        };
        if id.is_none() {
            count += self.disarm_outside_xen(seq)?;
        }
        self.emit(seq, EventBody::Disarmed { count });
        Ok(())
    }

    /// Faults in tasks and in memory, whoever on this host or in its guests
    /// holds them.
    fn disarm_outside_xen(&mut self, seq: u64) -> Result<u32, Refusal> {
        let own = |run: &super::Run| run.task.is_some() || run.memory.is_some();
        if self.run.as_ref().is_some_and(own) {
            self.cancel();
            return Ok(1);
        }
        match Owner::holder()? {
            Some(holder) if holder.pid == std::process::id() => Ok(0),
            Some(holder) => {
                let ours = holder.fault.is_some_and(|f| outside_xen(&f.location));
                let pid = Pid::from_raw(holder.pid.cast_signed());
                // 0 and negative numbers are groups.
                if !ours || pid.as_raw() <= 0 {
                    return Ok(0);
                }
                if kill(pid, CANCEL).is_ok() {
                    wait_until_free(holder.pid)?;
                }
                Ok(1)
            }
            None => {
                let mut count = 0;
                for (domid, name) in self.guests() {
                    let all = Command::Disarm { id: None };
                    if let Some(EventBody::Disarmed { count: its }) =
                        self.ask_guest(seq, domid, &name, &all)
                    {
                        count += its;
                    }
                }
                Ok(count)
            }
        }
    }

    /// Those whose agents could be asked; none in a guest.
    fn guests(&mut self) -> Vec<(DomId, String)> {
        if !host::is_dom0() {
            return Vec::new();
        }
        let domains = self.host.domains().unwrap_or_default().into_iter();
        domains
            .filter_map(|d| Some((d.domid.filter(|id| *id != DomId::DOM0)?, d.name)))
            .collect()
    }

    /// A guest's agent's answer; one that gives none is told of.
    fn ask_guest(
        &mut self,
        seq: u64,
        domid: DomId,
        name: &str,
        command: &Command,
    ) -> Option<EventBody> {
        let answer = Mailbox::to_guest(domid, name)
            .map_err(Refusal::from)
            .and_then(|mailbox| super::tasks::ask(mailbox, seq, command, GUEST_PATIENCE));
        match answer {
            Ok(body) => Some(body),
            Err(Refusal {
                code: AgentErrorCode::NotAvailable,
                ..
            }) => None,
            Err(e) => {
                self.progress(seq, format!("'{name}' was not asked: {}", e.message));
                None
            }
        }
    }
}

fn outside_xen(location: &xfi_model::Location) -> bool {
    location.is_memory() || super::tasks::in_task(location)
}

fn wait_until_free(pid: u32) -> Handled {
    let end = Instant::now() + LETS_GO;
    while Instant::now() < end {
        if Owner::holder()?.is_none_or(|h| h.pid != pid) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(Error::NotAvailable(format!(
        "process {pid} was told to disarm and does not let go"
    ))
    .into())
}
