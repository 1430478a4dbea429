//! From a driver's log to what the classifier reads.

use super::log::LogReader;
use crate::WorkloadError;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;
use xfi_model::{
    GoldenBand, LatencySummary, LoadLogLine, RequestRecord, ServiceObservation, TcpObservation,
    Verdict,
};

/// What is known of a guest's service besides the log.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceContext {
    /// The guest.
    pub guest: String,
    /// Whether the fault was in it.
    pub is_target: bool,
    /// What golden runs led to expect.
    pub band: Option<GoldenBand>,
    /// Its packets at the emulated NIC.
    pub tcp: Option<TcpObservation>,
}

/// A log, summarised.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// `CLOCK_MONOTONIC` of the load's start; none when not even the first
    /// line was written.
    pub start_ns: Option<u64>,
    /// Each guest, in the order asked for.
    pub services: Vec<ServiceObservation>,
    /// Requests that the driver's end cut short; they are counted nowhere else.
    pub unfinished: u64,
    /// The log lacks its last line.
    pub cut_off: bool,
}

/// Reads a driver's log and splits it at the flip (`CLOCK_MONOTONIC`; without
/// one, at the load's start). `window_ns` is W.
///
/// * A request that ended before the flip is `before_flip`.
/// * Any other that started before the window's end is `after_flip`, whenever
///   it ended; one that started later is left out.
/// * Latency is that of the right answers of `after_flip`; throughput counts
///   the right answers that ended within the window.
/// * `not_right` has every judged request that was not right, before or after
///   the flip, and the probes that got a wrong answer; probes without one are
///   only counted.
/// * A probe is `answered` when an answer came, right or wrong; a refusal, a
///   reset or silence is none.
///
/// Requests to guests that `services` does not name are left out.
pub fn summarise(
    log: &Path,
    flip_ns: Option<u64>,
    window_ns: u64,
    services: &[ServiceContext],
) -> Result<Summary, WorkloadError> {
    summarise_log(&mut LogReader::open(log)?, flip_ns, window_ns, services)
}

/// [`summarise`] of a log that is being read.
fn summarise_log(
    log: &mut LogReader<impl BufRead>,
    flip_ns: Option<u64>,
    window_ns: u64,
    services: &[ServiceContext],
) -> Result<Summary, WorkloadError> {
    let mut states: BTreeMap<&str, State> = services
        .iter()
        .map(|s| (s.guest.as_str(), State::new(s)))
        .collect();
    let mut start_ns = None;
    let mut unfinished = 0;
    for line in log.by_ref() {
        match line? {
            LoadLogLine::Begin { start_ns: at, .. } => start_ns = Some(at),
            LoadLogLine::End { .. } => {}
            LoadLogLine::Request(r) if r.verdict == Verdict::Unfinished => unfinished += 1,
            LoadLogLine::Request(r) => {
                let from_ns = flip_ns.or(start_ns).unwrap_or_default();
                let until_ns = from_ns.saturating_add(window_ns);
                if let Some(state) = states.get_mut(r.guest.as_str()) {
                    state.add(r, from_ns, until_ns);
                }
            }
        }
    }
    let cut_off = log.cut_off();
    let services = services
        .iter()
        .filter_map(|s| states.remove(s.guest.as_str()))
        .map(|state| state.finish(window_ns, cut_off))
        .collect();
    Ok(Summary {
        start_ns,
        services,
        unfinished,
        cut_off,
    })
}

/// A histogram of nanoseconds, three significant digits, that grows as needed.
pub(super) fn latency_histogram() -> Histogram<u64> {
    match Histogram::new(3) {
        Ok(histogram) => histogram,
        Err(_) => unreachable!("three digits are allowed"),
    }
}

/// Records one value; none is too large for a histogram that grows.
pub(super) fn record(histogram: &mut Histogram<u64>, value_ns: u64) {
    // Beyond a day a value is a broken clock's, and would only cost memory.
    let _ = histogram.record(value_ns.min(86_400_000_000_000));
}

struct State {
    observed: ServiceObservation,
    latency: Histogram<u64>,
    max_ns: u64,
    right_in_window: u64,
}

impl State {
    fn new(context: &ServiceContext) -> Self {
        State {
            observed: ServiceObservation {
                guest: context.guest.clone(),
                is_target: context.is_target,
                before_flip: BTreeMap::new(),
                after_flip: BTreeMap::new(),
                latency: None,
                throughput_rps: 0.0,
                not_right: Vec::new(),
                probes_sent: 0,
                probes_answered: 0,
                tcp: context.tcp,
                golden_band: context.band,
                log_cut_off: false,
            },
            latency: latency_histogram(),
            max_ns: 0,
            right_in_window: 0,
        }
    }

    fn add(&mut self, request: RequestRecord, from_ns: u64, until_ns: u64) {
        let right = request.verdict == Verdict::Correct;
        let answered = !matches!(
            request.verdict,
            Verdict::ConnectionReset | Verdict::ClientTimeout
        );
        let seen = &mut self.observed;
        if request.probe {
            seen.probes_sent += 1;
            seen.probes_answered += u32::from(answered);
            if answered && !right {
                seen.not_right.push(request);
            }
            return;
        }
        if request.end_ns < from_ns {
            *seen.before_flip.entry(request.verdict).or_default() += 1;
        } else if request.start_ns < until_ns {
            *seen.after_flip.entry(request.verdict).or_default() += 1;
            if right {
                let latency_ns = request.end_ns.saturating_sub(request.intended_ns);
                record(&mut self.latency, latency_ns);
                self.max_ns = self.max_ns.max(latency_ns);
                self.right_in_window += u64::from(request.end_ns < until_ns);
            }
        } else {
            return;
        }
        if !right {
            seen.not_right.push(request);
        }
    }

    fn finish(mut self, window_ns: u64, cut_off: bool) -> ServiceObservation {
        let seen = &mut self.observed;
        if window_ns > 0 {
            seen.throughput_rps = self.right_in_window as f64 * 1e9 / window_ns as f64;
        }
        // A bucket's upper edge may lie above the largest value in it.
        let quantile = |q| self.latency.value_at_quantile(q).min(self.max_ns);
        seen.latency = (!self.latency.is_empty()).then(|| LatencySummary {
            count: self.latency.len(),
            p50_ns: quantile(0.5),
            p90_ns: quantile(0.9),
            p99_ns: quantile(0.99),
            p999_ns: quantile(0.999),
            max_ns: self.max_ns,
        });
        seen.not_right.sort_by_key(|r| (r.end_ns, r.start_ns));
        seen.log_cut_off = cut_off;
        self.observed
    }
}
