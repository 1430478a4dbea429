//! Faults in a task of a Linux domain: a user process or a kernel thread
//! (thesis §3.2.2.1, §4.1.4).

use crate::{BitOp, GuestMode, Hex64, InjectionState};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// dom0's name, as Xen and libvirt have it.
pub const DOM0_NAME: &str = "Domain-0";

/// A task by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TaskName {
    /// A thread's or process's id, as dom0 or the guest itself counts.
    Pid(u32),
    /// The name in `/proc/PID/comm`, or of the program that runs.
    Name(String),
}

impl From<&str> for TaskName {
    /// A number is a pid, anything else a name.
    fn from(text: &str) -> Self {
        text.parse()
            .map_or_else(|_| TaskName::Name(text.to_owned()), TaskName::Pid)
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskName::Pid(pid) => write!(f, "{pid}"),
            TaskName::Name(name) => f.write_str(name),
        }
    }
}

/// Which task a fault is meant for. Of several that fit, `pick` chooses: they
/// are counted from 0 in the order they were started, all their threads too,
/// and it wraps round, so that any number drawn from a seed will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
pub enum TaskSelector {
    /// A thread of a user process.
    Process {
        /// Its number or name.
        task: TaskName,
        /// Which of several.
        #[serde(default)]
        pick: u32,
    },
    /// A kernel thread; or, by number, any task's kernel side.
    Kthread {
        /// Its number or name.
        task: TaskName,
        /// Which of several.
        #[serde(default)]
        pick: u32,
    },
    /// What the thesis calls a component: `apache`, `postgres:checkpointer`.
    Role {
        /// The role's name.
        role: String,
        /// Which of several.
        #[serde(default)]
        pick: u32,
    },
}

impl TaskSelector {
    /// Which of several tasks that fit.
    pub fn pick(&self) -> u32 {
        match self {
            TaskSelector::Process { pick, .. }
            | TaskSelector::Kthread { pick, .. }
            | TaskSelector::Role { pick, .. } => *pick,
        }
    }
}

impl fmt::Display for TaskSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskSelector::Process { task, .. } => write!(f, "process '{task}'"),
            TaskSelector::Kthread { task, .. } => write!(f, "kernel thread '{task}'"),
            TaskSelector::Role { role, .. } => write!(f, "role '{role}'"),
        }
    }
}

/// A register of a task. Of a user process these are its user registers; of a
/// kernel thread what the kernel saved when it switched away from it (Linux
/// `struct inactive_task_frame`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskRegister {
    /// One of the 16 general registers, 64 bits; the number indexes
    /// [`TaskRegister::GENERAL`].
    General(u8),
    /// The instruction pointer, 64 bits.
    Rip,
    /// The flags, 64 bits.
    Rflags,
    /// cs ss ds es fs gs, 16 bits; the number indexes
    /// [`TaskRegister::SEGMENTS`].
    Segment(u8),
    /// Base of fs, 64 bits.
    FsBase,
    /// Base of gs, 64 bits.
    GsBase,
    /// x87 register, counted from the top of the stack, 80 bits.
    St(u8),
    /// x87 control word, 16 bits.
    Fcw,
    /// x87 status word, 16 bits.
    Fsw,
    /// SSE control and status, 32 bits.
    Mxcsr,
    /// SSE register, 128 bits.
    Xmm(u8),
    /// AVX register, 256 bits.
    Ymm(u8),
    /// The address to which the kernel's context switch returns; kernel side
    /// only, 64 bits.
    Ret,
}

impl TaskRegister {
    /// General registers in the order of `public/xfi.h`.
    pub const GENERAL: [&'static str; 16] = [
        "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ];
    /// Segment registers in the order of `public/xfi.h`.
    pub const SEGMENTS: [&'static str; 6] = ["cs", "ss", "ds", "es", "fs", "gs"];
    /// What a saved switch frame holds, in the order of the kernel module's
    /// interface.
    pub const KERNEL: [TaskRegister; 8] = [
        TaskRegister::General(1),
        TaskRegister::General(6),
        TaskRegister::General(12),
        TaskRegister::General(13),
        TaskRegister::General(14),
        TaskRegister::General(15),
        TaskRegister::General(7),
        TaskRegister::Ret,
    ];

    /// All registers.
    pub fn all() -> impl Iterator<Item = TaskRegister> {
        use TaskRegister::{Fcw, FsBase, Fsw, GsBase, Mxcsr, Ret, Rflags, Rip};
        (0..16)
            .map(TaskRegister::General)
            .chain([Rip, Rflags])
            .chain((0..6).map(TaskRegister::Segment))
            .chain([FsBase, GsBase])
            .chain((0..8).map(TaskRegister::St))
            .chain([Fcw, Fsw, Mxcsr])
            .chain((0..16).map(TaskRegister::Xmm))
            .chain((0..16).map(TaskRegister::Ymm))
            .chain([Ret])
    }

    /// Width in bits: 16, 32, 64, 80, 128 or 256.
    pub const fn width(self) -> u32 {
        match self {
            TaskRegister::Segment(_) | TaskRegister::Fcw | TaskRegister::Fsw => 16,
            TaskRegister::Mxcsr => 32,
            TaskRegister::St(_) => 80,
            TaskRegister::Xmm(_) => 128,
            TaskRegister::Ymm(_) => 256,
            _ => 64,
        }
    }

    /// How many 64-bit words a fault's mask can be meant for.
    pub const fn words(self) -> u32 {
        self.width().div_ceil(64)
    }

    /// The bits of the 64-bit word `word` that exist.
    pub const fn word_bits(self, word: u32) -> u64 {
        match self.width().saturating_sub(word.saturating_mul(64)) {
            left if left >= 64 => u64::MAX,
            left => (1 << left) - 1,
        }
    }

    /// Word and bit in it of the register's bit `bit`.
    ///
    /// # Errors
    /// [`TaskRegisterError`] when the register has no such bit.
    pub fn place(self, bit: u32) -> Result<(u32, u32), TaskRegisterError> {
        if bit < self.width() {
            Ok((bit / 64, bit % 64))
        } else {
            Err(TaskRegisterError::NoSuchBit {
                register: self,
                bit,
            })
        }
    }
}

impl fmt::Display for TaskRegister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            TaskRegister::General(n) => Self::GENERAL.get(usize::from(*n)).unwrap_or(&"?"),
            TaskRegister::Segment(n) => Self::SEGMENTS.get(usize::from(*n)).unwrap_or(&"?"),
            TaskRegister::Rip => "rip",
            TaskRegister::Rflags => "rflags",
            TaskRegister::FsBase => "fs_base",
            TaskRegister::GsBase => "gs_base",
            TaskRegister::Fcw => "fcw",
            TaskRegister::Fsw => "fsw",
            TaskRegister::Mxcsr => "mxcsr",
            TaskRegister::Ret => "ret",
            TaskRegister::St(n) => return f.pad(&format!("st{n}")),
            TaskRegister::Xmm(n) => return f.pad(&format!("xmm{n}")),
            TaskRegister::Ymm(n) => return f.pad(&format!("ymm{n}")),
        };
        f.pad(name)
    }
}

impl FromStr for TaskRegister {
    type Err = TaskRegisterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        TaskRegister::all()
            .find(|r| r.to_string() == lower)
            .ok_or_else(|| TaskRegisterError::Unknown(text.to_owned()))
    }
}

impl Serialize for TaskRegister {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TaskRegister {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// Why a name or a bit is not one of a task's registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskRegisterError {
    /// No register has this name.
    Unknown(String),
    /// The bit lies outside the register.
    NoSuchBit {
        /// The register.
        register: TaskRegister,
        /// The bit.
        bit: u32,
    },
}

impl fmt::Display for TaskRegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskRegisterError::Unknown(name) => write!(
                f,
                "unknown register '{name}' of a task; valid: rax rbx rcx rdx rsi rdi rbp rsp \
                 r8-r15 rip rflags cs ss ds es fs gs fs_base gs_base st0-st7 fcw fsw mxcsr \
                 xmm0-xmm15 ymm0-ymm15; of a kernel thread: rbx rbp r12-r15 rsp ret"
            ),
            TaskRegisterError::NoSuchBit { register, bit } => write!(
                f,
                "bit {bit} is outside {register}, which has {} bits; valid: 0 to {}",
                register.width(),
                register.width() - 1
            ),
        }
    }
}

impl std::error::Error for TaskRegisterError {}

/// Values of a task's registers as `0x…`, with all digits of the width.
pub type TaskRegisterFile = BTreeMap<TaskRegister, String>;

/// A task, as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskIdentity {
    /// The process.
    pub pid: u32,
    /// The thread; the same as `pid` for a process's first.
    pub tid: u32,
    /// `/proc/TID/comm`.
    pub comm: String,
    /// The program's file, of a user process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// The role it was chosen for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// A kernel thread.
    pub kthread: bool,
    /// Clock ticks from boot to its start: with the number, unique.
    pub start_ticks: u64,
    /// How many tasks fitted.
    pub candidates: u32,
}

/// How a task was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskMethod {
    /// Stopped by `PTRACE_INTERRUPT`, its user registers changed.
    Ptrace,
    /// All processors stopped by the kernel module, the saved switch frame
    /// changed.
    Module,
    /// `SIGKILL`.
    Kill,
}

/// A moment by two clocks of the domain the task is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub monotonic_ns: u64,
    /// `CLOCK_REALTIME`, nanoseconds since 1970.
    pub realtime_ns: u64,
}

/// The system call a task was in when it was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSyscall {
    /// Its number.
    pub number: u64,
    /// The call was cut short by the stop and is made again.
    pub restarts: bool,
}

/// What became of a fault in a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// What became of it.
    pub state: InjectionState,
    /// True when everything but the change was done.
    pub dummy: bool,
    /// The domain's name; empty when the domain's own agent does not know it.
    pub domain: String,
    /// The task.
    pub task: TaskIdentity,
    /// How it was, or was to be, reached.
    pub method: TaskMethod,
    /// The register; none when the task is killed.
    pub register: Option<TaskRegister>,
    /// The 64-bit word of the register.
    pub word: u32,
    /// The bits of that word.
    pub mask: Hex64,
    /// How they change.
    pub op: BitOp,
    /// When it was armed.
    pub armed: Moment,
    /// The moment asked for, `CLOCK_MONOTONIC`, nanoseconds.
    pub drawn_monotonic_ns: u64,
    /// How often the task was stopped until the trigger matched.
    pub stops: u64,
    /// Why nothing was changed, when nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What is known only once it fired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flip: Option<TaskFlip>,
}

/// The change itself. A killed task has no registers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFlip {
    /// When it was made.
    pub at: Moment,
    /// How long the task was held for it, nanoseconds.
    pub held_ns: u64,
    /// User, or kernel when it was in a system call or is the kernel's own.
    pub mode: GuestMode,
    /// The call it was in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syscall: Option<TaskSyscall>,
    /// Where it is in the kernel, as `function+0x…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_symbol: Option<String>,
    /// Before.
    pub before: TaskRegisterFile,
    /// After, as read back.
    pub after: TaskRegisterFile,
    /// Bits that differ between the two.
    pub changed: BTreeMap<TaskRegister, Vec<u32>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_has_one_name_and_reads_back() {
        let all: Vec<_> = TaskRegister::all().collect();
        assert_eq!(all.len(), 16 + 2 + 6 + 2 + 8 + 3 + 16 + 16 + 1);
        for r in all {
            assert_eq!(r.to_string().parse::<TaskRegister>(), Ok(r));
            let json = serde_json::to_string(&r).unwrap();
            assert_eq!(serde_json::from_str::<TaskRegister>(&json).unwrap(), r);
        }
        for name in ["", "rax ", "xmm16", "st8", "zmm0", "?"] {
            let e = name.parse::<TaskRegister>().unwrap_err().to_string();
            assert!(
                e.contains(&format!("'{name}'")) && e.contains("ymm0"),
                "{e}"
            );
        }
    }

    #[test]
    fn bits_of_wide_registers_have_a_word() {
        let place = |name: &str, bit| name.parse::<TaskRegister>().unwrap().place(bit);
        assert_eq!(place("xmm3", 100), Ok((1, 36)));
        assert_eq!(place("r9", 63), Ok((0, 63)));
        assert_eq!(place("st0", 79), Ok((1, 15)));
        assert_eq!(place("ymm15", 255), Ok((3, 63)));
        let e = place("st0", 80).unwrap_err().to_string();
        assert!(e.contains("bit 80") && e.contains("0 to 79"), "{e}");
        assert!(place("cs", 16).is_err());
        let st = TaskRegister::St(0);
        assert_eq!((st.word_bits(0), st.word_bits(1)), (u64::MAX, 0xffff));
        assert_eq!(st.word_bits(2), 0);
        assert_eq!(TaskRegister::Mxcsr.word_bits(0), 0xffff_ffff);
    }

    #[test]
    fn selectors_read_numbers_and_names() {
        let s: TaskSelector = serde_json::from_str(r#"{"by":"process","task":12}"#).unwrap();
        assert_eq!(
            s,
            TaskSelector::Process {
                task: TaskName::Pid(12),
                pick: 0
            }
        );
        let s: TaskSelector =
            serde_json::from_str(r#"{"by":"role","role":"apache","pick":3}"#).unwrap();
        assert_eq!(s.pick(), 3);
        assert!(serde_json::from_str::<TaskSelector>(r#"{"by":"role","role":"a","x":1}"#).is_err());
    }
}
