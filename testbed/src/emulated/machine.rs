//! One QEMU with an emulated Xen host in it.

use super::command::{self, AGENT, CONSOLE, Forwards, Parts, QMP, QMP_EVENTS, Start};
use super::console::{ConsoleWatcher, Panic};
use super::launch::{self, Life};
use super::qmp::{Events, Qmp, Seen};
use crate::machine_facts::{ProcessMemory, free_port, process_memory};
use crate::{AgentLink, Health, TestbedError};
use qapi::qmp::{self, MigrationCapability, MigrationCapabilityStatus, MigrationStatus};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use xfi_model::Layout;

/// QEMU opens its sockets within milliseconds; on a machine that is busy with
/// other things it may take its time.
const SOCKETS_WITHIN: Duration = Duration::from_secs(30);
const MIGRATE_WITHIN: Duration = Duration::from_secs(60);

/// Tries with other ports when some were taken in between.
const PORT_TRIES: u32 = 8;

/// Set once QEMU has refused `-sandbox` (a build without seccomp).
static NO_SANDBOX: AtomicBool = AtomicBool::new(false);

/// What a machine is started with.
#[derive(Debug, Clone)]
pub(crate) struct Plan<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) start: Start,
    pub(crate) life: Life,
    /// QEMU's working directory, with disk, boot files and its sockets.
    pub(crate) dir: &'a Path,
    pub(crate) ram: &'a Path,
    pub(crate) console_log: PathBuf,
    pub(crate) packets: Option<PathBuf>,
}

/// A running QEMU. Dropping it kills it, unless it was let go.
#[derive(Debug)]
pub(crate) struct Machine {
    child: Option<Child>,
    pid: u32,
    dir: PathBuf,
    log: PathBuf,
    console_log: PathBuf,
    qmp: Qmp,
    events: Events,
    console: Option<ConsoleWatcher>,
    agent: Option<AgentLink>,
}

impl Machine {
    /// Starts QEMU and connects to its monitor. Ports that turn out to be
    /// taken are replaced in `forwards`, but for a `fixed` ssh port.
    pub(crate) fn start(
        plan: &Plan<'_>,
        forwards: &mut Forwards,
        fixed_ssh: bool,
    ) -> Result<Machine, TestbedError> {
        let qemu = super::qemu_program()?;
        let mut tries = 0;
        loop {
            let sandbox = !NO_SANDBOX.load(Ordering::Relaxed);
            let args = command::arguments(&Parts {
                layout: plan.layout,
                start: plan.start,
                ram: plan.ram,
                forwards,
                console_log: &plan.console_log,
                packets: plan.packets.as_deref(),
                sandbox,
            });
            match Machine::start_once(plan, &qemu, &args) {
                Err(TestbedError::QemuEnded { stderr, .. })
                    if tries < PORT_TRIES && stderr.contains("host forwarding rule") =>
                {
                    tries += 1;
                    tracing::debug!("a port was taken, trying others: {stderr}");
                    renew(forwards, fixed_ssh, &stderr)?;
                }
                Err(TestbedError::QemuEnded { stderr, .. })
                    if sandbox && (stderr.contains("sandbox") || stderr.contains("seccomp")) =>
                {
                    tracing::warn!("this QEMU has no sandbox: {stderr}");
                    NO_SANDBOX.store(true, Ordering::Relaxed);
                }
                other => return other,
            }
        }
    }

    fn start_once(
        plan: &Plan<'_>,
        qemu: &Path,
        args: &[std::ffi::OsString],
    ) -> Result<Machine, TestbedError> {
        let dir = plan.dir;
        for name in [QMP, QMP_EVENTS, CONSOLE, AGENT, command::PING, command::PID] {
            crate::private::remove_file(&dir.join(name))?;
        }
        let log = dir.join("qemu.log");
        let mut child = launch::start(plan.life, qemu, args, dir, &log)?;
        let connected = connect_all(dir, &mut child, &log);
        let (qmp, events) = match connected {
            Ok(pair) => pair,
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(e);
            }
        };
        let pid = child.id();
        Ok(Machine {
            child: Some(child),
            pid,
            dir: dir.to_owned(),
            log,
            console_log: plan.console_log.clone(),
            qmp,
            events,
            console: None,
            agent: None,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn memory(&self) -> Option<ProcessMemory> {
        process_memory(self.pid)
    }

    /// Begins to watch the serial console.
    pub(crate) fn watch_console(&mut self) -> Result<(), TestbedError> {
        let stream = self.socket(CONSOLE)?;
        self.console = Some(ConsoleWatcher::start(stream));
        Ok(())
    }

    /// Connects to the agent's port. QEMU must be there; the agent need not.
    pub(crate) fn connect_agent(&mut self) -> Result<(), TestbedError> {
        self.agent = Some(AgentLink::over_socket(self.socket(AGENT)?)?);
        Ok(())
    }

    pub(crate) fn agent(&mut self) -> Result<&mut AgentLink, TestbedError> {
        self.agent.as_mut().ok_or(TestbedError::NotRunning)
    }

    fn socket(&mut self, name: &str) -> Result<UnixStream, TestbedError> {
        let path = self.dir.join(name);
        UnixStream::connect(&path).map_err(|e| {
            self.ended("connecting to it")
                .unwrap_or(TestbedError::Link(e.into()))
        })
    }

    /// Loads a snapshot's state and lets the machine run. The time it ran at.
    pub(crate) fn restore(&mut self, state: &Path) -> Result<Instant, TestbedError> {
        self.set_capabilities()?;
        let uri = file_uri(state);
        self.qmp.execute(&qmp::migrate_incoming {
            uri: Some(uri),
            channels: None,
            exit_on_error: None,
        })?;
        self.migrated("loading the snapshot")?;
        self.resume("starting the restored machine")
    }

    /// Lets the machine run; the time when it did.
    pub(crate) fn resume(&mut self, doing: &str) -> Result<Instant, TestbedError> {
        self.qmp.execute(&qmp::cont {})?;
        let seen = self.events.wait(MIGRATE_WITHIN, |s| s.resumed.is_some());
        match seen.as_ref().and_then(|s| s.resumed) {
            Some(at) => Ok(at),
            None => Err(self.failed(doing, seen)),
        }
    }

    /// Stops the machine and writes all its state but the memory to `state`.
    /// The machine stays stopped.
    pub(crate) fn save(&mut self, state: &Path) -> Result<(), TestbedError> {
        self.events.forget_migration();
        self.qmp.execute(&qmp::stop {})?;
        self.set_capabilities()?;
        self.qmp.execute(&qmp::migrate {
            uri: Some(file_uri(state)),
            channels: None,
            detach: None,
            resume: None,
        })?;
        self.migrated("saving the snapshot")
    }

    /// After `save`: the machine goes on, ready to be saved again.
    pub(crate) fn go_on(&mut self) -> Result<(), TestbedError> {
        self.events.forget_migration();
        self.resume("going on after a snapshot").map(drop)
    }

    fn set_capabilities(&mut self) -> Result<(), TestbedError> {
        let on = |capability| MigrationCapabilityStatus {
            capability,
            state: true,
        };
        self.qmp.execute(&qmp::migrate_set_capabilities {
            capabilities: vec![
                on(MigrationCapability::x_ignore_shared),
                on(MigrationCapability::events),
            ],
        })?;
        Ok(())
    }

    fn migrated(&mut self, doing: &str) -> Result<(), TestbedError> {
        use MigrationStatus::{completed, failed};
        let seen = self.events.wait(MIGRATE_WITHIN, |s| {
            matches!(s.migration, Some(completed | failed))
        });
        match seen.as_ref().and_then(|s| s.migration) {
            Some(completed) => Ok(()),
            _ => Err(self.failed(doing, seen)),
        }
    }

    fn failed(&mut self, doing: &str, seen: Option<Seen>) -> TestbedError {
        match seen {
            None => TestbedError::Timeout {
                what: doing.to_owned(),
                seconds: MIGRATE_WITHIN.as_secs(),
                hint: launch::log_tail(&self.log),
            },
            Some(_) => self.ended(doing).unwrap_or_else(|| TestbedError::Qmp {
                command: doing.to_owned(),
                message: launch::log_tail(&self.log),
            }),
        }
    }

    /// The error to give when QEMU has ended; `None` when it still runs.
    fn ended(&mut self, doing: &str) -> Option<TestbedError> {
        let child = self.child.as_mut()?;
        // Its sockets close a moment before it can be waited for.
        let status = wait_a_little(child)?;
        Some(TestbedError::QemuEnded {
            doing: doing.to_owned(),
            why: launch::in_words(status),
            stderr: launch::log_tail(&self.log),
        })
    }

    pub(crate) fn panic(&self) -> Option<Panic> {
        self.console.as_ref().and_then(ConsoleWatcher::panic)
    }

    /// What can be seen from outside.
    pub(crate) fn health(&mut self) -> Health {
        let seen = self.events.seen();
        if seen.ended {
            // What the console's thread still has to read.
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Some(Panic {
            line,
            context,
            seen_ns,
        }) = self.panic()
        {
            return Health::Panicked {
                line,
                context,
                seen_ns,
            };
        }
        if seen.guest_reset {
            return Health::GuestReset;
        }
        let exit = match &mut self.child {
            Some(child) if seen.ended => wait_a_little(child),
            Some(child) => child.try_wait().ok().flatten(),
            None => None,
        };
        let tail = launch::log_tail(&self.log);
        let tail = if tail.is_empty() {
            tail
        } else {
            format!(": {tail}")
        };
        match (exit, seen.host_shutdown) {
            (_, Some(why)) => Health::Gone {
                reason: format!("QEMU was ended ({why}){tail}"),
            },
            (Some(status), None) => Health::Gone {
                reason: format!("QEMU ended unasked, {}{tail}", launch::in_words(status)),
            },
            (None, None) if seen.ended => Health::Gone {
                reason: format!("QEMU's monitor is gone{tail}"),
            },
            (None, None) => Health::Running,
        }
    }

    /// The error to give when the machine is not healthy.
    pub(crate) fn check(&mut self, doing: &str) -> Result<(), TestbedError> {
        match self.health() {
            Health::Running => Ok(()),
            Health::Panicked { line, .. } => Err(TestbedError::Panicked {
                doing: doing.to_owned(),
                line,
                console: self.console_log.clone(),
            }),
            Health::GuestReset => Err(TestbedError::Panicked {
                doing: doing.to_owned(),
                line: "the machine was reset or shut down from within".to_owned(),
                console: self.console_log.clone(),
            }),
            Health::Gone { reason } => Err(TestbedError::QemuEnded {
                doing: doing.to_owned(),
                why: reason,
                stderr: String::new(),
            }),
        }
    }

    /// Leaves QEMU running on its own; nothing of it is held any more.
    pub(crate) fn let_go(mut self) {
        self.agent = None;
        self.child = None;
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.agent = None;
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn file_uri(path: &Path) -> String {
    format!("file:{}", path.display())
}

fn wait_a_little(child: &mut Child) -> Option<std::process::ExitStatus> {
    for _ in 0..100 {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Connects to both monitors as soon as QEMU has opened them.
fn connect_all(dir: &Path, child: &mut Child, log: &Path) -> Result<(Qmp, Events), TestbedError> {
    let deadline = Instant::now() + SOCKETS_WITHIN;
    let (qmp, events) = (dir.join(QMP), dir.join(QMP_EVENTS));
    loop {
        let result = Qmp::connect(&qmp).and_then(|qmp| Ok((qmp, Events::connect(&events)?)));
        let error = match result {
            Ok(pair) => return Ok(pair),
            Err(e) => e,
        };
        if let Ok(Some(status)) = child.try_wait() {
            return Err(TestbedError::QemuEnded {
                doing: "starting".to_owned(),
                why: launch::in_words(status),
                stderr: launch::log_tail(log),
            });
        }
        if Instant::now() > deadline {
            return Err(TestbedError::Timeout {
                what: "QEMU's start".to_owned(),
                seconds: SOCKETS_WITHIN.as_secs(),
                hint: format!("{error}; {}", launch::log_tail(log)),
            });
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// Replaces the ports, but for an ssh port that the user chose.
fn renew(forwards: &mut Forwards, fixed_ssh: bool, stderr: &str) -> Result<(), TestbedError> {
    if let Some(port) = forwards.ssh {
        if !fixed_ssh {
            forwards.ssh = Some(free_port()?);
        } else if stderr.contains(&format!("tcp:127.0.0.1:{port}-"))
            && !crate::machine_facts::port_is_free(port)
        {
            return Err(TestbedError::PortTaken { port });
        }
    }
    for port in &mut forwards.services {
        *port = free_port()?;
    }
    Ok(())
}
