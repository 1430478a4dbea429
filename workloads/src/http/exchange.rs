//! One request and its answer.
//!
//! hyper speaks HTTP over a connection that we open ourselves: no pool, no
//! proxy, no retry. On a kept connection the only thing that is done again is
//! opening it, when it was found closed before a request was written to it.

use super::oracle::{Judgement, Oracle, judge};
use super::wire::{Received, Wire};
use crate::load::{Abandoned, Client, Performed};
use crate::{WorkloadError, monotonic_ns};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, USER_AGENT};
use hyper::http::response::Parts;
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rand_chacha::ChaCha8Rng;
use std::borrow::Cow;
use std::error::Error as _;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use xfi_model::{ResetCause, Verdict};

/// What is asked, the same for all clients of a service.
pub(super) struct Question {
    pub(super) addr: SocketAddr,
    pub(super) host: HeaderValue,
    pub(super) path: Uri,
    pub(super) oracle: Arc<Oracle>,
}

impl Question {
    pub(super) fn new(
        addr: SocketAddr,
        host: &str,
        path: &str,
        oracle: Arc<Oracle>,
    ) -> Result<Self, WorkloadError> {
        let invalid = |field, value: &str, valid| WorkloadError::Invalid {
            field,
            value: format!("{value:?}"),
            valid,
        };
        Ok(Question {
            addr,
            host: HeaderValue::from_str(host)
                .map_err(|_| invalid("host", host, "the host part of a URL"))?,
            path: path
                .parse()
                .map_err(|_| invalid("path", path, "the path and query of a URL"))?,
            oracle,
        })
    }
}

/// A client of a web server: at most one connection at a time.
pub struct HttpClient {
    question: Arc<Question>,
    keep_alive: bool,
    /// What is asked, in bytes.
    asked: Vec<u8>,
    connection: Option<Connection>,
    wire: Wire,
}

/// The request: always the same one.
#[derive(Debug)]
pub struct Get;

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

impl Client for HttpClient {
    type Request = Get;

    fn next(&mut self, _: u32, _: &mut ChaCha8Rng) -> Option<Get> {
        Some(Get)
    }

    fn bytes<'a>(&'a self, _: &'a Get) -> Cow<'a, [u8]> {
        Cow::Borrowed(&self.asked)
    }

    async fn perform(&mut self, _: &Get) -> Result<Performed, WorkloadError> {
        let ended = self
            .exchange()
            .await
            .map_err(|source| WorkloadError::Local {
                addr: self.question.addr,
                source,
            })?;
        if !self.keep_alive || ended.judgement.verdict != Verdict::Correct {
            self.connection = None;
        }
        Ok(self.performed(ended))
    }

    fn abandon(&mut self, why: Abandoned) -> Performed {
        let ended = match why {
            Abandoned::TimedOut => self.timed_out(),
            Abandoned::Stopped => Ended::now(Judgement::wrong(
                Verdict::Unfinished,
                "the driver was told to stop",
            )),
        };
        self.connection = None;
        self.performed(ended)
    }
}

impl HttpClient {
    pub(super) fn new(question: Arc<Question>, keep_alive: bool) -> Self {
        let wire = Wire::new(question.oracle.longest_answer());
        let path = &question.path;
        HttpClient {
            asked: format!("GET {path} keep-alive {keep_alive}").into_bytes(),
            question,
            keep_alive,
            connection: None,
            wire,
        }
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

    fn performed(&self, ended: Ended) -> Performed {
        let mut received = self.wire.lock();
        let bytes = received.bytes.len() as u64;
        let right = ended.judgement.verdict == Verdict::Correct;
        let answer = (!right).then(|| std::mem::take(&mut received.bytes));
        received.bytes.clear();
        Performed {
            verdict: ended.judgement.verdict,
            detail: ended.judgement.detail,
            end_ns: Some(ended.end_ns),
            bytes,
            status: ended.status,
            reset_cause: ended.cause,
            answer,
            local_port: received.local_port,
        }
    }

    /// Asks once for a page that nothing is known of yet: its body, or what
    /// came instead.
    pub(super) async fn fetch(&mut self) -> Result<Vec<u8>, String> {
        let told = |ended: Ended| {
            let detail = ended.judgement.detail;
            detail.unwrap_or_else(|| format!("{:?}", ended.judgement.verdict))
        };
        let response = match self.send().await {
            Ok(Ok(response)) => response,
            Ok(Err(ended)) => return Err(told(ended)),
            Err(e) => return Err(e.to_string()),
        };
        let (head, body) = self.receive(response).await.map_err(told)?;
        self.connection = None;
        match head.status.as_u16() {
            200 => Ok(body),
            status => Err(format!("status {status}")),
        }
    }

    /// Asks once; what was wrong with the answer.
    pub(super) async fn try_once(&mut self) -> Option<String> {
        let ended = self.exchange().await;
        self.connection = None;
        match ended {
            Ok(ended) => ended.judgement.detail,
            Err(e) => Some(e.to_string()),
        }
    }

    /// From opening the connection to the answer's last byte.
    async fn exchange(&mut self) -> Exchanged {
        let response = match self.send().await? {
            Ok(response) => response,
            Err(ended) => return Ok(ended),
        };
        Ok(match self.receive(response).await {
            Ok((head, body)) => self.judge(&head, &body),
            Err(ended) => ended,
        })
    }

    /// Sends the request, over a new connection if need be.
    async fn send(&mut self) -> Result<Result<Response<Incoming>, Ended>, std::io::Error> {
        // Bytes on an idle connection belong to no request.
        if self.connection.is_some() && !self.wire.lock().bytes.is_empty() {
            return Ok(Err(Ended::corrupted(
                "bytes nobody asked for between two answers",
            )));
        }
        if let Some(open) = &mut self.connection
            && open.sender.ready().await.is_err()
        {
            self.connection = None;
        }
        if self.connection.is_none()
            && let Some(failed) = self.connect().await?
        {
            return Ok(Err(failed));
        }
        let request = self.request();
        let Some(open) = &mut self.connection else {
            return Ok(Err(Ended::reset(ResetCause::EarlyClose, "no connection")));
        };
        let sent = open.sender.send_request(request).await;
        Ok(sent.map_err(|e| explain(&e, &self.wire.lock(), None)))
    }

    fn connection_header(&self) -> HeaderValue {
        HeaderValue::from_static(if self.keep_alive {
            "keep-alive"
        } else {
            "close"
        })
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = self.question.path.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, self.question.host.clone());
        headers.insert(CONNECTION, self.connection_header());
        headers.insert(USER_AGENT, HeaderValue::from_static("xfi-workload"));
        request
    }

    /// Opens a connection; `Some` when the server did not let us.
    async fn connect(&mut self) -> Result<Option<Ended>, std::io::Error> {
        self.wire = Wire::new(self.question.oracle.longest_answer());
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

    async fn receive(&self, response: Response<Incoming>) -> Result<(Parts, Vec<u8>), Ended> {
        let (head, mut body) = response.into_parts();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => {
                    if let Some(data) = frame.data_ref() {
                        bytes.extend_from_slice(data);
                    }
                }
                Err(e) => {
                    let status = head.status.as_u16();
                    return Err(explain(&e, &self.wire.lock(), Some(status)));
                }
            }
        }
        Ok((head, bytes))
    }

    fn judge(&self, head: &Parts, body: &[u8]) -> Ended {
        let end_ns = monotonic_ns();
        let status = head.status.as_u16();
        let mut judgement = judge(&self.question.oracle, status, &head.headers, body);
        if let Some(stray) = self.stray(&head.headers, body.len())
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
