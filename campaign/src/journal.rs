//! `journal.jsonl`: append-only, on disk before it matters.

use crate::CampaignError;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use xfi_model::{InjectionRecord, JournalLine, RunId};

/// A journal open for appending.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Mutex<File>,
}

impl Journal {
    /// Opens or creates the journal. A last line that was cut off by a crash is
    /// removed: it was never acknowledged to anyone.
    ///
    /// # Errors
    /// [`CampaignError::Write`].
    pub fn open(path: &Path) -> Result<Journal, CampaignError> {
        let fail = |source| CampaignError::Write {
            path: path.to_owned(),
            source,
        };
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(fail)?;
        let text = std::fs::read(path).map_err(fail)?;
        let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        if whole < text.len() {
            file.set_len(whole as u64).map_err(fail)?;
        }
        file.seek(SeekFrom::End(0)).map_err(fail)?;
        Ok(Journal {
            path: path.to_owned(),
            file: Mutex::new(file),
        })
    }

    /// Appends a line and waits until it is on disk.
    ///
    /// # Errors
    /// [`CampaignError::Write`].
    pub fn append(&self, line: &JournalLine) -> Result<(), CampaignError> {
        let mut bytes = serde_json::to_vec(line).expect("a journal line is plain data");
        bytes.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(|e| e.into_inner());
        file.write_all(&bytes)
            .and_then(|()| file.sync_data())
            .map_err(|source| CampaignError::Write {
                path: self.path.clone(),
                source,
            })
    }
}

/// Reads all whole lines of a journal.
///
/// # Errors
/// [`CampaignError::Read`], or [`CampaignError::Journal`] naming the line.
pub fn read(path: &Path) -> Result<Vec<JournalLine>, CampaignError> {
    let text = std::fs::read_to_string(path).map_err(|source| CampaignError::Read {
        path: path.to_owned(),
        source,
    })?;
    let whole = text.rfind('\n').map_or(0, |i| i + 1);
    text[..whole]
        .lines()
        .enumerate()
        .map(|(i, line)| {
            serde_json::from_str(line).map_err(|e| CampaignError::Journal {
                path: path.to_owned(),
                line: i + 1,
                message: e.to_string(),
            })
        })
        .collect()
}

/// What a journal says of one run.
#[derive(Debug, Clone, Default)]
pub struct RunState {
    /// The number of the last attempt that was begun.
    pub attempts: u32,
    /// That attempt's intent is on disk, so it may have been armed.
    pub intent: bool,
    /// The flip is known to have happened.
    pub fired: Option<InjectionRecord>,
    /// The run has its result.
    pub done: bool,
}

/// What a journal says of every run it mentions.
pub fn states(lines: &[JournalLine]) -> BTreeMap<RunId, RunState> {
    let mut states: BTreeMap<RunId, RunState> = BTreeMap::new();
    for line in lines {
        match line {
            JournalLine::Intent { run, attempt, .. } => {
                let s = states.entry(*run).or_default();
                s.attempts = *attempt;
                s.intent = true;
            }
            JournalLine::Fired { run, injection, .. } => {
                states.entry(*run).or_default().fired = Some(injection.clone());
            }
            JournalLine::Unfired { run, .. } => {
                states.entry(*run).or_default().intent = false;
            }
            JournalLine::Result { run, .. } => states.entry(*run).or_default().done = true,
            JournalLine::Header { .. } | JournalLine::Note { .. } => {}
        }
    }
    states
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(run: u32, attempt: u32) -> JournalLine {
        JournalLine::Intent {
            run: RunId(run),
            attempt,
            at: "2026-01-01T00:00:00Z".into(),
        }
    }

    #[test]
    fn a_torn_last_line_is_neither_read_nor_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let journal = Journal::open(&path).unwrap();
        journal.append(&intent(0, 1)).unwrap();
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"kind\":\"inte");
        std::fs::write(&path, &text).unwrap();
        assert_eq!(read(&path).unwrap().len(), 1);
        Journal::open(&path).unwrap().append(&intent(1, 1)).unwrap();
        let lines = read(&path).unwrap();
        assert_eq!(lines, vec![intent(0, 1), intent(1, 1)]);
    }

    #[test]
    fn a_bad_line_in_the_middle_is_an_error_with_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        std::fs::write(
            &path,
            "{\"kind\":\"note\",\"run\":null,\"at\":\"x\",\"text\":\"y\"}\nrubbish\n",
        )
        .unwrap();
        let e = read(&path).unwrap_err().to_string();
        assert!(e.contains(":2:"), "{e}");
    }

    #[test]
    fn an_attempt_known_not_to_have_fired_may_be_repeated() {
        let unfired = JournalLine::Unfired {
            run: RunId(3),
            attempt: 1,
            at: "x".into(),
            reason: "QEMU was gone before arming".into(),
        };
        let s = states(&[intent(3, 1), unfired]);
        assert!(!s[&RunId(3)].intent && s[&RunId(3)].attempts == 1);
        let s = states(&[intent(3, 1), intent(3, 2)]);
        assert!(s[&RunId(3)].intent && s[&RunId(3)].attempts == 2);
    }
}
