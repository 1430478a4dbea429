//! Warming guests up: requests until they take the same time again and again.

use crate::{Endpoint, TestbedError};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// What is asked for; the guest's own default amount of work.
const PATH: &str = "/cgi-bin/sha1";

/// A guest is steady when the medians of this many requests and of as many
/// before them differ by less than `BAND`.
const GROUP: usize = 6;
const BAND: f64 = 0.20;
const MOST: usize = 40;
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Ports below the ephemeral ones that are gone through.
const PORTS: u16 = 4096;
const PORT_TRIES: usize = 64;

/// Warms up all guests; the latency at which each came to rest.
pub(crate) fn warm_up(
    endpoints: &[Endpoint],
    mut healthy: impl FnMut() -> Result<(), TestbedError>,
) -> Result<Vec<(String, Duration)>, TestbedError> {
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); endpoints.len()];
    // In turn, so that all are warm at the same time.
    for _ in 0..MOST {
        for (endpoint, times) in endpoints.iter().zip(&mut times) {
            healthy()?;
            let start = Instant::now();
            if let Err(e) = request(endpoint.addr, ANSWER_WITHIN) {
                healthy()?;
                return Err(TestbedError::Agent {
                    doing: format!("warm up {}", endpoint.guest),
                    message: format!("its web server does not answer: {e}"),
                });
            }
            times.push(start.elapsed());
        }
        if times.iter().all(|t| is_steady(t)) {
            break;
        }
    }
    Ok(endpoints
        .iter()
        .zip(&times)
        .map(|(e, t)| (e.guest.clone(), median(&t[t.len().saturating_sub(GROUP)..])))
        .collect())
}

/// One request; the whole answer must come, with status 200.
pub(crate) fn request(addr: SocketAddr, within: Duration) -> io::Result<()> {
    let mut stream = connect(addr, within)?;
    stream.set_read_timeout(Some(within))?;
    stream.set_write_timeout(Some(within))?;
    let request = format!("GET {PATH} HTTP/1.0\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(1 << 20).read_to_end(&mut answer)?;
    let first = answer.split(|b| *b == b'\r').next().unwrap_or_default();
    let first = String::from_utf8_lossy(first);
    if first.split(' ').nth(1) == Some("200") {
        Ok(())
    } else {
        Err(io::Error::other(format!("it answered {first:?}")))
    }
}

/// Connects from a port that no load driver will be given. slirp keeps the
/// client's port, and a snapshot remembers its connections for a minute: a run's
/// SYN from the port of one of them is refused and repeated only seconds later.
fn connect(addr: SocketAddr, within: Duration) -> io::Result<TcpStream> {
    static USED: AtomicU16 = AtomicU16::new(0);
    let first_ephemeral = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768_u16);
    let mut refused = None;
    for _ in 0..PORT_TRIES {
        let port = first_ephemeral
            .saturating_sub(1 + USED.fetch_add(1, Ordering::Relaxed) % PORTS)
            .max(1024);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        let from = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let connected = socket
            .bind(&from.into())
            .and_then(|()| socket.connect_timeout(&addr.into(), within));
        match connected {
            Ok(()) => return Ok(socket.into()),
            Err(e) if matches!(e.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable) => {
                refused = Some(e);
            }
            Err(e) => return Err(e),
        }
    }
    Err(refused.unwrap_or_else(|| ErrorKind::AddrInUse.into()))
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn is_steady(times: &[Duration]) -> bool {
    let Some(start) = times.len().checked_sub(2 * GROUP) else {
        return false;
    };
    let before = median(&times[start..start + GROUP]).as_secs_f64();
    let now = median(&times[start + GROUP..]).as_secs_f64();
    (now - before).abs() <= BAND * before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(values: &[u64]) -> Vec<Duration> {
        values.iter().map(|v| Duration::from_millis(*v)).collect()
    }

    #[test]
    fn steady_means_that_the_last_ones_are_like_those_before() {
        assert!(!is_steady(&ms(&[100; 11])));
        assert!(is_steady(&ms(&[100; 12])));
        let mut warming = vec![900, 700, 500, 400, 300, 200];
        warming.extend([100; 6]);
        assert!(!is_steady(&ms(&warming)));
        warming.extend([95; 6]);
        assert!(is_steady(&ms(&warming)));
    }

    /// A golden run failed when the kernel gave the load driver a port that the
    /// snapshot had seen.
    #[test]
    fn warm_up_ports_are_never_a_load_drivers() {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let first: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let stream = connect(addr, Duration::from_secs(5)).unwrap();
            let port = stream.local_addr().unwrap().port();
            assert!(port < first, "{port}");
            assert!(seen.insert(port), "{port} twice");
            listener.accept().unwrap();
        }
    }

    #[test]
    fn an_error_status_is_not_warmth() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for answer in ["HTTP/1.1 500 Oops\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nok", ""] {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 512]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let second = Duration::from_secs(1);
        assert!(
            request(addr, second)
                .unwrap_err()
                .to_string()
                .contains("500")
        );
        request(addr, second).unwrap();
        assert!(request(addr, second).is_err());
    }
}
