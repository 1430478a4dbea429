//! The classifier against recorded runs (`tests/data/records`).

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use xfi_analysis::classify;
use xfi_model::{Disposition, FailureMode, HostOutcome, Outcome, RunRecord};

fn records() -> &'static BTreeMap<String, RunRecord> {
    static RECORDS: LazyLock<BTreeMap<String, RunRecord>> = LazyLock::new(read_records);
    &RECORDS
}

fn read_records() -> BTreeMap<String, RunRecord> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/records");
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let record =
                serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            (
                path.file_stem().unwrap().to_str().unwrap().to_owned(),
                record,
            )
        })
        .collect()
}

fn in_words(outcome: &Outcome) -> String {
    let mut out = String::new();
    match &outcome.disposition {
        Disposition::NotFired { reason }
        | Disposition::Invalid { reason }
        | Disposition::HarnessError { reason }
        | Disposition::Unjudged { reason } => {
            let _ = write!(out, "{}: {reason}", outcome.disposition.label());
        }
        _ => out.push_str(outcome.disposition.label()),
    }
    for s in &outcome.services {
        let labels: Vec<_> = s.labels.iter().map(|l| l.label()).collect();
        let subs: Vec<_> = s.sub_labels.iter().map(String::as_str).collect();
        let _ = write!(
            out,
            "\n    {} {}: {} = {{{}}} ({}) thesis {:?}",
            if s.is_target { "target" } else { "bystander" },
            s.guest,
            s.primary,
            labels.join(", "),
            subs.join(", "),
            s.class_thesis
        );
        if let Some(ns) = s.first_failure_after_ns {
            let _ = write!(out, ", first after {} ms", ns / 1_000_000);
        }
    }
    if let (Some(host), Some(b)) = (outcome.host, outcome.blast_radius) {
        let hit: Vec<_> = [
            (b.target, "target"),
            (b.bystanders, "bystanders"),
            (b.host, "host"),
        ]
        .into_iter()
        .filter_map(|(hit, name)| hit.then_some(name))
        .collect();
        let _ = write!(
            out,
            "\n    host {}, failed: {}",
            host.label(),
            hit.join(" ")
        );
    }
    out
}

#[test]
fn recorded_runs() {
    let mut out = String::new();
    for (name, record) in records() {
        let _ = writeln!(out, "{name}: {}", in_words(&classify(record)));
    }
    insta::assert_snapshot!("recorded_runs", out);
}

#[test]
fn every_label_host_state_and_disposition_is_in_the_recorded_runs() {
    let outcomes: Vec<_> = records().values().map(classify).collect();
    for mode in FailureMode::ALL {
        assert!(
            outcomes
                .iter()
                .flat_map(|o| &o.services)
                .any(|s| s.primary == *mode),
            "no record is {mode}"
        );
    }
    for host in [
        HostOutcome::Responsive,
        HostOutcome::Unresponsive,
        HostOutcome::Crashed,
    ] {
        assert!(
            outcomes.iter().any(|o| o.host == Some(host)),
            "no record has {host:?}"
        );
    }
    for label in [
        "golden",
        "dummy",
        "fired",
        "not_fired",
        "invalid",
        "harness_error",
        "unjudged",
    ] {
        assert!(
            outcomes.iter().any(|o| o.disposition.label() == label),
            "no record is {label}"
        );
    }
}

#[test]
fn the_same_after_a_round_trip_through_json() {
    for (name, record) in records() {
        let outcome = classify(record);
        let again: RunRecord =
            serde_json::from_str(&serde_json::to_string(record).unwrap()).unwrap();
        assert_eq!(again, *record, "{name}");
        assert_eq!(classify(&again), outcome, "{name}");
        let text = serde_json::to_string(&outcome).unwrap();
        assert_eq!(
            serde_json::from_str::<Outcome>(&text).unwrap(),
            outcome,
            "{name}"
        );
    }
}

/// A flip that the harness saw fire can only become judged, invalid or
/// unjudged: no failure of the harness moves it out of the denominator.
#[test]
fn a_harness_error_never_hides_a_flip() {
    for (name, record) in records() {
        let mut record = record.clone();
        let before = classify(&record);
        if before.disposition != Disposition::Fired || record.injection.is_none() {
            continue;
        }
        record.harness_error = Some("lost".to_owned());
        let after = classify(&record).disposition;
        assert_eq!(
            after,
            Disposition::Unjudged {
                reason: "lost".to_owned()
            },
            "{name}"
        );
    }
}

/// What a validator may not look at: nothing after the flip can make a run
/// invalid.
#[test]
fn effects_never_make_a_run_invalid() {
    let records = records();
    let clean = &records["no_effect"];
    for (name, other) in records {
        let mut mixed = clean.clone();
        mixed.observations = other.observations.clone();
        for (s, before) in mixed
            .observations
            .services
            .iter_mut()
            .zip(&clean.observations.services)
        {
            s.before_flip = before.before_flip.clone();
        }
        let label = classify(&mixed).disposition.label();
        assert_ne!(label, "invalid", "{name}");
    }
}

proptest! {
    #[test]
    fn order_does_not_matter(pick in any::<prop::sample::Index>(), turn in 0..7_usize, flip: bool) {
        let records = records();
        let (_, record) = records.iter().nth(pick.index(records.len())).unwrap();
        let mut mixed = record.clone();
        mixed.invalid.push("another".to_owned());
        let mut ordered = mixed.clone();
        ordered.invalid.reverse();
        prop_assert_eq!(classify(&ordered), classify(&mixed));

        let mut shuffled = record.clone();
        for s in &mut shuffled.observations.services {
            let n = s.not_right.len().max(1);
            s.not_right.rotate_left(turn % n);
        }
        let n = shuffled.observations.services.len().max(1);
        shuffled.observations.services.rotate_left(turn % n);
        if flip {
            shuffled.observations.services.reverse();
            shuffled.observations.host.domains.reverse();
        }
        prop_assert_eq!(classify(&shuffled), classify(record));
    }

    /// Total: no combination of parts panics, and what is judged is complete.
    #[test]
    fn total(a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>(),
             c in any::<prop::sample::Index>(), doubt: bool, error: bool, no_moment: bool) {
        let records = records();
        let of = |i: &prop::sample::Index| records.values().nth(i.index(records.len())).unwrap();
        let mut mixed = of(&a).clone();
        mixed.injection = of(&b).injection.clone();
        mixed.observations = of(&c).observations.clone();
        mixed.may_have_fired = doubt;
        mixed.harness_error = error.then(|| "error".to_owned());
        if no_moment {
            mixed.observations.flip_ns = None;
        }
        let outcome = classify(&mixed);
        let judged = matches!(outcome.disposition,
            Disposition::Golden | Disposition::Dummy | Disposition::Fired);
        prop_assert_eq!(judged, outcome.host.is_some());
        prop_assert_eq!(judged, outcome.blast_radius.is_some());
        prop_assert_eq!(judged, !outcome.services.is_empty());
        for s in &outcome.services {
            prop_assert!(s.labels.contains(&s.primary));
            prop_assert!(s.labels.len() == 1 || !s.labels.contains(&FailureMode::NoEffect));
            prop_assert!(!(s.labels.contains(&FailureMode::Hang)
                && s.labels.contains(&FailureMode::ClientTimeout)));
        }
    }
}

#[test]
fn a_flip_inside_a_hypercall_counts_only_where_and_for_whom_it_was_asked() {
    use xfi_model::{Hex64, Location, Register};
    let record = &records()["no_effect"];
    let flip = record.injection.as_ref().unwrap().flip.as_ref().unwrap();
    let rip = flip.before[&Register::Rip];
    let disposition = |address: Hex64, domain: Option<&str>, register| {
        let mut record = record.clone();
        record.planned.fault.as_mut().unwrap().location = Location::HypercallRegister {
            hypercall: "iret".into(),
            number: 23,
            address,
            symbol: "do_iret+0x1c".into(),
            domain: domain.map(str::to_owned),
            register,
        };
        classify(&record).disposition
    };
    assert_eq!(disposition(rip, None, Register::Rbx), Disposition::Fired);
    assert_eq!(
        disposition(rip, Some("web1"), Register::Rbx),
        Disposition::Fired
    );
    for (address, domain, register, why) in [
        (
            Hex64(rip.0 + 1),
            None,
            Register::Rbx,
            "the injection was at 0x",
        ),
        (rip, Some("web2"), Register::Rbx, "in one by web2"),
        (rip, None, Register::Rcx, "the plan asks for rcx"),
    ] {
        let Disposition::Invalid { reason } = disposition(address, domain, register) else {
            panic!("judged: {why}");
        };
        assert!(reason.contains(why), "{reason}");
    }
}
