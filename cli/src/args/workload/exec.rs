//! Arguments of `xfi workload exec`.

use super::LoadArgs;
use clap::Args;
use std::net::SocketAddr;

/// Load anything by a program of your own.
///
/// The program runs once for each request, and is right when its return code and, if asked for,
/// the SHA-256 of its output are. With --json-lines it runs once for each client, reads requests
/// and writes verdicts. Its environment has XFI_GUEST, XFI_ADDR, XFI_CLIENT, XFI_SEQ and
/// XFI_RANDOM; see docs/workloads.md.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xfi workload exec --profile light-load --for 10s -- curl -sf http://127.0.0.1:8080/
  xfi workload exec --expect-first --clients 4 --think 0s -- sha1sum /bin/ls
  xfi workload exec --json-lines -- ./my-client.py

Exit codes: 0 all answers right, 8 some were not, 130 interrupted with all right so far;
else as in `xfi --help`.")]
pub(crate) struct Exec {
    /// The program reads requests and writes verdicts, one JSON object a line.
    #[arg(long, conflicts_with_all = ["expect_code", "expect_sha256", "expect_first"])]
    pub(crate) json_lines: bool,
    /// The return code that is right.
    #[arg(long, value_name = "CODE", default_value_t = 0)]
    pub(crate) expect_code: i32,
    /// The SHA-256 of the output that is right.
    #[arg(long, value_name = "HASH", conflicts_with = "expect_first")]
    pub(crate) expect_sha256: Option<String>,
    /// The output of two runs made beforehand is right; they must be equal.
    #[arg(long)]
    pub(crate) expect_first: bool,
    /// What the program is told in XFI_ADDR.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) addr: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// The program and its arguments.
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}
