//! Flips in real processes: a program that holds known values in all its
//! registers (`injector/kat/task.c`) says which bits changed, and the record
//! must say the same.
//!
//! Skipped, with the reason, where there is no C compiler or ptrace is not
//! allowed; never where `CI` is set.

use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use xfi_injector::task::ArmedTask;
use xfi_model::{
    BitOp, Fault, GuestMode, Hex64, InjectionState, Location, RipRange, TaskName, TaskRecord,
    TaskRegister, TaskSelector, Trigger, TriggerKind,
};

/// Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

// ---- the known-answer process ------------------------------------------------

/// The program, built once; none where it cannot be or could not be traced.
fn program() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
            let out = dir.join(format!("task-kat-{}", std::process::id()));
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/kat/build-task.sh");
            let built = Command::new(script).arg(&out).output();
            let built = match built {
                Ok(o) if o.status.success() => Ok(out),
                Ok(o) => Err(String::from_utf8_lossy(&o.stderr).into_owned()),
                Err(e) => Err(e.to_string()),
            };
            match built {
                Ok(path) => Some(path),
                Err(e) if std::env::var_os("CI").is_none() => {
                    let _ = writeln!(std::io::stderr(), "SKIPPED: flips in processes: {e}");
                    None
                }
                Err(e) => panic!("{e}"),
            }
        })
        .as_deref()
}

struct Kat {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    hold: RipRange,
    flags: RipRange,
    read: u64,
    avx: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Report {
    register: String,
    word: u32,
    expected: u64,
    found: u64,
}

impl Kat {
    fn start(mode: &str) -> Option<Kat> {
        Some(Kat::start_program(program()?, mode))
    }

    fn start_program(program: &Path, mode: &str) -> Kat {
        let mut child = Command::new(program)
            .arg(mode)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the known-answer process");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let ready = lines.recv_timeout(PATIENCE).expect("a ready line");
        let word = |name: &str| {
            ready
                .split_whitespace()
                .find_map(|w| w.strip_prefix(name))
                .unwrap_or_else(|| panic!("no {name} in {ready}"))
        };
        Kat {
            stdin: child.stdin.take(),
            child,
            hold: word("hold=").parse().unwrap(),
            flags: word("flags=").parse().unwrap(),
            read: word("read=").parse::<Hex64>().unwrap().0,
            avx: word("avx=") == "1",
            lines,
        }
    }

    fn task(&self) -> TaskSelector {
        TaskSelector::Process {
            task: TaskName::Pid(self.child.id()),
            pick: 0,
        }
    }

    fn next(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }

    fn report(&self) -> Report {
        let line = self.next();
        let word = |name: &str| {
            line.split_whitespace()
                .find_map(|w| w.strip_prefix(name))
                .unwrap_or_else(|| panic!("no {name} in {line}"))
        };
        Report {
            register: word("reg=").to_owned(),
            word: word("word=").parse().unwrap(),
            expected: word("expected=").parse::<Hex64>().unwrap().0,
            found: word("found=").parse::<Hex64>().unwrap().0,
        }
    }

    fn silent(&self) -> bool {
        self.lines.recv_timeout(Duration::from_millis(100)).is_err()
    }

    /// Flips and compares: the record and the process must agree that this bit,
    /// and no other, changed.
    fn flip_is_seen(&self, name: &str, bit: u32, range: RipRange) {
        let mut fault = fault(self.task(), name, bit);
        fault.trigger.rip = Some(range);
        let record = inject(&fault);
        let flip = fired(&record);
        let register: TaskRegister = name.parse().unwrap();
        let (word, in_word) = register.place(bit).unwrap();
        // The lower half of a ymm register is an xmm register.
        let shown = match register {
            TaskRegister::Ymm(n) if bit < 128 => TaskRegister::Xmm(n),
            r => r,
        };
        let changed: Vec<_> = flip.changed.iter().collect();
        assert_eq!(
            changed,
            [(&shown, &vec![bit])],
            "{name} bit {bit}: the record"
        );
        assert_eq!(flip.mode, GuestMode::User, "{name} bit {bit}");
        let seen = self.report();
        assert_eq!(seen.register, shown.to_string(), "{name} bit {bit}");
        assert_eq!(seen.word, word, "{name} bit {bit}");
        assert_eq!(seen.expected ^ seen.found, 1 << in_word, "{name} bit {bit}");
        let digits = &flip.after[&register];
        assert_eq!(digits.len() as u32, 2 + register.width() / 4, "{digits}");
        let told_whole = ![TaskRegister::Rflags, TaskRegister::Rip].contains(&register);
        if register.width() == 64 && told_whole {
            assert_eq!(digits, &format!("{:#018x}", seen.found), "{name} bit {bit}");
        }
    }
}

impl Drop for Kat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// ---- asking --------------------------------------------------------------------

fn fault(task: TaskSelector, register: &str, bit: u32) -> Fault {
    let register: TaskRegister = register.parse().unwrap();
    let (word, bit) = register.place(bit).unwrap();
    Fault {
        location: Location::Task {
            domain: "Domain-0".to_owned(),
            task,
            register,
            word,
        },
        mask: Hex64(1 << bit),
        op: BitOp::Flip,
        trigger: Trigger {
            kind: TriggerKind::Kick,
            after_ns: 0,
            nth: 1,
            expire_ns: Some(PATIENCE.as_nanos() as u64),
            rip: None,
            mode: None,
        },
    }
}

fn inject(fault: &Fault) -> TaskRecord {
    let mut armed = ArmedTask::arm(fault, false).unwrap_or_else(|e| panic!("{fault:?}: {e}"));
    wait(&mut armed)
}

fn wait(armed: &mut ArmedTask) -> TaskRecord {
    let end = Instant::now() + 2 * PATIENCE;
    loop {
        if let Some(record) = armed.poll() {
            return record;
        }
        assert!(Instant::now() < end, "the injection does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn fired(record: &TaskRecord) -> &xfi_model::TaskFlip {
    assert_eq!(record.state, InjectionState::Fired, "{record:?}");
    record.flip.as_ref().expect("a flip")
}

fn refusal(fault: &Fault) -> String {
    ArmedTask::arm(fault, false)
        .expect_err("a refusal")
        .to_string()
}

// ---- the tests -------------------------------------------------------------------

#[test]
fn each_of_the_64_bits_of_a_general_register_flips_alone() {
    let Some(kat) = Kat::start("hold") else {
        return;
    };
    for bit in 0..64 {
        kat.flip_is_seen("r9", bit, kat.hold);
    }
    assert!(kat.silent());
}

#[test]
fn every_general_register_flips_alone() {
    let Some(kat) = Kat::start("hold") else {
        return;
    };
    for (i, name) in TaskRegister::GENERAL.iter().enumerate() {
        kat.flip_is_seen(name, 2 * i as u32, kat.hold);
        kat.flip_is_seen(name, 63 - 2 * i as u32, kat.hold);
    }
    assert!(kat.silent());
}

#[test]
fn each_of_the_128_bits_of_an_sse_register_flips_alone() {
    let Some(kat) = Kat::start("hold") else {
        return;
    };
    for bit in 0..128 {
        kat.flip_is_seen("xmm3", bit, kat.hold);
    }
    for n in 0..16 {
        kat.flip_is_seen(&format!("xmm{n}"), 8 * n, kat.hold);
    }
    kat.flip_is_seen("mxcsr", 15, kat.hold);
    assert!(kat.silent());
}

#[test]
fn each_of_the_80_bits_of_an_x87_register_flips_alone() {
    let Some(kat) = Kat::start("hold") else {
        return;
    };
    for bit in 0..80 {
        kat.flip_is_seen("st2", bit, kat.hold);
    }
    for n in 0..8 {
        kat.flip_is_seen(&format!("st{n}"), 9 * n, kat.hold);
    }
    for (name, bit) in [("fcw", 0), ("fcw", 10), ("fsw", 14)] {
        kat.flip_is_seen(name, bit, kat.hold);
    }
    assert!(kat.silent());
}

#[test]
fn each_of_the_256_bits_of_an_avx_register_flips_alone_or_is_refused_with_the_reason() {
    let Some(kat) = Kat::start("hold") else {
        return;
    };
    if kat.avx {
        for bit in 0..256 {
            kat.flip_is_seen("ymm7", bit, kat.hold);
        }
        for n in 0..16 {
            kat.flip_is_seen(&format!("ymm{n}"), 255 - n, kat.hold);
        }
    } else {
        let record = inject(&fault(kat.task(), "ymm7", 200));
        assert_eq!(record.state, InjectionState::Refused);
        let why = record.reason.expect("a reason");
        assert!(why.contains("ymm7 needs AVX"), "{why}");
    }
    assert!(kat.silent());
}

#[test]
fn the_flags_flip_alone() {
    let Some(kat) = Kat::start("flags") else {
        return;
    };
    for bit in [0, 2, 4, 6, 7, 10, 11] {
        kat.flip_is_seen("rflags", bit, kat.flags);
    }
    for bit in [1, 9, 12, 63] {
        let e = refusal(&fault(kat.task(), "rflags", bit));
        assert!(
            e.contains(&format!("bits {bit} of")) && e.contains("0, 2, 4"),
            "{e}"
        );
    }
}

#[test]
fn selectors_bases_and_the_instruction_pointer_flip_alone() {
    let Some(kat) = Kat::start("hold") else {
        return;
    };
    for (name, bit) in [
        ("ds", 3),
        ("es", 3),
        ("fs_base", 12),
        ("gs_base", 46),
        ("rip", 7),
    ] {
        kat.flip_is_seen(name, bit, kat.hold);
    }
    assert!(kat.silent());
}

#[test]
fn a_process_that_rests_between_stints_is_woken_and_hit_in_one() {
    let Some(kat) = Kat::start("rest") else {
        return;
    };
    kat.flip_is_seen("r9", 63, kat.hold);
    kat.flip_is_seen("rflags", 11, kat.flags);
    kat.flip_is_seen("rip", 7, kat.hold);
    assert!(kat.silent());
}

#[test]
fn a_selector_of_another_segment_ends_the_process_and_an_unfit_one_is_refused() {
    let Some(mut kat) = Kat::start("hold") else {
        return;
    };
    let record = inject(&fault(kat.task(), "cs", 0));
    assert_eq!(record.state, InjectionState::Refused, "{record:?}");
    assert!(kat.silent());
    let record = inject(&fault(kat.task(), "cs", 6));
    assert_eq!(fired(&record).changed[&"cs".parse().unwrap()], [6]);
    let status = kat.child.wait().unwrap();
    assert_eq!(status.signal(), Some(11), "{status}");
}

#[test]
fn a_task_that_sleeps_in_a_call_goes_on_with_it() {
    let Some(mut kat) = Kat::start("read") else {
        return;
    };
    let record = inject(&fault(kat.task(), "r15", 3));
    let flip = fired(&record);
    assert_eq!(flip.mode, GuestMode::Kernel);
    let call = flip.syscall.expect("a call");
    assert_eq!((call.number, call.restarts), (0, true));
    kat.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    assert_eq!(
        kat.report(),
        Report {
            register: "r15".to_owned(),
            word: 0,
            expected: kat_value(15),
            found: kat_value(15) ^ 8
        }
    );
    assert_eq!(kat.next(), "xfi-task-kat: read=1");
}

/// As task.c's `known()`.
fn kat_value(n: u64) -> u64 {
    0x5aa5_c33c_9669_0ff0 ^ (0x0101_0101_0101_0101 * (n + 1))
}

#[test]
fn a_flip_in_rax_of_a_sleeping_task_is_not_undone_by_the_restart() {
    let Some(kat) = Kat::start("read") else {
        return;
    };
    // The call that is made again is then number 8192: ENOSYS.
    let record = inject(&fault(kat.task(), "rax", 13));
    let rax = "rax".parse().unwrap();
    let flip = fired(&record);
    assert_eq!(flip.before[&rax], "0x0000000000000000");
    assert_eq!(flip.after[&rax], "0x0000000000002000");
    assert_eq!(flip.changed.len(), 1, "{:?}", flip.changed);
    assert_eq!(kat.next(), "xfi-task-kat: read=-38");
}

#[test]
fn a_flip_in_rip_of_a_sleeping_task_is_one_of_the_call_itself() {
    let Some(kat) = Kat::start("read") else {
        return;
    };
    let mut fault = fault(kat.task(), "rip", 5);
    fault.trigger.rip = Some(RipRange::new(kat.read, kat.read + 1).unwrap());
    let record = inject(&fault);
    let rip = "rip".parse().unwrap();
    let flip = fired(&record);
    assert_eq!(flip.before[&rip], format!("{:#018x}", kat.read));
    assert_eq!(flip.after[&rip], format!("{:#018x}", kat.read ^ 0x20));
    assert_eq!(kat.next(), "xfi-task-kat: read=-4096");
}

#[test]
fn a_stopped_process_stays_stopped_and_has_the_flip_when_it_goes_on() {
    use nix::sys::signal::{Signal, kill};
    let Some(kat) = Kat::start("hold") else {
        return;
    };
    let pid = nix::unistd::Pid::from_raw(kat.child.id() as i32);
    kill(pid, Signal::SIGSTOP).unwrap();
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next()
    };
    let mut fault = fault(kat.task(), "r12", 40);
    fault.trigger.rip = Some(kat.hold);
    fault.trigger.expire_ns = Some(20_000_000);
    let end = Instant::now() + PATIENCE;
    loop {
        while state() != Some('T') && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        let record = inject(&fault);
        if record.state == InjectionState::Fired {
            assert_eq!(fired(&record).changed.len(), 1);
            break;
        }
        // It was stopped in the few instructions outside the range.
        assert!(Instant::now() < end, "{record:?}");
        kill(pid, Signal::SIGCONT).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        kill(pid, Signal::SIGSTOP).unwrap();
    }
    assert!(kat.silent());
    assert_eq!(state(), Some('T'));
    kill(pid, Signal::SIGCONT).unwrap();
    assert_eq!(kat.report().register, "r12");
}

#[test]
fn a_range_that_does_not_match_changes_nothing() {
    let Some(kat) = Kat::start("hold") else {
        return;
    };
    let mut fault = fault(kat.task(), "r12", 40);
    fault.trigger.rip = Some(RipRange::new(0x10, 0x20).unwrap());
    fault.trigger.expire_ns = Some(200_000_000);
    let record = inject(&fault);
    assert_eq!(record.state, InjectionState::Expired);
    assert!(record.stops > 1 && record.flip.is_none(), "{record:?}");
    assert!(kat.silent());
}

#[test]
fn a_dummy_does_everything_but_the_flip() {
    let Some(kat) = Kat::start("hold") else {
        return;
    };
    let mut armed = ArmedTask::arm(&fault(kat.task(), "rbx", 21), true).unwrap();
    let record = wait(&mut armed);
    let flip = fired(&record);
    assert!(record.dummy && flip.changed.is_empty());
    assert_eq!(flip.before, flip.after);
    assert!(kat.silent());
}

#[test]
fn a_deadline_is_kept_and_a_disarmed_fault_does_nothing() {
    let Some(kat) = Kat::start("hold") else {
        return;
    };
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_nanos() as u64
    };
    let mut at = fault(kat.task(), "rbx", 21);
    let unix_ns = now() + 150_000_000;
    at.trigger.kind = TriggerKind::Deadline { unix_ns };
    at.trigger.rip = Some(kat.hold);
    let record = inject(&at);
    assert!(fired(&record).at.realtime_ns >= unix_ns);
    assert_eq!(kat.report().register, "rbx");

    let mut late = fault(kat.task(), "rbx", 21);
    late.trigger.after_ns = 30_000_000_000;
    let mut armed = ArmedTask::arm(&late, false).unwrap();
    assert!(armed.poll().is_none());
    assert_eq!(armed.disarm().unwrap().state, InjectionState::Disarmed);
    drop(ArmedTask::arm(&late, false).unwrap());
    assert!(kat.silent());
}

#[test]
fn a_process_that_ends_before_its_moment_is_gone() {
    let Some(mut kat) = Kat::start("hold") else {
        return;
    };
    let mut late = fault(kat.task(), "rbx", 21);
    late.trigger.after_ns = 200_000_000;
    let mut armed = ArmedTask::arm(&late, false).unwrap();
    kat.child.kill().unwrap();
    kat.child.wait().unwrap();
    assert_eq!(wait(&mut armed).state, InjectionState::TargetGone);
}

#[test]
fn a_killed_process_dies_of_sigkill() {
    let Some(mut kat) = Kat::start("hold") else {
        return;
    };
    let mut kill = fault(kat.task(), "rbx", 21);
    kill.location = Location::TaskKill {
        domain: "Domain-0".to_owned(),
        task: kat.task(),
    };
    kill.mask = Hex64(0);
    fired(&inject(&kill));
    assert_eq!(kat.child.wait().unwrap().signal(), Some(9));
}

#[test]
fn of_several_processes_of_one_name_a_number_picks_one() {
    let Some(program) = program() else { return };
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join(format!("kat{}", std::process::id()));
    std::fs::copy(program, &own).unwrap();
    let first = Kat::start_program(&own, "hold");
    // Start times have a grain of 10 ms.
    std::thread::sleep(Duration::from_millis(30));
    let second = Kat::start_program(&own, "hold");
    let name = own.file_name().unwrap().to_str().unwrap();
    for (pick, kat) in [(0, &first), (1, &second), (4, &first), (7, &second)] {
        let task = TaskSelector::Process {
            task: name.into(),
            pick,
        };
        let mut f = fault(task, "r10", pick);
        f.trigger.rip = Some(kat.hold);
        let record = inject(&f);
        assert_eq!(record.task.pid, kat.child.id(), "{pick}");
        assert_eq!(
            (record.task.candidates, record.task.comm.as_str()),
            (2, name)
        );
        assert_eq!(kat.report().register, "r10");
    }
}

#[test]
fn what_cannot_be_reached_is_refused_with_the_reason() {
    let Some(kat) = Kat::start("hold") else {
        return;
    };
    let process = |pid: u32| TaskSelector::Process {
        task: TaskName::Pid(pid),
        pick: 0,
    };
    let role = |role: &str| TaskSelector::Role {
        role: role.to_owned(),
        pick: 0,
    };
    let mut cases = vec![
        (fault(process(1), "rbx", 21), "is init"),
        (
            fault(process(std::process::id()), "rbx", 21),
            "is the agent itself",
        ),
        (
            fault(process(u32::MAX), "rbx", 21),
            "no task has the number 4294967295",
        ),
        (
            fault(role("postgres:stats-collector"), "rbx", 21),
            "since version 15",
        ),
        (
            fault(role("stats"), "rbx", 21),
            "unknown role 'stats'; valid: apache",
        ),
        (fault(kat.task(), "ret", 1), "take rip"),
        (
            fault(
                TaskSelector::Kthread {
                    task: TaskName::Pid(kat.child.id()),
                    pick: 0,
                },
                "rax",
                1,
            ),
            "valid: rbx rbp r12 r13 r14 r15 rsp ret",
        ),
    ];
    if std::fs::read_to_string("/proc/2/comm").is_ok_and(|c| c == "kthreadd\n") {
        cases.push((fault(process(2), "rbx", 21), "choose it by --kthread"));
    }
    let change = |what: &dyn Fn(&mut Fault)| {
        let mut f = fault(kat.task(), "rbx", 21);
        what(&mut f);
        f
    };
    cases.extend([
        (change(&|f| f.trigger.nth = 0), "nth"),
        (
            change(&|f| f.trigger.kind = TriggerKind::Switch),
            "switch and address are Xen's",
        ),
        (change(&|f| f.trigger.expire_ns = Some(0)), "expire_ns"),
        (
            change(&|f| f.trigger.after_ns = u64::MAX),
            "18446744073709551615",
        ),
        (change(&|f| f.mask = Hex64(0)), "mask is 0"),
        (
            change(&|f| f.trigger.kind = TriggerKind::Deadline { unix_ns: u64::MAX }),
            "deadline",
        ),
        (
            change(&|f| {
                f.location = Location::Task {
                    domain: "Domain-0".to_owned(),
                    task: kat.task(),
                    register: TaskRegister::St(0),
                    word: 1,
                };
                f.mask = Hex64(1 << 16);
            }),
            "bits 16 of word 1 of st0",
        ),
    ]);
    for (fault, word) in cases {
        let e = refusal(&fault);
        assert!(e.contains(word), "{e}");
        assert!(!e.contains('\n'), "{e}");
    }
    assert!(kat.silent());
}

#[test]
fn an_expiry_counts_from_a_deadline_however_far_away_that_is() {
    let Some(kat) = Kat::start("hold") else {
        return;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut fault = fault(kat.task(), "rbx", 21);
    fault.trigger.kind = TriggerKind::Deadline {
        unix_ns: (now + Duration::from_secs(3600)).as_nanos() as u64,
    };
    fault.trigger.expire_ns = Some(1_000_000_000);
    let mut armed = ArmedTask::arm(&fault, false).expect("it is armed");
    assert!(armed.moment_in() > Duration::from_secs(3500));
    assert_eq!(armed.disarm().unwrap().state, InjectionState::Disarmed);
}
