//! Xen's hypercalls by name and number, and their handlers in a Xen binary.

use crate::table::near;
use crate::{Elf, Symbol, SymbolsError};

/// A hypercall of `xen/include/public/xen.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hypercall {
    /// `__HYPERVISOR_<name>`, lower case.
    pub name: &'static str,
    /// Its number.
    pub number: u32,
}

macro_rules! hypercalls {
    ($($number:literal $name:literal),* $(,)?) => {
        /// All hypercalls that Xen 4.17 to 4.20 number, but those it no longer
        /// has a handler for anywhere (`xenoprof_op`, `tmem_op`).
        pub const HYPERCALLS: &[Hypercall] =
            &[$(Hypercall { name: $name, number: $number }),*];
    };
}

// public/xen.h; 48 and up from public/arch-x86/xen-mca.h, xen-x86_64.h, domctl.c
// and public/xfi.h.
hypercalls! {
    0 "set_trap_table", 1 "mmu_update", 2 "set_gdt", 3 "stack_switch",
    4 "set_callbacks", 5 "fpu_taskswitch", 6 "sched_op_compat", 7 "platform_op",
    8 "set_debugreg", 9 "get_debugreg", 10 "update_descriptor", 12 "memory_op",
    13 "multicall", 14 "update_va_mapping", 15 "set_timer_op",
    16 "event_channel_op_compat", 17 "xen_version", 18 "console_io",
    19 "physdev_op_compat", 20 "grant_table_op", 21 "vm_assist",
    22 "update_va_mapping_otherdomain", 23 "iret", 24 "vcpu_op",
    25 "set_segment_base", 26 "mmuext_op", 27 "xsm_op", 28 "nmi_op",
    29 "sched_op", 30 "callback_op", 32 "event_channel_op", 33 "physdev_op",
    34 "hvm_op", 35 "sysctl", 36 "domctl", 37 "kexec_op", 39 "argo_op",
    40 "xenpmu_op", 41 "dm_op", 42 "hypfs_op", 48 "mca",
    49 "paging_domctl_cont", 55 "xfi_op",
}

/// Finds a hypercall by name (`iret`, also `__HYPERVISOR_iret`, `do_iret` or
/// `stack-switch`) or number.
///
/// # Errors
/// [`SymbolsError::UnknownHypercall`], with names that are near.
pub fn find_hypercall(text: &str) -> Result<Hypercall, SymbolsError> {
    let lower = text.trim().to_ascii_lowercase().replace('-', "_");
    let name = lower
        .strip_prefix("__hypervisor_")
        .or_else(|| lower.strip_prefix("do_"))
        .unwrap_or(&lower);
    let number = name.parse::<u32>().ok();
    HYPERCALLS
        .iter()
        .find(|h| h.name == name || Some(h.number) == number)
        .copied()
        .ok_or_else(|| SymbolsError::UnknownHypercall {
            name: text.to_owned(),
            near: near(HYPERCALLS.iter().map(|h| h.name), name),
        })
}

/// A hypercall's handler in one Xen binary: what a 64-bit guest's call runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// The hypercall.
    pub hypercall: Hypercall,
    /// The handler's symbol, `do_<name>`.
    pub symbol: Symbol,
    /// Pieces that the compiler moved out of line (`do_<name>.cold`), by
    /// address.
    pub outlined: Vec<Symbol>,
    /// Other handlers of the same hypercall: those of 32-bit guests
    /// (`compat_…`), and of HVM guests (`hvm_…`) where these go elsewhere first.
    pub others: Vec<String>,
}

impl Hypercall {
    /// The handler's name in Xen's source.
    pub fn handler_name(self) -> String {
        format!("do_{}", self.name)
    }

    /// Looks up the handler in a Xen binary.
    ///
    /// A compiler that changed the handler's arguments calls it `do_x.isra.0` or
    /// `do_x.constprop.0`; that is taken when it is the only one.
    ///
    /// # Errors
    /// [`SymbolsError::NoHandler`], with the symbols that look like it:
    /// not built, or inlined into its only caller.
    pub fn handler(self, elf: &Elf) -> Result<Handler, SymbolsError> {
        let wanted = self.handler_name();
        let code = || elf.symbols().iter().filter(|s| s.code);
        let part_of = |symbol: &Symbol, base: &str, kinds: &[&str]| {
            symbol
                .name
                .strip_prefix(base)
                .and_then(|rest| rest.strip_prefix('.'))
                .is_some_and(|rest| {
                    let mut words = rest.split('.');
                    words.next().is_some_and(|w| kinds.contains(&w))
                        && words.all(|w| w.bytes().all(|b| b.is_ascii_digit()))
                })
        };
        let exact: Vec<&Symbol> = code().filter(|s| s.name == wanted).collect();
        let clones: Vec<&Symbol> = code()
            .filter(|s| part_of(s, &wanted, &["isra", "constprop"]))
            .collect();
        let symbol = match (exact.as_slice(), clones.as_slice()) {
            ([one], _) | ([], [one]) => (*one).clone(),
            _ => {
                let mut names: Vec<&str> = code()
                    .map(|s| s.name.as_str())
                    .filter(|n| {
                        let bare = n.split('.').next().unwrap_or(n);
                        bare == wanted
                            || [bare.strip_prefix("compat_"), bare.strip_prefix("hvm_")]
                                .contains(&Some(self.name))
                    })
                    .collect();
                names.dedup();
                return Err(SymbolsError::NoHandler {
                    hypercall: self.name,
                    handler: wanted,
                    candidates: if names.is_empty() {
                        "none".to_owned()
                    } else {
                        names.join(" ")
                    },
                });
            }
        };
        let outlined = code()
            .filter(|s| part_of(s, &symbol.name, &["cold", "part"]))
            .cloned()
            .collect();
        let others = ["compat_", "hvm_"]
            .map(|prefix| format!("{prefix}{}", self.name))
            .into_iter()
            .filter(|name| code().any(|s| &s.name == name))
            .collect();
        Ok(Handler {
            hypercall: self,
            symbol,
            outlined,
            others,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_unique_and_in_order() {
        assert!(HYPERCALLS.windows(2).all(|w| w[0].number < w[1].number));
        let mut names: Vec<_> = HYPERCALLS.iter().map(|h| h.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), HYPERCALLS.len());
    }

    #[test]
    fn a_hypercall_is_found_however_it_is_written() {
        for text in ["iret", "IRET", "23", "do_iret", "__HYPERVISOR_iret"] {
            assert_eq!(find_hypercall(text).unwrap().number, 23, "{text}");
        }
        assert_eq!(find_hypercall("stack-switch").unwrap().number, 3);
    }

    #[test]
    fn an_unknown_hypercall_is_answered_with_near_ones() {
        let e = find_hypercall("evtchn_op").unwrap_err().to_string();
        assert!(
            e.contains("'evtchn_op'") && e.contains("xfi locations"),
            "{e}"
        );
        let e = find_hypercall("stack_swich").unwrap_err().to_string();
        assert!(e.contains("near: stack_switch"), "{e}");
        assert!(find_hypercall("").is_err());
        assert!(find_hypercall("11").is_err());
    }
}
