//! The load driver: closed-loop clients on one thread.

use super::exchange::{Client, Question, Stop, stopped};
use super::log::{LOG_FORMAT, LogWriter};
use super::oracle::Expected;
use super::{Config, load_config, validate};
use crate::{WorkloadError, monotonic_ns};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use xfi_model::{LoadLogLine, Verdict};

/// The clients' first requests are spread over this long, or over a tenth of
/// the load's duration when that is shorter; nanoseconds.
const START_SPREAD_NS: u64 = 100_000_000;

/// After a connection that was refused or lost, a client with no think time
/// waits this long, so that a server which is down is not asked in a spin;
/// nanoseconds.
const PAUSE_NS: u64 = 10_000_000;

/// What a driver did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverReport {
    /// Requests by verdict, probes included.
    pub verdicts: BTreeMap<Verdict, u64>,
    /// It was told to stop before the load's duration was over.
    pub stopped: bool,
}

struct Shared {
    log: LogWriter,
    load: Arc<Config>,
    expected: Arc<Expected>,
    start_ns: u64,
}

/// Applies the load that `spec` (a JSON [`Config`]) describes and writes the
/// log; the body of the hidden command `xfi workload http`. SIGTERM and SIGINT
/// stop it at once, with requests under way logged as `unfinished`; that is no
/// error.
pub fn run_http_driver(spec: &Path, log: &Path) -> Result<(), WorkloadError> {
    let load = load_config(spec)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(WorkloadError::Runtime)?;
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate()).map_err(WorkloadError::Runtime)?;
        let mut int = signal(SignalKind::interrupt()).map_err(WorkloadError::Runtime)?;
        let stop = async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        };
        run_driver(&load, log, stop).await.map(drop)
    })
}

/// Applies a load, on the current tokio runtime, until its duration is over or
/// `stop` resolves.
///
/// A request begun within the duration may end up to `timeout_ns` later; after
/// that the guests that left one unanswered are probed, for another
/// `timeout_ns`. An error means that this machine could not go on: the log then
/// has no last line.
pub async fn run_driver(
    load: &Config,
    log: &Path,
    stop: impl Future<Output = ()>,
) -> Result<DriverReport, WorkloadError> {
    validate(load)?;
    let log = LogWriter::create(log)?;
    let expected = Arc::new(Expected::for_bytes(load.hash_bytes));
    let start_ns = monotonic_ns();
    log.write(&LoadLogLine::Begin {
        format: LOG_FORMAT,
        start_ns,
        load: load.clone(),
    })?;
    let shared = Arc::new(Shared {
        log,
        load: Arc::new(load.clone()),
        expected,
        start_ns,
    });
    let (halt, halted) = watch::channel(false);
    let work = work(&shared, &halt, &halted);
    tokio::pin!(work, stop);
    let mut stop_seen = false;
    let verdicts = loop {
        tokio::select! {
            biased;
            result = &mut work => break result?,
            () = &mut stop, if !stop_seen => {
                stop_seen = true;
                let _ = halt.send(true);
            }
        }
    };
    shared.log.write(&LoadLogLine::End {
        end_ns: monotonic_ns(),
        requests: shared.log.requests(),
    })?;
    Ok(DriverReport {
        verdicts,
        stopped: stop_seen,
    })
}

/// The window, then the probes.
async fn work(
    shared: &Arc<Shared>,
    halt: &watch::Sender<bool>,
    halted: &Stop,
) -> Result<BTreeMap<Verdict, u64>, WorkloadError> {
    let mut verdicts = BTreeMap::new();
    let mut clients = JoinSet::new();
    // One stream, drawn from in the order of guests and clients.
    let mut random = ChaCha8Rng::seed_from_u64(shared.load.seed);
    let spread = START_SPREAD_NS.min(shared.load.duration_ns / 10).max(1);
    for target in 0..shared.load.targets.len() {
        for number in 0..shared.load.clients_per_guest {
            let offset_ns = random.next_u64() % spread;
            let client = Client::new(question(shared, target), number);
            let first_ns = shared.start_ns + offset_ns;
            clients.spawn(closed_loop(
                Arc::clone(shared),
                client,
                target,
                first_ns,
                halted.clone(),
            ));
        }
    }
    let unanswered = join(clients, halt, &mut verdicts).await?;
    if *halted.borrow() {
        return Ok(verdicts);
    }
    let mut probes = JoinSet::new();
    for &target in &unanswered {
        for number in 0..shared.load.probes {
            let number = shared.load.clients_per_guest.saturating_add(number);
            let client = Client::probe(question(shared, target), number);
            probes.spawn(probe(Arc::clone(shared), client, target, halted.clone()));
        }
    }
    join(probes, halt, &mut verdicts).await?;
    Ok(verdicts)
}

fn question(shared: &Shared, target: usize) -> Question {
    let target = &shared.load.targets[target];
    Question {
        guest: target.guest.clone(),
        addr: target.addr,
        load: Arc::clone(&shared.load),
        expected: Arc::clone(&shared.expected),
    }
}

/// What one client did.
struct Done {
    target: usize,
    verdicts: BTreeMap<Verdict, u64>,
    error: Option<WorkloadError>,
}

/// Waits for all; the first error stops the others. The targets that left a
/// request unanswered.
async fn join(
    mut clients: JoinSet<Done>,
    halt: &watch::Sender<bool>,
    verdicts: &mut BTreeMap<Verdict, u64>,
) -> Result<BTreeSet<usize>, WorkloadError> {
    let mut unanswered = BTreeSet::new();
    let mut first_error = None;
    while let Some(done) = clients.join_next().await {
        let done = done.map_err(|e| WorkloadError::Runtime(std::io::Error::other(e)))?;
        if done.verdicts.contains_key(&Verdict::ClientTimeout) {
            unanswered.insert(done.target);
        }
        for (verdict, count) in done.verdicts {
            *verdicts.entry(verdict).or_default() += count;
        }
        if let Some(error) = done.error {
            let _ = halt.send(true);
            first_error.get_or_insert(error);
        }
    }
    first_error.map_or(Ok(unanswered), Err)
}

/// One client: it asks, waits for the answer, thinks, and asks again.
async fn closed_loop(
    shared: Arc<Shared>,
    mut client: Client,
    target: usize,
    first_ns: u64,
    mut stop: Stop,
) -> Done {
    let mut done = Done {
        target,
        verdicts: BTreeMap::new(),
        error: None,
    };
    let until_ns = shared.start_ns.saturating_add(shared.load.duration_ns);
    let mut intended_ns = first_ns;
    for seq in 0.. {
        if intended_ns >= until_ns {
            break;
        }
        let wait = Duration::from_nanos(intended_ns.saturating_sub(monotonic_ns()));
        if !wait.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stopped(&mut stop) => break,
            }
        }
        if *stop.borrow() || monotonic_ns() >= until_ns {
            break;
        }
        let Some((verdict, end_ns)) =
            ask(&shared, &mut client, seq, intended_ns, &mut stop, &mut done).await
        else {
            break;
        };
        let pause_ns = match verdict {
            Verdict::ConnectionReset => shared.load.think_ns.max(PAUSE_NS),
            _ => shared.load.think_ns,
        };
        intended_ns = end_ns.saturating_add(pause_ns);
    }
    done
}

async fn probe(shared: Arc<Shared>, mut client: Client, target: usize, mut stop: Stop) -> Done {
    let mut done = Done {
        target,
        verdicts: BTreeMap::new(),
        error: None,
    };
    let now_ns = monotonic_ns();
    ask(&shared, &mut client, 0, now_ns, &mut stop, &mut done).await;
    done
}

/// Asks and logs; none when the client must end.
async fn ask(
    shared: &Shared,
    client: &mut Client,
    seq: u32,
    intended_ns: u64,
    stop: &mut Stop,
    done: &mut Done,
) -> Option<(Verdict, u64)> {
    let (record, failed) = client.ask(seq, intended_ns, stop).await;
    let (verdict, end_ns) = (record.verdict, record.end_ns);
    *done.verdicts.entry(verdict).or_default() += 1;
    done.error = shared.log.request(record).and(failed).err();
    (done.error.is_none() && verdict != Verdict::Unfinished).then_some((verdict, end_ns))
}
