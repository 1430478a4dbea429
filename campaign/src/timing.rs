//! Timings of a plan, given or derived from golden runs (DESIGN §4, "Time").

use crate::duration::nanoseconds;
use crate::{Calibration, CampaignError, CampaignFile};
use std::path::Path;
use xfi_model::Timing;

const MS: u64 = 1_000_000;

/// Load before the earliest flip. A restored emulator translates code anew:
/// its first answers take most of a second.
const LEAD_NS: u64 = 1_000 * MS;

/// A client timeout is never shorter: a scheduling hiccup of a shared machine
/// must not pass for a failure.
const TIMEOUT_MIN_NS: u64 = 500 * MS;

/// A client timeout over the golden p99.9. With twice, 2 of 10 golden and dummy
/// runs timed out while a third emulator shared two cores.
const TIMEOUT_FACTOR: u64 = 3;

/// Drawn moments span at least this many golden request periods.
const MOMENT_PERIODS: u64 = 10;

/// Resolves every timing of the campaign.
///
/// # Errors
/// [`CampaignError::Invalid`] when the window is shorter than the client
/// timeout plus the golden p99.9: a failure at the window's end would go
/// unseen.
pub fn resolve(
    file: &CampaignFile,
    path: &Path,
    golden: &Calibration,
) -> Result<Timing, CampaignError> {
    let timeout_ns = file.workload.timeout().ns_or(|| {
        round_up(
            (TIMEOUT_FACTOR * golden.p999_ns).max(TIMEOUT_MIN_NS),
            50 * MS,
        )
    });
    let least_window = timeout_ns + golden.p999_ns;
    let window_ns = file
        .faults
        .window
        .ns_or(|| round_up(least_window, 100 * MS));
    if window_ns < least_window {
        return Err(CampaignError::Invalid {
            path: path.to_owned(),
            message: format!(
                "faults.window is {} ms, shorter than the client timeout ({} ms) plus the golden \
                 p99.9 ({} ms); set at least \"{}ms\", or \"auto\"",
                window_ns / MS,
                timeout_ns / MS,
                golden.p999_ns / MS,
                least_window.div_ceil(MS)
            ),
        });
    }
    Ok(Timing {
        lead_ns: LEAD_NS,
        moments_ns: file
            .faults
            .moments
            .ns_or(|| round_up(MOMENT_PERIODS * golden.period_ns, 100 * MS)),
        window_ns,
        timeout_ns,
        expire_after_moment_ns: nanoseconds(file.faults.expire),
        golden_period_ns: golden.period_ns,
        golden_p999_ns: golden.p999_ns,
    })
}

fn round_up(value: u64, step: u64) -> u64 {
    value.div_ceil(step) * step
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(extra: &str) -> CampaignFile {
        let text = format!(
            "format=1\nname=\"t\"\nseed=1\n[testbed]\nkind=\"emulated\"\nlayout=\"http\"\n\
             [workload]\nkind=\"http\"\nclients_per_guest=2\nhash_bytes=1\n\
             [faults]\ninjections=1\ngolden=0\ndummy=0\n{extra}"
        );
        CampaignFile::parse(&text, Path::new("c.toml")).unwrap()
    }

    fn golden() -> Calibration {
        Calibration {
            p999_ns: 400 * MS,
            period_ns: 110 * MS,
            ..Calibration::default()
        }
    }

    #[test]
    fn derived_timings_follow_the_golden_runs() {
        let t = resolve(&file(""), Path::new("c.toml"), &golden()).unwrap();
        assert_eq!(t.timeout_ns, 1200 * MS);
        assert_eq!(t.window_ns, 1600 * MS);
        assert_eq!(t.moments_ns, 1100 * MS);
    }

    #[test]
    fn a_window_too_short_to_see_a_timeout_is_refused() {
        let e = resolve(&file("window = \"1s\""), Path::new("c.toml"), &golden()).unwrap_err();
        assert!(e.to_string().contains("1600ms"), "{e}");
    }
}
