//! Versions of what runs on this host.

use std::fs;
use std::path::Path;

const SYS: &str = "/sys/hypervisor";

fn read(path: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new(SYS).join(path)).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Whether this runs on Xen at all, privileged or not.
pub fn on_xen() -> bool {
    read("type").as_deref() == Some("xen")
}

/// Whether this is the control domain.
pub fn is_dom0() -> bool {
    fs::read_to_string("/proc/xen/capabilities").is_ok_and(|c| c.contains("control_d"))
}

/// The running Xen's release, such as `4.20`.
pub fn xen_release() -> Option<String> {
    Some(format!(
        "{}.{}",
        read("version/major")?,
        read("version/minor")?
    ))
}

/// The running Xen's version, such as `4.20.0`.
pub fn xen_version() -> Option<String> {
    Some(format!(
        "{}{}",
        xen_release()?,
        read("version/extra").unwrap_or_default()
    ))
}

/// The running Xen's build id, in hexadecimal. Needs dom0.
pub fn xen_build_id() -> Option<String> {
    let bytes = fs::read(Path::new(SYS).join("properties/buildid")).ok()?;
    hex_build_id(&bytes)
}

/// sysfs gives the note's bytes themselves, or says that it may not.
fn hex_build_id(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() || bytes.starts_with(b"<denied>") {
        return None;
    }
    Some(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// The kernel's release, as `uname -r`.
pub fn kernel_release() -> String {
    uname(|u| u.release())
}

/// The host's name, as `uname -n`.
pub fn hostname() -> String {
    uname(|u| u.nodename())
}

fn uname(field: impl Fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr) -> String {
    nix::sys::utsname::uname()
        .map(|u| field(&u).to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_build_id_is_written_in_hexadecimal() {
        assert_eq!(
            super::hex_build_id(&[0xb7, 0x2f, 0]).as_deref(),
            Some("b72f00")
        );
        assert_eq!(super::hex_build_id(b"<denied>"), None);
    }

    #[test]
    fn the_kernel_is_known_everywhere() {
        assert!(!super::kernel_release().is_empty());
    }
}
