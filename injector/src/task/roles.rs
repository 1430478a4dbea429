//! Roles: the components that the thesis puts faults in (§4.3, §4.4), and how
//! they are known among a system's tasks.

use super::procfs::Task;

/// What a role's tasks have in common.
#[derive(Debug, Clone, Copy)]
enum Sign {
    /// A user process of one of these names.
    Process(&'static [&'static str]),
    /// A user process whose program has this in its name.
    Program(&'static str),
    /// A PostgreSQL process whose title begins so.
    Postgres(&'static str),
    /// A PostgreSQL process without a title of its own.
    Postmaster,
    /// A PostgreSQL process that serves a client.
    Backend,
    /// A kernel thread whose name begins so.
    Kernel(&'static str),
    /// Kernel threads and the system's own daemons.
    System,
    /// What today's software no longer has: why.
    Gone(&'static str),
}

const ROLES: &[(&str, Sign)] = &[
    ("apache", Sign::Process(&["apache2", "httpd"])),
    ("postgres:postmaster", Sign::Postmaster),
    ("postgres:checkpointer", Sign::Postgres("checkpointer")),
    ("postgres:writer", Sign::Postgres("background writer")),
    ("postgres:walwriter", Sign::Postgres("walwriter")),
    ("postgres:autovacuum", Sign::Postgres("autovacuum launcher")),
    ("postgres:backend", Sign::Backend),
    (
        "postgres:stats-collector",
        Sign::Gone("PostgreSQL has no stats collector process since version 15"),
    ),
    ("os", Sign::System),
    ("oxenstored", Sign::Process(&["oxenstored"])),
    ("xenstored", Sign::Process(&["xenstored"])),
    ("xenconsoled", Sign::Process(&["xenconsoled"])),
    ("xenwatchdogd", Sign::Process(&["xenwatchdogd"])),
    ("qemu", Sign::Program("qemu-system-")),
    ("xenbus", Sign::Kernel("xenbus")),
    ("xenwatch", Sign::Kernel("xenwatch")),
    (
        "xenbus-frontend",
        Sign::Gone(
            "Linux 6.12 has no thread of its own for it; events of the store reach front-ends by xenwatch",
        ),
    ),
];

/// Daemons of the system itself; what serves the workload is not among them.
const DAEMONS: [&str; 14] = [
    "systemd-journal",
    "systemd-udevd",
    "systemd-logind",
    "systemd-network",
    "systemd-resolve",
    "systemd-timesyn",
    "dbus-daemon",
    "rsyslogd",
    "cron",
    "sshd",
    "agetty",
    "udevd",
    "init",
    "systemd",
];

/// A role that is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Role {
    pub(super) name: &'static str,
    sign: Sign,
}

/// All names, for messages.
pub(super) fn names() -> String {
    let names: Vec<_> = ROLES.iter().map(|(name, _)| *name).collect();
    names.join(" ")
}

/// The role of this name.
pub(super) fn find(name: &str) -> Option<Role> {
    ROLES
        .iter()
        .find(|(n, _)| *n == name)
        .map(|(name, sign)| Role { name, sign: *sign })
}

impl Role {
    /// Why today's systems do not have it.
    pub(super) fn gone(&self) -> Option<&'static str> {
        match self.sign {
            Sign::Gone(why) => Some(why),
            _ => None,
        }
    }

    /// Whether a task has this role.
    pub(super) fn fits(&self, task: &Task) -> bool {
        let postgres = || {
            let rest = task.title.strip_prefix("postgres: ")?;
            // A cluster's name may stand first: "postgres: 17/main: walwriter".
            Some(rest.split_once(": ").map_or(rest, |(_, r)| r))
        };
        match self.sign {
            Sign::Process(names) => !task.kthread && names.contains(&task.comm.as_str()),
            Sign::Program(part) => task.program().is_some_and(|p| p.contains(part)),
            Sign::Postgres(title) => postgres().is_some_and(|t| t.trim_end().starts_with(title)),
            Sign::Postmaster => {
                task.program() == Some("postgres") && !task.title.starts_with("postgres: ")
            }
            // "postgres: USER DATABASE HOST(PORT) STATE"; the others have no
            // third word with a host in it.
            Sign::Backend => postgres().is_some_and(|t| {
                t.split_whitespace()
                    .nth(2)
                    .is_some_and(|host| host.contains('(') || host == "[local]")
            }),
            Sign::Kernel(prefix) => task.kthread && task.comm.starts_with(prefix),
            Sign::System => task.kthread || DAEMONS.contains(&task.comm.as_str()),
            Sign::Gone(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(comm: &str, title: &str, exe: Option<&str>, kthread: bool) -> Task {
        Task {
            pid: 100,
            tid: 100,
            comm: comm.to_owned(),
            title: title.to_owned(),
            exe: exe.map(str::to_owned),
            kthread,
            start_ticks: 1,
        }
    }

    #[test]
    fn postgres_processes_are_told_apart_by_title() {
        let exe = Some("/usr/lib/postgresql/17/bin/postgres");
        let all = [
            (
                "postgres:postmaster",
                "/usr/lib/postgresql/17/bin/postgres -D /x",
            ),
            ("postgres:checkpointer", "postgres: 17/main: checkpointer "),
            ("postgres:writer", "postgres: background writer "),
            ("postgres:walwriter", "postgres: 17/main: walwriter"),
            ("postgres:autovacuum", "postgres: autovacuum launcher"),
            (
                "postgres:backend",
                "postgres: tpcc tpcc 10.0.2.2(41892) idle",
            ),
            ("postgres:backend", "postgres: tpcc tpcc [local] SELECT"),
        ];
        for (role, title) in all {
            let fits: Vec<_> = ROLES
                .iter()
                .filter(|(n, _)| find(n).unwrap().fits(&task("postgres", title, exe, false)))
                .map(|(n, _)| *n)
                .collect();
            assert_eq!(fits, [role], "{title}");
        }
    }

    #[test]
    fn a_process_called_like_a_kernel_thread_is_none() {
        let role = find("xenwatch").unwrap();
        assert!(role.fits(&task("xenwatch", "", None, true)));
        assert!(!role.fits(&task(
            "xenwatch",
            "./xenwatch",
            Some("/tmp/xenwatch"),
            false
        )));
        let role = find("qemu").unwrap();
        for exe in [
            "/usr/lib/xen/bin/qemu-system-i386",
            "/usr/libexec/xen-qemu-system-i386",
        ] {
            assert!(role.fits(&task("qemu-system-i38", "", Some(exe), false)));
        }
        assert!(find("qemu ").is_none());
        for gone in ["postgres:stats-collector", "xenbus-frontend"] {
            assert!(find(gone).unwrap().gone().is_some());
        }
    }
}
