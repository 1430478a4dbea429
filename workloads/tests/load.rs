//! The load model: what is asked, when, and what is written down of it.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::pending;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::tempdir;
use xfi_model::{LoadLogLine, LoadModel, Pacing, RequestRecord, ThinkTime, Verdict};
use xfi_workloads::WorkloadError;
use xfi_workloads::load::{
    Abandoned, Client, ClientId, LogReader, Performed, Workload, profile, run, scale,
    validate_model,
};

const MS: u64 = 1_000_000;

/// What each client was asked to ask.
type Asked = Arc<Mutex<BTreeMap<(usize, u32), Vec<u64>>>>;

/// Services that answer in the time given, rightly but for one request.
struct Timed {
    services: usize,
    takes: Duration,
    wrong: Option<(u32, u32)>,
    asked: Asked,
}

struct TimedClient {
    id: ClientId,
    takes: Duration,
    wrong: Option<(u32, u32)>,
    asked: Asked,
}

struct Number {
    seq: u32,
    value: u64,
}

impl Workload for Timed {
    type Client = TimedClient;

    fn kind(&self) -> &'static str {
        "timed"
    }

    fn services(&self) -> Vec<String> {
        (0..self.services).map(|i| format!("s{i}")).collect()
    }

    fn operations(&self) -> Vec<String> {
        vec!["even".into(), "odd".into()]
    }

    fn client(&self, id: ClientId) -> Result<TimedClient, WorkloadError> {
        Ok(TimedClient {
            id,
            takes: self.takes,
            wrong: self.wrong,
            asked: Arc::clone(&self.asked),
        })
    }
}

impl Client for TimedClient {
    type Request = Number;

    fn next(&mut self, seq: u32, random: &mut ChaCha8Rng) -> Option<Number> {
        let value = random.next_u64();
        let key = (self.id.service, self.id.number);
        self.asked
            .lock()
            .unwrap()
            .entry(key)
            .or_default()
            .push(value);
        Some(Number { seq, value })
    }

    fn bytes<'a>(&self, request: &'a Number) -> Cow<'a, [u8]> {
        Cow::Owned(request.value.to_le_bytes().to_vec())
    }

    fn operation(&self, request: &Number) -> usize {
        (request.seq % 2) as usize
    }

    fn describe(&self, request: &Number) -> Option<String> {
        Some(format!("number {}", request.value))
    }

    async fn perform(&mut self, request: &Number) -> Result<Performed, WorkloadError> {
        tokio::time::sleep(self.takes).await;
        if self.wrong == Some((self.id.number, request.seq)) {
            return Ok(Performed {
                answer: Some(b"\xff".to_vec()),
                ..Performed::wrong(Verdict::IncorrectContent, "spoilt")
            });
        }
        Ok(Performed {
            status: Some(200),
            ..Performed::right(17)
        })
    }

    fn abandon(&mut self, _: Abandoned) -> Performed {
        Performed::wrong(Verdict::ClientTimeout, "given up")
    }
}

fn timed(takes: Duration) -> Timed {
    Timed {
        services: 1,
        takes,
        wrong: None,
        asked: Asked::default(),
    }
}

fn model(clients: u32, pacing: Pacing, duration_ms: u64) -> LoadModel {
    LoadModel {
        clients,
        pacing,
        ramp_up_ns: 0,
        duration_ns: duration_ms * MS,
        ..profile("light-load", 5).unwrap()
    }
}

fn closed(think_ms: u64, distribution: ThinkTime) -> Pacing {
    Pacing::Closed {
        think_ns: think_ms * MS,
        distribution,
    }
}

fn records(log: &Path) -> Vec<RequestRecord> {
    let lines = LogReader::open(log).unwrap().map(Result::unwrap);
    lines
        .filter_map(|line| match line {
            LoadLogLine::Request(r) => Some(r),
            _ => None,
        })
        .collect()
}

#[test]
fn the_profiles_of_the_thesis_are_known_by_name() {
    let think = |name| match profile(name, 1).unwrap() {
        LoadModel {
            clients,
            pacing: Pacing::Closed { think_ns, .. },
            timeout_ns,
            ..
        } => (clients, think_ns / MS, timeout_ns / MS),
        other => panic!("{other:?}"),
    };
    assert_eq!(think("full-load"), (25, 50, 20_000));
    assert_eq!(think("light-load"), (1, 1_000, 20_000));
    assert_eq!(think("ten-clients"), (10, 0, 20_000));
    let error = profile("heavy", 1).unwrap_err().to_string();
    assert_eq!(
        error,
        "no profile 'heavy'; there are full-load, light-load, ten-clients"
    );
}

#[test]
fn a_slower_system_is_asked_less_and_waited_for_longer() {
    let slow = scale(&profile("full-load", 1).unwrap(), 4.0);
    assert_eq!(slow.pacing, closed(200, ThinkTime::Fixed));
    assert_eq!(slow.timeout_ns, 80_000 * MS);
    assert_eq!((slow.clients, slow.time_scale), (25, 4.0));
    assert_eq!(
        slow.duration_ns,
        profile("full-load", 1).unwrap().duration_ns
    );
    let open = model(2, Pacing::Open { rate_per_s: 100.0 }, 10);
    let slow = scale(&scale(&open, 2.0), 2.0);
    assert_eq!(slow.pacing, Pacing::Open { rate_per_s: 25.0 });
    assert_eq!(slow.time_scale, 4.0);
}

#[test]
fn loads_that_cannot_be_applied_are_refused() {
    let good = profile("full-load", 1).unwrap();
    validate_model(&good, 3).unwrap();
    let refused = |change: &dyn Fn(&mut LoadModel), services, says: &str| {
        let mut bad = good.clone();
        change(&mut bad);
        let error = validate_model(&bad, services).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    refused(&|l| l.clients = 0, 1, "clients is 0");
    refused(&|l| l.clients = 5_001, 2, "clients is 5001");
    refused(&|l| l.timeout_ns = 0, 1, "timeout_ns is 0");
    refused(&|l| l.duration_ns = 0, 1, "duration_ns is 0");
    refused(&|l| l.time_scale = f64::NAN, 1, "time_scale is NaN");
    refused(
        &|l| l.requests_per_client = Some(0),
        1,
        "requests_per_client is 0",
    );
    for rate_per_s in [0.0, -1.0, f64::INFINITY, f64::NAN] {
        refused(
            &|l| l.pacing = Pacing::Open { rate_per_s },
            1,
            "rate_per_s is",
        );
    }
}

#[tokio::test]
async fn one_seed_asks_the_same_whatever_the_timing() {
    let ask = async |seed, takes_ms, pacing| {
        let mut workload = timed(Duration::from_millis(takes_ms));
        workload.services = 2;
        let mut load = model(3, pacing, 600_000);
        load.requests_per_client = Some(20);
        load.seed = seed;
        let summary = run(&workload, &load, None, pending(), |_| {})
            .await
            .unwrap();
        let asked = workload.asked.lock().unwrap().clone();
        assert_eq!(asked.len(), 6);
        (summary.streams, asked)
    };
    let at_once = closed(0, ThinkTime::Fixed);
    let first = ask(7, 0, at_once).await;
    assert_eq!(first, ask(7, 3, closed(1, ThinkTime::Exponential)).await);
    let open = Pacing::Open {
        rate_per_s: 2_000.0,
    };
    assert_eq!(first, ask(7, 1, open).await);
    let (streams, asked) = ask(8, 0, at_once).await;
    for (one, other) in first.0.iter().zip(&streams) {
        assert_eq!((one.requests, other.requests), (20, 20));
        assert_ne!(one.sha256, other.sha256);
    }
    // No client asks what another one does.
    let mut all: Vec<_> = asked.values().flatten().collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 6 * 20);
}

#[tokio::test]
async fn an_open_loop_has_its_rate_and_poisson_gaps() {
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    let load = model(
        10,
        Pacing::Open {
            rate_per_s: 1_000.0,
        },
        2_000,
    );
    let summary = run(&timed(Duration::ZERO), &load, Some(&log), pending(), |_| {})
        .await
        .unwrap();
    let mut intended: Vec<_> = records(&log).iter().map(|r| r.intended_ns).collect();
    intended.sort();
    // What is meant is a function of the seed, so the bounds are no matter of
    // this machine's speed: 2000 arrivals, deviation 45.
    let meant = intended.len() as u64 + summary.services[0].unsent;
    assert!((1_800..2_200).contains(&meant), "{meant}");
    let gaps: Vec<_> = intended.windows(2).map(|w| (w[1] - w[0]) as f64).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
    // Exponential gaps deviate by as much as their mean.
    assert!((0.8..1.2).contains(&(variance.sqrt() / mean)));
}

#[tokio::test]
async fn an_open_loop_does_not_hide_a_slow_server() {
    // Each answer takes 50 ms, and one is asked for every 10 ms.
    let workload = timed(Duration::from_millis(50));
    let load = model(1, Pacing::Open { rate_per_s: 100.0 }, 1_000);
    let summary = run(&workload, &load, None, pending(), |_| {})
        .await
        .unwrap();
    let service = &summary.services[0];
    let (latency, alone) = (
        service.measured.latency.unwrap(),
        service.measured.service_time.unwrap(),
    );
    assert!(latency.p50_ns > 4 * alone.p50_ns, "{latency:?} {alone:?}");
    let meant = service.measured.requests + service.unsent;
    assert!(service.unsent > 40 && (70..130).contains(&meant), "{meant}");
}

#[tokio::test]
async fn think_times_are_exponential_when_asked_for() {
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    let mut load = model(20, closed(4, ThinkTime::Exponential), 600_000);
    load.requests_per_client = Some(100);
    run(&timed(Duration::ZERO), &load, Some(&log), pending(), |_| {})
        .await
        .unwrap();
    let all = records(&log);
    let mut thoughts = Vec::new();
    for client in 0..20 {
        let mine: Vec<_> = all.iter().filter(|r| r.client == client).collect();
        let pairs = mine.windows(2);
        thoughts.extend(pairs.map(|w| (w[1].intended_ns - w[0].end_ns) as f64 / MS as f64));
    }
    let mean = thoughts.iter().sum::<f64>() / thoughts.len() as f64;
    assert!((3.6..4.4).contains(&mean), "{mean}");
    let short = thoughts.iter().filter(|t| **t < 4.0 * 2f64.ln()).count() as f64;
    assert!((0.45..0.55).contains(&(short / thoughts.len() as f64)));
}

#[tokio::test]
async fn the_ramp_up_is_not_measured() {
    let mut load = model(40, closed(20, ThinkTime::Fixed), 300);
    load.ramp_up_ns = 300 * MS;
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    let summary = run(&timed(Duration::ZERO), &load, Some(&log), pending(), |_| {})
        .await
        .unwrap();
    let all = records(&log);
    let LoadLogLine::Begin { start_ns, .. } =
        LogReader::open(&log).unwrap().next().unwrap().unwrap()
    else {
        panic!("no begin");
    };
    let from_ns = start_ns + load.ramp_up_ns;
    let within = all.iter().filter(|r| r.intended_ns >= from_ns).count() as u64;
    let service = &summary.services[0];
    assert_eq!(service.measured.requests, within);
    assert_eq!(service.verdicts[&Verdict::Correct], all.len() as u64);
    assert!(within < all.len() as u64);
    let first = |client| all.iter().find(|r| r.client == client).unwrap().intended_ns;
    let begun: Vec<_> = (0..40).map(first).collect();
    assert!(begun.iter().all(|b| (start_ns..from_ns).contains(b)));
    let spread = begun.iter().max().unwrap() - begun.iter().min().unwrap();
    assert!(spread > 200 * MS, "they begin one after the other");
    let parts: u64 = service.operations.iter().map(|o| o.measured.requests).sum();
    assert_eq!((service.operations.len(), parts), (2, within));
}

#[tokio::test]
async fn a_wrong_answer_is_kept_whole_with_what_was_asked() {
    let mut workload = timed(Duration::ZERO);
    workload.wrong = Some((2, 31));
    let mut load = model(4, closed(0, ThinkTime::Fixed), 600_000);
    load.requests_per_client = Some(50);
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    let summary = run(&workload, &load, Some(&log), pending(), |_| {})
        .await
        .unwrap();
    assert_eq!(summary.wrong(), 1);
    let all = records(&log);
    assert_eq!(all.len(), 200);
    let wrong: Vec<_> = all
        .iter()
        .filter(|r| r.verdict != Verdict::Correct)
        .cloned()
        .collect();
    assert_eq!(wrong, summary.not_right);
    let r = &wrong[0];
    assert_eq!(
        (r.client, r.seq, r.operation.as_deref()),
        (2, 31, Some("odd"))
    );
    let value = workload.asked.lock().unwrap()[&(0, 2)][31];
    assert_eq!(r.request, Some(format!("number {value}")));
    assert_eq!(r.answer_hex.as_deref(), Some("ff"));
    let right = &all[0];
    assert_eq!((right.bytes, right.status), (17, Some(200)));
}

#[tokio::test]
async fn silence_is_a_timeout_and_probed() {
    let workload = timed(Duration::from_secs(60));
    let mut load = model(2, closed(0, ThinkTime::Fixed), 100);
    load.timeout_ns = 150 * MS;
    load.first_timeout_ns = 400 * MS;
    load.probes = 3;
    let summary = run(&workload, &load, None, pending(), |_| {})
        .await
        .unwrap();
    let service = &summary.services[0];
    assert_eq!(service.verdicts, [(Verdict::ClientTimeout, 2)].into());
    assert_eq!(service.probes, [(Verdict::ClientTimeout, 3)].into());
    let latency = service.measured.latency.unwrap();
    assert!(
        latency.p50_ns >= 400 * MS,
        "a time-out has its latency, too"
    );
    assert_eq!(summary.not_right.len(), 5);
}

#[tokio::test]
async fn right_answers_take_little_of_the_disk() {
    let mut load = model(10, closed(0, ThinkTime::Fixed), 600_000);
    load.requests_per_client = Some(500);
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    run(&timed(Duration::ZERO), &load, Some(&log), pending(), |_| {})
        .await
        .unwrap();
    let bytes = std::fs::metadata(&log).unwrap().len();
    assert!(bytes < 5_000 * 60, "{} bytes a request", bytes / 5_000);
    assert_eq!(records(&log).len(), 5_000);
}

#[tokio::test]
async fn progress_is_told_while_it_runs() {
    let load = model(2, closed(5, ThinkTime::Fixed), 2_500);
    let mut told = Vec::new();
    let summary = run(&timed(Duration::ZERO), &load, None, pending(), |p| {
        told.push(p.clone());
    })
    .await
    .unwrap();
    assert!(told.len() >= 2, "{told:?}");
    let parts: u64 = told.iter().map(|p| p.last.requests).sum();
    let last = told.last().unwrap();
    assert_eq!(parts, last.requests);
    assert!(last.requests <= summary.verdicts()[&Verdict::Correct]);
    assert_eq!((last.total_ns, last.wrong), (2_500 * MS, 0));
}
