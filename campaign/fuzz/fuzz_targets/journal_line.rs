//! A journal line: what can be read is classified, whatever it says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xfi_model::JournalLine;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(line) = serde_json::from_slice::<JournalLine>(bytes) {
        let text = serde_json::to_vec(&line).expect("what was read can be written");
        let again: JournalLine = serde_json::from_slice(&text).expect("and read again");
        let _ = xfi_campaign::journal::states(&[again]);
    }
});
