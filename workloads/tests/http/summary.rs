//! From logs to observations, bands and timings.

use crate::server::load;
use proptest::prelude::*;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use tempfile::tempdir;
use xfi_model::{LoadLogLine, RequestRecord, Verdict};
use xfi_workloads::WorkloadError;
use xfi_workloads::load::{LogReader, ServiceContext, band, bands, calibrate, summarise};

const MS: u64 = 1_000_000;

fn request(guest: &str, start_ms: u64, end_ms: u64, verdict: Verdict) -> RequestRecord {
    RequestRecord {
        guest: guest.into(),
        client: 0,
        seq: 1,
        operation: None,
        probe: false,
        intended_ns: start_ms * MS,
        start_ns: start_ms * MS,
        end_ns: end_ms * MS,
        request: None,
        bytes: 1,
        status: None,
        verdict,
        reset_cause: None,
        detail: None,
        answer: None,
        answer_hex: None,
        local_port: None,
    }
}

fn probe(guest: &str, verdict: Verdict) -> RequestRecord {
    RequestRecord {
        probe: true,
        ..request(guest, 9000, 9100, verdict)
    }
}

fn text(requests: &[RequestRecord], end: bool) -> String {
    let begin = LoadLogLine::Begin {
        format: 2,
        start_ns: 500 * MS,
        workload: "http".into(),
        services: vec!["web1".into(), "web2".into()],
        operations: vec!["request".into()],
        load: load(&["127.0.0.1:1".parse().unwrap()]).load,
    };
    let mut lines = vec![begin];
    lines.extend(requests.iter().cloned().map(LoadLogLine::Request));
    if end {
        lines.push(LoadLogLine::End {
            end_ns: 9999 * MS,
            requests: requests.len() as u64,
        });
    }
    lines
        .iter()
        .map(|l| serde_json::to_string(l).unwrap() + "\n")
        .collect()
}

fn context(guest: &str) -> ServiceContext {
    ServiceContext {
        guest: guest.into(),
        is_target: guest == "web1",
        band: None,
        tcp: None,
    }
}

fn both() -> [ServiceContext; 2] {
    [context("web1"), context("web2")]
}

#[test]
fn split_by_flip_and_window() {
    use Verdict::*;
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    let requests = [
        request("web1", 600, 900, Correct),
        request("web1", 900, 999, ErrorReply),
        request("web1", 950, 1000, Correct), // under way at the flip
        request("web1", 1100, 1300, IncorrectContent),
        request("web1", 1500, 1900, Correct),
        request("web1", 1950, 2500, Correct), // ends after the window
        request("web1", 1999, 4999, ClientTimeout), // likewise
        request("web1", 2000, 2001, MissingValue), // begins after it
        request("web2", 1000, 1200, Correct),
        request("web2", 1300, 1350, Unfinished),
        request("other", 1000, 1200, ErrorReply),
        probe("web1", ClientTimeout),
        probe("web1", ConnectionReset),
        probe("web1", Correct),
        probe("web1", IncorrectContent),
    ];
    std::fs::write(&log, text(&requests, true)).unwrap();
    let summary = summarise(&log, Some(1000 * MS), 1000 * MS, &both()).unwrap();
    assert_eq!(summary.start_ns, Some(500 * MS));
    assert_eq!(summary.unfinished, 1);
    assert!(!summary.cut_off);
    let [web1, web2] = &summary.services[..] else {
        panic!("two services");
    };
    assert!(web1.is_target && !web2.is_target);
    assert_eq!(web1.before_flip, [(Correct, 1), (ErrorReply, 1)].into());
    assert_eq!(
        web1.after_flip,
        [(Correct, 3), (IncorrectContent, 1), (ClientTimeout, 1)].into()
    );
    let latency = web1.latency.unwrap();
    assert_eq!(latency.count, 3);
    assert_eq!(latency.max_ns, 550 * MS);
    assert!(latency.p50_ns.abs_diff(400 * MS) < 400 * MS / 500);
    assert_eq!(web1.throughput_rps, 2.0);
    let not_right: Vec<_> = web1.not_right.iter().map(|r| r.verdict).collect();
    assert_eq!(
        not_right,
        [
            ErrorReply,
            IncorrectContent,
            ClientTimeout,
            IncorrectContent
        ]
    );
    assert_eq!((web1.probes_sent, web1.probes_answered), (4, 2));
    assert_eq!(web2.after_flip, [(Correct, 1)].into());
    assert_eq!(web2.probes_sent, 0);
}

#[test]
fn without_a_flip_the_window_begins_with_the_load() {
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    let requests = [
        request("web1", 500, 700, Verdict::Correct),
        request("web1", 1500, 1700, Verdict::Correct),
    ];
    std::fs::write(&log, text(&requests, true)).unwrap();
    let summary = summarise(&log, None, 1000 * MS, &both()).unwrap();
    assert_eq!(
        summary.services[0].after_flip,
        [(Verdict::Correct, 1)].into()
    );
    assert_eq!(summary.services[1].latency, None);
}

#[test]
fn a_cut_off_log_gives_all_but_its_tail() {
    let whole = text(
        &[
            request("web1", 1000, 1100, Verdict::Correct),
            request("web1", 1100, 1200, Verdict::Correct),
        ],
        true,
    );
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    for at in 0..whole.len() {
        std::fs::write(&log, &whole[..at]).unwrap();
        let summary = summarise(&log, Some(0), u64::MAX, &both()).unwrap();
        assert!(summary.cut_off && summary.services[0].log_cut_off);
        let complete = whole[..at].matches('\n').count();
        let counted: u64 = summary.services[0].after_flip.values().sum();
        assert_eq!(counted as usize, complete.saturating_sub(1));
        assert_eq!(summary.start_ns.is_some(), complete > 0);
    }
}

#[test]
fn a_foreign_file_is_refused_with_its_line() {
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    std::fs::write(&log, "hello\n").unwrap();
    let error = summarise(&log, None, MS, &both()).unwrap_err();
    assert!(error.to_string().contains("log:1: not a line"), "{error}");
    std::fs::write(
        &log,
        text(&[], true).replace("\"format\":2", "\"format\":3"),
    )
    .unwrap();
    let error = summarise(&log, None, MS, &both()).unwrap_err();
    assert!(matches!(error, WorkloadError::LogFormat { found: 3, .. }));
}

#[test]
fn bands_hold_the_golden_runs_with_room() {
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    let golden = |latencies: &[u64]| {
        let requests: Vec<_> = latencies
            .iter()
            .map(|&l| request("web1", 1000, 1000 + l, Verdict::Correct))
            .collect();
        std::fs::write(&log, text(&requests, true)).unwrap();
        let [web1, _] = summarise(&log, Some(1000 * MS), 1000 * MS, &both())
            .unwrap()
            .services
            .try_into()
            .unwrap();
        web1
    };
    let runs = [golden(&[100, 200, 300]), golden(&[100, 100])];
    let band = band(&runs, 1.5).unwrap();
    assert!(band.p50_max_ns.abs_diff(300 * MS) < MS);
    assert_eq!(band.max_max_ns, 450 * MS);
    assert!((band.throughput_min_rps - 2.0 / 1.5).abs() < 1e-9);
    assert_eq!(bands(&runs, 1.5)["web1"], band);
    assert_eq!(bands(&[], 1.5).len(), 0);
}

#[test]
fn calibration_measures_latency_and_period() {
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    let mut requests: Vec<_> = (0..50)
        .map(|i| request("web1", i * 40, i * 40 + 30, Verdict::Correct))
        .collect();
    requests.push(request("web1", 3000, 3001, Verdict::Unfinished));
    std::fs::write(&log, text(&requests, true)).unwrap();
    let measured = calibrate(std::slice::from_ref(&log)).unwrap();
    assert_eq!(measured.answers, 50);
    assert_eq!(measured.p50_ns, 30 * MS);
    assert_eq!(measured.p999_ns, 30 * MS);
    assert!(measured.period_ns.abs_diff(40 * MS) < MS / 10);

    requests.push(request("web1", 3000, 3001, Verdict::ErrorReply));
    std::fs::write(&log, text(&requests, true)).unwrap();
    let error = calibrate(std::slice::from_ref(&log)).unwrap_err();
    assert!(
        error.to_string().contains("web1 gave ErrorReply"),
        "{error}"
    );
    assert!(matches!(calibrate(&[]), Err(WorkloadError::NoGoldenAnswer)));
    assert!(calibrate(&[PathBuf::from("/nonexistent")]).is_err());
}

proptest! {
    #[test]
    fn the_reader_takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let lines: Vec<_> = LogReader::new(Path::new("x"), Cursor::new(&bytes)).collect();
        prop_assert!(lines.len() <= bytes.len());
    }

    #[test]
    fn a_log_with_one_byte_changed_is_read_or_refused(at in 0usize..1200, to in any::<u8>()) {
        let mut bytes = text(&[request("web1", 1, 2, Verdict::Correct)], true).into_bytes();
        let at = at % bytes.len();
        bytes[at] = to;
        let dir = tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, &bytes).unwrap();
        let _ = summarise(&log, Some(1), 10, &both());
    }
}
