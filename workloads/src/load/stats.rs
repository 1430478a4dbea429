//! What a load led to, in numbers whose size does not grow with it.

use super::observe::{latency_histogram, record};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use xfi_model::{LatencySummary, RequestRecord, Verdict};

/// How many of the answers that were not right a summary has whole; the log
/// has them all.
const KEPT: usize = 20;

/// A load, summarised.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadSummary {
    /// It was told to stop before its end.
    pub stopped: bool,
    /// From the load's start to its end, ramp-up and probes included;
    /// nanoseconds.
    pub elapsed_ns: u64,
    /// The measured window, as long as it got; nanoseconds.
    pub window_ns: u64,
    /// Each service.
    pub services: Vec<ServiceSummary>,
    /// What each client asked, probes not included.
    pub streams: Vec<ClientStream>,
    /// The first answers that were not right, in order of time, probes
    /// included.
    pub not_right: Vec<RequestRecord>,
}

impl LoadSummary {
    /// Requests by verdict, probes included.
    pub fn verdicts(&self) -> BTreeMap<Verdict, u64> {
        let mut all = BTreeMap::new();
        for service in &self.services {
            for (&verdict, &count) in service.verdicts.iter().chain(&service.probes) {
                *all.entry(verdict).or_default() += count;
            }
        }
        all
    }

    /// Requests that were judged and not right, probes included.
    pub fn wrong(&self) -> u64 {
        let verdicts = self.verdicts();
        let judged = verdicts
            .iter()
            .filter(|(v, _)| !matches!(v, Verdict::Correct | Verdict::Unfinished));
        judged.map(|(_, count)| count).sum()
    }
}

/// One service, summarised.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSummary {
    /// The guest.
    pub guest: String,
    /// Requests by verdict, those of the ramp-up included.
    pub verdicts: BTreeMap<Verdict, u64>,
    /// Probes by verdict.
    pub probes: BTreeMap<Verdict, u64>,
    /// Requests that an open loop meant to start within the window and could
    /// not, all clients being busy.
    pub unsent: u64,
    /// The window.
    pub measured: Measured,
    /// The window by operation; empty when there is only one.
    pub operations: Vec<OperationSummary>,
}

/// Requests meant to start within the window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// How many.
    pub requests: u64,
    /// Right answers a second that came within the window.
    pub right_per_s: f64,
    /// From the intended start to the end, failures and time-outs included.
    pub latency: Option<LatencySummary>,
    /// From the actual start to the end, likewise.
    pub service_time: Option<LatencySummary>,
}

/// One operation at one service.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationSummary {
    /// Its name.
    pub operation: String,
    /// The window.
    pub measured: Measured,
}

/// What one client asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientStream {
    /// The guest.
    pub guest: String,
    /// The client's number.
    pub client: u32,
    /// How many requests it made.
    pub requests: u32,
    /// SHA-256 of their bytes, each preceded by its length (64 bits, little
    /// end first).
    pub sha256: String,
}

/// How far a load is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Since the load's start, nanoseconds.
    pub elapsed_ns: u64,
    /// Ramp-up and window together, nanoseconds.
    pub total_ns: u64,
    /// Requests ended so far.
    pub requests: u64,
    /// Of these, judged and not right.
    pub wrong: u64,
    /// Since the progress before this one.
    pub last: Interval,
}

/// A stretch of a load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Requests ended in it.
    pub requests: u64,
    /// These a second.
    pub requests_per_s: f64,
    /// Median latency, nanoseconds.
    pub p50_ns: u64,
    /// 99th percentile, nanoseconds.
    pub p99_ns: u64,
}

/// The window's bounds, `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) from_ns: u64,
    pub(super) until_ns: u64,
}

/// A request that ended, for the statistics.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) service: usize,
    pub(super) operation: usize,
    pub(super) probe: bool,
    pub(super) verdict: Verdict,
    pub(super) intended_ns: u64,
    pub(super) start_ns: u64,
    pub(super) end_ns: u64,
}

/// All statistics of a load under way.
pub(super) struct Stats {
    window: Window,
    services: Vec<Service>,
    kept: Vec<RequestRecord>,
    requests: u64,
    wrong: u64,
    interval: Histogram<u64>,
    interval_from_ns: u64,
}

struct Service {
    verdicts: BTreeMap<Verdict, u64>,
    probes: BTreeMap<Verdict, u64>,
    unsent: u64,
    operations: Vec<Series>,
}

struct Series {
    right_in_window: u64,
    latency: Histogram<u64>,
    service_time: Histogram<u64>,
}

impl Series {
    fn new() -> Self {
        Series {
            right_in_window: 0,
            latency: latency_histogram(),
            service_time: latency_histogram(),
        }
    }

    fn add(&mut self, other: &Series) {
        self.right_in_window += other.right_in_window;
        // Both grow as needed.
        let _ = self.latency.add(&other.latency);
        let _ = self.service_time.add(&other.service_time);
    }

    fn measured(&self, window_ns: u64) -> Measured {
        Measured {
            requests: self.latency.len(),
            right_per_s: if window_ns == 0 {
                0.0
            } else {
                self.right_in_window as f64 * 1e9 / window_ns as f64
            },
            latency: percentiles(&self.latency),
            service_time: percentiles(&self.service_time),
        }
    }
}

/// A histogram's percentiles; none when it is empty.
pub(super) fn percentiles(histogram: &Histogram<u64>) -> Option<LatencySummary> {
    (!histogram.is_empty()).then(|| LatencySummary {
        count: histogram.len(),
        p50_ns: histogram.value_at_quantile(0.5),
        p90_ns: histogram.value_at_quantile(0.9),
        p99_ns: histogram.value_at_quantile(0.99),
        p999_ns: histogram.value_at_quantile(0.999),
        max_ns: histogram.max(),
    })
}

impl Stats {
    pub(super) fn new(window: Window, services: usize, operations: usize, now_ns: u64) -> Self {
        let service = || Service {
            verdicts: BTreeMap::new(),
            probes: BTreeMap::new(),
            unsent: 0,
            operations: (0..operations).map(|_| Series::new()).collect(),
        };
        Stats {
            window,
            services: (0..services).map(|_| service()).collect(),
            kept: Vec::new(),
            requests: 0,
            wrong: 0,
            interval: latency_histogram(),
            interval_from_ns: now_ns,
        }
    }

    pub(super) fn add(&mut self, ended: &Ended) {
        let service = &mut self.services[ended.service];
        let judged = ended.verdict != Verdict::Unfinished;
        let right = ended.verdict == Verdict::Correct;
        self.requests += 1;
        self.wrong += u64::from(judged && !right);
        if ended.probe {
            *service.probes.entry(ended.verdict).or_default() += 1;
            return;
        }
        *service.verdicts.entry(ended.verdict).or_default() += 1;
        if !judged {
            return;
        }
        let latency_ns = ended.end_ns.saturating_sub(ended.intended_ns);
        record(&mut self.interval, latency_ns);
        if ended.intended_ns < self.window.from_ns {
            return;
        }
        let series = &mut service.operations[ended.operation];
        record(&mut series.latency, latency_ns);
        record(
            &mut series.service_time,
            ended.end_ns.saturating_sub(ended.start_ns),
        );
        series.right_in_window += u64::from(right && ended.end_ns <= self.window.until_ns);
    }

    /// Keeps an answer that was not right, if there are few yet.
    pub(super) fn keep(&mut self, record: &RequestRecord) {
        if self.kept.len() < KEPT && record.verdict != Verdict::Unfinished {
            self.kept.push(record.clone());
        }
    }

    pub(super) fn unsent(&mut self, service: usize, count: u64) {
        self.services[service].unsent += count;
    }

    /// Whether a service left a request unanswered.
    pub(super) fn unanswered(&self, service: usize) -> bool {
        let verdicts = &self.services[service].verdicts;
        verdicts.contains_key(&Verdict::ClientTimeout)
    }

    pub(super) fn progress(&mut self, start_ns: u64, now_ns: u64) -> Progress {
        let seconds = now_ns.saturating_sub(self.interval_from_ns) as f64 / 1e9;
        let requests = self.interval.len();
        let last = Interval {
            requests,
            requests_per_s: requests as f64 / seconds.max(1e-9),
            p50_ns: self.interval.value_at_quantile(0.5),
            p99_ns: self.interval.value_at_quantile(0.99),
        };
        self.interval.reset();
        self.interval_from_ns = now_ns;
        Progress {
            elapsed_ns: now_ns.saturating_sub(start_ns),
            total_ns: self.window.until_ns.saturating_sub(start_ns),
            requests: self.requests,
            wrong: self.wrong,
            last,
        }
    }

    /// The services' summaries and the answers kept, for a window that lasted
    /// `window_ns`.
    pub(super) fn finish(
        mut self,
        guests: &[String],
        operations: &[String],
        window_ns: u64,
    ) -> (Vec<ServiceSummary>, Vec<RequestRecord>) {
        let services = self.services.iter().zip(guests).map(|(service, guest)| {
            let mut all = Series::new();
            for series in &service.operations {
                all.add(series);
            }
            let parts = operations.iter().zip(&service.operations);
            let parts = parts.map(|(name, series)| OperationSummary {
                operation: name.clone(),
                measured: series.measured(window_ns),
            });
            ServiceSummary {
                guest: guest.clone(),
                verdicts: service.verdicts.clone(),
                probes: service.probes.clone(),
                unsent: service.unsent,
                measured: all.measured(window_ns),
                operations: if operations.len() > 1 {
                    parts.collect()
                } else {
                    Vec::new()
                },
            }
        });
        let services = services.collect();
        self.kept.sort_by_key(|r| (r.end_ns, r.start_ns));
        (services, self.kept)
    }
}
