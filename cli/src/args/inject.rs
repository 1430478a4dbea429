//! Arguments of `xfi inject` and `xfi locations`.

use super::OutputArgs;
use crate::inject_task::TaskArgs;
use crate::memory::MemoryArgs;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Flip bits of a register: of a guest's vCPU as Xen switches it in, of Xen
/// itself at an instruction of a hypercall's handler, or of a Linux task; or of a
/// word of memory, at once or --after a time.
///
/// In dom0 of a Xen host this acts on that host; elsewhere on the testbed that
/// is up.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  a vCPU's register, now, or after half a second of the guest's life
    xfi inject --reg rbx --bit 21
    xfi inject --domain web2 --vcpu 1 --reg rip --bit 3 --after 500ms
  only where the guest executes: its kernel's scheduler, a part of it, its user mode
    xfi inject --reg r12 --bit 40 --rip web1:schedule
    xfi inject --reg r12 --bit 40 --rip web1:schedule+0x10..+0x40 --nth 3
    xfi inject --reg rsp --bit 5 --rip user --trigger switch
  several bits at once; a bit stuck at one
    xfi inject --reg rax --mask 0x3
    xfi inject --reg rax --bit 7 --op set
  inside Xen: rbx at instruction 5 of what handles iret, in web1's third call
    xfi locations iret
    xfi inject --hypercall iret --at 5 --reg rbx --bit 21 --domain web1 --nth 3
  in a Linux task: of a guest, or of dom0
    xfi inject --domain web1 --role apache --reg xmm3 --bit 100
    xfi inject --domain Domain-0 --kthread xenwatch --reg r12 --bit 40 --after 2s
  a word of memory: of Xen's, of a guest's, of dom0's
    xfi inject --xen-memory do_iret+0x10 --bit 21
    xfi inject --guest-memory web1:0x1000000 --bit 3 --after 2s
    xfi inject --guest-memory Domain-0:0x1000000 --size 1 --mask 0x3 --op set
  for scripts
    xfi inject --reg rax --bit 0 --output json | jq .changed")]
pub(crate) struct Inject {
    /// The register: rax rbx rcx rdx rsi rdi rbp rsp r8-r15 rip rflags cs ss ds es fs gs;
    /// with --hypercall up to rip.
    #[arg(long, value_name = "REG", conflicts_with = "memory",
          required_unless_present_any = ["kill", "xen_memory", "guest_memory"])]
    pub(crate) reg: Option<String>,
    /// The bit, from 0.
    #[arg(long, value_name = "BIT", conflicts_with = "mask")]
    pub(crate) bit: Option<String>,
    /// Several bits at once, such as 0x3 for bits 0 and 1, instead of --bit.
    #[arg(long, value_name = "MASK", required_unless_present_any = ["bit", "kill"])]
    pub(crate) mask: Option<String>,
    /// What is done to the bits.
    #[arg(long, value_enum, default_value = "flip", value_name = "OP")]
    pub(crate) op: Op,
    /// The guest; by default the testbed's default target, else the only one. With
    /// --hypercall the caller, and by default any.
    #[arg(long, value_name = "NAME", conflicts_with = "memory")]
    pub(crate) domain: Option<String>,
    /// The vCPU, from 0.
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "memory")]
    pub(crate) vcpu: u32,
    /// When: `kick` stops the vCPU for it, `switch` waits for a context switch [default: kick].
    #[arg(long, value_enum, value_name = "TRIGGER", conflicts_with = "memory")]
    pub(crate) trigger: Option<Trigger>,
    /// Not before this long after arming: 500ms, 10s; a day at most.
    #[arg(long, default_value = "0s", value_name = "DURATION")]
    pub(crate) after: String,
    /// Only while RIP lies here: START..END (half-open), user, kernel, xen (a Xen inside the
    /// guest), a symbol of the guest's kernel (web1:schedule) or of the Xen inside it
    /// (do_iret), or a part of one (web1:schedule+0x10..+0x40).
    #[arg(long, value_name = "WHERE", conflicts_with = "memory")]
    pub(crate) rip: Option<String>,
    /// Only in this mode.
    #[arg(long, value_enum, value_name = "MODE", conflicts_with = "memory")]
    pub(crate) mode: Option<Mode>,
    /// On the nth matching event, from 1.
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "memory")]
    pub(crate) nth: u32,
    /// Give up this long after arming [default: 10s more than --after].
    #[arg(long, value_name = "DURATION", conflicts_with = "memory")]
    pub(crate) expire: Option<String>,
    /// Flip a register of Xen inside this hypercall: iret, stack_switch, multicall, ...
    #[arg(long, value_name = "HYPERCALL", requires = "at",
          conflicts_with_all = ["vcpu", "trigger", "rip", "mode", "memory"])]
    pub(crate) hypercall: Option<String>,
    /// At this instruction of its handler: a number of `xfi locations`, +OFFSET, an address or
    /// SYMBOL+OFFSET.
    #[arg(long, value_name = "LOCATION", requires = "hypercall")]
    pub(crate) at: Option<String>,
    #[command(flatten)]
    pub(crate) task: TaskArgs,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    #[command(flatten)]
    pub(crate) symbols: SymbolArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Symbols that are not the testbed's own.
#[derive(Debug, Args)]
pub(crate) struct SymbolArgs {
    /// Xen with its symbols (xen-syms), where it is not the one built here.
    #[arg(long, value_name = "FILE")]
    pub(crate) xen_symbols: Option<PathBuf>,
    /// The guest kernel's symbols (its System.map, or vmlinux), where it is not the image's.
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel_symbols: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Op {
    /// Invert them: a transient bit flip.
    Flip,
    /// Set them: stuck at one.
    Set,
    /// Clear them: stuck at zero.
    Clear,
}

impl From<Op> for xfi_model::BitOp {
    fn from(op: Op) -> Self {
        match op {
            Op::Flip => xfi_model::BitOp::Flip,
            Op::Set => xfi_model::BitOp::Set,
            Op::Clear => xfi_model::BitOp::Clear,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Trigger {
    /// A Xen timer stops the vCPU at the moment.
    Kick,
    /// The next natural context switch.
    Switch,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Mode {
    /// Guest user mode.
    User,
    /// Guest kernel mode.
    Kernel,
    /// A Xen inside the guest.
    Hypervisor,
}

/// List hypercalls, or the numbered instructions of one hypercall's handler.
///
/// These are the places where `xfi inject --hypercall` puts a fault. No Xen need
/// be running.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xfi locations                      every hypercall of this Xen, with its handler
  xfi locations iret                 the instructions of do_iret
  xfi locations iret --output json | jq '.instructions[] | select(.path == \"straight\") | .number'
  xfi locations iret --xen-symbols /usr/lib/debug/boot/xen-syms-4.20-amd64")]
pub(crate) struct Locations {
    /// The hypercall by name (iret, stack_switch, event_channel_op, multicall, ...) or number.
    #[arg(value_name = "HYPERCALL")]
    pub(crate) hypercall: Option<String>,
    /// Xen with its symbols (xen-syms), where it is not the one built here.
    #[arg(long, value_name = "FILE")]
    pub(crate) xen_symbols: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
