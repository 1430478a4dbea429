//! One run, from the restored snapshot to its record.

use crate::driver::Driver;
use crate::{CampaignError, Stop};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use xfi_model::{
    AgentErrorCode, AgentRun, Command, EventBody, HostObservation, HttpTarget, InjectionRecord,
    InjectionState, LoadSpec, Observations, Plan, PlannedRun, Register, RunKind, RunRecord,
    ServiceObservation, TcpObservation, Timing,
};
use xfi_testbed::{Evidence, Health, LinkError, Ping, Testbed};
use xfi_workloads::load::{self, ServiceContext};
use xfi_workloads::monotonic_ns;
use xfi_workloads::pcap::{TcpService, read_pcap};

const MS: u64 = 1_000_000;
/// How often the machine's health is looked at.
const TICK: Duration = Duration::from_millis(20);
/// The agent answers this late at most after a restore: its code is translated
/// anew.
const ARM_PATIENCE: Duration = Duration::from_secs(15);
/// After the load's end, the host integrity test must be answered within this
/// and one client timeout, which follows the machine's speed.
const CHECK_PATIENCE: Duration = Duration::from_secs(10);
/// How long dom0 may take to answer a ping.
const PING_PATIENCE: Duration = Duration::from_secs(1);
/// The console gets this long to print the rest of a panic.
const PANIC_GRACE: Duration = Duration::from_millis(300);
/// How often the agent asks Xen whether it fired.
const POLL_MS: u32 = 20;

/// What does not change from run to run.
pub(crate) struct RunContext<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) workload: &'a crate::WorkloadSection,
    /// The program that is run as load driver.
    pub(crate) driver: &'a Path,
    pub(crate) watchdog: Duration,
    pub(crate) stop: &'a Stop,
}

/// What `execute` tells its caller while the run goes on.
pub(crate) trait Milestones {
    /// About to hand the fault to the agent: from here on it may fire.
    fn arming(&mut self) -> Result<(), CampaignError>;
    /// The flip is known to have happened.
    fn fired(&mut self, record: &InjectionRecord) -> Result<(), CampaignError>;
}

/// What is known so far of a run under way.
#[derive(Default)]
struct Live {
    armed: bool,
    injection: Option<InjectionRecord>,
    flip_ns: Option<u64>,
    agent_done: bool,
    host: HostObservation,
    /// The run cannot go on, for a reason of the harness's.
    failed: Option<String>,
    /// The agent refused before anything was armed.
    refused: bool,
    ended_early: bool,
}

/// Runs one planned run on `testbed`.
///
/// Failures of testbed, agent or driver end in the record, not in the result.
///
/// # Errors
/// Only what must end the campaign: the journal or the disk.
pub(crate) fn execute(
    testbed: &mut dyn Testbed,
    ctx: &RunContext<'_>,
    planned: &PlannedRun,
    (worker, attempt): (u32, u32),
    dir: PathBuf,
    milestones: &mut dyn Milestones,
) -> Result<RunRecord, CampaignError> {
    let begun = Instant::now();
    let started_at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let evidence = Evidence { dir };
    let mut live = Live::default();
    let mut restore_ns = 0;
    let mut driver = None;

    match testbed.reset(planned.snapshot, &evidence) {
        Ok(report) => {
            restore_ns = report.restore.as_nanos() as u64;
            milestones.arming()?;
            let d = observe(testbed, ctx, planned, &evidence, milestones, &mut live)?;
            driver = d;
        }
        Err(e) => {
            live.failed = Some(e.to_string());
            live.refused = true;
        }
    }
    if let Some(driver) = &mut driver {
        driver.stop();
    }
    if let Err(e) = testbed.stop() {
        tracing::warn!("ending the testbed of run {}: {e}", planned.id);
    }

    let mut observations = Observations {
        window_ns: ctx.plan.timing.window_ns,
        ..Observations::default()
    };
    if let Some(driver) = &driver {
        match summarise(testbed, ctx, planned, &live, driver) {
            Ok((services, load_start_ns, flip_ns)) => {
                observations.services = services;
                observations.load_start_ns = load_start_ns;
                observations.flip_ns = flip_ns;
            }
            Err(e) => live.failed = Some(live.failed.take().unwrap_or(e.to_string())),
        }
    }
    // Not before: the summary looks at when the host died.
    observations.host = std::mem::take(&mut live.host);
    let fired = live
        .injection
        .as_ref()
        .is_some_and(|i| i.state == InjectionState::Fired);
    let unknown = planned.fault.is_some() && live.injection.is_none() && !live.refused;
    Ok(RunRecord {
        planned: planned.clone(),
        worker,
        attempt,
        started_at,
        took_ns: begun.elapsed().as_nanos() as u64,
        restore_ns,
        injection: live.injection,
        observations,
        invalid: Vec::new(),
        harness_error: live.failed,
        may_have_fired: fired || unknown,
    })
}

/// Arms, loads, watches; returns the driver once one was started.
fn observe(
    testbed: &mut dyn Testbed,
    ctx: &RunContext<'_>,
    planned: &PlannedRun,
    evidence: &Evidence,
    milestones: &mut dyn Milestones,
    live: &mut Live,
) -> Result<Option<Driver>, CampaignError> {
    let timing = &ctx.plan.timing;
    let observe_ms = match planned.kind {
        RunKind::Golden => (planned.moment_ns + timing.window_ns) / MS,
        RunKind::Injection | RunKind::Dummy => timing.window_ns / MS,
    };
    let command = Command::Run(AgentRun {
        fault: planned.fault.clone(),
        dummy: planned.kind == RunKind::Dummy,
        poll_ms: POLL_MS,
        observe_ms: Some(observe_ms),
        final_checks: true,
    });
    let seq = match testbed.agent().and_then(|a| Ok(a.send(command)?)) {
        Ok(seq) => seq,
        Err(e) => {
            live.failed = Some(e.to_string());
            live.refused = true;
            return Ok(None);
        }
    };

    // The load starts once the fault is armed, so that moments count from it.
    let deadline = Instant::now() + ARM_PATIENCE;
    if planned.fault.is_some() {
        while !live.armed && live.failed.is_none() {
            step(testbed, seq, milestones, live)?;
            if Instant::now() >= deadline {
                live.failed = Some(format!("the agent did not arm within {ARM_PATIENCE:?}"));
            }
            look_at_health(testbed, live);
            if live.host.panic_line.is_some() || live.host.guest_reset {
                live.failed = Some("the host crashed before anything was armed".into());
            }
            if ctx.stop.at_once() {
                live.failed = Some("interrupted".into());
            }
        }
        if live.failed.is_some() {
            return Ok(None);
        }
    }
    let spec = load_spec(testbed, ctx, planned);
    let mut driver = Driver::start(ctx.driver, &spec, &evidence.dir)?;

    let planned_ns = load_ns(planned, timing) + 2 * timing.timeout_ns;
    let watchdog = Instant::now() + Duration::from_nanos(planned_ns) + ctx.watchdog;
    let check_patience = CHECK_PATIENCE + Duration::from_nanos(timing.timeout_ns);
    let mut driver_ended: Option<Instant> = None;
    let mut ping = None;
    loop {
        step(testbed, seq, milestones, live)?;
        look_at_health(testbed, live);
        if live.host.panic_line.is_some() || live.host.guest_reset {
            let until = Instant::now() + PANIC_GRACE;
            while Instant::now() < until {
                // A flip and the panic it causes can be reported in either order.
                step(testbed, seq, milestones, live)?;
                std::thread::sleep(TICK);
            }
            look_at_health(testbed, live);
            break;
        }
        if live.failed.is_some() {
            break;
        }
        if driver.ended() && driver_ended.is_none() {
            driver_ended = Some(Instant::now());
            ping = testbed.ping(PING_PATIENCE);
        }
        if live.ended_early {
            break;
        }
        if let Some(ended) = driver_ended
            && (live.agent_done || ended.elapsed() >= check_patience)
        {
            break;
        }
        if ctx.stop.at_once() {
            live.failed = Some("interrupted".into());
            break;
        }
        if Instant::now() >= watchdog {
            live.failed = Some("the run did not end in its time; the watchdog ended it".into());
            break;
        }
    }
    live.host.ping_answered = ping.map(Ping::answered);
    Ok(Some(driver))
}

/// Takes one event from the agent, waiting a tick at most.
fn step(
    testbed: &mut dyn Testbed,
    seq: u64,
    milestones: &mut dyn Milestones,
    live: &mut Live,
) -> Result<(), CampaignError> {
    if live.agent_done {
        std::thread::sleep(TICK);
        return Ok(());
    }
    let event = match testbed.agent() {
        Ok(agent) => match agent.next_event(Instant::now() + TICK) {
            Ok(event) => event,
            Err(LinkError::Closed) => {
                // Health tells whether the machine went with it.
                std::thread::sleep(TICK);
                return Ok(());
            }
            Err(e) => {
                live.failed = Some(e.to_string());
                return Ok(());
            }
        },
        Err(e) => {
            live.failed = Some(e.to_string());
            return Ok(());
        }
    };
    let Some(event) = event else { return Ok(()) };
    let received_ns = monotonic_ns();
    if event.seq != seq {
        return Ok(());
    }
    match event.body {
        EventBody::Armed { .. } => live.armed = true,
        EventBody::Injection { mut record, age_ns } => {
            name_rip(testbed, &mut record);
            if record.state == InjectionState::Fired {
                live.flip_ns = Some(received_ns.saturating_sub(age_ns));
                milestones.fired(&record)?;
            } else {
                live.ended_early = true;
            }
            live.injection = Some(record);
        }
        EventBody::Integrity(result) => live.host.integrity = Some(result),
        EventBody::Domains { domains } => live.host.domains = domains,
        EventBody::XenConsole { lines } => live.host.xen_log = lines,
        EventBody::Done => live.agent_done = true,
        EventBody::Error { code, message } => {
            live.refused =
                !live.armed && !matches!(code, AgentErrorCode::Failed) && live.injection.is_none();
            live.failed = Some(message);
        }
        _ => {}
    }
    Ok(())
}

fn name_rip(testbed: &dyn Testbed, record: &mut InjectionRecord) {
    let Some(flip) = &mut record.flip else { return };
    if let Some(rip) = flip.before.get(&Register::Rip) {
        flip.rip_symbol = testbed.symbol(flip.guest_mode, rip.0);
    }
}

fn look_at_health(testbed: &mut dyn Testbed, live: &mut Live) {
    match testbed.health() {
        Health::Running => {}
        Health::Panicked {
            line,
            context,
            seen_ns,
        } => {
            live.host.panic_line = Some(line);
            live.host.panic_context = context;
            live.host.panic_ns = Some(seen_ns);
        }
        Health::GuestReset => live.host.guest_reset = true,
        Health::Gone { reason } => live.failed = Some(reason),
    }
}

/// How long a run's load lasts.
fn load_ns(planned: &PlannedRun, timing: &Timing) -> u64 {
    // A filtered injection may fire any time up to its expiry.
    let late_ns = match &planned.fault {
        Some(f) if f.trigger.rip.is_some() || f.trigger.mode.is_some() => {
            timing.expire_after_moment_ns
        }
        _ => 0,
    };
    planned.moment_ns + timing.window_ns + late_ns
}

fn load_spec(testbed: &dyn Testbed, ctx: &RunContext<'_>, planned: &PlannedRun) -> LoadSpec {
    let targets = testbed.endpoints().into_iter();
    let targets = targets.map(|e| HttpTarget {
        guest: e.guest,
        addr: e.addr,
    });
    let timing = &ctx.plan.timing;
    let load_ns = load_ns(planned, timing);
    ctx.workload
        .spec(targets.collect(), load_ns, timing, planned.load_seed)
}

type Summary = (Vec<ServiceObservation>, u64, Option<u64>);

fn summarise(
    testbed: &dyn Testbed,
    ctx: &RunContext<'_>,
    planned: &PlannedRun,
    live: &Live,
    driver: &Driver,
) -> Result<Summary, CampaignError> {
    let load_start_ns = driver.started_ns();
    let flip_ns = match planned.kind {
        RunKind::Golden => Some(load_start_ns + planned.moment_ns),
        // A host that dies by the flip cannot tell of it: the drawn moment is
        // the best bound there is.
        _ => live.flip_ns.or_else(|| {
            live.host
                .panic_ns
                .map(|p| p.min(load_start_ns + planned.moment_ns))
        }),
    };
    let target = planned.fault.as_ref().and_then(|f| f.location.domain());
    let tcp = packets(testbed, planned);
    let services: Vec<_> = testbed
        .endpoints()
        .into_iter()
        .map(|e| ServiceContext {
            is_target: target == Some(e.guest.as_str()),
            band: ctx.plan.bands.get(&e.guest).copied(),
            tcp: tcp.get(&e.guest).copied(),
            guest: e.guest,
        })
        .collect();
    let summary = load::summarise(driver.log(), flip_ns, ctx.plan.timing.window_ns, &services)?;
    Ok((
        summary.services,
        summary.start_ns.unwrap_or(load_start_ns),
        flip_ns,
    ))
}

/// The guests' TCP connections as recorded at the NIC. A record that cannot be
/// read costs this detail, not the run.
fn packets(testbed: &dyn Testbed, planned: &PlannedRun) -> BTreeMap<String, TcpObservation> {
    let Some(path) = testbed.packet_record() else {
        return BTreeMap::new();
    };
    let services: Vec<_> = testbed
        .layout()
        .guests
        .iter()
        .filter_map(|g| {
            let addr = SocketAddr::from((g.ip?, g.port?));
            Some(TcpService {
                guest: g.name.clone(),
                addr,
            })
        })
        .collect();
    match read_pcap(path, &services) {
        Ok(record) => record.services,
        Err(e) => {
            tracing::warn!("packet record of run {}: {e}", planned.id);
            BTreeMap::new()
        }
    }
}
