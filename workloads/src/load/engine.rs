//! Clients on one thread that ask, wait and are written down.

use super::log::{HELD_NS, LOG_FORMAT, LogWriter, Right};
use super::model::validate_model;
use super::pace::{Alarm, Schedule, streams};
use super::stats::{Ended, Stats, Window};
use super::{
    Abandoned, Client, ClientId, ClientStream, LoadSummary, Performed, Progress, Workload,
};
use crate::hex::hex;
use crate::{WorkloadError, monotonic_ns};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use xfi_model::{LoadLogLine, LoadModel, RequestRecord, Verdict};

/// Tells the clients to stop at once.
type Stop = watch::Receiver<bool>;

struct Shared {
    log: LogWriter,
    load: LoadModel,
    guests: Vec<String>,
    operations: Vec<String>,
    start_ns: u64,
    window: Window,
    stats: Mutex<Stats>,
}

impl Shared {
    fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Applies a load, on the current tokio runtime, until it is over or `stop`
/// resolves; then requests under way are logged as `unfinished`. `observe` is
/// told of the progress once a second.
///
/// A request begun within the window may end up to a time-out later; after that
/// the services that left one unanswered are probed, for another time-out.
///
/// # Errors
/// A load that cannot be applied, or that this machine cannot go on with: the
/// log then has no last line.
pub async fn run<W: Workload>(
    workload: &W,
    load: &LoadModel,
    log: Option<&Path>,
    stop: impl Future<Output = ()>,
    mut observe: impl FnMut(&Progress),
) -> Result<LoadSummary, WorkloadError> {
    let guests = workload.services();
    let operations = workload.operations();
    validate_model(load, guests.len())?;
    let start_ns = monotonic_ns();
    let from_ns = start_ns.saturating_add(load.ramp_up_ns);
    let window = Window {
        from_ns,
        until_ns: from_ns.saturating_add(load.duration_ns),
    };
    let log = LogWriter::create(log, start_ns)?;
    log.write(&LoadLogLine::Begin {
        format: LOG_FORMAT,
        start_ns,
        workload: workload.kind().to_owned(),
        services: guests.clone(),
        operations: operations.clone(),
        load: load.clone(),
    })?;
    let stats = Stats::new(window, guests.len(), operations.len(), start_ns);
    let shared = Arc::new(Shared {
        log,
        load: load.clone(),
        guests,
        operations,
        start_ns,
        window,
        stats: Mutex::new(stats),
    });
    let (halt, halted) = watch::channel(false);
    let work = work(workload, &shared, &halt, &halted);
    tokio::pin!(work, stop);
    let mut stopped = false;
    let mut second = ticks(Duration::from_secs(1));
    let mut flush = ticks(Duration::from_nanos(HELD_NS));
    let (streams, window_end_ns) = loop {
        tokio::select! {
            biased;
            result = &mut work => break result?,
            () = &mut stop, if !stopped => {
                stopped = true;
                let _ = halt.send(true);
            }
            _ = second.tick() => {
                observe(&shared.stats().progress(start_ns, monotonic_ns()));
            }
            _ = flush.tick() => shared.log.flush()?,
        }
    };
    let end_ns = monotonic_ns();
    shared.log.write(&LoadLogLine::End {
        end_ns,
        requests: shared.log.requests(),
    })?;
    let window_ns = window_end_ns.saturating_sub(from_ns);
    let empty = Stats::new(window, 0, 0, end_ns);
    let stats = std::mem::replace(&mut *shared.stats(), empty);
    let (services, not_right) = stats.finish(&shared.guests, &shared.operations, window_ns);
    Ok(LoadSummary {
        stopped,
        elapsed_ns: end_ns - start_ns,
        window_ns,
        services,
        streams,
        not_right,
    })
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    ticks
}

/// The window, then the probes. What was asked, and when the window ended.
async fn work<W: Workload>(
    workload: &W,
    shared: &Arc<Shared>,
    halt: &watch::Sender<bool>,
    halted: &Stop,
) -> Result<(Vec<ClientStream>, u64), WorkloadError> {
    let mut clients = JoinSet::new();
    for service in 0..shared.guests.len() {
        for number in 0..shared.load.clients {
            let id = ClientId {
                service,
                number,
                probe: false,
            };
            let (what, when) = streams(shared.load.seed, service, number);
            let one = One {
                shared: Arc::clone(shared),
                id,
                client: workload.client(id)?,
                random: what,
                asked: Sha256::new(),
                stop: halted.clone(),
            };
            let schedule = Schedule::new(&shared.load, when, shared.start_ns);
            clients.spawn(one.all(schedule));
        }
    }
    let mut streams = join(clients, halt).await?;
    let window_end_ns = monotonic_ns().min(shared.window.until_ns);
    streams.sort_by(|a, b| (&a.guest, a.client).cmp(&(&b.guest, b.client)));
    if *halted.borrow() {
        return Ok((streams, window_end_ns));
    }
    let mut probes = JoinSet::new();
    for service in 0..shared.guests.len() {
        if !shared.stats().unanswered(service) {
            continue;
        }
        for number in 0..shared.load.probes {
            let number = shared.load.clients.saturating_add(number);
            let id = ClientId {
                service,
                number,
                probe: true,
            };
            let one = One {
                shared: Arc::clone(shared),
                id,
                client: workload.client(id)?,
                random: self::streams(shared.load.seed, service, number).0,
                asked: Sha256::new(),
                stop: halted.clone(),
            };
            probes.spawn(one.probe());
        }
    }
    join(probes, halt).await?;
    Ok((streams, window_end_ns))
}

/// Waits for all; the first error stops the others.
async fn join(
    mut clients: JoinSet<Result<ClientStream, WorkloadError>>,
    halt: &watch::Sender<bool>,
) -> Result<Vec<ClientStream>, WorkloadError> {
    let mut streams = Vec::new();
    let mut first_error = None;
    while let Some(done) = clients.join_next().await {
        let done = done.map_err(|e| WorkloadError::Runtime(io::Error::other(e)))?;
        match done {
            Ok(stream) => streams.push(stream),
            Err(error) => {
                let _ = halt.send(true);
                first_error.get_or_insert(error);
            }
        }
    }
    first_error.map_or(Ok(streams), Err)
}

/// One client under way.
struct One<C: Client> {
    shared: Arc<Shared>,
    id: ClientId,
    client: C,
    random: ChaCha8Rng,
    asked: Sha256,
    stop: Stop,
}

impl<C: Client> One<C> {
    /// It waits for its moment, asks, and so on until the window's end.
    async fn all(mut self, mut schedule: Schedule) -> Result<ClientStream, WorkloadError> {
        let until_ns = self.shared.window.until_ns;
        let most = self.shared.load.requests_per_client.unwrap_or(u32::MAX);
        let mut alarm = Alarm::new();
        let mut seq = 0;
        while seq < most && schedule.next_ns() < until_ns {
            let intended_ns = schedule.next_ns();
            tokio::select! {
                biased;
                () = stopped(&mut self.stop) => return Ok(self.stream(seq)),
                woken = alarm.sleep_until(intended_ns) => woken.map_err(WorkloadError::Runtime)?,
            }
            if monotonic_ns() >= until_ns {
                let unsent = schedule.unsent(until_ns);
                self.shared.stats().unsent(self.id.service, unsent);
                break;
            }
            let Some(request) = self.client.next(seq, &mut self.random) else {
                break;
            };
            let (verdict, end_ns) = self.ask(&request, seq, intended_ns).await?;
            seq += 1;
            if verdict == Verdict::Unfinished {
                break;
            }
            schedule.advance(end_ns, verdict == Verdict::ConnectionReset);
        }
        Ok(self.stream(seq))
    }

    async fn probe(mut self) -> Result<ClientStream, WorkloadError> {
        if let Some(request) = self.client.next(0, &mut self.random) {
            self.ask(&request, 0, monotonic_ns()).await?;
        }
        Ok(self.stream(1))
    }

    fn stream(self, requests: u32) -> ClientStream {
        ClientStream {
            guest: self.shared.guests[self.id.service].clone(),
            client: self.id.number,
            requests,
            sha256: hex(&self.asked.finalize()),
        }
    }

    /// Asks once and writes it down.
    async fn ask(
        &mut self,
        request: &C::Request,
        seq: u32,
        intended_ns: u64,
    ) -> Result<(Verdict, u64), WorkloadError> {
        {
            let bytes = self.client.bytes(request);
            self.asked.update((bytes.len() as u64).to_le_bytes());
            self.asked.update(&bytes);
        }
        let load = &self.shared.load;
        let patience = Duration::from_nanos(if seq == 0 && !self.id.probe {
            load.first_timeout_ns.max(load.timeout_ns)
        } else {
            load.timeout_ns
        });
        let start_ns = monotonic_ns();
        let given_up = tokio::select! {
            biased;
            ended = timeout(patience, self.client.perform(request)) => match ended {
                Ok(performed) => Ok(performed),
                Err(_) => Err(Abandoned::TimedOut),
            },
            () = stopped(&mut self.stop) => Err(Abandoned::Stopped),
        };
        let (performed, failed) = match given_up {
            Ok(Ok(performed)) => (performed, None),
            Ok(Err(error)) => (
                Performed::wrong(Verdict::Unfinished, error.to_string()),
                Some(error),
            ),
            Err(why) => {
                let verdict = match why {
                    Abandoned::TimedOut => Verdict::ClientTimeout,
                    Abandoned::Stopped => Verdict::Unfinished,
                };
                let performed = self.client.abandon(why);
                (
                    Performed {
                        verdict,
                        ..performed
                    },
                    None,
                )
            }
        };
        let end_ns = performed.end_ns.unwrap_or_else(monotonic_ns);
        let operation = self.client.operation(request);
        let ended = Ended {
            service: self.id.service,
            operation,
            probe: self.id.probe,
            verdict: performed.verdict,
            intended_ns,
            start_ns,
            end_ns,
        };
        self.write_down(request, seq, &ended, performed)?;
        failed.map_or(Ok((ended.verdict, end_ns)), Err)
    }

    fn write_down(
        &self,
        request: &C::Request,
        seq: u32,
        ended: &Ended,
        performed: Performed,
    ) -> Result<(), WorkloadError> {
        let shared = &self.shared;
        if ended.verdict == Verdict::Correct && !ended.probe {
            shared.stats().add(ended);
            return shared.log.right(&Right {
                service: ended.service,
                operation: ended.operation,
                client: self.id.number,
                seq,
                intended_ns: ended.intended_ns,
                start_ns: ended.start_ns,
                end_ns: ended.end_ns,
                bytes: performed.bytes,
                status: performed.status,
                local_port: performed.local_port,
            });
        }
        let answer = performed.answer.filter(|a| !a.is_empty());
        let utf8 = answer.as_deref().is_none_or(|a| str::from_utf8(a).is_ok());
        let record = RequestRecord {
            guest: shared.guests[ended.service].clone(),
            client: self.id.number,
            seq,
            operation: (shared.operations.len() > 1)
                .then(|| shared.operations[ended.operation].clone()),
            probe: ended.probe,
            intended_ns: ended.intended_ns,
            start_ns: ended.start_ns,
            end_ns: ended.end_ns,
            request: self.client.describe(request),
            bytes: performed.bytes,
            status: performed.status,
            verdict: ended.verdict,
            reset_cause: performed.reset_cause,
            detail: performed.detail,
            answer: answer
                .as_deref()
                .map(|a| String::from_utf8_lossy(a).into_owned()),
            answer_hex: answer.as_deref().filter(|_| !utf8).map(hex),
            local_port: performed.local_port,
        };
        {
            let mut stats = shared.stats();
            stats.add(ended);
            if record.verdict != Verdict::Correct {
                stats.keep(&record);
            }
        }
        shared.log.write(&LoadLogLine::Request(record))
    }
}

/// Resolves when the load must stop at once.
async fn stopped(stop: &mut Stop) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // Nobody is left who could tell us to.
        std::future::pending::<()>().await;
    }
}
