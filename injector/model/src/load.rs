//! What a load driver is told, and the log it writes.
//!
//! A driver is a process of its own: it reads one JSON [`LoadSpec`] from a
//! file, applies the load, and writes a log of [`LoadLogLine`]s. It judges each
//! answer; it knows nothing of faults.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// How much load, and when: shared by all workloads. All times are as they
/// are applied, after scaling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadModel {
    /// The profile it was made from, such as `full-load`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Clients of each service; one has at most one request under way.
    pub clients: u32,
    /// When a client asks.
    pub pacing: Pacing,
    /// The clients begin at random moments of this long, which is not
    /// measured; nanoseconds.
    pub ramp_up_ns: u64,
    /// The measured window after it, in which requests are begun; nanoseconds.
    pub duration_ns: u64,
    /// A client ends after this many requests, if it gets that far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_client: Option<u32>,
    /// How long a client waits for an answer, nanoseconds.
    pub timeout_ns: u64,
    /// How long each client waits for its first answer, when that is longer
    /// than `timeout_ns`: a restored emulator translates the server's code
    /// anew for it.
    #[serde(default)]
    pub first_timeout_ns: u64,
    /// After the window, services with an unanswered request are probed by
    /// this many fresh clients, each for one `timeout_ns`: it separates `hang`
    /// from `client_timeout`.
    #[serde(default)]
    pub probes: u32,
    /// By what factor the profile's times were stretched, and its rate
    /// lowered, for a system slower than the one the profile was made for.
    #[serde(default = "one")]
    pub time_scale: f64,
    /// Seed of all that is random: moments, and what is asked.
    pub seed: u64,
}

fn one() -> f64 {
    1.0
}

/// When a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Pacing {
    /// Closed loop: it thinks between an answer and the next request.
    Closed {
        /// How long, on average; nanoseconds.
        think_ns: u64,
        /// Always as long, or exponentially distributed.
        #[serde(default)]
        distribution: ThinkTime,
    },
    /// Open loop: requests arrive whether or not earlier ones were answered.
    /// Each client is a Poisson process of its own, all of them together one
    /// of the rate given. A request that finds its client busy starts late;
    /// its latency counts from when it should have started.
    Open {
        /// Requests a second at each service, over all its clients.
        rate_per_s: f64,
    },
}

/// How think times are distributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThinkTime {
    /// All alike.
    #[default]
    Fixed,
    /// Exponentially.
    Exponential,
}

/// What a load driver is told: one JSON file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LoadSpec {
    /// A web server.
    Http(HttpLoad),
    /// Anyone's own program.
    Exec(ExecLoad),
}

/// The HTTP workload of thesis §4.1.2.1: clients that ask for the SHA-1 of N
/// zero bytes and check every answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpLoad {
    /// The guests to load.
    pub targets: Vec<HttpTarget>,
    /// Path and query of the CGI, such as `/cgi-bin/sha1?n=65536`.
    pub path: String,
    /// N: how many zero bytes are hashed. The driver computes the expected
    /// SHA-1 from it.
    pub hash_bytes: u64,
    /// Each connection carries one request when false, many when true.
    pub keep_alive: bool,
    /// How much load, and when.
    pub load: LoadModel,
}

/// One server under load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTarget {
    /// The guest's name.
    pub guest: String,
    /// Where it answers, as seen by the driver.
    pub addr: SocketAddr,
}

/// Any program that asks and judges, or whose result is judged (thesis §3.2.1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecLoad {
    /// The guests to load; the program finds them in its environment.
    pub targets: Vec<HttpTarget>,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// How it is spoken with.
    #[serde(default)]
    pub protocol: ExecProtocol,
    /// With [`ExecProtocol::Once`]: the return code that is right.
    #[serde(default)]
    pub exit_code: i32,
    /// With [`ExecProtocol::Once`]: the SHA-256 of its output that is right;
    /// none to judge by the return code alone.
    #[serde(default)]
    pub output_sha256: Option<String>,
    /// How much load, and when.
    pub load: LoadModel,
}

/// How a program is spoken with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecProtocol {
    /// It runs once for each request, and is judged by its return code and
    /// output.
    #[default]
    Once,
    /// It runs once for each client, reads requests and writes verdicts, one
    /// JSON object a line.
    Lines,
}

/// What an answer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Right in every respect.
    Correct,
    /// Valid HTML with a wrong hash: silent data corruption.
    IncorrectContent,
    /// Valid HTML that lacks the hash.
    MissingValue,
    /// Not the HTTP or HTML it should be.
    CorruptedOutput,
    /// A 5xx or other error status, well-formed.
    ErrorReply,
    /// Refused, reset or closed early.
    ConnectionReset,
    /// No complete answer within the timeout.
    ClientTimeout,
    /// The driver ended while the request was under way; it is not judged.
    Unfinished,
}

/// Why a connection ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetCause {
    /// connect() was refused.
    Refused,
    /// RST on an open connection.
    Reset,
    /// FIN before the answer was complete. Behind slirp an RST looks like
    /// this too; the packet record tells them apart.
    EarlyClose,
}

/// One request. Times are the driver host's `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// The guest asked.
    pub guest: String,
    /// The client, from 0 within its guest.
    pub client: u32,
    /// The request's number within its client, from 0.
    pub seq: u32,
    /// Which of the workload's operations it was, when it has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// True for a probe after the window.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probe: bool,
    /// When the load model meant it to start.
    pub intended_ns: u64,
    /// When it started.
    pub start_ns: u64,
    /// When its outcome was known.
    pub end_ns: u64,
    /// What was asked, when the answer was not right and there is more than
    /// one thing to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Bytes received; with HTTP status line, headers and body.
    pub bytes: u64,
    /// HTTP status, when one arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The verdict.
    pub verdict: Verdict,
    /// Why the connection ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_cause: Option<ResetCause>,
    /// What was wrong, in words, when something was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The answer as received, when it was not right: UTF-8, or lossy with
    /// `answer_hex` beside it. Kept whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// The answer's bytes in hexadecimal when they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_hex: Option<String>,
    /// The client's local TCP port, to find the connection in a packet record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_port: Option<u16>,
}

/// A line of a driver's log. In the file, a right answer is a short array of
/// numbers; see `docs/workloads.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LoadLogLine {
    /// First line.
    Begin {
        /// The log format's version; 2.
        format: u32,
        /// The load's start, `CLOCK_MONOTONIC`.
        start_ns: u64,
        /// The kind of workload, such as `http`.
        workload: String,
        /// The services (guests), in the order of their numbers.
        services: Vec<String>,
        /// The operations, in the order of their numbers.
        operations: Vec<String>,
        /// How much load, and when.
        load: LoadModel,
    },
    /// One request or probe, written when its outcome is known.
    Request(RequestRecord),
    /// Last line. A log without it was cut off.
    End {
        /// The load's end, `CLOCK_MONOTONIC`.
        end_ns: u64,
        /// Requests written, probes included.
        requests: u64,
    },
}
