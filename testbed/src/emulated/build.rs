//! Making a snapshot: boot, prepare, warm up, save, try.

use super::command::{self, Forwards, Start, serving};
use super::launch::{self, Life};
use super::machine::{Machine, Plan};
use super::restore::{RestoreFrom, restore};
use super::store::Store;
use super::{OwnDir, warm};
use crate::error::IoContext;
use crate::machine_facts::{free_port, need_memory};
use crate::progress::step;
use crate::{
    AgentLink, Artifacts, BootFiles, Digests, Endpoint, Progress, ProgressFn, TestbedError, cpio,
};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use xfi_model::{AgentHello, EventBody, Layout, PROTOCOL_VERSION};

/// Limits, generous: the machine may be busy with other things.
const AGENT_WITHIN: Duration = Duration::from_secs(300);
const GUESTS_WITHIN: Duration = Duration::from_secs(600);
/// A restored machine answers in one to three seconds.
const TRIAL_WITHIN: Duration = Duration::from_secs(30);

/// A snapshot taken while a vCPU is in SVM guest mode cannot be restored;
/// another moment later, another chance.
const SNAPSHOT_TRIES: u32 = 6;

/// QEMU's own memory beside the machine's, MiB.
const OVERHEAD_MIB: u64 = 300;

/// What is built from.
pub(crate) struct Job<'a> {
    pub(crate) artifacts: &'a Artifacts,
    pub(crate) layout: &'a Layout,
    pub(crate) files: &'a BootFiles,
    pub(crate) digests: &'a Digests,
    pub(crate) store: &'a Store,
    pub(crate) index: u32,
    pub(crate) count: u32,
}

/// Makes snapshot `index`.
pub(crate) fn make(job: &Job<'_>, progress: &mut ProgressFn<'_>) -> Result<(), TestbedError> {
    let Job {
        layout,
        files,
        store,
        index,
        ..
    } = job;
    need_memory(
        &format!("boot the testbed '{}'", layout.name),
        u64::from(layout.host.memory_mib) + OVERHEAD_MIB,
    )?;
    let snapshot_dir = store.fresh_dir(*index)?;
    let place = store.place_for_ram(*index, layout.host.memory_mib, |text| {
        progress(Progress::Note { text });
    })?;
    let work = OwnDir::create()?;
    let dir = work.path();
    link(&files.xen, &dir.join(command::XEN))?;
    link(&files.kernel, &dir.join(command::KERNEL))?;
    write_initrd(files, &dir.join(command::INITRD))?;
    let disk = snapshot_dir.join(command::DISK);
    create_overlay(&files.image, "raw", &disk)?;
    link(&disk, &dir.join(command::DISK))?;

    let which = format!("snapshot {} of {}", index + 1, job.count);
    let mut forwards = Forwards {
        ssh: None,
        services: Vec::new(),
    };
    for _ in serving(layout) {
        forwards.services.push(free_port()?);
    }
    let plan = Plan {
        layout,
        start: Start::Boot,
        life: Life::WithUs,
        dir,
        ram: &place.ram,
        console_log: snapshot_dir.join("console.log"),
        packets: None,
    };
    let name = format!("booting Xen and dom0 ({which})");
    let mut machine = step(progress, &name, Duration::from_secs(15), |_| {
        let mut machine = Machine::start(&plan, &mut forwards, false)?;
        machine.watch_console()?;
        machine.connect_agent()?;
        let hello = hello(&mut machine, AGENT_WITHIN, "waiting for dom0's agent")?;
        tracing::info!(
            "{} {:?} {:?}",
            hello.hostname,
            hello.xen_version,
            hello.xen_build_id
        );
        Ok::<_, TestbedError>(machine)
    })?;
    if let Err(e) = keep_kernel_symbols(job, &mut machine) {
        let text = format!("kernel addresses will have no names: {e}");
        progress(Progress::Note { text: &text });
    }
    let name = format!("starting {} guests ({which})", layout.guests.len());
    step(progress, &name, Duration::from_secs(15), |p| {
        prepare_guests(&mut machine, layout, p)
    })?;
    let endpoints = endpoints(layout, &forwards);
    let name = format!("warming up ({which})");
    let warm = step(progress, &name, Duration::from_secs(10), |_| {
        warm::warm_up(&endpoints, || machine.check("warming up"))
    })?;
    let name = format!("saving and trying it ({which})");
    step(progress, &name, Duration::from_secs(5), |p| {
        save(job, &mut machine, &snapshot_dir, &place.ram, p)
    })?;
    drop(machine);
    let read_only = std::os::unix::fs::PermissionsExt::from_mode(0o400);
    std::fs::set_permissions(&place.ram, read_only).context("closing", &place.ram)?;
    let meta = store.meta(*index, &place.ram, &files.image, &warm, job.digests)?;
    store.finish(place, &meta)
}

/// Asks dom0 once for each image where its kernel's functions are.
fn keep_kernel_symbols(job: &Job<'_>, machine: &mut Machine) -> Result<(), TestbedError> {
    let release = job.layout.host.release;
    let file = job.artifacts.kernel_symbols_file(release);
    if file.exists() {
        return Ok(());
    }
    let doing = "reading the kernel's symbols";
    let command = xfi_model::Command::KernelSymbols;
    let EventBody::KernelSymbols { map } =
        ask(machine, command, Duration::from_secs(60), doing, |_| ())?
    else {
        return Ok(());
    };
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir).context("creating", dir)?;
    }
    let partial = file.with_extension("partial");
    std::fs::write(&partial, map).context("writing", &partial)?;
    std::fs::rename(&partial, &file).context("renaming", &partial)
}

/// Where the guests' services are.
pub(crate) fn endpoints(layout: &Layout, forwards: &Forwards) -> Vec<Endpoint> {
    serving(layout)
        .zip(&forwards.services)
        .map(|(guest, port)| Endpoint {
            guest: guest.name.clone(),
            addr: (std::net::Ipv4Addr::LOCALHOST, *port).into(),
        })
        .collect()
}

/// Waits for the agent's first word, with an eye on the machine.
pub(crate) fn hello(
    machine: &mut Machine,
    within: Duration,
    doing: &str,
) -> Result<AgentHello, TestbedError> {
    let event = ask(machine, xfi_model::Command::Hello, within, doing, |_| ())?;
    let EventBody::Hello(hello) = event else {
        let message = format!("it answered Hello with {event:?}");
        return Err(TestbedError::Agent {
            doing: "say who it is".to_owned(),
            message,
        });
    };
    if hello.protocol == PROTOCOL_VERSION {
        Ok(hello)
    } else {
        Err(TestbedError::Protocol {
            theirs: hello.protocol,
            ours: PROTOCOL_VERSION,
        })
    }
}

/// Asks once, and waits for the event that ends the request while the machine
/// is healthy.
fn ask(
    machine: &mut Machine,
    command: xfi_model::Command,
    within: Duration,
    doing: &str,
    mut on_progress: impl FnMut(&str),
) -> Result<EventBody, TestbedError> {
    let deadline = Instant::now() + within;
    let seq = machine.agent()?.send(command)?;
    loop {
        let slice = Instant::now() + Duration::from_millis(200);
        match AgentLink::next_event(machine.agent()?, slice) {
            Ok(None) => {}
            Ok(Some(event)) if event.seq != seq => {}
            Ok(Some(event)) => match event.body {
                EventBody::Progress { message } => on_progress(&message),
                EventBody::Error { message, .. } => {
                    return Err(TestbedError::Agent {
                        doing: doing.to_owned(),
                        message,
                    });
                }
                body => return Ok(body),
            },
            Err(e) => {
                machine.check(doing)?;
                return Err(e.into());
            }
        }
        machine.check(doing)?;
        if Instant::now() > deadline {
            let seconds = within.as_secs();
            return Err(TestbedError::Timeout {
                what: doing.to_owned(),
                seconds,
                hint: "see console.log in the testbed's directory".to_owned(),
            });
        }
    }
}

fn prepare_guests(
    machine: &mut Machine,
    layout: &Layout,
    progress: &mut ProgressFn<'_>,
) -> Result<(), TestbedError> {
    let command = xfi_model::Command::Prepare {
        guests: layout.guests.clone(),
        timeout_ms: GUESTS_WITHIN.as_millis() as u64,
    };
    let within = GUESTS_WITHIN + Duration::from_secs(10);
    ask(machine, command, within, "starting the guests", |text| {
        progress(Progress::Note { text });
    })
    .map(drop)
}

fn save(
    job: &Job<'_>,
    machine: &mut Machine,
    snapshot_dir: &Path,
    ram: &Path,
    progress: &mut ProgressFn<'_>,
) -> Result<(), TestbedError> {
    let (state, template) = (
        snapshot_dir.join("state"),
        snapshot_dir.join("template.qcow2"),
    );
    let mut why = String::new();
    for tried in 0..SNAPSHOT_TRIES {
        if tried > 0 {
            machine.go_on()?;
            std::thread::sleep(Duration::from_millis(300 + 217 * u64::from(tried)));
            machine.check("going on after a snapshot")?;
        }
        crate::private::remove_file(&state)?;
        machine.save(&state)?;
        if tried == 0 {
            create_overlay(&snapshot_dir.join(command::DISK), "qcow2", &template)?;
        }
        match trial(job, &state, &template, ram) {
            Ok(()) => return Ok(()),
            Err(e) => why = e.to_string(),
        }
        let text = format!("a trial restore failed ({why}); taking the snapshot again");
        progress(Progress::Note { text: &text });
    }
    Err(TestbedError::SnapshotUnusable {
        tries: SNAPSHOT_TRIES,
        why,
    })
}

/// Restores the snapshot and sees whether agent and guests answer.
fn trial(job: &Job<'_>, state: &Path, template: &Path, ram: &Path) -> Result<(), TestbedError> {
    let work = OwnDir::create()?;
    let mut forwards = Forwards::default();
    for _ in serving(job.layout) {
        forwards.services.push(free_port()?);
    }
    let from = RestoreFrom {
        layout: job.layout,
        xen: &job.files.xen,
        state,
        template,
        ram,
    };
    let log = work.path().join("console.log");
    let (mut machine, _) = restore(
        &from,
        work.path(),
        Life::WithUs,
        &log,
        None,
        &mut forwards,
        false,
    )?;
    hello(&mut machine, TRIAL_WITHIN, "the trial restore's agent")?;
    for endpoint in endpoints(job.layout, &forwards) {
        warm::request(endpoint.addr, TRIAL_WITHIN).map_err(|e| TestbedError::Agent {
            doing: format!("show {} in a trial restore", endpoint.guest),
            message: e.to_string(),
        })?;
    }
    machine.check("a trial restore")
}

pub(crate) fn link(target: &Path, link: &Path) -> Result<(), TestbedError> {
    let target = target.canonicalize().context("reading", target)?;
    crate::private::remove_file(link)?;
    std::os::unix::fs::symlink(&target, link).context("creating", link)
}

/// dom0's initramfs, with the agent in a second archive behind it; and in that,
/// as an archive of its own, the agent that dom0 gives its guests.
fn write_initrd(files: &BootFiles, to: &Path) -> Result<(), TestbedError> {
    let base = std::fs::read(&files.initrd).context("reading", &files.initrd)?;
    let agent = std::fs::read(&files.agent).context("reading", &files.agent)?;
    let guest_agent = match &files.guest_agent {
        Some(path) => Some(std::fs::read(path).context("reading", path)?),
        None => None,
    };
    let write = || {
        let mut for_guests = Vec::new();
        if let Some(agent) = &guest_agent {
            cpio::write(&mut for_guests, &agent_in_xfi(agent))?;
        }
        let mut members = agent_in_xfi(&agent).to_vec();
        if guest_agent.is_some() {
            members.push(cpio::Member {
                name: "xfi/guest-agent.cpio",
                mode: 0o100_644,
                data: &for_guests,
            });
        }
        let mut out = std::io::BufWriter::new(File::create(to)?);
        out.write_all(&base)?;
        // The kernel looks for the next archive on a multiple of four.
        cpio::pad(&mut out, base.len(), 512)?;
        cpio::write(&mut out, &members)?;
        out.flush()
    };
    write().context("writing", to)
}

fn agent_in_xfi(agent: &[u8]) -> [cpio::Member<'_>; 2] {
    [
        cpio::Member {
            name: "xfi",
            mode: 0o040_755,
            data: &[],
        },
        cpio::Member {
            name: "xfi/xfi-agent",
            mode: 0o100_755,
            data: agent,
        },
    ]
}

fn create_overlay(backing: &Path, format: &str, overlay: &Path) -> Result<(), TestbedError> {
    let program = launch::find_program("qemu-img", "apt-get install qemu-utils")?;
    let backing = backing.canonicalize().context("reading", backing)?;
    crate::private::remove_file(overlay)?;
    let out = Command::new(&program)
        .args(["create", "-q", "-f", "qcow2", "-F", format, "-b"])
        .arg(&backing)
        .arg(overlay)
        .output()
        .context("starting", &program)?;
    if out.status.success() {
        return Ok(());
    }
    Err(TestbedError::QemuEnded {
        doing: format!("making the disk {}", overlay.display()),
        why: launch::in_words(out.status),
        stderr: String::from_utf8_lossy(&out.stderr).trim().to_owned(),
    })
}
