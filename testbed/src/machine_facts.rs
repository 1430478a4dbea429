//! What this machine has: memory, room, free ports, other processes.

use crate::TestbedError;
use crate::error::IoContext;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

/// MiB of memory that programs can still take.
pub(crate) fn available_mib() -> Result<u64, TestbedError> {
    let path = Path::new("/proc/meminfo");
    let text = std::fs::read_to_string(path).context("reading", path)?;
    Ok(field_kib(&text, "MemAvailable:").unwrap_or(0) / 1024)
}

/// Refuses when less than `needed_mib` of memory is available.
pub(crate) fn need_memory(what: &str, needed_mib: u64) -> Result<(), TestbedError> {
    let available_mib = available_mib()?;
    if available_mib >= needed_mib {
        return Ok(());
    }
    Err(TestbedError::Memory {
        what: what.to_owned(),
        needed_mib,
        available_mib,
    })
}

/// MiB free on the file system of `dir`.
pub(crate) fn free_mib(dir: &Path) -> Result<u64, TestbedError> {
    let stat = nix::sys::statvfs::statvfs(dir)
        .map_err(std::io::Error::from)
        .context("asking the file system of", dir)?;
    Ok(stat.blocks_available() * stat.fragment_size() / (1 << 20))
}

/// A process's memory, MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ProcessMemory {
    /// The largest resident set it has had.
    pub(crate) peak_rss_mib: u64,
    /// What no other process shares, now.
    pub(crate) private_mib: u64,
}

pub(crate) fn process_memory(pid: u32) -> Option<ProcessMemory> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(ProcessMemory {
        peak_rss_mib: field_kib(&text, "VmHWM:")? / 1024,
        private_mib: field_kib(&text, "RssAnon:")? / 1024,
    })
}

fn field_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A TCP port on 127.0.0.1 that is free just now. Someone may be faster: who
/// uses it must be ready to try another.
pub(crate) fn free_port() -> Result<u16, TestbedError> {
    let what = Path::new("127.0.0.1");
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a port on", what)?;
    Ok(listener
        .local_addr()
        .context("finding a port on", what)?
        .port())
}

/// Whether this port on 127.0.0.1 is free just now.
pub(crate) fn port_is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Now, `CLOCK_MONOTONIC`, nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| {
        t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let text = "MemTotal:       24683980 kB\nMemAvailable:   21504000 kB\n";
        assert_eq!(field_kib(text, "MemAvailable:"), Some(21_504_000));
        assert_eq!(field_kib(text, "Nothing:"), None);
        assert!(process_memory(std::process::id()).unwrap().peak_rss_mib > 0);
    }

    #[test]
    fn too_much_memory_is_refused_with_the_figures() {
        let e = need_memory("start 9000 workers", u64::MAX)
            .unwrap_err()
            .to_string();
        assert!(
            e.contains("start 9000 workers") && e.contains("are available"),
            "{e}"
        );
    }

    #[test]
    fn a_taken_port_is_seen() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!port_is_free(listener.local_addr().unwrap().port()));
        assert!(port_is_free(free_port().unwrap()));
    }
}
