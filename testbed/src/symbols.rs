//! Names for addresses, from `nm` output or a kernel's `System.map`.

use crate::TestbedError;
use crate::error::IoContext;
use std::path::Path;
use xfi_model::GuestMode;

/// How far past its start a symbol without a known end is believed to reach.
const REACH: u64 = 0x10_0000;

/// The names of what a vCPU can execute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Symbols {
    /// Xen's.
    pub(crate) xen: SymbolTable,
    /// The guests' kernel's.
    pub(crate) kernel: SymbolTable,
}

impl Symbols {
    /// A name for an address executed in this mode; programs have none.
    pub fn name(&self, mode: GuestMode, address: u64) -> Option<String> {
        match mode {
            GuestMode::User => None,
            GuestMode::Kernel => self.kernel.lookup(address),
            GuestMode::Hypervisor => self.xen.lookup(address),
        }
    }
}

/// A table of symbols, looked up by address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SymbolTable {
    /// Sorted by address.
    symbols: Vec<(u64, String)>,
}

impl SymbolTable {
    /// Reads a file of `address type name` lines (`nm`, `System.map`).
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn load(path: &Path) -> Result<SymbolTable, TestbedError> {
        Ok(SymbolTable::parse(
            &std::fs::read_to_string(path).context("reading", path)?,
        ))
    }

    /// Parses `address type name` lines; others are skipped, and so are
    /// symbols that name no place (absolute ones, undefined ones).
    pub fn parse(text: &str) -> SymbolTable {
        let mut symbols: Vec<(u64, String)> = text.lines().filter_map(parse_line).collect();
        symbols.sort();
        symbols.dedup_by_key(|(address, _)| *address);
        SymbolTable { symbols }
    }

    /// `symbol+0x…` for an address, `symbol` for its very start.
    pub fn lookup(&self, address: u64) -> Option<String> {
        let after = self.symbols.partition_point(|(start, _)| *start <= address);
        let (start, name) = self.symbols[..after].last()?;
        let offset = address - start;
        let known_end = self.symbols.get(after).is_some();
        if !known_end && offset >= REACH {
            return None;
        }
        Some(if offset == 0 {
            name.clone()
        } else {
            format!("{name}+{offset:#x}")
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.symbols.len()
    }
}

fn parse_line(line: &str) -> Option<(u64, String)> {
    let mut words = line.split_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    let kind = words.next()?;
    let name = words.next()?;
    // A kernel's per-CPU symbols are offsets and come out as absolute.
    let placed = kind.len() == 1 && !matches!(kind, "A" | "a" | "U" | "w" | "v");
    let real = !name.starts_with("__pfx_") && !name.starts_with(".L");
    (placed && real).then(|| (address, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const XEN: &str = "\
0000000000000010 A offset_of_something
ffff82d040200000 T _start
ffff82d040200000 t __high_start
ffff82d040204390 T hvm_hypercall
ffff82d040204390 t .Lxen_local
ffff82d040233a30 t csched2_schedule
                 U undefined
ffff82d040233f10 T vcpu_block
";

    #[test]
    fn an_address_gets_the_symbol_before_it() {
        let t = SymbolTable::parse(XEN);
        assert_eq!(
            t.lookup(0xffff_82d0_4023_3a42).as_deref(),
            Some("csched2_schedule+0x12")
        );
        assert_eq!(
            t.lookup(0xffff_82d0_4020_4390).as_deref(),
            Some("hvm_hypercall")
        );
    }

    #[test]
    fn addresses_outside_are_not_named() {
        let t = SymbolTable::parse(XEN);
        assert_eq!(t.lookup(0x10), None);
        assert_eq!(t.lookup(u64::MAX), None);
        assert_eq!(
            t.lookup(0xffff_82d0_4023_3f11).as_deref(),
            Some("vcpu_block+0x1")
        );
        assert_eq!(SymbolTable::default().lookup(5), None);
    }

    #[test]
    fn system_map_is_read_too() {
        let t = SymbolTable::parse(
            "0000000000000000 A fixed_percpu_data\nffffffff81000000 T _text\n\
             ffffffff81001230 T __pfx_schedule\nffffffff81001240 T schedule [xen_netfront]\n",
        );
        assert_eq!(t.len(), 2);
        assert_eq!(
            t.lookup(0xffff_ffff_8100_1241).as_deref(),
            Some("schedule+0x1")
        );
    }
}
