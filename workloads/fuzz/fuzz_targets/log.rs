//! Any bytes are a log, a log cut off, or are refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use xfi_workloads::load::LogReader;

fuzz_target!(|bytes: &[u8]| {
    for line in LogReader::new(Path::new("fuzz"), bytes) {
        let _ = line;
    }
});
