//! What the hooks cost a host that does not inject: two processes in a guest that
//! do nothing but switch from one to the other, on our Xen with nothing armed and
//! on Debian's, in one run, each next to the other.
//!
//! Twice: by the clock, which on a shared machine is off by some percent, in a PV
//! and a PVH guest; and by counting. With `-icount` QEMU's clock, and so the
//! guest's, is a count of all instructions of the machine, the same each time.
//! There the processes are dom0's, a PV guest too, which needs nobody to start it.

use crate::Figures;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use xfi_lab::{Host, PATIENCE, console, long, snapshot};
use xfi_model::XenBuild;

/// The known-answer guest's, which says twelve times how long they took.
const BATCHES: usize = 12;
/// Of these the first find cold caches.
const COLD: usize = 2;
const ROUNDS: u64 = 2000;

/// By the clock: kind, kernel, and rounds a batch. Under nested paging QEMU loses
/// all it has translated at each switch: a round takes it some milliseconds.
const GUESTS: [(&str, &str, u64); 2] = [("pv", "vmlinuz", 1000), ("pvh", "vmlinux", 100)];
const XENS: [XenBuild; 2] = [XenBuild::Patched, XenBuild::Stock];

pub(crate) fn measure(figures: &mut Figures) {
    if let Some([ours, debians]) = counted() {
        figures.add("pingpong_instructions_pv", ours, "instructions", BATCHES);
        figures.add(
            "pingpong_instructions_pv_stock",
            debians,
            "instructions",
            BATCHES,
        );
        figures.add("slowdown_instructions_pv", ours / debians, "ratio", BATCHES);
    }
    let pairs = if long() { 20 } else { 5 };
    let mut ratios = [Vec::new(), Vec::new()];
    for pair in 0..pairs {
        let mut took = [[0.0; 2]; 2];
        for turn in 0..2 {
            // Which is first alternates: the machine warms up, and cools down.
            let xen = (turn + pair) % 2;
            let Some(host) = Host::up("http", XENS[xen], "slow-down") else {
                return;
            };
            for (g, (kind, kernel, rounds)) in GUESTS.iter().enumerate() {
                took[xen][g] = in_guest(&host, kind, kernel, *rounds);
            }
        }
        for (g, ratios) in ratios.iter_mut().enumerate() {
            ratios.push(took[0][g] / took[1][g]);
        }
    }
    for ((kind, ..), mut ratios) in GUESTS.iter().zip(ratios) {
        ratios.sort_by(f64::total_cmp);
        let name = format!("slowdown_time_{kind}");
        figures.add(&name, ratios[ratios.len() / 2], "ratio", pairs);
        figures.add(&format!("{name}_min"), ratios[0], "ratio", pairs);
        figures.add(
            &format!("{name}_max"),
            ratios[ratios.len() - 1],
            "ratio",
            pairs,
        );
    }
}

/// Nanoseconds of the middle batch, of those that are not cold.
fn middle(lines: &[String]) -> Option<f64> {
    let mut took: Vec<u64> = lines
        .iter()
        .filter_map(|l| {
            let (_, rest) = l.split_once("xfi-kat: pingpong rounds=")?;
            rest.split_once(" ns=")?.1.trim().parse().ok()
        })
        .collect();
    (took.len() == BATCHES).then(|| {
        let warm = &mut took[COLD..];
        warm.sort_unstable();
        warm[warm.len() / 2] as f64
    })
}

fn in_guest(host: &Host, kind: &str, kernel: &str, rounds: u64) -> f64 {
    let name = format!("pingpong-{kind}");
    let config = format!(
        "name='{name}'\ntype='{kind}'\nmemory=128\nvcpus=1\n\
         kernel='/var/lib/xfi/guests/{kernel}'\nramdisk='/var/lib/xfi/guests/kat.cpio'\n\
         extra='console=hvc0 quiet xfi.pingpong={rounds}'\n"
    );
    let file = format!("/run/{name}.cfg");
    host.put(&file, config.as_bytes());
    host.dom0(&format!("xl create {file}"));
    let mut agent = host.agent();
    let end = Instant::now() + 4 * PATIENCE;
    let took = loop {
        // Seldom: whoever asks takes the processor from the guest.
        std::thread::sleep(Duration::from_secs(2));
        let lines = console(&mut agent, &name);
        if let Some(took) = middle(&lines) {
            break took;
        }
        assert!(Instant::now() < end, "{name}: {lines:#?}");
    };
    host.dom0(&format!("xl destroy {name}"));
    took
}

/// Instructions of the whole machine a round, on our Xen and on Debian's.
fn counted() -> Option<[f64; 2]> {
    let mut counts = [0.0; 2];
    for (xen, count) in XENS.into_iter().zip(&mut counts) {
        let (artifacts, set) = snapshot("http", xen, "slow-down")?;
        let files = set.files();
        let guest = artifacts.root().join("image/current/guests/kat.cpio");
        *count = boot(&files.xen, &files.kernel, &guest);
    }
    Some(counts)
}

/// An instruction takes this long, as a power of two of nanoseconds.
const SHIFT: u32 = 3;

fn boot(xen: &Path, kernel: &Path, initrd: &Path) -> f64 {
    let dir = tempfile::tempdir().expect("a directory");
    let serial: PathBuf = dir.path().join("serial");
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-machine", "pc", "-accel", "tcg,thread=single"])
        .args(["-icount", &format!("shift={SHIFT},sleep=off")])
        .args(["-cpu", "max,-xsave,-rdtscp,-monitor,-x2apic,-tsc-deadline"])
        .args(["-smp", "1", "-m", "512M", "-rtc", "base=2026-01-01,clock=vm"])
        .args(["-append", "dom0_mem=256M,max:256M console=com1 com1=115200,8n1 bootscrub=0 sched=credit2 noreboot no-real-mode"])
        .arg("-kernel")
        .arg(xen)
        .arg("-initrd")
        .arg(format!(
            "{} console=hvc0 quiet xfi.pingpong={ROUNDS},{}",
            kernel.display(),
            initrd.display()
        ))
        .arg("-serial")
        .arg(format!("file:{}", serial.display()))
        .stdout(Stdio::null())
        .spawn()
        .expect("qemu-system-x86_64");
    let end = Instant::now() + 4 * PATIENCE;
    let took = loop {
        std::thread::sleep(Duration::from_millis(500));
        let text = std::fs::read(&serial).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if let Some(took) = middle(&lines) {
            break took;
        }
        let over = qemu.try_wait().expect("its state").is_some() || Instant::now() > end;
        assert!(!over, "{}: {text}", xen.display());
    };
    qemu.kill().expect("killed");
    qemu.wait().expect("its end");
    took / f64::from(1 << SHIFT) / ROUNDS as f64
}
