//! A byte stream between dom0 and a guest's agent, over XenStore.
//!
//! Every guest, PV, PVH or HVM, whoever made it, has a directory `data` in the
//! store that it may write (Xen `docs/misc/xenstore-paths.pandoc`). So a guest
//! needs no device, no port and no device model, and the stream survives a
//! snapshot: what is under way lies in the daemon's and the guest's memory.
//!
//! Each direction is a directory of pieces, named by number; the reader removes
//! what it took. A guest does so in one step, so that dom0 can take back a
//! request for good as long as the guest has not taken it. A second console would need a QEMU in dom0 for each guest
//! (libxl gives all channels that backend).

use crate::{Error, Result, XenStore};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use xfi_model::{DomId, PROTOCOL_VERSION};

/// A node holds 2 KiB at most by the daemons' usual quota.
const PIECE: usize = 1900;

/// More than any message needs; a reader that is gone must not fill the store.
const MOST_WAITING: usize = 256;

/// One end of the stream.
#[derive(Debug)]
pub struct Mailbox {
    store: XenStore,
    inbox: String,
    outbox: String,
    /// The next piece's number.
    next: u64,
    /// The last message's pieces.
    last: Range<u64>,
    /// So many pieces fit for certain.
    room: usize,
    /// The other end may take back what it sent.
    claims: bool,
}

impl Mailbox {
    /// The guest's end: empties both directions, announces the agent and
    /// watches for what comes.
    ///
    /// # Errors
    /// When there is no store, or the guest may not write there.
    pub fn in_guest() -> Result<Self> {
        Self::announce(XenStore::open_device()?)
    }

    fn announce(mut store: XenStore) -> Result<Self> {
        store.remove("data/xfi")?;
        store.make("data/xfi/to-guest")?;
        store.make("data/xfi/to-dom0")?;
        store.write("data/xfi/agent", &PROTOCOL_VERSION.to_string())?;
        store.watch("data/xfi/to-guest")?;
        Ok(Mailbox {
            store,
            inbox: "data/xfi/to-guest".to_owned(),
            outbox: "data/xfi/to-dom0".to_owned(),
            next: 1,
            last: 1..1,
            room: 0,
            claims: true,
        })
    }

    /// dom0's end to this guest; what an earlier request left is thrown away.
    ///
    /// # Errors
    /// [`Error::NotAvailable`] when no agent has announced itself there, or one
    /// of another version.
    pub fn to_guest(domid: DomId, name: &str) -> Result<Self> {
        Self::connect(XenStore::open()?, domid, name)
    }

    fn connect(mut store: XenStore, domid: DomId, name: &str) -> Result<Self> {
        let base = format!("/local/domain/{domid}/data/xfi");
        match store.read(&format!("{base}/agent"))? {
            None => {
                return Err(Error::NotAvailable(format!(
                    "no xfi-agent runs in '{name}'; start one there: xfi-agent --xenstore"
                )));
            }
            Some(version) if version != PROTOCOL_VERSION.to_string() => {
                return Err(Error::NotAvailable(format!(
                    "the xfi-agent in '{name}' speaks protocol {version}, this one \
                     {PROTOCOL_VERSION}"
                )));
            }
            Some(_) => {}
        }
        let mut mailbox = Mailbox {
            store,
            inbox: format!("{base}/to-dom0"),
            outbox: format!("{base}/to-guest"),
            next: 1,
            last: 1..1,
            room: 0,
            claims: false,
        };
        mailbox.store.watch(&mailbox.inbox)?;
        mailbox.receive()?;
        // Behind what is there already.
        let waiting = mailbox.pieces(&mailbox.outbox.clone())?;
        mailbox.next = waiting.last().map_or(1, |n| n + 1);
        Ok(mailbox)
    }

    /// To wait for something to come.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.store.fd()
    }

    /// Whether something came while something else was asked:
    /// [`Mailbox::fd`] does not tell.
    pub fn has_come(&self) -> bool {
        self.store.has_fired()
    }

    /// Whether something may have come since this was asked last; costs nothing
    /// when nothing has.
    ///
    /// # Errors
    /// When the store is gone.
    pub fn take_events(&mut self) -> Result<bool> {
        self.store.take_events()
    }

    fn pieces(&mut self, directory: &str) -> Result<Vec<u64>> {
        let names = self.store.list(directory)?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|n| n.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// All that has come.
    ///
    /// # Errors
    /// When the store is gone.
    pub fn receive(&mut self) -> Result<Vec<u8>> {
        let inbox = self.inbox.clone();
        let numbers = self.pieces(&inbox)?;
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        let take = |store: &mut XenStore| {
            let mut bytes = Vec::new();
            for number in &numbers {
                let path = format!("{inbox}/{number}");
                if let Some(piece) = store.read(&path)? {
                    bytes.extend_from_slice(piece.as_bytes());
                    store.remove(&path)?;
                }
            }
            Ok(bytes)
        };
        if self.claims {
            self.store.atomically(take)
        } else {
            take(&mut self.store)
        }
    }

    /// Sends a message; the other end takes it when it can.
    ///
    /// # Errors
    /// When the other end takes nothing any more, or the store is gone.
    pub fn send(&mut self, text: &str) -> Result<()> {
        let outbox = self.outbox.clone();
        let first = self.next;
        for piece in pieces_of(text) {
            if self.room == 0 {
                let waiting = self.pieces(&outbox)?.len();
                self.room = (MOST_WAITING + 1).saturating_sub(waiting);
                if self.room == 0 {
                    return Err(Error::NotAvailable(format!(
                        "{outbox}: the other end takes nothing"
                    )));
                }
            }
            let path = format!("{outbox}/{}", self.next);
            self.next += 1;
            self.room -= 1;
            self.store.write(&path, piece)?;
        }
        self.last = first..self.next;
        Ok(())
    }

    /// Takes back the last message; false when the guest has it. dom0's end
    /// only.
    ///
    /// # Errors
    /// When the store is gone.
    pub fn withdraw(&mut self) -> Result<bool> {
        let (outbox, pieces) = (self.outbox.clone(), self.last.clone());
        // Half a message that it took is worth nothing.
        let Some(end) = pieces.clone().next_back() else {
            return Ok(false);
        };
        self.store.atomically(|store| {
            if store.read(&format!("{outbox}/{end}"))?.is_none() {
                return Ok(false);
            }
            for number in pieces.clone() {
                store.remove(&format!("{outbox}/{number}"))?;
            }
            Ok(true)
        })
    }
}

/// Cuts text between characters into pieces that fit a node.
fn pieces_of(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        let mut end = text.len().min(PIECE);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, rest) = text.split_at(end);
        text = rest;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::{Arc, Mutex};

    type Nodes = Arc<Mutex<BTreeMap<String, String>>>;

    /// A connection to a store that speaks the wire protocol, for domain 7: no
    /// watches, no rights.
    fn store(nodes: &Nodes) -> XenStore {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let nodes = Arc::clone(nodes);
        std::thread::spawn(move || {
            let mut header = [0u8; 16];
            while theirs.read_exact(&mut header).is_ok() {
                let mut payload = vec![0; usize::from(header[12]) + 256 * usize::from(header[13])];
                theirs.read_exact(&mut payload).unwrap();
                let text = String::from_utf8(payload).unwrap();
                let (path, value) = text.split_once('\0').unwrap();
                let path = match path.strip_prefix('/') {
                    Some(_) => path.to_owned(),
                    None => format!("/local/domain/7/{path}"),
                };
                let below = format!("{path}/");
                let mut nodes = nodes.lock().unwrap();
                let answer = match header[0] {
                    6 => Some("1\0".to_owned()),
                    1 => Some(
                        nodes
                            .keys()
                            .filter_map(|k| k.strip_prefix(&below))
                            .filter(|k| !k.contains('/'))
                            .map(|k| format!("{k}\0"))
                            .collect(),
                    ),
                    2 => nodes.get(&path).cloned(),
                    11 | 12 => {
                        assert!(value.len() <= 2048);
                        nodes.insert(path, value.to_owned());
                        Some("OK\0".to_owned())
                    }
                    13 => {
                        nodes.retain(|k, _| *k != path && !k.starts_with(&below));
                        Some("OK\0".to_owned())
                    }
                    _ => Some("OK\0".to_owned()),
                };
                let (kind, answer) = match answer {
                    Some(answer) => (u32::from(header[0]), answer),
                    None => (16, "ENOENT\0".to_owned()),
                };
                let id = u32::from_ne_bytes(header[4..8].try_into().unwrap());
                for word in [kind, id, 0, answer.len() as u32] {
                    theirs.write_all(&word.to_ne_bytes()).unwrap();
                }
                theirs.write_all(answer.as_bytes()).unwrap();
            }
        });
        XenStore::over(ours)
    }

    #[test]
    fn what_one_end_sends_the_other_gets_whole_and_in_order() {
        let nodes = Nodes::default();
        let mut guest = Mailbox::announce(store(&nodes)).unwrap();
        let mut dom0 = Mailbox::connect(store(&nodes), DomId(7), "web1").unwrap();
        // Numbers of one and of two digits, which sort otherwise as text.
        let long: String = (0..5000).map(|n| format!("{n} ")).collect();
        dom0.send("first\n").unwrap();
        dom0.send(&long).unwrap();
        assert!(long.len() > 10 * PIECE);
        let got = guest.receive().unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), format!("first\n{long}"));
        assert!(guest.receive().unwrap().is_empty());
        guest.send("answer").unwrap();
        assert_eq!(dom0.receive().unwrap(), b"answer");
    }

    #[test]
    fn what_an_earlier_connection_left_is_not_taken_for_an_answer() {
        let nodes = Nodes::default();
        let mut guest = Mailbox::announce(store(&nodes)).unwrap();
        guest.send("late").unwrap();
        let mut first = Mailbox::connect(store(&nodes), DomId(7), "web1").unwrap();
        first.send("one").unwrap();
        let mut second = Mailbox::connect(store(&nodes), DomId(7), "web1").unwrap();
        second.send("two").unwrap();
        assert!(second.receive().unwrap().is_empty());
        assert_eq!(guest.receive().unwrap(), b"onetwo");
    }

    #[test]
    fn a_request_is_taken_back_for_good_unless_the_guest_has_it() {
        let nodes = Nodes::default();
        let mut guest = Mailbox::announce(store(&nodes)).unwrap();
        let mut dom0 = Mailbox::connect(store(&nodes), DomId(7), "web1").unwrap();
        assert!(!dom0.withdraw().unwrap());
        let long = "x".repeat(3 * PIECE);
        dom0.send(&long).unwrap();
        assert!(dom0.withdraw().unwrap());
        assert!(guest.receive().unwrap().is_empty());
        dom0.send("late").unwrap();
        assert_eq!(guest.receive().unwrap(), b"late");
        assert!(!dom0.withdraw().unwrap());
    }

    #[test]
    fn a_guest_without_an_agent_or_with_another_is_named() {
        let nodes = Nodes::default();
        let e = Mailbox::connect(store(&nodes), DomId(7), "web1").unwrap_err();
        assert!(e.to_string().contains("no xfi-agent runs in 'web1'"), "{e}");
        let path = "/local/domain/7/data/xfi/agent".to_owned();
        nodes.lock().unwrap().insert(path, "99".to_owned());
        let e = Mailbox::connect(store(&nodes), DomId(7), "web1").unwrap_err();
        assert!(e.to_string().contains("speaks protocol 99"), "{e}");
    }

    #[test]
    fn a_reader_that_is_gone_does_not_let_the_store_fill() {
        let nodes = Nodes::default();
        let mut guest = Mailbox::announce(store(&nodes)).unwrap();
        let sent = (0..1000).take_while(|_| guest.send("x").is_ok()).count();
        assert_eq!(sent, MOST_WAITING + 1);
        let dom0 = Mailbox::connect(store(&nodes), DomId(7), "web1");
        assert!(dom0.is_ok() && guest.send("x").is_ok());
    }

    #[test]
    fn text_is_cut_between_characters_and_comes_together_again() {
        let text = "ä→x".repeat(1000);
        let pieces: Vec<&str> = pieces_of(&text).collect();
        assert!(pieces.len() > 1 && pieces.iter().all(|p| p.len() <= PIECE && !p.is_empty()));
        assert_eq!(pieces.concat(), text);
        assert_eq!(pieces_of("").count(), 0);
    }
}
