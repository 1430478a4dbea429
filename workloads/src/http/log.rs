//! The driver's log: one writer, one line a request, each line one write(2).

use crate::WorkloadError;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use xfi_model::{LoadLogLine, RequestRecord};

/// The version of the log's format.
pub const LOG_FORMAT: u32 = 1;

/// Writes a log. A driver that is killed loses at most a part of the last line.
pub(super) struct LogWriter {
    path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    file: File,
    requests: u64,
}

impl LogWriter {
    pub(super) fn create(path: &Path) -> Result<Self, WorkloadError> {
        let file = File::create(path).map_err(|source| WorkloadError::Write {
            path: path.to_owned(),
            source,
        })?;
        Ok(LogWriter {
            path: path.to_owned(),
            inner: Mutex::new(Inner { file, requests: 0 }),
        })
    }

    pub(super) fn request(&self, record: RequestRecord) -> Result<(), WorkloadError> {
        self.write(&LoadLogLine::Request(record))
    }

    pub(super) fn write(&self, line: &LoadLogLine) -> Result<(), WorkloadError> {
        let failed = |source| WorkloadError::Write {
            path: self.path.clone(),
            source,
        };
        let mut text = serde_json::to_vec(line).map_err(|e| failed(e.into()))?;
        text.push(b'\n');
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.file.write_all(&text).map_err(failed)?;
        if matches!(line, LoadLogLine::Request(_)) {
            inner.requests += 1;
        }
        Ok(())
    }

    pub(super) fn requests(&self) -> u64 {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .requests
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
    done: bool,
    ended: bool,
}

impl LogReader<BufReader<File>> {
    /// Opens a log.
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
            done: false,
            ended: false,
        }
    }

    /// After the last line: whether the log lacks its end.
    pub fn cut_off(&self) -> bool {
        !self.ended
    }

    fn read(&mut self) -> Result<Option<LoadLogLine>, WorkloadError> {
        let mut text = Vec::new();
        self.input
            .read_until(b'\n', &mut text)
            .map_err(|source| WorkloadError::Read {
                path: self.path.clone(),
                source,
            })?;
        if text.pop() != Some(b'\n') {
            return Ok(None);
        }
        self.line += 1;
        let line = serde_json::from_slice(&text).map_err(|source| WorkloadError::LogLine {
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
            LoadLogLine::End { .. } => self.ended = true,
            _ => {}
        }
        Ok(Some(line))
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
