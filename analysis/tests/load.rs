//! Reading run directories: whole, cut off, broken, and with lost runs.

use std::fs;
use std::path::Path;
use xfi_analysis::{AnalysisError, CampaignData, Fate, analyse, load};
use xfi_model::{JournalLine, RunId};

fn campaign() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/campaign")
}

/// A copy whose journal's lines `change` has altered.
fn with_journal(change: impl FnOnce(&mut Vec<String>)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["manifest.json", "plan.json"] {
        fs::copy(campaign().join(name), dir.path().join(name)).unwrap();
    }
    let text = fs::read_to_string(campaign().join("journal.jsonl")).unwrap();
    let mut lines: Vec<String> = text.lines().map(|l| format!("{l}\n")).collect();
    change(&mut lines);
    fs::write(dir.path().join("journal.jsonl"), lines.concat()).unwrap();
    dir
}

fn parse(line: &str) -> JournalLine {
    serde_json::from_str(line).unwrap()
}

fn text(line: &JournalLine) -> String {
    format!("{}\n", serde_json::to_string(line).unwrap())
}

/// A run whose journal has intent, fired and result, and their places.
fn a_fired_run(lines: &[String]) -> (RunId, usize, usize) {
    let mut fired = None;
    for (i, line) in lines.iter().enumerate() {
        match parse(line) {
            JournalLine::Fired { run, injection, .. } if !injection.dummy => {
                fired = Some((run, i));
            }
            JournalLine::Result { run, .. } => {
                if let Some((fired_run, at)) = fired
                    && fired_run == run
                {
                    return (run, at, i);
                }
            }
            _ => {}
        }
    }
    panic!("no such run");
}

fn orphan(data: &CampaignData, run: RunId) -> &Fate {
    &data
        .orphans
        .iter()
        .find(|o| o.run == run)
        .expect("an orphan")
        .fate
}

fn disposition(data: &CampaignData, run: RunId) -> String {
    let analysis = analyse(data);
    analysis
        .runs
        .iter()
        .find(|r| r.id == run)
        .unwrap()
        .disposition
        .to_owned()
}

#[test]
fn planned_is_the_sum_of_all_dispositions() {
    let analysis = analyse(&load(&campaign()).unwrap());
    let sum: u64 = analysis.dispositions.rows.iter().map(|r| r.total()).sum();
    assert_eq!(sum, analysis.dispositions.planned.total());
    assert_eq!(sum, analysis.headline.planned);
    let primaries: u64 = analysis.outcomes.rows.iter().map(|r| r.target.count).sum();
    assert_eq!(
        primaries + analysis.outcomes.unjudged,
        analysis.outcomes.total
    );
    let shares: f64 = analysis
        .outcomes
        .rows
        .iter()
        .filter_map(|r| r.target.share)
        .sum::<f64>()
        + analysis.outcomes.unjudged as f64 / analysis.outcomes.total as f64;
    assert!((shares - 1.0).abs() < 1e-12, "{shares}");
}

#[test]
fn a_killed_writer_at_any_byte_leaves_a_journal_that_reads() {
    let whole = fs::read(campaign().join("journal.jsonl")).unwrap();
    let dir = with_journal(|_| ());
    let planned = load(dir.path()).unwrap().plan.runs.len();
    // Every cut in the first lines, then samples.
    let cuts = (0..4000)
        .step_by(53)
        .chain((4000..whole.len()).step_by(7001));
    for cut in cuts {
        fs::write(dir.path().join("journal.jsonl"), &whole[..cut]).unwrap();
        let data = load(dir.path()).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        let analysis = analyse(&data);
        let sum: u64 = analysis.dispositions.rows.iter().map(|r| r.total()).sum();
        assert_eq!(sum, planned as u64, "cut at {cut}");
        let cut_off = data.notes.iter().any(|n| n.contains("cut off"));
        let whole_lines = cut == 0 || whole[cut - 1] == b'\n' || whole[cut] == b'\n';
        assert_eq!(cut_off, !whole_lines, "cut at {cut}");
    }
}

#[test]
fn a_malformed_middle_line_is_an_error_that_names_it() {
    let dir = with_journal(|lines| lines[6] = "{\"kind\":\"intent\"\n".to_owned());
    let error = load(dir.path()).unwrap_err();
    assert!(
        matches!(error, AnalysisError::JournalLine { line: 7, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("journal.jsonl:7"), "{error}");
}

#[test]
fn missing_and_foreign_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("manifest.json"), "{error}");
    let dir = with_journal(|_| ());
    let text = fs::read_to_string(dir.path().join("manifest.json")).unwrap();
    fs::write(
        dir.path().join("manifest.json"),
        text.replacen("\"format\": 1", "\"format\": 9", 1),
    )
    .unwrap();
    let error = load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("manifest.json has format 9"), "{error}");
}

#[test]
fn a_fired_line_without_a_result_is_unjudged() {
    let mut run = RunId(0);
    let dir = with_journal(|lines| {
        let (id, _, result) = a_fired_run(lines);
        run = id;
        lines.remove(result);
    });
    let data = load(dir.path()).unwrap();
    assert!(matches!(orphan(&data, run), Fate::Fired(_)));
    assert_eq!(disposition(&data, run), "unjudged");
}

#[test]
fn an_intent_alone_may_have_fired() {
    let mut run = RunId(0);
    let dir = with_journal(|lines| {
        let (id, fired, result) = a_fired_run(lines);
        run = id;
        lines.remove(result);
        lines.remove(fired);
    });
    let data = load(dir.path()).unwrap();
    assert_eq!(*orphan(&data, run), Fate::Unknown);
    assert_eq!(disposition(&data, run), "unjudged");
}

#[test]
fn a_fired_run_is_never_replaced() {
    // Attempt 1 fired and was lost; somebody ran it again.
    let mut run = RunId(0);
    let dir = with_journal(|lines| {
        let (id, _, result) = a_fired_run(lines);
        run = id;
        let JournalLine::Result {
            run,
            mut record,
            outcome,
        } = parse(&lines[result])
        else {
            unreachable!()
        };
        record.attempt = 2;
        lines[result] = text(&JournalLine::Result {
            run,
            record,
            outcome,
        });
    });
    let data = load(dir.path()).unwrap();
    assert!(matches!(orphan(&data, run), Fate::Fired(_)));
    assert_eq!(disposition(&data, run), "unjudged");
    assert!(
        data.notes.iter().any(|n| n.contains("never replaced")),
        "{:?}",
        data.notes
    );
}

#[test]
fn an_attempt_that_cannot_have_fired_is_replaced() {
    let mut run = RunId(0);
    let dir = with_journal(|lines| {
        let (id, fired, result) = a_fired_run(lines);
        run = id;
        let JournalLine::Result {
            run,
            mut record,
            outcome,
        } = parse(&lines[result])
        else {
            unreachable!()
        };
        record.attempt = 2;
        let at = record.started_at.clone();
        lines[result] = text(&JournalLine::Result {
            run,
            record,
            outcome,
        });
        lines[fired] = text(&JournalLine::Unfired {
            run,
            attempt: 1,
            at,
            reason: "no QEMU".to_owned(),
        });
    });
    let data = load(dir.path()).unwrap();
    assert_eq!(disposition(&data, run), "fired");
    assert_eq!(data.attempts[&run], 2);
}

#[test]
fn an_attempt_that_failed_before_arming_and_was_not_repeated_is_a_harness_error() {
    let mut run = RunId(0);
    let dir = with_journal(|lines| {
        let (id, fired, result) = a_fired_run(lines);
        run = id;
        lines.remove(result);
        let reason = "no QEMU".to_owned();
        lines[fired] = text(&JournalLine::Unfired {
            run,
            attempt: 1,
            at: String::new(),
            reason,
        });
    });
    let data = load(dir.path()).unwrap();
    assert_eq!(disposition(&data, run), "harness_error");
}
