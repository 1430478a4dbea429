//! Reading and checking layout files.

use crate::TestbedError;
use crate::error::IoContext;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use xfi_model::{GuestKind, Layout, XenRelease};

/// The layout files' version that this program reads.
const FORMAT: u32 = 1;

/// Layouts that need no file.
const BUILT_IN: [(&str, &str); 4] = [
    ("http", include_str!("../../layouts/http.toml")),
    ("kat", include_str!("../../layouts/kat.toml")),
    ("kat-smp", include_str!("../../layouts/kat-smp.toml")),
    ("task", include_str!("../../layouts/task.toml")),
];

/// QEMU's user network (slirp), and what is taken in it.
pub(crate) const SLIRP_NET: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 0);
/// dom0's address in it.
pub(crate) const DOM0_ADDR: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// Who pings dom0.
pub(crate) const PINGER_ADDR: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 254);
const SLIRP_RESERVED: [(Ipv4Addr, &str); 6] = [
    (Ipv4Addr::new(10, 0, 2, 0), "the network's own"),
    (Ipv4Addr::new(10, 0, 2, 2), "the gateway's"),
    (Ipv4Addr::new(10, 0, 2, 3), "the name server's"),
    (DOM0_ADDR, "dom0's"),
    (PINGER_ADDR, "the pinger's"),
    (Ipv4Addr::new(10, 0, 2, 255), "the broadcast address"),
];

/// The layouts that can be asked for by name.
pub fn layout_names() -> Vec<&'static str> {
    BUILT_IN.iter().map(|(name, _)| *name).collect()
}

/// Names the Xen release that boots, whatever the layout says.
const RELEASE_VARIABLE: &str = "XFI_XEN";

/// The Xen release that `$XFI_XEN` asks for, if it asks.
///
/// # Errors
/// [`TestbedError::NoSuchXenRelease`].
pub fn release_asked_for() -> Result<Option<XenRelease>, TestbedError> {
    match std::env::var_os(RELEASE_VARIABLE).filter(|v| !v.is_empty()) {
        Some(name) => release_named(&name.to_string_lossy()).map(Some),
        None => Ok(None),
    }
}

fn release_named(name: &str) -> Result<XenRelease, TestbedError> {
    XenRelease::named(name).ok_or_else(|| TestbedError::NoSuchXenRelease {
        name: name.to_owned(),
        known: XenRelease::ALL.map(XenRelease::name).join(", "),
    })
}

/// The layout of this name, or in this file when `name` is a path (has a `/`
/// or ends in `.toml`); with the Xen release that `$XFI_XEN` asks for.
///
/// # Errors
/// [`TestbedError::NoSuchLayout`], and as for [`load_layout`] and
/// [`release_asked_for`].
pub fn find_layout(name: &str) -> Result<Layout, TestbedError> {
    let mut layout = if name.contains('/') || name.ends_with(".toml") {
        load_layout(Path::new(name))?
    } else {
        match BUILT_IN.iter().find(|(n, _)| *n == name) {
            Some((name, text)) => parse_layout(text, &format!("layouts/{name}.toml"))?,
            None => {
                return Err(TestbedError::NoSuchLayout {
                    name: name.to_owned(),
                    known: layout_names().join(", "),
                });
            }
        }
    };
    if let Some(release) = release_asked_for()? {
        layout.host.release = release;
    }
    Ok(layout)
}

/// Reads and checks a layout file.
///
/// # Errors
/// When it cannot be read, is malformed (`file:line:column: …`) or makes no
/// sense.
pub fn load_layout(path: &Path) -> Result<Layout, TestbedError> {
    let text = std::fs::read_to_string(path).context("reading", path)?;
    parse_layout(&text, &path.display().to_string())
}

/// Parses and checks a layout; `path` is what errors call it.
///
/// # Errors
/// As for [`load_layout`].
pub fn parse_layout(text: &str, path: &str) -> Result<Layout, TestbedError> {
    let layout: Layout = toml::from_str(text).map_err(|e| {
        let (line, column) = position(text, e.span().map_or(0, |s| s.start));
        TestbedError::LayoutSyntax {
            path: path.to_owned(),
            line,
            column,
            message: e.message().replace('\n', " "),
        }
    })?;
    check(&layout).map_err(|message| TestbedError::LayoutInvalid {
        path: path.to_owned(),
        message,
    })?;
    Ok(layout)
}

fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
    (line, column)
}

fn check(layout: &Layout) -> Result<(), String> {
    if layout.format != FORMAT {
        return Err(format!(
            "format = {} is not supported; valid: {FORMAT}",
            layout.format
        ));
    }
    name_ok("name", &layout.name)?;
    let host = &layout.host;
    if !(512..=65536).contains(&host.memory_mib) {
        return Err(format!(
            "host.memory_mib = {}; valid: 512 to 65536",
            host.memory_mib
        ));
    }
    if !(1..=16).contains(&host.smp) {
        return Err(format!("host.smp = {}; valid: 1 to 16", host.smp));
    }
    if host.cpu.contains(char::is_whitespace) {
        return Err(format!("host.cpu = {:?} contains white space", host.cpu));
    }
    if host.dom0_args.contains(',') {
        return Err(
            "host.dom0_args contains a comma, at which QEMU would split the list of \
                    boot modules; write the arguments without commas"
                .to_owned(),
        );
    }
    check_guests(layout)?;
    match &layout.default_target {
        Some(target) if !layout.guests.iter().any(|g| &g.name == target) => Err(format!(
            "default_target = '{target}' is no guest of this layout; valid: {}",
            layout
                .guests
                .iter()
                .map(|g| g.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        )),
        _ => Ok(()),
    }
}

fn check_guests(layout: &Layout) -> Result<(), String> {
    let mut names = BTreeSet::from(["Domain-0", "dom0"]);
    let mut addresses = BTreeSet::new();
    let mut memory: u64 = 0;
    for guest in &layout.guests {
        let name = guest.name.as_str();
        name_ok("guest name", name)?;
        if !names.insert(name) {
            return Err(format!(
                "two domains are called '{name}'; names must differ"
            ));
        }
        if !(1..=32).contains(&guest.vcpus) {
            return Err(format!("{name}: vcpus = {}; valid: 1 to 32", guest.vcpus));
        }
        if guest.kind == GuestKind::Hvm {
            return Err(format!(
                "{name}: HVM guests are not supported yet; valid: pv, pvh"
            ));
        }
        if guest.ready_line.trim().is_empty() {
            return Err(format!("{name}: ready_line is empty"));
        }
        if guest.port == Some(0) {
            return Err(format!(
                "{name}: port = 0 is no TCP port; valid: 1 to 65535"
            ));
        }
        memory += u64::from(guest.memory_mib);
        match guest.ip {
            None if guest.port.is_some() => {
                return Err(format!("{name}: has a port but no ip"));
            }
            None => {}
            Some(ip) => {
                if ip.octets()[..3] != SLIRP_NET.octets()[..3] {
                    return Err(format!("{name}: ip {ip} lies outside 10.0.2.0/24"));
                }
                if let Some((_, whose)) = SLIRP_RESERVED.iter().find(|(a, _)| *a == ip) {
                    return Err(format!("{name}: ip {ip} is {whose}"));
                }
                if !addresses.insert(ip) {
                    return Err(format!("{name}: ip {ip} is another guest's"));
                }
            }
        }
    }
    if memory >= u64::from(layout.host.memory_mib) {
        return Err(format!(
            "the guests have {memory} MiB together, the host only {} MiB",
            layout.host.memory_mib
        ));
    }
    Ok(())
}

fn name_ok(what: &str, name: &str) -> Result<(), String> {
    let ok = !name.is_empty()
        && name.len() <= 32
        && !name.starts_with('-')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if ok {
        Ok(())
    } else {
        Err(format!(
            "{what} '{name}' is not valid: 1 to 32 of a-z A-Z 0-9 - _, not starting with -"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../../layouts/http.toml");

    fn error(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "the layout no longer has {from:?}");
        parse_layout(&GOOD.replacen(from, to, 1), "l.toml")
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_layouts_we_ship_are_good() {
        for name in layout_names() {
            let layout = find_layout(name).unwrap();
            assert_eq!(layout.name, name);
            assert!(layout.default_target.is_some());
        }
    }

    #[test]
    fn syntax_errors_say_where() {
        let e = error("smp = 1", "smp = one");
        assert!(e.starts_with("l.toml:10:7: "), "{e}");
        let e = error("smp = 1", "smp = 1\nsmpp = 2");
        assert!(
            e.starts_with("l.toml:11:1: ") && e.contains("smpp") && !e.contains('\n'),
            "{e}"
        );
        let e = error("kind = \"pv\"", "kind = \"pvx\"");
        assert!(e.contains("pvx") && e.contains("pvh"), "{e}");
    }

    #[test]
    fn nonsense_is_refused_with_the_name_and_the_valid_values() {
        for (from, to, expected) in [
            (
                "format = 1",
                "format = 2",
                "format = 2 is not supported; valid: 1",
            ),
            (
                "name = \"web2\"",
                "name = \"web1\"",
                "two domains are called 'web1'",
            ),
            (
                "name = \"web2\"",
                "name = \"we b2\"",
                "'we b2' is not valid",
            ),
            (
                "ip = \"10.0.2.22\"",
                "ip = \"10.0.2.21\"",
                "another guest's",
            ),
            ("ip = \"10.0.2.22\"", "ip = \"10.0.2.15\"", "is dom0's"),
            (
                "ip = \"10.0.2.22\"",
                "ip = \"192.168.1.1\"",
                "outside 10.0.2.0/24",
            ),
            ("ip = \"10.0.2.22\"", "", "has a port but no ip"),
            ("console=hvc0 root", "console=hvc0,tty root", "a comma"),
            (
                "default_target = \"web1\"",
                "default_target = \"w\"",
                "valid: web1, web2",
            ),
            (
                "memory_mib = 128",
                "memory_mib = 4096",
                "the host only 1536 MiB",
            ),
            ("smp = 1", "smp = 0", "valid: 1 to 16"),
        ] {
            let e = error(from, to);
            assert!(
                e.starts_with("layout l.toml: ") && e.contains(expected),
                "{e}"
            );
        }
    }

    #[test]
    fn a_xen_release_there_are_no_patches_for_is_answered_with_the_known_ones() {
        for name in ["4.18", "4.2", "4.17 ", "bookworm"] {
            let e = release_named(name).unwrap_err().to_string();
            assert!(e.contains(&format!("'{name}'")), "{e}");
            assert!(e.contains("4.17, 4.20"), "{e}");
        }
        assert_eq!(release_named("4.17").unwrap(), XenRelease::V4_17);
    }

    #[test]
    fn an_unknown_layout_is_answered_with_the_known_ones() {
        let e = find_layout("nosuch").unwrap_err().to_string();
        assert!(e.contains("'nosuch'") && e.contains("http, kat"), "{e}");
        let e = find_layout("./nosuch.toml").unwrap_err().to_string();
        assert!(e.contains("./nosuch.toml"), "{e}");
    }
}
