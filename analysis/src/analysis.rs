//! The whole analysis of one campaign: a pure function of its data.

use crate::data::CampaignData;
use crate::grid::{Digits, Grid, percent};
use crate::rows::{RunRow, rows, share_of};
use crate::stats::{Interval, Robust, Share, robust_share};
use crate::tables::{
    BlastTable, DispositionTable, HostTable, NoiseTable, OutcomeTable, RegisterTable, RipTable,
    StrataTable, ThesisTable,
};
use crate::threats::{Threat, threats};
use serde::Serialize;
use std::collections::BTreeSet;
use xfi_model::{Manifest, RunKind};

/// Everything a report shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Analysis {
    /// The format's version; 1.
    pub format: u32,
    /// Provenance.
    pub manifest: Manifest,
    /// What the first screen answers.
    pub headline: Headline,
    /// What to distrust, from the data themselves, the gravest first.
    pub threats: Vec<Threat>,
    /// Every planned run accounted for.
    pub dispositions: DispositionTable,
    /// Failure modes.
    pub outcomes: OutcomeTable,
    /// The thesis's classes.
    pub thesis: ThesisTable,
    /// The host.
    pub host: HostTable,
    /// Who failed together.
    pub blast_radius: BlastTable,
    /// Failures by register and bit.
    pub registers: RegisterTable,
    /// Failures by stratum.
    pub strata: StrataTable,
    /// Where the flips landed.
    pub rip: RipTable,
    /// False failures and noise.
    pub noise: NoiseTable,
    /// One row a planned run.
    pub runs: Vec<RunRow>,
    /// What was odd about the files, and the journal's notes.
    pub notes: Vec<String>,
}

/// What the first screen answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Headline {
    /// Runs planned.
    pub planned: u64,
    /// Injections planned.
    pub injections: u64,
    /// Injections that fired, or may have: the denominator.
    pub fired: u64,
    /// Of these, unjudged.
    pub unjudged: u64,
    /// Runs in which anything failed.
    pub failed: Share,
    /// The same, robust to clustering by snapshot.
    pub failed_robust: Option<Robust>,
    /// Runs in which the target failed.
    pub target: Share,
    /// Runs in which a bystander failed.
    pub bystanders: Share,
    /// Runs in which the host failed.
    pub host: Share,
    /// Golden and dummy runs in which anything failed.
    pub false_failures: Share,
    /// K: snapshots that the counted runs started from.
    pub snapshots: u32,
    /// The window W, nanoseconds.
    pub window_ns: u64,
}

/// From this many snapshots on, the cluster-robust interval is the headline.
/// Below, its few degrees of freedom tell little, and the headline is the
/// exact interval, conditional on the snapshots.
pub(crate) const ROBUST_FROM: u32 = 10;

impl Headline {
    /// The headline interval, and what it is.
    pub fn interval(&self) -> (Interval, String) {
        match self.failed_robust {
            Some(robust) if robust.clusters >= ROBUST_FROM => (
                robust.interval,
                format!("robust to clustering by {} snapshots", robust.clusters),
            ),
            _ => (
                self.failed.interval,
                format!("conditional on the {} snapshots used", self.snapshots),
            ),
        }
    }

    /// The design effect and the robust interval, in words.
    pub fn robust_words(&self) -> String {
        let digits = Digits::for_total(self.fired);
        match self.failed_robust {
            None => "One snapshot: clustering cannot be estimated.".to_owned(),
            Some(Robust {
                design_effect: None,
                clusters,
                ..
            }) => format!(
                "All runs of the {clusters} snapshots agree: no design effect can be estimated."
            ),
            Some(Robust {
                interval,
                design_effect: Some(effect),
                clusters,
            }) => format!(
                "Design effect of the {clusters} snapshots: {effect:.2}; interval robust to it: \
                 [{}; {}] %.",
                percent(interval.lo, digits),
                percent(interval.hi, digits)
            ),
        }
    }
}

/// Analyses a campaign.
pub fn analyse(data: &CampaignData) -> Analysis {
    let runs = rows(data);
    let counted: Vec<&RunRow> = runs.iter().filter(|r| r.counts()).collect();
    let snapshots = counted
        .iter()
        .map(|r| r.snapshot)
        .collect::<BTreeSet<_>>()
        .len() as u32;
    let window_ns = data.plan.timing.window_ns;
    let noise = NoiseTable::new(&runs, &counted);
    let dispositions = DispositionTable::new(&runs);
    let radius = |test: fn(xfi_model::BlastRadius) -> bool| {
        share_of(counted.iter().copied(), |r| r.blast_radius.map(test))
    };
    let samples: Vec<_> = counted.iter().map(|r| r.sample(RunRow::failed)).collect();
    let outcomes = OutcomeTable::new(&counted, window_ns, snapshots);
    let headline = Headline {
        planned: runs.len() as u64,
        injections: runs.iter().filter(|r| r.kind == RunKind::Injection).count() as u64,
        fired: counted.len() as u64,
        unjudged: outcomes.unjudged,
        failed: share_of(counted.iter().copied(), RunRow::failed),
        failed_robust: robust_share(&samples),
        target: radius(|b| b.target),
        bystanders: radius(|b| b.bystanders),
        host: radius(|b| b.host),
        false_failures: noise.false_failures,
        snapshots,
        window_ns,
    };
    let mut analysis = Analysis {
        format: 1,
        manifest: data.manifest.clone(),
        headline,
        threats: Vec::new(),
        dispositions,
        outcomes,
        thesis: ThesisTable::new(&counted),
        host: HostTable::new(&counted),
        blast_radius: BlastTable::new(&counted),
        registers: RegisterTable::new(&counted),
        strata: StrataTable::new(&counted),
        rip: RipTable::new(&counted),
        noise,
        runs,
        notes: data.notes.clone(),
    };
    analysis.threats = threats(&analysis, data);
    analysis
}

impl Analysis {
    /// Every table, in the order of the report.
    pub fn grids(&self) -> Vec<Grid> {
        let mut grids = vec![
            self.outcomes.grid(),
            self.host.grid(),
            self.blast_radius.grid(),
            self.dispositions.grid(),
            self.noise.grid(),
            self.noise.labels_grid(),
            self.registers.grid(),
            self.strata.grid(),
            self.rip.grid(),
            self.thesis.grid(),
            self.outcomes.labels_grid(),
            self.registers.bits_grid(),
        ];
        grids.retain(|g| !g.rows.is_empty());
        grids
    }
}
