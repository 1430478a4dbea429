//! The driver as a whole: its log, its end, its connections.

use crate::server::*;
use std::future::pending;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::tempdir;
use xfi_model::{LoadLogLine, Verdict};
use xfi_workloads::WorkloadError;
use xfi_workloads::http::run_driver;
use xfi_workloads::run_spec;

#[tokio::test]
async fn keep_alive_uses_one_connection() {
    let server = Server::start(|_, stream| {
        let _ = stream.write_all(&right());
    });
    let mut load = load(&[server.addr]);
    load.keep_alive = true;
    load.load.pacing = thinking(5_000_000);
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    run_driver(&load, &log, pending()).await.unwrap();
    let requests = requests(&log);
    assert!(requests.len() > 1);
    for r in &requests {
        assert_eq!(r.verdict, Verdict::Correct, "{r:?}");
        assert_eq!(r.local_port, requests[0].local_port);
        assert_eq!(r.bytes, right().len() as u64);
    }
    assert_eq!(server.requests(), requests.len());
}

#[tokio::test]
async fn keep_alive_opens_again_after_a_clean_close() {
    let server = Server::start(|_, stream| {
        let _ = stream.write_all(&right());
        let _ = stream.shutdown(std::net::Shutdown::Both);
    });
    let mut load = load(&[server.addr]);
    load.keep_alive = true;
    load.load.pacing = thinking(20_000_000);
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    run_driver(&load, &log, pending()).await.unwrap();
    let requests = requests(&log);
    assert!(requests.len() > 1);
    assert!(requests.iter().all(|r| r.verdict == Verdict::Correct));
    assert_eq!(server.requests(), requests.len(), "nothing was asked twice");
}

#[tokio::test]
async fn bytes_between_answers_are_noticed() {
    let server = Server::start(|_, stream| {
        let _ = stream.write_all(&right());
        sleep(Duration::from_millis(5));
        let _ = stream.write_all(b"stray");
    });
    let mut load = load(&[server.addr]);
    load.keep_alive = true;
    load.load.pacing = thinking(20_000_000);
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    run_driver(&load, &log, pending()).await.unwrap();
    let wrong = requests(&log)
        .into_iter()
        .find(|r| r.verdict != Verdict::Correct)
        .unwrap();
    assert_eq!(wrong.verdict, Verdict::CorruptedOutput);
    // A busy machine may see them together with an answer.
    assert!(wrong.answer.unwrap().contains("stray"));
}

#[tokio::test]
async fn a_request_in_flight_at_the_end_may_finish() {
    let server = Server::start(|_, stream| {
        sleep(Duration::from_millis(600));
        let _ = stream.write_all(&right());
    });
    let mut load = load(&[server.addr]);
    load.load.duration_ns = 400_000_000;
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    let report = run_driver(&load, &log, pending()).await.unwrap();
    assert!(!report.stopped);
    assert_eq!(report.verdicts()[&Verdict::Correct], 1);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_start_offsets() {
    let offsets = async |seed| {
        let server = Server::sending(right());
        let mut load = load(&[server.addr]);
        load.load.seed = seed;
        load.load.clients = 4;
        load.load.duration_ns = 1_000_000_000;
        load.load.pacing = thinking(2_000_000_000);
        load.load.ramp_up_ns = 100_000_000;
        let dir = tempdir().unwrap();
        let log = dir.path().join("log");
        run_driver(&load, &log, pending()).await.unwrap();
        let LoadLogLine::Begin { start_ns, .. } = lines(&log)[0] else {
            panic!("no begin");
        };
        let mut offsets: Vec<_> = requests(&log)
            .iter()
            .map(|r| (r.client, r.intended_ns - start_ns))
            .collect();
        offsets.sort();
        assert_eq!(offsets.len(), 4);
        offsets
    };
    assert_eq!(offsets(1).await, offsets(1).await);
    assert_ne!(offsets(1).await, offsets(2).await);
}

/// Not a test by itself: the process that the tests below start.
#[test]
fn driver_process() {
    let Ok(dir) = std::env::var("XFI_TEST_DRIVER") else {
        return;
    };
    let dir = Path::new(&dir);
    run_spec(&dir.join("spec.json"), &dir.join("log")).unwrap();
}

fn start_driver(dir: &Path, load: &xfi_model::HttpLoad) -> std::process::Child {
    std::fs::write(
        dir.join("spec.json"),
        serde_json::to_vec(&xfi_model::LoadSpec::Http(load.clone())).unwrap(),
    )
    .unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "driver::driver_process", "--nocapture"])
        .env("XFI_TEST_DRIVER", dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn signal(child: &std::process::Child, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, signal).unwrap();
}

#[test]
fn sigterm_ends_it_at_once_and_whole() {
    let server = Server::start(|n, stream| {
        if n >= 3 {
            sleep(Duration::from_secs(20));
        }
        let _ = stream.write_all(&right());
    });
    let dir = tempdir().unwrap();
    let mut load = load(&[server.addr]);
    load.load.duration_ns = 60_000_000_000;
    load.load.timeout_ns = 60_000_000_000;
    let mut child = start_driver(dir.path(), &load);
    while server.requests() < 4 {
        sleep(Duration::from_millis(10));
    }
    let before = Instant::now();
    signal(&child, nix::sys::signal::Signal::SIGTERM);
    assert!(child.wait().unwrap().success());
    assert!(before.elapsed() < Duration::from_secs(2));
    let log = dir.path().join("log");
    let verdicts: Vec<_> = requests(&log).iter().map(|r| r.verdict).collect();
    use Verdict::{Correct, Unfinished};
    assert_eq!(verdicts, [Correct, Correct, Correct, Unfinished]);
    assert!(matches!(
        lines(&log).last(),
        Some(LoadLogLine::End { requests: 4, .. })
    ));
}

#[test]
fn killed_it_loses_nothing_that_was_answered() {
    let server = Server::start(|n, stream| {
        if n >= 20 {
            sleep(Duration::from_secs(20));
        }
        let _ = stream.write_all(&right());
    });
    let dir = tempdir().unwrap();
    let mut load = load(&[server.addr]);
    load.load.duration_ns = 60_000_000_000;
    load.load.timeout_ns = 60_000_000_000;
    let mut child = start_driver(dir.path(), &load);
    while server.requests() < 21 {
        sleep(Duration::from_millis(10));
    }
    // Longer than lines are held.
    sleep(Duration::from_millis(100));
    signal(&child, nix::sys::signal::Signal::SIGKILL);
    child.wait().unwrap();
    assert_eq!(requests(&dir.path().join("log")).len(), 20);
}

#[tokio::test]
async fn a_full_disk_is_one_clear_error() {
    let server = Server::sending(right());
    let error = run_driver(&load(&[server.addr]), Path::new("/dev/full"), pending())
        .await
        .unwrap_err();
    assert!(matches!(error, WorkloadError::Write { .. }));
    assert!(
        error.to_string().contains("cannot write /dev/full"),
        "{error}"
    );
}

#[test]
fn bad_loads_are_named() {
    let dir = tempdir().unwrap();
    let spec = dir.path().join("spec.json");
    let spec_of = xfi_model::LoadSpec::Http(load(&["127.0.0.1:80".parse().unwrap()]));
    let good = serde_json::to_value(spec_of).unwrap();
    for (at, value, says) in [
        ("/targets", serde_json::json!([]), "targets is empty"),
        ("/load/timeout_ns", 0.into(), "timeout_ns is 0"),
        ("/load/duration_ns", 0.into(), "duration_ns is 0"),
        ("/load/clients", 0.into(), "clients is 0"),
        ("/path", "cgi".into(), "path is \"cgi\""),
        ("/path", "/x?n=1".into(), "equal to hash_bytes"),
        ("/kind", "gopher".into(), "unknown variant `gopher`"),
        (
            "/load/pacing",
            serde_json::json!({"kind": "open", "rate_per_s": -1.0}),
            "rate_per_s is -1",
        ),
        (
            "/load/pacing",
            serde_json::json!({"kind": "open", "rate": 1.0}),
            "unknown field `rate`",
        ),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(at).unwrap() = value;
        std::fs::write(&spec, bad.to_string()).unwrap();
        let error = run_spec(&spec, &dir.path().join("log")).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    let error = run_spec(&dir.path().join("none"), &dir.path().join("log"));
    assert!(error.unwrap_err().to_string().starts_with("cannot read"));
    assert!(!dir.path().join("log").exists());
}
