//! What can go wrong with a testbed.

use crate::LinkError;
use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong with a testbed. Each message says what, where and what to
/// do next.
#[derive(Debug, thiserror::Error)]
pub enum TestbedError {
    /// Talking to the agent failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A layout file is not TOML, or not a layout.
    #[error("{path}:{line}:{column}: {message}")]
    LayoutSyntax {
        /// The file.
        path: String,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// A layout that can be read but not used.
    #[error("layout {path}: {message}")]
    LayoutInvalid {
        /// The file or the layout's name.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// No layout of this name.
    #[error("no layout '{name}'; known: {known} (or give the path of a layout file)")]
    NoSuchLayout {
        /// As asked for.
        name: String,
        /// Those there are.
        known: String,
    },
    /// No artefact root.
    #[error(
        "no built testbed found: neither this directory nor the program lies in an xfi source \
         tree; go there, or set XFI_ARTIFACTS to its target/ directory"
    )]
    NoArtifactRoot,
    /// Files that must be built first.
    #[error("the testbed is not built: {} missing; run: {command}", missing.join(", "))]
    NotBuilt {
        /// The files, relative to the artefact root.
        missing: Vec<String>,
        /// What makes them.
        command: String,
    },
    /// There are no patches for this Xen release.
    #[error("XFI_XEN: there is no Xen release '{name}' here; valid: {known}")]
    NoSuchXenRelease {
        /// The name.
        name: String,
        /// The releases there are.
        known: String,
    },
    /// A program that must be installed.
    #[error("cannot run {program}: {why}; install it with: {install}")]
    MissingProgram {
        /// The program.
        program: String,
        /// What the system said.
        why: String,
        /// How to get it.
        install: String,
    },
    /// Not enough memory.
    #[error(
        "not enough memory to {what}: it needs {needed_mib} MiB, {available_mib} MiB are \
         available; use fewer workers or end other programs"
    )]
    Memory {
        /// What was tried.
        what: String,
        /// MiB needed.
        needed_mib: u64,
        /// MiB there are.
        available_mib: u64,
    },
    /// Not enough room on a file system.
    #[error("not enough room in {path}: {needed_mib} MiB needed, {available_mib} MiB free")]
    NoRoom {
        /// The directory.
        path: PathBuf,
        /// MiB needed.
        needed_mib: u64,
        /// MiB there are.
        available_mib: u64,
    },
    /// A port asked for by the user is taken.
    #[error("port {port} on 127.0.0.1 is taken by another program; choose another or free it")]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// Another process is bringing the testbed up or down.
    #[error(
        "another xfi (pid {pid}) is working on the testbed right now; wait for it or end it, \
         then try again"
    )]
    Locked {
        /// Its process id, `unknown` when it could not be told.
        pid: String,
    },
    /// Another client holds the agent's connection.
    #[error(
        "another xfi (pid {pid}) is talking to the testbed's agent; wait for it or end it, then \
         try again"
    )]
    ClientBusy {
        /// Its process id, `unknown` when it could not be told.
        pid: String,
    },
    /// A testbed is up already.
    #[error(
        "a testbed is up already (layout {layout}, QEMU pid {pid}); use it, or end it with: \
         xfi testbed down"
    )]
    AlreadyUp {
        /// Its layout.
        layout: String,
        /// QEMU's process id.
        pid: u32,
    },
    /// No testbed is up.
    #[error("no testbed is up; start one with: xfi testbed up")]
    NotUp,
    /// QEMU ended when it should not.
    #[error("QEMU ended while {doing}: {why}{}", log_tail(stderr))]
    QemuEnded {
        /// What was going on.
        doing: String,
        /// Exit status or signal.
        why: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// QMP said no, or nothing.
    #[error("QEMU's monitor: {command}: {message}")]
    Qmp {
        /// The command.
        command: String,
        /// What it said.
        message: String,
    },
    /// Something took too long.
    #[error("{what} took longer than {seconds} s{}", log_tail(hint))]
    Timeout {
        /// What.
        what: String,
        /// The limit.
        seconds: u64,
        /// Where to look.
        hint: String,
    },
    /// Xen or dom0 panicked where it should not.
    #[error("the emulated host panicked while {doing}: {line}; its console is {console}")]
    Panicked {
        /// What was going on.
        doing: String,
        /// The panic's first line.
        line: String,
        /// The console log.
        console: PathBuf,
    },
    /// The agent speaks another protocol version.
    #[error(
        "the agent in the testbed speaks protocol {theirs}, this program {ours}; rebuild with: \
         xfi testbed build"
    )]
    Protocol {
        /// The agent's.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// The agent refused what it was asked.
    #[error("the agent could not {doing}: {message}")]
    Agent {
        /// What it was asked.
        doing: String,
        /// What it said.
        message: String,
    },
    /// No usable snapshot after several tries.
    #[error("no usable snapshot after {tries} tries; the last one failed because: {why}")]
    SnapshotUnusable {
        /// How many were tried.
        tries: u32,
        /// What the trial restore said.
        why: String,
    },
    /// The snapshot asked for does not exist.
    #[error("snapshot {index} was asked for, but only {count} were prepared")]
    NoSuchSnapshot {
        /// From 0.
        index: u32,
        /// How many there are.
        count: u32,
    },
    /// `reset` has not been called, or the machine is gone.
    #[error("the testbed is not running; reset it first")]
    NotRunning,
    /// A directory that must be private is not.
    #[error("{path} {why}; remove it and try again")]
    UnsafeDirectory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Reading or writing a file failed.
    #[error("{what} {path}: {source}")]
    Io {
        /// `reading`, `creating`, …
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn log_tail(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

/// Gives an I/O error the file it is about.
pub(crate) trait IoContext<T> {
    fn context(self, what: &'static str, path: &Path) -> Result<T, TestbedError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, what: &'static str, path: &Path) -> Result<T, TestbedError> {
        self.map_err(|source| TestbedError::Io {
            what,
            path: path.to_owned(),
            source,
        })
    }
}
