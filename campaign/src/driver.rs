//! A load driver as a child process.

use crate::CampaignError;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use xfi_model::LoadSpec;

/// How long a driver gets to end after SIGTERM.
const TERM_GRACE: Duration = Duration::from_secs(2);

/// A running load driver. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Driver {
    child: Child,
    log: PathBuf,
    started_ns: u64,
}

impl Driver {
    /// Starts `program workload driver --spec … --log …`.
    pub(crate) fn start(
        program: &Path,
        load: &LoadSpec,
        dir: &Path,
    ) -> Result<Driver, CampaignError> {
        let spec = dir.join("load.json");
        let log = Driver::log_in(dir);
        let write = |source| CampaignError::Write {
            path: spec.clone(),
            source,
        };
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&spec)
            .map_err(write)?;
        serde_json::to_writer(&file, load).map_err(|e| write(e.into()))?;
        let errors = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(dir.join("driver.log"))
            .map_err(write)?;
        let started_ns = xfi_workloads::monotonic_ns();
        let fail = |source| CampaignError::Driver {
            path: program.to_owned(),
            source,
        };
        // setpriv ends the driver when the orchestrator is killed; its own
        // process group keeps the terminal's Ctrl-C for the orchestrator.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(["workload", "driver", "--spec"])
            .arg(&spec)
            .arg("--log")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(fail)?;
        Ok(Driver {
            child,
            log,
            started_ns,
        })
    }

    /// Where the driver of the run with this evidence directory logs.
    pub(crate) fn log_in(dir: &Path) -> PathBuf {
        dir.join("requests.jsonl")
    }

    /// Its log.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// When it was started, `CLOCK_MONOTONIC`.
    pub(crate) fn started_ns(&self) -> u64 {
        self.started_ns
    }

    /// Whether it has ended.
    pub(crate) fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it, by SIGTERM first so that its log gets its last line.
    pub(crate) fn stop(&mut self) {
        if self.ended() {
            return;
        }
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let deadline = Instant::now() + TERM_GRACE;
        while !self.ended() {
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.stop();
    }
}
