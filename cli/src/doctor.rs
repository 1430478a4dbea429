//! `xfi doctor`: what this machine can do.

use crate::args::Output;
use crate::exit::{Exit, coded};
use crate::{host, output};
use anyhow::Result;
use serde::Serialize;
use xfi_model::Capabilities;
use xfi_testbed::up::Up;
use xfi_testbed::{Artifacts, capacity, find_layout, installed_qemu};

/// What a worker and its snapshots need.
const MEMORY_MIB: u64 = 3000;

/// Features that a livepatch of a few small functions leaves out, and why.
const NOT_BY_LIVEPATCH: [(&str, &str, &str); 3] = [
    (
        "hypercall",
        "registers inside hypercalls",
        "a debug register is set where hypercalls are dispatched, in functions too large to \
         replace; boot the patched Xen",
    ),
    (
        "profile",
        "hypercall counts",
        "they are counted where hypercalls are dispatched, in functions too large to replace; \
         boot the patched Xen",
    ),
    (
        "memory",
        "words of Xen's memory",
        "this payload has not the operation; build it anew: xfi livepatch build",
    ),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    Note,
    Missing,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check {
            name,
            state: State::Ok,
            found: found.into(),
            hint: None,
        }
    }

    fn missing(name: &'static str, found: impl ToString, hint: &str) -> Check {
        let hint = Some(hint.to_owned()).filter(|h| !h.is_empty());
        Check {
            name,
            state: State::Missing,
            found: found.to_string(),
            hint,
        }
    }

    fn note(name: &'static str, found: impl Into<String>) -> Check {
        Check {
            name,
            state: State::Note,
            found: found.into(),
            hint: None,
        }
    }
}

/// Runs the command.
pub(crate) fn run(output: Output) -> Result<()> {
    let checks = if host::in_dom0() {
        xen_host()
    } else {
        emulated()
    };
    let missing = checks.iter().filter(|c| c.state == State::Missing).count();
    match output {
        Output::Json => output::json(&serde_json::json!({ "format": 1, "checks": checks }))?,
        Output::Text => {
            let mut table = output::table(&["CHECK", "", "FOUND"]);
            for c in &checks {
                let mark = match c.state {
                    State::Ok => "ok",
                    State::Note => "-",
                    State::Missing => "MISSING",
                };
                table.add_row([c.name, mark, &c.found]);
                if let Some(hint) = &c.hint {
                    table.add_row(["", "", &format!("-> {hint}")]);
                }
            }
            output::print(&output::text_of(&table));
        }
    }
    if missing > 0 {
        return Err(coded(
            Exit::NoHost,
            format!(
                "{missing} of {} checks found something missing",
                checks.len()
            ),
        ));
    }
    Ok(())
}

/// For a machine that is no Xen host: can the emulated testbed run here?
fn emulated() -> Vec<Check> {
    let mut checks = vec![Check::note(
        "host",
        "not a Xen host; the emulated testbed is used",
    )];
    checks.push(match installed_qemu() {
        Ok(v) => Check::ok("qemu", v),
        Err(e) => Check::missing("qemu", e, ""),
    });
    let available = memory_available_mib();
    checks.push(if available >= MEMORY_MIB {
        Check::ok("memory", format!("{available} MiB available"))
    } else {
        Check::missing(
            "memory",
            format!("{available} MiB available"),
            &format!("one worker with its snapshots needs about {MEMORY_MIB} MiB"),
        )
    });
    checks.push(Check::ok(
        "cores",
        format!("{}: as many workers at once", capacity()),
    ));
    let artifacts = Artifacts::find();
    checks.push(match &artifacts {
        Ok(a) => Check::ok("artefacts", a.root().display().to_string()),
        Err(e) => Check::missing("artefacts", e, ""),
    });
    if let (Ok(a), Ok(layout)) = (&artifacts, find_layout("http")) {
        checks.push(match a.require(&layout) {
            Ok(files) => Check::ok("built", format!("Xen is {}", files.xen.display())),
            Err(e) => Check::missing("built", e, ""),
        });
    }
    match Up::find() {
        Ok(up) => {
            checks.push(Check::ok(
                "testbed",
                format!("'{}' is up", up.info().layout.name),
            ));
            checks.extend(testbed_xen());
        }
        Err(_) => checks.push(Check::note("testbed", "none is up (xfi testbed up)")),
    }
    checks
}

/// The delivery that the testbed's Xen has.
fn testbed_xen() -> Vec<Check> {
    match host::Host::find().and_then(|mut h| h.hello()) {
        Err(e) => vec![Check::note("hypercall", format!("the testbed: {e:#}"))],
        Ok(h) => {
            let xen = h.xen_version.unwrap_or_else(|| "unknown".into());
            match &h.capabilities {
                Some(c) => delivery(&xen, c),
                None => vec![Check::note(
                    "hypercall",
                    format!("Xen {xen} has none (xfi livepatch load)"),
                )],
            }
        }
    }
}

/// How the injector came into this Xen, what it can do, and what it cannot.
fn delivery(xen: &str, c: &Capabilities) -> Vec<Check> {
    let mut checks = vec![Check::ok(
        "hypercall",
        format!(
            "Xen {xen}, {} delivery, {}",
            c.delivery,
            c.features.join(" ")
        ),
    )];
    if c.delivery == "livepatch" {
        let absent = NOT_BY_LIVEPATCH
            .iter()
            .filter(|(feature, ..)| !c.features.iter().any(|f| f == feature));
        checks
            .extend(absent.map(|(_, what, why)| Check::note("not here", format!("{what}: {why}"))));
    }
    checks
}

/// For dom0: which delivery of the injector does this Xen have?
fn xen_host() -> Vec<Check> {
    let mut checks = vec![Check::ok(
        "host",
        "a Xen control domain; commands act on this host",
    )];
    let hello = host::Host::find().and_then(|mut h| h.hello());
    match hello {
        Err(e) => checks.push(Check::missing(
            "agent",
            format!("{e:#}"),
            "install xfi-agent beside xfi",
        )),
        Ok(h) => {
            checks.push(Check::ok("agent", format!("version {}", h.version)));
            let xen = h.xen_version.unwrap_or_else(|| "unknown".into());
            match &h.capabilities {
                Some(c) => checks.extend(delivery(&xen, c)),
                None => checks.push(Check::missing(
                    "hypercall",
                    format!("Xen {xen} has none"),
                    "boot the patched Xen (docs/real-host.md), or patch this one as it runs: xfi \
                     livepatch build, xfi livepatch load",
                )),
            }
            checks.push(if h.opted_in {
                Check::ok("opt-in", "this host allows injection")
            } else {
                Check::missing(
                    "opt-in",
                    "this host does not allow injection",
                    "if it may be broken on purpose: touch /etc/xfi/allow-injection",
                )
            });
        }
    }
    checks
}

fn memory_available_mib() -> u64 {
    std::fs::read_to_string("/proc/meminfo")
        .unwrap_or_default()
        .lines()
        .find_map(|l| {
            l.strip_prefix("MemAvailable:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .map_or(0, |kib: u64| kib / 1024)
}
