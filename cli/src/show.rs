//! `xfi campaign show`: a campaign's runs, or one run in order of time.

use crate::args::Output;
use crate::exit::{Exit, coded};
use crate::output;
use anyhow::Result;
use std::path::Path;
use xfi_model::{Disposition, InjectionState, Outcome, PlannedRun, RunRecord, Verdict};

/// Runs the command.
pub(crate) fn run(dir: &Path, run: Option<u32>, output: Output) -> Result<()> {
    let data = xfi_analysis::load(dir)?;
    let Some(number) = run else {
        return list(&data.results, data.plan.runs.len(), output);
    };
    let Some(record) = data.results.iter().find(|r| r.planned.id.0 == number) else {
        let why = if data.plan.runs.iter().any(|p| p.id.0 == number) {
            "it has no result yet".to_owned()
        } else {
            format!(
                "the plan has runs 0 to {}",
                data.plan.runs.len().saturating_sub(1)
            )
        };
        return Err(coded(Exit::Usage, format!("--run: no run {number}: {why}")));
    };
    let outcome = xfi_analysis::classify(record);
    match output {
        Output::Json => output::json(&serde_json::json!({ "record": record, "outcome": outcome })),
        Output::Text => {
            output::print(&story(record, &outcome));
            output::print(&format!(
                "evidence: {}",
                dir.join(xfi_analysis::evidence_dir(record.planned.id))
                    .display()
            ));
            Ok(())
        }
    }
}

fn list(results: &[RunRecord], planned: usize, output: Output) -> Result<()> {
    let outcomes: Vec<Outcome> = results.iter().map(xfi_analysis::classify).collect();
    if output == Output::Json {
        let all: Vec<_> = results
            .iter()
            .zip(&outcomes)
            .map(|(r, o)| serde_json::json!({ "run": r.planned.id, "outcome": o }))
            .collect();
        return output::json(&all);
    }
    let mut table = output::table(&[
        "RUN",
        "FAULT",
        "STATUS",
        "TARGET",
        "BYSTANDERS",
        "HOST",
        "TOOK",
    ]);
    for (r, o) in results.iter().zip(&outcomes) {
        let services = |target: bool| {
            let all: Vec<_> = o
                .services
                .iter()
                .filter(|s| s.is_target == target)
                .map(|s| s.primary.label())
                .collect();
            if all.is_empty() {
                "-".to_owned()
            } else {
                all.join(" ")
            }
        };
        table.add_row([
            r.planned.id.to_string(),
            fault(&r.planned),
            o.disposition.label().to_owned(),
            services(true),
            services(false),
            o.host.map_or("-", |h| h.label()).to_owned(),
            output::duration(r.took_ns),
        ]);
    }
    output::print(&output::text_of(&table));
    output::print(&format!("{} of {planned} runs", results.len()));
    Ok(())
}

fn fault(planned: &PlannedRun) -> String {
    match &planned.fault {
        None => "golden".into(),
        Some(f) => {
            let (domain, place) = (f.location.domain(), f.location.place());
            match f.bit() {
                Some(bit) => format!("{domain} {place} bit {bit}"),
                None => format!("dummy ({domain} {place})"),
            }
        }
    }
}

/// What happened, in order of time; times are seconds after the load's start.
fn story(record: &RunRecord, outcome: &Outcome) -> String {
    let o = &record.observations;
    let start = o.load_start_ns;
    let mut events: Vec<(u64, String)> = vec![(start, "load started".into())];
    if let Some(i) = &record.injection {
        if let Some(flip) = &i.flip {
            let at = o.flip_ns.unwrap_or(start);
            events.push((
                at.saturating_sub(i.arm_to_fire_ns().unwrap_or(0)),
                format!("armed: {} (injection {})", fault(&record.planned), i.id),
            ));
            let rip = flip
                .before
                .get(&xfi_model::Register::Rip)
                .copied()
                .unwrap_or_default();
            let value = |f: &xfi_model::RegisterFile| {
                f.get(&i.register).map_or("?".into(), ToString::to_string)
            };
            events.push((
                at,
                format!(
                    "{}: {} {} -> {}, {} mode, rip {rip}{}",
                    if i.dummy {
                        "fired without a flip"
                    } else {
                        "flip"
                    },
                    i.register,
                    value(&flip.before),
                    value(&flip.after),
                    output::word(&flip.guest_mode),
                    flip.rip_symbol
                        .as_ref()
                        .map_or(String::new(), |s| format!(" ({s})")),
                ),
            ));
        } else {
            let state = if i.state == InjectionState::Armed {
                "never heard of again".to_owned()
            } else {
                output::word(&i.state)
            };
            events.push((
                start + record.planned.moment_ns,
                format!(
                    "{state}: {} events seen, {} matched",
                    i.events_seen, i.events_matched
                ),
            ));
        }
    }
    for s in &o.services {
        for r in s
            .not_right
            .iter()
            .filter(|r| r.verdict != Verdict::Unfinished)
        {
            let detail = r
                .detail
                .as_ref()
                .map_or(String::new(), |d| format!(": {d}"));
            events.push((
                r.end_ns,
                format!(
                    "{} client {}: {}{}{detail}",
                    s.guest,
                    r.client,
                    if r.probe { "probe " } else { "" },
                    output::word(&r.verdict),
                ),
            ));
        }
    }
    if let (Some(line), Some(at)) = (&o.host.panic_line, o.host.panic_ns) {
        events.push((at, format!("host: {line}")));
    }
    events.sort_by_key(|(at, _)| *at);
    let mut text = format!(
        "run {}, attempt {}, snapshot {}, worker {}: {}\n",
        record.planned.id,
        record.attempt,
        record.planned.snapshot,
        record.worker,
        fault(&record.planned)
    );
    for (at, what) in events {
        text += &format!("{:+9.3} s  {what}\n", (at as f64 - start as f64) / 1e9);
    }
    text += &match &o.host.integrity {
        Some(i) if i.passed() => "host integrity test passed\n".to_owned(),
        Some(i) => {
            let failed: Vec<_> = i
                .checks
                .iter()
                .filter(|c| !c.passed)
                .map(|c| c.name.as_str())
                .collect();
            format!("host integrity test failed: {}\n", failed.join(", "))
        }
        None => "host integrity test not answered\n".to_owned(),
    };
    for d in &o.host.domains {
        text += &format!("domain {}: {}\n", d.name, output::word(&d.state));
    }
    text += &verdict(outcome, o.window_ns);
    text
}

fn verdict(outcome: &Outcome, window_ns: u64) -> String {
    let mut text = match &outcome.disposition {
        Disposition::NotFired { reason }
        | Disposition::Invalid { reason }
        | Disposition::HarnessError { reason }
        | Disposition::Unjudged { reason } => {
            format!("{}: {reason}\n", outcome.disposition.label())
        }
        d => format!(
            "{}, judged over W = {}\n",
            d.label(),
            output::duration(window_ns)
        ),
    };
    for s in &outcome.services {
        let labels: Vec<_> = s.labels.iter().map(|l| l.label()).collect();
        let after = s.first_failure_after_ns.map_or(String::new(), |ns| {
            format!(", first {} after the flip", output::duration(ns))
        });
        text += &format!(
            "{} ({}): {}{after}\n",
            s.guest,
            if s.is_target { "target" } else { "bystander" },
            labels.join(", ")
        );
    }
    if let Some(host) = outcome.host {
        text += &format!("host: {}\n", host.label());
    }
    text
}
