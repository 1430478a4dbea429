//! The serial console: Xen's and dom0's words, watched for a panic.

use crate::machine_facts::monotonic_ns;
use std::collections::VecDeque;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

/// Lines kept before a panic, and after its first line.
const BEFORE: usize = 60;
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
    "Domain 0 (vcpu",
    "Kernel panic - not syncing",
    "PANIC: early exception",
    "Manual reset required ('noreboot' specified)",
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

impl Panic {
    fn goes_on(&mut self, line: String) {
        // Xen says why on the line after "Panic on CPU 0:".
        if self.line.trim_end().ends_with(':') {
            let why = line.trim_start_matches("(XEN)").trim();
            self.line = format!("{} {why}", self.line.trim_end());
        }
        if self.context.len() < BEFORE + 1 + AFTER {
            self.context.push(line);
        }
    }
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
            Some(panic) => panic.goes_on(line),
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
        self.panic = Some(Panic {
            line,
            context,
            seen_ns: now_ns,
        });
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
                shared
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .feed(&buffer[..n], now);
            }
        });
        ConsoleWatcher { finder }
    }

    pub(crate) fn panic(&self) -> Option<Panic> {
        self.finder
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .panic()
            .cloned()
    }
}

/// The first panic in a console log, if any.
pub(crate) fn panic_in_log(log: &[u8]) -> Option<Panic> {
    let mut finder = PanicFinder::default();
    finder.feed(log, 0);
    finder.panic
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Consoles recorded from the emulated host.
    const XEN_PAGE_FAULT: &[u8] = include_bytes!("../../tests/data/xen-page-fault.console");
    const XEN_BUG: &[u8] = include_bytes!("../../tests/data/xen-bug.console");
    const DOM0_PANIC: &[u8] = include_bytes!("../../tests/data/dom0-panic.console");
    const GUEST_CRASH: &[u8] = include_bytes!("../../tests/data/guest-crash.console");
    const BOOT: &[u8] = include_bytes!("../../tests/data/boot.console");

    #[test]
    fn recorded_panics_are_found_with_their_reason_and_registers() {
        let panic = panic_in_log(XEN_PAGE_FAULT).unwrap();
        assert_eq!(panic.line, "(XEN) Panic on CPU 0: FATAL PAGE FAULT");
        assert!(
            panic.context.iter().any(|l| l.starts_with("(XEN) RIP:")),
            "{:?}",
            panic.context
        );
        assert!(
            panic
                .context
                .iter()
                .any(|l| l.contains("Faulting linear address"))
        );

        let panic = panic_in_log(XEN_BUG).unwrap();
        assert!(
            panic.line.contains("Xen BUG at arch/x86/cpu/mcheck"),
            "{}",
            panic.line
        );

        let panic = panic_in_log(DOM0_PANIC).unwrap();
        assert!(
            panic
                .line
                .ends_with("Kernel panic - not syncing: sysrq triggered crash")
        );
        assert!(
            panic
                .context
                .iter()
                .any(|l| l.contains("sysrq_handle_crash"))
        );
    }

    #[test]
    fn a_guest_that_crashes_and_a_boot_are_no_panic() {
        assert!(String::from_utf8_lossy(GUEST_CRASH).contains("Domain 1 (vcpu#0) crashed"));
        assert_eq!(panic_in_log(GUEST_CRASH), None);
        assert_eq!(panic_in_log(BOOT), None);
        assert!(is_panic_line("(XEN) Domain 0 (vcpu#0) crashed on cpu#0:"));
        assert!(!is_panic_line(
            "(d1) [    1.0] Kernel panic - not syncing: in a guest"
        ));
    }

    #[test]
    fn the_bytes_may_come_in_any_pieces() {
        let whole = panic_in_log(XEN_PAGE_FAULT);
        for size in [1, 2, 7, 100] {
            let mut finder = PanicFinder::default();
            XEN_PAGE_FAULT
                .chunks(size)
                .for_each(|piece| finder.feed(piece, 0));
            assert_eq!(finder.panic(), whole.as_ref(), "pieces of {size}");
        }
    }

    #[test]
    fn a_panic_is_seen_before_its_line_ends() {
        let mut finder = PanicFinder::default();
        finder.feed(b"(XEN) all well\n(XEN) Xen BUG at spin", 7);
        assert_eq!(finder.panic().unwrap().seen_ns, 7);
        finder.feed(b"lock.c:44\n", 9);
        assert_eq!(
            finder.panic().unwrap().line,
            "(XEN) Xen BUG at spinlock.c:44"
        );
        assert_eq!(finder.panic().unwrap().seen_ns, 7);
    }
}
