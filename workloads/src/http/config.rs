//! Reading and checking what the driver is told.

use super::Config;
use crate::WorkloadError;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// More than this many clients in one driver is a typing error.
const MAX_CLIENTS: u64 = 10_000;

/// Reads a [`Config`] from a JSON file and checks it.
pub fn load_config(path: &Path) -> Result<Config, WorkloadError> {
    let text = fs::read(path).map_err(|source| WorkloadError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse_config(path, &text)
}

/// Parses and checks the text of a load's file; `path` is for messages alone.
pub fn parse_config(path: &Path, text: &[u8]) -> Result<Config, WorkloadError> {
    let load: Config = serde_json::from_slice(text).map_err(|source| WorkloadError::Spec {
        path: path.to_owned(),
        source,
    })?;
    validate(&load)?;
    Ok(load)
}

/// Checks that a load can be applied.
pub fn validate(load: &Config) -> Result<(), WorkloadError> {
    let invalid = |field, value: String, valid| {
        Err(WorkloadError::Invalid {
            field,
            value,
            valid,
        })
    };
    if load.targets.is_empty() {
        return invalid(
            "targets",
            "empty".into(),
            "at least one guest must be loaded",
        );
    }
    let mut names = BTreeSet::new();
    for target in &load.targets {
        if !names.insert(&target.guest) {
            return invalid("targets", target.guest.clone(), "each guest may occur once");
        }
    }
    let clients = u64::from(load.clients_per_guest) * load.targets.len() as u64;
    if clients == 0 || clients > MAX_CLIENTS {
        return invalid(
            "clients_per_guest",
            load.clients_per_guest.to_string(),
            "1 to 10000 over all guests",
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
    if !load.path.starts_with('/') || load.path.parse::<hyper::Uri>().is_err() {
        return invalid(
            "path",
            format!("{:?}", load.path),
            "it must be the path and query of a URL, such as /cgi-bin/sha1?n=65536",
        );
    }
    if let Some(n) = query_n(&load.path)
        && n != load.hash_bytes.to_string()
    {
        return invalid(
            "path",
            format!("{:?}", load.path),
            "its n must be equal to hash_bytes",
        );
    }
    Ok(())
}

fn query_n(path: &str) -> Option<&str> {
    let (_, query) = path.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix("n="))
}
