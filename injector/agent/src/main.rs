//! `xfi-agent`: the program in dom0 that arms, runs and reports.
//!
//! It speaks the protocol of `xfi-model` (JSON objects, one a line) over a
//! virtio-serial port or its standard streams. One thread, one loop: between
//! two questions to Xen nothing here runs, so that the system under test is
//! disturbed as little as can be.

mod agent;
mod channel;
mod host;
mod lines;
mod owner;
#[cfg(feature = "dom0")]
mod ramdisk;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
usage: xfi-agent --device PATH | --stdio | --xenstore

  --device PATH   serve on a character device (a virtio-serial port), for ever
  --stdio         serve on the standard streams, until the input ends
  --xenstore      serve dom0's agent, in a guest, for ever
  --version       print the version

Arms faults only on a host that has opted in: touch /etc/xfi/allow-injection.
";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let words: Vec<_> = args
        .iter()
        .map(|a| a.to_str().unwrap_or_default())
        .collect();
    let channel = match words.as_slice() {
        ["--device", _] => channel::Channel::device(PathBuf::from(&args[1])),
        ["--xenstore"] => match channel::Channel::store() {
            Ok(channel) => channel,
            Err(e) => {
                eprintln!("xfi-agent: {e}");
                return ExitCode::FAILURE;
            }
        },
        ["--stdio"] => channel::Channel::stdio(),
        ["--version"] => {
            println!(
                "xfi-agent {} (protocol {})",
                env!("CARGO_PKG_VERSION"),
                xfi_model::PROTOCOL_VERSION
            );
            return ExitCode::SUCCESS;
        }
        ["--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("xfi-agent: {}\n{USAGE}", complaint(&words));
            return ExitCode::from(2);
        }
    };
    match agent::Agent::new(channel).and_then(agent::Agent::serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xfi-agent: {e}");
            ExitCode::FAILURE
        }
    }
}

fn complaint(words: &[&str]) -> String {
    match words {
        [] => "say where to serve".to_owned(),
        ["--device"] => "--device needs a path".to_owned(),
        [first, ..] => format!("unknown arguments, from '{first}' on"),
    }
}
