//! The serial console: Xen's and dom0's words, watched for a panic.

use crate::machine_facts::monotonic_ns;
use std::collections::VecDeque;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

/// Lines kept before a panic, and after its first line.
const BEFORE: usize = 10;
const AFTER: usize = 60;

/// A line may be this long; more is cut.
const LONGEST: usize = 4096;

/// What Xen and Linux print when they die. Each is looked for anywhere in a
/// line that is the host's own.
const LAST_WORDS: [&str; 16] = [
    "Panic on CPU",
    "FATAL PAGE FAULT",
    "FATAL TRAP",
    "DOUBLE FAULT",
    "double fault",
    "Xen BUG at",
    "Xen stack overflow",
    "Watchdog timer detects that CPU",
    "Watchdog timer fired",
    "Hardware Dom0 crashed",
    "Hardware Dom0 shutdown",
    "Hardware Dom0 halted",
    "Domain 0 crashed",
    "Kernel panic - not syncing",
    "PANIC: early exception",
    "Reboot disabled on cmdline: require manual reset",
];

/// Whether this line of the serial console says that Xen or dom0 has died.
/// Another domain's words (`(d1) …`) and Xen's about another domain do not.
pub fn is_panic_line(line: &str) -> bool {
    let line = line.trim_start_matches(['\r', '\0', ' ', '\t']);
    if line.starts_with("(d") && !line.starts_with("(d0)") {
        return false;
    }
    let assertion = line.contains("Assertion '") && line.contains("' failed at");
    assertion || LAST_WORDS.iter().any(|words| line.contains(words))
}

/// A panic as seen on the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Panic {
    pub(crate) line: String,
    pub(crate) context: Vec<String>,
    pub(crate) seen_ns: u64,
}

/// Cuts a byte stream into lines and finds the first panic.
#[derive(Debug, Default)]
pub(crate) struct PanicFinder {
    partial: Vec<u8>,
    recent: VecDeque<String>,
    panic: Option<Panic>,
    /// The line under way has already been judged.
    partial_judged: bool,
}

impl PanicFinder {
    pub(crate) fn feed(&mut self, bytes: &[u8], now_ns: u64) {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(now_ns),
                b'\r' => {}
                _ if self.partial.len() < LONGEST => self.partial.push(*byte),
                _ => {}
            }
        }
        // A dying host may not get to the end of its line.
        if self.panic.is_none() && !self.partial.is_empty() {
            let line = String::from_utf8_lossy(&self.partial).into_owned();
            if is_panic_line(&line) {
                self.found(line, now_ns);
                self.partial_judged = true;
            }
        }
    }

    fn end_line(&mut self, now_ns: u64) {
        let line = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial.clear();
        let judged = std::mem::take(&mut self.partial_judged);
        match &mut self.panic {
            Some(panic) if judged => {
                // The whole of the line that was judged before its end.
                if let Some(last) = panic.context.last_mut() {
                    last.clone_from(&line);
                }
                panic.line = line;
            }
            Some(panic) if panic.context.len() < BEFORE + 1 + AFTER => panic.context.push(line),
            Some(_) => {}
            None if is_panic_line(&line) => self.found(line, now_ns),
            None => {
                if self.recent.len() == BEFORE {
                    self.recent.pop_front();
                }
                self.recent.push_back(line);
            }
        }
    }

    fn found(&mut self, line: String, now_ns: u64) {
        let mut context: Vec<String> = self.recent.drain(..).collect();
        context.push(line.clone());
        self.panic = Some(Panic { line, context, seen_ns: now_ns });
    }

    pub(crate) fn panic(&self) -> Option<&Panic> {
        self.panic.as_ref()
    }
}

/// Reads the console's socket until it ends, on a thread of its own. (QEMU
/// writes the log file; with nobody reading the socket it would still do so.)
#[derive(Debug)]
pub(crate) struct ConsoleWatcher {
    finder: Arc<Mutex<PanicFinder>>,
}

impl ConsoleWatcher {
    pub(crate) fn start(mut stream: UnixStream) -> ConsoleWatcher {
        let finder = Arc::new(Mutex::new(PanicFinder::default()));
        let shared = Arc::clone(&finder);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n) = stream.read(&mut buffer) {
                if n == 0 {
                    return;
                }
                let now = monotonic_ns();
                shared.lock().unwrap_or_else(PoisonError::into_inner).feed(&buffer[..n], now);
            }
        });
        ConsoleWatcher { finder }
    }

    pub(crate) fn panic(&self) -> Option<Panic> {
        self.finder.lock().unwrap_or_else(PoisonError::into_inner).panic().cloned()
    }
}

/// The first panic in a console log, if any.
pub(crate) fn panic_in_log(log: &[u8]) -> Option<Panic> {
    let mut finder = PanicFinder::default();
    finder.feed(log, 0);
    finder.panic
}
