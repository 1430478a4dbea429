//! Raw bindings to libxencall, libxenforeignmemory, libxenctrl and
//! `public/xfi.h`, made by bindgen from the headers of the patched Xen.
//!
//! Nothing is linked: [`call::XenCall`], [`foreign::XenForeignMemory`] and
//! [`ctrl::XenCtrl`] are loaded at run time, so that one binary starts on hosts
//! with any Xen, or none, and can say what is missing. The ABI of the first two
//! is stable; libxenctrl's structures are those of one release, [`RELEASE`],
//! which its soname tells, and of those in [`SAME_STRUCTURES`].
//!
//! The only C surface of xfi; use `xfi-toolstack` instead.
#![expect(unsafe_code, reason = "these are bindings to C")]

/// The Xen release whose headers these bindings were made from.
pub const RELEASE: &str = env!("XFI_XEN_RELEASE");

/// Releases whose libxenctrl has the functions and structures used here in one
/// and the same layout: `xen-patches/tests/libxenctrl.c` looks at their headers.
pub const SAME_STRUCTURES: &[&str] = &["4.17", "4.20"];

/// Names under which libxencall may be found. Its ABI is stable.
pub const XENCALL_SONAMES: &[&str] = &["libxencall.so.1"];

/// Names under which libxenforeignmemory may be found. Its ABI is stable.
pub const XENFOREIGNMEMORY_SONAMES: &[&str] = &["libxenforeignmemory.so.1"];

macro_rules! generated {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        $(#[$doc])*
        pub mod $name {
            #![allow(
                missing_docs,
                non_camel_case_types,
                non_upper_case_globals,
                non_snake_case,
                clippy::all,
                clippy::undocumented_unsafe_blocks,
                unreachable_pub,
                reason = "generated from C headers"
            )]
            include!(concat!(env!("OUT_DIR"), "/", $file));
        }
    };
}

generated!(
    /// The hypercall's ABI: structures and constants of `public/xfi.h`.
    abi, "abi.rs"
);
generated!(
    /// libxencall, which makes hypercalls.
    call, "xencall.rs"
);
generated!(
    /// libxenforeignmemory, which maps other domains' memory.
    foreign, "xenforeignmemory.rs"
);
generated!(
    /// The part of libxenctrl that xfi uses.
    ctrl, "xenctrl.rs"
);

#[cfg(test)]
mod tests {
    use super::{abi, ctrl};
    use std::mem::{align_of, offset_of, size_of};

    /// bindgen checks every field against clang; this pins the ABI itself, so
    /// that a change of the header without a change of its version is seen.
    #[test]
    fn layouts_are_those_of_abi_version_2() {
        assert_eq!(abi::XFI_ABI_VERSION, 2);
        assert_eq!(abi::XFI_HYPERCALL_NR, 55);
        assert_eq!(abi::XFI_MAGIC.to_le_bytes(), *b"XFIxen01");
        assert_eq!(abi::XFI_NR_REGS, 24);
        assert_eq!(size_of::<abi::xfi_regs>(), 192);
        assert_eq!(size_of::<abi::xfi_capabilities>(), 48 + 4 * 192);
        assert_eq!(size_of::<abi::xfi_arm>(), 96);
        assert_eq!(offset_of!(abi::xfi_arm, mask), 32);
        assert_eq!(offset_of!(abi::xfi_arm, id), 88);
        assert_eq!(size_of::<abi::xfi_disarm>(), 32);
        assert_eq!(offset_of!(abi::xfi_status, record), 16);
        assert_eq!(offset_of!(abi::xfi_record, now_armed), 88);
        assert_eq!(
            offset_of!(abi::xfi_record, after) + 192,
            size_of::<abi::xfi_record>()
        );
        assert_eq!(align_of::<abi::xfi_record>(), 8);
        assert_eq!(abi::XFI_LIVEPATCH_HYPERCALL_NR, 27);
        assert_eq!(size_of::<abi::xfi_livepatch_call>(), 24);
        assert_eq!(offset_of!(abi::xfi_livepatch_call, arg), 16);
        assert_eq!(offset_of!(abi::xfi_arm, hypercall), 28);
        assert_eq!(offset_of!(abi::xfi_record, hypercall), 172);
        assert_eq!(offset_of!(abi::xfi_record, before), 200);
        assert_eq!(size_of::<abi::xfi_memory>(), 72);
        assert_eq!(offset_of!(abi::xfi_memory, before), 32);
        assert_eq!(size_of::<abi::xfi_profile>(), 72);
        assert_eq!(offset_of!(abi::xfi_profile, calls), 40);
        assert_eq!(abi::XFI_NR_HYPERCALLS, 64);
    }

    /// The same numbers as in `xen-patches/tests/libxenctrl.c`.
    #[test]
    fn libxenctrls_structures_are_those_of_all_releases() {
        use ctrl::{xc_domaininfo_t, xc_physinfo_t};
        assert_eq!(size_of::<xc_domaininfo_t>(), 112);
        assert_eq!(offset_of!(xc_domaininfo_t, flags), 4);
        assert_eq!(offset_of!(xc_domaininfo_t, tot_pages), 8);
        assert_eq!(offset_of!(xc_domaininfo_t, shared_info_frame), 48);
        assert_eq!(offset_of!(xc_domaininfo_t, max_vcpu_id), 68);
        assert_eq!(offset_of!(xc_domaininfo_t, handle), 76);
        assert_eq!(offset_of!(xc_domaininfo_t, arch_config), 104);
        assert_eq!(size_of::<xc_physinfo_t>(), 112);
        assert_eq!(offset_of!(xc_physinfo_t, nr_cpus), 8);
        assert_eq!(offset_of!(xc_physinfo_t, cpu_khz), 24);
        assert_eq!(offset_of!(xc_physinfo_t, total_pages), 40);
        assert_eq!(offset_of!(xc_physinfo_t, free_pages), 48);
    }
}
