//! From a selector to one task, or to the reason why there is none.

use super::procfs::{self, Task};
use super::roles;
use crate::{InjectError, Result};
use xfi_model::{TaskIdentity, TaskName, TaskSelector};

/// A task that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) task: Task,
    role: Option<&'static str>,
    candidates: u32,
    /// It is to be reached by its kernel side.
    pub(super) kernel_side: bool,
}

impl Chosen {
    pub(super) fn identity(&self) -> TaskIdentity {
        TaskIdentity {
            pid: self.task.pid,
            tid: self.task.tid,
            comm: self.task.comm.clone(),
            exe: self.task.exe.clone(),
            role: self.role.map(str::to_owned),
            kthread: self.task.kthread,
            start_ticks: self.task.start_ticks,
            candidates: self.candidates,
        }
    }
}

/// Chooses among the tasks of this system.
pub(super) fn choose(selector: &TaskSelector) -> Result<Chosen> {
    let none = |why: String| InjectError::NoSuchTask(why);
    let by_number = |pid: u32, kernel_side: bool| {
        let task = Task::find(pid).map_err(|_| none(format!("no task has the number {pid}")))?;
        Ok(Chosen {
            kernel_side,
            task,
            role: None,
            candidates: 1,
        })
    };
    let all = || procfs::all().map_err(|e| none(format!("/proc: {e}")));
    match selector {
        TaskSelector::Process {
            task: TaskName::Pid(pid),
            ..
        } => by_number(*pid, false),
        TaskSelector::Kthread {
            task: TaskName::Pid(pid),
            ..
        } => by_number(*pid, true),
        TaskSelector::Process {
            task: TaskName::Name(name),
            pick,
        } => pick_of(all()?, false, name, *pick),
        TaskSelector::Kthread {
            task: TaskName::Name(name),
            pick,
        } => pick_of(all()?, true, name, *pick),
        TaskSelector::Role { role: name, pick } => {
            let role = roles::find(name)
                .ok_or_else(|| none(format!("unknown role '{name}'; valid: {}", roles::names())))?;
            if let Some(why) = role.gone() {
                return Err(none(format!("nothing has the role '{}': {why}", role.name)));
            }
            let own = std::process::id();
            let fitting = all()?
                .into_iter()
                .filter(|t| role.fits(t) && t.pid != own && t.pid != 1)
                .collect();
            let (task, candidates) = nth(fitting, *pick)
                .ok_or_else(|| none(format!("no task with the role '{}' is running", role.name)))?;
            Ok(Chosen {
                kernel_side: task.kthread,
                task,
                role: Some(role.name),
                candidates,
            })
        }
    }
}

fn pick_of(all: Vec<Task>, kthread: bool, name: &str, pick: u32) -> Result<Chosen> {
    let own = std::process::id();
    let (mut fitting, mut others) = (Vec::new(), Vec::new());
    for task in all {
        if task.kthread != kthread || task.pid == own {
            continue;
        }
        if task.comm == name || task.program() == Some(name) {
            fitting.push(task);
        } else {
            others.push(task.comm);
        }
    }
    let (task, candidates) = nth(fitting, pick).ok_or_else(|| {
        others.sort();
        others.dedup();
        let what = if kthread { "kernel thread" } else { "process" };
        InjectError::NoSuchTask(format!(
            "no {what} '{name}' is running; there are: {}",
            others.join(" ")
        ))
    })?;
    Ok(Chosen {
        kernel_side: kthread,
        task,
        role: None,
        candidates,
    })
}

fn nth(mut fitting: Vec<Task>, pick: u32) -> Option<(Task, u32)> {
    let count = u32::try_from(fitting.len()).ok().filter(|n| *n > 0)?;
    Some((fitting.swap_remove((pick % count) as usize), count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks() -> Vec<Task> {
        let task = |tid, comm: &str, kthread| Task {
            pid: tid,
            tid,
            comm: comm.to_owned(),
            title: String::new(),
            exe: None,
            kthread,
            start_ticks: u64::from(tid),
        };
        vec![
            task(5, "worker", false),
            task(6, "worker", true),
            task(7, "worker", false),
            task(8, "other", false),
        ]
    }

    #[test]
    fn a_pick_counts_from_the_oldest_and_wraps_round() {
        for (pick, tid) in [(0, 5), (1, 7), (2, 5), (u32::MAX, 7)] {
            let chosen = pick_of(tasks(), false, "worker", pick).unwrap();
            assert_eq!((chosen.task.tid, chosen.candidates), (tid, 2), "{pick}");
        }
        assert_eq!(pick_of(tasks(), true, "worker", 3).unwrap().task.tid, 6);
    }

    #[test]
    fn an_unknown_name_is_told_with_those_there_are() {
        let e = pick_of(tasks(), false, "wroker", 0)
            .unwrap_err()
            .to_string();
        assert_eq!(e, "no process 'wroker' is running; there are: other worker");
    }
}
