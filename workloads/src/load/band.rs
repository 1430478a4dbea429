//! What golden runs lead to expect.

use super::log::LogReader;
use super::observe::{latency_histogram, record};
use crate::WorkloadError;
use std::collections::BTreeMap;
use std::path::PathBuf;
use xfi_model::{GoldenBand, LoadLogLine, ServiceObservation, Verdict};

/// The band that holds all the golden observations given, widened: a service is
/// outside it when it is `factor` times worse than the worst golden run, in
/// median latency, largest latency or throughput. None when no observation has
/// a right answer, for then there is nothing to compare with.
pub fn band<'a>(
    golden: impl IntoIterator<Item = &'a ServiceObservation>,
    factor: f64,
) -> Option<GoldenBand> {
    let mut p50_ns = 0;
    let mut max_ns = 0;
    let mut throughput_rps = f64::INFINITY;
    let mut seen = false;
    for service in golden {
        let Some(latency) = service.latency else {
            continue;
        };
        seen = true;
        p50_ns = p50_ns.max(latency.p50_ns);
        max_ns = max_ns.max(latency.max_ns);
        throughput_rps = throughput_rps.min(service.throughput_rps);
    }
    seen.then(|| GoldenBand {
        p50_max_ns: (p50_ns as f64 * factor) as u64,
        max_max_ns: (max_ns as f64 * factor) as u64,
        throughput_min_rps: throughput_rps / factor,
    })
}

/// [`band`] for each guest by itself, over any number of golden runs.
pub fn bands<'a>(
    golden: impl IntoIterator<Item = &'a ServiceObservation>,
    factor: f64,
) -> BTreeMap<String, GoldenBand> {
    let mut by_guest: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for service in golden {
        by_guest
            .entry(service.guest.clone())
            .or_default()
            .push(service);
    }
    by_guest
        .into_iter()
        .filter_map(|(guest, services)| Some((guest, band(services, factor)?)))
        .collect()
}

/// What a campaign's timings are derived from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calibration {
    /// Right answers counted, over all logs, guests and clients.
    pub answers: u64,
    /// Median latency from the intended start, nanoseconds.
    pub p50_ns: u64,
    /// 99.9th percentile of it; with less than a thousand answers, the largest.
    pub p999_ns: u64,
    /// Mean time from one request's start to the next one's at the same guest,
    /// nanoseconds, in the slowest run.
    pub period_ns: u64,
}

/// Measures golden runs from their drivers' logs, but for each client's first
/// request, which has a timeout of its own. An answer that is not
/// right is an error: such a run is not golden. Requests that the driver's end
/// cut short are left out.
pub fn calibrate(logs: &[PathBuf]) -> Result<Calibration, WorkloadError> {
    let mut latency = latency_histogram();
    let mut periods_ns = Vec::new();
    let mut largest_ns = 0;
    for path in logs {
        let mut starts: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for line in LogReader::open(path)? {
            let LoadLogLine::Request(request) = line? else {
                continue;
            };
            match request.verdict {
                Verdict::Correct if !request.probe => {}
                Verdict::Unfinished => continue,
                verdict => {
                    return Err(WorkloadError::GoldenNotRight {
                        path: path.clone(),
                        guest: request.guest,
                        verdict,
                        detail: request.detail,
                    });
                }
            }
            if request.seq == 0 {
                continue;
            }
            let latency_ns = request.end_ns.saturating_sub(request.intended_ns);
            largest_ns = largest_ns.max(latency_ns);
            record(&mut latency, latency_ns);
            starts
                .entry(request.guest)
                .or_default()
                .push(request.start_ns);
        }
        for starts in starts.into_values() {
            // The mean: clients of one guest tend to start in step, so that
            // most gaps are short and a few are long.
            let (Some(first), Some(last)) = (starts.iter().min(), starts.iter().max()) else {
                continue;
            };
            if let Some(period_ns) = (last - first).checked_div(starts.len() as u64 - 1) {
                periods_ns.push(period_ns);
            }
        }
    }
    if latency.is_empty() {
        return Err(WorkloadError::NoGoldenAnswer);
    }
    let p50_ns = latency.value_at_quantile(0.5).min(largest_ns);
    Ok(Calibration {
        answers: latency.len(),
        p50_ns,
        p999_ns: latency.value_at_quantile(0.999).min(largest_ns),
        // The slowest guest's: ten of its periods are ten of anybody's.
        period_ns: periods_ns.into_iter().max().unwrap_or(p50_ns),
    })
}
