//! Runs with a fault in a task: here, or in a guest by its own agent.

use super::{Agent, Handled, REMEMBERED, Run};
use crate::host::{Host, Refusal};
use crate::lines::{Line, Lines};
use crate::owner::Owner;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use xfi_injector::task::ArmedTask;
use xfi_model::{
    AgentErrorCode, AgentRun, Command, DOM0_NAME, DomId, Event, EventBody, InjectionState,
    Location, Request, TaskIdentity, TaskRecord,
};
use xfi_toolstack::{Mailbox, host};

/// How much later than its expiry a guest's agent may tell of an end.
const PATIENCE: Duration = Duration::from_secs(15);

/// A request that a guest's agent has not taken for so long is taken back.
const ARMING: Duration = Duration::from_secs(30);

/// How often to see whether the guest still is.
const LOOK_AFTER: Duration = Duration::from_millis(500);

/// A fault in a task, under way.
#[derive(Debug)]
pub(super) enum TaskRun {
    /// In this system.
    Here(ArmedTask),
    /// In a guest.
    There(Box<Relay>),
}

/// A request that a guest's agent was given.
#[derive(Debug)]
pub(super) struct Relay {
    domain: String,
    domid: DomId,
    pipe: Pipe,
    /// Before that there is nothing to hear once it is armed.
    moment: Instant,
    armed: bool,
    /// From arming or, after a moment by the clock, from then on.
    expire: Option<Duration>,
    ended: bool,
    give_up: Option<Instant>,
    /// When to see next whether the guest still is.
    look_after: Instant,
}

/// Requests to a guest's agent with one number, and what it says of them.
#[derive(Debug)]
struct Pipe {
    seq: u64,
    mailbox: Mailbox,
    lines: Lines,
    heard: VecDeque<EventBody>,
}

/// What polling gave.
enum News {
    Nothing,
    Armed(Box<TaskIdentity>, u64),
    Ended(Box<TaskRecord>),
}

/// Whether the fault is in a task.
pub(super) fn in_task(location: &Location) -> bool {
    matches!(location, Location::Task { .. } | Location::TaskKill { .. })
}

/// Asks a guest's agent what it answers with one event.
pub(super) fn ask(
    mailbox: Mailbox,
    seq: u64,
    command: &Command,
    patience: Duration,
) -> Result<EventBody, Refusal> {
    let mut pipe = Pipe::over(mailbox, seq);
    pipe.say(command)?;
    let end = Instant::now() + patience;
    loop {
        match pipe.hear()? {
            Some(EventBody::Error { code, message }) => return Err(Refusal { code, message }),
            Some(body) => return Ok(body),
            None if Instant::now() >= end => {
                // Whatever is left of it there, nobody waits for it any more.
                let _ = pipe.mailbox.withdraw();
                return Err(Refusal {
                    code: AgentErrorCode::Failed,
                    message: format!("its agent gave no answer in {} s", patience.as_secs()),
                });
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

impl Agent {
    pub(super) fn start_task_run(&mut self, seq: u64, run: AgentRun) -> Handled {
        let Some(fault) = &run.fault else {
            return Ok(());
        };
        Host::check_opted_in("injecting faults")?;
        let owner = Owner::take()?.says(fault)?;
        let domain = fault.location.domain().unwrap_or(DOM0_NAME);
        let now = Instant::now();
        let mut next_poll = now;
        let task = if host::is_dom0() && domain != DOM0_NAME {
            TaskRun::There(Box::new(self.relay(seq, domain, &run)?))
        } else {
            if run.final_checks {
                self.before_run();
            }
            let armed = ArmedTask::arm(fault, run.dummy)?;
            let task = armed.identity().clone();
            next_poll = now + armed.moment_in();
            let moment_in_ns = nanos(armed.moment_in());
            self.emit(seq, EventBody::TaskArmed { task, moment_in_ns });
            TaskRun::Here(armed)
        };
        self.run = Some(Run {
            task: Some(task),
            next_poll,
            owner: Some(owner),
            ..Run::of(seq, &run)
        });
        Ok(())
    }

    fn relay(&mut self, seq: u64, domain: &str, run: &AgentRun) -> Result<Relay, Refusal> {
        let target = self.host.target(domain)?;
        let mailbox = Mailbox::to_guest(target.domid, domain)?;
        if run.final_checks {
            self.before_run();
        }
        let trigger = run.fault.as_ref().map(|f| &f.trigger);
        let now = Instant::now();
        let expire = trigger.and_then(|t| t.expire_ns).map(Duration::from_nanos);
        let mut relay = Relay {
            domain: domain.to_owned(),
            domid: target.domid,
            pipe: Pipe::over(mailbox, seq),
            moment: now,
            armed: false,
            expire,
            ended: false,
            give_up: Some(now + ARMING),
            look_after: now,
        };
        relay.pipe.say(&Command::Run(AgentRun {
            observe_ms: None,
            final_checks: false,
            ..run.clone()
        }))?;
        Ok(relay)
    }

    /// Asks for news; false when the run is over because of them.
    pub(super) fn tick_task(&mut self, run: &mut Run, mut task: TaskRun) -> bool {
        let now = Instant::now();
        loop {
            match self.news(&mut task) {
                Ok(News::Nothing) => {
                    run.next_poll = now + run.poll;
                    if let TaskRun::There(relay) = &task
                        && relay.armed
                    {
                        run.next_poll = run.next_poll.max(relay.moment);
                    }
                    run.task = Some(task);
                    return true;
                }
                Ok(News::Armed(task, moment_in_ns)) => {
                    let task = *task;
                    self.emit(run.seq, EventBody::TaskArmed { task, moment_in_ns });
                }
                Ok(News::Ended(record)) => {
                    let fired = record.state == InjectionState::Fired;
                    self.task_ended(run.seq, record);
                    let observe = run.observe.filter(|_| fired).unwrap_or_default();
                    run.end = Some(now + observe);
                    return true;
                }
                Err(refusal) => {
                    self.refuse(run.seq, refusal);
                    return false;
                }
            }
        }
    }

    fn news(&mut self, task: &mut TaskRun) -> Result<News, Refusal> {
        match task {
            TaskRun::Here(armed) => Ok(armed
                .poll()
                .map_or(News::Nothing, |r| News::Ended(Box::new(r)))),
            TaskRun::There(relay) => {
                let news = relay.hear()?;
                if matches!(news, News::Nothing) {
                    self.still_there(relay)?;
                }
                Ok(news)
            }
        }
    }

    /// A guest that died cannot say so.
    fn still_there(&mut self, relay: &mut Relay) -> Result<(), Refusal> {
        let domain = relay.domain.clone();
        let failed = |what: &str| Refusal {
            code: AgentErrorCode::Failed,
            message: format!("'{domain}' {what}"),
        };
        if !relay.asked_after() {
            return Ok(());
        }
        if self.host.target(&relay.domain).map(|t| t.domid).ok() != Some(relay.domid) {
            return Err(failed(
                "went away before its agent told how the injection ended",
            ));
        }
        if relay.give_up.is_some_and(|end| Instant::now() >= end) {
            if relay.armed {
                return Err(failed(
                    "armed the fault and gave no word on its end; it may have fired",
                ));
            }
            relay.ended = relay.pipe.mailbox.withdraw()?;
            return Err(failed(if relay.ended {
                "did not take the request in time, and it was taken back: nothing is armed \
                 there; its agent may be dead, see its console"
            } else {
                "took the request and did not say in time that it armed the fault; it was told \
                 to cancel, and may have fired before"
            }));
        }
        Ok(())
    }

    /// Tells of the end, and remembers it.
    fn task_ended(&mut self, seq: u64, record: Box<TaskRecord>) {
        self.ended_tasks.push_back((*record).clone());
        if self.ended_tasks.len() > REMEMBERED {
            self.ended_tasks.pop_front();
        }
        self.emit(seq, EventBody::TaskInjection { record });
    }

    pub(super) fn cancel_task(&mut self, seq: u64, mut task: TaskRun) -> Handled {
        let record = match &mut task {
            TaskRun::Here(armed) => Some(Box::new(armed.disarm()?)),
            TaskRun::There(relay) => relay.cancel()?,
        };
        if let Some(record) = record {
            self.task_ended(seq, record);
        }
        Ok(())
    }
}

impl Pipe {
    fn over(mailbox: Mailbox, seq: u64) -> Self {
        Pipe {
            seq,
            mailbox,
            lines: Lines::default(),
            heard: VecDeque::new(),
        }
    }

    fn say(&mut self, command: &Command) -> Result<(), Refusal> {
        let request = Request {
            seq: self.seq,
            command: command.clone(),
        };
        let line = serde_json::to_string(&request).map_err(|e| Refusal {
            code: AgentErrorCode::Failed,
            message: format!("a request cannot be written: {e}"),
        })?;
        // Whatever half a line is there ends here.
        Ok(self.mailbox.send(&format!("\n{line}\n"))?)
    }

    /// The next thing the guest's agent says about these requests.
    fn hear(&mut self) -> Result<Option<EventBody>, Refusal> {
        if self.heard.is_empty() && self.mailbox.take_events()? {
            let bytes = self.mailbox.receive()?;
            for line in self.lines.push(&bytes) {
                let Line::Whole(line) = line else { continue };
                let Ok(event) = serde_json::from_slice::<Event>(&line) else {
                    continue;
                };
                if event.seq == self.seq {
                    self.heard.push_back(event.body);
                }
            }
        }
        Ok(self.heard.pop_front())
    }
}

impl Relay {
    fn hear(&mut self) -> Result<News, Refusal> {
        while let Some(body) = self.pipe.hear()? {
            match body {
                EventBody::TaskArmed { task, moment_in_ns } => {
                    self.armed = true;
                    self.moment = Instant::now() + Duration::from_nanos(moment_in_ns);
                    self.give_up = self.expire.map(|e| self.moment + e + PATIENCE);
                    return Ok(News::Armed(Box::new(task), moment_in_ns));
                }
                EventBody::TaskInjection { mut record } => {
                    record.domain.clone_from(&self.domain);
                    self.ended = true;
                    return Ok(News::Ended(record));
                }
                EventBody::Error { code, message } => {
                    self.ended = true;
                    return Err(Refusal {
                        code,
                        message: format!("in '{}': {message}", self.domain),
                    });
                }
                _ => {}
            }
        }
        Ok(News::Nothing)
    }

    /// Whether it is time to look after the guest again.
    fn asked_after(&mut self) -> bool {
        let now = Instant::now();
        let due = now >= self.look_after;
        if due {
            self.look_after = now + LOOK_AFTER;
        }
        due
    }

    /// Disarms; none when it was not armed yet.
    fn cancel(&mut self) -> Result<Option<Box<TaskRecord>>, Refusal> {
        if !self.armed && self.pipe.mailbox.withdraw()? {
            self.ended = true;
            return Ok(None);
        }
        self.pipe.say(&Command::Cancel)?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let News::Ended(record) = self.hear()? {
                return Ok(Some(record));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(Refusal {
            code: AgentErrorCode::Failed,
            message: format!(
                "'{}' was told to disarm and gave no word on it; it may have fired",
                self.domain
            ),
        })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.pipe.say(&Command::Cancel);
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX)
}
