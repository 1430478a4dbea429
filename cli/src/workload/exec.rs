//! `xfi workload exec`.

use super::{apply, model};
use crate::args::Exec;
use anyhow::Result;
use std::time::Duration;
use xfi_model::ExecProtocol;
use xfi_workloads::block_on;
use xfi_workloads::exec::{ExecWorkload, check, golden_output};

/// Runs the command.
pub(super) fn run(args: &Exec) -> Result<()> {
    let model = model(&args.load)?;
    let protocol = if args.json_lines {
        ExecProtocol::Lines
    } else {
        ExecProtocol::Once
    };
    let given = args.expect_sha256.clone();
    check(&args.command, protocol, args.expect_code, given.as_deref())?;
    let output_sha256 = if args.expect_first {
        let patience = Duration::from_nanos(model.timeout_ns);
        let golden = golden_output(&args.command, args.expect_code, patience);
        Some(block_on(golden)?)
    } else {
        given
    };
    let program = args.command.first().cloned().unwrap_or_default();
    let workload = ExecWorkload::of_command(
        vec![(program, args.addr)],
        args.command.clone(),
        protocol,
        args.expect_code,
        output_sha256,
    )?;
    apply(&args.command.join(" "), &workload, &model, &args.load)
}
