//! `xfi inject` into a Linux task of dom0 or of a guest.

mod view;

use crate::args::{Inject, Mode, Output, Trigger};
use crate::exit::{Exit, coded};
use crate::host::Host;
use crate::{inject, output};
use anyhow::Result;
use clap::Args;
use std::time::{Duration, UNIX_EPOCH};
use view::{TaskView, text, why_not};
use xfi_model::{
    DOM0_NAME, EventBody, Fault, Hex64, InjectionState, Location, ModeFilter, TaskName,
    TaskRegister, TaskSelector, TriggerKind,
};

/// How much longer than `--after` an injection waits when not told.
const EXPIRE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
#[command(next_help_heading = "A Linux task instead of a vCPU (in dom0: --domain Domain-0)")]
pub(crate) struct TaskArgs {
    /// A user process, by ptrace; also st0-st7, xmm0-xmm15, ymm0-ymm15, mxcsr.
    #[arg(
        long,
        value_name = "NAME|PID",
        group = "task",
        conflicts_with = "memory"
    )]
    pub(crate) process: Option<String>,
    /// A kernel thread, by the module: rbx rbp r12-r15 rsp ret as saved.
    #[arg(
        long,
        value_name = "NAME|PID",
        group = "task",
        conflicts_with = "memory"
    )]
    pub(crate) kthread: Option<String>,
    /// What a task is for: apache, postgres:checkpointer, os, xenconsoled, qemu, ...
    #[arg(long, value_name = "ROLE", group = "task", conflicts_with = "memory")]
    pub(crate) role: Option<String>,
    /// Which of several that fit, oldest first; wraps round.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "task")]
    pub(crate) pick: u32,
    /// At this time of the domain's clock: seconds since 1970, or 2026-01-31T12:00:00.5Z.
    #[arg(long, value_name = "TIME", requires = "task", conflicts_with = "after")]
    pub(crate) at_time: Option<String>,
    /// Kill the process instead of flipping a bit.
    #[arg(long, requires = "task", conflicts_with_all = ["reg", "bit", "mask", "rip", "mode"])]
    pub(crate) kill: bool,
}

impl TaskArgs {
    /// The task that was asked for; none for a fault in a vCPU.
    pub(crate) fn selector(&self) -> Option<TaskSelector> {
        let pick = self.pick;
        let name = |text: &String| TaskName::from(text.as_str());
        match self {
            TaskArgs {
                process: Some(p), ..
            } => Some(TaskSelector::Process {
                task: name(p),
                pick,
            }),
            TaskArgs {
                kthread: Some(k), ..
            } => Some(TaskSelector::Kthread {
                task: name(k),
                pick,
            }),
            TaskArgs {
                role: Some(role), ..
            } => Some(TaskSelector::Role {
                role: role.clone(),
                pick,
            }),
            _ => None,
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &Inject, selector: TaskSelector) -> Result<()> {
    let place = place(args)?;
    let (trigger, expire) = trigger(args)?;
    let mut host = Host::find()?;
    let hello = host.hello()?;
    let domain = match args.domain.as_deref() {
        Some("dom0" | DOM0_NAME) => DOM0_NAME.to_owned(),
        named => {
            let default = host.default_target.as_deref();
            inject::choose(named, "--domain", default, &hello.domains)?
                .name
                .clone()
        }
    };
    let (location, mask) = match place {
        None => (
            Location::TaskKill {
                domain,
                task: selector,
            },
            0,
        ),
        Some((register, word, bit)) => (
            Location::Task {
                domain,
                task: selector,
                register,
                word,
            },
            1 << bit,
        ),
    };
    let fault = Fault {
        location,
        mask: Hex64(mask),
        op: args.op.into(),
        trigger,
    };
    let record = inject::follow(&mut host, fault, expire, |body| match body {
        EventBody::TaskInjection { record } => {
            let fired = record.state == InjectionState::Fired;
            Some((record, fired))
        }
        _ => None,
    })?;
    match args.output.output {
        Output::Json => output::json(&TaskView::of(&record))?,
        Output::Text => output::print(&text(&record)),
    }
    if record.state == InjectionState::Fired {
        Ok(())
    } else {
        Err(coded(Exit::NotFired, why_not(&record)))
    }
}

/// Register, word and bit in it; none for a kill.
fn place(args: &Inject) -> Result<Option<(TaskRegister, u32, u32)>> {
    let usage = |m: String| coded(Exit::Usage, m);
    let (Some(reg), Some(bit)) = (&args.reg, &args.bit) else {
        return Ok(None);
    };
    let register: TaskRegister = reg.parse().map_err(|e| usage(format!("--reg: {e}")))?;
    let number: u32 = bit.parse().map_err(|_| {
        usage(format!(
            "--bit: '{bit}' is not a bit number; valid for {register}: 0 to {}",
            register.width() - 1
        ))
    })?;
    let (word, bit) = register
        .place(number)
        .map_err(|e| usage(format!("--bit: {e}")))?;
    Ok(Some((register, word, bit)))
}

fn trigger(args: &Inject) -> Result<(xfi_model::Trigger, Duration)> {
    let usage = |m: String| coded(Exit::Usage, m);
    for (given, option) in [
        (args.hypercall.is_some(), "--hypercall"),
        (args.mask.is_some(), "--mask"),
    ] {
        if given {
            return Err(usage(format!(
                "{option}: not for a task; valid: --reg with --bit, or --kill"
            )));
        }
    }
    if matches!(args.trigger, Some(Trigger::Switch)) {
        return Err(usage(
            "--trigger: 'switch' is for vCPUs; a task is stopped at a moment: kick".into(),
        ));
    }
    let after = inject::duration("--after", &args.after)?;
    let expire = match &args.expire {
        Some(text) => inject::duration("--expire", text)?,
        None => after + EXPIRE,
    };
    let mut kind = TriggerKind::Kick;
    if let Some(text) = &args.task.at_time {
        let at = parse_time(text).ok_or_else(|| {
            usage(format!(
                "--at-time: '{text}' is no time; valid: seconds since 1970 (1767225600.25) or \
                 2026-01-31T12:00:00.5Z"
            ))
        })?;
        kind = TriggerKind::Deadline {
            unix_ns: u64::try_from(at.as_nanos())
                .map_err(|_| usage(format!("--at-time: '{text}' is too far away")))?,
        };
    } else if expire <= after {
        return Err(usage(format!(
            "--expire: '{}' is not later than --after '{}'; the injection could never fire",
            args.expire.as_deref().unwrap_or("10s"),
            args.after
        )));
    }
    let rip = match &args.rip {
        Some(text) => Some(text.parse().map_err(|e| usage(format!("--rip: {e}")))?),
        None => None,
    };
    if args.nth == 0 {
        return Err(usage("--nth: 0 is not an event; valid: 1 and up".into()));
    }
    let trigger = xfi_model::Trigger {
        kind,
        after_ns: u64::try_from(after.as_nanos()).unwrap_or(u64::MAX),
        nth: args.nth,
        expire_ns: Some(u64::try_from(expire.as_nanos()).unwrap_or(u64::MAX)),
        rip,
        mode: args.mode.map(|m| match m {
            Mode::User => ModeFilter::User,
            Mode::Kernel => ModeFilter::Kernel,
            Mode::Hypervisor => ModeFilter::Hypervisor,
        }),
    };
    Ok((trigger, expire))
}

/// Since 1970.
fn parse_time(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<f64>() {
        // Digits as they are: a float has too few for nanoseconds.
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
        if seconds < 0.0 || !digits(whole) || !digits(part) || part.len() > 9 {
            return None;
        }
        let nanos = format!("{part:0<9}").parse().ok()?;
        return Some(Duration::new(whole.parse().ok()?, nanos));
    }
    humantime::parse_rfc3339_weak(text)
        .ok()?
        .duration_since(UNIX_EPOCH)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_nanoseconds() {
        let ns = |t: &str| parse_time(t).map(|d| d.as_nanos());
        assert_eq!(ns("1767225600.000000001"), Some(1_767_225_600_000_000_001));
        assert_eq!(ns("5"), Some(5_000_000_000));
        assert_eq!(ns("1970-01-01T00:00:01.5Z"), Some(1_500_000_000));
        for bad in [
            "",
            "-1",
            "1e9",
            "nan",
            "inf",
            "1.0000000001",
            "x",
            "1970-01-01",
        ] {
            assert_eq!(ns(bad), None, "{bad}");
        }
    }
}
