//! A server that gives wrong answers on purpose.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use xfi_model::{HttpLoad, HttpTarget, LoadLogLine, LoadModel, Pacing, RequestRecord, ThinkTime};
use xfi_workloads::http::oracle::Expected;
use xfi_workloads::load::LogReader;

/// N of the tests' pages.
pub(crate) const N: u64 = 4096;

/// The right page.
pub(crate) fn page() -> String {
    Expected::for_bytes(N).body().to_owned()
}

/// An answer with the headers that Apache and our CGI send.
pub(crate) fn http(status: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 {status}\r\nServer: Apache\r\nCache-Control: no-store\r\nContent-Length: {}\r\n\
         Content-Type: text/html; charset=utf-8\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// The right answer.
pub(crate) fn right() -> Vec<u8> {
    http("200 OK", page().as_bytes())
}

/// What the server does with the nth connection's requests.
pub(crate) type Behaviour = dyn Fn(usize, &mut TcpStream) + Send + Sync;

/// A server on 127.0.0.1; it ends when dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    ending: Arc<AtomicBool>,
    accept: Option<JoinHandle<()>>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    /// Starts a server that does `behaviour` after each request it read.
    pub(crate) fn start(
        behaviour: impl Fn(usize, &mut TcpStream) + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let ending = Arc::new(AtomicBool::new(false));
        let requests = Arc::new(AtomicUsize::new(0));
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        let accept = thread::spawn({
            let (ending, requests) = (Arc::clone(&ending), Arc::clone(&requests));
            move || {
                for stream in listener.incoming() {
                    if ending.load(Ordering::SeqCst) {
                        break;
                    }
                    let (behaviour, requests) = (Arc::clone(&behaviour), Arc::clone(&requests));
                    let stream = stream.unwrap();
                    thread::spawn(move || serve(stream, &*behaviour, &requests));
                }
            }
        });
        Server {
            addr,
            ending,
            accept: Some(accept),
            requests,
        }
    }

    /// A server that sends these bytes and closes.
    pub(crate) fn sending(answer: Vec<u8>) -> Server {
        Server::start(move |_, stream| {
            let _ = stream.write_all(&answer);
            let _ = stream.shutdown(std::net::Shutdown::Both);
        })
    }

    /// Requests read so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
    }
}

fn serve(mut stream: TcpStream, behaviour: &Behaviour, requests: &AtomicUsize) {
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut buffer = Vec::new();
    loop {
        let mut part = [0; 4096];
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return,
            Ok(n) => buffer.extend_from_slice(&part[..n]),
        }
        if buffer.ends_with(b"\r\n\r\n") {
            let closes = String::from_utf8_lossy(&buffer)
                .to_lowercase()
                .contains("connection: close");
            buffer.clear();
            behaviour(requests.fetch_add(1, Ordering::SeqCst), &mut stream);
            if closes {
                return;
            }
        }
    }
}

/// Makes the socket's close an RST.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    nix::sys::socket::setsockopt(
        &stream.as_fd(),
        nix::sys::socket::sockopt::Linger,
        &nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        },
    )
    .unwrap();
}

/// A short load on the servers given, one client each.
pub(crate) fn load(addrs: &[SocketAddr]) -> HttpLoad {
    HttpLoad {
        targets: addrs
            .iter()
            .enumerate()
            .map(|(i, &addr)| HttpTarget {
                guest: format!("web{}", i + 1),
                addr,
            })
            .collect(),
        path: format!("/cgi-bin/sha1?n={N}"),
        hash_bytes: N,
        keep_alive: false,
        load: LoadModel {
            profile: None,
            clients: 1,
            pacing: thinking(0),
            ramp_up_ns: 0,
            duration_ns: 500_000_000,
            requests_per_client: None,
            // Ample: this machine may be busy. Tests of silence shorten it.
            timeout_ns: 5_000_000_000,
            first_timeout_ns: 0,
            probes: 2,
            time_scale: 1.0,
            seed: 7,
        },
    }
}

/// A closed loop with this think time, nanoseconds.
pub(crate) fn thinking(think_ns: u64) -> Pacing {
    Pacing::Closed {
        think_ns,
        distribution: ThinkTime::Fixed,
    }
}

/// All lines of a log.
pub(crate) fn lines(path: &Path) -> Vec<LoadLogLine> {
    LogReader::open(path)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

/// All requests of a log.
pub(crate) fn requests(path: &Path) -> Vec<RequestRecord> {
    lines(path)
        .into_iter()
        .filter_map(|line| match line {
            LoadLogLine::Request(r) => Some(r),
            _ => None,
        })
        .collect()
}
