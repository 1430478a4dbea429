//! A campaign file: read or refused with a message, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use xfi_campaign::CampaignFile;

fuzz_target!(|text: &str| {
    if let Ok(file) = CampaignFile::parse(text, Path::new("c.toml")) {
        assert!(!xfi_campaign::plan::fault_space(&file, xfi_model::GuestKind::Pv).is_empty() || file.faults.bits.is_some() || file.faults.mask.is_some());
    }
});
