//! What the command prints, and how it ends.

use crate::server::{Ran, http, ran, serve, xfi};
use serde_json::Value;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

#[track_caller]
fn refused(args: &[&str], code: i32, says: &[&str]) {
    let ran = ran(args);
    assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.stderr);
    assert_eq!(ran.stdout, "", "{args:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{args:?}: {}", ran.stderr);
    for word in says {
        assert!(ran.stderr.contains(word), "no '{word}' in: {}", ran.stderr);
    }
}

fn url(addr: std::net::SocketAddr) -> String {
    format!("http://{addr}/page")
}

/// Asks so many times, as fast as it can.
fn asks<'a>(url: &'a str, requests: &'a str) -> [&'a str; 11] {
    [
        "http",
        "--url",
        url,
        "--for",
        "1h",
        "--think",
        "0s",
        "--clients",
        "2",
        "--requests",
        requests,
    ]
}

#[test]
fn a_server_that_is_not_there_is_one_line() {
    let addr = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    refused(&["http", "--url", &url(addr)], 4, &[&url(addr), "refused"]);
    refused(
        &["http", "--url", "http://nosuch.invalid/"],
        4,
        &["http://nosuch.invalid/"],
    );
}

#[test]
fn a_server_that_is_not_the_right_one_is_one_line() {
    let gone = url(serve(|_| http("404 Not Found", "none")));
    refused(&["http", "--url", &gone], 4, &[&gone, "status 404"]);
    let other = url(serve(|_| b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()));
    refused(&["http", "--url", &other], 4, &[&other, "not HTTP"]);
    let silent = url(serve(|_| Vec::new()));
    refused(
        &["http", "--url", &silent, "--timeout", "300ms"],
        4,
        &["no answer in 300ms"],
    );
    let fickle = url(serve(|n| http("200 OK", &n.to_string())));
    refused(&["http", "--url", &fickle], 4, &["two answers differ"]);
    let page = url(serve(|_| http("200 OK", "page")));
    refused(
        &["http", "--url", &page, "--hash-bytes", "4096"],
        4,
        &["Content-Type"],
    );
    let hash = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
    refused(
        &["http", "--url", &page, "--expect-sha1", hash],
        4,
        &["SHA-1 of 4 bytes", hash],
    );
}

#[test]
fn bad_arguments_name_the_valid_ones() {
    let with = |more: [&'static str; 2]| ["http", "--url", "http://127.0.0.1:1/", more[0], more[1]];
    for (more, says) in [
        (
            ["--profile", "heavy"],
            &["'heavy'", "full-load", "light-load"][..],
        ),
        (["--for", "soon"], &["--for", "'soon'", "2s"][..]),
        (["--for", "0s"], &["--for", "too short"][..]),
        (["--for", "25h"], &["'25h'", "24h"][..]),
        (["--timeout", "0s"], &["--timeout", "too short"][..]),
        (["--clients", "0"], &["clients is 0", "1 to 10000"][..]),
        (["--open-loop", "0"], &["rate_per_s is 0"][..]),
        (["--open-loop", "nan"], &["rate_per_s is NaN"][..]),
        (["--time-scale", "0"], &["--time-scale", "above 0"][..]),
        (["--requests", "0"], &["requests_per_client is 0"][..]),
    ] {
        refused(&with(more), 2, says);
    }
    for bad in [
        "https://127.0.0.1/",
        "127.0.0.1",
        "http://",
        "http://u@h/",
        "ftp://h/",
    ] {
        refused(
            &["http", "--url", bad],
            2,
            &[bad, "http://HOST[:PORT]/PATH"],
        );
    }
    refused(
        &["http", "--url", "http://127.0.0.1:1/sha1?n=99999999999"],
        2,
        &["hash_bytes is 99999999999", "1 to 1073741824"],
    );
    let page = url(serve(|_| http("200 OK", "page")));
    refused(
        &["http", "--url", &page, "--expect-sha1", "12"],
        2,
        &["'12'", "forty"],
    );
    refused(
        &["http", "--url", &page, "--expect-file", "/nonexistent"],
        1,
        &["/nonexistent"],
    );
    refused(
        &["http", "--url", &page, "--log", "/nonexistent/log"],
        1,
        &["cannot write /nonexistent/log"],
    );
    refused(
        &["exec", "--for", "1s", "--", "/nonexistent/program"],
        4,
        &["'/nonexistent/program'"],
    );
}

#[test]
fn all_right_is_exit_code_0_and_a_table() {
    let page = url(serve(|_| http("200 OK", "page")));
    let Ran {
        code,
        stdout,
        stderr,
    } = ran(&asks(&page, "50"));
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    for word in [&page, "2 clients", "P99.9", "verdicts: correct 100"] {
        assert!(stdout.contains(word), "no '{word}' in: {stdout}");
    }
}

#[test]
fn a_wrong_answer_is_exit_code_8_and_named() {
    // Three are asked for beforehand.
    let page = url(serve(|n| {
        http("200 OK", if n == 20 { "pagf" } else { "page" })
    }));
    let mut args = asks(&page, "50");
    args[8] = "1";
    let ran = ran(&args);
    assert_eq!(ran.code, Some(8));
    assert_eq!(
        ran.stderr,
        format!("xfi: {page}: 1 of 50 requests got no right answer\n")
    );
    let says = "client 0, request 17: incorrect_content: byte 3 is 0x66, not 0x65";
    assert!(ran.stdout.contains(says), "{}", ran.stdout);
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}", ran.stdout))
}

#[test]
fn json_keeps_to_the_schema_and_one_seed_to_one_stream() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schema/workload.json");
    let schema = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let page = url(serve(|_| http("200 OK", "page")));
    let streams = |more: &[&str]| {
        let mut args = asks(&page, "40").to_vec();
        args.extend(["--output", "json"]);
        args.extend(more);
        let printed = json(&ran(&args));
        let errors: Vec<_> = validator.iter_errors(&printed).collect();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(printed["verdicts"]["correct"], 80);
        printed["streams"].clone()
    };
    let first = streams(&[]);
    assert_eq!(first, streams(&["--timeout", "15s"]));
    assert_ne!(first, streams(&["--connection-per-request"]));
    let mut maimed = json(&ran(
        &[&asks(&page, "1")[..], &["--output", "json"]].concat()
    ));
    maimed["window_ns"] = "long".into();
    assert!(!validator.is_valid(&maimed));
}

#[test]
fn ctrl_c_prints_what_there_is() {
    let page = url(serve(|_| http("200 OK", "page")));
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let args = ["http", "--url", &page, "--for", "1h", "--log"];
    let child = xfi(&args)
        .arg(&log)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while std::fs::metadata(&log).map_or(0, |m| m.len()) < 2_000 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.code, Some(130), "{}", ran.stderr);
    assert_eq!(ran.stderr, "xfi: interrupted; all right so far\n");
    assert!(ran.stdout.contains("verdicts: correct "), "{}", ran.stdout);
}

#[test]
fn a_program_of_ones_own_is_applied() {
    let ran = ran(&[
        "exec",
        "--for",
        "1h",
        "--requests",
        "3",
        "--clients",
        "1",
        "--think",
        "0s",
        "--expect-first",
        "--",
        "sh",
        "-c",
        "echo $((${XFI_SEQ:-0} / 2))",
    ]);
    assert_eq!(ran.code, Some(8), "{}", ran.stderr);
    let says = "client 0, request 2: incorrect_content: the SHA-256 of 2 bytes";
    assert!(ran.stdout.contains(says), "{}", ran.stdout);
    assert!(
        ran.stdout
            .contains("verdicts: correct 2, incorrect_content 1")
    );
}
