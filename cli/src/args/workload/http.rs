//! Arguments of `xfi workload http`.

use super::LoadArgs;
use clap::Args;
use std::path::PathBuf;

/// Load a web server and check every answer, byte for byte.
///
/// What is right comes from --hash-bytes (the CGI of xfi's web guests, which
/// hashes so many zero bytes), from --expect-sha1 or --expect-file, or else from
/// two answers that are fetched beforehand and must be equal.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xfi workload http --url http://127.0.0.1:8080/index.html --for 10s
  xfi workload http --url http://127.0.0.1:8080/cgi-bin/sha1?n=65536 --profile ten-clients
  xfi workload http --url http://server/ --open-loop 200 --clients 50 --output json

Exit codes: 0 all answers right, 8 some were not, 130 interrupted with all right so far;
else as in `xfi --help`, 4 being no server.")]
pub(crate) struct Http {
    /// The page; http alone.
    #[arg(long, value_name = "URL")]
    pub(crate) url: String,
    /// The page is the CGI's with the SHA-1 of so many zero bytes; by default the URL's n, when
    /// its path ends in /sha1.
    #[arg(long, value_name = "N", conflicts_with_all = ["expect_sha1", "expect_file"])]
    pub(crate) hash_bytes: Option<u64>,
    /// The body's SHA-1.
    #[arg(long, value_name = "HASH", conflicts_with = "expect_file")]
    pub(crate) expect_sha1: Option<String>,
    /// The body.
    #[arg(long, value_name = "FILE")]
    pub(crate) expect_file: Option<PathBuf>,
    /// Open a connection for each request instead of keeping it.
    #[arg(long)]
    pub(crate) connection_per_request: bool,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}
