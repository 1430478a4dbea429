//! XenStore, by its wire protocol (`io/xs_wire.h`).

use crate::{Error, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use xfi_model::DomId;

/// Where the store is reached, best first: in dom0 the daemon itself; else, or
/// when the daemon is a domain of its own, the kernel.
const SOCKET: &str = "/run/xenstored/socket";
const DEVICE: &str = "/dev/xen/xenbus";

const XS_DIRECTORY: u32 = 1;
const XS_READ: u32 = 2;
const XS_WATCH: u32 = 4;
const XS_TRANSACTION_START: u32 = 6;
const XS_TRANSACTION_END: u32 = 7;
const XS_WRITE: u32 = 11;
const XS_MKDIR: u32 = 12;
const XS_RM: u32 = 13;
const XS_WATCH_EVENT: u32 = 15;
const XS_ERROR: u32 = 16;
/// `XENSTORE_PAYLOAD_MAX`.
const PAYLOAD_MAX: u32 = 4096;
const PATIENCE: Duration = Duration::from_secs(2);
/// A transaction with so many conflicts is given up.
const ATTEMPTS: usize = 100;

pub(crate) trait Stream: Read + Write + Send + AsFd {}
impl Stream for UnixStream {}
impl Stream for File {}

/// A connection to XenStore.
pub struct XenStore {
    stream: Box<dyn Stream>,
    next_request: u32,
    /// A watch fired while an answer was waited for.
    fired: bool,
    /// Of the requests that are made now; 0 is none.
    transaction: u32,
}

impl std::fmt::Debug for XenStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("XenStore")
    }
}

impl XenStore {
    /// Connects.
    ///
    /// # Errors
    /// [`Error::NotAvailable`] when there is no store here.
    pub fn open() -> Result<Self> {
        if let Ok(socket) = UnixStream::connect(SOCKET) {
            let timed = socket
                .set_read_timeout(Some(PATIENCE))
                .and_then(|()| socket.set_write_timeout(Some(PATIENCE)));
            if timed.is_ok() {
                return Ok(Self::over(socket));
            }
        }
        Self::open_device()
    }

    /// Connects by the kernel's device, as a guest does.
    ///
    /// # Errors
    /// [`Error::NotAvailable`] when there is no store here.
    pub fn open_device() -> Result<Self> {
        match OpenOptions::new().read(true).write(true).open(DEVICE) {
            Ok(device) => Ok(Self::over(device)),
            Err(e) => Err(Error::NotAvailable(format!(
                "no XenStore: {SOCKET}, {DEVICE}: {e}"
            ))),
        }
    }

    /// To wait for a watch to fire.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(crate) fn over(stream: impl Stream + 'static) -> Self {
        XenStore {
            stream: Box::new(stream),
            next_request: 1,
            fired: false,
            transaction: 0,
        }
    }

    /// The value at `path`; none when there is no such node.
    ///
    /// # Errors
    /// When the store cannot be reached or does not answer in time; the
    /// connection is then of no further use.
    pub fn read(&mut self, path: &str) -> Result<Option<String>> {
        self.transact(XS_READ, path, None)
            .map_err(|source| Error::XenStore {
                what: format!("reading {path}"),
                source,
            })
    }

    /// A domain's name.
    ///
    /// # Errors
    /// As for [`XenStore::read`].
    pub fn domain_name(&mut self, domid: DomId) -> Result<Option<String>> {
        self.read(&format!("/local/domain/{domid}/name"))
    }

    /// The names under `path`; none when there is no such node.
    ///
    /// # Errors
    /// As for [`XenStore::read`].
    pub fn list(&mut self, path: &str) -> Result<Vec<String>> {
        let names = self
            .transact(XS_DIRECTORY, path, None)
            .map_err(|source| Error::XenStore {
                what: format!("listing {path}"),
                source,
            })?;
        let names = names.as_deref().unwrap_or_default();
        let names = names.split('\0').filter(|n| !n.is_empty());
        Ok(names.map(str::to_owned).collect())
    }

    /// Writes a value, making the node if need be.
    ///
    /// # Errors
    /// As for [`XenStore::read`], and what the store refused.
    pub fn write(&mut self, path: &str, value: &str) -> Result<()> {
        self.change(XS_WRITE, "writing", path, Some(value))
    }

    /// Makes an empty node, unless it is there.
    ///
    /// # Errors
    /// As for [`XenStore::write`].
    pub fn make(&mut self, path: &str) -> Result<()> {
        self.change(XS_MKDIR, "making", path, None)
    }

    /// Removes a node and all under it, if it is there.
    ///
    /// # Errors
    /// As for [`XenStore::write`].
    pub fn remove(&mut self, path: &str) -> Result<()> {
        self.change(XS_RM, "removing", path, None)
    }

    /// Makes [`XenStore::fd`] readable whenever something under `path` changes,
    /// and once now.
    ///
    /// # Errors
    /// As for [`XenStore::write`].
    pub fn watch(&mut self, path: &str) -> Result<()> {
        self.change(XS_WATCH, "watching", path, Some("xfi\0"))
    }

    fn change(&mut self, kind: u32, doing: &str, path: &str, value: Option<&str>) -> Result<()> {
        self.transact(kind, path, value)
            .map(drop)
            .map_err(|source| Error::XenStore {
                what: format!("{doing} {path}"),
                source,
            })
    }

    /// Whether a watch fired while an answer was waited for: [`XenStore::fd`] no
    /// longer tells.
    pub fn has_fired(&self) -> bool {
        self.fired
    }

    /// Takes all messages that no request asked for, without waiting for one:
    /// whether a watch fired since this was asked last.
    ///
    /// # Errors
    /// As for [`XenStore::read`].
    pub fn take_events(&mut self) -> Result<bool> {
        let mut take = || {
            loop {
                let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
                if poll(&mut fds, PollTimeout::ZERO)? == 0 {
                    return Ok(std::mem::take(&mut self.fired));
                }
                if self.message()?.0 == XS_WATCH_EVENT {
                    self.fired = true;
                }
            }
        };
        take().map_err(|source: io::Error| Error::XenStore {
            what: "reading an event".to_owned(),
            source,
        })
    }

    /// Does `work` so that for everybody else it is one step: had what it read
    /// changed before it was done, it is done again.
    ///
    /// # Errors
    /// What `work` gave, and as for [`XenStore::write`].
    pub(crate) fn atomically<T>(&mut self, work: impl Fn(&mut Self) -> Result<T>) -> Result<T> {
        let failed = |source| Error::XenStore {
            what: "a transaction".to_owned(),
            source,
        };
        for _ in 0..ATTEMPTS {
            let id = self
                .transact(XS_TRANSACTION_START, "", None)
                .map_err(failed)?;
            let id = id.as_deref().and_then(|id| id.parse().ok());
            self.transaction = id.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
            let result = work(self);
            let end = if result.is_ok() { "T" } else { "F" };
            let ended = self.transact(XS_TRANSACTION_END, end, None);
            self.transaction = 0;
            match ended {
                Err(e) if result.is_ok() && e.to_string() == "EAGAIN" => {}
                Err(e) if result.is_ok() => return Err(failed(e)),
                _ => return result,
            }
        }
        Err(failed(io::ErrorKind::ResourceBusy.into()))
    }

    /// One message: its kind, the request it answers, its payload.
    fn message(&mut self) -> io::Result<(u32, u32, Vec<u8>)> {
        let mut header = [0u8; 16];
        self.stream.read_exact(&mut header)?;
        let word = |i: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&header[4 * i..4 * i + 4]);
            u32::from_ne_bytes(bytes)
        };
        let (kind, answers, len) = (word(0), word(1), word(3));
        if len > PAYLOAD_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("an answer of {len} bytes"),
            ));
        }
        let mut payload = vec![0u8; len as usize];
        self.stream.read_exact(&mut payload)?;
        Ok((kind, answers, payload))
    }

    fn transact(
        &mut self,
        kind: u32,
        path: &str,
        value: Option<&str>,
    ) -> io::Result<Option<String>> {
        let value = value.unwrap_or_default().as_bytes();
        if path.len() + 1 + value.len() > PAYLOAD_MAX as usize || path.contains('\0') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let id = self.next_request;
        self.next_request = id.wrapping_add(1);
        let len = path.len() + 1 + value.len();
        let mut message = Vec::with_capacity(16 + len);
        for word in [kind, id, self.transaction, len as u32] {
            message.extend_from_slice(&word.to_ne_bytes());
        }
        message.extend_from_slice(path.as_bytes());
        message.push(0);
        message.extend_from_slice(value);
        self.stream.write_all(&message)?;
        self.stream.flush()?;
        // Answers to requests that were given up on earlier, and watches that
        // fired, are passed over.
        for _ in 0..64 {
            let (answer, answers, payload) = self.message()?;
            if answer == XS_WATCH_EVENT {
                self.fired = true;
                continue;
            }
            if answers != id {
                continue;
            }
            let text = String::from_utf8_lossy(&payload);
            let text = text.trim_end_matches('\0').to_owned();
            return match answer {
                answer if answer == kind => Ok(Some(text)),
                XS_ERROR if text == "ENOENT" => Ok(None),
                XS_ERROR => Err(io::Error::other(text)),
                other => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("an answer of type {other}"),
                )),
            };
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "no answer to this request",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answering(answers: Vec<(u32, u32, &'static [u8])>) -> XenStore {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut request = [0u8; 256];
            let _ = theirs.read(&mut request);
            for (kind, id, payload) in answers {
                for word in [kind, id, 0, payload.len() as u32] {
                    let _ = theirs.write_all(&word.to_ne_bytes());
                }
                let _ = theirs.write_all(payload);
            }
            // As the store does, it stays until the other end has gone.
            while theirs.read(&mut request).is_ok_and(|n| n > 0) {}
        });
        XenStore::over(ours)
    }

    #[test]
    fn reads_a_value_and_passes_over_other_answers() {
        let mut store = answering(vec![(XS_READ, 99, b"old"), (XS_READ, 1, b"web1")]);
        assert_eq!(
            store.domain_name(DomId(1)).unwrap(),
            Some("web1".to_owned())
        );
    }

    #[test]
    fn a_missing_node_is_none_and_other_errors_are_errors() {
        let mut store = answering(vec![(XS_ERROR, 1, b"ENOENT\0")]);
        assert_eq!(store.read("/x").unwrap(), None);
        let mut store = answering(vec![(XS_ERROR, 1, b"EACCES\0")]);
        assert!(store.read("/x").unwrap_err().to_string().contains("EACCES"));
    }

    #[test]
    fn a_listing_is_split_and_a_watch_that_fires_is_no_answer() {
        let mut store = answering(vec![
            (XS_WATCH_EVENT, 0, b"data/xfi\0xfi\0"),
            (XS_DIRECTORY, 1, b"10\09\0"),
        ]);
        assert!(!store.has_fired());
        assert_eq!(store.list("data/xfi").unwrap(), ["10", "9"]);
        assert!(store.has_fired());
        assert!(store.take_events().unwrap());
        assert!(!store.has_fired() && !store.take_events().unwrap());
        let mut store = answering(vec![(XS_ERROR, 1, b"ENOENT\0")]);
        assert_eq!(store.list("data/xfi").unwrap(), [""; 0]);
        let mut store = answering(vec![(XS_ERROR, 1, b"EQUOTA\0")]);
        let e = store.write("data/xfi", "x").unwrap_err().to_string();
        assert!(e.contains("EQUOTA") && e.contains("data/xfi"), "{e}");
    }

    #[test]
    fn an_absurd_length_is_refused() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        for word in [XS_READ, 1, 0, u32::MAX] {
            theirs.write_all(&word.to_ne_bytes()).unwrap();
        }
        assert!(XenStore::over(ours).read("/x").is_err());
    }
}
