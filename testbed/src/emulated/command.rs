//! QEMU's command line.

use crate::layout::DOM0_ADDR;
use std::ffi::OsString;
use std::path::Path;
use xfi_model::{GuestLayout, HostLayout, Layout};

/// The virtio-serial port that the agent serves.
const AGENT_PORT: &str = "org.xfi.agent";

/// Names inside QEMU's working directory. What the emulated machine can see of
/// them (the boot modules' names) is then the same wherever that is.
pub(crate) const QMP: &str = "qmp";
pub(crate) const QMP_EVENTS: &str = "events";
pub(crate) const CONSOLE: &str = "console";
pub(crate) const AGENT: &str = "agent";
pub(crate) const PING: &str = "ping";
pub(crate) const PING_PEER: &str = "ping-peer";
pub(crate) const PID: &str = "pid";
pub(crate) const DISK: &str = "disk.qcow2";
pub(crate) const XEN: &str = "xen";
pub(crate) const KERNEL: &str = "vmlinux";
pub(crate) const INITRD: &str = "initrd";

/// Ports on 127.0.0.1 that lead inside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Forwards {
    /// To dom0's sshd.
    pub(crate) ssh: Option<u16>,
    /// To guests' services: one for each guest that has one, in order.
    pub(crate) services: Vec<u16>,
}

/// The guests that serve something.
pub(crate) fn serving(layout: &Layout) -> impl Iterator<Item = &GuestLayout> {
    layout
        .guests
        .iter()
        .filter(|g| g.ip.is_some() && g.port.is_some())
}

/// How the machine comes to life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// It boots; what it writes to memory is in the memory's file.
    Boot,
    /// It waits for a snapshot; the memory's file is mapped privately and
    /// stays as it is.
    Restore,
}

/// What differs from one QEMU to the next.
#[derive(Debug, Clone)]
pub(crate) struct Parts<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) start: Start,
    pub(crate) ram: &'a Path,
    pub(crate) forwards: &'a Forwards,
    pub(crate) console_log: &'a Path,
    pub(crate) packets: Option<&'a Path>,
    pub(crate) sandbox: bool,
}

/// QEMU's arguments.
pub(crate) fn arguments(parts: &Parts<'_>) -> Vec<OsString> {
    let HostLayout {
        memory_mib,
        smp,
        cpu,
        xen_args,
        dom0_args,
        ..
    } = &parts.layout.host;
    let mut args = Arguments::default();
    args.add("-name", format!("xfi-{}", parts.layout.name));
    args.flags(&["-no-user-config", "-nodefaults"]);
    args.add("-display", "none");
    if parts.sandbox {
        args.add(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
    }
    args.add("-machine", "pc,memory-backend=ram,usb=off,vmport=off");
    args.add("-accel", "tcg,thread=multi");
    args.add("-cpu", cpu);
    args.add("-smp", smp.to_string());
    args.add("-m", format!("{memory_mib}M"));
    let sharing = match parts.start {
        Start::Boot => "share=on",
        Start::Restore => "share=off,readonly=on,rom=off",
    };
    args.add(
        "-object",
        with_path(
            &format!("memory-backend-file,id=ram,size={memory_mib}M,{sharing},mem-path="),
            parts.ram,
        ),
    );
    // A restored machine has booted; but its ROM is made from -kernel.
    args.add("-kernel", XEN);
    args.add("-append", xen_args);
    match parts.start {
        Start::Boot => args.add("-initrd", format!("{KERNEL} {dom0_args},{INITRD}")),
        Start::Restore => args.add("-incoming", "defer"),
    }
    for monitor in [QMP, QMP_EVENTS] {
        args.add(
            "-chardev",
            format!("socket,id={monitor},path={monitor},server=on,wait=off"),
        );
        args.add("-mon", format!("chardev={monitor},mode=control"));
    }
    args.add(
        "-chardev",
        with_path(
            &format!("socket,id={CONSOLE},path={CONSOLE},server=on,wait=off,logfile="),
            parts.console_log,
        ),
    );
    args.add("-serial", format!("chardev:{CONSOLE}"));
    args.add(
        "-drive",
        format!("if=none,id=disk,file={DISK},format=qcow2,cache=unsafe,discard=unmap,werror=stop,rerror=stop"),
    );
    args.add("-device", "virtio-blk-pci,drive=disk");
    // A hub, so that dom0 can be pinged from beside slirp.
    args.add("-netdev", slirp(parts));
    args.add(
        "-netdev",
        format!("dgram,id=ping,local.type=unix,local.path={PING},remote.type=unix,remote.path={PING_PEER}"),
    );
    args.add("-netdev", "hubport,id=net,hubid=0");
    args.add("-netdev", "hubport,id=hub-slirp,hubid=0,netdev=slirp");
    args.add("-netdev", "hubport,id=hub-ping,hubid=0,netdev=ping");
    args.add(
        "-device",
        "virtio-net-pci,netdev=net,mac=52:54:00:78:66:69,romfile=",
    );
    if let Some(packets) = parts.packets {
        args.add(
            "-object",
            with_path("filter-dump,id=packets,netdev=net,file=", packets),
        );
    }
    args.add("-device", "virtio-serial-pci");
    args.add(
        "-chardev",
        format!("socket,id={AGENT},path={AGENT},server=on,wait=off"),
    );
    args.add(
        "-device",
        format!("virtserialport,chardev={AGENT},name={AGENT_PORT}"),
    );
    // What the guest does to itself stops the machine and is reported; QEMU
    // stays, so that its own end is never the guest's.
    args.add(
        "-action",
        "reboot=shutdown,shutdown=pause,panic=pause,watchdog=none",
    );
    args.add("-pidfile", PID);
    args.0
}

fn slirp(parts: &Parts<'_>) -> String {
    let mut netdev = "user,id=slirp,net=10.0.2.0/24,restrict=on".to_owned();
    let mut forward = |port: u16, to: std::net::Ipv4Addr, to_port: u16| {
        netdev.push_str(&format!(",hostfwd=tcp:127.0.0.1:{port}-{to}:{to_port}"));
    };
    if let Some(port) = parts.forwards.ssh {
        forward(port, DOM0_ADDR, 22);
    }
    for (guest, port) in serving(parts.layout).zip(&parts.forwards.services) {
        if let (Some(ip), Some(to_port)) = (guest.ip, guest.port) {
            forward(*port, ip, to_port);
        }
    }
    netdev
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn add(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.push(option.into());
        self.0.push(value.into());
    }

    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(OsString::from));
    }
}

/// `prefix` and a path whose commas do not end the option.
fn with_path(prefix: &str, path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut out = prefix.as_bytes().to_vec();
    for byte in path.as_os_str().as_bytes() {
        out.push(*byte);
        if *byte == b',' {
            out.push(b',');
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(start: Start) -> String {
        let layout = crate::find_layout("http").unwrap();
        let forwards = Forwards {
            ssh: Some(2222),
            services: vec![8001, 8002],
        };
        let args = arguments(&Parts {
            layout: &layout,
            start,
            ram: Path::new("/dev/shm/a,b/ram"),
            forwards: &forwards,
            console_log: Path::new("console.log"),
            packets: Some(Path::new("net.pcap")),
            sandbox: true,
        });
        args.iter()
            .map(|a| a.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn a_restore_never_writes_the_snapshots_memory() {
        let restore = line(Start::Restore);
        assert!(restore.contains("share=off,readonly=on,rom=off,mem-path=/dev/shm/a,,b/ram"));
        assert!(restore.contains("-incoming defer") && !restore.contains("-initrd"));
        let boot = line(Start::Boot);
        assert!(boot.contains("share=on") && !boot.contains("-incoming"));
        assert!(boot.contains("-initrd vmlinux console=hvc0"));
    }

    #[test]
    fn forwards_are_on_loopback_and_lead_to_the_guests() {
        let line = line(Start::Restore);
        assert!(line.contains("hostfwd=tcp:127.0.0.1:2222-10.0.2.15:22"));
        assert!(line.contains("hostfwd=tcp:127.0.0.1:8001-10.0.2.21:80"));
        assert!(line.contains("hostfwd=tcp:127.0.0.1:8002-10.0.2.22:80"));
        assert!(!line.contains("hostfwd=tcp::"));
    }
}
