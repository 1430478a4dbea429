//! What the orchestrator and `xfi-agent` say to each other: JSON objects, one
//! a line, over any byte stream (a virtio-serial port, or the standard streams
//! of `xfi-agent --stdio` behind SSH).
//!
//! The agent is given a whole run before it starts and streams events; while
//! it runs nothing is asked of it but [`Command::Cancel`].

use crate::{
    DomId, DomainInfo, Fault, GuestLayout, InjectionId, InjectionRecord, IntegrityResult, Location,
    MemoryRecord, MemoryWord, ProfileRecord, TaskIdentity, TaskRecord,
};
use serde::{Deserialize, Serialize};

/// The protocol's version. An agent of another version is refused.
pub const PROTOCOL_VERSION: u32 = 1;

/// A request to the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the orchestrator; every event that answers carries it.
    pub seq: u64,
    /// What to do.
    #[serde(flatten)]
    pub command: Command,
}

/// What the agent can be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Who is there. Answered by [`EventBody::Hello`].
    Hello,
    /// List domains. Answered by [`EventBody::Domains`].
    Domains,
    /// Define and start these guests, in order; [`EventBody::Progress`] for
    /// each, then [`EventBody::Done`] when every ready line has been seen.
    Prepare {
        /// The guests.
        guests: Vec<GuestLayout>,
        /// Give up after this long, milliseconds.
        timeout_ms: u64,
    },
    /// Execute a run. Events as they come, then [`EventBody::Done`].
    Run(AgentRun),
    /// End the run under way: disarm, then `Done`.
    Cancel,
    /// What is armed, and recent records. Answered by
    /// [`EventBody::Injections`].
    Status,
    /// Disarm one injection, or all. Answered by [`EventBody::Disarmed`].
    Disarm {
        /// The injection; none for all.
        id: Option<InjectionId>,
    },
    /// Xen's console ring. Answered by [`EventBody::XenConsole`].
    XenConsole,
    /// The last lines of a guest's console log. Answered by
    /// [`EventBody::GuestConsole`].
    GuestConsole {
        /// The guest.
        domain: String,
        /// How many lines at most.
        lines: u32,
    },
    /// Destroy a domain at once. Answered by [`EventBody::Done`].
    DestroyDomain {
        /// The guest.
        domain: String,
    },
    /// Where dom0's kernel has its functions. Answered by
    /// [`EventBody::KernelSymbols`].
    KernelSymbols,
    /// Run the host integrity test now. Answered by [`EventBody::Integrity`].
    Integrity,
    /// Read words of memory. Answered by [`EventBody::Memory`].
    Peek {
        /// The first word.
        location: Location,
        /// How many; at most [`crate::MAX_PEEK_WORDS`].
        count: u32,
    },
    /// Count hypercalls. Answered at the end, or after [`Command::Cancel`] what
    /// was counted until then, by [`EventBody::Profile`], then `Done`.
    Profile {
        /// The domain whose calls; none for all domains'.
        domain: Option<String>,
        /// For how long, milliseconds; at most [`crate::MAX_PROFILE_MS`].
        for_ms: u64,
    },
}

/// A run as the agent is given it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentRun {
    /// The fault to arm at once; its trigger's moment counts from arming.
    pub fault: Option<Fault>,
    /// With a fault: do everything but the flip.
    #[serde(default)]
    pub dummy: bool,
    /// How often to ask Xen whether it fired, milliseconds.
    pub poll_ms: u32,
    /// How long to observe, milliseconds: after the flip, or after the start of
    /// a run without a fault. None ends the run with its injection; an
    /// injection that ends unfired ends the run at once.
    pub observe_ms: Option<u64>,
    /// At the end run the integrity test, list the domains and read Xen's
    /// console ring.
    pub final_checks: bool,
}

/// Something the agent reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The request this belongs to.
    pub seq: u64,
    /// `CLOCK_MONOTONIC` in dom0 when it was sent.
    pub at_ns: u64,
    /// What happened.
    #[serde(flatten)]
    pub body: EventBody,
}

/// What an event says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventBody {
    /// Answer to `Hello`.
    Hello(AgentHello),
    /// Answer to `Domains`, and part of a run's final checks.
    Domains {
        /// All domains, dom0 first.
        domains: Vec<DomainInfo>,
    },
    /// A step of something long.
    Progress {
        /// In words.
        message: String,
    },
    /// The fault is armed.
    Armed {
        /// Its id.
        id: InjectionId,
        /// The domain it is in.
        domid: DomId,
    },
    /// The injection ended: fired, expired, disarmed or target gone.
    Injection {
        /// Xen's record.
        record: InjectionRecord,
        /// How long before this event was sent that end was, nanoseconds, by
        /// Xen's clock.
        age_ns: u64,
    },
    /// A fault in a task is armed.
    TaskArmed {
        /// The task.
        task: TaskIdentity,
        /// From arming to the moment, nanoseconds, by the task's own clocks.
        moment_in_ns: u64,
    },
    /// A fault in a task ended.
    TaskInjection {
        /// What became of it.
        record: Box<TaskRecord>,
    },
    /// A fault in a word of memory ended.
    MemoryInjection {
        /// What became of it.
        record: Box<MemoryRecord>,
    },
    /// Answer to `Peek`.
    Memory {
        /// The words, in order.
        words: Vec<MemoryWord>,
    },
    /// Hypercalls as they were counted.
    Profile {
        /// The counts.
        record: Box<ProfileRecord>,
    },
    /// Answer to `Status`.
    Injections {
        /// Armed ones and those finished ones still remembered, in Xen's hands.
        records: Vec<InjectionRecord>,
        /// Finished ones in tasks, still remembered.
        #[serde(default)]
        tasks: Vec<TaskRecord>,
        /// Finished ones in memory, still remembered.
        #[serde(default)]
        memory: Vec<MemoryRecord>,
        /// What agents on this host and in its guests have armed.
        #[serde(default)]
        under_way: Vec<UnderWay>,
    },
    /// Answer to `Disarm`.
    Disarmed {
        /// How many were armed and are not now.
        count: u32,
    },
    /// The integrity test's result.
    Integrity(IntegrityResult),
    /// Xen's console ring.
    XenConsole {
        /// Its lines.
        lines: Vec<String>,
    },
    /// A guest's console.
    GuestConsole {
        /// Its last lines.
        lines: Vec<String>,
    },
    /// Where dom0's kernel has its functions.
    KernelSymbols {
        /// `address type name` lines as in a `System.map`, modules left out.
        map: String,
    },
    /// The request is finished.
    Done,
    /// The request failed.
    Error {
        /// A machine-readable kind.
        code: AgentErrorCode,
        /// One line: what was wrong, where, what to do.
        message: String,
    },
}

/// A fault that an agent has armed and whose end it has not seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnderWay {
    /// The domain whose agent holds it: dom0, or a guest for a fault in one of
    /// its tasks.
    pub held_in: String,
    /// The agent's process there.
    pub pid: u32,
    /// The fault.
    pub fault: Fault,
}

/// Kinds of failure the orchestrator treats differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentErrorCode {
    /// No such domain or vCPU; the message lists those there are.
    NoSuchDomain,
    /// No such task, or no such role; the message lists those there are.
    NoSuchTask,
    /// Something is armed there already.
    Busy,
    /// The argument was refused.
    Invalid,
    /// This Xen has no xfi hypercall, or the caller may not use it.
    NotAvailable,
    /// The host has not opted in.
    NotAllowed,
    /// The request line could not be parsed.
    BadRequest,
    /// Anything else.
    Failed,
}

/// Who the agent is, and what this host can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentHello {
    /// [`PROTOCOL_VERSION`] of the agent.
    pub protocol: u32,
    /// The agent's version.
    pub version: String,
    /// `uname -n`.
    pub hostname: String,
    /// dom0's kernel release.
    pub kernel: String,
    /// Xen's version, such as `4.20.0`.
    pub xen_version: Option<String>,
    /// Xen's build id.
    pub xen_build_id: Option<String>,
    /// Whether the marker file that allows injection is there.
    pub opted_in: bool,
    /// The hypercall, when this Xen has it.
    pub capabilities: Option<Capabilities>,
    /// The domains.
    pub domains: Vec<DomainInfo>,
}

/// What the hypercall of this Xen offers (`struct xfi_capabilities`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// `patched` or `livepatch`.
    pub delivery: String,
    /// The ABI's version.
    pub abi: u32,
    /// Features by name.
    pub features: Vec<String>,
    /// Injections that can be armed at once.
    pub slots: u32,
}
