//! Reading names from XenStore, by its wire protocol (`io/xs_wire.h`).

use crate::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use xfi_model::DomId;

/// Where the store is reached, best first: in dom0 the daemon itself; else, or
/// when the daemon is a domain of its own, the kernel.
const SOCKET: &str = "/run/xenstored/socket";
const DEVICE: &str = "/dev/xen/xenbus";

const XS_READ: u32 = 2;
const XS_ERROR: u32 = 16;
/// `XENSTORE_PAYLOAD_MAX`.
const PAYLOAD_MAX: u32 = 4096;
const PATIENCE: Duration = Duration::from_secs(2);

trait Stream: Read + Write + Send {}
impl Stream for UnixStream {}
impl Stream for File {}

/// A connection to XenStore.
pub struct XenStore {
    stream: Box<dyn Stream>,
    next_request: u32,
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
        match OpenOptions::new().read(true).write(true).open(DEVICE) {
            Ok(device) => Ok(Self::over(device)),
            Err(e) => Err(Error::NotAvailable(format!(
                "no XenStore: {SOCKET}, {DEVICE}: {e}"
            ))),
        }
    }

    fn over(stream: impl Stream + 'static) -> Self {
        XenStore {
            stream: Box::new(stream),
            next_request: 1,
        }
    }

    /// The value at `path`; none when there is no such node.
    ///
    /// # Errors
    /// When the store cannot be reached or does not answer in time; the
    /// connection is then of no further use.
    pub fn read(&mut self, path: &str) -> Result<Option<String>> {
        self.transact(path).map_err(|source| Error::XenStore {
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

    fn transact(&mut self, path: &str) -> io::Result<Option<String>> {
        if path.len() >= PAYLOAD_MAX as usize || path.contains('\0') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let id = self.next_request;
        self.next_request = id.wrapping_add(1);
        let mut message = Vec::with_capacity(16 + path.len() + 1);
        for word in [XS_READ, id, 0, path.len() as u32 + 1] {
            message.extend_from_slice(&word.to_ne_bytes());
        }
        message.extend_from_slice(path.as_bytes());
        message.push(0);
        self.stream.write_all(&message)?;
        self.stream.flush()?;
        // Answers to requests that were given up on earlier are passed over.
        for _ in 0..64 {
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
            if answers != id {
                continue;
            }
            let text = String::from_utf8_lossy(&payload)
                .trim_end_matches('\0')
                .to_owned();
            return match kind {
                XS_READ => Ok(Some(text)),
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
    fn an_absurd_length_is_refused() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        for word in [XS_READ, 1, 0, u32::MAX] {
            theirs.write_all(&word.to_ne_bytes()).unwrap();
        }
        assert!(XenStore::over(ours).read("/x").is_err());
    }
}
