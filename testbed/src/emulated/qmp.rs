//! QEMU's monitor: one connection for commands, another for events.

use crate::TestbedError;
use qapi::qmp::{Event, MigrationStatus};
use qapi::{Command, ExecuteError, Stream};
use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A command that takes longer than this has failed.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

type Client = qapi::Qmp<Stream<BufReader<UnixStream>, UnixStream>>;

fn connect(path: &Path) -> io::Result<Client> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let writer = stream.try_clone()?;
    let mut client = qapi::Qmp::new(Stream::new(BufReader::new(stream), writer));
    // The library expects a greeting and panics at an end.
    if client.inner_mut().fill_buf()?.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    client.handshake().map_err(io::Error::from)?;
    Ok(client)
}

/// The connection for commands.
pub(crate) struct Qmp {
    client: Client,
}

impl std::fmt::Debug for Qmp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Qmp")
    }
}

impl Qmp {
    pub(crate) fn connect(path: &Path) -> io::Result<Qmp> {
        Ok(Qmp {
            client: connect(path)?,
        })
    }

    /// Executes a command and waits for its answer.
    pub(crate) fn execute<C: Command>(&mut self, command: &C) -> Result<C::Ok, TestbedError> {
        self.client.execute(command).map_err(|e| TestbedError::Qmp {
            command: C::NAME.to_owned(),
            message: match e {
                ExecuteError::Qapi(e) => e.desc,
                ExecuteError::Io(e) => e.to_string(),
            },
        })
    }
}

/// What QEMU has told of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The machine runs (since then).
    pub(crate) resumed: Option<Instant>,
    /// The last state of a migration, in or out.
    pub(crate) migration: Option<MigrationStatus>,
    /// The guest reset the machine, shut it down or panicked.
    pub(crate) guest_reset: bool,
    /// QEMU is shutting down for a reason that is not the guest's.
    pub(crate) host_shutdown: Option<String>,
    /// The connection ended: QEMU is gone.
    pub(crate) ended: bool,
}

/// The connection for events, read on a thread of its own.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    shared: Arc<(Mutex<Seen>, Condvar)>,
}

impl Events {
    pub(crate) fn connect(path: &Path) -> io::Result<Events> {
        let (mut reader, writer) = connect(path)?.into_inner().into_inner();
        reader.get_ref().set_read_timeout(None)?;
        let events = Events {
            shared: Arc::default(),
        };
        let ours = events.clone();
        std::thread::spawn(move || {
            let mut line = Vec::new();
            loop {
                line.clear();
                match reader.read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => break,
                    // An event of a newer QEMU than the library knows is none
                    // that matters here.
                    Ok(_) => match serde_json::from_slice::<Event>(&line) {
                        Ok(event) => ours.update(|seen| note(seen, &event)),
                        Err(e) => tracing::debug!("QMP: {e}"),
                    },
                }
            }
            ours.update(|seen| seen.ended = true);
            drop(writer);
        });
        Ok(events)
    }

    fn update(&self, change: impl FnOnce(&mut Seen)) {
        let (seen, changed) = &*self.shared;
        change(&mut seen.lock().unwrap_or_else(PoisonError::into_inner));
        changed.notify_all();
    }

    /// What has been seen so far.
    pub(crate) fn seen(&self) -> Seen {
        self.shared
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Forgets the state of an earlier migration and an earlier resume.
    pub(crate) fn forget_migration(&self) {
        self.update(|seen| {
            seen.migration = None;
            seen.resumed = None;
        });
    }

    /// Waits until `enough` or QEMU's end; `None` when `within` passes first.
    pub(crate) fn wait(&self, within: Duration, enough: impl Fn(&Seen) -> bool) -> Option<Seen> {
        let (seen, changed) = &*self.shared;
        let guard = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, timeout) = changed
            .wait_timeout_while(guard, within, |s| !s.ended && !enough(s))
            .unwrap_or_else(PoisonError::into_inner);
        (!timeout.timed_out()).then(|| guard.clone())
    }
}

fn note(seen: &mut Seen, event: &Event) {
    match event {
        Event::RESUME { .. } => seen.resumed = Some(Instant::now()),
        Event::MIGRATION { data, .. } => seen.migration = Some(data.status),
        Event::RESET { data, .. } if data.guest => seen.guest_reset = true,
        Event::SHUTDOWN { data, .. } if data.guest => seen.guest_reset = true,
        Event::SHUTDOWN { data, .. } => {
            seen.host_shutdown = Some(format!("{:?}", data.reason).replace('_', "-"));
        }
        // The machine is stopped, and not by the guest's doing: its overlay
        // could not be written, for want of room most likely.
        Event::BLOCK_IO_ERROR { data, .. } => {
            seen.host_shutdown = Some(format!("its disk failed: {}", data.reason));
        }
        Event::GUEST_PANICKED { .. } | Event::GUEST_CRASHLOADED { .. } => seen.guest_reset = true,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lines: &[&str]) -> Seen {
        let mut seen = Seen::default();
        for line in lines {
            note(&mut seen, &serde_json::from_str(line).unwrap());
        }
        seen
    }

    #[test]
    fn the_guests_doing_is_told_from_the_hosts() {
        let seen = after(&[
            r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"RESET","data":{"guest":true,"reason":"guest-reset"}}"#,
        ]);
        assert!(seen.guest_reset && seen.host_shutdown.is_none());
        let seen = after(&[
            r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"SHUTDOWN","data":{"guest":false,"reason":"host-signal"}}"#,
        ]);
        assert!(!seen.guest_reset);
        assert_eq!(seen.host_shutdown.as_deref(), Some("host-signal"));
    }

    #[test]
    fn a_full_disk_is_the_hosts_failure() {
        let seen = after(&[
            r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"BLOCK_IO_ERROR","data":{"device":"disk","operation":"write","action":"stop","nospace":true,"qom-path":"x","reason":"No space left on device"}}"#,
        ]);
        assert!(!seen.guest_reset);
        assert_eq!(
            seen.host_shutdown.as_deref(),
            Some("its disk failed: No space left on device")
        );
    }

    #[test]
    fn a_restore_is_followed() {
        let seen = after(&[
            r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"MIGRATION","data":{"status":"completed"}}"#,
            r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"RESUME"}"#,
        ]);
        assert!(matches!(seen.migration, Some(MigrationStatus::completed)));
        assert!(seen.resumed.is_some());
    }
}
