//! A load's summary, as printed.

use crate::output;
use comfy_table::CellAlignment;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;
use xfi_model::{LatencySummary, LoadModel, Pacing, RequestRecord, ThinkTime};
use xfi_workloads::load::{LoadSummary, Measured};

/// What `xfi workload … --output json` prints. The committed schema is
/// `docs/schema/workload.json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct WorkloadView {
    /// The format's version; 1.
    format: u32,
    /// The kind of workload, such as `http`.
    workload: String,
    /// What was asked, such as a URL.
    what: String,
    /// The load.
    load: LoadView,
    /// It was interrupted.
    interrupted: bool,
    /// From start to end, ramp-up and probes included; nanoseconds.
    elapsed_ns: u64,
    /// What was measured, nanoseconds.
    window_ns: u64,
    /// Requests by verdict, probes and those of the ramp-up included.
    verdicts: BTreeMap<String, u64>,
    /// Requests that were judged and not right.
    wrong: u64,
    /// Each service.
    services: Vec<ServiceView>,
    /// What each client asked.
    streams: Vec<StreamView>,
    /// The first answers that were not right; --log has them all, whole.
    not_right: Vec<NotRightView>,
}

/// How much load, and when.
#[derive(Debug, Serialize, JsonSchema)]
struct LoadView {
    /// The profile it was made from.
    profile: Option<String>,
    /// Clients of each service.
    clients: u32,
    /// `closed` or `open`.
    loop_kind: String,
    /// Closed loop: from an answer to the next request, nanoseconds.
    think_ns: Option<u64>,
    /// Closed loop: `fixed` or `exponential`.
    think_distribution: Option<String>,
    /// Open loop: requests a second at each service.
    rate_per_s: Option<f64>,
    /// The ramp-up, nanoseconds.
    ramp_up_ns: u64,
    /// The client time-out, nanoseconds.
    timeout_ns: u64,
    /// By what factor the profile's times were stretched.
    time_scale: f64,
    /// The seed.
    seed: u64,
}

/// One service.
#[derive(Debug, Serialize, JsonSchema)]
struct ServiceView {
    /// Its name.
    name: String,
    /// All operations together.
    #[serde(flatten)]
    measured: MeasuredView,
    /// Open loop: requests that could not be begun within the window, all
    /// clients being busy.
    unsent: u64,
    /// Each operation, when there are several.
    operations: Vec<OperationView>,
}

/// One operation.
#[derive(Debug, Serialize, JsonSchema)]
struct OperationView {
    /// Its name.
    operation: String,
    /// What was measured of it.
    #[serde(flatten)]
    measured: MeasuredView,
}

/// Requests meant to start within the window.
#[derive(Debug, Serialize, JsonSchema)]
struct MeasuredView {
    /// How many.
    requests: u64,
    /// Right answers a second that came within the window.
    right_per_s: f64,
    /// From the intended start to the end, failures included.
    latency: Option<LatencyView>,
    /// From the actual start to the end, failures included.
    service_time: Option<LatencyView>,
}

/// Percentiles, nanoseconds.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
struct LatencyView {
    /// The median.
    p50_ns: u64,
    /// 90 %.
    p90_ns: u64,
    /// 99 %.
    p99_ns: u64,
    /// 99.9 %.
    p999_ns: u64,
    /// The largest.
    max_ns: u64,
}

/// What one client asked: equal for equal seeds, as far as it got.
#[derive(Debug, Serialize, JsonSchema)]
struct StreamView {
    /// The service.
    service: String,
    /// The client's number.
    client: u32,
    /// Its requests.
    requests: u32,
    /// SHA-256 of them.
    sha256: String,
}

/// An answer that was not right.
#[derive(Debug, Serialize, JsonSchema)]
struct NotRightView {
    /// The service.
    service: String,
    /// The client's number.
    client: u32,
    /// The request's number within its client, from 0.
    request: u32,
    /// It was a probe after the window.
    probe: bool,
    /// The operation, when there are several.
    operation: Option<String>,
    /// What was asked, when that differs from request to request.
    asked: Option<String>,
    /// The verdict.
    verdict: String,
    /// What was wrong.
    detail: Option<String>,
}

impl WorkloadView {
    pub(super) fn of(kind: &str, what: &str, load: &LoadModel, summary: &LoadSummary) -> Self {
        let (think, rate_per_s) = match load.pacing {
            Pacing::Closed {
                think_ns,
                distribution,
            } => (Some((think_ns, distribution)), None),
            Pacing::Open { rate_per_s } => (None, Some(rate_per_s)),
        };
        WorkloadView {
            format: 1,
            workload: kind.to_owned(),
            what: what.to_owned(),
            load: LoadView {
                profile: load.profile.clone(),
                clients: load.clients,
                loop_kind: if think.is_some() { "closed" } else { "open" }.to_owned(),
                think_ns: think.map(|(ns, _)| ns),
                think_distribution: think.map(|(_, d)| output::word(&d)),
                rate_per_s,
                ramp_up_ns: load.ramp_up_ns,
                timeout_ns: load.timeout_ns,
                time_scale: load.time_scale,
                seed: load.seed,
            },
            interrupted: summary.stopped,
            elapsed_ns: summary.elapsed_ns,
            window_ns: summary.window_ns,
            verdicts: summary
                .verdicts()
                .iter()
                .map(|(verdict, count)| (output::word(verdict), *count))
                .collect(),
            wrong: summary.wrong(),
            services: summary.services.iter().map(ServiceView::of).collect(),
            streams: summary
                .streams
                .iter()
                .map(|s| StreamView {
                    service: s.guest.clone(),
                    client: s.client,
                    requests: s.requests,
                    sha256: s.sha256.clone(),
                })
                .collect(),
            not_right: summary.not_right.iter().map(NotRightView::of).collect(),
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}: {}\n", self.what, self.load.text());
        let window = output::duration(self.window_ns);
        text += &format!("measured for {window}, latency from the intended start\n");
        let mut table = output::table(&[
            "SERVICE", "REQUESTS", "RIGHT/S", "P50", "P90", "P99", "P99.9", "MAX",
        ]);
        for service in &self.services {
            table.add_row(service.measured.row(&service.name));
            for part in &service.operations {
                table.add_row(part.measured.row(&format!("  {}", part.operation)));
            }
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        text += &output::text_of(&table);
        let verdicts: Vec<_> = self
            .verdicts
            .iter()
            .map(|(verdict, count)| format!("{verdict} {count}"))
            .collect();
        text += &format!("\nverdicts: {}", verdicts.join(", "));
        let unsent: u64 = self.services.iter().map(|s| s.unsent).sum();
        if unsent > 0 {
            text += &format!("\nnot begun in time, all clients being busy: {unsent}");
        }
        for wrong in self.not_right.iter().take(5) {
            text += &format!("\n{}", wrong.text());
        }
        text
    }
}

impl LoadView {
    fn text(&self) -> String {
        let mut text = match &self.profile {
            Some(name) => format!("{name}, "),
            None => String::new(),
        };
        text += &format!("{} clients, ", self.clients);
        text += &match (self.think_ns, self.rate_per_s) {
            (_, Some(rate)) => format!("open loop at {rate} a second"),
            (think_ns, None) => {
                let exponential = output::word(&ThinkTime::Exponential);
                let mean = match &self.think_distribution {
                    Some(d) if *d == exponential => " on average",
                    _ => "",
                };
                let think = output::duration(think_ns.unwrap_or_default());
                format!("{think}{mean} between an answer and the next request")
            }
        };
        if self.time_scale != 1.0 {
            text += &format!(", times stretched by {}", self.time_scale);
        }
        text
    }
}

impl ServiceView {
    fn of(s: &xfi_workloads::load::ServiceSummary) -> Self {
        ServiceView {
            name: s.guest.clone(),
            measured: MeasuredView::of(&s.measured),
            unsent: s.unsent,
            operations: s
                .operations
                .iter()
                .map(|o| OperationView {
                    operation: o.operation.clone(),
                    measured: MeasuredView::of(&o.measured),
                })
                .collect(),
        }
    }
}

impl MeasuredView {
    fn of(m: &Measured) -> Self {
        MeasuredView {
            requests: m.requests,
            right_per_s: m.right_per_s,
            latency: m.latency.map(LatencyView::of),
            service_time: m.service_time.map(LatencyView::of),
        }
    }

    fn row(&self, name: &str) -> Vec<String> {
        let mut row = vec![
            name.to_owned(),
            self.requests.to_string(),
            format!("{:.1}", self.right_per_s),
        ];
        row.extend(match self.latency {
            Some(l) => [l.p50_ns, l.p90_ns, l.p99_ns, l.p999_ns, l.max_ns].map(output::duration),
            None => ["-"; 5].map(str::to_owned),
        });
        row
    }
}

impl LatencyView {
    fn of(l: LatencySummary) -> Self {
        LatencyView {
            p50_ns: l.p50_ns,
            p90_ns: l.p90_ns,
            p99_ns: l.p99_ns,
            p999_ns: l.p999_ns,
            max_ns: l.max_ns,
        }
    }
}

impl NotRightView {
    fn of(r: &RequestRecord) -> Self {
        NotRightView {
            service: r.guest.clone(),
            client: r.client,
            request: r.seq,
            probe: r.probe,
            operation: r.operation.clone(),
            asked: r.request.clone(),
            verdict: output::word(&r.verdict),
            detail: r.detail.clone(),
        }
    }

    fn text(&self) -> String {
        let probe = if self.probe { "probe, " } else { "" };
        let mut text = format!(
            "  {probe}{}, client {}, request {}: {}",
            self.service, self.client, self.request, self.verdict
        );
        for more in [&self.detail, &self.asked].into_iter().flatten() {
            text += &format!(": {more}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_schema_is_the_one_of_the_code() {
        output::check_schema("workload", &schemars::schema_for!(WorkloadView));
    }
}
