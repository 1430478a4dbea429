//! A host for one test at a time, and the command on it.

use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An emulated host on a busy machine: far more than any step takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// A runtime directory of its own, so that a testbed of the user's is left
/// alone; the testbed that is up in it is stopped at the end.
pub(crate) struct Lab {
    dir: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// No testbed is up. None, and a word, where none can be had.
    pub(crate) fn new() -> Option<Lab> {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // Sockets' paths are short: under /tmp whatever TMPDIR says.
        let dir = tempfile::Builder::new()
            .prefix("xfi-lab")
            .tempdir_in("/tmp")
            .unwrap();
        let lab = Lab { dir, _turn: turn };
        let doctor = lab.xfi("doctor");
        if doctor.status.success() {
            return Some(lab);
        }
        let why = text(&doctor);
        assert!(
            std::env::var_os("CI").is_none(),
            "CI needs the testbed: {why}"
        );
        println!("skipped: {why}");
        None
    }

    /// With a testbed that is up.
    pub(crate) fn up() -> Option<Lab> {
        let lab = Lab::new()?;
        lab.ok("testbed up");
        Some(lab)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `xfi` with these arguments, none of which has a space in it.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_xfi"));
        c.args(line.split_whitespace())
            .env("XFI_RUNTIME_DIR", self.dir.path().join("run"))
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        c
    }

    pub(crate) fn xfi(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// What it prints; it must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, line: &str) -> String {
        let out = self.xfi(line);
        assert!(out.status.success(), "{line}: {}", text(&out));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// The JSON that is printed, which the schema of this name admits.
    #[track_caller]
    pub(crate) fn json(&self, line: &str, schema: &str) -> Value {
        let printed = self.ok(&format!("{line} --output json"));
        let json = serde_json::from_str(&printed).unwrap();
        assert!(validator(schema).is_valid(&json), "{line}: {json:#}");
        json
    }

    #[track_caller]
    pub(crate) fn refused(&self, line: &str, code: i32, says: &[&str]) {
        let out = self.xfi(line);
        let printed = text(&out);
        assert_eq!(out.status.code(), Some(code), "{line}: {printed}");
        assert_eq!(printed.lines().count(), 1, "{line}: {printed}");
        for word in says {
            assert!(printed.contains(word), "{line}: no '{word}' in: {printed}");
        }
    }

    /// A command in dom0, for the shell there.
    pub(crate) fn dom0(&self, command: &str) -> Output {
        self.xfi(&format!("testbed ssh {command}"))
    }

    #[track_caller]
    pub(crate) fn in_dom0(&self, command: &str) -> String {
        self.ok(&format!("testbed ssh {command}"))
    }

    /// A command under way that has the agent.
    pub(crate) fn start(&self, line: &str) -> Child {
        let mut child = self
            .command(line)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        loop {
            // The agent has one client: this one must not be the first.
            std::thread::sleep(Duration::from_secs(2));
            if self.xfi("domains").status.code() == Some(6) {
                break;
            }
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{line}: {ended:?}");
            assert!(begun.elapsed() < PATIENCE, "it never had the agent");
        }
        // Its request is the next thing it does.
        std::thread::sleep(Duration::from_secs(3));
        child
    }

    /// Emulators whose sockets are in this lab's runtime directory.
    pub(crate) fn emulators(&self) -> Vec<u32> {
        let needle = self.dir().to_str().unwrap().to_owned();
        let Ok(processes) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        processes
            .filter_map(|p| {
                let p = p.ok()?.path();
                let command = std::fs::read(p.join("cmdline")).ok()?;
                let command = String::from_utf8_lossy(&command).into_owned();
                let ours = command.contains("qemu-system") && command.contains(&needle);
                ours.then(|| p.file_name()?.to_str()?.parse().ok())
                    .flatten()
            })
            .collect()
    }

    pub(crate) fn wait_for_no_emulator(&self) {
        let begun = Instant::now();
        while !self.emulators().is_empty() {
            assert!(
                begun.elapsed() < PATIENCE,
                "left running: {:?}",
                self.emulators()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.xfi("testbed down");
    }
}

/// All that was printed.
pub(crate) fn text(out: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&out.stdout) + &text(&out.stderr)
}

pub(crate) fn validator(schema: &str) -> jsonschema::Validator {
    let root = env!("CARGO_MANIFEST_DIR");
    let path = format!("{root}/../docs/schema/{schema}.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

/// `0x…` of a JSON string.
pub(crate) fn hex(value: &Value) -> u64 {
    let digits = value.as_str().unwrap().trim_start_matches("0x");
    u64::from_str_radix(digits, 16).unwrap()
}

pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .args([name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}
