//! What is known of the machine that runs a campaign.

use std::fs;
use xfi_model::HostFacts;

/// Reads the facts from /proc; what cannot be read stays empty.
pub(crate) fn read() -> HostFacts {
    let value = |text: &str, key: &str| {
        text.lines()
            .find(|l| l.starts_with(key))
            .and_then(|l| l.split_once(':'))
            .map(|(_, v)| v.trim().to_owned())
    };
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    HostFacts {
        hostname: file("/proc/sys/kernel/hostname").trim().to_owned(),
        cpu: value(&file("/proc/cpuinfo"), "model name").unwrap_or_default(),
        cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        memory_mib: value(&file("/proc/meminfo"), "MemTotal")
            .and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok())
            .map_or(0, |kib| kib / 1024),
        kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
    }
}
