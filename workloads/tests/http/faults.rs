//! One answer of many is spoilt on its way: it is found, at exactly that
//! request, and named; no other is accused.

use crate::proxy::{Fault, Proxy};
use crate::server::*;
use std::future::pending;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;
use tempfile::tempdir;
use xfi_model::{HttpLoad, RequestRecord, ResetCause, Verdict};
use xfi_workloads::http::oracle::Expected;
use xfi_workloads::http::run_driver;

const REQUESTS: u32 = 300;

fn good_server(n: u64) -> Server {
    let answer = http("200 OK", Expected::for_bytes(n).body().as_bytes());
    Server::start(move |_, stream| {
        let _ = stream.write_all(&answer);
    })
}

/// One client that keeps its connection and asks so many times.
fn asking(addr: std::net::SocketAddr, n: u64, requests: u32) -> HttpLoad {
    let mut load = load(&[addr]);
    load.path = format!("/cgi-bin/sha1?n={n}");
    load.hash_bytes = n;
    load.keep_alive = true;
    load.load.requests_per_client = Some(requests);
    load.load.duration_ns = 600_000_000_000;
    load
}

/// All requests of the log, in their order, of which none is missing.
fn judged(log: &Path, asked: u32) -> Vec<RequestRecord> {
    let all: Vec<_> = requests(log).into_iter().filter(|r| !r.probe).collect();
    let numbers: Vec<_> = all.iter().map(|r| r.seq).collect();
    assert_eq!(numbers, (0..asked).collect::<Vec<_>>());
    all
}

async fn spoilt(faults: Vec<(usize, Fault)>, timeout: Duration) -> Vec<RequestRecord> {
    let server = good_server(N);
    let proxy = Proxy::start(server.addr, faults);
    let mut load = asking(proxy.addr, N, REQUESTS);
    load.load.timeout_ns = timeout.as_nanos() as u64;
    load.load.probes = 0;
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    let summary = run_driver(&load, &log, pending()).await.unwrap();
    assert_eq!(
        proxy.requests(),
        REQUESTS as usize,
        "nothing is asked twice"
    );
    let wrong: Vec<_> = judged(&log, REQUESTS)
        .into_iter()
        .filter(|r| r.verdict != Verdict::Correct)
        .collect();
    assert_eq!(summary.wrong(), wrong.len() as u64);
    let first = &wrong[..wrong.len().min(20)];
    assert_eq!(summary.not_right, first, "the summary has them, too");
    wrong
}

const AMPLE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn each_spoilt_answer_is_found_at_its_request_and_named() {
    let page = page();
    let hash_at = page.find("\"sha1\">").unwrap() + 7;
    let number_at = page.find("4096").unwrap();
    let status_at = "HTTP/1.1 ".len();
    let whole = right().len();
    let faults = vec![
        (7, Fault::FlipInBody(hash_at + 3, 0)),
        (40, Fault::FlipInBody(page.len() - 2, 7)),
        (41, Fault::FlipInBody(number_at, 0)),
        (90, Fault::Reset),
        (130, Fault::Close),
        (160, Fault::Truncate(whole - 1)),
        (161, Fault::Truncate(3)),
        (220, Fault::Flip(status_at, 2)),
        (299, Fault::FlipInBody(0, 5)),
    ];
    let wrong = spoilt(faults, AMPLE).await;
    let found: Vec<_> = wrong
        .iter()
        .map(|r| (r.seq, r.verdict, r.reset_cause))
        .collect();
    use ResetCause::{EarlyClose, Reset};
    use Verdict::*;
    assert_eq!(
        found,
        [
            (7, IncorrectContent, None),
            (40, CorruptedOutput, None),
            (41, IncorrectContent, None),
            (90, ConnectionReset, Some(Reset)),
            (130, ConnectionReset, Some(EarlyClose)),
            (160, ConnectionReset, Some(EarlyClose)),
            (161, ConnectionReset, Some(EarlyClose)),
            (220, ErrorReply, None),
            (299, CorruptedOutput, None),
        ],
        "{wrong:#?}"
    );
    assert_eq!(wrong[7].status, Some(600), "'2' with bit 2 flipped is '6'");
    assert!(wrong[0].detail.as_ref().unwrap().contains("SHA-1 is"));
}

#[tokio::test]
async fn stalled_answers_are_found_at_their_requests() {
    let long = Duration::from_secs(6);
    let faults = vec![(11, Fault::Stall(0, long)), (200, Fault::Stall(30, long))];
    let wrong = spoilt(faults, Duration::from_secs(2)).await;
    let found: Vec<_> = wrong.iter().map(|r| (r.seq, r.verdict, r.bytes)).collect();
    use Verdict::ClientTimeout;
    assert_eq!(found, [(11, ClientTimeout, 0), (200, ClientTimeout, 30)]);
}

#[tokio::test]
async fn every_bit_of_the_body_counts() {
    let bits = 8 * page().len();
    let faults: Vec<_> = (0..REQUESTS as usize)
        .map(|i| i * bits / REQUESTS as usize)
        .enumerate()
        .map(|(request, at)| (request, Fault::FlipInBody(at / 8, (at % 8) as u8)))
        .collect();
    let wrong = spoilt(faults, AMPLE).await;
    assert_eq!(wrong.len(), REQUESTS as usize);
}

#[tokio::test]
async fn swapped_answers_are_found_at_both_requests() {
    let (one, other) = (good_server(N), good_server(N + 1));
    let (to_other, from_one) = channel();
    let (to_one, from_other) = channel();
    let proxies = [
        Proxy::start(one.addr, vec![(60, Fault::Swap(to_other, from_other))]),
        Proxy::start(other.addr, vec![(85, Fault::Swap(to_one, from_one))]),
    ];
    let dir = tempdir().unwrap();
    let logs = [dir.path().join("one"), dir.path().join("other")];
    let loads = [
        asking(proxies[0].addr, N, 100),
        asking(proxies[1].addr, N + 1, 100),
    ];
    let (a, b) = tokio::join!(
        run_driver(&loads[0], &logs[0], pending()),
        run_driver(&loads[1], &logs[1], pending()),
    );
    assert_eq!((a.unwrap().wrong(), b.unwrap().wrong()), (1, 1));
    for (log, at) in logs.iter().zip([60, 85]) {
        let all = judged(log, 100);
        let wrong: Vec<_> = all
            .iter()
            .filter(|r| r.verdict != Verdict::Correct)
            .collect();
        assert_eq!(wrong.len(), 1);
        assert_eq!(
            (wrong[0].seq, wrong[0].verdict),
            (at, Verdict::IncorrectContent)
        );
    }
}

#[tokio::test]
async fn ten_thousand_good_answers_are_not_accused() {
    let server = good_server(N);
    let proxy = Proxy::start(server.addr, Vec::new());
    let mut load = asking(proxy.addr, N, 2_500);
    load.load.clients = 4;
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    let summary = run_driver(&load, &log, pending()).await.unwrap();
    assert_eq!(summary.verdicts(), [(Verdict::Correct, 10_000)].into());
    assert_eq!(requests(&log).len(), 10_000);
    assert_eq!(proxy.requests(), 10_000);
}
