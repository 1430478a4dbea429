//! What a load driver is told, and the log it writes.
//!
//! A driver is a process of its own: it reads one JSON [`HttpLoad`] from a
//! file, applies the load, and writes a log of [`LoadLogLine`]s, one JSON
//! object a line. It judges each answer; it knows nothing of faults.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The HTTP workload of thesis §4.1.2.1: closed-loop clients that ask for the
/// SHA-1 of N zero bytes and check every answer.
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
    /// Closed-loop clients for each guest.
    pub clients_per_guest: u32,
    /// Time between an answer and the next request, nanoseconds.
    pub think_ns: u64,
    /// How long a client waits for an answer, nanoseconds.
    pub timeout_ns: u64,
    /// How long each client waits for its first answer: a restored emulator
    /// translates the server's code anew for it. At least `timeout_ns`.
    pub first_timeout_ns: u64,
    /// How long new requests are begun, nanoseconds after the start.
    pub duration_ns: u64,
    /// After `duration_ns`, guests with an unanswered request are probed with
    /// this many fresh connections, each for one `timeout_ns`: it separates
    /// `hang` from `client_timeout`.
    pub probes: u32,
    /// Each connection carries one request when false, many when true.
    pub keep_alive: bool,
    /// Seed of what is random in the driver (start offsets of the clients).
    pub seed: u64,
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
    /// True for a probe after the window.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probe: bool,
    /// When the load model meant it to start.
    pub intended_ns: u64,
    /// When it started.
    pub start_ns: u64,
    /// When its outcome was known.
    pub end_ns: u64,
    /// Bytes received: status line, headers and body.
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

/// A line of a driver's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LoadLogLine {
    /// First line.
    Begin {
        /// The log format's version; 1.
        format: u32,
        /// The driver's start, `CLOCK_MONOTONIC`.
        start_ns: u64,
        /// The load as given.
        load: HttpLoad,
    },
    /// One request or probe, written when its outcome is known.
    Request(RequestRecord),
    /// Last line. A log without it was cut off.
    End {
        /// The driver's end, `CLOCK_MONOTONIC`.
        end_ns: u64,
        /// Requests written, probes included.
        requests: u64,
    },
}
