//! `xfi status` and `xfi disarm`: what is armed, wherever it is, and its end.

use crate::args::Output;
use crate::exit::{Exit, coded};
use crate::host::Host;
use crate::output;
use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use schemars::JsonSchema;
use serde::Serialize;
use std::time::{Duration, Instant};
use xfi_model::{
    Command, DOM0_NAME, Event, EventBody, Fault, InjectionId, InjectionRecord, InjectionState,
    Location, MemoryRecord, TaskRecord, UnderWay,
};
use xfi_testbed::TestbedError;

/// An xfi that was told to cancel ends within this.
const CANCELS: Duration = Duration::from_secs(30);

/// What `xfi status --output json` prints. The committed schema is
/// `docs/schema/status.json`.
#[derive(Debug, Default, Serialize, JsonSchema)]
struct StatusView {
    /// The format's version; 1.
    format: u32,
    /// Faults that are armed, and those that ended and are still remembered.
    faults: Vec<FaultView>,
    /// The xfi that uses the testbed and alone knows more; null when none does.
    used_by: Option<ProcessView>,
}

/// One fault.
#[derive(Debug, Serialize, JsonSchema)]
struct FaultView {
    /// `armed`, `fired`, `expired`, `disarmed`, `target_gone` or `refused`.
    state: String,
    /// The injection's id in Xen; null for a fault in a task or in memory.
    id: Option<u64>,
    /// Where it is, in words.
    place: String,
    /// The bits asked for, counted in the whole register or word.
    bits: Vec<u32>,
    /// The domain whose agent has it armed; null when Xen has it or it ended.
    held_in: Option<String>,
    /// That agent's process there.
    pid: Option<u32>,
    /// What else is to be said, in words.
    note: String,
}

/// A process of this machine.
#[derive(Debug, Serialize, JsonSchema)]
struct ProcessView {
    /// Its number.
    pid: u32,
    /// Its command line.
    command: String,
}

/// `xfi status`.
pub(crate) fn status(output: Output) -> Result<()> {
    let view = match Host::find() {
        Ok(mut host) => asked(&host.ask(Command::Status)?)?,
        Err(e) => StatusView {
            format: 1,
            used_by: Some(user_of_the_testbed(&e).ok_or(e)?),
            faults: Vec::new(),
        },
    };
    match output {
        Output::Json => output::json(&view),
        Output::Text => {
            output::print(&text(&view));
            Ok(())
        }
    }
}

/// `xfi disarm`.
pub(crate) fn disarm(id: Option<u64>, output: Output) -> Result<()> {
    let (mut host, mut count) = match (Host::find(), id) {
        (Ok(host), _) => (host, 0),
        (Err(e), None) => (cancel(user_of_the_testbed(&e).ok_or(e)?)?, 1),
        (Err(e), Some(_)) => return Err(e),
    };
    let events = host.ask(Command::Disarm {
        id: id.map(InjectionId),
    })?;
    notes(&events);
    for event in &events {
        if let EventBody::Disarmed { count: n } = event.body {
            count += n;
        }
    }
    match output {
        Output::Json => output::json(&serde_json::json!({ "disarmed": count })),
        Output::Text => {
            output::print(&match count {
                0 => "nothing was armed".to_owned(),
                1 => "1 injection disarmed".to_owned(),
                n => format!("{n} injections disarmed"),
            });
            Ok(())
        }
    }
}

/// The other xfi because of which the testbed cannot be asked.
fn user_of_the_testbed(e: &anyhow::Error) -> Option<ProcessView> {
    let Some(TestbedError::ClientBusy { pid }) = e.downcast_ref() else {
        return None;
    };
    let pid: u32 = pid.parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command);
    let words: Vec<_> = command.split('\0').filter(|w| !w.is_empty()).collect();
    Some(ProcessView {
        pid,
        command: words.join(" "),
    })
}

/// Does what Ctrl-C does to an injection, and gives the host it lets go of.
fn cancel(user: ProcessView) -> Result<Host> {
    let busy = || {
        coded(
            Exit::Busy,
            format!(
                "process {} uses the testbed, and it is no injection: {}",
                user.pid, user.command
            ),
        )
    };
    let mut words = user.command.split_whitespace();
    let is_xfi = words
        .next()
        .is_some_and(|w| w.rsplit('/').next() == Some("xfi"));
    if !is_xfi || words.next() != Some("inject") {
        return Err(busy());
    }
    let pid = Pid::from_raw(i32::try_from(user.pid).map_err(|_| busy())?);
    // It may have ended just now.
    let _ = kill(pid, Signal::SIGINT);
    let end = Instant::now() + CANCELS;
    loop {
        match Host::find() {
            Err(e) if user_of_the_testbed(&e).is_some_and(|u| u.pid == user.pid) => {}
            found => return found,
        }
        if Instant::now() >= end {
            bail!(
                "process {} was told to cancel and has not ended in {CANCELS:?}: {}",
                user.pid,
                user.command
            );
        }
    }
}

fn notes(events: &[Event]) {
    for event in events {
        if let EventBody::Progress { message } = &event.body {
            output::error(message);
        }
    }
}

fn asked(events: &[Event]) -> Result<StatusView> {
    notes(events);
    let Some(EventBody::Injections {
        records,
        tasks,
        memory,
        under_way,
    }) = events.last().map(|e| &e.body)
    else {
        bail!("the agent sent no list of injections");
    };
    // What Xen says of its own is more.
    let in_xen = |u: &UnderWay| {
        u.fault.location.register().is_some()
            && records.iter().any(|r| r.state == InjectionState::Armed)
    };
    let mut faults: Vec<FaultView> = records.iter().map(of_xen).collect();
    faults.extend(tasks.iter().map(of_task));
    faults.extend(memory.iter().map(of_memory));
    faults.extend(under_way.iter().filter(|u| !in_xen(u)).map(of_agent));
    Ok(StatusView {
        format: 1,
        faults,
        used_by: None,
    })
}

fn bits(mask: u64, word: u32) -> Vec<u32> {
    let set = (0..64).filter(|b| mask >> b & 1 == 1);
    set.map(|b| 64 * word + b).collect()
}

fn of_xen(r: &InjectionRecord) -> FaultView {
    FaultView {
        state: output::word(&r.state),
        id: Some(r.id.0),
        place: format!("{} of vCPU {} of {}", r.register, r.vcpu, r.domain),
        bits: bits(r.mask.0, 0),
        held_in: None,
        pid: None,
        note: format!(
            "{} events seen, {} matched",
            r.events_seen, r.events_matched
        ),
    }
}

fn of_task(r: &TaskRecord) -> FaultView {
    let task = format!("task {} '{}' in {}", r.task.tid, r.task.comm, r.domain);
    FaultView {
        state: output::word(&r.state),
        id: None,
        place: match r.register {
            Some(register) => format!("{register} of {task}"),
            None => format!("the life of {task}"),
        },
        bits: bits(r.mask.0, r.word),
        held_in: None,
        pid: None,
        note: match (&r.flip, &r.reason) {
            (Some(flip), _) => output::time(flip.at.realtime_ns),
            (None, Some(reason)) => reason.clone(),
            (None, None) => String::new(),
        },
    }
}

fn of_memory(r: &MemoryRecord) -> FaultView {
    FaultView {
        state: output::word(&r.state),
        id: None,
        place: r.location.to_string(),
        bits: bits(r.mask.0, 0),
        held_in: None,
        pid: None,
        note: r
            .flip
            .as_ref()
            .map_or(String::new(), |f| output::time(f.at.realtime_ns)),
    }
}

fn of_agent(u: &UnderWay) -> FaultView {
    let Fault { location, mask, .. } = &u.fault;
    let word = match location {
        Location::Task { word, .. } => *word,
        _ => 0,
    };
    let held = if u.held_in == DOM0_NAME {
        format!("by process {} of dom0", u.pid)
    } else {
        format!("in {} alone: no agent of dom0 waits for it", u.held_in)
    };
    FaultView {
        state: output::word(&InjectionState::Armed),
        id: None,
        place: location.to_string(),
        bits: bits(mask.0, word),
        held_in: Some(u.held_in.clone()),
        pid: Some(u.pid),
        note: held,
    }
}

fn text(view: &StatusView) -> String {
    if let Some(user) = &view.used_by {
        return format!(
            "process {} uses the testbed, and what is armed is its: {}\nend it with: xfi disarm --all",
            user.pid, user.command
        );
    }
    if view.faults.is_empty() {
        return "nothing is armed, and nothing was since this Xen booted".to_owned();
    }
    let mut table = output::table(&["STATE", "ID", "PLACE", "BITS", ""]);
    for f in &view.faults {
        let bits: Vec<_> = f.bits.iter().map(u32::to_string).collect();
        table.add_row([
            f.state.clone(),
            f.id.map_or("-".to_owned(), |id| id.to_string()),
            f.place.clone(),
            match bits.is_empty() {
                true => "-".to_owned(),
                false => bits.join(","),
            },
            f.note.clone(),
        ]);
    }
    output::text_of(&table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use xfi_model::{BitOp, Hex64, TaskRegister, TaskSelector, Trigger, TriggerKind};

    #[test]
    fn the_committed_schema_is_the_one_of_the_code() {
        output::check_schema("status", &schemars::schema_for!(StatusView));
    }

    fn under_way(held_in: &str) -> UnderWay {
        UnderWay {
            held_in: held_in.to_owned(),
            pid: 77,
            fault: Fault {
                location: Location::Task {
                    domain: "web1".to_owned(),
                    task: TaskSelector::Role {
                        role: "apache".to_owned(),
                        pick: 0,
                    },
                    register: TaskRegister::Xmm(3),
                    word: 1,
                },
                mask: Hex64(1 << 36),
                op: BitOp::Flip,
                trigger: Trigger {
                    kind: TriggerKind::Kick,
                    after_ns: 0,
                    nth: 1,
                    expire_ns: None,
                    rip: None,
                    mode: None,
                },
            },
        }
    }

    #[test]
    fn a_fault_in_a_task_is_shown_with_its_bit_and_who_holds_it() {
        let event = Event {
            seq: 1,
            at_ns: 0,
            body: EventBody::Injections {
                records: Vec::new(),
                tasks: Vec::new(),
                memory: Vec::new(),
                under_way: vec![under_way(DOM0_NAME), under_way("web1")],
            },
        };
        let view = asked(&[event]).unwrap();
        let schema = serde_json::to_value(schemars::schema_for!(StatusView)).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        assert!(validator.is_valid(&serde_json::to_value(&view).unwrap()));
        let printed = text(&view);
        for words in [
            "armed  -   web1 xmm3 of role 'apache'  100",
            "by process 77 of dom0",
            "in web1 alone",
        ] {
            assert!(printed.contains(words), "no '{words}' in:\n{printed}");
        }
    }
}
