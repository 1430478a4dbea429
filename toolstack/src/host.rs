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

/// The running Xen's release, such as `4.20`.
pub fn xen_release() -> Option<String> {
    Some(format!("{}.{}", read("version/major")?, read("version/minor")?))
}

/// The running Xen's version, such as `4.20.0`.
pub fn xen_version() -> Option<String> {
    Some(format!("{}{}", xen_release()?, read("version/extra").unwrap_or_default()))
}

/// The running Xen's build id, in hexadecimal. Needs dom0.
pub fn xen_build_id() -> Option<String> {
    read("buildid").or_else(|| read("properties/buildid")).filter(|id| id != "<denied>")
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
    fn the_kernel_is_known_everywhere() {
        assert!(!super::kernel_release().is_empty());
    }
}
