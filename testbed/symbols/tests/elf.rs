//! Handlers and their instructions in real ELF files: a tiny one made here, and
//! this test's own program for source lines.

mod tiny;

use std::path::Path;
use tiny::{Tiny, XEN};
use xfi_symbols::{
    At, CodePath, Elf, Handler, Locations, SourceLines, SymbolsError, find_hypercall,
};

/// Offsets in `do_iret`, below.
const COLD: u64 = 0x100;
const THUNK: u64 = 0x200;

/// A handler with all that handlers have.
fn iret() -> Vec<u8> {
    let mut code = Vec::new();
    code.extend([0xf3, 0x0f, 0x1e, 0xfa]); // 00 endbr64
    code.push(0x53); // 04 push %rbx
    code.extend([0x85, 0xc0]); // 05 test %eax,%eax
    code.extend([0x0f, 0x85]); // 07 jne do_iret.cold
    code.extend(rel32(0x07 + 6, COLD));
    code.extend([0x74, 0x14]); // 0d je 23
    code.extend([0xeb, 0x05]); // 0f jmp 16
    code.extend([0x0f, 0x1f, 0x44, 0x00, 0x00]); // 11 nop
    code.extend([0x0f, 0x1f, 0x00]); // 16 nop, the start of an alternative
    code.extend([0x0f, 0x1f, 0x00]); // 19 nop, inside it
    code.push(0x5b); // 1c pop %rbx
    code.push(0xe9); // 1d jmp __x86_return_thunk
    code.extend(rel32(0x1d + 5, THUNK));
    code.push(0x90); // 22 nop
    code.extend([0x48, 0x89, 0xc3]); // 23 mov %rax,%rbx
    code.extend([0xeb, 0xf4]); // 26 jmp 1c
    code
}

fn rel32(next: u64, to: u64) -> [u8; 4] {
    (to as i64 - next as i64).to_le_bytes()[..4]
        .try_into()
        .unwrap()
}

fn xen() -> Tiny {
    let mut elf = Tiny::default();
    elf.text(0x1000);
    elf.put(0, &iret());
    elf.put(COLD, &[0x0f, 0x0b, 0xeb, 0xfe]); // ud2, jmp .
    elf.put(THUNK, &[0xc3]);
    elf.function("do_iret", 0, 0x28);
    elf.function("do_iret.cold", COLD, 4);
    elf.function("__x86_return_thunk", THUNK, 1);
    elf.function("compat_iret", 0x300, 1);
    elf.put(0x300, &[0xc3]);
    elf.alternative(0x16, 6);
    elf
}

fn open(elf: &Tiny) -> Elf {
    Elf::from_bytes(elf.bytes(), Path::new("xen-syms")).unwrap()
}

fn handler(elf: &Elf, name: &str) -> Result<Handler, SymbolsError> {
    find_hypercall(name).unwrap().handler(elf)
}

fn locations(elf: &Elf, name: &str) -> Locations {
    Locations::of(&handler(elf, name).unwrap(), elf, None).unwrap()
}

#[test]
fn a_handler_is_swept_whole_with_its_cold_part_behind() {
    let elf = open(&xen());
    let l = locations(&elf, "iret");
    assert_eq!((l.handler.as_str(), l.number), ("do_iret", 23));
    assert_eq!(l.others, ["compat_iret"]);
    let parts: Vec<_> = l
        .parts
        .iter()
        .map(|p| (p.symbol.as_str(), p.size))
        .collect();
    assert_eq!(parts, [("do_iret", 0x28), ("do_iret.cold", 4)]);
    let listed: Vec<_> = l
        .instructions
        .iter()
        .map(|i| (i.address.0 - XEN, i.text.as_str(), i.path))
        .collect();
    use CodePath::{Branch, OutOfLine, Padding, Straight};
    assert_eq!(
        listed,
        [
            (0x00, "endbr64", Straight),
            (0x04, "push %rbx", Straight),
            (0x05, "test %eax,%eax", Straight),
            (0x07, "jne do_iret.cold", Straight),
            (0x0d, "je do_iret+0x23", Straight),
            (0x0f, "jmp do_iret+0x16", Straight),
            (0x11, "nopl (%rax,%rax)", Padding),
            (0x16, "nopl (%rax)", Straight),
            (0x19, "nopl (%rax)", Straight),
            (0x1c, "pop %rbx", Straight),
            (0x1d, "jmp __x86_return_thunk", Straight),
            (0x22, "nop", Padding),
            (0x23, "mov %rax,%rbx", Branch),
            (0x26, "jmp do_iret+0x1c", Branch),
            (0x100, "ud2", OutOfLine),
            (0x102, "jmp do_iret.cold+0x2", OutOfLine),
        ]
    );
    for (i, instruction) in l.instructions.iter().enumerate() {
        assert_eq!(instruction.number, i);
    }
    // All in line before the first jump to there, and what all come back to.
    let always: Vec<_> = l
        .instructions
        .iter()
        .filter(|i| i.always)
        .map(|i| i.number)
        .collect();
    assert_eq!(always, [0, 1, 2, 3, 4, 9, 10]);
    assert_eq!(l.instructions[3].bytes, "0f 85 f3 00 00 00");
    assert_eq!(l.instructions[12].symbol, "do_iret+0x23");
    assert_eq!(l.instructions[15].symbol, "do_iret.cold+0x2");
}

#[test]
fn what_cannot_be_armed_says_why() {
    let elf = open(&xen());
    let l = locations(&elf, "iret");
    let why = |n: usize| l.instructions[n].not_armable.as_deref().unwrap_or("");
    assert!(why(6).contains("padding"), "{}", why(6));
    assert!(why(11).contains("padding"), "{}", why(11));
    // The start of what boot may rewrite stays an instruction's start.
    assert!(l.instructions[7].rewritten_at_boot && why(7).is_empty());
    assert!(l.instructions[8].rewritten_at_boot && why(8).contains("rewrite at boot"));
    for n in [0, 1, 2, 3, 4, 5, 9, 10, 12, 13, 14, 15] {
        assert_eq!(why(n), "", "{n}");
    }
    let e = l.find(&At::Number(6)).unwrap_err().to_string();
    assert!(
        e.contains("instruction 6 of do_iret (do_iret+0x11)") && e.contains("padding"),
        "{e}"
    );
}

#[test]
fn entry_code_and_init_code_cannot_be_armed() {
    let mut tiny = xen();
    tiny.function("_stextentry", 0, 0);
    tiny.function("_etextentry", 0x80, 0);
    let l = locations(&open(&tiny), "iret");
    assert!(
        l.instructions[0]
            .not_armable
            .as_ref()
            .unwrap()
            .contains(".text.entry")
    );
    assert_eq!(l.instructions[14].not_armable, None);
    let mut tiny = xen();
    tiny.rename_text(".init.text");
    let l = locations(&open(&tiny), "iret");
    assert!(
        l.instructions[0]
            .not_armable
            .as_ref()
            .unwrap()
            .contains(".init.text")
    );
}

#[test]
fn an_instruction_is_found_by_number_offset_address_and_symbol() {
    let elf = open(&xen());
    let l = locations(&elf, "iret");
    for text in [
        "3",
        "+7",
        "+0x7",
        "0xffff82d040200007",
        "do_iret+0x7",
        "do_iret+7",
    ] {
        let at: At = text.parse().unwrap();
        assert_eq!(l.find(&at).unwrap().number, 3, "{text}");
    }
    assert_eq!(l.find(&"do_iret.cold".parse().unwrap()).unwrap().number, 14);
    for text in [
        "16",
        "+0x8",
        "0xffff82d040200008",
        "do_iret+0x6",
        "elsewhere",
    ] {
        let e = l.find(&text.parse().unwrap()).unwrap_err().to_string();
        assert!(
            e.contains(text) && e.contains("0 to 15") && e.contains("locations iret"),
            "{e}"
        );
    }
    for text in [
        "",
        "-1",
        "5x",
        "+x",
        "0x",
        "99999999999999999999",
        "do_iret+",
    ] {
        let e = text.parse::<At>().unwrap_err().to_string();
        assert!(
            e.contains(&format!("'{text}'")) && e.contains("+OFFSET"),
            "{e}"
        );
    }
}

#[test]
fn a_handler_that_is_not_there_is_answered_with_what_is() {
    let elf = open(&xen());
    let e = handler(&elf, "stack_switch").unwrap_err().to_string();
    assert!(
        e.contains("no handler do_stack_switch") && e.contains("candidates: none"),
        "{e}"
    );

    let mut tiny = Tiny::default();
    tiny.text(0x100);
    tiny.function("compat_iret", 0, 4);
    tiny.function("hvm_iret", 8, 4);
    let e = handler(&open(&tiny), "iret").unwrap_err().to_string();
    assert!(e.contains("candidates: compat_iret hvm_iret"), "{e}");

    // A compiler's clone is the handler; two of them are none.
    tiny.function("do_iret.constprop.0", 16, 4);
    let h = handler(&open(&tiny), "iret").unwrap();
    assert_eq!(h.symbol.name, "do_iret.constprop.0");
    assert_eq!(h.others, ["compat_iret", "hvm_iret"]);
    tiny.function("do_iret.isra.0", 24, 4);
    let e = handler(&open(&tiny), "iret").unwrap_err().to_string();
    assert!(e.contains("do_iret.constprop.0 do_iret.isra.0"), "{e}");
}

#[test]
fn bytes_that_are_no_instruction_are_listed_and_the_sweep_goes_on() {
    let mut tiny = Tiny::default();
    tiny.text(0x100);
    tiny.put(0, &[0x90, 0x06, 0x90]); // 0x06 is none in 64-bit mode
    tiny.function("do_iret", 0, 3);
    let l = locations(&open(&tiny), "iret");
    assert_eq!(l.instructions.len(), 3);
    let bad = &l.instructions[1];
    assert_eq!((bad.bytes.as_str(), bad.path), ("06", CodePath::Branch));
    assert_eq!(bad.not_armable.as_deref(), Some("it is no instruction"));
    assert_eq!(l.instructions[0].path, CodePath::Straight);
    assert_eq!(l.instructions[2].path, CodePath::Branch);
}

#[test]
fn a_symbol_without_its_code_is_refused() {
    let mut tiny = Tiny::default();
    tiny.text(0x100);
    tiny.function("do_iret", 0xf0, 0x1000);
    let elf = open(&tiny);
    let e = Locations::of(&handler(&elf, "iret").unwrap(), &elf, None).unwrap_err();
    assert!(
        e.to_string().contains("does not hold the code of do_iret"),
        "{e}"
    );
}

#[test]
fn the_build_id_is_read() {
    let mut tiny = xen();
    tiny.build_id(&[0xab, 0x01, 0xff]);
    assert_eq!(open(&tiny).build_id(), Some("ab01ff"));
    assert_eq!(open(&xen()).build_id(), None);
}

#[test]
fn damaged_files_are_refused_and_never_panic() {
    let good = xen().bytes();
    let refuse = |bytes: &[u8]| Elf::from_bytes(bytes.to_vec(), Path::new("x")).unwrap_err();
    assert!(refuse(b"").to_string().contains("not a 64-bit ELF file"));
    let mut arm = good.clone();
    arm[18] = 183;
    assert!(refuse(&arm).to_string().contains("another processor"));
    let mut bits32 = good.clone();
    bits32[4] = 1;
    assert!(
        refuse(&bits32)
            .to_string()
            .contains("not a 64-bit ELF file")
    );
    // Cut anywhere, and with any one byte changed.
    for cut in 0..good.len() {
        if let Ok(elf) = Elf::from_bytes(good[..cut].to_vec(), Path::new("x")) {
            use_all(&elf);
        }
    }
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        if let Ok(elf) = Elf::from_bytes(bytes, Path::new("x")) {
            use_all(&elf);
        }
    }
}

fn use_all(elf: &Elf) {
    let lines = SourceLines::of(elf);
    if let Ok(h) = handler(elf, "iret")
        && let Ok(l) = Locations::of(&h, elf, Some(&lines))
    {
        let _ = l.find(&At::Number(1));
    }
}

/// Looked up below: it calls nothing, as what an optimised build puts in line has the
/// lines of where it came from.
#[inline(never)]
fn a_function_whose_lines_are_known(n: u32) -> u32 {
    n ^ 0x5a5a
}
const END: u32 = line!() - 1;

#[test]
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn source_lines_come_from_debug_information() {
    let n = std::hint::black_box(1);
    assert_eq!(a_function_whose_lines_are_known(n), 0x5a5b);
    let elf = Elf::open(&std::env::current_exe().unwrap()).unwrap();
    let symbol = elf
        .symbols()
        .iter()
        .find(|s| s.name.contains("a_function_whose_lines_are_known"))
        .unwrap();
    let lines = SourceLines::of(&elf);
    let line = lines.line(symbol.address).unwrap();
    // An unoptimised build begins with the line of the name, an optimised one with the body's.
    let (file, number) = line.rsplit_once(':').unwrap();
    assert!(file.ends_with("tests/elf.rs"), "{line}");
    assert!((END - 2..END).contains(&number.parse().unwrap()), "{line}");
    // And none where there is no such information.
    let tiny = open(&xen());
    assert_eq!(SourceLines::of(&tiny).line(XEN), None);
}

/// The Xen of the testbed, where it has been built.
#[test]
fn every_handler_of_the_built_xen_is_listed() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../target/xen/4.20/xen-syms"
    );
    if !Path::new(path).exists() {
        println!("skipped: {path} is not built");
        return;
    }
    let elf = Elf::open(Path::new(path)).unwrap();
    let lines = SourceLines::of(&elf);
    for hypercall in xfi_symbols::HYPERCALLS {
        let h = match hypercall.handler(&elf) {
            Ok(h) => h,
            // Not built in by Debian.
            Err(_) if hypercall.name == "argo_op" => continue,
            Err(e) => panic!("{e}"),
        };
        let l = Locations::of(&h, &elf, Some(&lines)).unwrap();
        let first = &l.instructions[0];
        assert_eq!(
            (first.address.0, first.path),
            (h.symbol.address, CodePath::Straight)
        );
        assert!(
            l.instructions.iter().all(|i| i.text != "(bad)"),
            "{}",
            l.handler
        );
        let last = l.parts[0].address.0 + l.parts[0].size;
        assert!(
            l.instructions
                .iter()
                .any(|i| i.address.0 + i.bytes.split(' ').count() as u64 == last)
        );
        let source = first.source.as_ref().expect("debug information");
        assert!(source.starts_with("xen/"), "{source}");
    }
}
