//! A tiny x86-64 ELF executable, written byte by byte (System V ABI, chapter 4).

/// Where its code is loaded, as Xen's.
pub(crate) const XEN: u64 = 0xffff_82d0_4020_0000;
/// Where its alternatives are.
const ALTERNATIVES: u64 = XEN + 0x10_0000;

const SHT_PROGBITS: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_STRTAB: u32 = 3;
const SHT_NOTE: u32 = 7;
const ALLOC: u64 = 2;
const EXEC: u64 = 4;

#[derive(Default, Clone)]
pub(crate) struct Tiny {
    text: Vec<u8>,
    text_name: Option<&'static str>,
    functions: Vec<(String, u64, u64)>,
    alternatives: Vec<u8>,
    note: Vec<u8>,
}

impl Tiny {
    /// So much code, of breakpoints.
    pub(crate) fn text(&mut self, size: usize) {
        self.text = vec![0xcc; size];
    }

    pub(crate) fn rename_text(&mut self, name: &'static str) {
        self.text_name = Some(name);
    }

    pub(crate) fn put(&mut self, offset: u64, code: &[u8]) {
        let at = offset as usize;
        self.text[at..at + code.len()].copy_from_slice(code);
    }

    pub(crate) fn function(&mut self, name: &str, offset: u64, size: u64) {
        self.functions.push((name.to_owned(), offset, size));
    }

    /// Code that boot may rewrite: one of Xen's `struct alt_instr`.
    pub(crate) fn alternative(&mut self, offset: u64, length: u8) {
        let here = ALTERNATIVES + self.alternatives.len() as u64;
        let to = (XEN + offset).wrapping_sub(here) as i32;
        self.alternatives.extend(to.to_le_bytes());
        self.alternatives
            .extend([0, 0, 0, 0, 0, 0, length, length, 0, 0]);
    }

    pub(crate) fn build_id(&mut self, id: &[u8]) {
        self.note = Vec::new();
        for word in [4, id.len() as u32, 3] {
            self.note.extend(word.to_le_bytes());
        }
        self.note.extend(b"GNU\0");
        self.note.extend(id);
        self.note.resize(self.note.len().next_multiple_of(4), 0);
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut strings = vec![0];
        let mut symbols = vec![0; 24];
        let mut symbol = |name: &str, section: u16, value: u64, size: u64| {
            symbols.extend((strings.len() as u32).to_le_bytes());
            strings.extend(name.bytes().chain([0]));
            symbols.extend([0x12, 0]); // global function
            symbols.extend(section.to_le_bytes());
            symbols.extend(value.to_le_bytes());
            symbols.extend(size.to_le_bytes());
        };
        for (name, offset, size) in &self.functions {
            symbol(name, 1, XEN + offset, *size);
        }
        let end = ALTERNATIVES + self.alternatives.len() as u64;
        symbol("__alt_instructions", 2, ALTERNATIVES, 0);
        symbol("__alt_instructions_end", 2, end, 0);

        let mut names = vec![0];
        let mut body: Vec<u8> = vec![0; 64];
        let mut headers = vec![0; 64];
        let mut section = |name: &str,
                           kind: u32,
                           flags: u64,
                           address: u64,
                           data: &[u8],
                           link: u32,
                           entry: u64| {
            body.resize(body.len().next_multiple_of(16), 0);
            headers.extend((names.len() as u32).to_le_bytes());
            names.extend(name.bytes().chain([0]));
            headers.extend(kind.to_le_bytes());
            for word in [flags, address, body.len() as u64, data.len() as u64] {
                headers.extend(word.to_le_bytes());
            }
            headers.extend(link.to_le_bytes());
            headers.extend(1u32.to_le_bytes()); // first global symbol
            for word in [if kind == SHT_NOTE { 4 } else { 1 }, entry] {
                headers.extend(word.to_le_bytes());
            }
            body.extend(data);
        };
        let text = self.text_name.unwrap_or(".text");
        section(text, SHT_PROGBITS, ALLOC | EXEC, XEN, &self.text, 0, 0);
        section(
            ".init.data",
            SHT_PROGBITS,
            ALLOC,
            ALTERNATIVES,
            &self.alternatives,
            0,
            0,
        );
        section(
            ".note.gnu.build-id",
            SHT_NOTE,
            ALLOC,
            end + 64,
            &self.note,
            0,
            0,
        );
        section(".symtab", SHT_SYMTAB, 0, 0, &symbols, 5, 24);
        section(".strtab", SHT_STRTAB, 0, 0, &strings, 0, 0);
        let before = names_with(&[
            text,
            ".init.data",
            ".note.gnu.build-id",
            ".symtab",
            ".strtab",
            ".shstrtab",
        ]);
        section(".shstrtab", SHT_STRTAB, 0, 0, &before, 0, 0);

        let table = body.len().next_multiple_of(16);
        body.resize(table, 0);
        body.extend(&headers);
        let header = &mut body[..64];
        header[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(16, &2u16.to_le_bytes()); // executable
        put(18, &62u16.to_le_bytes()); // x86-64
        put(20, &1u32.to_le_bytes());
        put(40, &(table as u64).to_le_bytes());
        put(52, &64u16.to_le_bytes());
        put(58, &64u16.to_le_bytes());
        put(60, &7u16.to_le_bytes());
        put(62, &6u16.to_le_bytes());
        body
    }
}

fn names_with(names: &[&str]) -> Vec<u8> {
    let mut table = vec![0];
    for name in names {
        table.extend(name.bytes().chain([0]));
    }
    table
}
