//! An x86-64 ELF file with symbols, such as Xen's `xen-syms`.

use crate::{Symbol, SymbolTable, SymbolsError};
use object::elf::{SHF_ALLOC, SHF_EXECINSTR};
use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSection, ObjectSymbol, SectionFlags, SymbolKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is asked for where an ELF file is.
const WANTED: &str = "an x86-64 ELF file with symbols, such as xen-syms";

/// Size of Xen's `struct alt_instr` (`asm/alternative.h`), packed.
const ALT_INSTR: usize = 14;

/// An x86-64 ELF file, read into memory.
#[derive(Debug)]
pub struct Elf {
    path: PathBuf,
    bytes: Vec<u8>,
    symbols: Arc<SymbolTable>,
    sections: Vec<Section>,
    build_id: Option<String>,
    /// What Xen may rewrite when it boots, by address.
    alternatives: Vec<Range<u64>>,
}

#[derive(Debug)]
struct Section {
    name: String,
    start: u64,
    end: u64,
    executable: bool,
    file: Range<usize>,
}

impl Elf {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or is no x86-64 ELF file with symbols.
    pub fn open(path: &Path) -> Result<Elf, SymbolsError> {
        let bytes = std::fs::read(path).map_err(|source| SymbolsError::Read {
            path: path.to_owned(),
            source,
        })?;
        Elf::from_bytes(bytes, path)
    }

    /// The same from bytes; `path` is for messages.
    ///
    /// # Errors
    /// As for [`Elf::open`].
    pub fn from_bytes(bytes: Vec<u8>, path: &Path) -> Result<Elf, SymbolsError> {
        let bad = |what: String| SymbolsError::BadFile {
            path: path.to_owned(),
            what,
            wanted: WANTED,
        };
        let file = ElfFile64::<Endianness>::parse(bytes.as_slice())
            .map_err(|e| bad(format!("not a 64-bit ELF file ({e})")))?;
        if file.architecture() != object::Architecture::X86_64 {
            return Err(bad("an ELF file for another processor".to_owned()));
        }
        let sections = sections(&file, bytes.len());
        let symbols = Arc::new(symbols(&file));
        if symbols.is_empty() {
            return Err(bad("it has no symbols (stripped?)".to_owned()));
        }
        let build_id = file.build_id().ok().flatten().map(hex);
        let mut elf = Elf {
            path: path.to_owned(),
            symbols,
            sections,
            build_id,
            alternatives: Vec::new(),
            bytes,
        };
        elf.alternatives = elf.read_alternatives();
        Ok(elf)
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its symbols.
    pub fn symbols(&self) -> &SymbolTable {
        &self.symbols
    }

    /// The same, to be kept.
    pub(crate) fn shared_symbols(&self) -> Arc<SymbolTable> {
        Arc::clone(&self.symbols)
    }

    /// Its build id in hexadecimal, as Xen reports its own.
    pub fn build_id(&self) -> Option<&str> {
        self.build_id.as_deref()
    }

    /// The file's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes that are loaded at these addresses, when one section of the
    /// file has all of them.
    pub fn at(&self, range: Range<u64>) -> Option<&[u8]> {
        let section = self.section(range.start)?;
        if range.end < range.start || range.end > section.end {
            return None;
        }
        let start = section.file.start + usize::try_from(range.start - section.start).ok()?;
        let end = section.file.start + usize::try_from(range.end - section.start).ok()?;
        if end > section.file.end {
            return None;
        }
        self.bytes.get(start..end)
    }

    /// The name of the section an address lies in, and whether it is code.
    pub fn section_of(&self, address: u64) -> Option<(&str, bool)> {
        self.section(address)
            .map(|s| (s.name.as_str(), s.executable))
    }

    fn section(&self, address: u64) -> Option<&Section> {
        self.sections
            .iter()
            .find(|s| s.start <= address && address < s.end)
    }

    /// The alternative that an address lies in: what Xen may rewrite as it
    /// boots, for the processor it finds (`__alt_instructions`).
    pub fn alternative(&self, address: u64) -> Option<Range<u64>> {
        let after = self.alternatives.partition_point(|r| r.start <= address);
        // They may nest: the outermost that covers the address.
        self.alternatives[..after]
            .iter()
            .rev()
            .take(8)
            .filter(|r| r.contains(&address))
            .min_by_key(|r| r.start)
            .cloned()
    }

    fn read_alternatives(&self) -> Vec<Range<u64>> {
        let place = |name| self.symbols.named(name).first().map(|s| s.address);
        let (Some(start), Some(end)) =
            (place("__alt_instructions"), place("__alt_instructions_end"))
        else {
            return Vec::new();
        };
        let Some(bytes) = self.at(start..end) else {
            return Vec::new();
        };
        let mut ranges: Vec<Range<u64>> = bytes
            .chunks_exact(ALT_INSTR)
            .zip((start..).step_by(ALT_INSTR))
            .filter_map(|(entry, at)| {
                let offset = i32::from_le_bytes(entry[..4].try_into().ok()?);
                let original = at.wrapping_add_signed(i64::from(offset));
                let length = u64::from(entry[10]) + u64::from(entry[12]);
                (length > 0).then_some(original..original.checked_add(length)?)
            })
            .collect();
        ranges.sort_by_key(|r| (r.start, r.end));
        ranges
    }
}

type File<'a> = ElfFile64<'a, Endianness>;

fn sections(file: &File<'_>, length: usize) -> Vec<Section> {
    file.sections()
        .filter_map(|s| {
            let SectionFlags::Elf { sh_flags, .. } = s.flags() else {
                return None;
            };
            let allocated = sh_flags.0 & SHF_ALLOC.0 != 0;
            let (start, size) = s.file_range().unwrap_or((0, 0));
            let begin = usize::try_from(start).ok()?;
            let finish = begin.checked_add(usize::try_from(size).ok()?)?;
            (allocated && s.size() > 0 && finish <= length).then(|| Section {
                name: s.name().unwrap_or_default().to_owned(),
                start: s.address(),
                end: s.address().saturating_add(s.size()),
                executable: sh_flags.0 & SHF_EXECINSTR.0 != 0,
                file: begin..finish,
            })
        })
        .collect()
}

fn symbols(file: &File<'_>) -> SymbolTable {
    SymbolTable::from_symbols(file.symbols().filter_map(|s| {
        if matches!(s.kind(), SymbolKind::Section | SymbolKind::File) {
            return None;
        }
        let section = file.section_by_index(s.section_index()?).ok()?;
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else {
            return None;
        };
        let name = s.name().ok().filter(|n| !n.is_empty())?;
        Some(Symbol {
            address: s.address(),
            name: name.to_owned(),
            size: (s.size() > 0).then(|| s.size()),
            code: sh_flags.0 & SHF_EXECINSTR.0 != 0,
        })
    }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
