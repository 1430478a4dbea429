//! Checking what the driver is told.

use crate::WorkloadError;
use crate::load::validate_model;
use std::collections::BTreeSet;
use xfi_model::HttpLoad;

/// Checks that an HTTP load can be applied.
///
/// # Errors
/// [`WorkloadError::Invalid`].
pub fn validate(load: &HttpLoad) -> Result<(), WorkloadError> {
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
    validate_model(&load.load, load.targets.len())?;
    if !load.path.starts_with('/') || load.path.parse::<hyper::Uri>().is_err() {
        return invalid(
            "path",
            format!("{:?}", load.path),
            "it must be the path and query of a URL, such as /cgi-bin/sha1?n=65536",
        );
    }
    check_hash_bytes(load.hash_bytes)?;
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

/// The CGI hashes no more than this, bytes.
const MAX_HASH_BYTES: u64 = 1 << 30;

/// Checks N.
///
/// # Errors
/// [`WorkloadError::Invalid`].
pub fn check_hash_bytes(n: u64) -> Result<(), WorkloadError> {
    if (1..=MAX_HASH_BYTES).contains(&n) {
        return Ok(());
    }
    Err(WorkloadError::Invalid {
        field: "hash_bytes",
        value: n.to_string(),
        valid: "1 to 1073741824 are what the CGI hashes",
    })
}

fn query_n(path: &str) -> Option<&str> {
    let (_, query) = path.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix("n="))
}
