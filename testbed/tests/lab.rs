//! Tests on a real emulated Xen host.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use xfi_lab::PATIENCE;
use xfi_model::{Command, EventBody, SnapshotIndex, XenBuild};
use xfi_testbed::up::{self, Up, UpOptions};
use xfi_testbed::{
    Artifacts, EmulatedTestbed, Evidence, Health, Progress, SnapshotSet, Testbed, TestbedError,
};

/// Tells `helper_that_is_killed` where its parent's testbeds are.
const SHARED_RUNTIME: &str = "XFI_LAB_RUNTIME";

/// One testbed at a time: the machine is small and `up` is one a user. The
/// long-lived testbed of these tests is not the user's own.
struct Lab {
    artifacts: Artifacts,
    set: SnapshotSet,
    runtime: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = up::down();
        assert!(
            !self.runtime.exists(),
            "{} was left behind",
            self.runtime.display()
        );
    }
}

fn lab() -> Option<Lab> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = std::env::var_os(SHARED_RUNTIME).map_or_else(
        || format!("/tmp/xfi-lab-{}", std::process::id()).into(),
        PathBuf::from,
    );
    xfi_testbed::use_runtime_dir(runtime.clone());
    let (artifacts, set) = xfi_lab::snapshot("http", XenBuild::Patched, "the testbed itself")?;
    Some(Lab {
        artifacts,
        set,
        runtime,
        _turn: turn,
    })
}

fn quiet(_: Progress<'_>) {}

fn evidence(dir: &Path) -> Evidence {
    Evidence {
        dir: dir.to_owned(),
    }
}

fn get(addr: std::net::SocketAddr) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"GET /cgi-bin/sha1?n=64 HTTP/1.0\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn processes_in(dir: &Path) -> Vec<u32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            std::fs::read_link(format!("/proc/{pid}/cwd"))
                .is_ok_and(|cwd| cwd.to_string_lossy().starts_with(dir.to_str().unwrap()))
        })
        .collect()
}

#[test]
fn a_restored_host_answers_and_leaves_its_record() {
    let Some(lab) = lab() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut testbed = EmulatedTestbed::new(&lab.set, 0).unwrap();
    assert!(matches!(testbed.health(), Health::Gone { .. }));
    for run in 0..2 {
        let report = testbed
            .reset(SnapshotIndex(0), &evidence(dir.path()))
            .unwrap();
        println!("run {run}: restored in {:?}", report.restore);
        assert!(report.restore < Duration::from_secs(5));
        let events = testbed
            .agent()
            .unwrap()
            .ask(Command::Hello, PATIENCE)
            .unwrap();
        let EventBody::Hello(hello) = &events[0].body else {
            panic!("{events:?}")
        };
        let names: Vec<_> = hello.domains.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["Domain-0", "web1", "web2"]);
        for endpoint in testbed.endpoints() {
            let answer = get(endpoint.addr);
            assert!(
                answer.contains("c8d7d0ef0eedfa82d2ea1aa592845b9a6d4b02b7"),
                "{answer}"
            );
        }
        assert_eq!(testbed.health(), Health::Running);
        testbed.stop().unwrap();
        let packets = std::fs::read(testbed.packet_record().unwrap()).unwrap();
        assert_eq!(packets[..4], 0xa1b2_c3d4_u32.to_ne_bytes(), "a pcap file");
        assert!(packets.len() > 1000);
        assert!(dir.path().join("console.log").is_file());
    }
    assert!(testbed.private_mib().unwrap() > 0);
}

#[test]
fn a_qemu_that_is_killed_is_gone_and_the_next_reset_works() {
    let Some(lab) = lab() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut testbed = EmulatedTestbed::new(&lab.set, 0).unwrap();
    testbed
        .reset(SnapshotIndex(0), &evidence(dir.path()))
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(testbed.pid().unwrap() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let reason = loop {
        match testbed.health() {
            Health::Gone { reason } => break reason,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
    };
    assert!(reason.contains("SIGKILL"), "{reason}");
    let e = testbed
        .agent()
        .unwrap()
        .ask(Command::Hello, PATIENCE)
        .unwrap_err();
    assert!(!e.to_string().is_empty());
    testbed
        .reset(SnapshotIndex(0), &evidence(dir.path()))
        .unwrap();
    testbed
        .agent()
        .unwrap()
        .ask(Command::Hello, PATIENCE)
        .unwrap();
}

#[test]
#[ignore = "part of qemu_dies_with_its_owner"]
fn helper_that_is_killed() {
    let Some(lab) = lab() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut testbed = EmulatedTestbed::new(&lab.set, 0).unwrap();
    testbed
        .reset(SnapshotIndex(0), &evidence(dir.path()))
        .unwrap();
    std::thread::sleep(Duration::from_secs(90));
}

#[test]
fn qemu_dies_with_its_owner_and_the_next_worker_cleans_up() {
    let Some(lab) = lab() else { return };
    let mut owner = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "helper_that_is_killed"])
        .env(SHARED_RUNTIME, &lab.runtime)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let wait_for = |what: &str, ready: &dyn Fn() -> bool| {
        while !ready() {
            assert!(Instant::now() < deadline, "{what} took too long");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    wait_for("QEMU's start", &|| !processes_in(&lab.runtime).is_empty());
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_for("QEMU's end", &|| processes_in(&lab.runtime).is_empty());
    assert!(lab.runtime.exists(), "the killed owner left its directory");
    drop(EmulatedTestbed::new(&lab.set, 0).unwrap());
    assert!(!lab.runtime.exists(), "the next worker removed it");
}

#[test]
fn a_snapshot_that_was_not_prepared_is_refused() {
    let Some(lab) = lab() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut testbed = EmulatedTestbed::new(&lab.set, 0).unwrap();
    let e = testbed
        .reset(SnapshotIndex(7), &evidence(dir.path()))
        .unwrap_err();
    assert!(e.to_string().contains("snapshot 7"), "{e}");
}

#[test]
fn two_workers_run_side_by_side_from_one_snapshot() {
    let Some(lab) = lab() else { return };
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut workers: Vec<_> = (0..2)
        .map(|i| EmulatedTestbed::new(&lab.set, i).unwrap())
        .collect();
    for (worker, dir) in workers.iter_mut().zip(&dirs) {
        worker
            .reset(SnapshotIndex(0), &evidence(dir.path()))
            .unwrap();
    }
    let mut ports: Vec<_> = workers
        .iter()
        .flat_map(|w| w.endpoints())
        .map(|e| e.addr.port())
        .collect();
    ports.sort();
    ports.dedup();
    assert_eq!(ports.len(), 4);
    for worker in &mut workers {
        worker
            .agent()
            .unwrap()
            .ask(Command::Domains, PATIENCE)
            .unwrap();
    }
}

#[test]
fn up_and_down_leave_nothing_behind() {
    let Some(lab) = lab() else { return };
    assert!(matches!(Up::find(), Err(TestbedError::NotUp)));
    assert!(!up::down().unwrap(), "nothing is up");
    let info = up::up(
        &lab.artifacts,
        lab.set.layout(),
        &UpOptions::default(),
        &mut quiet,
    )
    .unwrap();
    let e = up::up(
        &lab.artifacts,
        lab.set.layout(),
        &UpOptions::default(),
        &mut quiet,
    );
    assert!(matches!(e, Err(TestbedError::AlreadyUp { pid, .. }) if pid == info.pid));

    let mut found = Up::find().unwrap();
    assert_eq!(found.info(), &info);
    let first = found.connect().unwrap();
    let waited = Instant::now();
    let e = found.connect().unwrap_err();
    assert!(
        matches!(&e, TestbedError::ClientBusy { pid } if *pid == std::process::id().to_string())
    );
    assert!(waited.elapsed() < Duration::from_secs(10));
    drop(first);
    // Client after client, as a command line has them.
    for _ in 0..3 {
        let mut link = found.connect().unwrap();
        link.ask(Command::Status, PATIENCE).unwrap();
    }
    let status = found.status().unwrap();
    assert!(status.private_mib > 0 && status.panic_line.is_none());
    assert!(get(info.endpoints[0].1).contains("200 OK"));

    found.reset(&mut quiet).unwrap();
    assert_ne!(found.info().pid, info.pid);
    assert_eq!(found.info().endpoints, info.endpoints, "ports stay");
    found
        .connect()
        .unwrap()
        .ask(Command::Hello, PATIENCE)
        .unwrap();

    assert!(up::down().unwrap());
    assert!(matches!(Up::find(), Err(TestbedError::NotUp)));
    assert_eq!(processes_in(&lab.runtime), [0_u32; 0]);
    assert!(!lab.runtime.exists());
}

#[test]
fn a_taken_port_is_an_error_and_the_next_try_works() {
    let Some(lab) = lab() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let options = UpOptions {
        ssh_port: Some(port),
    };
    let e = up::up(&lab.artifacts, lab.set.layout(), &options, &mut quiet).unwrap_err();
    assert!(
        matches!(e, TestbedError::PortTaken { port: p } if p == port),
        "{e}"
    );
    drop(listener);
    let info = up::up(&lab.artifacts, lab.set.layout(), &options, &mut quiet).unwrap();
    assert_eq!(info.ssh_port, port);
}

#[test]
fn a_worker_whose_port_is_taken_uses_another() {
    let Some(lab) = lab() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut testbed = EmulatedTestbed::new(&lab.set, 0).unwrap();
    let before = testbed.endpoints();
    let _taken = TcpListener::bind(before[0].addr).unwrap();
    testbed
        .reset(SnapshotIndex(0), &evidence(dir.path()))
        .unwrap();
    assert_ne!(testbed.endpoints()[0].addr, before[0].addr);
    assert!(get(testbed.endpoints()[0].addr).contains("200 OK"));
}

#[test]
fn a_lock_is_respected_while_held_and_taken_over_when_stale() {
    let Some(lab) = lab() else { return };
    std::fs::create_dir_all(&lab.runtime).unwrap();
    // Left by an xfi that was killed: lock files and a record of a dead QEMU.
    let lock = lab.runtime.join("up.lock");
    std::fs::write(&lock, "4194305\n").unwrap();
    std::fs::create_dir_all(lab.runtime.join("up")).unwrap();
    std::fs::write(lab.runtime.join("up/pid"), "4194305\n").unwrap();
    std::fs::write(lab.runtime.join("up/up.json"), "{\"format\":1,").unwrap();
    assert!(matches!(Up::find(), Err(TestbedError::NotUp)));

    let held = std::fs::File::open(&lock).unwrap();
    held.lock().unwrap();
    let e = up::up(
        &lab.artifacts,
        lab.set.layout(),
        &UpOptions::default(),
        &mut quiet,
    );
    assert!(
        matches!(&e, Err(TestbedError::Locked { pid }) if pid == "4194305"),
        "{e:?}"
    );
    assert!(matches!(up::down(), Err(TestbedError::Locked { .. })));
    drop(held);
    up::up(
        &lab.artifacts,
        lab.set.layout(),
        &UpOptions::default(),
        &mut quiet,
    )
    .unwrap();
}

#[test]
fn a_panic_of_dom0_is_seen_at_once() {
    let Some(lab) = lab() else { return };
    up::up(
        &lab.artifacts,
        lab.set.layout(),
        &UpOptions::default(),
        &mut quiet,
    )
    .unwrap();
    let found = Up::find().unwrap();
    let ssh = found.ssh_command();
    let mut child = std::process::Command::new(&ssh[0])
        .args(&ssh[1..])
        .arg("echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger")
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let line = loop {
        if let Some(line) = found.status().unwrap().panic_line {
            break line;
        }
        assert!(Instant::now() < deadline, "no panic was seen");
        std::thread::sleep(Duration::from_millis(50));
    };
    let _ = child.kill();
    let _ = child.wait();
    assert!(
        line.contains("Kernel panic - not syncing: sysrq triggered crash"),
        "{line}"
    );
}
