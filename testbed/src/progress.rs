//! Telling a person what is going on.

use std::time::Duration;

/// Something that happens while a testbed is made ready.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// A step begins.
    Begin {
        /// What it does, such as `booting Xen and dom0 (snapshot 1 of 2)`.
        step: &'a str,
        /// How long it took on the machine this was measured on.
        expected: Duration,
    },
    /// Something worth a line within a step.
    Note {
        /// The line.
        text: &'a str,
    },
    /// The step ended well.
    End {
        /// The step.
        step: &'a str,
        /// How long it took.
        took: Duration,
    },
}

/// Who is told. `&mut |_| ()` tells nobody.
pub type ProgressFn<'a> = dyn FnMut(Progress<'_>) + 'a;

/// Runs `work` as a step.
pub(crate) fn step<T, E>(
    progress: &mut ProgressFn<'_>,
    name: &str,
    expected: Duration,
    work: impl FnOnce(&mut ProgressFn<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let start = std::time::Instant::now();
    progress(Progress::Begin {
        step: name,
        expected,
    });
    let out = work(progress)?;
    progress(Progress::End {
        step: name,
        took: start.elapsed(),
    });
    Ok(out)
}
