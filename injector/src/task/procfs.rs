//! The tasks there are, from /proc.

use std::fs;
use std::io;
use std::path::Path;

/// A kernel thread, in the flags of `/proc/PID/stat` (Linux `PF_KTHREAD`).
const PF_KTHREAD: u64 = 0x0020_0000;

/// A thread of a process, or a kernel thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) comm: String,
    /// The command line, with blanks between the words.
    pub(super) title: String,
    pub(super) exe: Option<String>,
    pub(super) kthread: bool,
    pub(super) start_ticks: u64,
}

impl Task {
    /// The thread `tid`, of whichever process.
    pub(super) fn find(tid: u32) -> io::Result<Self> {
        // /proc/TID answers for every thread, though only leaders are listed.
        let status = fs::read_to_string(format!("/proc/{tid}/status"))?;
        let pid = status
            .lines()
            .find_map(|l| l.strip_prefix("Tgid:")?.trim().parse().ok())
            .ok_or(io::ErrorKind::InvalidData)?;
        Self::read(pid, tid)
    }

    fn read(pid: u32, tid: u32) -> io::Result<Self> {
        let dir = format!("/proc/{pid}/task/{tid}");
        let stat = Stat::of(&format!("{dir}/stat"))?;
        let title = fs::read(format!("{dir}/cmdline"))?;
        let title = String::from_utf8_lossy(&title).replace('\0', " ");
        let exe = fs::read_link(format!("{dir}/exe")).ok();
        Ok(Task {
            pid,
            tid,
            comm: stat.comm,
            title: title.trim_end().to_owned(),
            exe: exe.map(|p| p.to_string_lossy().into_owned()),
            kthread: stat.flags & PF_KTHREAD != 0,
            start_ticks: stat.start_ticks,
        })
    }

    /// The name of the program's file.
    pub(super) fn program(&self) -> Option<&str> {
        let name = Path::new(self.exe.as_deref()?).file_name()?.to_str()?;
        // A program replaced on disk while it runs.
        Some(name.strip_suffix(" (deleted)").unwrap_or(name))
    }

    /// Whether the same task is still there, and alive.
    pub(super) fn lives(&self) -> bool {
        let stat = Stat::of(&format!("/proc/{}/task/{}/stat", self.pid, self.tid));
        stat.is_ok_and(|s| s.start_ticks == self.start_ticks && !matches!(s.state, 'Z' | 'X'))
    }

    /// Who traces it already; 0 for nobody.
    pub(super) fn tracer(&self) -> u32 {
        fs::read_to_string(format!("/proc/{}/status", self.tid))
            .ok()
            .and_then(|s| {
                let line = s.lines().find_map(|l| l.strip_prefix("TracerPid:"))?;
                line.trim().parse().ok()
            })
            .unwrap_or(0)
    }
}

/// All threads of all processes, and all kernel threads, oldest first.
pub(super) fn all() -> io::Result<Vec<Task>> {
    let numbers = |dir: &str| -> io::Result<Vec<u32>> {
        Ok(fs::read_dir(dir)?
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
            .collect())
    };
    let mut tasks = Vec::new();
    for pid in numbers("/proc")? {
        // What ends while we look is none of ours.
        for tid in numbers(&format!("/proc/{pid}/task")).unwrap_or_default() {
            tasks.extend(Task::read(pid, tid));
        }
    }
    tasks.sort_by_key(|t| (t.start_ticks, t.pid, t.tid));
    Ok(tasks)
}

/// The parts of `/proc/PID/stat` (proc(5)) that are needed.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    comm: String,
    state: char,
    flags: u64,
    start_ticks: u64,
}

impl Stat {
    fn of(path: &str) -> io::Result<Self> {
        let text = fs::read(path)?;
        Self::parse(&String::from_utf8_lossy(&text)).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{path} is not understood"),
            )
        })
    }

    fn parse(text: &str) -> Option<Self> {
        // The name may hold anything, parentheses too.
        let (head, rest) = text.rsplit_once(')')?;
        let (_, comm) = head.split_once('(')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        Some(Stat {
            comm: comm.to_owned(),
            state: fields.first()?.chars().next()?,
            flags: fields.get(6)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_blanks_is_read_whole() {
        let line = "7 (a) R (b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.comm.as_str(), stat.state), ("a) R (b", 'S'));
        assert_eq!((stat.flags, stat.start_ticks), (4_194_560, 4242));
        for bad in [
            "",
            "7",
            "7 (a",
            "7 (a) ",
            "7 (a) S 1 2",
            "7 (a) S x x x x x x x",
        ] {
            assert_eq!(Stat::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn this_process_is_among_all_tasks() {
        let own = std::process::id();
        let task = Task::find(own).unwrap();
        assert!(!task.kthread && task.lives() && task.pid == own);
        assert!(all().unwrap().iter().any(|t| t.tid == own));
        assert!(Task::find(u32::MAX).is_err());
        let reused = Task {
            start_ticks: task.start_ticks + 1,
            ..task
        };
        assert!(!reused.lives());
    }
}
