//! Faults inside hypercalls, on the real, emulated Xen with two web servers
//! under load.

use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use xfi_lab::{PATIENCE, run_of, say};
use xfi_model::{
    BitOp, Fault, GuestMode, Hex64, InjectionRecord, InjectionState, Location, Register, Trigger,
    TriggerKind,
};
use xfi_symbols::{Elf, Instruction, Locations, find_hypercall};
use xfi_testbed::{Health, Testbed as _};

const EXPIRE_NS: u64 = 20_000_000_000;

struct Lab {
    lab: xfi_lab::Lab,
    xen: Elf,
    load: Load,
}

fn start() -> Option<Lab> {
    let lab = xfi_lab::Lab::start("http", "faults inside hypercalls")?;
    Some(Lab {
        xen: Elf::open(&lab.artifacts.xen_syms(lab.testbed.layout().host.release))
            .expect("xen-syms"),
        load: Load::start(lab.testbed.endpoints().into_iter().map(|e| e.addr)),
        lab,
    })
}

/// One client for each web server, until dropped.
struct Load(Arc<AtomicBool>);

impl Load {
    fn start(servers: impl Iterator<Item = SocketAddr>) -> Load {
        let over = Arc::new(AtomicBool::new(false));
        for server in servers {
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // What comes back is not what is tested here.
                    let _ = get(server);
                }
            });
        }
        Load(over)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn get(server: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /cgi-bin/sha1 HTTP/1.0\r\n\r\n")?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(())
}

fn fault(at: &Instruction, hypercall: &str, number: u32, register: Register, bit: u32) -> Fault {
    Fault {
        location: Location::HypercallRegister {
            hypercall: hypercall.to_owned(),
            number,
            address: at.address,
            symbol: at.symbol.clone(),
            domain: Some("web1".to_owned()),
            register,
        },
        mask: Hex64(1 << bit),
        op: BitOp::Flip,
        trigger: Trigger {
            kind: TriggerKind::Address,
            after_ns: 0,
            nth: 1,
            expire_ns: Some(EXPIRE_NS),
            rip: None,
            mode: None,
        },
    }
}

fn inject(lab: &mut Lab, fault: Fault, dummy: bool) -> InjectionRecord {
    xfi_lab::inject(lab.lab.agent(), fault, dummy)
}

fn refusal(lab: &mut Lab, fault: Fault) -> String {
    xfi_lab::refusal(lab.lab.agent(), run_of(fault, false)).1
}

fn locations(lab: &Lab, name: &str) -> Locations {
    let handler = find_hypercall(name)
        .expect("a hypercall")
        .handler(&lab.xen)
        .expect("its handler");
    Locations::of(&handler, &lab.xen, None).expect("its instructions")
}

/// Where every call that is handled comes along.
fn on_every_way(all: &Locations) -> Vec<&Instruction> {
    all.instructions
        .iter()
        .filter(|i| i.always && i.not_armable.is_none())
        .collect()
}

#[test]
fn each_instruction_on_the_way_of_iret_and_stack_switch_is_hit() {
    let Some(mut lab) = start() else { return };
    for name in ["iret", "stack_switch"] {
        let all = locations(&lab, name);
        let way = on_every_way(&all);
        assert!(way.len() >= 10, "{name}: {}", way.len());
        for at in &way {
            // Nothing is changed: the guest has to make the next call, too.
            let record = inject(
                &mut lab,
                fault(at, name, all.number, Register::Rbx, 21),
                true,
            );
            let what = format!("{name}, {} {}", at.number, at.symbol);
            assert_eq!(record.state, InjectionState::Fired, "{what}: {record:?}");
            assert_eq!(record.domain, "web1", "{what}");
            assert!(record.changed_bits().is_empty(), "{what}");
            let flip = record.flip.expect("a flip");
            assert_eq!(flip.before[&Register::Rip], at.address, "{what}");
            assert_eq!(flip.guest_mode, GuestMode::Hypervisor, "{what}");
        }
        say(&format!(
            "{name}: {} of {} instructions are on every way, and each was hit",
            way.len(),
            all.instructions.len()
        ));
    }
}

#[test]
fn a_flip_changes_one_bit_of_xens_own_register() {
    let Some(mut lab) = start() else { return };
    let all = locations(&lab, "iret");
    let first = on_every_way(&all)[0].clone();
    // The guest's r15 at the entry is saved already: nobody reads it again.
    let record = inject(
        &mut lab,
        fault(&first, "iret", all.number, Register::R15, 40),
        false,
    );
    assert_eq!(record.state, InjectionState::Fired, "{record:?}");
    assert_eq!(record.changed_bits(), [(Register::R15, 1 << 40)]);
}

#[test]
fn a_flip_of_xens_stack_pointer_is_a_panic_with_its_stack() {
    let Some(mut lab) = start() else { return };
    let all = locations(&lab, "iret");
    let way: Vec<_> = on_every_way(&all).into_iter().cloned().collect();
    let at = &way[way.len() / 2];
    lab.lab
        .agent()
        .send(run_of(
            fault(at, "iret", all.number, Register::Rsp, 5),
            false,
        ))
        .expect("sent");
    let end = Instant::now() + PATIENCE;
    let (line, context) = loop {
        if let Health::Panicked { line, context, .. } = lab.lab.testbed.health()
            && context.iter().any(|l| l.contains("Xen call trace"))
        {
            break (line, context);
        }
        assert!(
            Instant::now() < end,
            "no panic: {:?}",
            lab.lab.testbed.health()
        );
        std::thread::sleep(Duration::from_millis(50));
    };
    say(&format!("{}: {line}", at.symbol));
    assert!(
        context.iter().any(|l| l.contains(" pv_hypercall+0x")),
        "no symbols in {context:#?}"
    );
}

#[test]
fn what_is_no_place_in_a_handler_is_refused_and_a_call_never_made_expires() {
    let Some(mut lab) = start() else { return };
    let all = locations(&lab, "iret");
    let mut at = on_every_way(&all)[0].clone();
    at.address = Hex64(0x1000);
    let message = refusal(&mut lab, fault(&at, "iret", all.number, Register::Rbx, 1));
    assert!(message.contains("0x1000"), "{message}");
    let message = refusal(&mut lab, fault(&at, "iret", all.number, Register::Cs, 1));
    assert!(message.contains("cs"), "{message}");

    let kexec = locations(&lab, "kexec_op");
    let mut never = fault(
        on_every_way(&kexec)[0],
        "kexec_op",
        kexec.number,
        Register::Rbx,
        1,
    );
    never.trigger.expire_ns = Some(300_000_000);
    let record = inject(&mut lab, never, false);
    assert_eq!(record.state, InjectionState::Expired, "{record:?}");
    assert_eq!((record.events_seen, record.events_matched), (0, 0));
    assert!(!lab.load.0.load(Ordering::Relaxed));
}

/// Xen's own table has the file's name in front of a local symbol.
#[test]
fn the_end_of_a_debug_exception_is_refused_though_its_symbol_is_local() {
    let Some(mut lab) = start() else { return };
    let all = locations(&lab, "iret");
    let mut at = on_every_way(&all)[0].clone();
    at.address = Hex64(lab.xen.symbols().named("ret_from_intr")[0].address);
    let message = refusal(&mut lab, fault(&at, "iret", all.number, Register::Rbx, 1));
    assert!(
        message.contains(&format!("{:#x}", at.address.0)),
        "{message}"
    );
}
