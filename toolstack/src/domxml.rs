//! A guest's description for libvirt.

use crate::{Error, Result};
use std::fmt::Write;
use std::net::Ipv4Addr;
use xfi_model::{GuestKind, GuestLayout};

/// The bridge in dom0 that guests' interfaces are on.
pub const BRIDGE: &str = "xenbr0";

/// The MAC address of the guest with this address: Xen's prefix and the
/// address's last three bytes, so that it is the same every time.
pub fn mac_address(ip: Ipv4Addr) -> String {
    let [_, b, c, d] = ip.octets();
    format!("00:16:3e:{b:02x}:{c:02x}:{d:02x}")
}

/// The domain XML of a guest.
///
/// A guest that crashes is kept, so that it can be seen that it did; one that
/// ends or reboots by itself is gone.
///
/// # Errors
/// [`Error::BadGuest`] for what cannot be said in XML, and for HVM guests.
pub fn domain_xml(guest: &GuestLayout) -> Result<String> {
    let bad = |why: String| Error::BadGuest {
        name: guest.name.clone(),
        why,
    };
    if guest.name.is_empty() || guest.name.len() > 200 || guest.name.contains('/') {
        return Err(bad("a name has 1 to 200 characters and no '/'".to_owned()));
    }
    if guest.memory_mib == 0 || guest.vcpus == 0 {
        return Err(bad("memory and vCPUs must not be 0".to_owned()));
    }
    for (what, text) in [
        ("name", &guest.name),
        ("kernel", &guest.kernel),
        ("ramdisk", &guest.ramdisk),
        ("args", &guest.args),
    ] {
        if let Some(c) = text.chars().find(|c| !xml_char(*c)) {
            return Err(bad(format!("its {what} has the character {c:?}")));
        }
    }
    let os_type = match guest.kind {
        GuestKind::Pv => "<type arch='x86_64' machine='xenpv'>linux</type>",
        GuestKind::Pvh => "<type arch='x86_64' machine='xenpvh'>xenpvh</type>",
        GuestKind::Hvm => {
            return Err(bad(
                "HVM guests cannot be started yet; use pv or pvh".to_owned()
            ));
        }
    };
    let mut xml = String::with_capacity(1024);
    let _ = write!(
        xml,
        "<domain type='xen'>\n  \
           <name>{name}</name>\n  \
           <memory unit='MiB'>{memory}</memory>\n  \
           <vcpu>{vcpus}</vcpu>\n  \
           <os>\n    \
             {os_type}\n    \
             <kernel>{kernel}</kernel>\n    \
             <initrd>{ramdisk}</initrd>\n    \
             <cmdline>{args}</cmdline>\n  \
           </os>\n  \
           <clock offset='utc'/>\n  \
           <on_poweroff>destroy</on_poweroff>\n  \
           <on_reboot>destroy</on_reboot>\n  \
           <on_crash>preserve</on_crash>\n  \
           <devices>\n    \
             <console type='pty'><target type='xen' port='0'/></console>\n",
        name = escape(&guest.name),
        memory = guest.memory_mib,
        vcpus = guest.vcpus,
        kernel = escape(&guest.kernel),
        ramdisk = escape(&guest.ramdisk),
        args = escape(&guest.args),
    );
    if let Some(ip) = guest.ip {
        let _ = write!(
            xml,
            "    <interface type='bridge'>\n      \
               <source bridge='{BRIDGE}'/>\n      \
               <mac address='{}'/>\n    \
             </interface>\n",
            mac_address(ip)
        );
    }
    xml.push_str("  </devices>\n</domain>\n");
    Ok(xml)
}

/// Characters that XML 1.0 can hold at all.
fn xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            // Kept by parsers that would normalize them away.
            '\t' | '\n' | '\r' => {
                let _ = write!(out, "&#{};", c as u32);
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guest() -> GuestLayout {
        GuestLayout {
            name: "web1".to_owned(),
            kind: GuestKind::Pv,
            memory_mib: 128,
            vcpus: 1,
            kernel: "/var/lib/xfi/guests/vmlinux".to_owned(),
            ramdisk: "/var/lib/xfi/guests/web.cpio".to_owned(),
            args: "console=hvc0 xfi.ip=10.0.2.21/24".to_owned(),
            ip: Some(Ipv4Addr::new(10, 0, 2, 21)),
            port: Some(80),
            ready_line: "xfi: web ready".to_owned(),
        }
    }

    #[test]
    fn a_pv_guest_with_a_network() {
        let xml = domain_xml(&guest()).unwrap();
        assert!(
            xml.contains("<type arch='x86_64' machine='xenpv'>linux</type>"),
            "{xml}"
        );
        assert!(xml.contains("<source bridge='xenbr0'/>"));
        assert!(xml.contains("<mac address='00:16:3e:00:02:15'/>"));
    }

    #[test]
    fn a_pvh_guest_without_a_network() {
        let xml = domain_xml(&GuestLayout {
            kind: GuestKind::Pvh,
            ip: None,
            ..guest()
        })
        .unwrap();
        assert!(
            xml.contains("<type arch='x86_64' machine='xenpvh'>xenpvh</type>"),
            "{xml}"
        );
        assert!(!xml.contains("interface"));
    }

    #[test]
    fn nothing_in_a_layout_can_add_elements() {
        let args = "a</cmdline><kernel>/evil</kernel><cmdline x=\"&'";
        let xml = domain_xml(&GuestLayout {
            args: args.to_owned(),
            ..guest()
        })
        .unwrap();
        assert_eq!(xml.matches("<kernel>").count(), 1);
        assert_eq!(xml.matches("<cmdline").count(), 1);
        assert!(xml.contains("&lt;/cmdline&gt;"));
    }

    #[test]
    fn what_cannot_be_done_is_refused_in_words() {
        for (guest, word) in [
            (
                GuestLayout {
                    kind: GuestKind::Hvm,
                    ..guest()
                },
                "HVM",
            ),
            (
                GuestLayout {
                    args: "a\0b".to_owned(),
                    ..guest()
                },
                "args",
            ),
            (
                GuestLayout {
                    name: "../x".to_owned(),
                    ..guest()
                },
                "name",
            ),
            (
                GuestLayout {
                    memory_mib: 0,
                    ..guest()
                },
                "memory",
            ),
        ] {
            let e = domain_xml(&guest).unwrap_err().to_string();
            assert!(e.contains(word), "{e}");
        }
    }

    proptest! {
        #[test]
        fn text_survives_escaping(text in "[ -~]{0,60}") {
            let escaped = escape(&text);
            prop_assert!(!escaped.contains(['<', '>', '"', '\'']));
            let back = escaped
                .replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"")
                .replace("&apos;", "'").replace("&amp;", "&");
            prop_assert_eq!(back, text);
        }
    }
}
