//! The byte stream to the orchestrator.

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use xfi_toolstack::Mailbox;

/// While nobody listens at the port's other end it reports so all the time:
/// look again this much later.
const LONELY: Duration = Duration::from_millis(20);

/// A client that has just connected counts as gone until the kernel has seen it:
/// its first request can be read before that.
const CONNECTING: Duration = Duration::from_millis(500);

/// An event that cannot be handed over for so long is dropped.
const STUCK: Duration = Duration::from_secs(10);

/// What reading gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Got {
    /// So many bytes.
    Bytes(usize),
    /// Nothing at the moment.
    Nothing,
    /// The other end went away; it may come back.
    Disconnected,
    /// The other end is gone for good.
    Ended,
}

/// A byte stream to the orchestrator.
#[derive(Debug)]
pub(crate) struct Channel {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Stdio,
    /// In a guest: dom0 writes and reads the store.
    Store(Box<Mailbox>),
    Device {
        path: PathBuf,
        file: Option<File>,
        /// Not to be read before.
        quiet_until: Option<Instant>,
        connected: bool,
    },
}

impl Channel {
    pub(crate) fn stdio() -> Self {
        Channel { kind: Kind::Stdio }
    }

    pub(crate) fn store() -> xfi_toolstack::Result<Self> {
        Ok(Channel {
            kind: Kind::Store(Box::new(Mailbox::in_guest()?)),
        })
    }

    pub(crate) fn device(path: PathBuf) -> Self {
        Channel {
            kind: Kind::Device {
                path,
                file: None,
                quiet_until: None,
                connected: false,
            },
        }
    }

    /// Opens the device if need be. A port that is not there yet is waited for.
    fn open(&mut self) -> Option<&mut File> {
        let Kind::Device {
            path,
            file,
            quiet_until,
            ..
        } = &mut self.kind
        else {
            return None;
        };
        if file.is_none() {
            match OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(OFlag::O_NONBLOCK.bits() | OFlag::O_NOCTTY.bits())
                .open(&*path)
            {
                Ok(f) => *file = Some(f),
                Err(_) => *quiet_until = Some(Instant::now() + Duration::from_millis(200)),
            }
        }
        file.as_mut()
    }

    /// Sleeps until there is input, `wake` is readable or `until` has come.
    /// True when it is worth reading.
    pub(crate) fn wait(
        &mut self,
        wake: BorrowedFd<'_>,
        until: Option<Instant>,
    ) -> io::Result<bool> {
        self.open();
        if matches!(&self.kind, Kind::Store(mailbox) if mailbox.has_come()) {
            return Ok(true);
        }
        let mut until = until;
        let quiet = match &self.kind {
            Kind::Device {
                quiet_until: Some(quiet),
                ..
            } => Some(*quiet),
            _ => None,
        };
        if let Some(quiet) = quiet {
            until = Some(until.map_or(quiet, |u| u.min(quiet)));
        }
        let timeout = match until {
            None => PollTimeout::NONE,
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                // Rounded up: waking early only means to wait once more.
                let ms = left.as_nanos().div_ceil(1_000_000);
                PollTimeout::try_from(ms.min(3_600_000) as i32).unwrap_or(PollTimeout::MAX)
            }
        };
        let stdin = io::stdin();
        let input = match &self.kind {
            _ if quiet.is_some() => None,
            Kind::Stdio => Some(stdin.as_fd()),
            Kind::Store(mailbox) => Some(mailbox.fd()),
            Kind::Device { file, .. } => file.as_ref().map(File::as_fd),
        };
        let mut fds = vec![PollFd::new(wake, PollFlags::POLLIN)];
        if let Some(input) = input {
            fds.push(PollFd::new(input, PollFlags::POLLIN));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let readable = fds
            .get(1)
            .and_then(PollFd::revents)
            .is_some_and(|events| !events.is_empty());
        if let Kind::Device { quiet_until, .. } = &mut self.kind
            && quiet_until.is_some_and(|q| q <= Instant::now())
        {
            *quiet_until = None;
        }
        Ok(readable)
    }

    /// Reads what there is, without waiting.
    pub(crate) fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<Got> {
        match &mut self.kind {
            Kind::Store(mailbox) => {
                if !mailbox.take_events().map_err(io::Error::other)? {
                    return Ok(Got::Nothing);
                }
                let bytes = mailbox.receive().map_err(io::Error::other)?;
                if bytes.is_empty() {
                    return Ok(Got::Nothing);
                }
                let n = bytes.len();
                buffer.resize(n.max(buffer.len()), 0);
                buffer[..n].copy_from_slice(&bytes);
                Ok(Got::Bytes(n))
            }
            Kind::Stdio => match io::stdin().lock().read(buffer) {
                Ok(0) => Ok(Got::Ended),
                Ok(n) => Ok(Got::Bytes(n)),
                Err(e) if retry(&e) => Ok(Got::Nothing),
                Err(e) => Err(e),
            },
            Kind::Device {
                file,
                quiet_until,
                connected,
                ..
            } => {
                let Some(open) = file else {
                    return Ok(Got::Nothing);
                };
                match open.read(buffer) {
                    Ok(0) => {
                        *quiet_until = Some(Instant::now() + LONELY);
                        if std::mem::take(connected) {
                            Ok(Got::Disconnected)
                        } else {
                            Ok(Got::Nothing)
                        }
                    }
                    Ok(n) => {
                        *connected = true;
                        Ok(Got::Bytes(n))
                    }
                    Err(e) if retry(&e) => Ok(Got::Nothing),
                    // Unplugged: open it anew, later.
                    Err(_) => {
                        *file = None;
                        *connected = false;
                        *quiet_until = Some(Instant::now() + Duration::from_millis(200));
                        Ok(Got::Disconnected)
                    }
                }
            }
        }
    }

    /// Writes a line. On a device nobody listens to it is dropped.
    pub(crate) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match &mut self.kind {
            Kind::Stdio => {
                let mut out = io::stdout().lock();
                out.write_all(line)?;
                out.flush()
            }
            Kind::Store(mailbox) => {
                // dom0 that takes nothing has lost interest.
                if let Err(e) = mailbox.send(&String::from_utf8_lossy(line)) {
                    eprintln!("xfi-agent: an event is lost: {e}");
                }
                Ok(())
            }
            Kind::Device { file, .. } => {
                if let Some(open) = file {
                    // An error here is the other end's absence, which reading
                    // notices and deals with.
                    let _ = write_patiently(open, line);
                }
                Ok(())
            }
        }
    }
}

fn write_patiently(file: &mut File, mut line: &[u8]) -> io::Result<()> {
    let give_up = Instant::now() + STUCK;
    let mut gone_since = None;
    while !line.is_empty() {
        match file.write(line) {
            Ok(n) => line = &line[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
                poll(&mut fds, PollTimeout::from(100u8))?;
                let gone = fds[0].revents().is_some_and(|r| {
                    r.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL)
                });
                let now = Instant::now();
                let gone_since = gone_since.get_or_insert(now);
                if !gone {
                    *gone_since = now;
                }
                if now >= *gone_since + CONNECTING || now >= give_up {
                    return Err(e);
                }
                if gone {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn retry(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
