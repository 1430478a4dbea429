//! The host integrity test (thesis §4.2): small commands with known answers.
//!
//! A host whose kernel still answers pings may be unable to start a process or
//! to read a file. So a file is read and commands are run, each with a
//! deadline; what hangs is abandoned, never waited for.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use xfi_model::{IntegrityCheck, IntegrityResult};

/// Where the known files are made when nothing else is said.
pub const DIRECTORY: &str = "/run/xfi/integrity";

/// How long one check may take.
pub const DEADLINE: Duration = Duration::from_secs(8);

/// A static busybox, where there is one, is asked instead of the usual programs:
/// it needs no dynamic linker, and under emulation, where all code is new after
/// a restore, the checks share it.
const BUSYBOX: [&str; 3] = ["/usr/lib/xfi/busybox", "/bin/busybox", "/usr/bin/busybox"];

const FILES: usize = 16;
const LINES: u64 = 512;
/// More output than any right answer has is cut off here.
const MOST: u64 = 256 * 1024;

/// The test, with the answers that a sound host gives.
#[derive(Debug, Clone)]
pub struct Integrity {
    checks: Vec<Check>,
}

#[derive(Debug, Clone)]
struct Check {
    name: &'static str,
    what: What,
    answer: Vec<u8>,
}

#[derive(Debug, Clone)]
enum What {
    Read(PathBuf),
    Run { program: String, args: Vec<String> },
}

impl Integrity {
    /// Makes the known files and learns the kernel's release.
    ///
    /// # Errors
    /// When the files cannot be made.
    pub fn prepare(directory: &Path) -> io::Result<Self> {
        let listed = directory.join("list");
        fs::create_dir_all(&listed)?;
        let names: Vec<String> = (0..FILES).map(|i| format!("known-{i:02}")).collect();
        for name in &names {
            fs::write(listed.join(name), name)?;
        }
        let file = directory.join("content");
        let content = known_content();
        fs::write(&file, &content)?;
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let busybox = BUSYBOX.iter().find(|path| Path::new(path).is_file());
        let check = |name, program: &str, mut args: Vec<String>, answer| {
            let mut program = program.to_owned();
            if let Some(busybox) = busybox {
                args.insert(0, program);
                program = (*busybox).to_owned();
            }
            let what = What::Run { program, args };
            Check { name, what, answer }
        };
        Ok(Integrity {
            checks: vec![
                Check {
                    name: "read-file",
                    what: What::Read(file),
                    answer: content,
                },
                check(
                    "uname",
                    "uname",
                    vec!["-r".to_owned()],
                    format!("{}\n", xfi_toolstack::host::kernel_release()).into_bytes(),
                ),
                check(
                    "ls",
                    "ls",
                    vec!["-1".to_owned(), text(listed)],
                    format!("{}\n", names.join("\n")).into_bytes(),
                ),
            ],
        })
    }

    /// Runs all checks at once; each has `deadline` from now.
    pub fn run(&self, deadline: Duration) -> IntegrityResult {
        let start = Instant::now();
        let running: Vec<(&Check, Running)> =
            self.checks.iter().map(|c| (c, Running::start(c))).collect();
        let checks = running
            .into_iter()
            .map(|(check, running)| {
                let left = deadline.saturating_sub(start.elapsed());
                let detail = match running.answer(left) {
                    Ok(answer) if answer == check.answer => None,
                    Ok(answer) => Some(difference(&check.answer, &answer)),
                    Err(why) => Some(why),
                };
                IntegrityCheck {
                    name: check.name.to_owned(),
                    passed: detail.is_none(),
                    detail,
                }
            })
            .collect();
        IntegrityResult {
            checks,
            took_ns: u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

enum Progress {
    Started(u32),
    Answer(Result<Vec<u8>, String>),
}

struct Running(Receiver<Progress>);

impl Running {
    /// Starting a process can hang, too: all of it is on a thread that is left
    /// behind if it comes to that.
    fn start(check: &Check) -> Self {
        let (tell, told) = mpsc::channel();
        let what = check.what.clone();
        let failed = tell.clone();
        let thread = std::thread::Builder::new()
            .name(check.name.to_owned())
            .spawn(move || {
                let answer = match &what {
                    What::Read(path) => read(path).map_err(|e| format!("{}: {e}", path.display())),
                    What::Run { program, args } => {
                        execute(program, args, &tell).map_err(|e| format!("{program}: {e}"))
                    }
                };
                let _ = tell.send(Progress::Answer(answer));
            });
        if let Err(e) = thread {
            let _ = failed.send(Progress::Answer(Err(format!("starting a thread: {e}"))));
        }
        Running(told)
    }

    fn answer(self, patience: Duration) -> Result<Vec<u8>, String> {
        let end = Instant::now() + patience;
        let mut process = None;
        loop {
            match self
                .0
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(Progress::Started(id)) => process = Some(id),
                Ok(Progress::Answer(answer)) => return answer,
                Err(RecvTimeoutError::Disconnected) => return Err("its thread died".to_owned()),
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(id) = process.and_then(|id| i32::try_from(id).ok()) {
                        let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
                    }
                    return Err("no answer in time".to_owned());
                }
            }
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    fs::File::open(path)?.take(MOST).read_to_end(&mut answer)?;
    Ok(answer)
}

fn execute(program: &str, args: &[String], tell: &mpsc::Sender<Progress>) -> io::Result<Vec<u8>> {
    let mut child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let _ = tell.send(Progress::Started(child.id()));
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MOST).read_to_end(&mut answer)?;
    }
    let status = child.wait()?;
    if status.success() {
        Ok(answer)
    } else {
        Err(io::Error::other(format!("{status}")))
    }
}

/// Lines of hexadecimal numbers, the same on every host.
fn known_content() -> Vec<u8> {
    let mut text = String::new();
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..LINES {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        text.push_str(&format!("{x:016x}\n"));
    }
    text.into_bytes()
}

/// Where an answer first differs, and what is there.
fn difference(expected: &[u8], found: &[u8]) -> String {
    let at = expected
        .iter()
        .zip(found)
        .position(|(a, b)| a != b)
        .unwrap_or_else(|| expected.len().min(found.len()));
    let shown = |bytes: &[u8]| {
        let end = bytes.len().min(at + 40);
        format!("{:?}", String::from_utf8_lossy(&bytes[at.min(end)..end]))
    };
    format!(
        "{} bytes instead of {}, first difference at byte {at}: {} instead of {}",
        found.len(),
        expected.len(),
        shown(found),
        shown(expected)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared() -> (tempfile::TempDir, Integrity) {
        let dir = tempfile::tempdir().unwrap();
        let test = Integrity::prepare(dir.path()).unwrap();
        (dir, test)
    }

    #[test]
    fn a_sound_host_passes() {
        let (_dir, test) = prepared();
        let result = test.run(Duration::from_secs(20));
        assert!(result.passed(), "{result:?}");
        let names: Vec<_> = result.checks.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["read-file", "uname", "ls"]);
    }

    #[test]
    fn one_changed_bit_in_the_file_is_seen() {
        let (dir, test) = prepared();
        let file = dir.path().join("content");
        let mut bytes = fs::read(&file).unwrap();
        bytes[100] ^= 1;
        fs::write(&file, bytes).unwrap();
        let result = test.run(Duration::from_secs(20));
        assert!(!result.passed());
        assert!(
            result.checks[0]
                .detail
                .as_ref()
                .unwrap()
                .contains("byte 100"),
            "{result:?}"
        );
        assert!(result.checks[1].passed && result.checks[2].passed);
    }

    #[test]
    fn a_command_that_hangs_is_abandoned_at_the_deadline() {
        let (_dir, mut test) = prepared();
        test.checks[1].what = What::Run {
            program: "sleep".to_owned(),
            args: vec!["1000".to_owned()],
        };
        let start = Instant::now();
        let result = test.run(Duration::from_millis(300));
        assert!(start.elapsed() < Duration::from_secs(10));
        assert_eq!(
            result.checks[1].detail.as_deref(),
            Some("no answer in time")
        );
    }

    #[test]
    fn a_command_that_is_gone_fails_its_check_alone() {
        let (_dir, mut test) = prepared();
        test.checks[2].what = What::Run {
            program: "no-such-program-here".to_owned(),
            args: Vec::new(),
        };
        let result = test.run(Duration::from_secs(20));
        assert!(
            result.checks[2]
                .detail
                .as_ref()
                .unwrap()
                .contains("no-such-program-here")
        );
        assert!(result.checks[0].passed);
    }
}
