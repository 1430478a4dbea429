//! Source lines of addresses, from DWARF.

use crate::Elf;
use addr2line::Context;
use addr2line::gimli::{Dwarf, EndianSlice, LittleEndian, SectionId};
use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSection};

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// Directories of the hypervisor's source.
const TOPS: [&str; 6] = ["arch/", "common/", "drivers/", "include/", "lib/", "xsm/"];

/// Source lines of addresses; none where the file has no debug information.
pub struct SourceLines<'a>(Option<Context<Slice<'a>>>);

impl<'a> SourceLines<'a> {
    /// Prepares the debug information of a file, if it has any that can be read.
    pub fn of(elf: &'a Elf) -> SourceLines<'a> {
        SourceLines(context(elf.bytes()))
    }

    /// `path:line` of the instruction at this address.
    pub fn line(&self, address: u64) -> Option<String> {
        let location = self.0.as_ref()?.find_location(address).ok()??;
        let line = location.line?;
        let file = location.file?.replace("/./", "/");
        Some(format!("{}:{line}", shorten(&file)))
    }
}

fn context(bytes: &[u8]) -> Option<Context<Slice<'_>>> {
    let file = ElfFile64::<Endianness>::parse(bytes).ok()?;
    let section = |id: SectionId| {
        let data = file
            .section_by_name(id.name())
            .and_then(|s| s.data().ok())
            .unwrap_or_default();
        Ok::<_, ()>(EndianSlice::new(data, LittleEndian))
    };
    let dwarf = Dwarf::load(section).ok()?;
    Context::from_dwarf(dwarf).ok()
}

/// A path from the top of Xen's repository on: where that was built tells nobody
/// anything.
fn shorten(path: &str) -> &str {
    let path = path.trim_start_matches("./");
    path.rmatch_indices("/xen/")
        .map(|(at, _)| &path[at + 1..])
        .find(|rest| TOPS.iter().any(|t| rest["xen/".len()..].starts_with(t)))
        .unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::shorten;

    #[test]
    fn paths_start_at_the_top_of_xens_repository() {
        for (long, short) in [
            (
                "/b/xen-4.20/xen/arch/x86/pv/iret.c",
                "xen/arch/x86/pv/iret.c",
            ),
            ("/b/xen/xen/include/xen/sched.h", "xen/include/xen/sched.h"),
            ("xen/arch/x86/x.c", "xen/arch/x86/x.c"),
            ("./arch/x86/x.c", "arch/x86/x.c"),
            ("/elsewhere/x.c", "/elsewhere/x.c"),
        ] {
            assert_eq!(shorten(long), short);
        }
    }
}
