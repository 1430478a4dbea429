//! A place in memory, code or data, as written on a command line.

use crate::table::{near, offset_name};
use crate::{Elf, SymbolsError};
use xfi_model::Hex64;

/// A place in Xen's memory: an address, or a symbol and an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// By its address.
    Address(u64),
    /// By a symbol.
    Symbol {
        /// Its name.
        name: String,
        /// How far from its start, bytes.
        offset: u64,
    },
}

impl std::str::FromStr for Place {
    type Err = SymbolsError;

    /// `0xffff82d0…`, `jiffies` or `idle_vcpu+0x8`.
    fn from_str(text: &str) -> Result<Place, SymbolsError> {
        let bad = || SymbolsError::BadPlace {
            text: text.to_owned(),
        };
        let number = |t: &str| t.parse::<Hex64>().map(|h| h.0).map_err(|_| bad());
        let is_name = |t: &str| {
            !t.is_empty()
                && !t.starts_with(|c: char| c.is_ascii_digit())
                && t.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'$'))
        };
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return number(text).map(Place::Address);
        }
        let (name, offset) = match text.split_once('+') {
            Some((name, offset)) => (name, number(offset)?),
            None => (text, 0),
        };
        if !is_name(name) {
            return Err(bad());
        }
        Ok(Place::Symbol {
            name: name.to_owned(),
            offset,
        })
    }
}

impl Place {
    /// The address in this Xen.
    ///
    /// # Errors
    /// An unknown name, with those that are near; one that several places have;
    /// an offset past a symbol's end.
    pub fn resolve(&self, xen: &Elf) -> Result<u64, SymbolsError> {
        let (name, offset) = match self {
            Place::Address(address) => return Ok(*address),
            Place::Symbol { name, offset } => (name, offset),
        };
        let table = xen.symbols();
        let mut found = table.named(name);
        found.dedup_by_key(|s| s.address);
        match found.as_slice() {
            [] => Err(SymbolsError::UnknownSymbol {
                name: name.clone(),
                owner: "Xen".to_owned(),
                near: near(table.iter().map(|s| s.name.as_str()), name),
            }),
            [one] => {
                let size = table
                    .end(one)
                    .map_or(u64::MAX, |end| end - one.address)
                    .max(1);
                if *offset >= size {
                    return Err(SymbolsError::OutsideSymbol {
                        name: name.clone(),
                        offset: *offset,
                        size,
                    });
                }
                Ok(one.address.wrapping_add(*offset))
            }
            several => Err(SymbolsError::Ambiguous {
                name: name.clone(),
                owner: "Xen".to_owned(),
                addresses: several.iter().map(|s| s.address).collect(),
            }),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Address(address) => write!(f, "{address:#x}"),
            Place::Symbol { name, offset } => f.write_str(&offset_name(name, *offset)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_addresses_or_symbols_with_an_offset() {
        let place = |t: &str| t.parse::<Place>().unwrap();
        assert_eq!(
            place("0xffff_82d0_4020_0000"),
            Place::Address(0xffff_82d0_4020_0000)
        );
        assert_eq!(place("4096"), Place::Address(4096));
        assert_eq!(place("jiffies+0x10").to_string(), "jiffies+0x10");
        assert_eq!(place("do_iret.cold+4").to_string(), "do_iret.cold+0x4");
        assert_eq!(place("jiffies").to_string(), "jiffies");
    }

    #[test]
    fn what_is_no_place_is_named_with_what_can_be_written() {
        for text in [
            "",
            "+0x10",
            "jiffies+",
            "jiffies+-1",
            "0xzz",
            "5x",
            "a b",
            "-1",
            "jiffies-8",
            "0x1ffffffffffffffff",
            "web1:jiffies",
            "jiffies+0x1ffffffffffffffff",
            "é",
        ] {
            let e = text.parse::<Place>().unwrap_err().to_string();
            assert!(
                e.contains(&format!("'{text}'")) && e.contains("SYMBOL+OFFSET"),
                "{e}"
            );
        }
    }

    #[test]
    fn a_name_that_is_no_one_place_of_the_file_is_refused() {
        // This very test is an ELF file with symbols.
        let elf = Elf::open(&std::env::current_exe().unwrap()).unwrap();
        let e = |t: &str| {
            let place: Place = t.parse().unwrap();
            place.resolve(&elf).unwrap_err().to_string()
        };
        assert!(e("nosuchsymbolatall").contains("no symbol 'nosuchsymbolatall'"));
        let main = elf.symbols().named("main")[0].address;
        assert_eq!(
            "main".parse::<Place>().unwrap().resolve(&elf).unwrap(),
            main
        );
        let beyond = e("main+0x10000000");
        assert!(beyond.contains("outside 'main'"), "{beyond}");
        assert_eq!("0x5".parse::<Place>().unwrap().resolve(&elf).unwrap(), 5);
    }
}
