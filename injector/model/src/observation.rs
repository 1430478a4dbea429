//! What was seen during one run; all that the classifier may look at.

use crate::{DomId, RequestRecord, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything observed in one run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Observations {
    /// Each service's clients' view, one entry a guest.
    pub services: Vec<ServiceObservation>,
    /// The host's view.
    pub host: HostObservation,
    /// `CLOCK_MONOTONIC` when the load started.
    pub load_start_ns: u64,
    /// `CLOCK_MONOTONIC` of the flip (or of the drawn moment in a golden run,
    /// or of the last sign of life before a host that died unheard).
    pub flip_ns: Option<u64>,
    /// The observation window after the flip, nanoseconds.
    pub window_ns: u64,
}

/// What one guest's clients saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceObservation {
    /// The guest.
    pub guest: String,
    /// Whether the fault was in this guest.
    pub is_target: bool,
    /// Answers that were complete before the flip, by verdict.
    pub before_flip: BTreeMap<Verdict, u64>,
    /// Answers after the flip, by verdict; probes not included.
    pub after_flip: BTreeMap<Verdict, u64>,
    /// Latency of right answers after the flip.
    pub latency: Option<LatencySummary>,
    /// Right answers a second after the flip.
    pub throughput_rps: f64,
    /// Every answer that was not right, whole, in order of time.
    pub not_right: Vec<RequestRecord>,
    /// Probes sent after the window, and how many were answered at all.
    pub probes_sent: u32,
    /// See `probes_sent`.
    pub probes_answered: u32,
    /// The TCP connections' fate as recorded at the emulated NIC.
    pub tcp: Option<TcpObservation>,
    /// What golden runs led to expect.
    pub golden_band: Option<GoldenBand>,
    /// The driver's log ended before its last line.
    #[serde(default)]
    pub log_cut_off: bool,
}

/// Percentiles of latency from the intended start, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// Answers counted.
    pub count: u64,
    /// Median.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// 99.9th percentile.
    pub p999_ns: u64,
    /// Largest.
    pub max_ns: u64,
}

/// Packets of one guest's service seen at the NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TcpObservation {
    /// TCP segments in both directions.
    pub packets: u64,
    /// Segments with RST sent by the guest.
    pub rst_from_guest: u64,
    /// Segments with RST sent towards the guest.
    pub rst_to_guest: u64,
    /// Segments with FIN sent by the guest.
    pub fin_from_guest: u64,
    /// Segments whose sequence range had been seen before, from the guest.
    pub retransmitted_from_guest: u64,
    /// The same, towards the guest.
    pub retransmitted_to_guest: u64,
}

/// The range in which golden runs' services lay, widened as the campaign asks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GoldenBand {
    /// A median latency above this is `degraded`.
    pub p50_max_ns: u64,
    /// A largest latency above this is `degraded`.
    pub max_max_ns: u64,
    /// A throughput below this is `degraded`.
    pub throughput_min_rps: f64,
}

/// The host's state over the run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct HostObservation {
    /// The integrity test's result; none when no answer came in time.
    pub integrity: Option<IntegrityResult>,
    /// Whether dom0 answered a ping; recorded, not trusted.
    pub ping_answered: Option<bool>,
    /// First line of a Xen or dom0 panic on the serial console.
    pub panic_line: Option<String>,
    /// Lines of the console around the panic.
    #[serde(default)]
    pub panic_context: Vec<String>,
    /// `CLOCK_MONOTONIC` when the panic was seen.
    pub panic_ns: Option<u64>,
    /// QEMU reported a reset or shutdown that the guest caused.
    pub guest_reset: bool,
    /// Every domain's state at the end.
    #[serde(default)]
    pub domains: Vec<DomainInfo>,
    /// Lines that Xen wrote during the run (its console ring).
    #[serde(default)]
    pub xen_log: Vec<String>,
}

/// The host integrity test (thesis §4.2): small commands with known answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrityResult {
    /// Each check.
    pub checks: Vec<IntegrityCheck>,
    /// How long the whole test took in dom0, nanoseconds.
    pub took_ns: u64,
}

impl IntegrityResult {
    /// Whether every check got its known answer.
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|c| c.passed)
    }
}

/// One check of the integrity test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrityCheck {
    /// `read-file`, `uname`, `ls`.
    pub name: String,
    /// Whether the answer was the known one.
    pub passed: bool,
    /// What came instead, when it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A domain as the host sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainInfo {
    /// Its id; none when it is defined but not running.
    pub domid: Option<DomId>,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: DomainState,
    /// PV, HVM or PVH, when known.
    pub kind: Option<crate::GuestKind>,
    /// vCPUs.
    pub vcpus: u32,
    /// Memory, KiB.
    pub memory_kib: u64,
}

/// A domain's life-cycle state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DomainState {
    /// Alive: running or blocked.
    Running,
    /// Paused.
    Paused,
    /// Shutting down or shut off.
    Shutoff,
    /// It crashed.
    Crashed,
    /// Dying, but not gone.
    Dying,
    /// None of the above.
    Unknown,
}
