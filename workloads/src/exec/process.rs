//! A program under way, which leaves nothing behind.

use crate::WorkloadError;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// What is run, and what it is told.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) command: Vec<String>,
    pub(super) environment: Vec<(&'static str, String)>,
}

/// A process in a group of its own; dropping it kills the group, so that what
/// a shell script started ends with it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) child: Child,
    group: Option<Pid>,
}

impl Program {
    pub(super) fn start(
        &self,
        more: &[(&'static str, String)],
        stdin: Stdio,
    ) -> Result<Running, WorkloadError> {
        let failed = |source| WorkloadError::Program {
            program: self.command.first().cloned().unwrap_or_default(),
            source,
        };
        let (program, arguments) = self
            .command
            .split_first()
            .ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
        let child = Command::new(program)
            .args(arguments)
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .envs(more.iter().map(|(k, v)| (k, v)))
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let group = child.id().and_then(|id| i32::try_from(id).ok());
        Ok(Running {
            child,
            group: group.map(Pid::from_raw),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group.take() {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}
