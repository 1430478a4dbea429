//! A run directory, read.
//!
//! # Runs without a result
//! The journal has an `intent` line before anything is armed, a `fired` line
//! once the flip is known, a `result` line at the end, and an `unfired` line
//! for an attempt that failed before anything could fire (DESIGN §5). A run's
//! *first attempt that fired, or may have*, decides, since such a run is never
//! replaced. Attempts are looked at in order:
//!
//! 1. An attempt with a result: that result counts if it fired or may have;
//!    if not, a later attempt may take its place.
//! 2. An attempt with a `fired` line and no result: an orphan that fired.
//! 3. An attempt with an `unfired` line: the next one is looked at.
//! 4. An attempt with an `intent` alone: nothing says that it had not been
//!    armed, so it is an orphan that may have fired.
//!
//! When no attempt fired, the last result counts, or else the last attempt's
//! `unfired` reason. Results of attempts after the deciding one are set aside
//! with a note. A run with no line at all was not run.
//!
//! An orphan that fired or may have is `unjudged` when the run was an
//! injection or a dummy; in a golden run nothing can fire, and its orphan is a
//! `harness_error`. (On a `local` testbed an intent without a result is the
//! host's crash; no such testbed exists yet.)

use crate::AnalysisError;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use xfi_model::{InjectionRecord, InjectionState, JournalLine, Manifest, Plan, RunId, RunRecord};

/// The format of `manifest.json`, `plan.json` and the journal.
pub const FORMAT: u32 = 1;

/// Everything a report is a function of.
#[derive(Debug, Clone, PartialEq)]
pub struct CampaignData {
    /// Provenance.
    pub manifest: Manifest,
    /// What was planned.
    pub plan: Plan,
    /// One record a run, by run id.
    pub results: Vec<RunRecord>,
    /// Runs that were begun and have no result that counts.
    pub orphans: Vec<Orphan>,
    /// Attempts begun, for each run that was begun.
    pub attempts: BTreeMap<RunId, u32>,
    /// What was odd about the files, and the journal's own notes.
    pub notes: Vec<String>,
}

/// A run that was begun and has no result.
#[derive(Debug, Clone, PartialEq)]
pub struct Orphan {
    /// The run.
    pub run: RunId,
    /// The attempt that was lost.
    pub attempt: u32,
    /// What is known of it.
    pub fate: Fate,
}

/// What is known of an attempt without a result.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// It fired; Xen's record.
    Fired(InjectionRecord),
    /// Begun, and nothing more: it may have fired.
    Unknown,
    /// It failed before anything could fire, for this reason.
    Unfired(String),
}

/// Reads `manifest.json`, `plan.json` and `journal.jsonl` in `dir`. A last line
/// that was cut off is left out with a note: the writer was killed there.
///
/// # Errors
/// [`AnalysisError`] naming the file, and for the journal the line.
pub fn load(dir: &Path) -> Result<CampaignData, AnalysisError> {
    let manifest: Manifest = read_json(&dir.join("manifest.json"))?;
    check_format(&dir.join("manifest.json"), manifest.format)?;
    let plan: Plan = read_json(&dir.join("plan.json"))?;
    check_format(&dir.join("plan.json"), plan.format)?;
    let path = dir.join("journal.jsonl");
    let text = fs::read(&path).map_err(|source| AnalysisError::Read {
        path: path.clone(),
        source,
    })?;
    let (lines, mut notes) = parse_journal(&path, &text)?;
    let mut data = assemble(manifest, plan, lines)?;
    notes.append(&mut data.notes);
    data.notes = notes;
    Ok(data)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, AnalysisError> {
    let text = fs::read(path).map_err(|source| AnalysisError::Read {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|source| AnalysisError::Malformed {
        path: path.to_owned(),
        source,
    })
}

fn check_format(path: &Path, found: u32) -> Result<(), AnalysisError> {
    if found == FORMAT {
        Ok(())
    } else {
        Err(AnalysisError::Format {
            path: path.to_owned(),
            found,
            expected: FORMAT,
        })
    }
}

fn parse_journal(
    path: &Path,
    text: &[u8],
) -> Result<(Vec<JournalLine>, Vec<String>), AnalysisError> {
    let mut lines = Vec::new();
    let mut notes = Vec::new();
    let mut pieces = text.split(|b| *b == b'\n').enumerate().peekable();
    while let Some((index, piece)) = pieces.next() {
        if piece.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        // Every whole line ends in a newline; the piece after the last newline
        // is what a killed writer left.
        let last = pieces.peek().is_none();
        match serde_json::from_slice::<JournalLine>(piece) {
            Ok(JournalLine::Header { format, .. }) if format != FORMAT => {
                return check_format(path, format).map(|()| (lines, notes));
            }
            Ok(line) => lines.push(line),
            Err(_) if last => notes.push(format!(
                "the journal's last line ({}) was cut off and is left out",
                index + 1
            )),
            Err(source) => {
                return Err(AnalysisError::JournalLine {
                    path: path.to_owned(),
                    line: index + 1,
                    source,
                });
            }
        }
    }
    Ok((lines, notes))
}

/// What the journal says of one run: its attempts, in order.
type History = BTreeMap<u32, Attempt>;

/// What the journal says of one attempt.
#[derive(Default)]
struct Attempt {
    fired: Option<InjectionRecord>,
    unfired: Option<String>,
    result: Option<RunRecord>,
}

/// Builds the data from a journal's lines, by the rules in the module's head.
///
/// # Errors
/// None today; reserved for journals that contradict their plan.
pub fn assemble(
    manifest: Manifest,
    plan: Plan,
    lines: Vec<JournalLine>,
) -> Result<CampaignData, AnalysisError> {
    let mut notes = Vec::new();
    let mut runs: BTreeMap<RunId, History> = BTreeMap::new();
    for line in lines {
        match line {
            JournalLine::Header { plan_hash, .. } => {
                if plan_hash != manifest.plan_hash {
                    notes.push(format!(
                        "the journal was begun for plan {plan_hash}, the manifest names {}",
                        manifest.plan_hash
                    ));
                }
            }
            JournalLine::Intent { run, attempt, .. } => {
                runs.entry(run).or_default().entry(attempt).or_default();
            }
            JournalLine::Fired {
                run,
                attempt,
                injection,
            } => {
                // The line tells how the injection ended; only one that fired
                // binds the run.
                let attempt = runs.entry(run).or_default().entry(attempt).or_default();
                if injection.state == InjectionState::Fired {
                    attempt.fired.get_or_insert(injection);
                }
            }
            JournalLine::Unfired {
                run,
                attempt,
                reason,
                ..
            } => {
                let attempt = runs.entry(run).or_default().entry(attempt).or_default();
                attempt.unfired.get_or_insert(reason);
            }
            JournalLine::Result { run, record, .. } => {
                let attempt = runs
                    .entry(run)
                    .or_default()
                    .entry(record.attempt)
                    .or_default();
                if attempt.result.is_some() {
                    notes.push(format!(
                        "run {run} has two results of attempt {}; the first counts",
                        record.attempt
                    ));
                }
                attempt.result.get_or_insert(record);
            }
            JournalLine::Note { run, at, text } => notes.push(match run {
                Some(run) => format!("{at}, run {run}: {text}"),
                None => format!("{at}: {text}"),
            }),
        }
    }

    let mut data = CampaignData {
        manifest,
        plan,
        results: Vec::new(),
        orphans: Vec::new(),
        attempts: BTreeMap::new(),
        notes,
    };
    let planned: BTreeSet<RunId> = data.plan.runs.iter().map(|r| r.id).collect();
    for (run, history) in runs {
        if !planned.contains(&run) {
            data.notes.push(format!(
                "the journal has run {run}, which the plan lacks; left out"
            ));
            continue;
        }
        data.attempts
            .insert(run, history.keys().copied().max().unwrap_or(0));
        settle(run, history, &mut data);
    }
    Ok(data)
}

fn settle(run: RunId, history: History, data: &mut CampaignData) {
    let mut settled: Option<Settled> = None;
    for (attempt, seen) in history {
        if settled.as_ref().is_some_and(|s| s.binding) {
            if seen.result.is_some() {
                data.notes.push(format!(
                    "run {run}: the result of attempt {attempt} is set aside; an earlier attempt \
                     fired or may have, and a fired run is never replaced"
                ));
            }
            continue;
        }
        settled = Some(match (seen.result, seen.fired, seen.unfired) {
            (Some(record), fired, _) => Settled {
                binding: fired.is_some() || fired_or_may_have(&record),
                what: Deciding::Result(Box::new(record)),
            },
            (None, Some(injection), _) => Settled::orphan(run, attempt, Fate::Fired(injection)),
            (None, None, Some(why)) => Settled::orphan(run, attempt, Fate::Unfired(why)),
            (None, None, None) => Settled::orphan(run, attempt, Fate::Unknown),
        });
    }
    match settled.map(|s| s.what) {
        Some(Deciding::Result(record)) => data.results.push(*record),
        Some(Deciding::Orphan(orphan)) => data.orphans.push(orphan),
        None => {}
    }
}

/// The attempt that decides so far.
struct Settled {
    /// It fired, or may have: nothing later replaces it.
    binding: bool,
    what: Deciding,
}

/// Its result, or that it has none.
enum Deciding {
    Result(Box<RunRecord>),
    Orphan(Orphan),
}

impl Settled {
    fn orphan(run: RunId, attempt: u32, fate: Fate) -> Settled {
        let binding = !matches!(fate, Fate::Unfired(_));
        Settled {
            binding,
            what: Deciding::Orphan(Orphan { run, attempt, fate }),
        }
    }
}

fn fired_or_may_have(record: &RunRecord) -> bool {
    record.may_have_fired
        || record
            .injection
            .as_ref()
            .is_some_and(|i| i.state == InjectionState::Fired)
}
