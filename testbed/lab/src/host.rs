//! A testbed that is up, with a shell in its dom0.

use crate::snapshot;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use xfi_model::XenBuild;
use xfi_testbed::up::{self, Up, UpOptions};
use xfi_testbed::{AgentLink, Artifacts};

/// A testbed that is up in a runtime directory of this process's own, so that the
/// user's own is left alone; it is taken down at the end.
#[derive(Debug)]
pub struct Host {
    /// What it was made of.
    pub artifacts: Artifacts,
    /// The testbed.
    pub up: Up,
}

impl Host {
    /// None, and a word, where it cannot be had.
    pub fn up(layout: &str, xen: XenBuild, what: &str) -> Option<Host> {
        let dir = PathBuf::from(format!("/tmp/xfi-lab-{}", std::process::id()));
        xfi_testbed::use_runtime_dir(dir);
        let (artifacts, set) = snapshot(layout, xen, what)?;
        up::up(&artifacts, set.layout(), &UpOptions::default(), &mut |_| {})
            .unwrap_or_else(|e| panic!("testbed up: {e}"));
        let up = Up::find().expect("it is up");
        Some(Host { artifacts, up })
    }

    /// The agent in dom0.
    pub fn agent(&self) -> AgentLink {
        self.up.connect().expect("the agent")
    }

    /// The symbols of its Xen.
    pub fn xen_syms(&self) -> PathBuf {
        self.artifacts.xen_syms(self.up.info().layout.host.release)
    }

    fn ssh(&self, command: &str) -> Command {
        let ssh = self.up.ssh_command();
        let mut c = Command::new(&ssh[0]);
        c.args(&ssh[1..]).arg(command);
        c
    }

    /// What a command in dom0's shell prints, all of it; it must succeed.
    pub fn dom0(&self, command: &str) -> String {
        let out = self.ssh(command).output().expect("ssh");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let printed = text(&out.stdout) + &text(&out.stderr);
        assert!(out.status.success(), "{command}: {}: {printed}", out.status);
        printed
    }

    /// The lines that a command in dom0's shell prints, as they come. Returns
    /// whether it succeeded.
    pub fn watch(&self, command: &str, mut line: impl FnMut(&str)) -> bool {
        let mut child = self
            .ssh(&format!("{command} 2>&1"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("ssh");
        let out = child.stdout.take().expect("it is piped");
        for text in std::io::BufRead::lines(std::io::BufReader::new(out)).map_while(Result::ok) {
            line(&text);
        }
        child.wait().expect("ssh").success()
    }

    /// Makes an executable file in dom0.
    pub fn put(&self, path: &str, content: &[u8]) {
        let mut child = self
            .ssh(&format!("cat >{path} && chmod 755 {path}"))
            .stdin(Stdio::piped())
            .spawn()
            .expect("ssh");
        let mut to = child.stdin.take().expect("it is piped");
        to.write_all(content).expect("written");
        drop(to);
        assert!(child.wait().expect("ssh").success(), "{path}");
    }

    /// That no panic was seen.
    pub fn is_well(&self) {
        let status = self.up.status().expect("the testbed's state");
        assert_eq!(status.panic_line, None);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = up::down();
    }
}
