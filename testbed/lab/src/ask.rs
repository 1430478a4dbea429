//! What tests ask an agent, and what they cannot go on without.

use crate::PATIENCE;
use std::time::Instant;
use xfi_model::{
    AgentErrorCode, AgentRun, BitOp, Command, Event, EventBody, Fault, Hex64, InjectionRecord,
    Location, Register, Trigger, TriggerKind, VcpuId,
};
use xfi_testbed::AgentLink;

/// A change of one register of a vCPU at the next event, by kick.
pub fn vcpu_fault(guest: &str, vcpu: u32, register: Register, mask: u64, op: BitOp) -> Fault {
    Fault {
        location: Location::VcpuRegister {
            domain: guest.to_owned(),
            vcpu: VcpuId(vcpu),
            register,
        },
        mask: Hex64(mask),
        op,
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

/// A run that ends with its injection.
pub fn run_of(fault: Fault, dummy: bool) -> Command {
    Command::Run(AgentRun {
        fault: Some(fault),
        dummy,
        poll_ms: 5,
        observe_ms: None,
        final_checks: false,
    })
}

/// All events of a request that is not refused.
pub fn ask(agent: &mut AgentLink, command: Command) -> Vec<Event> {
    let events = agent
        .ask(command.clone(), 2 * PATIENCE)
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    if let Some(EventBody::Error { message, .. }) = events.last().map(|e| &e.body) {
        panic!("{command:?}: {message}");
    }
    events
}

/// What became of a fault.
pub fn inject(agent: &mut AgentLink, fault: Fault, dummy: bool) -> InjectionRecord {
    ask(agent, run_of(fault, dummy))
        .into_iter()
        .find_map(|event| match event.body {
            EventBody::Injection { record, .. } => Some(record),
            _ => None,
        })
        .expect("an injection's end")
}

/// Why a request is refused.
pub fn refusal(agent: &mut AgentLink, command: Command) -> (AgentErrorCode, String) {
    let events = agent
        .ask(command.clone(), 2 * PATIENCE)
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    match events.into_iter().next_back().map(|e| e.body) {
        Some(EventBody::Error { code, message }) => (code, message),
        other => panic!("{command:?} was not refused: {other:?}"),
    }
}

/// What a guest has said on its console.
pub fn console(agent: &mut AgentLink, guest: &str) -> Vec<String> {
    let command = Command::GuestConsole {
        domain: guest.to_owned(),
        lines: 100_000,
    };
    match ask(agent, command).pop().map(|e| e.body) {
        Some(EventBody::GuestConsole { lines }) => lines,
        other => panic!("{other:?}"),
    }
}

/// The next event of this request that is one of those.
pub fn next(agent: &mut AgentLink, seq: u64, wanted: impl Fn(&EventBody) -> bool) -> EventBody {
    let end = Instant::now() + 2 * PATIENCE;
    loop {
        let event = agent
            .next_event(end)
            .expect("a link")
            .expect("an event in time");
        assert_eq!(event.seq, seq, "{event:?}");
        if wanted(&event.body) {
            return event.body;
        }
        if let EventBody::Error { message, .. } = &event.body {
            panic!("{message}");
        }
    }
}
