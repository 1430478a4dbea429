//! `xfi workload http`.

use super::{apply, model};
use crate::args::Http;
use anyhow::{Context, Result};
use std::time::Duration;
use xfi_workloads::block_on;
use xfi_workloads::http::{Expect, HttpUrl, HttpWorkload};

/// Runs the command.
pub(super) fn run(args: &Http) -> Result<()> {
    let model = model(&args.load)?;
    let url = HttpUrl::parse(&args.url)?;
    let hash_bytes = args.hash_bytes.or_else(|| url.hash_bytes());
    let expect = match (&args.expect_sha1, &args.expect_file, hash_bytes) {
        (Some(sha1), _, _) => Expect::Sha1(sha1.clone()),
        (_, Some(path), _) => Expect::Body(
            std::fs::read(path)
                .with_context(|| format!("--expect-file: cannot read {}", path.display()))?,
        ),
        (_, _, Some(n)) => Expect::HashOfZeros(n),
        _ => Expect::First,
    };
    let patience = Duration::from_nanos(model.timeout_ns);
    let keep_alive = !args.connection_per_request;
    let workload = block_on(HttpWorkload::of_url(&url, expect, keep_alive, patience))?;
    apply(&args.url, &workload, &model, &args.load)
}
