//! `xfi profile`.

use crate::args::{Output, OutputArgs};
use crate::exit::{Exit, coded};
use crate::host::{Host, refusal};
use crate::inject::{duration, need_hypercall};
use crate::output;
use anyhow::{Result, bail};
use clap::Args;
use comfy_table::CellAlignment;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use xfi_model::{AgentHello, Command, DOM0_NAME, EventBody, ProfileRecord};
use xfi_symbols::HYPERCALLS;

/// How much later than its end a profile may be heard of.
const PATIENCE: Duration = Duration::from_secs(20);

/// Count which hypercalls are made, how often, and how long they take.
///
/// The parts of a multicall are counted as what they are, and shown apart.
/// Ctrl-C ends the count and shows it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xfi profile                              all domains, for ten seconds
  xfi profile --domain web1 --for 1m
  xfi profile --domain Domain-0 --output json | jq '.hypercalls[0]'")]
pub(crate) struct Profile {
    /// Only calls that this domain makes, dom0 too; by default any.
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// How long; a day at most.
    #[arg(long = "for", value_name = "DURATION", default_value = "10s")]
    time: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// What `xfi profile --output json` prints. The committed schema is
/// `docs/schema/profile.json`.
#[derive(Debug, Serialize, JsonSchema)]
struct ProfileView {
    /// The format's version; 1.
    format: u32,
    /// Whose calls; null for all domains'.
    domain: Option<String>,
    /// How long they were counted, nanoseconds.
    counted_ns: u64,
    /// All calls, parts of multicalls included.
    calls: u64,
    /// TSC cycles in all of them.
    cycles: u64,
    /// The time-stamp counter's frequency, kHz.
    tsc_khz: u64,
    /// Hypercalls that were made, the most frequent first.
    hypercalls: Vec<CallView>,
}

/// One hypercall.
#[derive(Debug, Serialize, JsonSchema)]
struct CallView {
    /// Its number.
    number: u32,
    /// Its name; null where this program knows none.
    hypercall: Option<String>,
    /// Calls, as parts of multicalls too. One that Xen preempted counts again
    /// when it is continued.
    calls: u64,
    /// Of these, those made as a part of a multicall.
    in_multicalls: u64,
    /// Its share of all calls, 0 to 1.
    share: f64,
    /// TSC cycles in these; multicall's are without those of its parts.
    cycles: u64,
    /// Its share of the cycles in all hypercalls, 0 to 1.
    cycles_share: f64,
    /// Cycles of one call, on average; multicall's are with those of its parts.
    cycles_per_call: f64,
}

/// Runs the command.
pub(crate) fn run(args: &Profile) -> Result<()> {
    let time = duration("--for", &args.time)?;
    let for_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    if for_ms == 0 {
        return Err(coded(
            Exit::Usage,
            format!("--for: '{}' is too short; valid: 1ms to 24h", args.time),
        ));
    }
    let mut host = Host::find()?;
    let hello = host.hello()?;
    need_hypercall(&hello)?;
    let domain = domain(args.domain.as_deref(), &hello)?;
    let (record, interrupted) = count(&mut host, domain, for_ms)?;
    let view = ProfileView::of(&record);
    match args.output.output {
        Output::Json => output::json(&view)?,
        Output::Text => output::print(&text(&view)),
    }
    if interrupted {
        eprintln!(
            "interrupted after {} of {}; Xen no longer counts",
            output::duration(record.counted_ns),
            args.time
        );
    }
    Ok(())
}

fn domain(named: Option<&str>, hello: &AgentHello) -> Result<Option<String>> {
    let name = match named {
        None => return Ok(None),
        Some("dom0") => DOM0_NAME,
        Some(name) => name,
    };
    if hello.domains.iter().any(|d| d.name == name) {
        return Ok(Some(name.to_owned()));
    }
    let names: Vec<_> = hello.domains.iter().map(|d| d.name.as_str()).collect();
    Err(coded(
        Exit::NoDomain,
        format!(
            "--domain: no domain '{name}' is running; valid: {}",
            names.join(" ")
        ),
    ))
}

/// Counts; with whether a signal ended it early.
fn count(host: &mut Host, domain: Option<String>, for_ms: u64) -> Result<(ProfileRecord, bool)> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let time = Duration::from_millis(for_ms);
    let what = match &domain {
        Some(name) => format!("counting the hypercalls of {name}"),
        None => "counting hypercalls".to_owned(),
    };
    let seq = host.link().send(Command::Profile { domain, for_ms })?;
    let progress = crate::progress::remaining(&what, time);
    let mut deadline = Instant::now() + time + PATIENCE;
    let mut cancelled = false;
    let mut counted = None;
    loop {
        if interrupted.load(Ordering::SeqCst) && !cancelled {
            cancelled = true;
            deadline = Instant::now() + PATIENCE;
            host.link().send(Command::Cancel)?;
        }
        if Instant::now() >= deadline {
            bail!(
                "no word from the agent for {PATIENCE:?} after the end; the host may be down: see \
                 `xfi testbed console`, then `xfi testbed reset`"
            );
        }
        progress.set_position(u64::try_from(progress.elapsed().as_millis()).unwrap_or(u64::MAX));
        let Some(event) = host
            .link()
            .next_event(Instant::now() + Duration::from_millis(50))?
        else {
            continue;
        };
        if event.seq != seq {
            continue;
        }
        match event.body {
            EventBody::Error { code, message } => return Err(refusal(code, &message)),
            EventBody::Profile { record } => counted = Some(*record),
            EventBody::Done => break,
            _ => {}
        }
    }
    progress.finish_and_clear();
    match counted {
        Some(record) => Ok((record, cancelled)),
        None => bail!("the agent ended the profile without telling what it counted"),
    }
}

impl ProfileView {
    fn of(r: &ProfileRecord) -> Self {
        let multicall = HYPERCALLS
            .iter()
            .find(|h| h.name == "multicall")
            .map(|h| h.number);
        let calls: u64 = r.calls.iter().map(|c| c.calls + c.sub_calls).sum();
        // What multicalls' parts took is in the multicalls'.
        let cycles: u64 = r.calls.iter().map(|c| c.cycles).sum();
        let in_parts: u64 = r.calls.iter().map(|c| c.sub_cycles).sum();
        let share = |part: u64, all: u64| {
            if all == 0 {
                0.0
            } else {
                part as f64 / all as f64
            }
        };
        let mut hypercalls: Vec<CallView> = r
            .calls
            .iter()
            .map(|c| {
                let total = c.calls + c.sub_calls;
                let with_parts = c.cycles + c.sub_cycles;
                let own = if Some(c.number) == multicall {
                    with_parts.saturating_sub(in_parts)
                } else {
                    with_parts
                };
                CallView {
                    number: c.number,
                    hypercall: HYPERCALLS
                        .iter()
                        .find(|h| h.number == c.number)
                        .map(|h| h.name.to_owned()),
                    calls: total,
                    in_multicalls: c.sub_calls,
                    share: share(total, calls),
                    cycles: own,
                    cycles_share: share(own, cycles),
                    cycles_per_call: share(with_parts, total),
                }
            })
            .collect();
        hypercalls.sort_by_key(|c| (std::cmp::Reverse(c.calls), c.number));
        ProfileView {
            format: 1,
            domain: r.domain.clone(),
            counted_ns: r.counted_ns,
            calls,
            cycles,
            tsc_khz: r.tsc_khz,
            hypercalls,
        }
    }
}

fn text(view: &ProfileView) -> String {
    let whose = view.domain.as_deref().unwrap_or("all domains");
    let seconds = view.counted_ns as f64 / 1e9;
    let mut text = format!("{whose}: {} hypercalls in {seconds:.1} s", view.calls);
    if view.calls == 0 {
        return text;
    }
    if seconds > 0.0 {
        text += &format!(" ({:.0} a second)", view.calls as f64 / seconds);
    }
    if view.tsc_khz > 0 {
        let ns = view.cycles as f64 * 1e6 / view.tsc_khz as f64;
        text += &format!(", {} in them", output::duration(ns as u64));
    }
    let mut table = output::table(&[
        "HYPERCALL",
        "NUMBER",
        "CALLS",
        "IN MULTICALLS",
        "SHARE",
        "CYCLES/CALL",
        "SHARE OF CYCLES",
    ]);
    for c in &view.hypercalls {
        table.add_row([
            c.hypercall.clone().unwrap_or_else(|| "?".to_owned()),
            c.number.to_string(),
            c.calls.to_string(),
            c.in_multicalls.to_string(),
            format!("{:.1} %", 100.0 * c.share),
            format!("{:.0}", c.cycles_per_call),
            format!("{:.1} %", 100.0 * c.cycles_share),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{text}\n{}", output::text_of(&table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use xfi_model::{CallCount, DomId};

    fn record(calls: &[(u32, u64, u64, u64, u64)]) -> ProfileRecord {
        ProfileRecord {
            domain: Some("web1".to_owned()),
            domid: Some(DomId(1)),
            counted_ns: 2_000_000_000,
            tsc_khz: 1_000_000,
            calls: calls
                .iter()
                .map(|(number, calls, cycles, sub_calls, sub_cycles)| CallCount {
                    number: *number,
                    calls: *calls,
                    cycles: *cycles,
                    sub_calls: *sub_calls,
                    sub_cycles: *sub_cycles,
                })
                .collect(),
        }
    }

    #[test]
    fn parts_of_multicalls_count_once_in_calls_and_in_cycles() {
        // Ten multicalls of 1000 cycles each with 15 parts, which took 6000.
        let view = ProfileView::of(&record(&[
            (3, 0, 0, 10, 1000),
            (13, 10, 10_000, 0, 0),
            (23, 70, 10_000, 0, 0),
            (5, 5, 0, 5, 5000),
        ]));
        assert_eq!((view.calls, view.cycles), (100, 20_000));
        let one = |n: u32| view.hypercalls.iter().find(|c| c.number == n).unwrap();
        assert_eq!(view.hypercalls[0].number, 23);
        assert_eq!(one(23).share, 0.7);
        assert_eq!((one(3).calls, one(3).in_multicalls), (10, 10));
        assert_eq!((one(13).cycles, one(13).cycles_per_call), (4000, 1000.0));
        assert_eq!(one(5).cycles_per_call, 500.0);
        let shares: f64 = view.hypercalls.iter().map(|c| c.cycles_share).sum();
        assert!((shares - 1.0).abs() < 1e-9, "{shares}");
        let shares: f64 = view.hypercalls.iter().map(|c| c.share).sum();
        assert!((shares - 1.0).abs() < 1e-9, "{shares}");
    }

    #[test]
    fn the_table_names_hypercalls_and_says_whose_they_are() {
        let printed = text(&ProfileView::of(&record(&[
            (23, 3, 300, 1, 100),
            (49, 0, 0, 0, 0),
            (60, 1, 50, 0, 0),
        ])));
        for word in [
            "web1: 5 hypercalls in 2.0 s (2 a second)",
            "iret",
            "80.0 %",
            "?",
        ] {
            assert!(printed.contains(word), "no '{word}' in:\n{printed}");
        }
        let none = text(&ProfileView::of(&record(&[])));
        assert_eq!(none, "web1: 0 hypercalls in 2.0 s");
    }

    #[test]
    fn the_committed_schema_is_the_one_of_the_code() {
        output::check_schema("profile", &schemars::schema_for!(ProfileView));
    }
}
