//! Arguments of `xfi workload`.

mod exec;
mod http;

pub(crate) use exec::Exec;
pub(crate) use http::Http;

use super::OutputArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum Workload {
    /// Load a web server and check every answer.
    Http(Box<Http>),
    /// Load anything by a program of your own.
    Exec(Box<Exec>),
    /// Apply a load as a campaign's load driver.
    #[command(hide = true)]
    Driver {
        /// The load, as JSON.
        #[arg(long)]
        spec: PathBuf,
        /// The log to write.
        #[arg(long)]
        log: PathBuf,
    },
}

/// How much load, and when: the same for every workload.
#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadArgs {
    /// The load by name: full-load (25 clients, 50 ms between an answer and the next request),
    /// light-load (1 client, 1 s) or ten-clients (10, no pause).
    #[arg(long, value_name = "NAME", default_value = "full-load")]
    pub(crate) profile: String,
    /// How long is measured; a day at most.
    #[arg(long = "for", value_name = "DURATION", default_value = "30s")]
    pub(crate) time: String,
    /// How many clients, instead of the profile's number.
    #[arg(long, value_name = "N")]
    pub(crate) clients: Option<u32>,
    /// From an answer to the next request, instead of the profile's pause.
    #[arg(long, value_name = "DURATION")]
    pub(crate) think: Option<String>,
    /// Draw pauses from an exponential distribution with that mean.
    #[arg(long)]
    pub(crate) exponential: bool,
    /// Open loop: so many requests a second (a Poisson process), answered or not.
    #[arg(long, value_name = "RATE", conflicts_with_all = ["think", "exponential"])]
    pub(crate) open_loop: Option<f64>,
    /// The clients begin within this long, which is not measured; by default 1 s, at most a tenth
    /// of --for.
    #[arg(long, value_name = "DURATION")]
    pub(crate) ramp_up: Option<String>,
    /// Each client ends after so many requests.
    #[arg(long, value_name = "N")]
    pub(crate) requests: Option<u32>,
    /// How long a client waits for an answer.
    #[arg(long, value_name = "DURATION", default_value = "20s")]
    pub(crate) timeout: String,
    /// Stretch pauses and time-out by this factor, and lower the rate by it, for a server on a
    /// slower system (an emulated one); it is noted in the result.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub(crate) time_scale: f64,
    /// From which the moments of requests and what is asked follow.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Write every request to this file; see docs/workloads.md.
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
