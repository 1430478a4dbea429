//! The driver's log: one writer, one line a request.
//!
//! Lines are gathered for at most [`HELD_NS`], so that a driver which asks
//! thousands of times a second does not spend its time in write(2); one that
//! is killed loses no more than that, and a part of the last line.

use crate::{WorkloadError, monotonic_ns};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use xfi_model::{LoadLogLine, RequestRecord, Verdict};

/// The version of the log's format.
pub const LOG_FORMAT: u32 = 2;

/// A line is in the file at most this long after it was written, nanoseconds.
pub(super) const HELD_NS: u64 = 5_000_000;
/// The same, when so many bytes have been gathered.
const HELD_BYTES: usize = 32 * 1024;

/// A right answer, as the file has it: numbers alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Right {
    pub(super) service: usize,
    pub(super) operation: usize,
    pub(super) client: u32,
    pub(super) seq: u32,
    pub(super) intended_ns: u64,
    pub(super) start_ns: u64,
    pub(super) end_ns: u64,
    pub(super) bytes: u64,
    pub(super) status: Option<u16>,
    pub(super) local_port: Option<u16>,
}

/// Writes a log, or nothing when it has no path.
pub(super) struct LogWriter {
    path: PathBuf,
    start_ns: u64,
    inner: Mutex<Inner>,
}

struct Inner {
    file: Option<File>,
    held: Vec<u8>,
    written_ns: u64,
    requests: u64,
}

impl LogWriter {
    /// `start_ns` is the load's, which the log's times count from.
    pub(super) fn create(path: Option<&Path>, start_ns: u64) -> Result<Self, WorkloadError> {
        let file = path
            .map(|path| {
                File::create(path).map_err(|source| WorkloadError::Write {
                    path: path.to_owned(),
                    source,
                })
            })
            .transpose()?;
        Ok(LogWriter {
            path: path.unwrap_or(Path::new("")).to_owned(),
            start_ns,
            inner: Mutex::new(Inner {
                file,
                held: Vec::new(),
                written_ns: 0,
                requests: 0,
            }),
        })
    }

    /// Writes a line that is in the file when this returns.
    pub(super) fn write(&self, line: &LoadLogLine) -> Result<(), WorkloadError> {
        let mut inner = self.lock();
        inner.requests += u64::from(matches!(line, LoadLogLine::Request(_)));
        if inner.file.is_none() {
            return Ok(());
        }
        serde_json::to_writer(&mut inner.held, line).map_err(|e| self.failed(e.into()))?;
        inner.held.push(b'\n');
        self.put(&mut inner)
    }

    /// Writes a right answer; it is in the file soon.
    pub(super) fn right(&self, r: &Right) -> Result<(), WorkloadError> {
        let mut inner = self.lock();
        inner.requests += 1;
        if inner.file.is_none() {
            return Ok(());
        }
        let _ = writeln!(
            inner.held,
            "[{},{},{},{},{},{},{},{},{},{}]",
            r.service,
            r.operation,
            r.client,
            r.seq,
            r.intended_ns.saturating_sub(self.start_ns),
            r.start_ns.saturating_sub(r.intended_ns),
            r.end_ns.saturating_sub(r.start_ns),
            r.bytes,
            r.status.unwrap_or(0),
            r.local_port.unwrap_or(0),
        );
        if inner.held.len() < HELD_BYTES && r.end_ns < inner.written_ns + HELD_NS {
            return Ok(());
        }
        self.put(&mut inner)
    }

    /// Puts what is held into the file.
    pub(super) fn flush(&self) -> Result<(), WorkloadError> {
        self.put(&mut self.lock())
    }

    /// Requests written so far.
    pub(super) fn requests(&self) -> u64 {
        self.lock().requests
    }

    fn put(&self, inner: &mut Inner) -> Result<(), WorkloadError> {
        if inner.held.is_empty() {
            return Ok(());
        }
        let held = std::mem::take(&mut inner.held);
        let result = inner.file.as_mut().map_or(Ok(()), |f| f.write_all(&held));
        inner.held = held;
        inner.held.clear();
        inner.written_ns = monotonic_ns();
        result.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: std::io::Error) -> WorkloadError {
        WorkloadError::Write {
            path: self.path.clone(),
            source,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a log line by line, in memory that does not grow with the log.
///
/// A last line without its newline was cut off and is left out. A complete line
/// that is not one of a log is an error.
pub struct LogReader<R> {
    path: PathBuf,
    input: R,
    line: u64,
    text: Vec<u8>,
    names: Names,
    done: bool,
    ended: bool,
}

/// What the first line says, which the short lines refer to.
#[derive(Default)]
struct Names {
    start_ns: u64,
    services: Vec<String>,
    operations: Vec<String>,
}

impl LogReader<BufReader<File>> {
    /// Opens a log.
    ///
    /// # Errors
    /// [`WorkloadError::Read`].
    pub fn open(path: &Path) -> Result<Self, WorkloadError> {
        let file = File::open(path).map_err(|source| WorkloadError::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok(LogReader::new(path, BufReader::new(file)))
    }
}

impl<R: BufRead> LogReader<R> {
    /// Reads a log from anything; `path` is for messages alone.
    pub fn new(path: &Path, input: R) -> Self {
        LogReader {
            path: path.to_owned(),
            input,
            line: 0,
            text: Vec::new(),
            names: Names::default(),
            done: false,
            ended: false,
        }
    }

    /// After the last line: whether the log lacks its end.
    pub fn cut_off(&self) -> bool {
        !self.ended
    }

    fn read(&mut self) -> Result<Option<LoadLogLine>, WorkloadError> {
        self.text.clear();
        self.input
            .read_until(b'\n', &mut self.text)
            .map_err(|source| WorkloadError::Read {
                path: self.path.clone(),
                source,
            })?;
        if self.text.pop() != Some(b'\n') {
            return Ok(None);
        }
        self.line += 1;
        let line = self
            .names
            .parse(&self.text)
            .map_err(|source| WorkloadError::LogLine {
                path: self.path.clone(),
                line: self.line,
                source,
            })?;
        match &line {
            LoadLogLine::Begin { format, .. } if *format != LOG_FORMAT => {
                return Err(WorkloadError::LogFormat {
                    path: self.path.clone(),
                    found: *format,
                });
            }
            LoadLogLine::Begin {
                start_ns,
                services,
                operations,
                ..
            } => {
                self.names = Names {
                    start_ns: *start_ns,
                    services: services.clone(),
                    operations: operations.clone(),
                };
            }
            LoadLogLine::End { .. } => self.ended = true,
            LoadLogLine::Request(_) => {}
        }
        Ok(Some(line))
    }
}

impl Names {
    fn parse(&self, text: &[u8]) -> Result<LoadLogLine, serde_json::Error> {
        if text.first() != Some(&b'[') {
            return serde_json::from_slice(text);
        }
        let custom = <serde_json::Error as serde::de::Error>::custom::<&str>;
        let [
            service,
            operation,
            client,
            seq,
            intended,
            late,
            took,
            bytes,
            status,
            port,
        ]: [u64; 10] = serde_json::from_slice(text)?;
        let name = |of: &[String], number: u64| {
            let name = usize::try_from(number).ok().and_then(|i| of.get(i));
            name.cloned()
                .ok_or_else(|| custom("a number without a name in the first line"))
        };
        let small = |n: u64| u32::try_from(n).map_err(|_| custom("a number is too large"));
        let short = |n: u64| match u16::try_from(n) {
            Ok(0) => Ok(None),
            Ok(n) => Ok(Some(n)),
            Err(_) => Err(custom("a number is too large")),
        };
        let operation = name(&self.operations, operation)?;
        let intended_ns = self.start_ns.saturating_add(intended);
        let start_ns = intended_ns.saturating_add(late);
        Ok(LoadLogLine::Request(RequestRecord {
            guest: name(&self.services, service)?,
            client: small(client)?,
            seq: small(seq)?,
            operation: (self.operations.len() > 1).then_some(operation),
            probe: false,
            intended_ns,
            start_ns,
            end_ns: start_ns.saturating_add(took),
            request: None,
            bytes,
            status: short(status)?,
            verdict: Verdict::Correct,
            reset_cause: None,
            detail: None,
            answer: None,
            answer_hex: None,
            local_port: short(port)?,
        }))
    }
}

impl<R: BufRead> Iterator for LogReader<R> {
    type Item = Result<LoadLogLine, WorkloadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let line = self.read().transpose();
        self.done = !matches!(line, Some(Ok(_)));
        line
    }
}
