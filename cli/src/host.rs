//! Which Xen host a command acts on, and simple questions to it.

use crate::args::Output;
use crate::exit::{Exit, coded};
use crate::output;
use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};
use std::time::Duration;
use xfi_model::{
    AgentErrorCode, AgentHello, Command, DomId, DomainInfo, Event, EventBody, HostLayout,
    PROTOCOL_VERSION,
};
use xfi_testbed::up::Up;
use xfi_testbed::{AgentLink, Artifacts, TestbedError};

/// An emulated host that has just been restored answers this late at most.
const PATIENCE: Duration = Duration::from_secs(20);

/// A Xen host with its agent.
pub(crate) struct Host {
    link: AgentLink,
    /// The layout's default target, when the host has a layout.
    pub(crate) default_target: Option<String>,
    artifacts: Option<(Artifacts, HostLayout)>,
}

impl Host {
    /// This dom0, or the testbed that is up.
    pub(crate) fn find() -> Result<Host> {
        if in_dom0() {
            let agent = agent_program()?;
            // It disarms and ends when its standard input is closed.
            let mut child = Process::new(&agent)
                .arg("--stdio")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                // Ctrl-C is ours to handle: the agent is told to cancel.
                .process_group(0)
                .spawn()
                .with_context(|| format!("cannot start {}", agent.display()))?;
            let (Some(events), Some(requests)) = (child.stdout.take(), child.stdin.take()) else {
                bail!("{} has no standard streams", agent.display());
            };
            let link = AgentLink::over(events, requests);
            return Ok(Host {
                link,
                default_target: None,
                artifacts: None,
            });
        }
        let up = Up::find().map_err(|e| match e {
            TestbedError::NotUp => coded(
                Exit::NoHost,
                "this is no Xen host and no testbed is up; start one with: xfi testbed up",
            ),
            other => other.into(),
        })?;
        let layout = &up.info().layout;
        let (default_target, host) = (layout.default_target.clone(), layout.host.clone());
        Ok(Host {
            link: up.connect()?,
            default_target,
            artifacts: Artifacts::find().ok().map(|a| (a, host)),
        })
    }

    /// Asks and collects the answer; an agent's refusal becomes an error.
    pub(crate) fn ask(&mut self, command: Command) -> Result<Vec<Event>> {
        let events = self.link.ask(command, PATIENCE)?;
        if let Some(EventBody::Error { code, message }) = events.last().map(|e| &e.body) {
            return Err(refusal(*code, message));
        }
        Ok(events)
    }

    /// The stream itself, for commands that follow events.
    pub(crate) fn link(&mut self) -> &mut AgentLink {
        &mut self.link
    }

    /// Who is there.
    pub(crate) fn hello(&mut self) -> Result<AgentHello> {
        let events = self.ask(Command::Hello)?;
        let hello = events.into_iter().find_map(|e| match e.body {
            EventBody::Hello(h) => Some(h),
            _ => None,
        });
        let Some(hello) = hello else {
            bail!("the agent did not introduce itself")
        };
        if hello.protocol != PROTOCOL_VERSION {
            bail!(
                "the agent speaks protocol {}, this xfi speaks {PROTOCOL_VERSION}; use an xfi and \
                 an xfi-agent of one version",
                hello.protocol
            );
        }
        Ok(hello)
    }

    /// What the host is made of, when it was made here, and its layout.
    pub(crate) fn artifacts(&self) -> Option<&(Artifacts, HostLayout)> {
        self.artifacts.as_ref()
    }
}

/// What an agent's refusal means for the exit code.
pub(crate) fn refusal(code: AgentErrorCode, message: &str) -> anyhow::Error {
    let exit = match code {
        AgentErrorCode::NoSuchDomain | AgentErrorCode::NoSuchTask => Exit::NoDomain,
        AgentErrorCode::Busy => Exit::Busy,
        AgentErrorCode::Invalid => Exit::Usage,
        AgentErrorCode::NotAvailable | AgentErrorCode::NotAllowed => Exit::NoHost,
        AgentErrorCode::BadRequest | AgentErrorCode::Failed => Exit::Failure,
    };
    coded(exit, message)
}

/// Whether this machine is a Xen control domain.
pub(crate) fn in_dom0() -> bool {
    std::fs::read_to_string("/proc/xen/capabilities").is_ok_and(|c| c.contains("control_d"))
}

fn agent_program() -> Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("xfi-agent");
    Ok(if beside.exists() {
        beside
    } else {
        PathBuf::from("xfi-agent")
    })
}

/// Guests, that is all domains but dom0, that are alive.
pub(crate) fn guests(domains: &[DomainInfo]) -> impl Iterator<Item = &DomainInfo> {
    domains
        .iter()
        .filter(|d| d.domid.is_some_and(|id| id != DomId::DOM0))
}

/// `xfi domains`.
pub(crate) fn domains(output: Output) -> Result<()> {
    let mut host = Host::find()?;
    let events = host.ask(Command::Domains)?;
    let Some(domains) = events.into_iter().find_map(|e| match e.body {
        EventBody::Domains { domains } => Some(domains),
        _ => None,
    }) else {
        bail!("the agent sent no list of domains");
    };
    if output == Output::Json {
        return output::json(&domains);
    }
    let mut table = output::table(&["ID", "NAME", "KIND", "STATE", "VCPUS", "MEMORY", ""]);
    for d in &domains {
        table.add_row([
            d.domid.map_or("-".into(), |id| id.to_string()),
            d.name.clone(),
            d.kind.map_or("-".into(), |k| output::word(&k)),
            output::word(&d.state),
            d.vcpus.to_string(),
            format!("{} MiB", d.memory_kib / 1024),
            if Some(&d.name) == host.default_target.as_ref() {
                "default target".into()
            } else {
                String::new()
            },
        ]);
    }
    output::print(&output::text_of(&table));
    Ok(())
}
