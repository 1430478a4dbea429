//! The byte stream to the agent in dom0.

use std::any::Any;
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use xfi_model::{Command, Event, EventBody, Request};

/// The longest line taken from an agent; more is no event.
const MAX_LINE: u64 = 16 << 20;

/// A connection to `xfi-agent`: requests out, events in, one JSON object a
/// line. Stray bytes before the first good line after a restore are skipped,
/// and so are answers to requests that an earlier connection sent.
pub struct AgentLink {
    writer: Box<dyn Write + Send>,
    lines: Receiver<Result<Event, LinkError>>,
    /// Events that `ask` read and that belong to other requests.
    waiting: VecDeque<Event>,
    first_seq: u64,
    next_seq: u64,
    synced: bool,
    /// Closes the stream under the reading thread.
    socket: Option<UnixStream>,
    /// Held for as long as the link is: a lock, for instance.
    _guard: Option<Box<dyn Any + Send>>,
}

impl std::fmt::Debug for AgentLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentLink")
            .field("next_seq", &self.next_seq)
            .finish_non_exhaustive()
    }
}

impl AgentLink {
    /// A link over a pair of pipes, such as the standard streams of
    /// `xfi-agent --stdio` (behind SSH or not).
    pub fn over(
        reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
    ) -> AgentLink {
        let (sender, lines) = channel();
        // The thread ends with the stream, or with the first line that nobody
        // waits for any more.
        std::thread::spawn(move || read_lines(reader, &sender));
        // Unlike any number an earlier connection has used, and exact in JSON.
        let first_seq = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |d| d.as_micros() as u64 & ((1 << 52) - 1));
        AgentLink {
            writer: Box::new(writer),
            lines,
            waiting: VecDeque::new(),
            first_seq,
            next_seq: first_seq,
            synced: false,
            socket: None,
            _guard: None,
        }
    }

    /// A link over a connected unix socket (QEMU's chardev).
    ///
    /// # Errors
    /// When the socket cannot be cloned.
    pub fn over_socket(stream: UnixStream) -> Result<AgentLink, LinkError> {
        let mut link = AgentLink::over(stream.try_clone()?, stream.try_clone()?);
        link.socket = Some(stream);
        Ok(link)
    }

    /// Connects to a unix socket.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(path: &Path) -> Result<AgentLink, LinkError> {
        AgentLink::over_socket(UnixStream::connect(path)?)
    }

    /// Keeps `guard` until the link is dropped.
    #[must_use]
    pub(crate) fn holding(mut self, guard: impl Any + Send) -> AgentLink {
        self._guard = Some(Box::new(guard));
        self
    }

    /// Says hello until the agent answers. A new client of a virtio-serial port
    /// needs this: dom0 learns that it is there by another way than what it
    /// says, and an agent that is faster drops its answer.
    ///
    /// # Errors
    /// [`LinkError::Timeout`] after `within`, and as for `next_event`.
    pub(crate) fn greet(&mut self, within: Duration) -> Result<Event, LinkError> {
        let deadline = Instant::now() + within;
        let mut patience = Duration::from_millis(500);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.ask(Command::Hello, patience.min(left)) {
                Ok(mut events) => {
                    // An answer that was late is nobody's.
                    self.first_seq = self.next_seq;
                    self.waiting.clear();
                    return events.pop().ok_or(LinkError::Closed);
                }
                Err(LinkError::Timeout(_)) if Instant::now() < deadline => patience *= 2,
                Err(LinkError::Timeout(_)) => return Err(LinkError::Timeout(within)),
                Err(e) => return Err(e),
            }
        }
    }

    /// Sends a request and returns the sequence number its events will carry.
    ///
    /// # Errors
    /// When the stream is closed.
    pub fn send(&mut self, command: Command) -> Result<u64, LinkError> {
        let seq = self.next_seq;
        self.next_seq += 1;
        let mut line = Vec::with_capacity(256);
        if seq == self.first_seq {
            // Ends whatever half a line the agent was left with.
            line.push(b'\n');
        }
        serde_json::to_writer(&mut line, &Request { seq, command }).map_err(io::Error::from)?;
        line.push(b'\n');
        match self
            .writer
            .write_all(&line)
            .and_then(|()| self.writer.flush())
        {
            Ok(()) => Ok(seq),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(LinkError::Closed),
            Err(e) => Err(e.into()),
        }
    }

    /// The next event, or `None` when `deadline` passes first.
    ///
    /// # Errors
    /// When the stream is closed or carries something that is no event.
    pub fn next_event(&mut self, deadline: Instant) -> Result<Option<Event>, LinkError> {
        match self.waiting.pop_front() {
            Some(event) => Ok(Some(event)),
            None => self.receive(deadline),
        }
    }

    fn receive(&mut self, deadline: Instant) -> Result<Option<Event>, LinkError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(Ok(event)) if event.seq < self.first_seq => {
                    tracing::debug!("skipped an event of an earlier connection");
                }
                Ok(Ok(event)) => {
                    self.synced = true;
                    return Ok(Some(event));
                }
                Ok(Err(LinkError::Malformed(line))) if !self.synced => {
                    tracing::debug!("skipped before the first event: {line}");
                }
                Ok(Err(e)) => return Err(e),
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => return Err(LinkError::Closed),
            }
        }
    }

    /// Sends a request and collects its events up to and including the first
    /// that ends it (`Done`, `Error`, or the single answer of a query). Events
    /// of other requests are kept for `next_event`.
    ///
    /// # Errors
    /// As for `send` and `next_event`, and [`LinkError::Timeout`].
    pub fn ask(&mut self, command: Command, timeout: Duration) -> Result<Vec<Event>, LinkError> {
        let deadline = Instant::now() + timeout;
        let is_last = last_event_of(&command);
        let seq = self.send(command)?;
        let mut events = Vec::new();
        loop {
            let event = self.receive(deadline)?.ok_or(LinkError::Timeout(timeout))?;
            if event.seq != seq {
                self.waiting.push_back(event);
                continue;
            }
            let last = is_last(&event.body) || matches!(event.body, EventBody::Error { .. });
            events.push(event);
            if last {
                return Ok(events);
            }
        }
    }
}

impl Drop for AgentLink {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Tells the event that ends a request.
fn last_event_of(command: &Command) -> fn(&EventBody) -> bool {
    match command {
        Command::Hello => |e| matches!(e, EventBody::Hello(_)),
        Command::Domains => |e| matches!(e, EventBody::Domains { .. }),
        Command::Status => |e| matches!(e, EventBody::Injections { .. }),
        Command::Disarm { .. } => |e| matches!(e, EventBody::Disarmed { .. }),
        Command::XenConsole => |e| matches!(e, EventBody::XenConsole { .. }),
        Command::GuestConsole { .. } => |e| matches!(e, EventBody::GuestConsole { .. }),
        Command::Integrity => |e| matches!(e, EventBody::Integrity(_)),
        Command::Peek { .. } => |e| matches!(e, EventBody::Memory { .. }),
        _ => |e| matches!(e, EventBody::Done),
    }
}

fn read_lines(reader: impl Read, sender: &Sender<Result<Event, LinkError>>) {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let got = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        let item = match got {
            Ok(0) => return,
            Ok(_) if line.trim_ascii().is_empty() => continue,
            Ok(_) => serde_json::from_slice::<Event>(&line).map_err(|e| {
                let text = String::from_utf8_lossy(&line);
                let text: String = text.trim().chars().take(200).collect();
                LinkError::Malformed(format!("{text:?} ({e})"))
            }),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            // QEMU that is killed resets the connection.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return,
            Err(e) => Err(LinkError::Io(e)),
        };
        let ended = matches!(item, Err(LinkError::Io(_)));
        if sender.send(item).is_err() || ended {
            return;
        }
    }
}

/// What can go wrong between the orchestrator and the agent.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The stream ended.
    #[error("the agent's stream is closed")]
    Closed,
    /// No answer in time.
    #[error("the agent did not answer within {0:?}")]
    Timeout(Duration),
    /// An I/O error.
    #[error("talking to the agent: {0}")]
    Io(#[from] io::Error),
    /// A line that is not an event.
    #[error("the agent sent something that is no event: {0}")]
    Malformed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent that answers each request with the given lines; `SEQ` stands
    /// for the request's number.
    fn agent(before: &'static str, answers: Vec<&'static str>) -> AgentLink {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut out = theirs.try_clone().unwrap();
            out.write_all(before.as_bytes()).unwrap();
            let requests = BufReader::new(theirs).lines();
            let requests = requests.map(|l| l.unwrap()).filter(|l| !l.is_empty());
            for (answer, request) in answers.into_iter().zip(requests) {
                let request: Request = serde_json::from_str(&request).unwrap();
                let answer = answer.replace("SEQ", &request.seq.to_string());
                out.write_all(answer.as_bytes()).unwrap();
            }
        });
        AgentLink::over_socket(ours).unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_an_earlier_life_left_behind_is_skipped() {
        let mut link = agent(
            "half a line}\n{\"seq\":7,\"at_ns\":1,\"event\":\"done\"}\n",
            vec!["{\"seq\":SEQ,\"at_ns\":2,\"event\":\"disarmed\",\"count\":3}\n"],
        );
        let events = link.ask(Command::Disarm { id: None }, SECOND).unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].body, EventBody::Disarmed { count: 3 });
    }

    #[test]
    fn events_of_another_request_are_kept() {
        let mut link = agent(
            "",
            vec![
                "",
                "{\"seq\":9007199254740000,\"at_ns\":1,\"event\":\"progress\",\"message\":\"m\"}\n\
                 {\"seq\":SEQ,\"at_ns\":2,\"event\":\"done\"}\n",
            ],
        );
        link.send(Command::Integrity).unwrap();
        let events = link.ask(Command::Cancel, SECOND).unwrap();
        assert_eq!(events.len(), 1);
        let kept = link.next_event(Instant::now()).unwrap().unwrap();
        assert_eq!(
            kept.body,
            EventBody::Progress {
                message: "m".to_owned()
            }
        );
    }

    #[test]
    fn a_greeting_that_is_lost_is_said_again() {
        let mut link = agent(
            "",
            vec![
                "",
                "{\"seq\":SEQ,\"at_ns\":2,\"event\":\"error\",\"code\":\"failed\",\"message\":\"m\"}\n",
                "{\"seq\":SEQ,\"at_ns\":3,\"event\":\"done\"}\n",
            ],
        );
        let event = link.greet(10 * SECOND).unwrap();
        assert_eq!(event.at_ns, 2);
        assert_eq!(link.ask(Command::Cancel, SECOND).unwrap()[0].at_ns, 3);
    }

    #[test]
    fn silence_rubbish_and_an_end_are_told_apart() {
        let mut link = agent(
            "",
            vec!["{\"seq\":SEQ,\"at_ns\":2,\"event\":\"done\"}\nrubbish\n"],
        );
        link.ask(Command::Cancel, SECOND).unwrap();
        let e = link.next_event(Instant::now() + SECOND).unwrap_err();
        assert!(
            matches!(&e, LinkError::Malformed(t) if t.contains("rubbish")),
            "{e}"
        );
        let e = link.next_event(Instant::now() + SECOND).unwrap_err();
        assert!(matches!(e, LinkError::Closed), "{e}");

        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut link = AgentLink::over_socket(ours).unwrap();
        let e = link
            .ask(Command::Hello, Duration::from_millis(20))
            .unwrap_err();
        assert!(matches!(e, LinkError::Timeout(_)), "{e}");
    }
}
