//! `xfi workload`: a load on any server, with progress and a summary.

mod exec;
mod http;
mod view;

use crate::args::{LoadArgs, Output, Workload};
use crate::exit::{Exit, coded};
use crate::inject::duration;
use crate::{output, progress};
use anyhow::Result;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use xfi_model::{LoadModel, Pacing, ThinkTime};
use xfi_workloads::load::{self, LoadSummary};
use xfi_workloads::{WorkloadError, block_on};

/// Runs the command.
pub(crate) fn run(command: Workload) -> Result<()> {
    match command {
        Workload::Http(args) => http::run(&args),
        Workload::Exec(args) => exec::run(&args),
        Workload::Driver { spec, log } => Ok(xfi_workloads::run_spec(&spec, &log)?),
    }
}

/// The load that the arguments ask for.
pub(crate) fn model(args: &LoadArgs) -> Result<LoadModel> {
    let nanoseconds = |name, text: &str| -> Result<u64> {
        let ns = duration(name, text)?.as_nanos();
        Ok(u64::try_from(ns).unwrap_or(u64::MAX))
    };
    let usage = |message: String| coded(Exit::Usage, message);
    let profile = load::profile(&args.profile, args.seed)?;
    let duration_ns = nanoseconds("--for", &args.time)?;
    if duration_ns == 0 {
        return Err(usage(format!("--for: '{}' is too short", args.time)));
    }
    let timeout_ns = nanoseconds("--timeout", &args.timeout)?;
    if timeout_ns == 0 {
        return Err(usage(format!("--timeout: '{}' is too short", args.timeout)));
    }
    if !(args.time_scale.is_finite() && args.time_scale > 0.0) {
        return Err(usage(format!(
            "--time-scale: {} is no factor; valid: above 0",
            args.time_scale
        )));
    }
    let pacing = match (args.open_loop, profile.pacing) {
        (Some(rate_per_s), _) => Pacing::Open { rate_per_s },
        (None, Pacing::Closed { think_ns, .. }) => Pacing::Closed {
            think_ns: match &args.think {
                Some(text) => nanoseconds("--think", text)?,
                None => think_ns,
            },
            distribution: if args.exponential {
                ThinkTime::Exponential
            } else {
                ThinkTime::Fixed
            },
        },
        (None, open) => open,
    };
    let ramp_up_ns = match &args.ramp_up {
        Some(text) => nanoseconds("--ramp-up", text)?,
        None => profile.ramp_up_ns.min(duration_ns / 10),
    };
    let model = LoadModel {
        clients: args.clients.unwrap_or(profile.clients),
        pacing,
        ramp_up_ns,
        duration_ns,
        requests_per_client: args.requests,
        timeout_ns,
        ..profile
    };
    let model = load::scale(&model, args.time_scale);
    load::validate_model(&model, 1)?;
    Ok(model)
}

/// Applies a load with progress on stderr, prints its summary, and says by the
/// exit code whether all was right. Ctrl-C ends it early. `what` is asked, such
/// as a URL.
pub(crate) fn apply<W: load::Workload>(
    what: &str,
    workload: &W,
    model: &LoadModel,
    args: &LoadArgs,
) -> Result<()> {
    let bar = progress::LoadProgress::new(Duration::from_nanos(
        model.ramp_up_ns.saturating_add(model.duration_ns),
    ));
    let summary = block_on(async {
        let mut int = signal(SignalKind::interrupt()).map_err(WorkloadError::Runtime)?;
        let mut term = signal(SignalKind::terminate()).map_err(WorkloadError::Runtime)?;
        let stop = async move {
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
        };
        load::run(workload, model, args.log.as_deref(), stop, |p| bar.take(p)).await
    });
    bar.finish();
    let summary = summary?;
    let view = view::WorkloadView::of(workload.kind(), what, model, &summary);
    match args.output.output {
        Output::Json => output::json(&view)?,
        Output::Text => output::print(&view.text()),
    }
    verdict(what, &summary)
}

fn verdict(what: &str, summary: &LoadSummary) -> Result<()> {
    let wrong = summary.wrong();
    if wrong > 0 {
        let all: u64 = summary.verdicts().values().sum();
        return Err(coded(
            Exit::NotRight,
            format!("{what}: {wrong} of {all} requests got no right answer"),
        ));
    }
    if summary.stopped {
        return Err(coded(Exit::Interrupted, "interrupted; all right so far"));
    }
    if summary.services.iter().all(|s| s.verdicts.is_empty()) {
        return Err(coded(
            Exit::Failure,
            format!("{what}: no request was made; take a longer --for"),
        ));
    }
    Ok(())
}
