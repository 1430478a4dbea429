//! The hypercall as no toolstack would call it, on the real, emulated Xen: random
//! arguments from dom0 and from guests, and races between arming, disarming and
//! the ends of domains (`injector/hypercall-fuzz`). After it Xen is up, and has as
//! much memory and as many references to each domain as before.
//!
//! A share of it, always with the same seed; all of it with `XFI_LAB=long`, and
//! another seed each time. `XFI_FUZZ_SEED` repeats one.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};
use xfi_lab::{Host, PATIENCE, console, long, say};
use xfi_model::{RipRange, XenBuild};
use xfi_symbols::Elf;

const FUZZ: &str = "/run/fuzz";

/// What there is of both; unlimited tries would hide a leak, none would see what
/// Xen does later (RCU) as one.
const SETTLE: Duration = Duration::from_secs(15);

fn seed() -> u64 {
    if let Ok(text) = std::env::var("XFI_FUZZ_SEED") {
        return text.parse().expect("XFI_FUZZ_SEED is a number");
    }
    if !long() {
        return 1;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("a clock").as_secs()
}

/// What must not leak.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    /// Xen's free memory, KiB, by heap.
    free_kib: BTreeMap<String, u64>,
    /// As `xl info` has it.
    free_mib: u64,
    /// References, by domain.
    references: BTreeMap<u32, u32>,
}

impl Held {
    fn now(host: &Host) -> Held {
        let printed =
            host.dom0("xl dmesg -c >/dev/null; xl debug-keys mq; xl dmesg -c; xl info free_memory");
        let mut held = Held {
            free_kib: BTreeMap::new(),
            free_mib: 0,
            references: BTreeMap::new(),
        };
        let mut domain = None;
        for line in printed.lines() {
            let line = line.strip_prefix("(XEN) ").unwrap_or(line).trim();
            if let Some((heap, rest)) = line.split_once(" heap: ") {
                let kib = rest.strip_suffix("kB free").and_then(|n| n.parse().ok());
                held.free_kib.insert(heap.to_owned(), kib.expect("a size"));
            } else if let Some(id) = line.strip_prefix("General information for domain ") {
                domain = id.trim_end_matches(':').parse().ok();
            } else if let Some(rest) = line.strip_prefix("refcnt=") {
                let count = rest.split_whitespace().next().and_then(|n| n.parse().ok());
                held.references
                    .insert(domain.expect("a domain"), count.expect("a count"));
            } else if let Ok(mib) = line.parse() {
                held.free_mib = mib;
            }
        }
        assert!(
            held.free_kib.contains_key("Dom") && held.references.contains_key(&0),
            "{printed}"
        );
        held
    }

    #[track_caller]
    fn unchanged(&self, host: &Host, what: &str) {
        let begun = Instant::now();
        loop {
            let now = Held::now(host);
            if now == *self {
                return;
            }
            assert!(begun.elapsed() < SETTLE, "{what}: {now:#?} after {self:#?}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

/// `name=number` of the last line.
struct Done(BTreeMap<String, u64>);

impl Done {
    fn read(line: &str) -> Option<Done> {
        let (_, rest) = line
            .split_once("fuzz: done ")
            .or(line.split_once("fuzz done "))?;
        let fields = rest.split_whitespace().filter_map(|word| {
            let (name, value) = word.split_once('=')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Some(Done(fields.collect()))
    }

    #[track_caller]
    fn get(&self, name: &str) -> u64 {
        *self
            .0
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {:?}", self.0))
    }
}

#[track_caller]
fn fuzz(host: &Host, args: &str) -> Done {
    let mut done = None;
    let begun = Instant::now();
    let well = host.watch(&format!("{FUZZ} {args}"), |line| {
        say(line);
        done = Done::read(line).or(done.take());
    });
    let kind = args.split(' ').next().unwrap_or_default();
    say(&format!("fuzz {kind}: {:.1?}", begun.elapsed()));
    host.is_well();
    assert!(well, "fuzz {args}");
    let done = done.expect("its last line");
    assert_eq!((done.get("wrong"), done.get("left_armed")), (0, 0));
    done
}

/// A guest that makes its calls while it boots, and is destroyed then.
fn fuzz_from_guest(host: &Host, kind: &str, kernel: &str, calls: u64, seed: u64) {
    let config = format!(
        "name='fuzz-{kind}'\ntype='{kind}'\nmemory=128\nvcpus=1\n\
         kernel='/var/lib/xfi/guests/{kernel}'\nramdisk='/var/lib/xfi/guests/kat.cpio'\n\
         extra='console=hvc0 quiet xfi.hypercall=1 xfi.fuzz={calls} xfi.seed={seed}'\n"
    );
    let file = format!("/run/fuzz-{kind}.cfg");
    host.put(&file, config.as_bytes());
    host.dom0(&format!("xl create {file}"));
    let mut agent = host.agent();
    let end = Instant::now() + 4 * PATIENCE;
    let done = loop {
        let lines = console(&mut agent, &format!("fuzz-{kind}"));
        if let Some(done) = lines.iter().find_map(|l| Done::read(l)) {
            for line in lines.iter().filter(|l| l.contains("fuzz call=")).take(5) {
                say(line);
            }
            assert!(
                lines
                    .iter()
                    .any(|l| l.contains("control xen_version ret=0x0004"))
            );
            break done;
        }
        assert!(Instant::now() < end, "{kind}: {lines:#?}");
        std::thread::sleep(Duration::from_millis(200));
    };
    say(&format!(
        "{kind} guest: {} of {calls} calls refused",
        done.get("refused")
    ));
    assert_eq!((done.get("seed"), done.get("calls")), (seed, calls));
    assert_eq!(done.get("refused"), calls, "{kind}");
    host.dom0(&format!("xl destroy fuzz-{kind}"));
}

#[test]
fn random_arguments_and_races_leave_xen_as_it_was() {
    let Some(host) = Host::up("kat-smp", XenBuild::Patched, "the fuzz of the hypercall") else {
        return;
    };
    let seed = seed();
    let (blocks, calls, races) = if long() {
        (100_000, 10_000, 1000)
    } else {
        (10_000, 1000, 50)
    };
    say(&format!("seed {seed} (XFI_FUZZ_SEED={seed} repeats it)"));

    let xen_syms = host.xen_syms();
    let program = tempfile::tempdir().expect("a directory");
    let program = program.path().join("fuzz");
    let built = Command::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/hypercall-fuzz/build.sh"
    ))
    .arg(&program)
    .arg(xen_syms.with_file_name("include"))
    .status()
    .expect("build.sh");
    assert!(built.success());
    host.put(FUZZ, &std::fs::read(&program).expect("the program"));

    let xen = Elf::open(&xen_syms).expect("xen-syms");
    let symbol = |name: &str| xen.symbols().named(name)[0].clone();
    let command_line = symbol("saved_cmdline");
    // The command line's end is nobody's.
    let scratch = command_line.address + command_line.size.expect("its size") - 1;
    let (start, end) = (symbol("_stext").address, symbol("_etext").address);
    let lines = console(&mut host.agent(), "smp-pv");
    let gpr: RipRange = lines
        .iter()
        .find_map(|l| l.split_whitespace().find_map(|w| w.strip_prefix("gpr=")))
        .expect("a ready line")
        .parse()
        .expect("a range");
    let domids = host.dom0("xl domid smp-pv; xl domid smp-pvh");
    let domids = domids.split_whitespace().collect::<Vec<_>>().join(" ");
    let places = format!(
        "{start:#x} {end:#x} {scratch:#x} {:#x} {:#x}",
        gpr.start(),
        gpr.end()
    );

    // These compute without end: they are to leave most of the time to the rest.
    host.dom0("for d in smp-pv smp-pvh; do xl sched-credit2 -d $d -w 16; done");

    // What Xen allocates once and keeps is not leaked.
    fuzz(&host, &format!("blocks {seed} 500 {places} {domids}"));
    fuzz(&host, &format!("races {seed} 10 {domids}"));
    let before = Held::now(&host);

    let done = fuzz(&host, &format!("blocks {seed} {blocks} {places} {domids}"));
    assert_eq!(done.get("blocks"), blocks);
    for what in ["accepted", "refused", "bad_addresses", "armed"] {
        assert!(done.get(what) > blocks / 100, "{what}: {:?}", done.0);
    }
    assert!(done.get("seen_fired") > 0, "{:?}", done.0);
    before.unchanged(&host, "after the blocks");

    fuzz_from_guest(&host, "pv", "vmlinuz", calls, seed);
    fuzz_from_guest(&host, "pvh", "vmlinux", calls, seed + 1);
    before.unchanged(&host, "after the guests");

    let done = fuzz(&host, &format!("races {seed} {races} {domids}"));
    assert_eq!(done.get("races"), races);
    assert!(done.get("armed_when_destroyed") > races / 4, "{:?}", done.0);
    assert!(
        done.get("arms") > races && done.get("disarms") > 0,
        "{:?}",
        done.0
    );
    before.unchanged(&host, "after the races");

    // Guests that run are destroyed, too, while they are being armed.
    std::thread::scope(|scope| {
        scope.spawn(|| fuzz(&host, &format!("races {seed} {} {domids}", races / 2)));
        std::thread::sleep(Duration::from_secs(1));
        host.dom0("xl destroy smp-pv; xl destroy smp-pvh");
    });
    let begun = Instant::now();
    loop {
        let list = host.dom0("xl list");
        // A heading, and dom0.
        if list.lines().count() == 2 {
            break;
        }
        assert!(begun.elapsed() < SETTLE, "{list}");
        std::thread::sleep(Duration::from_millis(500));
    }
    let left: Vec<_> = Held::now(&host).references.into_keys().collect();
    assert_eq!(left, [0], "domains that Xen still has");
    host.is_well();
}
