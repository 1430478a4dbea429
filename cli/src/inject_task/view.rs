//! What `xfi inject` prints of a fault in a task.

use crate::output;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;
use xfi_model::{
    GuestMode, InjectionState, TaskFlip, TaskIdentity, TaskMethod, TaskRecord, TaskRegister,
    TaskRegisterFile,
};

/// What `xfi inject --output json` prints of a fault in a task. The committed
/// schema is `docs/schema/inject-task.json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct TaskView {
    /// The format's version; 1.
    format: u32,
    /// `fired`, `expired`, `disarmed`, `target_gone` or `refused`.
    state: String,
    /// Why nothing was changed, where that needs words.
    reason: Option<String>,
    /// The domain's name.
    domain: String,
    /// The task.
    task: IdentityView,
    /// `ptrace`, `module` or `kill`: how it was, or was to be, reached.
    method: String,
    /// The register asked for; null when the process was to be killed.
    register: Option<String>,
    /// The bits asked for, counted in the whole register.
    bits: Vec<u32>,
    /// `flip`, `set` or `clear`.
    op: String,
    /// `user` or `kernel`; null when it did not fire.
    mode: Option<String>,
    /// The number of the system call it was in.
    syscall: Option<u64>,
    /// Whether that call was cut short and is made again.
    syscall_restarts: bool,
    /// Where a kernel thread had switched away, as `function+0x…`.
    kernel_symbol: Option<String>,
    /// All registers before, by name, as `0x…`; null when it did not fire, empty
    /// when the process was killed.
    before: Option<BTreeMap<String, String>>,
    /// All registers after, as read back.
    after: Option<BTreeMap<String, String>>,
    /// The bits that differ between before and after, by register.
    changed: BTreeMap<String, Vec<u32>>,
    /// When it was armed, by the domain's own clock, nanoseconds since 1970.
    armed_unix_ns: u64,
    /// When it fired, by the same clock; null when it did not.
    unix_ns: Option<u64>,
    /// How much later than the moment asked for, nanoseconds; null when it did
    /// not fire.
    late_ns: Option<u64>,
    /// How long the task was held for it, nanoseconds; null when it did not
    /// fire.
    held_ns: Option<u64>,
    /// How often the task was stopped until it was where it was asked to be.
    stops: u64,
}

/// A task.
#[derive(Debug, Serialize, JsonSchema)]
struct IdentityView {
    /// The process.
    pid: u32,
    /// The thread.
    tid: u32,
    /// `/proc/TID/comm`.
    comm: String,
    /// The program's file; null for a kernel thread.
    exe: Option<String>,
    /// The role it was chosen for.
    role: Option<String>,
    /// Whether it is a kernel thread.
    kthread: bool,
    /// Clock ticks from boot to its start: with the number, unique.
    start_ticks: u64,
    /// How many tasks fitted.
    candidates: u32,
}

impl IdentityView {
    fn of(t: &TaskIdentity) -> Self {
        IdentityView {
            pid: t.pid,
            tid: t.tid,
            comm: t.comm.clone(),
            exe: t.exe.clone(),
            role: t.role.clone(),
            kthread: t.kthread,
            start_ticks: t.start_ticks,
            candidates: t.candidates,
        }
    }
}

impl TaskView {
    /// The view of a fault's record.
    pub(super) fn of(r: &TaskRecord) -> Self {
        let file = |f: &TaskRegisterFile| {
            let values = f.iter().map(|(r, v)| (r.to_string(), v.clone()));
            values.collect::<BTreeMap<_, _>>()
        };
        let flip = r.flip.as_ref();
        TaskView {
            format: 1,
            state: output::word(&r.state),
            reason: r.reason.clone(),
            domain: r.domain.clone(),
            task: IdentityView::of(&r.task),
            method: output::word(&r.method),
            register: r.register.map(|r| r.to_string()),
            bits: asked(r),
            op: output::word(&r.op),
            mode: flip.map(|f| output::word(&f.mode)),
            syscall: flip.and_then(|f| Some(f.syscall?.number)),
            syscall_restarts: flip.is_some_and(|f| f.syscall.is_some_and(|s| s.restarts)),
            kernel_symbol: flip.and_then(|f| f.kernel_symbol.clone()),
            before: flip.map(|f| file(&f.before)),
            after: flip.map(|f| file(&f.after)),
            changed: flip.map_or_else(BTreeMap::new, |f| {
                let changed = f.changed.iter().map(|(r, b)| (r.to_string(), b.clone()));
                changed.collect()
            }),
            armed_unix_ns: r.armed.realtime_ns,
            unix_ns: flip.map(|f| f.at.realtime_ns),
            late_ns: flip.map(|f| late(r, f)),
            held_ns: flip.map(|f| f.held_ns),
            stops: r.stops,
        }
    }
}

/// The bits asked for, in the whole register.
fn asked(r: &TaskRecord) -> Vec<u32> {
    let set = (0..64).filter(|b| r.mask.0 >> b & 1 == 1);
    set.map(|b| 64 * r.word + b).collect()
}

fn late(r: &TaskRecord, flip: &TaskFlip) -> u64 {
    flip.at.monotonic_ns.saturating_sub(r.drawn_monotonic_ns)
}

fn name_of(t: &TaskIdentity) -> String {
    let kind = if t.kthread {
        "kernel thread"
    } else if t.pid == t.tid {
        "process"
    } else {
        "thread"
    };
    let mut what = format!("{kind} {} '{}'", t.tid, t.comm);
    if t.pid != t.tid {
        what.push_str(&format!(" of process {}", t.pid));
    }
    what
}

/// For people.
pub(super) fn text(r: &TaskRecord) -> String {
    let task = name_of(&r.task);
    let Some(flip) = &r.flip else {
        let state = output::word(&r.state);
        let what = r
            .register
            .map_or(String::new(), |register| format!("{register} of "));
        return format!("{state}: {what}{task} in {}; nothing is armed", r.domain);
    };
    let mut lines = vec![format!("fired    {task} in {}", r.domain)];
    lines.push(format!("task     {}", about(&r.task)));
    let held = output::duration(flip.held_ns);
    lines.push(match r.method {
        TaskMethod::Ptrace => format!("stopped  by ptrace, for {held}, {}", place(flip)),
        TaskMethod::Module => format!(
            "stopped  with all processors, for {held}; it had switched away in {}",
            flip.kernel_symbol.as_deref().unwrap_or("?")
        ),
        TaskMethod::Kill => "killed   by SIGKILL".to_owned(),
    });
    if let Some(register) = r.register {
        if r.method == TaskMethod::Module {
            lines.push(frame(flip));
        } else {
            let value = |file: &TaskRegisterFile| {
                file.get(&register).map_or("?", String::as_str).to_owned()
            };
            lines.push(format!("before   {register} = {}", value(&flip.before)));
            lines.push(format!("after    {register} = {}", value(&flip.after)));
        }
        lines.push(format!("changed  {}", changed(r, flip)));
    }
    let stops = match r.stops {
        1 => "1 stop".to_owned(),
        n => format!("{n} stops"),
    };
    lines.push(format!(
        "timing   {} by its clock, {} after the moment asked for; {stops}",
        output::time(flip.at.realtime_ns),
        output::duration(late(r, flip)),
    ));
    lines.join("\n")
}

fn about(t: &TaskIdentity) -> String {
    let mut words = Vec::new();
    words.extend(t.exe.clone());
    words.extend(t.role.as_ref().map(|role| format!("role {role}")));
    words.push(match t.candidates {
        1 => "the only one that fits".to_owned(),
        n => format!("one of {n} that fit (--pick 0 to {})", n - 1),
    });
    words.join(", ")
}

fn place(flip: &TaskFlip) -> String {
    match flip.syscall {
        Some(s) if s.restarts => format!("in system call {}, which is made again", s.number),
        Some(s) => format!("in system call {}", s.number),
        None if flip.mode == GuestMode::User => "in its own code".to_owned(),
        None => "in the kernel".to_owned(),
    }
}

/// What the kernel saved of a thread: all of it.
fn frame(flip: &TaskFlip) -> String {
    let lines = TaskRegister::KERNEL.iter().map(|register| {
        let value =
            |file: &TaskRegisterFile| file.get(register).map_or("?", String::as_str).to_owned();
        let (before, after) = (value(&flip.before), value(&flip.after));
        let mark = if before == after { "" } else { "  changed" };
        format!("         {register:<4} {before}  {after}{mark}")
            .trim_end()
            .to_owned()
    });
    let head = "frame         before              after".to_owned();
    std::iter::once(head)
        .chain(lines)
        .collect::<Vec<_>>()
        .join("\n")
}

fn changed(r: &TaskRecord, flip: &TaskFlip) -> String {
    let list: Vec<String> = flip
        .changed
        .iter()
        .map(|(register, bits)| {
            let list: Vec<_> = bits.iter().map(u32::to_string).collect();
            let word = if bits.len() == 1 { "bit" } else { "bits" };
            format!("{word} {} of {register}", list.join(", "))
        })
        .collect();
    match list.as_slice() {
        [] => "nothing".to_owned(),
        [one] if flip.changed.values().next() == Some(&asked(r)) => format!("exactly {one}"),
        several => several.join("; "),
    }
}

/// Why it did not fire.
pub(super) fn why_not(r: &TaskRecord) -> String {
    let because = r
        .reason
        .as_ref()
        .map_or(String::new(), |why| format!(": {why}"));
    match r.state {
        InjectionState::Expired => format!(
            "the injection expired unfired after {} stops{because}",
            r.stops
        ),
        InjectionState::Disarmed => "the injection was disarmed before it fired".to_owned(),
        InjectionState::TargetGone => format!("{} ended before it fired", name_of(&r.task)),
        InjectionState::Refused => format!("nothing was changed{because}"),
        InjectionState::Armed | InjectionState::Fired => "the injection did not end".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_schema_is_the_one_of_the_code() {
        output::check_schema("inject-task", &schemars::schema_for!(TaskView));
    }
}
