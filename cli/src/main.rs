//! The `xfi` command: parsing, printing, exit codes, nothing else.

mod args;
mod campaign;
mod doctor;
mod exit;
mod host;
mod inject;
mod inject_task;
mod livepatch;
mod locations;
mod memory;
mod output;
mod peek;
mod profile;
mod progress;
mod report;
mod show;
mod status;
mod testbed;
mod workload;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.verbose);
    let result = match cli.command {
        Command::Doctor(o) => doctor::run(o.output),
        Command::Testbed(command) => testbed::run(command),
        Command::Livepatch(command) => livepatch::run(command),
        Command::Domains(o) => host::domains(o.output),
        Command::Inject(args) => inject::run(&args),
        Command::Locations(args) => locations::run(&args),
        Command::Peek(args) => peek::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Status(o) => status::status(o.output),
        Command::Disarm { id, output, .. } => status::disarm(id, output.output),
        Command::Campaign(command) => campaign::run(command),
        Command::Report { dir, out, output } => report::run(&dir, out.as_deref(), output.output),
        Command::Workload(command) => workload::run(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let exit = exit::code_of(&e);
            output::error(&format!("{e:#}"));
            ExitCode::from(exit as u8)
        }
    }
}

fn start_log(verbose: bool) {
    let filter =
        std::env::var("XFI_LOG").unwrap_or_else(|_| if verbose { "debug" } else { "warn" }.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
}
