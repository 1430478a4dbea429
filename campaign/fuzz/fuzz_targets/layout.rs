//! A layout file: read or refused with a message, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = xfi_testbed::parse_layout(text, "l.toml");
});
