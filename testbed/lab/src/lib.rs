//! What tests on the real, emulated Xen share: a testbed that is put back to its
//! snapshot for each test, and the few things that all of them ask its agent.
//!
//! Tests are skipped, with the reason, where QEMU or the artefacts are missing;
//! never where `CI` is set.

mod ask;
mod host;

pub use ask::{ask, console, inject, next, refusal, run_of, vcpu_fault};
pub use host::Host;

use std::io::Write as _;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use xfi_model::{SnapshotIndex, XenBuild};
use xfi_testbed::{
    AgentLink, Artifacts, EmulatedTestbed, Evidence, Progress, SnapshotSet, Testbed, TestbedError,
    find_layout,
};

/// For one answer: emulation is slow when the machine is busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the whole of a test was asked for: `XFI_LAB=long`.
pub fn long() -> bool {
    std::env::var("XFI_LAB").is_ok_and(|v| v == "long")
}

/// To the terminal, also when the test passes.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// One warm snapshot of a layout in `layouts/`, and what it was made of; none
/// where it cannot be had, with the word that `what` is skipped.
pub fn snapshot(layout: &str, xen: XenBuild, what: &str) -> Option<(Artifacts, SnapshotSet)> {
    let mut layout = find_layout(layout).unwrap_or_else(|e| panic!("layout {layout}: {e}"));
    layout.host.xen = xen;
    let made = Artifacts::find().and_then(|artifacts| {
        let set = SnapshotSet::prepare(&artifacts, &layout, 1, &mut |progress| match progress {
            Progress::Begin { step, expected } => say(&format!("{step} (about {expected:.0?})")),
            Progress::Note { text } => say(&format!("  {text}")),
            Progress::End { .. } => {}
        })?;
        Ok((artifacts, set))
    });
    match made {
        Ok(made) => Some(made),
        Err(
            e @ (TestbedError::NoArtifactRoot
            | TestbedError::NotBuilt { .. }
            | TestbedError::MissingProgram { .. }),
        ) if std::env::var_os("CI").is_none() => {
            say(&format!("SKIPPED: {what}: {e}"));
            None
        }
        Err(e) => panic!("the testbed: {e}"),
    }
}

/// A testbed of one layout.
#[derive(Debug)]
pub struct Lab {
    // Before the directory its evidence is in.
    /// The emulated host.
    pub testbed: EmulatedTestbed,
    /// What it was made of.
    pub artifacts: Artifacts,
    evidence: tempfile::TempDir,
}

impl Lab {
    /// A restored testbed; none, and a word, where it cannot be had.
    pub fn start(layout: &str, what: &str) -> Option<Lab> {
        let mut lab = Self::prepare(layout, what)?;
        lab.reset();
        Some(lab)
    }

    fn prepare(layout: &str, what: &str) -> Option<Lab> {
        let (artifacts, set) = snapshot(layout, XenBuild::Patched, what)?;
        Some(Lab {
            testbed: EmulatedTestbed::new(&set, 0).expect("a testbed"),
            artifacts,
            evidence: tempfile::tempdir().expect("a directory"),
        })
    }

    /// Puts the host back to its snapshot.
    pub fn reset(&mut self) {
        let evidence = Evidence {
            dir: self.evidence.path().to_owned(),
        };
        self.testbed
            .reset(SnapshotIndex(0), &evidence)
            .expect("a restored testbed");
    }

    /// The agent in dom0.
    pub fn agent(&mut self) -> &mut AgentLink {
        self.testbed.agent().expect("the agent")
    }
}

/// A testbed that the tests of one file take turns with.
#[derive(Debug)]
pub struct Shared {
    layout: &'static str,
    what: &'static str,
    lab: OnceLock<Mutex<Option<Lab>>>,
}

impl Shared {
    /// Nothing is started yet.
    pub const fn new(layout: &'static str, what: &'static str) -> Self {
        Shared {
            layout,
            what,
            lab: OnceLock::new(),
        }
    }

    /// The testbed, put back to its snapshot; none where it cannot be had.
    pub fn get(&self) -> Option<Turn<'_>> {
        let mut lab = self
            .lab
            .get_or_init(|| Mutex::new(Lab::prepare(self.layout, self.what)))
            .lock()
            // A test that failed leaves nothing behind that a reset does not undo.
            .unwrap_or_else(PoisonError::into_inner);
        lab.as_mut()?.reset();
        Some(Turn(lab))
    }
}

/// One test's turn.
#[derive(Debug)]
pub struct Turn<'a>(MutexGuard<'a, Option<Lab>>);

impl Deref for Turn<'_> {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        self.0.as_ref().expect("a testbed: it was there")
    }
}

impl DerefMut for Turn<'_> {
    fn deref_mut(&mut self) -> &mut Lab {
        self.0.as_mut().expect("a testbed: it was there")
    }
}
