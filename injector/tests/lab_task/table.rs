//! Every register of a process and of a kernel thread, in dom0, a PV and a PVH
//! guest: flipped, read back, and seen by the process itself.

use super::*;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// dom0 and the guests: the name, and what it is called in the table.
const PLACES: [(&str, &str); 3] = [
    (DOM0_NAME, "dom0"),
    ("task-pv", "PV guest"),
    ("task-pvh", "PVH guest"),
];

/// Of this register every bit is flipped.
const WHOLE: &str = "r9";

/// What is expected of a register of a process.
enum Cell {
    /// The known-answer process guards it while it is in that range.
    Known(Vec<u32>, Range),
    /// Another process ends of it: this one could say nothing any more.
    Ends(u32),
    /// It cannot be: the reason, and a word of the refusal.
    Impossible(u32, &'static str, &'static str),
}

#[derive(Clone, Copy)]
enum Range {
    Hold,
    Flags,
}

fn cell(register: TaskRegister) -> Option<Cell> {
    use TaskRegister as R;
    let n = |n: u8| u32::from(n);
    Some(match register {
        r if r.to_string() == WHOLE => Cell::Known((0..64).collect(), Range::Hold),
        // Every bit of some register, low and high ones of each.
        R::General(g) => Cell::Known(vec![2 * n(g), 63 - 2 * n(g)], Range::Hold),
        R::Rip => Cell::Known(vec![7], Range::Hold),
        R::Rflags => Cell::Known(vec![0, 2, 4, 6, 7, 10, 11], Range::Flags),
        R::FsBase | R::GsBase => Cell::Known(vec![12], Range::Hold),
        R::St(s) => Cell::Known(vec![9 * n(s), 79 - n(s)], Range::Hold),
        R::Fcw => Cell::Known(vec![10], Range::Hold),
        R::Fsw => Cell::Known(vec![14], Range::Hold),
        R::Mxcsr => Cell::Known(vec![15], Range::Hold),
        R::Xmm(3) => Cell::Known(vec![24, 100], Range::Hold),
        R::Xmm(x) => Cell::Known(vec![8 * n(x)], Range::Hold),
        R::Segment(_) => match register.to_string().as_str() {
            "cs" | "ss" => Cell::Ends(6),
            "ds" | "es" => Cell::Known(vec![3], Range::Hold),
            _ => Cell::Impossible(
                3,
                "a process has 0 there, and Linux takes no other selector that is one bit away",
                "does not take 0x8",
            ),
        },
        R::Ymm(_) => Cell::Impossible(
            200,
            "the emulated testbed has no XSAVE (natively: task_ptrace)",
            "no XSAVE",
        ),
        // The kernel side's.
        R::Ret => return None,
    })
}

/// A process that may end, and is started anew by its parent.
fn disposable(domain: &str) -> TaskSelector {
    let (name, pick) = match domain {
        DOM0_NAME => ("busybox", 0),
        _ => ("apache2", 1),
    };
    TaskSelector::Process {
        task: name.into(),
        pick,
    }
}

/// What one place is known to have said, and where it guards what.
struct Place {
    domain: &'static str,
    hold: RipRange,
    flags: RipRange,
    seen: usize,
}

/// One line a register and place.
#[derive(Default)]
struct Row {
    bits: Vec<u32>,
    wrong: usize,
    ended: bool,
    impossible: Option<&'static str>,
}

#[derive(Default)]
struct Rows {
    /// By place and kind of task, in the table's order.
    rows: BTreeMap<(usize, &'static str, usize), (String, Row)>,
    failures: Vec<String>,
}

impl Rows {
    fn row(&mut self, place: usize, task: &'static str, register: TaskRegister) -> &mut Row {
        let order = TaskRegister::all().position(|r| r == register);
        let row = self.rows.entry((place, task, order.unwrap_or(usize::MAX)));
        &mut row
            .or_insert_with(|| (register.to_string(), Row::default()))
            .1
    }

    fn put(
        &mut self,
        place: usize,
        task: &'static str,
        register: TaskRegister,
        bit: u32,
        wrong: Option<String>,
    ) {
        let row = self.row(place, task, register);
        if !row.bits.contains(&bit) {
            row.bits.push(bit);
        }
        if let Some(why) = wrong {
            row.wrong += 1;
            let name = PLACES[place].1;
            let line = format!("{name}, {task}, {register} bit {bit}: {why}");
            self.failures.push(line);
        }
    }

    fn table(&self) -> String {
        let mut table = String::from(
            "place      task           register  bits          flipped exactly once  others untouched\n",
        );
        for ((place, task, _), (register, row)) in &self.rows {
            let place = PLACES[*place].1;
            let bits = match row.bits.as_slice() {
                [first, .., last] if row.bits.len() > 8 => format!("{first}..{last}"),
                bits => {
                    let bits: Vec<_> = bits.iter().map(u32::to_string).collect();
                    bits.join(",")
                }
            };
            let word = match (row.wrong, row.impossible) {
                (0, Some(why)) => format!("impossible: {why}"),
                (0, None) if row.ended => format!("{:<21} yes; it ended of it", "yes"),
                (0, None) => format!("{:<21} yes", "yes"),
                _ => format!("{:<21} NO", "NO"),
            };
            let _ = writeln!(
                table,
                "{place:<10} {task:<14} {register:<9} {bits:<13} {word}"
            );
        }
        table
    }
}

/// The one thing that changed, by the record.
fn only_change(record: &TaskRecord, register: TaskRegister, bit: u32) -> Option<String> {
    let Some(flip) = &record.flip else {
        return Some(format!("it ended {:?}: {:?}", record.state, record.reason));
    };
    let changed: Vec<_> = flip.changed.iter().collect();
    (changed != [(&register, &vec![bit])]).then(|| format!("the record: changed {changed:?}"))
}

fn known(
    agent: &mut AgentLink,
    places: &mut [Place],
    rows: &mut Rows,
    register: TaskRegister,
    bit: u32,
    range: Range,
) {
    let mut fired = Vec::new();
    for place in places.iter() {
        let mut f = fault(
            place.domain,
            process("task-kat"),
            &register.to_string(),
            bit,
        );
        f.trigger.rip = Some(match range {
            Range::Hold => place.hold,
            Range::Flags => place.flags,
        });
        fired.push(try_inject(agent, &f, false));
    }
    for (i, (place, record)) in places.iter_mut().zip(fired).enumerate() {
        let wrong = match record {
            Err(e) => Some(e),
            Ok(record) => only_change(&record, register, bit).or_else(|| {
                let seen = wait_for_reports(agent, place.domain, place.seen + 1);
                let new = seen.get(place.seen..).unwrap_or_default().to_vec();
                place.seen = seen.len();
                let start = format!("{register} word={} ", bit / 64);
                let diff = format!("diff={:#018x}", 1u64 << (bit % 64));
                let right = matches!(
                    new.as_slice(),
                    [one] if one.starts_with(&start) && one.ends_with(&diff)
                );
                (!right).then(|| format!("the process said {new:?}"))
            }),
        };
        rows.put(i, "process", register, bit, wrong);
    }
}

fn ends(agent: &mut AgentLink, domain: &str, register: TaskRegister, bit: u32) -> Option<String> {
    let name = register.to_string();
    let record = match try_inject(agent, &fault(domain, disposable(domain), &name, bit), false) {
        Ok(record) => record,
        Err(e) => return Some(e),
    };
    if let Some(why) = only_change(&record, register, bit) {
        return Some(why);
    }
    let pid = record.task.tid.to_string();
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        // A zombie counts as gone.
        if try_inject(agent, &fault(domain, process(&pid), "rbx", 1), true)
            .map_or(true, |r| r.state == InjectionState::TargetGone)
        {
            return None;
        }
    }
    Some(format!("process {pid} lives on"))
}

fn kernel_side(
    agent: &mut AgentLink,
    domain: &str,
    register: TaskRegister,
    bit: u32,
) -> Option<String> {
    let f = fault(domain, kthread("kthreadd"), &register.to_string(), bit);
    let mut both = Vec::new();
    for _ in 0..2 {
        match try_inject(agent, &f, false) {
            Ok(TaskRecord {
                flip: Some(flip), ..
            }) => both.push(flip),
            Ok(record) => return Some(format!("it ended {:?}: {:?}", record.state, record.reason)),
            Err(e) => return Some(e),
        }
    }
    let [there, back] = both.as_slice() else {
        return Some("no flips".to_owned());
    };
    let symbol = there.kernel_symbol.as_deref().unwrap_or_default();
    if !symbol.contains("__schedule") || there.before.len() != 8 {
        return Some(format!("it is in {symbol}: {:?}", there.before));
    }
    // With another stack pointer another frame is read: only the way back tells.
    let moved = register.to_string() == "rsp";
    let changed: Vec<_> = there.changed.iter().collect();
    if !moved && changed != [(&register, &vec![bit])] {
        return Some(format!("the record: changed {changed:?}"));
    }
    if there.changed.get(&register) != Some(&vec![bit]) {
        return Some(format!("the record: {register} changed {changed:?}"));
    }
    (back.before != there.after || back.after != there.before)
        .then(|| "it did not stay, or more changed".to_owned())
}

#[test]
fn every_register_of_processes_and_kernel_threads_flips_alone_everywhere() {
    let Some(mut lab) = LAB.get() else { return };
    let agent = lab.agent();
    let mut rows = Rows::default();
    let mut places: Vec<Place> = PLACES
        .iter()
        .map(|(domain, _)| Place {
            domain,
            hold: range(agent, domain, "hold="),
            flags: range(agent, domain, "flags="),
            seen: 0,
        })
        .collect();
    for register in TaskRegister::all() {
        match cell(register) {
            None => {}
            Some(Cell::Known(bits, range)) => {
                for bit in bits {
                    known(agent, &mut places, &mut rows, register, bit, range);
                }
            }
            Some(Cell::Ends(bit)) => {
                for (i, (domain, _)) in PLACES.iter().enumerate() {
                    let wrong = ends(agent, domain, register, bit);
                    rows.put(i, "process", register, bit, wrong);
                    rows.row(i, "process", register).ended = true;
                }
            }
            Some(Cell::Impossible(bit, why, word)) => {
                for (i, (domain, _)) in PLACES.iter().enumerate() {
                    let f = fault(domain, process("task-kat"), &register.to_string(), bit);
                    let wrong = match try_inject(agent, &f, false) {
                        Ok(TaskRecord {
                            state: InjectionState::Refused,
                            reason: Some(reason),
                            flip: None,
                            ..
                        }) if reason.contains(word) => None,
                        other => Some(format!("it was not refused so: {other:?}")),
                    };
                    rows.put(i, "process", register, bit, wrong);
                    rows.row(i, "process", register).impossible = Some(why);
                }
            }
        }
    }
    for register in TaskRegister::KERNEL {
        let bits = match register.to_string().as_str() {
            // Aligned, and inside the stack.
            "rsp" => vec![3],
            _ if long() => (0..64).collect(),
            _ => vec![0, 40, 63],
        };
        for bit in bits {
            for (i, (domain, _)) in PLACES.iter().enumerate() {
                let wrong = kernel_side(agent, domain, register, bit);
                rows.put(i, "kernel thread", register, bit, wrong);
            }
        }
    }
    // Nothing came late, and nothing came twice.
    std::thread::sleep(Duration::from_millis(500));
    for place in &places {
        let more = reports(agent, place.domain).len() - place.seen;
        if more > 0 {
            rows.failures
                .push(format!("{}: {more} reports more than flips", place.domain));
        }
    }
    say(&rows.table());
    assert!(rows.failures.is_empty(), "{}", rows.failures.join("\n"));
}
