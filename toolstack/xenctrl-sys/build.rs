//! Generates the bindings from the headers of the patched Xen.

use std::env;
use std::path::{Path, PathBuf};
use std::process::exit;

/// The Xen release whose headers are looked for when nothing else is said.
const DEFAULT_RELEASE: &str = "4.20";

const HEADERS: [&str; 4] = ["xencall.h", "xenforeignmemory.h", "xenctrl.h", "xen/xfi.h"];

/// Not part of the patched Xen: how a livepatch of a stock one is called.
const LIVEPATCH_HEADER: &str = "xen-patches/include/xen/xfi-livepatch.h";

fn main() {
    let include = include_dir();
    for header in HEADERS {
        let path = include.join(header);
        println!("cargo::rerun-if-changed={}", path.display());
        if !path.is_file() {
            fail(&format!(
                "Xen's header {} is not there. Run xen-patches/build.sh, which makes it, or set \
                 XFI_XEN_INCLUDE to the include directory of an installed Xen with the xfi patches",
                path.display()
            ));
        }
    }
    println!("cargo::rustc-env=XFI_XEN_RELEASE={}", release(&include));

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let include_text = include
        .to_str()
        .unwrap_or_else(|| fail("the include path is not UTF-8"));
    let base = || {
        bindgen::Builder::default()
            .clang_arg(format!("-I{include_text}"))
            .rust_edition(bindgen::RustEdition::Edition2024)
            .wrap_unsafe_ops(true)
            .layout_tests(true)
            .derive_default(true)
            .generate_comments(false)
            .formatter(bindgen::Formatter::None)
    };

    let livepatch = root().join(LIVEPATCH_HEADER);
    println!("cargo::rerun-if-changed={}", livepatch.display());
    write(
        base()
            .header_contents(
                "xfi-wrapper.h",
                &format!(
                    "#include <stdint.h>\n#include <xen/xfi.h>\n#include \"{}\"\n",
                    livepatch.display()
                ),
            )
            .allowlist_item("xfi_.*")
            .allowlist_var("XFI_.*")
            .derive_debug(true)
            .derive_eq(true),
        &out.join("abi.rs"),
    );
    write(
        base()
            .header_contents("xencall-wrapper.h", "#include <xencall.h>\n")
            .allowlist_function("xencall_(open|close|alloc_buffer|free_buffer)")
            .allowlist_function("xencall2")
            .dynamic_library_name("XenCall")
            .dynamic_link_require_all(true),
        &out.join("xencall.rs"),
    );
    write(
        base()
            .header_contents(
                "xenforeignmemory-wrapper.h",
                "#include <xenforeignmemory.h>\n",
            )
            .allowlist_function("xenforeignmemory_(open|close|map|unmap)")
            .allowlist_type("(arch_)?shared_info")
            .dynamic_library_name("XenForeignMemory")
            .dynamic_link_require_all(true),
        &out.join("xenforeignmemory.rs"),
    );
    write(
        base()
            .header_contents("xenctrl-wrapper.h", "#include <xenctrl.h>\n")
            .allowlist_function("xc_(interface_open|interface_close|readconsolering)")
            .allowlist_function("xc_(domain_getinfolist|physinfo)")
            .allowlist_var("XEN_DOMINF_.*")
            .allowlist_var("SHUTDOWN_.*")
            .allowlist_var("XEN_X86_EMU_.*")
            .derive_debug(false)
            .dynamic_library_name("XenCtrl")
            .dynamic_link_require_all(true),
        &out.join("xenctrl.rs"),
    );
}

fn include_dir() -> PathBuf {
    println!("cargo::rerun-if-env-changed=XFI_XEN_INCLUDE");
    if let Some(dir) = env::var_os("XFI_XEN_INCLUDE") {
        return PathBuf::from(dir);
    }
    root()
        .join("target/xen")
        .join(DEFAULT_RELEASE)
        .join("include")
}

/// The source tree's.
fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let root = Path::new(&manifest).join("../..");
    root.canonicalize().unwrap_or(root)
}

/// The release the headers belong to: `…/4.20/include` tells it.
fn release(include: &Path) -> String {
    println!("cargo::rerun-if-env-changed=XFI_XEN_RELEASE");
    if let Ok(release) = env::var("XFI_XEN_RELEASE") {
        return release;
    }
    let is_release = |name: &str| {
        let mut parts = name.split('.');
        parts.clone().count() == 2
            && parts.all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
    };
    include
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str())
        .filter(|name| is_release(name))
        .unwrap_or(DEFAULT_RELEASE)
        .to_owned()
}

fn write(builder: bindgen::Builder, path: &Path) {
    match builder.generate() {
        Ok(bindings) => {
            if let Err(e) = bindings.write_to_file(path) {
                fail(&format!("writing {}: {e}", path.display()));
            }
        }
        Err(e) => fail(&format!(
            "bindgen on Xen's headers: {e} (if it is libclang that is missing: apt install libclang-dev)"
        )),
    }
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1)
}
