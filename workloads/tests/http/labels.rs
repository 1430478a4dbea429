//! Every label, produced on purpose and recognised.

use crate::server::*;
use std::future::pending;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::thread::sleep;
use std::time::Duration;
use tempfile::tempdir;
use xfi_model::{HttpLoad, LoadLogLine, RequestRecord, ResetCause, Verdict};
use xfi_workloads::http::run_driver;

async fn drive(load: &HttpLoad) -> Vec<RequestRecord> {
    let dir = tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    run_driver(load, &log, pending()).await.unwrap();
    let all = lines(&log);
    assert!(matches!(all[0], LoadLogLine::Begin { .. }));
    let requests = requests(&log);
    assert!(
        matches!(all.last(), Some(LoadLogLine::End { requests: n, .. }) if *n == requests.len() as u64)
    );
    assert!(!requests.is_empty());
    for r in &requests {
        assert!(
            r.intended_ns <= r.start_ns && r.start_ns <= r.end_ns,
            "{r:?}"
        );
    }
    requests
}

/// A load whose clients wait only 300 ms.
fn impatient(addrs: &[SocketAddr]) -> HttpLoad {
    let mut load = once(addrs);
    load.load.timeout_ns = 300_000_000;
    load
}

/// A load of one request a client.
fn once(addrs: &[SocketAddr]) -> HttpLoad {
    let mut load = load(addrs);
    load.load.duration_ns = 2_000_000_000;
    load.load.pacing = thinking(3_000_000_000);
    load
}

/// Drives one server and expects every answer to get this verdict.
async fn expect(server: Server, verdict: Verdict) -> RequestRecord {
    let load = match verdict {
        Verdict::ClientTimeout => impatient(&[server.addr]),
        _ => once(&[server.addr]),
    };
    let requests = drive(&load).await;
    for r in &requests {
        assert_eq!(r.verdict, verdict, "{r:?}");
        if verdict != Verdict::Correct {
            assert!(r.detail.is_some(), "{r:?}");
        }
    }
    requests[0].clone()
}

async fn expect_page(body: impl Into<Vec<u8>>, verdict: Verdict) -> RequestRecord {
    let answer = http("200 OK", &body.into());
    let record = expect(Server::sending(answer.clone()), verdict).await;
    assert_eq!(record.status, Some(200));
    if verdict != Verdict::Correct {
        let kept = record.answer.as_deref().unwrap();
        match &record.answer_hex {
            None => assert_eq!(kept.as_bytes(), answer, "kept whole"),
            Some(hex) => assert_eq!(hex.len(), 2 * answer.len(), "kept whole"),
        }
    }
    record
}

#[tokio::test]
async fn correct() {
    let record = expect_page(page(), Verdict::Correct).await;
    assert_eq!(record.bytes, right().len() as u64);
    assert_eq!(record.answer, None);
    assert!(record.local_port.is_some());
}

#[tokio::test]
async fn slow_but_right_is_correct() {
    let server = Server::start(|_, stream| {
        for part in right().chunks(64) {
            let _ = stream.write_all(part);
            sleep(Duration::from_millis(10));
        }
    });
    let record = expect(server, Verdict::Correct).await;
    assert!(record.end_ns - record.start_ns > 50_000_000);
}

#[tokio::test]
async fn wrong_hash() {
    let wrong = page().replace("\"sha1\">1", "\"sha1\">2");
    assert_ne!(wrong, page());
    let record = expect_page(wrong, Verdict::IncorrectContent).await;
    assert!(record.detail.unwrap().contains("SHA-1 is"));
}

#[tokio::test]
async fn wrong_n() {
    let wrong = page().replace(">4096<", ">4097<");
    let record = expect_page(wrong, Verdict::IncorrectContent).await;
    assert!(record.detail.unwrap().contains("N is \"4097\""));
}

#[tokio::test]
async fn other_text_wrong() {
    let wrong = page().replace("zero bytes", "zero Bytes");
    let record = expect_page(wrong, Verdict::IncorrectContent).await;
    assert!(record.detail.unwrap().contains("is 0x42, not 0x62"));
}

#[tokio::test]
async fn missing_value() {
    let whole = page();
    let (before, rest) = whole.split_once("<code").unwrap();
    let (_, after) = rest.split_once("</code>").unwrap();
    expect_page(format!("{before}{after}"), Verdict::MissingValue).await;
    expect_page(
        format!("{before}<code id=\"sha1\"></code>{after}"),
        Verdict::MissingValue,
    )
    .await;
}

#[tokio::test]
async fn truncated_html() {
    // With a Content-Length that agrees: at the HTTP level all is well.
    let whole = page();
    for end in ["4096", "</code>", "</p>", "</body>", "<h1>"] {
        let at = whole.find(end).unwrap() + end.len();
        expect_page(&whole[..at], Verdict::CorruptedOutput).await;
    }
    expect_page("", Verdict::CorruptedOutput).await;
}

#[tokio::test]
async fn garbage_after_the_page() {
    expect_page(page() + "<p>x</p>", Verdict::CorruptedOutput).await;
    expect_page(page() + "</html>", Verdict::CorruptedOutput).await;
}

#[tokio::test]
async fn invalid_utf8() {
    let mut body = page().into_bytes();
    body[120] = 0xff;
    let record = expect_page(body, Verdict::CorruptedOutput).await;
    assert!(record.detail.unwrap().contains("UTF-8"));
    assert!(record.answer_hex.unwrap().contains("ff"));
}

#[tokio::test]
async fn error_status() {
    for status in ["500 Internal Server Error", "404 Not Found", "206 Partial"] {
        let server = Server::sending(http(status, b"<!DOCTYPE html>oops"));
        let record = expect(server, Verdict::ErrorReply).await;
        assert_eq!(record.status, status[..3].parse().ok());
        assert!(record.answer.unwrap().ends_with("oops"));
    }
}

#[tokio::test]
async fn reset_by_rst() {
    let server = Server::start(|_, stream| {
        let _ = stream.write_all(&right()[..40]);
        sleep(Duration::from_millis(5));
        reset_on_close(stream);
    });
    let record = expect(server, Verdict::ConnectionReset).await;
    assert_eq!(record.reset_cause, Some(ResetCause::Reset));
    assert_eq!(record.bytes, 40);
}

#[tokio::test]
async fn refused_does_not_spin() {
    let addr = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let requests = drive(&load(&[addr])).await;
    for r in &requests {
        assert_eq!(r.verdict, Verdict::ConnectionReset);
        assert_eq!(r.reset_cause, Some(ResetCause::Refused));
    }
    // 500 ms at one each 10 ms.
    assert!((2..=51).contains(&requests.len()), "{}", requests.len());
}

#[tokio::test]
async fn early_fin() {
    let whole = right();
    let body_at = whole.len() - 20;
    for end in [0, 10, 60, body_at] {
        let record = expect(
            Server::sending(whole[..end].to_vec()),
            Verdict::ConnectionReset,
        )
        .await;
        assert_eq!(record.reset_cause, Some(ResetCause::EarlyClose));
        assert_eq!(record.bytes, end as u64);
    }
}

#[tokio::test]
async fn never_answers_is_timeout_and_probed() {
    let server = Server::start(|_, _| sleep(Duration::from_secs(5)));
    let requests = drive(&impatient(&[server.addr])).await;
    assert_eq!(requests.len(), 1 + 2, "one request and two probes");
    for r in &requests {
        assert_eq!(r.verdict, Verdict::ClientTimeout);
        assert!((300..2000).contains(&((r.end_ns - r.start_ns) / 1_000_000)));
    }
    assert_eq!(requests.iter().filter(|r| r.probe).count(), 2);
    assert!(requests[2].start_ns < requests[1].end_ns, "at once");
}

#[tokio::test]
async fn answer_that_stalls_is_timeout() {
    let server = Server::start(|_, stream| {
        let _ = stream.write_all(&right()[..100]);
        sleep(Duration::from_secs(1));
    });
    let record = expect(server, Verdict::ClientTimeout).await;
    assert_eq!(record.bytes, 100);
    assert!(record.answer.is_some());
}

#[tokio::test]
async fn probes_answered_when_the_server_recovers() {
    let server = Server::start(|n, stream| {
        if n == 0 {
            sleep(Duration::from_secs(1));
        } else {
            let _ = stream.write_all(&right());
        }
    });
    let requests = drive(&impatient(&[server.addr])).await;
    assert_eq!(requests[0].verdict, Verdict::ClientTimeout);
    assert_eq!(requests.len(), 3);
    for r in &requests[1..] {
        assert!(r.probe);
        assert_eq!(r.verdict, Verdict::Correct);
    }
}

#[tokio::test]
async fn only_the_guest_that_was_silent_is_probed() {
    let dead = Server::start(|_, _| sleep(Duration::from_secs(2)));
    let fine = Server::sending(right());
    let requests = drive(&impatient(&[fine.addr, dead.addr])).await;
    assert!(
        requests
            .iter()
            .filter(|r| r.probe)
            .all(|r| r.guest == "web2")
    );
    assert!(requests.iter().any(|r| r.probe));
}

#[tokio::test]
async fn garbage_status_line() {
    let mut answer = right();
    answer[..8].copy_from_slice(b"GARBAGE!");
    let record = expect(Server::sending(answer.clone()), Verdict::CorruptedOutput).await;
    assert_eq!(record.status, None);
    assert_eq!(record.answer.unwrap().as_bytes(), answer);
    // Each bit of "HTTP/1.1 2".
    for bit in 0..80 {
        let mut answer = right();
        answer[bit / 8] ^= 1 << (bit % 8);
        let server = Server::sending(answer);
        for r in drive(&once(&[server.addr])).await {
            // "HTTP/1.0" is as good.
            let as_good = bit == 7 * 8;
            assert_eq!(r.verdict == Verdict::Correct, as_good, "bit {bit}: {r:?}");
        }
    }
}

#[tokio::test]
async fn wrong_content_length() {
    let whole = String::from_utf8(right()).unwrap();
    let length = format!("Content-Length: {}", page().len());
    let shorter = whole.replace(&length, "Content-Length: 100");
    expect(Server::sending(shorter.into()), Verdict::CorruptedOutput).await;
    let by_one = format!("Content-Length: {}", page().len() - 1);
    let shorter = whole.replace(&length, &by_one);
    expect(Server::sending(shorter.into()), Verdict::CorruptedOutput).await;
    let garbled = whole.replace(&length, "Content-Length: x42");
    expect(Server::sending(garbled.into()), Verdict::CorruptedOutput).await;
    // One that is too long and then FIN looks like an early close.
    let longer = whole.replace(&length, "Content-Length: 999");
    let record = expect(Server::sending(longer.into()), Verdict::ConnectionReset).await;
    assert_eq!(record.reset_cause, Some(ResetCause::EarlyClose));
    // None at all, and the page ends with the connection: a right answer.
    let none = whole.replace(&length, "X-Content-Length: 999");
    expect(Server::sending(none.into()), Verdict::Correct).await;
}

#[tokio::test]
async fn wrong_content_type() {
    let whole = String::from_utf8(right()).unwrap();
    for kind in [
        "Content-Type: text/plain; charset=utf-8",
        "Content-Type: text/html; charset=utf-9",
        "X-Type: text/html; charset=utf-8",
        "Content-Encoding: gzip\r\nContent-Type: text/html; charset=utf-8",
    ] {
        let answer = whole.replace("Content-Type: text/html; charset=utf-8", kind);
        expect(Server::sending(answer.into()), Verdict::CorruptedOutput).await;
    }
}

#[tokio::test]
async fn chunked_right_and_garbled() {
    let answer = |size: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\
             Transfer-Encoding: chunked\r\n\r\n{size}\r\n{}\r\n0\r\n\r\n",
            page()
        )
        .into_bytes()
    };
    let size = format!("{:x}", page().len());
    expect(Server::sending(answer(&size)), Verdict::Correct).await;
    expect(Server::sending(answer("zz")), Verdict::CorruptedOutput).await;
}

#[tokio::test]
async fn an_answer_without_end_is_ended() {
    let server = Server::start(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n");
        while stream.write_all(&[b'a'; 4096]).is_ok() {}
    });
    for r in drive(&once(&[server.addr])).await {
        assert_eq!(r.verdict, Verdict::CorruptedOutput, "{:?}", r.detail);
        assert!(r.bytes < 2 * 1024 * 1024);
    }
}
