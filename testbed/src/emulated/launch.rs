//! Starting QEMU so that it neither outlives its owner by accident nor dies
//! with a key press meant for the owner.

use crate::TestbedError;
use crate::error::IoContext;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};

/// How a QEMU is bound to the program that starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// It is killed when this process ends, however that comes about.
    WithUs,
    /// It goes on when this process ends (`xfi testbed up`).
    OnItsOwn,
}

/// The program of this name: `$XFI_QEMU` and the like are up to the caller.
pub(crate) fn find_program(name: &str, install: &str) -> Result<PathBuf, TestbedError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/bin", "/usr/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|p| p.is_file())
        .ok_or_else(|| TestbedError::MissingProgram {
            program: name.to_owned(),
            why: "it is not in $PATH".to_owned(),
            install: install.to_owned(),
        })
}

/// Starts `program` in `dir` with its standard error in `log`.
pub(crate) fn start(
    life: Life,
    program: &Path,
    args: &[OsString],
    dir: &Path,
    log: &Path,
) -> Result<Child, TestbedError> {
    let stderr = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(log)
        .context("creating", log)?;
    // Both replace themselves by QEMU: the child's id is QEMU's.
    let mut command = match life {
        Life::WithUs => {
            let mut c = Command::new(find_program("setpriv", "apt-get install util-linux")?);
            c.args(["--pdeathsig", "KILL", "--"]).process_group(0);
            c
        }
        Life::OnItsOwn => Command::new(find_program("setsid", "apt-get install util-linux")?),
    };
    command
        .arg(program)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr);
    spawn(command).context("starting", program)
}

type Order = (Command, Sender<io::Result<Child>>);

/// Spawns from a thread that lives as long as the process: the signal that
/// `setpriv` asks for comes when the *thread* that spawned ends.
fn spawn(command: Command) -> io::Result<Child> {
    static LAUNCHER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let launcher = LAUNCHER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, result) = channel();
    let gone = || io::Error::other("the launcher thread is gone");
    launcher
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer))
        .map_err(|_| gone())?;
    result.recv().map_err(|_| gone())?
}

/// An exit status in words.
pub(crate) fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => {
            let name = nix::sys::signal::Signal::try_from(signal)
                .map_or_else(|_| signal.to_string(), |s| s.as_str().to_owned());
            format!("killed by {name}")
        }
        (None, None) => status.to_string(),
    }
}

/// The last lines of QEMU's standard error.
pub(crate) fn log_tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join("; ")
}

/// Kills the QEMU that runs in `dir`, by its pid file, if there is one. Its
/// working directory tells it from a later process with the same id.
pub(crate) fn kill_leftover(dir: &Path) {
    if let Some(pid) = pid_in(dir) {
        tracing::warn!(
            "ending QEMU {pid}, which an xfi that died left in {}",
            dir.display()
        );
        kill_and_wait(pid, dir);
    }
}

/// The id of the QEMU that runs in `dir`.
pub(crate) fn pid_in(dir: &Path) -> Option<u32> {
    let pid: u32 = std::fs::read_to_string(dir.join("pid"))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    runs_in(pid, dir).then_some(pid)
}

/// Whether process `pid` works in `dir` and is no zombie.
pub(crate) fn runs_in(pid: u32, dir: &Path) -> bool {
    let cwd = std::fs::read_link(format!("/proc/{pid}/cwd"));
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    cwd.is_ok_and(|cwd| cwd == dir)
}

/// Kills `pid`, which works in `dir`, and waits until it is gone.
pub(crate) fn kill_and_wait(pid: u32, dir: &Path) {
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid as i32),
        nix::sys::signal::Signal::SIGKILL,
    );
    for _ in 0..500 {
        if !runs_in(pid, dir) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
