//! One request and its answer.
//!
//! hyper speaks HTTP over a connection that we open ourselves: no pool, no
//! proxy, no retry. On a kept connection the only thing that is done again is
//! opening it, when it was found closed before a request was written to it.

use super::Config;
use super::oracle::{Expected, Judgement, hex, judge};
use super::wire::{Received, Wire};
use crate::{WorkloadError, monotonic_ns};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, CONTENT_LENGTH, HOST, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use std::error::Error as _;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use xfi_model::{RequestRecord, ResetCause, Verdict};

/// Tells the clients to stop at once.
pub(super) type Stop = watch::Receiver<bool>;

/// Resolves when the driver must stop at once.
pub(super) async fn stopped(stop: &mut Stop) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // Nobody is left who could tell us to.
        std::future::pending::<()>().await;
    }
}

/// What a request asks, the same for all of a client's.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) guest: String,
    pub(super) addr: SocketAddr,
    pub(super) load: Arc<Config>,
    pub(super) expected: Arc<Expected>,
}

/// A client: at most one connection at a time.
pub(super) struct Client {
    question: Question,
    number: u32,
    probe: bool,
    keep_alive: bool,
    connection: Option<Connection>,
    wire: Wire,
}

struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What became of a request: a judgement, or no judgement because this machine
/// failed.
type Exchanged = Result<Ended, std::io::Error>;

struct Ended {
    judgement: Judgement,
    status: Option<u16>,
    cause: Option<ResetCause>,
    end_ns: u64,
}

impl Ended {
    fn now(judgement: Judgement) -> Self {
        Ended {
            judgement,
            status: None,
            cause: None,
            end_ns: monotonic_ns(),
        }
    }

    fn reset(cause: ResetCause, detail: impl Into<String>) -> Self {
        Ended {
            cause: Some(cause),
            ..Ended::now(Judgement::wrong(Verdict::ConnectionReset, detail))
        }
    }

    fn corrupted(detail: impl Into<String>) -> Self {
        Ended::now(Judgement::wrong(Verdict::CorruptedOutput, detail))
    }
}

impl Client {
    /// A client of the load.
    pub(super) fn new(question: Question, number: u32) -> Self {
        Client {
            keep_alive: question.load.keep_alive,
            question,
            number,
            probe: false,
            connection: None,
            wire: Wire::default(),
        }
    }

    /// A client that asks once, after the window.
    pub(super) fn probe(question: Question, number: u32) -> Self {
        Client {
            probe: true,
            keep_alive: false,
            ..Client::new(question, number)
        }
    }

    /// Asks once and judges the answer. `Err` only when this machine, not the
    /// server, is at fault; the record then is `unfinished`.
    pub(super) async fn ask(
        &mut self,
        seq: u32,
        intended_ns: u64,
        stop: &mut Stop,
    ) -> (RequestRecord, Result<(), WorkloadError>) {
        let start_ns = monotonic_ns();
        let load = &self.question.load;
        let first = seq == 0 && !self.probe;
        let timeout = Duration::from_nanos(if first {
            load.first_timeout_ns.max(load.timeout_ns)
        } else {
            load.timeout_ns
        });
        let result = tokio::select! {
            biased;
            ended = tokio::time::timeout(timeout, self.exchange()) => match ended {
                Ok(ended) => ended,
                Err(_) => Ok(self.timed_out()),
            },
            () = stopped(stop) => Ok(Ended::now(Judgement::wrong(
                Verdict::Unfinished,
                "the driver was told to stop",
            ))),
        };
        let (ended, error) = match result {
            Ok(ended) => (ended, Ok(())),
            Err(source) => (
                Ended::now(Judgement::wrong(Verdict::Unfinished, source.to_string())),
                Err(WorkloadError::Local {
                    addr: self.question.addr,
                    source,
                }),
            ),
        };
        if !self.keep_alive || ended.judgement.verdict != Verdict::Correct {
            self.connection = None;
        }
        (self.record(seq, intended_ns, start_ns, ended), error)
    }

    fn timed_out(&self) -> Ended {
        let received = self.wire.lock();
        let detail = match (received.connected, received.bytes.len()) {
            (false, _) => "no connection within the timeout".into(),
            (true, 0) => "connected, no answer within the timeout".into(),
            (true, n) => format!("{n} bytes of an answer within the timeout"),
        };
        Ended::now(Judgement::wrong(Verdict::ClientTimeout, detail))
    }

    fn record(&self, seq: u32, intended_ns: u64, start_ns: u64, ended: Ended) -> RequestRecord {
        let mut received = self.wire.lock();
        let bytes = std::mem::take(&mut received.bytes);
        let keep = ended.judgement.verdict != Verdict::Correct && !bytes.is_empty();
        let utf8 = std::str::from_utf8(&bytes).is_ok();
        RequestRecord {
            guest: self.question.guest.clone(),
            client: self.number,
            seq,
            probe: self.probe,
            intended_ns,
            start_ns,
            end_ns: ended.end_ns,
            bytes: bytes.len() as u64,
            status: ended.status,
            verdict: ended.judgement.verdict,
            reset_cause: ended.cause,
            detail: ended.judgement.detail,
            answer: keep.then(|| String::from_utf8_lossy(&bytes).into_owned()),
            answer_hex: (keep && !utf8).then(|| hex(&bytes)),
            local_port: received.local_port,
        }
    }

    /// From opening the connection to the answer's last byte.
    async fn exchange(&mut self) -> Exchanged {
        // Bytes on an idle connection belong to no request.
        if self.connection.is_some() && !self.wire.lock().bytes.is_empty() {
            return Ok(Ended::corrupted(
                "bytes nobody asked for between two answers",
            ));
        }
        if let Some(open) = &mut self.connection
            && open.sender.ready().await.is_err()
        {
            self.connection = None;
        }
        if self.connection.is_none()
            && let Some(failed) = self.connect().await?
        {
            return Ok(failed);
        }
        let request = self.request();
        let Some(open) = &mut self.connection else {
            return Ok(Ended::reset(ResetCause::EarlyClose, "no connection"));
        };
        let response = match open.sender.send_request(request).await {
            Ok(response) => response,
            Err(e) => return Ok(explain(&e, &self.wire.lock(), None)),
        };
        Ok(self.read(response).await)
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::GET;
        if let Ok(uri) = self.question.load.path.parse() {
            *request.uri_mut() = uri;
        }
        let headers = request.headers_mut();
        if let Ok(host) = self.question.addr.to_string().parse() {
            headers.insert(HOST, host);
        }
        let connection = if self.keep_alive {
            "keep-alive"
        } else {
            "close"
        };
        headers.insert(
            CONNECTION,
            hyper::header::HeaderValue::from_static(connection),
        );
        headers.insert(
            USER_AGENT,
            hyper::header::HeaderValue::from_static("xfi-workload"),
        );
        request
    }

    /// Opens a connection; `Some` when the server did not let us.
    async fn connect(&mut self) -> Result<Option<Ended>, std::io::Error> {
        self.wire = Wire::default();
        let stream = match TcpStream::connect(self.question.addr).await {
            Ok(stream) => stream,
            Err(e) => return refused(e).map(Some),
        };
        // A small request in one segment: nothing to gain from waiting.
        let _ = stream.set_nodelay(true);
        let tap = self.wire.tap(stream);
        let (sender, connection) = match handshake(TokioIo::new(tap)).await {
            Ok(pair) => pair,
            Err(e) => return Ok(Some(explain(&e, &self.wire.lock(), None))),
        };
        let task = tokio::spawn(async move {
            // Its error reaches the request that it concerns.
            let _ = connection.await;
        });
        self.connection = Some(Connection { sender, task });
        Ok(None)
    }

    async fn read(&self, response: Response<hyper::body::Incoming>) -> Ended {
        let (head, mut body) = response.into_parts();
        let status = head.status.as_u16();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => {
                    if let Some(data) = frame.data_ref() {
                        bytes.extend_from_slice(data);
                    }
                }
                Err(e) => return explain(&e, &self.wire.lock(), Some(status)),
            }
        }
        let end_ns = monotonic_ns();
        let mut judgement = judge(&self.question.expected, status, &head.headers, &bytes);
        if let Some(stray) = self.stray(&head.headers, bytes.len())
            && judgement.verdict != Verdict::ErrorReply
        {
            judgement = Judgement::wrong(
                Verdict::CorruptedOutput,
                format!("{stray} bytes after the end that Content-Length gives"),
            );
        }
        Ended {
            judgement,
            status: Some(status),
            cause: None,
            end_ns,
        }
    }

    /// Bytes that came with the answer beyond its declared end. Later ones are
    /// not waited for.
    fn stray(&self, headers: &hyper::HeaderMap, body_len: usize) -> Option<usize> {
        headers.get(CONTENT_LENGTH)?;
        let received = self.wire.lock();
        let head_end = received.bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
        let stray = received.bytes.len().checked_sub(head_end + body_len)?;
        (stray > 0).then_some(stray)
    }
}

/// A connect() that failed: the server's doing, or (`Err`) this machine's.
fn refused(e: std::io::Error) -> Exchanged {
    match e.kind() {
        ErrorKind::ConnectionRefused => Ok(Ended::reset(ResetCause::Refused, "refused")),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Ok(Ended::reset(
            ResetCause::Reset,
            "reset while it was being opened",
        )),
        // No answer to SYN or ARP: nobody is there.
        ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Ok(
            Ended::now(Judgement::wrong(Verdict::ClientTimeout, e.to_string())),
        ),
        _ => Err(e),
    }
}

/// Why no complete answer came.
fn explain(e: &hyper::Error, received: &Received, status: Option<u16>) -> Ended {
    let io = io_kind(e);
    let mut ended = if received.too_long {
        Ended::corrupted("the answer does not end")
    } else if e.is_parse() {
        Ended::corrupted(format!("not HTTP: {}", chain(e)))
    } else if matches!(
        received.error,
        Some(ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe)
    ) {
        Ended::reset(
            ResetCause::Reset,
            format!("reset after {} bytes", received.bytes.len()),
        )
    } else if received.error == Some(ErrorKind::TimedOut) {
        // The kernel gave up on retransmissions.
        Ended::now(Judgement::wrong(Verdict::ClientTimeout, chain(e)))
    } else if matches!(io, Some(ErrorKind::InvalidData | ErrorKind::InvalidInput)) {
        Ended::corrupted(format!("not HTTP: {}", chain(e)))
    } else if received.eof || e.is_incomplete_message() || io == Some(ErrorKind::UnexpectedEof) {
        Ended::reset(
            ResetCause::EarlyClose,
            format!("closed after {} bytes", received.bytes.len()),
        )
    } else {
        Ended::corrupted(format!("not HTTP: {}", chain(e)))
    };
    ended.status = status;
    ended
}

fn io_kind(e: &hyper::Error) -> Option<ErrorKind> {
    let mut source = e.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        source = cause.source();
    }
    None
}

fn chain(e: &hyper::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
