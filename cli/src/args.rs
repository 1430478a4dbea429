//! Arguments as typed. What needs more than syntax is validated by the
//! commands, so that each mistake is told in one line.

mod inject;
mod workload;

pub(crate) use inject::{Inject, Locations, Mode, Trigger};
pub(crate) use workload::{Exec, Http, LoadArgs, Workload};

use crate::peek::Peek;
use crate::profile::Profile;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use xfi_model::XenRelease;
use xfi_testbed::{TestbedError, release_asked_for};

/// Flip a bit in a running Xen system and see what its users would have seen.
#[derive(Debug, Parser)]
#[command(
    name = "xfi",
    version,
    max_term_width = 100,
    after_help = "\
First steps:
  xfi doctor                            what this machine can do, and what is missing
  xfi testbed up                        start a complete emulated Xen host
  xfi inject --reg rbx --bit 21         flip one bit in a running guest
  xfi campaign run examples/http-quick.toml
                                        60 runs against a web server, then a report

Exit codes:
  0  done                     5  no such domain, or none could be chosen
  1  failed                   6  another xfi is at it
  2  bad arguments or file    7  campaign stopped early; resume it
  3  injection did not fire   8  workload: an answer was wrong or missing
  4  no testbed, no Xen host, no server, or a prerequisite missing
  130  interrupted"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Say more on stderr (also: XFI_LOG=debug).
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check what this machine can do and say how to get what is missing.
    Doctor(OutputArgs),
    /// Build, start, stop and enter the emulated Xen host.
    #[command(subcommand)]
    Testbed(Testbed),
    /// Inject on Debian's own Xen: patch it while it runs, without a reboot.
    #[command(subcommand)]
    Livepatch(Livepatch),
    /// List the domains of the Xen host.
    Domains(OutputArgs),
    /// Flip bits: of a register of a guest's vCPU, of Xen inside a hypercall or of a task; of
    /// memory.
    Inject(Box<Inject>),
    /// List hypercalls, or the numbered instructions of one hypercall's handler.
    Locations(Locations),
    /// Read words of Xen's memory, or of a domain's.
    Peek(Peek),
    /// Count which hypercalls are made, how often, and how long they take.
    Profile(Profile),
    /// Show armed and recent injections, wherever they are.
    Status(OutputArgs),
    /// Disarm all injections, or one by its id.
    Disarm {
        /// The injection's id, as `xfi status` shows it.
        #[arg(long, value_name = "ID")]
        id: Option<u64>,
        /// All of them, in Xen, in tasks and in memory; the same as no id.
        #[arg(long, conflicts_with = "id")]
        all: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Plan, run, resume and look at campaigns.
    #[command(subcommand)]
    Campaign(Campaign),
    /// Classify a campaign's journal and write its report.
    Report {
        /// The run directory; by default the latest.
        #[arg(default_value = "runs/latest")]
        dir: PathBuf,
        /// Where the report goes; by default DIR/report.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Load a server and check every answer; no Xen is needed.
    #[command(subcommand)]
    Workload(Workload),
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// How results are printed on stdout.
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(crate) output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Testbed {
    /// Build the patched Xen, the image and the agent (as root; cached).
    Build {
        #[command(flatten)]
        release: ReleaseArg,
    },
    /// Start the emulated host; it stays up until `xfi testbed down`.
    Up {
        /// A layout's name, or the path of a layout file.
        #[arg(long, default_value = "http")]
        layout: String,
        /// The Xen that boots, instead of the layout's.
        #[arg(long, value_enum, value_name = "XEN")]
        xen: Option<Xen>,
        #[command(flatten)]
        release: ReleaseArg,
        /// The port on 127.0.0.1 for SSH to dom0; by default a free one.
        #[arg(long, value_name = "PORT")]
        ssh_port: Option<u16>,
    },
    /// Stop the emulated host and remove what it left.
    Down,
    /// Show whether it is up, and where.
    Status(OutputArgs),
    /// Put it back to its warm snapshot.
    Reset,
    /// Log in to dom0, or run a command there.
    Ssh {
        /// The command; none for a shell.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Print Xen's and dom0's serial console.
    Console {
        /// Keep printing what comes.
        #[arg(short, long)]
        follow: bool,
    },
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ReleaseArg {
    /// Xen's release, and with it Debian's in dom0 and guests: 4.20 (Debian 13) or 4.17
    /// (Debian 12); by default $XFI_XEN, else the layout's, else 4.20.
    #[arg(long, value_name = "RELEASE", value_parser = releases())]
    pub(crate) release: Option<XenRelease>,
}

impl ReleaseArg {
    /// The release given here, else the one that `$XFI_XEN` asks for, else the usual one.
    pub(crate) fn or_asked_for(self) -> Result<XenRelease, TestbedError> {
        match self.release {
            Some(release) => Ok(release),
            None => Ok(release_asked_for()?.unwrap_or_default()),
        }
    }
}

fn releases() -> impl TypedValueParser<Value = XenRelease> {
    PossibleValuesParser::new(XenRelease::ALL.map(XenRelease::name))
        .map(|name| XenRelease::named(&name).unwrap_or_default())
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Xen {
    /// Ours, with the injector built in.
    Patched,
    /// Debian's own binary; see `xfi livepatch`.
    Stock,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Livepatch {
    /// Build the payload for the Xen of Debian that is pinned, and get that Xen (cached).
    Build {
        #[command(flatten)]
        release: ReleaseArg,
    },
    /// Load it into the running Xen, in dom0 or on the testbed that is up.
    Load {
        /// The payload; by default what `xfi livepatch build` made.
        #[arg(long, value_name = "FILE")]
        payload: Option<PathBuf>,
    },
    /// Disarm everything, and take it out again.
    Unload,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Campaign {
    /// Show what a campaign file would do: runs, fault space, timings, precision.
    Plan {
        /// The campaign file.
        file: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Run a campaign and write its report.
    Run {
        /// The campaign file.
        file: PathBuf,
        /// The run directory; by default runs/<name>-<time>.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Testbeds at once, instead of the file's number.
        #[arg(long, value_name = "N")]
        workers: Option<u32>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Go on with a campaign that was stopped or killed.
    Resume {
        /// The run directory.
        #[arg(default_value = "runs/latest")]
        dir: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show a campaign's runs, or one run's whole story.
    Show {
        /// The run directory.
        #[arg(default_value = "runs/latest")]
        dir: PathBuf,
        /// One run's number.
        #[arg(long, value_name = "N")]
        run: Option<u32>,
        #[command(flatten)]
        output: OutputArgs,
    },
}
