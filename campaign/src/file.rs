//! `campaign.toml`, as typed and as validated.

use crate::duration::{self, MaybeAuto};
use crate::{CampaignError, WorkloadSection};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;
use xfi_model::{BitOp, Hex64, ModeFilter, Register, TriggerKind};
use xfi_symbols::RipExpr;

/// A campaign file. Every field is documented in `docs/campaign.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CampaignFile {
    /// The file format's version; 1.
    pub format: u32,
    /// The campaign's name; becomes part of the run directory's.
    pub name: String,
    /// The seed from which every random choice follows.
    pub seed: u64,
    /// What is tested.
    pub testbed: TestbedSection,
    /// What loads it.
    pub workload: WorkloadSection,
    /// What is injected.
    pub faults: FaultsSection,
    /// Limits on time and patience.
    #[serde(default)]
    pub limits: LimitsSection,
}

/// `[testbed]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TestbedSection {
    /// A Xen host in QEMU on this machine.
    Emulated {
        /// A layout's name (a file in `layouts/`) or a path to a layout file.
        layout: String,
        /// K: independently warmed snapshots that runs draw from.
        #[serde(default = "two")]
        snapshots: u32,
        /// Testbeds at once; by default one a core, at most two.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        workers: Option<u32>,
    },
}

/// `[faults]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultsSection {
    /// How many injections.
    pub injections: u32,
    /// How many golden runs.
    pub golden: u32,
    /// How many dummy runs.
    pub dummy: u32,
    /// The domain; by default the layout's `default_target`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The vCPUs to choose from.
    #[serde(default = "vcpu0")]
    pub vcpus: Vec<u32>,
    /// The registers to choose from; by default the general ones, rip and
    /// rflags.
    #[serde(default = "default_registers")]
    pub registers: Vec<Register>,
    /// The bits to choose from; by default all that the register has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<Vec<u32>>,
    /// Change all of these bits at once, instead of one of `bits`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<Hex64>,
    /// Flip, set or clear.
    #[serde(default, skip_serializing_if = "is_flip")]
    pub op: BitOp,
    /// Kick or switch.
    #[serde(default = "kick")]
    pub trigger: TriggerKind,
    /// Over how long the drawn moments are uniform.
    #[serde(default)]
    pub moments: MaybeAuto,
    /// W, the observation window.
    #[serde(default)]
    pub window: MaybeAuto,
    /// Fire on the nth matching event.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub nth: u32,
    /// Only when RIP lies here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rip: Option<RipExpr>,
    /// Only in this mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ModeFilter>,
    /// How long past the drawn moment an unfired injection expires.
    #[serde(with = "duration::text", default = "one_second")]
    pub expire: Duration,
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Attempts for a run that fails before its flip.
    pub attempts: u32,
    /// A run that takes longer than this beyond its planned time is ended by
    /// the watchdog.
    #[serde(with = "duration::text")]
    pub watchdog: Duration,
}

impl Default for LimitsSection {
    fn default() -> Self {
        LimitsSection {
            attempts: 3,
            watchdog: Duration::from_secs(30),
        }
    }
}

fn one() -> u32 {
    1
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_one(n: &u32) -> bool {
    *n == 1
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_flip(op: &BitOp) -> bool {
    *op == BitOp::Flip
}
fn two() -> u32 {
    2
}
fn vcpu0() -> Vec<u32> {
    vec![0]
}
fn kick() -> TriggerKind {
    TriggerKind::Kick
}
fn one_second() -> Duration {
    Duration::from_secs(1)
}
fn default_registers() -> Vec<Register> {
    Register::ALL
        .iter()
        .copied()
        .filter(|r| r.width() == 64)
        .collect()
}

impl CampaignFile {
    /// Reads and validates a campaign file.
    ///
    /// # Errors
    /// [`CampaignError::Read`], [`CampaignError::Parse`] with line and column,
    /// or [`CampaignError::Invalid`].
    pub fn read(path: &Path) -> Result<CampaignFile, CampaignError> {
        let text = std::fs::read_to_string(path).map_err(|source| CampaignError::Read {
            path: path.to_owned(),
            source,
        })?;
        CampaignFile::parse(&text, path)
    }

    /// Parses and validates the text of a campaign file; `path` is for messages.
    ///
    /// # Errors
    /// As for [`CampaignFile::read`].
    pub fn parse(text: &str, path: &Path) -> Result<CampaignFile, CampaignError> {
        let file: CampaignFile = toml::from_str(text).map_err(|e| {
            let (line, column) = position(text, e.span().map_or(0, |s| s.start));
            CampaignError::Parse {
                path: path.to_owned(),
                line,
                column,
                message: explain(&e.message().replace('\n', "; ")),
            }
        })?;
        file.validate(path)?;
        Ok(file)
    }

    fn validate(&self, path: &Path) -> Result<(), CampaignError> {
        let bad = |message: String| {
            Err(CampaignError::Invalid {
                path: PathBuf::from(path),
                message,
            })
        };
        if self.format != 1 {
            return bad(format!(
                "format {} is unknown; this xfi reads format 1",
                self.format
            ));
        }
        if self.name.is_empty()
            || !self
                .name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            || self.name.starts_with('.')
        {
            return bad(format!(
                "name '{}' must be letters, digits, '-', '_' or '.', and not begin with '.'",
                self.name
            ));
        }
        let f = &self.faults;
        if f.registers.is_empty() {
            return bad("faults.registers is empty; leave it out for the default".into());
        }
        if let TriggerKind::Deadline { .. } = f.trigger {
            return bad(
                "faults.trigger: a deadline is for single faults; valid: kick, switch".into(),
            );
        }
        if f.vcpus.is_empty() {
            return bad("faults.vcpus is empty; leave it out for vCPU 0".into());
        }
        for bit in f.bits.iter().flatten() {
            if let Some(e) = f.registers.iter().find_map(|r| r.check_bit(*bit).err()) {
                return bad(format!("faults.bits: {e}"));
            }
        }
        if let Some(mask) = f.mask {
            if f.bits.is_some() {
                return bad("faults has both bits and mask; give one of them".into());
            }
            if let Some(e) = f.registers.iter().find_map(|r| r.check_mask(mask.0).err()) {
                return bad(format!("faults.mask: {e}"));
            }
        }
        if f.nth == 0 {
            return bad("faults.nth is 0; valid: 1 and up".into());
        }
        if f.trigger == TriggerKind::Address {
            return bad("faults.trigger 'address' is for hypercalls; valid: kick, switch".into());
        }
        if f.injections + f.golden + f.dummy == 0 {
            return bad("faults asks for no run at all; set injections, golden or dummy".into());
        }
        if self.limits.attempts == 0 {
            return bad("limits.attempts must be at least 1".into());
        }
        if let Err(message) = self.workload.check() {
            return bad(message);
        }
        let TestbedSection::Emulated {
            snapshots, workers, ..
        } = &self.testbed;
        if *snapshots == 0 || *snapshots > 64 {
            return bad(format!("testbed.snapshots is {snapshots}; valid: 1 to 64"));
        }
        if *workers == Some(0) {
            return bad("testbed.workers must be at least 1".into());
        }
        Ok(())
    }
}

/// Line and column, from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (line, column)
}

/// Places that `xfi inject` knows and a campaign does not.
const SINGLE: [&str; 6] = [
    "xen_memory",
    "guest_memory",
    "hypercall",
    "process",
    "kthread",
    "role",
];

fn explain(message: &str) -> String {
    for place in SINGLE {
        if message.starts_with(&format!("unknown field `{place}`")) {
            return format!(
                "faults.{place}: a campaign's faults are in vCPUs' registers (faults.registers); \
                 put single ones elsewhere with xfi inject"
            );
        }
    }
    message.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
format = 1
name = "t"
seed = 7
[testbed]
kind = "emulated"
layout = "http"
[workload]
kind = "http"
clients_per_guest = 2
hash_bytes = 1000
[faults]
injections = 4
golden = 1
dummy = 1
"#;

    fn error(text: &str) -> String {
        CampaignFile::parse(text, Path::new("c.toml"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let c = CampaignFile::parse(GOOD, Path::new("c.toml")).unwrap();
        assert_eq!(c.faults.registers.len(), 18);
        assert_eq!(c.faults.trigger, TriggerKind::Kick);
        assert_eq!(c.limits.attempts, 3);
    }

    #[test]
    fn a_wrong_register_is_named_with_line_and_column() {
        let e = error(&GOOD.replace("dummy = 1", "dummy = 1\nregisters = [\"rbx\", \"foo\"]"));
        assert!(e.starts_with("c.toml:16:"), "{e}");
        assert!(e.contains("'foo'") && e.contains("rax"), "{e}");
    }

    #[test]
    fn an_unknown_field_is_named_with_line_and_column() {
        let e = error(&GOOD.replace("golden = 1", "golden = 1\ngoldne = 2"));
        assert!(e.starts_with("c.toml:15:1:") && e.contains("goldne"), "{e}");
    }

    #[test]
    fn places_that_only_single_faults_have_are_refused_as_such() {
        for place in SINGLE {
            let line = format!("dummy = 1\n{place} = \"x\"");
            let e = error(&GOOD.replace("dummy = 1", &line));
            let says = format!("c.toml:16:1: faults.{place}: ");
            assert!(e.starts_with(&says) && e.contains("xfi inject"), "{e}");
        }
    }

    #[test]
    fn impossible_values_are_refused() {
        for (from, to, says) in [
            ("format = 1", "format = 9", "format 9"),
            ("name = \"t\"", "name = \"../t\"", "../t"),
            (
                "clients_per_guest = 2",
                "clients_per_guest = 0",
                "clients_per_guest",
            ),
            (
                "clients_per_guest = 2",
                "",
                "neither clients_per_guest nor profile",
            ),
            (
                "clients_per_guest = 2",
                "profile = \"heavy\"",
                "no profile 'heavy'; there are full-load",
            ),
            ("hash_bytes = 1000", "hash_bytes = 0", "hash_bytes is 0"),
            (
                "hash_bytes = 1000",
                "hash_bytes = 1\ntime_scale = 0.0",
                "time_scale is 0",
            ),
            ("dummy = 1", "dummy = 1\nbits = [64]", "bit 64"),
            ("dummy = 1", "dummy = 1\nrip = \"0x10..0x5\"", "0x10..0x5"),
            (
                "dummy = 1",
                "dummy = 1\nrip = \"a b\"",
                "'a b' is no symbol",
            ),
            ("dummy = 1", "dummy = 1\nmask = \"0x0\"", "changes nothing"),
            (
                "dummy = 1",
                "dummy = 1\nregisters = [\"cs\"]\nmask = \"0x10001\"",
                "cs (16 bits) that cannot be changed: 16; valid: 0-15",
            ),
            (
                "dummy = 1",
                "dummy = 1\nbits = [0]\nmask = \"0x1\"",
                "both bits and mask",
            ),
            ("dummy = 1", "dummy = 1\nop = \"invert\"", "invert"),
            ("dummy = 1", "dummy = 1\nnth = 0", "nth is 0"),
            (
                "dummy = 1",
                "dummy = 1\ntrigger = \"address\"",
                "valid: kick, switch",
            ),
            ("dummy = 1", "dummy = 1\nwindow = \"soon\"", "soon"),
        ] {
            let e = error(&GOOD.replace(from, to));
            assert!(e.contains(says), "{to}: {e}");
        }
    }
}
