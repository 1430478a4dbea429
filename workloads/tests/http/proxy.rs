//! A proxy that spoils one answer, at a request told beforehand.

use crate::server::reset_on_close;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What is done to an answer.
pub(crate) enum Fault {
    /// This bit of this byte of the body is flipped.
    FlipInBody(usize, u8),
    /// This bit of this byte of the whole answer is flipped.
    Flip(usize, u8),
    /// RST instead of an answer.
    Reset,
    /// FIN instead of an answer.
    Close,
    /// So many bytes of it, then FIN.
    Truncate(usize),
    /// So many bytes of it, then nothing for this long.
    Stall(usize, Duration),
    /// It goes to another connection of the test, whose answer comes here.
    Swap(Sender<Vec<u8>>, Receiver<Vec<u8>>),
}

/// A proxy on 127.0.0.1; it ends when dropped.
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    requests: Arc<AtomicUsize>,
    ending: Arc<AtomicBool>,
    accept: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy to `upstream` that does these faults at these requests,
    /// which it counts from 0.
    pub(crate) fn start(upstream: SocketAddr, faults: Vec<(usize, Fault)>) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let faults = Arc::new(Mutex::new(faults.into_iter().collect::<BTreeMap<_, _>>()));
        let requests = Arc::new(AtomicUsize::new(0));
        let ending = Arc::new(AtomicBool::new(false));
        let accept = thread::spawn({
            let (ending, requests) = (Arc::clone(&ending), Arc::clone(&requests));
            move || {
                for client in listener.incoming() {
                    if ending.load(Ordering::SeqCst) {
                        break;
                    }
                    let (faults, requests) = (Arc::clone(&faults), Arc::clone(&requests));
                    let client = client.unwrap();
                    thread::spawn(move || forward(client, upstream, &faults, &requests));
                }
            }
        });
        Proxy {
            addr,
            requests,
            ending,
            accept: Some(accept),
        }
    }

    /// Requests seen so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
    }
}

/// One client's connection, and one to the server for it.
fn forward(
    mut client: TcpStream,
    upstream: SocketAddr,
    faults: &Mutex<BTreeMap<usize, Fault>>,
    requests: &AtomicUsize,
) -> Option<()> {
    client.set_nodelay(true).ok()?;
    let mut server = TcpStream::connect(upstream).ok()?;
    server.set_nodelay(true).ok()?;
    loop {
        let request = read(&mut client, |bytes| bytes.ends_with(b"\r\n\r\n"))?;
        let number = requests.fetch_add(1, Ordering::SeqCst);
        server.write_all(&request).ok()?;
        let mut answer = read(&mut server, |bytes| {
            body_at(bytes).is_some_and(|at| bytes.len() >= at + content_length(&bytes[..at]))
        })?;
        let body_at = body_at(&answer)?;
        let fault = faults.lock().unwrap().remove(&number);
        match fault {
            None => {}
            Some(Fault::FlipInBody(byte, bit)) => answer[body_at + byte] ^= 1 << bit,
            Some(Fault::Flip(byte, bit)) => answer[byte] ^= 1 << bit,
            Some(Fault::Reset) => {
                reset_on_close(&client);
                return None;
            }
            Some(Fault::Close) => return None,
            Some(Fault::Truncate(bytes)) => {
                client.write_all(&answer[..bytes]).ok()?;
                return None;
            }
            Some(Fault::Stall(bytes, time)) => {
                client.write_all(&answer[..bytes]).ok()?;
                thread::sleep(time);
                return None;
            }
            Some(Fault::Swap(theirs, ours)) => {
                theirs.send(answer).ok()?;
                answer = ours.recv_timeout(Duration::from_secs(20)).ok()?;
            }
        }
        client.write_all(&answer).ok()?;
    }
}

/// All up to what is looked for.
fn read(stream: &mut TcpStream, whole: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while !whole(&bytes) {
        let mut part = [0; 4096];
        match stream.read(&mut part).ok()? {
            0 => return None,
            n => bytes.extend_from_slice(&part[..n]),
        }
    }
    Some(bytes)
}

fn body_at(answer: &[u8]) -> Option<usize> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    Some(end + 4)
}

fn content_length(head: &[u8]) -> usize {
    let head = str::from_utf8(head).unwrap();
    let line = head.lines().find(|l| l.starts_with("Content-Length: "));
    line.unwrap()[16..].parse().unwrap()
}
