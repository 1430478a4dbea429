//! Anyone's own program as a workload.

use std::future::pending;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::tempdir;
use xfi_model::{ExecProtocol, LoadModel, Pacing, ThinkTime, Verdict};
use xfi_workloads::exec::{ExecWorkload, check, golden_output};
use xfi_workloads::load::{LoadSummary, profile, run};
use xfi_workloads::{WorkloadError, block_on};

fn sh(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

fn model(requests: u32) -> LoadModel {
    LoadModel {
        clients: 2,
        pacing: Pacing::Closed {
            think_ns: 0,
            distribution: ThinkTime::Fixed,
        },
        ramp_up_ns: 0,
        duration_ns: 600_000_000_000,
        requests_per_client: Some(requests),
        probes: 0,
        ..profile("light-load", 3).unwrap()
    }
}

fn apply(
    command: Vec<String>,
    protocol: ExecProtocol,
    output_sha256: Option<&str>,
    load: &LoadModel,
) -> LoadSummary {
    let services = vec![("web1".to_owned(), Some("127.0.0.1:80".parse().unwrap()))];
    let sha256 = output_sha256.map(str::to_owned);
    let workload = ExecWorkload::of_command(services, command, protocol, 0, sha256).unwrap();
    block_on(run(&workload, load, None, pending(), |_| {})).unwrap()
}

/// What is wrong with it, sorted, each once.
fn details(summary: &LoadSummary) -> Vec<(Verdict, String)> {
    let mut all: Vec<_> = summary
        .not_right
        .iter()
        .map(|r| (r.verdict, r.detail.clone().unwrap()))
        .collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn a_program_is_judged_by_its_return_code() {
    let once = |script| apply(sh(script), ExecProtocol::Once, None, &model(2));
    assert_eq!(once("exit 0").verdicts(), [(Verdict::Correct, 4)].into());
    let failed = once("echo oops; exit 3");
    assert_eq!(
        details(&failed),
        [(Verdict::ErrorReply, "return code 3, not 0".to_owned())]
    );
    assert_eq!(failed.not_right[0].status, Some(3));
    assert_eq!(failed.not_right[0].answer.as_deref(), Some("oops\n"));
    let killed = once("kill -SEGV $$");
    assert_eq!(
        details(&killed),
        [(Verdict::ErrorReply, "killed by SIGSEGV".to_owned())]
    );
}

#[test]
fn a_program_is_judged_by_its_output() {
    let command = sh("echo fine");
    let golden = golden_output(&command, 0, Duration::from_secs(20));
    let hash = block_on(golden).unwrap();
    let once = |script| apply(sh(script), ExecProtocol::Once, Some(&hash), &model(3));
    assert_eq!(once("echo fine").verdicts(), [(Verdict::Correct, 6)].into());
    let wrong = once("[ $XFI_CLIENT$XFI_SEQ = 12 ] && echo fime || echo fine");
    assert_eq!(wrong.wrong(), 1);
    let r = &wrong.not_right[0];
    assert_eq!(
        (r.client, r.seq, r.verdict, r.answer.as_deref()),
        (1, 2, Verdict::IncorrectContent, Some("fime\n"))
    );
}

#[test]
fn a_golden_output_must_be_the_same_twice() {
    for (script, says) in [
        ("date +%N", "the SHA-256 of"),
        ("exit 9", "return code 9, not 0"),
        ("sleep 20", "did not end within"),
    ] {
        let command = sh(script);
        let golden = golden_output(&command, 0, Duration::from_millis(500));
        let error = block_on(golden).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_program_is_told_whom_to_ask_and_what() {
    let script = "[ \"$XFI_GUEST $XFI_ADDR\" = 'web1 127.0.0.1:80' ] && [ $XFI_CLIENT -lt 2 ] && \
                  [ $XFI_SEQ -lt 3 ] && [ -n \"$XFI_RANDOM\" ]";
    let summary = apply(sh(script), ExecProtocol::Once, None, &model(3));
    assert_eq!(summary.verdicts(), [(Verdict::Correct, 6)].into());
}

/// The processes whose command line has this text.
fn alive(text: &str) -> usize {
    let all = std::fs::read_dir("/proc").unwrap();
    all.filter_map(|e| std::fs::read(e.ok()?.path().join("cmdline")).ok())
        .filter(|c| String::from_utf8_lossy(c).contains(text))
        .count()
}

#[test]
fn one_that_takes_too_long_is_killed_with_what_it_started() {
    // A number that no other process sleeps for.
    let length = format!("7{}", std::process::id());
    let mut load = model(1);
    load.timeout_ns = 300_000_000;
    let script = format!("sleep {length}; true");
    let summary = apply(sh(&script), ExecProtocol::Once, None, &load);
    assert_eq!(summary.verdicts(), [(Verdict::ClientTimeout, 2)].into());
    let waited = Instant::now();
    while alive(&length) > 0 {
        assert!(waited.elapsed() < Duration::from_secs(20), "left running");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Answers each request; a case statement on the number may answer otherwise.
fn lines(cases: &str) -> Vec<String> {
    sh(&format!(
        "while read -r line; do seq=${{line#*:}}; seq=${{seq%%,*}}; case $seq in {cases} \
         *) echo '{{\"seq\":'$seq',\"verdict\":\"correct\",\"bytes\":5}}' ;; esac; done"
    ))
}

#[test]
fn a_program_judges_in_json_lines() {
    let say = |seq: u32, verdict: &str| {
        format!(
            "{seq}) echo '{{\"seq\":{seq},\"verdict\":\"{verdict}\",\"detail\":\"so it was\",\
             \"answer\":\"x\"}}' ;;"
        )
    };
    let cases = say(3, "incorrect_content") + &say(5, "client_timeout");
    let summary = apply(lines(&cases), ExecProtocol::Lines, None, &model(8));
    let found: Vec<_> = summary
        .not_right
        .iter()
        .filter(|r| r.client == 0)
        .map(|r| (r.seq, r.verdict, r.detail.as_deref(), r.answer.as_deref()))
        .collect();
    assert_eq!(
        found,
        [
            (3, Verdict::IncorrectContent, Some("so it was"), Some("x")),
            (5, Verdict::ClientTimeout, Some("so it was"), Some("x")),
        ]
    );
    assert_eq!(summary.verdicts()[&Verdict::Correct], 2 * 6);
}

#[test]
fn one_that_loses_the_thread_is_started_again() {
    for (case, verdict, says) in [
        (
            "2) exit 1 ;;",
            Verdict::ConnectionReset,
            "ended after 0 bytes",
        ),
        (
            "2) printf '{\"se'; exit ;;",
            Verdict::ConnectionReset,
            "after 4 bytes",
        ),
        ("2) echo what ;;", Verdict::CorruptedOutput, "not a reply"),
        (
            "2) echo '{\"seq\":1,\"verdict\":\"correct\"}' ;;",
            Verdict::CorruptedOutput,
            "the reply to request 1, not 2",
        ),
        (
            "2) echo '{\"seq\":2,\"verdict\":\"fine\"}' ;;",
            Verdict::CorruptedOutput,
            "unknown variant `fine`",
        ),
        (
            "2) echo '{\"seq\":2,\"verdict\":\"unfinished\"}' ;;",
            Verdict::CorruptedOutput,
            "no verdict for a program",
        ),
    ] {
        let summary = apply(lines(case), ExecProtocol::Lines, None, &model(5));
        assert_eq!(summary.verdicts()[&Verdict::Correct], 8, "{case}");
        assert_eq!(summary.wrong(), 2, "{case}");
        for r in &summary.not_right {
            assert_eq!((r.seq, r.verdict), (2, verdict), "{case}");
            assert!(r.detail.as_ref().unwrap().contains(says), "{r:?}");
        }
    }
}

#[test]
fn a_program_that_cannot_be_run_is_an_error_of_ours() {
    let command = vec!["/nonexistent/client".to_owned()];
    let workload = ExecWorkload::of_command(
        vec![("x".into(), None)],
        command,
        ExecProtocol::Once,
        0,
        None,
    );
    let load = model(3);
    let error = block_on(run(&workload.unwrap(), &load, None, pending(), |_| {})).unwrap_err();
    assert!(matches!(error, WorkloadError::Program { .. }));
    assert_eq!(
        error.to_string(),
        "cannot run '/nonexistent/client': No such file or directory (os error 2)"
    );
}

#[test]
fn impossible_expectations_are_refused() {
    let command = sh("true");
    let refused = |command: &[String], protocol, code, hash, says: &str| {
        let error = check(command, protocol, code, hash)
            .unwrap_err()
            .to_string();
        assert!(error.contains(says), "{error}");
    };
    use ExecProtocol::{Lines, Once};
    refused(&[], Once, 0, None, "a program must be named");
    refused(&command, Once, 300, None, "exit_code is 300");
    refused(&command, Once, 0, Some("abc"), "output_sha256 is 'abc'");
    refused(&command, Lines, 1, None, "judges by itself");
}

#[test]
fn the_log_goes_where_it_is_told() {
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    let workload = ExecWorkload::of_command(
        vec![("x".into(), None)],
        sh("true"),
        ExecProtocol::Once,
        0,
        None,
    );
    let load = model(2);
    block_on(run(
        &workload.unwrap(),
        &load,
        Some(Path::new(&log)),
        pending(),
        |_| {},
    ))
    .unwrap();
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.starts_with("{\"kind\":\"begin\",\"format\":2,"));
    assert_eq!(text.lines().count(), 1 + 4 + 1);
}
