//! Loads by name, stretched, and checked.

use crate::WorkloadError;
use xfi_model::{LoadModel, Pacing, ThinkTime};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// More than this many clients in one driver is a typing error.
const MAX_CLIENTS: u64 = 10_000;

/// A load by name, of thesis §4.1.2.1 or §6.3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Clients of each service.
    pub clients: u32,
    /// From an answer to the next request, nanoseconds.
    pub think_ns: u64,
}

/// All profiles.
///
/// The thesis says of those of §6.3.2 that a client asks once every 50 ms or
/// once a second. It was a pause after each answer: its Table 19 has 96
/// requests of the one client at 0.09 s an answer and 79 at 0.24 s, and
/// 96 × 1.09 s and 79 × 1.24 s are about the same time, while 1 s from start to
/// start would have given equal numbers.
pub const PROFILES: [Profile; 3] = [
    Profile {
        name: "full-load",
        about: "25 clients, each asks again 50 ms after an answer (thesis §6.3.2)",
        clients: 25,
        think_ns: 50 * MS,
    },
    Profile {
        name: "light-load",
        about: "1 client, asks again 1 s after an answer (thesis §6.3.2)",
        clients: 1,
        think_ns: SECOND,
    },
    Profile {
        name: "ten-clients",
        about: "10 clients that ask again at once (thesis §4.1.2.1)",
        clients: 10,
        think_ns: 0,
    },
];

/// The load of a profile: 30 s after a ramp-up of 1 s, with the client time-out
/// of thesis §4.2, 20 s.
///
/// # Errors
/// [`WorkloadError::NoSuchProfile`], which names those there are.
pub fn profile(name: &str, seed: u64) -> Result<LoadModel, WorkloadError> {
    let Some(profile) = PROFILES.iter().find(|p| p.name == name) else {
        return Err(WorkloadError::NoSuchProfile {
            name: name.to_owned(),
        });
    };
    Ok(LoadModel {
        profile: Some(profile.name.to_owned()),
        clients: profile.clients,
        pacing: Pacing::Closed {
            think_ns: profile.think_ns,
            distribution: ThinkTime::Fixed,
        },
        ramp_up_ns: SECOND,
        duration_ns: 30 * SECOND,
        requests_per_client: None,
        timeout_ns: 20 * SECOND,
        first_timeout_ns: 0,
        probes: 3,
        time_scale: 1.0,
        seed,
    })
}

/// Stretches think time and client time-outs by a factor, and lowers the rate
/// by it, for a system that is so many times slower than real hosts. The
/// duration stays. The factor is in the result's `time_scale`.
pub fn scale(load: &LoadModel, factor: f64) -> LoadModel {
    let stretched = |ns: u64| (ns as f64 * factor) as u64;
    LoadModel {
        pacing: match load.pacing {
            Pacing::Closed {
                think_ns,
                distribution,
            } => Pacing::Closed {
                think_ns: stretched(think_ns),
                distribution,
            },
            Pacing::Open { rate_per_s } => Pacing::Open {
                rate_per_s: rate_per_s / factor,
            },
        },
        timeout_ns: stretched(load.timeout_ns),
        first_timeout_ns: stretched(load.first_timeout_ns),
        time_scale: load.time_scale * factor,
        ..load.clone()
    }
}

/// Checks that a load can be applied to so many services.
///
/// # Errors
/// [`WorkloadError::Invalid`].
pub fn validate_model(load: &LoadModel, services: usize) -> Result<(), WorkloadError> {
    let invalid = |field, value: String, valid| {
        Err(WorkloadError::Invalid {
            field,
            value,
            valid,
        })
    };
    let clients = u64::from(load.clients).saturating_mul(services as u64);
    if clients == 0 || clients > MAX_CLIENTS {
        return invalid(
            "clients",
            load.clients.to_string(),
            "1 to 10000 over all services",
        );
    }
    for (field, value) in [
        ("timeout_ns", load.timeout_ns),
        ("duration_ns", load.duration_ns),
    ] {
        if value == 0 {
            return invalid(field, value.to_string(), "it must be greater than 0");
        }
    }
    if load.requests_per_client == Some(0) {
        return invalid("requests_per_client", "0".into(), "at least 1");
    }
    if let Pacing::Open { rate_per_s } = load.pacing
        && !(rate_per_s.is_finite() && rate_per_s > 0.0 && rate_per_s <= 1e7)
    {
        return invalid(
            "rate_per_s",
            rate_per_s.to_string(),
            "above 0, at most 10000000",
        );
    }
    if !(load.time_scale.is_finite() && load.time_scale > 0.0) {
        return invalid(
            "time_scale",
            load.time_scale.to_string(),
            "it must be greater than 0",
        );
    }
    Ok(())
}
