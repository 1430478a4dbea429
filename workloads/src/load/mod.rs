//! How load is applied, the same for every workload: pacing, time-outs, log,
//! statistics, progress.
//!
//! A workload implements [`Workload`] and [`Client`]: which request comes next,
//! how it is performed, and whether the answer was right. [`run`] does the
//! rest:
//!
//! * closed and open loops ([`xfi_model::Pacing`]), a ramp-up, a measured
//!   window, and probes of services that fell silent;
//! * latency from the *intended* start, failures included, in histograms whose
//!   size does not grow with the run;
//! * a log on disk, one short line a request ([`LogReader`] reads it);
//! * what a client asks is a function of the seed, its service and its number
//!   alone: never of time or of other clients. [`LoadSummary::streams`] has a
//!   digest of what each asked.
//!
//! [`profile`] knows the loads of the thesis by name. [`summarise`] turns a log
//! into what the classifier reads; [`bands`] and [`calibrate`] learn from
//! golden runs.

mod band;
mod engine;
mod log;
mod model;
mod observe;
mod pace;
mod stats;

pub use band::{Calibration, band, bands, calibrate};
pub use engine::run;
pub use log::{LOG_FORMAT, LogReader};
pub use model::{PROFILES, Profile, profile, scale, validate_model};
pub use observe::{ServiceContext, Summary, summarise};
pub use stats::{
    ClientStream, Interval, LoadSummary, Measured, OperationSummary, Progress, ServiceSummary,
};

use crate::WorkloadError;
use rand_chacha::ChaCha8Rng;
use std::borrow::Cow;
use xfi_model::{ResetCause, Verdict};

/// Something that is asked and answers.
pub trait Workload {
    /// One of its clients.
    type Client: Client;

    /// Its kind, such as `http`; for the log.
    fn kind(&self) -> &'static str;

    /// The services asked, by the names of their guests.
    fn services(&self) -> Vec<String>;

    /// The operations there are, in the order of [`Client::operation`]'s
    /// numbers.
    fn operations(&self) -> Vec<String> {
        vec!["request".to_owned()]
    }

    /// Makes a client. It connects when it first asks: a server that is down
    /// is a verdict.
    ///
    /// # Errors
    /// Only what is this machine's fault.
    fn client(&self, id: ClientId) -> Result<Self::Client, WorkloadError>;
}

/// Which client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId {
    /// Its service: an index into [`Workload::services`].
    pub service: usize,
    /// Its number within the service, from 0.
    pub number: u32,
    /// It asks once, after the window, over a fresh connection.
    pub probe: bool,
}

/// One client; it has at most one request under way.
pub trait Client: Send + 'static {
    /// What is asked.
    type Request: Send + Sync;

    /// Its request number `seq`, from 0; none when it has no more. It must be
    /// a function of the client's id, of `seq` and of what is drawn from
    /// `random` (a stream of this client's own), and not depend on answers.
    fn next(&mut self, seq: u32, random: &mut ChaCha8Rng) -> Option<Self::Request>;

    /// The request in bytes, as it is sent or in another form that is equal for
    /// equal requests alone.
    fn bytes<'a>(&'a self, request: &'a Self::Request) -> Cow<'a, [u8]>;

    /// Which of [`Workload::operations`] it is.
    fn operation(&self, request: &Self::Request) -> usize {
        let _ = request;
        0
    }

    /// The request in words, for the record of an answer that was not right;
    /// none when there is but one thing to ask.
    fn describe(&self, request: &Self::Request) -> Option<String> {
        let _ = request;
        None
    }

    /// Asks and judges. The future is dropped when the time is over or the
    /// load is stopped; [`Client::abandon`] follows.
    ///
    /// # Errors
    /// Only what is this machine's fault; it ends the load.
    fn perform(
        &mut self,
        request: &Self::Request,
    ) -> impl Future<Output = Result<Performed, WorkloadError>> + Send;

    /// Gives up the request under way. What it gives back is recorded, with the
    /// verdict `client_timeout` or `unfinished`.
    fn abandon(&mut self, why: Abandoned) -> Performed;
}

/// Why a request is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abandoned {
    /// The client's time-out is over.
    TimedOut,
    /// The load was stopped.
    Stopped,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Performed {
    /// The verdict.
    pub verdict: Verdict,
    /// What was wrong, in words.
    pub detail: Option<String>,
    /// When it was known, `CLOCK_MONOTONIC`, nanoseconds; none for the moment
    /// of return. A workload sets it when judging takes time of its own.
    pub end_ns: Option<u64>,
    /// Bytes received.
    pub bytes: u64,
    /// The status of the answer, when there is such a thing.
    pub status: Option<u16>,
    /// Why the connection ended early.
    pub reset_cause: Option<ResetCause>,
    /// The answer, whole, when it was not right.
    pub answer: Option<Vec<u8>>,
    /// The client's TCP port.
    pub local_port: Option<u16>,
}

impl Performed {
    /// A right answer of so many bytes.
    pub fn right(bytes: u64) -> Performed {
        Performed {
            verdict: Verdict::Correct,
            detail: None,
            end_ns: None,
            bytes,
            status: None,
            reset_cause: None,
            answer: None,
            local_port: None,
        }
    }

    /// A failure without an answer.
    pub fn wrong(verdict: Verdict, detail: impl Into<String>) -> Performed {
        Performed {
            verdict,
            detail: Some(detail.into()),
            ..Performed::right(0)
        }
    }
}
