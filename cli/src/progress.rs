//! Progress on stderr.

use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use xfi_model::{Outcome, PlannedRun, RunRecord};
use xfi_testbed::Progress as Step;

fn on_terminal() -> bool {
    std::io::stderr().is_terminal()
}

fn say(text: &str) {
    eprintln!("{text}");
}

/// A spinner with the time left, shown on a terminal when it takes over a
/// second.
pub(crate) fn countdown(what: &str, longest: Duration) -> ProgressBar {
    if !on_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_message(format!(
        "{what}, at most {}",
        humantime::format_duration(longest)
    ));
    bar.set_style(ProgressStyle::with_template("{spinner} {msg} ({elapsed})").expect("a template"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A bar with the time that remains, in milliseconds, on a terminal.
pub(crate) fn remaining(what: &str, time: Duration) -> ProgressBar {
    if !on_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
        .with_message(what.to_owned());
    bar.set_style(
        ProgressStyle::with_template("{msg} {bar:30} {eta} left; Ctrl-C ends it")
            .expect("a template"),
    );
    bar
}

/// Steps of a testbed: one line each, with what is expected and what it took.
#[derive(Default)]
pub(crate) struct Steps {
    bar: Option<ProgressBar>,
}

impl Steps {
    /// Takes one report.
    pub(crate) fn take(&mut self, step: Step<'_>) {
        match step {
            Step::Begin { step, expected } => {
                self.clear();
                let about =
                    humantime::format_duration(Duration::from_secs(expected.as_secs().max(1)));
                if on_terminal() {
                    self.bar = Some(timed_bar(step, expected));
                } else {
                    say(&format!("{step} (about {about}) ..."));
                }
            }
            Step::Note { text } => match &self.bar {
                Some(bar) => bar.suspend(|| say(&format!("  {text}"))),
                None => say(&format!("  {text}")),
            },
            Step::End { step, took } => {
                self.clear();
                say(&format!("{step}: {:.1} s", took.as_secs_f64()));
            }
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.clear();
    }
}

fn timed_bar(what: &str, expected: Duration) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(format!(
        "{what} (about {})",
        humantime::format_duration(Duration::from_secs(expected.as_secs().max(1)))
    ));
    bar.set_style(ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("a template"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A campaign's progress: a bar with an ETA on a terminal, lines elsewhere.
pub(crate) struct CampaignProgress {
    bar: ProgressBar,
    begun: Instant,
    counts: Mutex<BTreeMap<String, u32>>,
    last_line: Mutex<Instant>,
}

/// Off a terminal, a line at most this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl CampaignProgress {
    /// For a campaign of `total` runs, `done` of which are already there.
    pub(crate) fn new(total: usize, done: usize) -> CampaignProgress {
        let bar = if on_terminal() {
            ProgressBar::new(total as u64)
                .with_position(done as u64)
                .with_style(
                    ProgressStyle::with_template("{bar:30} {pos}/{len}  ETA {eta}  {msg}")
                        .expect("a template"),
                )
        } else {
            ProgressBar::hidden()
        };
        bar.reset_eta();
        CampaignProgress {
            bar,
            begun: Instant::now(),
            counts: Mutex::default(),
            last_line: Mutex::new(Instant::now()),
        }
    }

    /// Ends the display.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl xfi_campaign::engine::Progress for CampaignProgress {
    fn step(&self, what: &str, expected: Duration) {
        self.bar
            .suspend(|| say(&format!("{what} (about {} s) ...", expected.as_secs())));
    }

    fn run_began(&self, _worker: u32, _planned: &PlannedRun) {}

    fn run_ended(&self, _record: &RunRecord, outcome: &Outcome, done: usize, total: usize) {
        let mut counts = self.counts.lock().unwrap_or_else(|e| e.into_inner());
        let label = outcome
            .services
            .iter()
            .find(|s| s.is_target)
            .map_or_else(|| outcome.disposition.label(), |s| s.primary.label());
        *counts.entry(label.to_owned()).or_default() += 1;
        let text: Vec<String> = counts.iter().map(|(k, n)| format!("{k} {n}")).collect();
        let text = text.join(", ");
        self.bar.set_message(text.clone());
        self.bar.set_position(done as u64);
        let mut last = self.last_line.lock().unwrap_or_else(|e| e.into_inner());
        if self.bar.is_hidden() && (last.elapsed() >= LINE_EVERY || done == total) {
            *last = Instant::now();
            let runs: u32 = counts.values().sum();
            let each = self.begun.elapsed().as_secs_f64() / f64::from(runs.max(1));
            let left = each * (total - done) as f64;
            say(&format!(
                "{done}/{total} runs, about {left:.0} s left: {text}"
            ));
        }
    }

    fn remark(&self, text: &str) {
        self.bar.suspend(|| say(text));
    }
}

/// A load's progress: a bar on a terminal, lines elsewhere.
pub(crate) struct LoadProgress {
    bar: ProgressBar,
    last_line: Mutex<Instant>,
}

impl LoadProgress {
    /// For a load that lasts so long.
    pub(crate) fn new(total: Duration) -> LoadProgress {
        let bar = if on_terminal() {
            ProgressBar::new(u64::try_from(total.as_millis()).unwrap_or(u64::MAX)).with_style(
                ProgressStyle::with_template("{bar:20} {eta} left; {msg}; Ctrl-C ends it")
                    .expect("a template"),
            )
        } else {
            ProgressBar::hidden()
        };
        LoadProgress {
            bar,
            last_line: Mutex::new(Instant::now()),
        }
    }

    /// Shows how far it is.
    pub(crate) fn take(&self, p: &xfi_workloads::load::Progress) {
        let text = format!(
            "{} requests, {:.0}/s, p50 {}, p99 {}, not right {}",
            p.requests,
            p.last.requests_per_s,
            crate::output::duration(p.last.p50_ns),
            crate::output::duration(p.last.p99_ns),
            p.wrong
        );
        self.bar.set_position(p.elapsed_ns / 1_000_000);
        let mut last = self.last_line.lock().unwrap_or_else(|e| e.into_inner());
        if !self.bar.is_hidden() {
            self.bar.set_message(text);
        } else if last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            say(&format!("{:.0} s: {text}", p.elapsed_ns as f64 / 1e9));
        }
    }

    /// Ends the display.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
