//! Whether a run can be judged at all, and if not, what it counts as.

use super::host_outcome;
use xfi_model::{
    Disposition, Fault, Hex64, HostOutcome, InjectionRecord, InjectionState, Location, Register,
    RunKind, RunRecord, Verdict,
};

/// Where a run stands before any question of effect.
pub(super) enum Standing {
    /// Its services and host can be judged.
    Judgeable,
    /// It ends here.
    Ends(Disposition),
}

/// Whether the flip (or the dummy's non-flip) happened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Firing {
    /// Xen's record says so.
    Yes,
    /// Armed, and nobody could ask afterwards.
    Perhaps,
    /// Xen's record says that it did not, or nothing was armed.
    No,
}

pub(super) fn standing(record: &RunRecord) -> Standing {
    let golden = record.planned.kind == RunKind::Golden;
    let firing = if golden { Firing::No } else { firing(record) };

    if let Some(reason) = invalid_reason(record) {
        return Standing::Ends(Disposition::Invalid { reason });
    }
    if let Some(error) = &record.harness_error {
        let reason = error.clone();
        return Standing::Ends(match firing {
            Firing::Yes | Firing::Perhaps => Disposition::Unjudged { reason },
            Firing::No => Disposition::HarnessError { reason },
        });
    }
    if !golden {
        match (firing, &record.injection) {
            (Firing::No, Some(injection)) => {
                let reason = not_fired_reason(injection);
                return Standing::Ends(Disposition::NotFired { reason });
            }
            (Firing::No, None) => {
                let reason = "nothing was armed and no error was recorded".to_owned();
                return Standing::Ends(Disposition::HarnessError { reason });
            }
            (Firing::Perhaps, _)
                if host_outcome(&record.observations.host) == HostOutcome::Responsive =>
            {
                let reason = "armed on a host that stayed responsive, yet Xen's record of what \
                              became of it is missing"
                    .to_owned();
                return Standing::Ends(Disposition::Unjudged { reason });
            }
            (Firing::Yes | Firing::Perhaps, _) => {}
        }
    }
    match nothing_to_judge_by(record) {
        None => Standing::Judgeable,
        // A golden run has no flip: it cannot be unjudged, and losing its log
        // is the harness's failure.
        Some(reason) if golden => Standing::Ends(Disposition::HarnessError { reason }),
        Some(reason) => Standing::Ends(Disposition::Unjudged { reason }),
    }
}

fn firing(record: &RunRecord) -> Firing {
    match record.injection.as_ref().map(|i| i.state) {
        Some(InjectionState::Fired) => Firing::Yes,
        // A final state is believed over the harness's doubt.
        Some(
            InjectionState::Expired
            | InjectionState::Disarmed
            | InjectionState::TargetGone
            | InjectionState::Refused,
        ) => Firing::No,
        Some(InjectionState::Armed) | None if record.may_have_fired => Firing::Perhaps,
        Some(InjectionState::Armed) | None => Firing::No,
    }
}

fn invalid_reason(record: &RunRecord) -> Option<String> {
    let mut reasons: Vec<String> = record.invalid.clone();
    if record.observations.flip_ns.is_some() {
        for service in &record.observations.services {
            for (verdict, count) in &service.before_flip {
                if *count > 0 && !matches!(verdict, Verdict::Correct | Verdict::Unfinished) {
                    let what = verdict_words(*verdict);
                    reasons.push(format!("{}: {count} {what} before the flip", service.guest));
                }
            }
        }
    }
    if let (Some(fault), Some(injection)) = (&record.planned.fault, &record.injection)
        && injection.state == InjectionState::Fired
    {
        let dummy = record.planned.kind == RunKind::Dummy;
        reasons.extend(wrong_flip(fault, injection, dummy));
    }
    if reasons.is_empty() {
        return None;
    }
    // Neither the validators' nor the services' order may matter.
    reasons.sort();
    reasons.dedup();
    Some(reasons.join("; "))
}

/// Where Xen's record differs from the fault that was asked for. A record
/// without registers cannot be checked and is no reason here.
fn wrong_flip(fault: &Fault, injection: &InjectionRecord, dummy: bool) -> Option<String> {
    if injection.dummy != dummy {
        let (was, asked) = if dummy {
            ("a flip", "none")
        } else {
            ("no flip", "one")
        };
        return Some(format!(
            "the injection was armed with {was}, the plan asks for {asked}"
        ));
    }
    let register = match &fault.location {
        Location::VcpuRegister {
            domain,
            vcpu,
            register,
        } => {
            if (&injection.domain, injection.vcpu, injection.register) != (domain, *vcpu, *register)
            {
                return Some(format!(
                    "the injection was in {} of {} vCPU {}, the plan asks for {register} of \
                     {domain} vCPU {vcpu}",
                    injection.register, injection.domain, injection.vcpu
                ));
            }
            register
        }
        Location::HypercallRegister {
            domain,
            register,
            address,
            ..
        } => {
            let caller = domain.as_ref().unwrap_or(&injection.domain);
            if (&injection.domain, injection.register) != (caller, *register) {
                return Some(format!(
                    "the injection was in {} in a call by {}, the plan asks for {register} in one \
                     by {caller}",
                    injection.register, injection.domain
                ));
            }
            let rip = injection.flip.as_ref()?.before.get(&Register::Rip)?;
            if rip != address {
                return Some(format!(
                    "the injection was at {rip}, the plan asks for {address}"
                ));
            }
            register
        }
        Location::Task { .. }
        | Location::TaskKill { .. }
        | Location::XenMemory { .. }
        | Location::GuestMemory { .. } => {
            return Some(format!(
                "the injection was in a vCPU, the plan asks for {}",
                fault.location
            ));
        }
    };
    let flip = injection.flip.as_ref()?;
    let before = flip.before.get(register)?.0;
    let asked = if dummy {
        0
    } else {
        fault.op.apply(before, fault.mask.0) ^ before
    };
    let changed = injection.changed_bits();
    let as_asked = match changed.as_slice() {
        [] => asked == 0,
        [(r, bits)] => r == register && *bits == asked,
        _ => false,
    };
    if as_asked {
        return None;
    }
    let seen = match changed.as_slice() {
        [] => "nothing".to_owned(),
        list => {
            let words: Vec<_> = list
                .iter()
                .map(|(r, bits)| format!("{r} by {}", Hex64(*bits)))
                .collect();
            words.join(", ")
        }
    };
    let asked = match asked {
        0 => "nothing".to_owned(),
        bits => format!("{register} by {}", Hex64(bits)),
    };
    Some(format!("the flip changed {seen}; asked for {asked}"))
}

fn not_fired_reason(injection: &InjectionRecord) -> String {
    let events = match injection.events_seen {
        0 => "no event seen".to_owned(),
        1 => "1 event seen".to_owned(),
        n => format!("{n} events seen"),
    };
    let matched = match (injection.events_seen, injection.events_matched) {
        (0, _) => String::new(),
        (_, 0) => ", none matched".to_owned(),
        (_, n) => format!(", {n} matched"),
    };
    let skipped = match injection.events_skipped_io {
        0 => String::new(),
        n => format!(", {n} skipped for pending I/O"),
    };
    let end = match injection.state {
        InjectionState::Expired => "expired",
        InjectionState::Disarmed => "disarmed",
        InjectionState::TargetGone => "target gone",
        InjectionState::Refused => "refused by Xen",
        InjectionState::Armed => "still armed at the end of the run",
        InjectionState::Fired => "fired",
    };
    format!("{end}: {events}{matched}{skipped}")
}

fn nothing_to_judge_by(record: &RunRecord) -> Option<String> {
    let seen = &record.observations;
    if seen.services.is_empty() {
        return Some("no service was observed".to_owned());
    }
    if seen.flip_ns.is_none() {
        return Some("the moment that divides the answers is unknown".to_owned());
    }
    let mut cut_off: Vec<&str> = seen
        .services
        .iter()
        .filter(|s| s.log_cut_off)
        .map(|s| s.guest.as_str())
        .collect();
    if !cut_off.is_empty() {
        cut_off.sort_unstable();
        return Some(format!(
            "the load driver's log was cut off ({})",
            cut_off.join(", ")
        ));
    }
    if host_outcome(&seen.host) == HostOutcome::Crashed {
        return None;
    }
    let mut silent: Vec<&str> = seen
        .services
        .iter()
        .filter(|s| s.probes_sent == 0 && s.after_flip.values().all(|n| *n == 0))
        .map(|s| s.guest.as_str())
        .collect();
    if silent.is_empty() {
        return None;
    }
    silent.sort_unstable();
    Some(format!(
        "no request was made after the flip ({})",
        silent.join(", ")
    ))
}

fn verdict_words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Correct => "right answers",
        Verdict::IncorrectContent => "wrong values",
        Verdict::MissingValue => "answers without a value",
        Verdict::CorruptedOutput => "malformed answers",
        Verdict::ErrorReply => "error replies",
        Verdict::ConnectionReset => "connection resets",
        Verdict::ClientTimeout => "timeouts",
        Verdict::Unfinished => "unfinished requests",
    }
}
