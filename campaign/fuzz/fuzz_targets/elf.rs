//! A Xen with symbols: whatever the file holds, it is read or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use xfi_symbols::{Elf, HYPERCALLS, Locations, SourceLines, SymbolTable};

fuzz_target!(|bytes: &[u8]| {
    let _ = SymbolTable::parse(&String::from_utf8_lossy(bytes));
    let Ok(elf) = Elf::from_bytes(bytes.to_vec(), Path::new("xen-syms")) else { return };
    let lines = SourceLines::of(&elf);
    for hypercall in HYPERCALLS {
        if let Ok(handler) = hypercall.handler(&elf) {
            let _ = Locations::of(&handler, &elf, Some(&lines));
        }
    }
});
