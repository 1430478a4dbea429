//! Any bytes are a packet record or are refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use xfi_workloads::pcap::{TcpService, parse_pcap};

fuzz_target!(|bytes: &[u8]| {
    let service = TcpService {
        guest: "web1".into(),
        addr: ([10, 0, 2, 21], 80).into(),
    };
    let _ = parse_pcap(Path::new("fuzz"), bytes, &[service]);
});
