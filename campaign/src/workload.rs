//! `[workload]`: what loads the guests.

use crate::duration::{self, MaybeAuto, nanoseconds};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use xfi_model::{
    ExecLoad, ExecProtocol, HttpLoad, HttpTarget, LoadModel, LoadSpec, Pacing, ThinkTime, Timing,
};
use xfi_workloads::{exec, http, load};

const MS: u64 = 1_000_000;

/// The clients' first requests are spread over this long, nanoseconds.
const RAMP_UP_NS: u64 = 100 * MS;

/// A restored emulator translates all code anew: first answers take seconds
/// where later ones take a fraction. They precede the flips, and may take so
/// many time-outs, and at least so long.
const FIRST_TIMEOUTS: u64 = 3;
const FIRST_TIMEOUT_MIN_NS: u64 = 4_000 * MS;

/// Fresh clients that ask a guest which left a request unanswered.
const PROBES: u32 = 3;

/// `[workload]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum WorkloadSection {
    /// Apache, a CGI that hashes N zero bytes, closed-loop clients.
    Http {
        /// A load by name, from which the clients and their think time are
        /// taken when they are left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        profile: Option<String>,
        /// Clients for each guest.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clients_per_guest: Option<u32>,
        /// N.
        hash_bytes: u64,
        /// Think time; 0 without a profile.
        #[serde(
            with = "duration::maybe",
            default,
            skip_serializing_if = "Option::is_none"
        )]
        think: Option<Duration>,
        /// Stretches the profile's think time.
        #[serde(default = "unscaled", skip_serializing_if = "is_unscaled")]
        time_scale: f64,
        /// Client timeout.
        #[serde(default)]
        timeout: MaybeAuto,
        /// One connection for many requests.
        #[serde(default)]
        keep_alive: bool,
        /// A service this many times slower than golden runs is `degraded`.
        #[serde(default = "three")]
        degraded_factor: f64,
    },
    /// Any program that asks and judges, or whose result is judged.
    Exec {
        /// The program and its arguments.
        command: Vec<String>,
        /// How it is spoken with.
        #[serde(default)]
        protocol: ExecProtocol,
        /// With `once`: the return code that is right.
        #[serde(default)]
        exit_code: i32,
        /// With `once`: the SHA-256 of what it prints on stdout; by default
        /// that is not looked at.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output_sha256: Option<String>,
        /// A load by name, as for `http`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        profile: Option<String>,
        /// Clients for each guest.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clients_per_guest: Option<u32>,
        /// Think time; 0 without a profile.
        #[serde(
            with = "duration::maybe",
            default,
            skip_serializing_if = "Option::is_none"
        )]
        think: Option<Duration>,
        /// Stretches the profile's think time.
        #[serde(default = "unscaled", skip_serializing_if = "is_unscaled")]
        time_scale: f64,
        /// Client timeout.
        #[serde(default)]
        timeout: MaybeAuto,
        /// As for `http`.
        #[serde(default = "three")]
        degraded_factor: f64,
    },
}

fn three() -> f64 {
    3.0
}
fn unscaled() -> f64 {
    1.0
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_unscaled(factor: &f64) -> bool {
    *factor == 1.0
}

/// What every workload's section has.
struct Common<'a> {
    profile: Option<&'a str>,
    clients: Option<u32>,
    think: Option<Duration>,
    time_scale: f64,
    timeout: MaybeAuto,
    degraded_factor: f64,
}

impl WorkloadSection {
    fn common(&self) -> Common<'_> {
        match self {
            WorkloadSection::Http {
                profile,
                clients_per_guest,
                think,
                time_scale,
                timeout,
                degraded_factor,
                ..
            }
            | WorkloadSection::Exec {
                profile,
                clients_per_guest,
                think,
                time_scale,
                timeout,
                degraded_factor,
                ..
            } => Common {
                profile: profile.as_deref(),
                clients: *clients_per_guest,
                think: *think,
                time_scale: *time_scale,
                timeout: *timeout,
                degraded_factor: *degraded_factor,
            },
        }
    }

    /// The client timeout.
    pub fn timeout(&self) -> MaybeAuto {
        self.common().timeout
    }

    /// A service this many times slower than golden runs is `degraded`.
    pub fn degraded_factor(&self) -> f64 {
        self.common().degraded_factor
    }

    /// What is wrong with the section, in a line without the file's name.
    pub(crate) fn check(&self) -> Result<(), String> {
        let c = self.common();
        if let Some(name) = c.profile {
            load::profile(name, 0).map_err(|e| format!("workload.profile: {e}"))?;
        } else if c.clients.is_none() {
            return Err("workload has neither clients_per_guest nor profile; give one".into());
        }
        if let Some(clients @ (0 | 1001..)) = c.clients {
            return Err(format!(
                "workload.clients_per_guest is {clients}; valid: 1 to 1000"
            ));
        }
        if !c.degraded_factor.is_finite() || c.degraded_factor <= 1.0 {
            return Err(format!(
                "workload.degraded_factor is {}; must be above 1",
                c.degraded_factor
            ));
        }
        if !c.time_scale.is_finite() || c.time_scale <= 0.0 {
            return Err(format!(
                "workload.time_scale is {}; must be above 0",
                c.time_scale
            ));
        }
        match self {
            WorkloadSection::Http { hash_bytes, .. } => {
                http::check_hash_bytes(*hash_bytes).map_err(|e| format!("workload: {e}"))
            }
            WorkloadSection::Exec {
                command,
                protocol,
                exit_code,
                output_sha256,
                ..
            } => exec::check(command, *protocol, *exit_code, output_sha256.as_deref())
                .map_err(|e| format!("workload: {e}")),
        }
    }

    /// What the driver is told to do for `load_ns`.
    pub(crate) fn spec(
        &self,
        targets: Vec<HttpTarget>,
        load_ns: u64,
        timing: &Timing,
        seed: u64,
    ) -> LoadSpec {
        let load = self.load(load_ns, timing, seed);
        match self {
            WorkloadSection::Http {
                hash_bytes,
                keep_alive,
                ..
            } => LoadSpec::Http(HttpLoad {
                targets,
                path: format!("/cgi-bin/sha1?n={hash_bytes}"),
                hash_bytes: *hash_bytes,
                keep_alive: *keep_alive,
                load,
            }),
            WorkloadSection::Exec {
                command,
                protocol,
                exit_code,
                output_sha256,
                ..
            } => LoadSpec::Exec(ExecLoad {
                targets,
                command: command.clone(),
                protocol: *protocol,
                exit_code: *exit_code,
                output_sha256: output_sha256.clone(),
                load,
            }),
        }
    }

    fn load(&self, load_ns: u64, timing: &Timing, seed: u64) -> LoadModel {
        let c = self.common();
        let ramp_up_ns = RAMP_UP_NS.min(load_ns / 10);
        // Checked beforehand: the profile is one there is.
        let named = c.profile.and_then(|name| load::profile(name, seed).ok());
        let named = named.map(|p| load::scale(&p, c.time_scale));
        let think_ns = match (c.think, named.as_ref().map(|p| p.pacing)) {
            (Some(think), _) => nanoseconds(think),
            (None, Some(Pacing::Closed { think_ns, .. })) => think_ns,
            (None, _) => 0,
        };
        LoadModel {
            profile: c.profile.map(str::to_owned),
            clients: c.clients.or(named.as_ref().map(|p| p.clients)).unwrap_or(1),
            pacing: Pacing::Closed {
                think_ns,
                distribution: ThinkTime::Fixed,
            },
            ramp_up_ns,
            duration_ns: load_ns - ramp_up_ns,
            requests_per_client: None,
            timeout_ns: timing.timeout_ns,
            first_timeout_ns: (FIRST_TIMEOUTS * timing.timeout_ns).max(FIRST_TIMEOUT_MIN_NS),
            probes: PROBES,
            time_scale: c.time_scale,
            seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> WorkloadSection {
        toml::from_str(text).unwrap()
    }

    fn timing() -> Timing {
        Timing {
            lead_ns: 0,
            moments_ns: 0,
            window_ns: 0,
            timeout_ns: 2_000 * MS,
            expire_after_moment_ns: 0,
            golden_period_ns: 0,
            golden_p999_ns: 0,
        }
    }

    fn think_ms(load: &LoadModel) -> u64 {
        match load.pacing {
            Pacing::Closed { think_ns, .. } => think_ns / MS,
            Pacing::Open { .. } => panic!("a campaign's loop is closed"),
        }
    }

    #[test]
    fn a_profile_gives_clients_and_think_time_and_is_stretched() {
        let base = "kind = \"http\"\nhash_bytes = 1\nprofile = \"full-load\"\n";
        let load = section(base).load(3_000 * MS, &timing(), 1);
        assert_eq!((load.clients, think_ms(&load)), (25, 50));
        let slow = section(&format!("{base}time_scale = 3.0")).load(3_000 * MS, &timing(), 1);
        assert_eq!((think_ms(&slow), slow.time_scale), (150, 3.0));
        assert_eq!(
            slow.timeout_ns,
            2_000 * MS,
            "that is the golden runs' affair"
        );
        let own = format!("{base}clients_per_guest = 2\nthink = \"7ms\"\ntime_scale = 3.0");
        let load = section(&own).load(3_000 * MS, &timing(), 1);
        assert_eq!((load.clients, think_ms(&load)), (2, 7));
        assert_eq!(load.profile.as_deref(), Some("full-load"));
    }

    #[test]
    fn a_load_lasts_as_long_as_the_run_with_its_ramp_up() {
        let section = section("kind = \"http\"\nhash_bytes = 1\nclients_per_guest = 1");
        for (load_ms, ramp_up_ms) in [(3_000, 100), (500, 50)] {
            let load = section.load(load_ms * MS, &timing(), 1);
            assert_eq!(load.ramp_up_ns, ramp_up_ms * MS);
            assert_eq!(load.ramp_up_ns + load.duration_ns, load_ms * MS);
        }
    }

    #[test]
    fn a_program_of_ones_own_is_told_to_the_driver() {
        let text = "kind = \"exec\"\ncommand = [\"./ask\", \"-x\"]\nprotocol = \"lines\"\n\
                    clients_per_guest = 3";
        let section = section(text);
        section.check().unwrap();
        let LoadSpec::Exec(load) = section.spec(Vec::new(), 1_000 * MS, &timing(), 9) else {
            panic!("not a program's load");
        };
        assert_eq!(load.command, ["./ask", "-x"]);
        assert_eq!(load.protocol, ExecProtocol::Lines);
        assert_eq!((load.load.clients, load.load.seed), (3, 9));
        for (change, says) in [
            ("exit_code = 3", "judges by itself"),
            ("output_sha256 = \"12\"", "'12'"),
        ] {
            let bad: WorkloadSection = toml::from_str(&format!("{text}\n{change}")).unwrap();
            let error = bad.check().unwrap_err();
            assert!(
                error.starts_with("workload: ") && error.contains(says),
                "{error}"
            );
        }
        let none = text.replace("[\"./ask\", \"-x\"]", "[]");
        let error = toml::from_str::<WorkloadSection>(&none).unwrap().check();
        assert!(error.unwrap_err().contains("a program must be named"));
    }
}
