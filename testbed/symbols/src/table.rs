//! Names for addresses and addresses for names.

use crate::{Elf, SymbolsError};
use std::path::Path;
use xfi_model::GuestMode;

/// How far past its start a symbol without a known end is believed to reach.
const REACH: u64 = 0x10_0000;

/// Below this a name is not worth proposing.
const LIKENESS: f64 = 0.85;

/// The names of what a vCPU can execute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Symbols {
    /// Xen's.
    pub xen: SymbolTable,
    /// The guests' kernel's.
    pub kernel: SymbolTable,
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

/// A named place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Symbol {
    /// Where it starts.
    pub address: u64,
    /// Its name.
    pub name: String,
    /// Its size in bytes, where the file tells.
    pub size: Option<u64>,
    /// Whether it is code.
    pub code: bool,
}

/// A table of symbols, looked up by address or by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SymbolTable {
    /// Sorted by address, then name.
    symbols: Vec<Symbol>,
    /// Where something starts, named or not; sorted. A symbol without a size
    /// ends here at the latest.
    boundaries: Vec<u64>,
}

impl SymbolTable {
    /// Reads an ELF file, or a file of `address type name` lines (`nm`,
    /// `System.map`, `/proc/kallsyms`).
    ///
    /// # Errors
    /// When the file cannot be read, is a damaged ELF file, or has no symbols.
    pub fn load(path: &Path) -> Result<SymbolTable, SymbolsError> {
        let bytes = std::fs::read(path).map_err(|source| SymbolsError::Read {
            path: path.to_owned(),
            source,
        })?;
        let table = if bytes.starts_with(b"\x7fELF") {
            Elf::from_bytes(bytes, path)?.symbols().clone()
        } else {
            SymbolTable::parse(&String::from_utf8_lossy(&bytes))
        };
        if table.is_empty() {
            return Err(SymbolsError::BadFile {
                path: path.to_owned(),
                what: "no symbols".to_owned(),
                wanted: "an ELF file with a symbol table, or nm's `address type name` lines",
            });
        }
        Ok(table)
    }

    /// Parses `address type name` lines; others are skipped, and so are symbols
    /// that name no place (absolute ones, undefined ones) and those of modules,
    /// which lie elsewhere in each kernel.
    pub fn parse(text: &str) -> SymbolTable {
        let lines = text.lines().filter_map(parse_line);
        SymbolTable::from_symbols(lines)
    }

    /// From symbols in any order. Local labels and the like get no name but end
    /// the symbol before them.
    pub fn from_symbols(all: impl IntoIterator<Item = Symbol>) -> SymbolTable {
        let mut symbols: Vec<Symbol> = Vec::new();
        let mut boundaries = Vec::new();
        for symbol in all {
            boundaries.push(symbol.address);
            if !symbol.name.starts_with("__pfx_") && !symbol.name.starts_with(".L") {
                symbols.push(symbol);
            }
        }
        symbols.sort();
        symbols.dedup_by(|b, a| (a.address, &a.name) == (b.address, &b.name));
        boundaries.sort_unstable();
        boundaries.dedup();
        SymbolTable {
            symbols,
            boundaries,
        }
    }

    /// `symbol+0x…` for an address, `symbol` for its very start.
    pub fn lookup(&self, address: u64) -> Option<String> {
        let (symbol, offset) = self.at(address)?;
        Some(offset_name(&symbol.name, offset))
    }

    /// The symbol an address lies in, and how far.
    pub fn at(&self, address: u64) -> Option<(&Symbol, u64)> {
        let after = self.symbols.partition_point(|s| s.address <= address);
        let start = self.symbols[..after].last()?.address;
        // Of several names for one place the first is taken.
        let first = self.symbols[..after].partition_point(|s| s.address < start);
        let symbol = &self.symbols[first];
        let offset = address - start;
        let known_end = after < self.symbols.len();
        (known_end || offset < REACH).then_some((symbol, offset))
    }

    /// Every symbol of this name.
    pub fn named(&self, name: &str) -> Vec<&Symbol> {
        self.symbols.iter().filter(|s| s.name == name).collect()
    }

    /// All symbols, by address.
    pub fn iter(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter()
    }

    /// The first address past a symbol: by its size, else where the next thing
    /// starts; `None` when neither is known.
    pub fn end(&self, symbol: &Symbol) -> Option<u64> {
        if let Some(size) = symbol.size {
            return symbol.address.checked_add(size);
        }
        let next = self.boundaries.partition_point(|a| *a <= symbol.address);
        self.boundaries.get(next).copied()
    }

    /// The one piece of code of this name, with its end.
    ///
    /// # Errors
    /// When there is none, with names that are near; when there are several, or
    /// it is no code. `owner` is what messages call the table's owner.
    pub fn code(&self, name: &str, owner: &str) -> Result<(&Symbol, u64), SymbolsError> {
        let mut found = self.named(name);
        found.dedup_by_key(|s| s.address);
        match found.as_slice() {
            [] => Err(SymbolsError::UnknownSymbol {
                name: name.to_owned(),
                owner: owner.to_owned(),
                near: near(
                    self.symbols
                        .iter()
                        .filter(|s| s.code)
                        .map(|s| s.name.as_str()),
                    name,
                ),
            }),
            [one] if !one.code => Err(SymbolsError::NotCode {
                name: name.to_owned(),
                owner: owner.to_owned(),
            }),
            [one] => match self.end(one) {
                Some(end) if end > one.address => Ok((one, end)),
                _ => Ok((one, one.address.saturating_add(1))),
            },
            several => Err(SymbolsError::Ambiguous {
                name: name.to_owned(),
                owner: owner.to_owned(),
                addresses: several.iter().map(|s| s.address).collect(),
            }),
        }
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

/// `name+0x…`, or `name` for its start.
pub(crate) fn offset_name(name: &str, offset: u64) -> String {
    if offset == 0 {
        name.to_owned()
    } else {
        format!("{name}+{offset:#x}")
    }
}

/// `; near: …`: the names most like this one; empty when none is.
pub(crate) fn near<'a>(names: impl Iterator<Item = &'a str>, wanted: &str) -> String {
    let lower = wanted.to_lowercase();
    let mut scored: Vec<(f64, &str)> = names
        .filter_map(|name| {
            let other = name.to_lowercase();
            let inside = lower.len() >= 3 && other.contains(&lower);
            let score = strsim::jaro_winkler(&other, &lower) + if inside { 0.3 } else { 0.0 };
            (score >= LIKENESS).then_some((score, name))
        })
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.dedup_by_key(|(_, name)| *name);
    let best: Vec<&str> = scored.iter().take(5).map(|(_, name)| *name).collect();
    if best.is_empty() {
        String::new()
    } else {
        format!("; near: {}", best.join(" "))
    }
}

fn parse_line(line: &str) -> Option<Symbol> {
    let mut words = line.split_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    let kind = words.next()?;
    let name = words.next()?;
    // A kernel's per-CPU symbols are offsets and come out as absolute.
    let placed = kind.len() == 1 && !matches!(kind, "A" | "a" | "U" | "w" | "v");
    let module = words.next().is_some_and(|w| w.starts_with('['));
    (placed && !module).then(|| Symbol {
        address,
        name: name.to_owned(),
        size: None,
        code: matches!(kind, "T" | "t" | "W" | "i"),
    })
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
ffff82d040233a90 t .Lafter
                 U undefined
ffff82d040233f10 T vcpu_block
ffff82d040300000 D jiffies
ffff82d040400000 t twice
ffff82d040400010 t twice
";

    fn table() -> SymbolTable {
        SymbolTable::parse(XEN)
    }

    #[test]
    fn an_address_gets_the_symbol_before_it() {
        let t = table();
        assert_eq!(
            t.lookup(0xffff_82d0_4023_3a42).as_deref(),
            Some("csched2_schedule+0x12")
        );
        assert_eq!(
            t.lookup(0xffff_82d0_4020_4390).as_deref(),
            Some("hvm_hypercall")
        );
        assert_eq!(
            t.lookup(0xffff_82d0_4020_0000).as_deref(),
            Some("__high_start")
        );
    }

    #[test]
    fn addresses_outside_are_not_named() {
        let t = table();
        assert_eq!(t.lookup(0x10), None);
        assert_eq!(t.lookup(u64::MAX), None);
        assert_eq!(
            t.lookup(0xffff_82d0_4023_3f11).as_deref(),
            Some("vcpu_block+0x1")
        );
        assert_eq!(SymbolTable::default().lookup(5), None);
    }

    #[test]
    fn system_map_is_read_and_modules_are_not() {
        let t = SymbolTable::parse(
            "0000000000000000 A fixed_percpu_data\nffffffff81000000 T _text\n\
             ffffffff81001230 T __pfx_schedule\nffffffff81001240 T schedule\n\
             ffffffffc0000000 t netif_rx\t[xen_netfront]\n",
        );
        assert_eq!(t.len(), 2);
        assert_eq!(
            t.lookup(0xffff_ffff_8100_1241).as_deref(),
            Some("schedule+0x1")
        );
        // What is ahead of the next function belongs to neither.
        let (text, end) = t.code("_text", "the kernel").unwrap();
        assert_eq!(
            (text.address, end),
            (0xffff_ffff_8100_0000, 0xffff_ffff_8100_1230)
        );
    }

    #[test]
    fn a_symbol_ends_at_its_size_else_at_the_next_boundary() {
        let t = table();
        let (s, end) = t.code("csched2_schedule", "Xen").unwrap();
        assert_eq!(
            (s.address, end),
            (0xffff_82d0_4023_3a30, 0xffff_82d0_4023_3a90)
        );
        let sized = SymbolTable::from_symbols([
            Symbol {
                address: 16,
                name: "f".into(),
                size: Some(8),
                code: true,
            },
            Symbol {
                address: 64,
                name: "g".into(),
                size: None,
                code: true,
            },
        ]);
        assert_eq!(sized.code("f", "Xen").unwrap().1, 24);
        // Nothing tells where the last one ends: its first byte is sure.
        assert_eq!(sized.code("g", "Xen").unwrap().1, 65);
    }

    #[test]
    fn names_that_name_no_one_place_are_refused_with_what_there_is() {
        let t = table();
        let e = |name| t.code(name, "Xen").unwrap_err().to_string();
        assert_eq!(
            e("csched_schedule"),
            "Xen has no symbol 'csched_schedule'; near: csched2_schedule"
        );
        assert_eq!(e("qqqqqq"), "Xen has no symbol 'qqqqqq'");
        assert_eq!(
            e("twice"),
            "Xen has 2 symbols 'twice', at 0xffff82d040400000 0xffff82d040400010; give the \
             addresses instead"
        );
        assert_eq!(
            e("jiffies"),
            "'jiffies' of Xen is data; a RIP range needs code"
        );
    }

    #[test]
    fn files_that_are_no_symbol_lists_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let write = |bytes: &[u8]| {
            let path = dir.path().join("f");
            std::fs::write(&path, bytes).unwrap();
            path
        };
        for (bytes, word) in [
            (&b""[..], "no symbols"),
            (b"\x7fELF", "ELF"),
            (b"hello world\n", "no symbols"),
        ] {
            let e = SymbolTable::load(&write(bytes)).unwrap_err().to_string();
            assert!(e.contains(word), "{e}");
        }
        let e = SymbolTable::load(&dir.path().join("none"))
            .unwrap_err()
            .to_string();
        assert!(e.contains("none"), "{e}");
    }
}
