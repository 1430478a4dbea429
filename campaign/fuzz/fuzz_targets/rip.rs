//! A RIP expression: read or refused, and what is read is written back the same
//! and resolved to one range or one mode, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xfi_model::GuestKind;
use xfi_symbols::{At, RipExpr, SymbolTable, Symbols, find_hypercall};

fuzz_target!(|text: &str| {
    let _ = text.parse::<At>();
    let _ = find_hypercall(text);
    let Ok(expr) = text.parse::<RipExpr>() else { return };
    assert_eq!(expr.to_string().parse::<RipExpr>().expect("what was read"), expr);
    let symbols = Symbols {
        xen: SymbolTable::parse("ffff82d040200000 T do_iret\nffff82d040200100 T a\n"),
        kernel: SymbolTable::parse("ffffffff81000000 T schedule\nffffffffffffffff T b\n"),
    };
    for kind in [GuestKind::Pv, GuestKind::Pvh] {
        if let Ok(filter) = expr.resolve(&symbols, kind) {
            assert!(filter.range.is_some() != filter.mode.is_some());
        }
    }
});
