//! Shows, in dom0 of a host with the patched Xen, that faults inside hypercalls,
//! words of memory and the profile work. It changes nothing that matters: the
//! injections are dummies.
//!
//! Usage: `inside_xen DOMAIN-ID SYMBOL:NR:ADDRESS[:REGISTER:BIT]…`, where each
//! address is that of an instruction of hypercall NR's handler. With a register
//! and a bit it is a real flip, which may well take the host down.

use std::time::{Duration, Instant};
use xfi_model::{BitOp, DomId, GuestKind, Hex64, InjectionState, Register};
use xfi_toolstack::memory::DomainMemory;
use xfi_toolstack::{Error, Hypercall, HypercallRequest, WordSize, XenControl};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const SECOND: u64 = 1_000_000_000;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let domid = DomId(args.next().ok_or("no domain id")?.parse()?);
    let xen = Hypercall::open()?;
    println!("features {:?}", xen.info()?.capabilities.features);

    let (mut fired, mut wrong) = (0, 0);
    let mut first = None;
    for place in args {
        let mut parts = place.split(':');
        let (Some(name), Some(nr), Some(address)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(format!("'{place}' is not SYMBOL:NR:ADDRESS").into());
        };
        let real = match (parts.next(), parts.next()) {
            (Some(register), Some(bit)) => Some((register.parse()?, 1 << bit.parse::<u32>()?)),
            _ => None,
        };
        let (register, mask) = real.unwrap_or((Register::Rbx, 1 << 21));
        let request = HypercallRequest {
            hypercall: nr.parse()?,
            address: address.parse::<Hex64>()?.0,
            domid: Some(domid),
            vcpu: None,
            register,
            mask,
            op: BitOp::Flip,
            dummy: real.is_none(),
            not_before_ns: 0,
            nth: 2,
            expire_ns: Some(20 * SECOND),
        };
        if real.is_none() {
            first.get_or_insert_with(|| request.clone());
        }
        let id = xen.arm_hypercall(&request)?;
        let record = loop {
            let record = xen.hypercall_status(id)?;
            if record.state != InjectionState::Armed {
                break record;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let rip = record.flip.as_ref().map(|f| f.before[&Register::Rip].0);
        // A place that no call came through expires, and says so.
        let has_fired = record.state == InjectionState::Fired;
        let good = !has_fired || (rip == Some(request.address) && record.hits == 2);
        fired += usize::from(has_fired);
        wrong += usize::from(!good);
        println!(
            "{name:18} {:#x} {:?} rip {:#x} dom {} calls {} hits {} by interrupts {}{}",
            request.address,
            record.state,
            rip.unwrap_or(0),
            record
                .flip
                .as_ref()
                .map_or("-".to_owned(), |f| f.domid.to_string()),
            record.calls_watched,
            record.hits,
            record.hits_by_interrupts,
            if good { "" } else { "  WRONG" },
        );
    }
    println!("places: {fired} fired, {wrong} wrong");
    if wrong > 0 {
        return Err("a record's RIP is not the place's address".into());
    }

    if let Some(place) = first {
        refusals(&xen, &place)?;
        memory(&xen, place.address)?;
    }
    domains_memory(domid)?;
    profile(&xen)?;
    println!(
        "after all: {} armed, {:?}",
        xen.info()?.armed,
        xen.disarm(None)?
    );
    Ok(())
}

/// What must not be armed is refused, in words.
fn refusals(xen: &Hypercall, good: &HypercallRequest) -> Result<()> {
    let held = HypercallRequest {
        address: good.address,
        nth: u64::MAX,
        ..good.clone()
    };
    let id = xen.arm_hypercall(&held)?;
    let twice = xen.arm_hypercall(good);
    println!("twice: {}", twice.err().ok_or("armed twice")?);
    println!("disarmed: {}", xen.disarm(Some(id))?);
    println!("then: {:?}", xen.hypercall_status(id)?.state);
    for (what, request) in [
        (
            "address 0",
            HypercallRequest {
                address: 0,
                ..good.clone()
            },
        ),
        (
            "a user address",
            HypercallRequest {
                address: 0x40_0000,
                ..good.clone()
            },
        ),
        (
            "hypercall 64",
            HypercallRequest {
                hypercall: 64,
                ..good.clone()
            },
        ),
        (
            "nth 0",
            HypercallRequest {
                nth: 0,
                ..good.clone()
            },
        ),
        (
            "rflags",
            HypercallRequest {
                register: Register::Rflags,
                ..good.clone()
            },
        ),
        (
            "no such domain",
            HypercallRequest {
                domid: Some(DomId(999)),
                ..good.clone()
            },
        ),
    ] {
        let refused = xen
            .arm_hypercall(&request)
            .err()
            .ok_or(format!("{what} was armed"))?;
        println!("{what}: {refused}");
    }
    Ok(())
}

/// Xen's code is read and, as it is in use, a bit of it set that is set.
fn memory(xen: &Hypercall, address: u64) -> Result<()> {
    let word = address & !7;
    let seen = xen.peek_xen(word, WordSize::U64)?;
    println!("peek {word:#x}: {:#018x}", seen.before);
    let bit = 1 << seen.before.trailing_zeros();
    let set = xen.flip_xen(word, WordSize::U64, bit, BitOp::Set)?;
    println!(
        "set bit {bit:#x}: {:#018x} -> {:#018x}",
        set.before, set.after
    );
    for unmapped in [
        0xffff_8000_dead_0000u64 & !7,
        0xffff_82d0_0000_0000,
        0x1000,
        0,
    ] {
        match xen.peek_xen(unmapped, WordSize::U64) {
            Err(e @ Error::NotMapped { .. }) => println!("peek {unmapped:#x}: {e}"),
            other => println!("peek {unmapped:#x}: {other:?}"),
        }
    }
    Ok(())
}

/// Own memory: what this process wrote is found by its machine address.
fn domains_memory(domid: DomId) -> Result<()> {
    let control = XenControl::open()?;
    let memory = DomainMemory::open()?;
    for domain in control.domains()? {
        if domain.domid != domid && domain.domid != DomId(0) {
            continue;
        }
        let address = 0x100_0000;
        let seen = memory.peek(&domain, address, WordSize::U64)?;
        println!(
            "domain {} {:?} peek {address:#x}: {:#x} machine {:x?}",
            domain.domid, domain.kind, seen.before, seen.machine_address
        );
        // Past the end of its memory.
        let beyond = memory.peek(&domain, 1 << 44, WordSize::U64);
        println!("  beyond: {}", beyond.err().ok_or("memory at 16 TiB")?);
        if domain.kind == GuestKind::Pv && domain.domid == DomId(0) {
            own_page(&memory, &domain)?;
        }
    }
    Ok(())
}

/// A page of this process, found by /proc/self/pagemap, flipped as dom0's memory.
fn own_page(memory: &DomainMemory, domain: &xfi_toolstack::XenDomain) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let mut page = vec![0u64; 1024];
    page.fill(0x1122_3344_5566_7788);
    let at = page.as_ptr() as u64 + 512;
    let mut entry = [0u8; 8];
    std::fs::File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, at / 4096 * 8)?;
    let pfn = u64::from_le_bytes(entry) & ((1 << 55) - 1);
    let address = pfn * 4096 + at % 4096;
    let flip = memory.flip(domain, address, WordSize::U64, 1 << 40, BitOp::Flip)?;
    let mine = std::hint::black_box(&page)[512 / 8];
    println!(
        "own page {address:#x}: {:#x} -> {:#x}, the process reads {mine:#x}",
        flip.before, flip.after
    );
    if mine != 0x1122_3344_5566_7788 ^ (1 << 40) {
        return Err("the process does not see its own page change".into());
    }
    let changed = page.iter().filter(|w| **w != 0x1122_3344_5566_7788).count();
    println!("words changed: {changed}");
    Ok(())
}

fn profile(xen: &Hypercall) -> Result<()> {
    xen.profile_stop()?;
    xen.profile_start(None)?;
    println!(
        "twice: {}",
        xen.profile_start(None).err().ok_or("two profiles")?
    );
    let begun = Instant::now();
    std::thread::sleep(Duration::from_secs(3));
    xen.profile_stop()?;
    let profile = xen.profile_read()?;
    println!(
        "profile: {:?} by the wall clock, {} ms by Xen's",
        begun.elapsed(),
        (profile.end_now_ns - profile.start_now_ns) / 1_000_000
    );
    for (nr, c) in profile.counts.iter().enumerate() {
        if c.calls + c.sub_calls > 0 {
            println!("  hypercall {nr:2}: {c:?}");
        }
    }
    Ok(())
}
