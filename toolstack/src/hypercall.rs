//! The xfi hypercall.
#![expect(unsafe_code, reason = "calls libxencall and shares memory with Xen")]

use crate::record;
use crate::{Error, Result};
use std::io;
use std::path::Path;
use std::ptr::NonNull;
use xfi_model::{
    BitOp, Capabilities, DomId, GuestKind, InjectionId, InjectionRecord, ModeFilter, Register,
    RipRange, TriggerKind, VcpuId,
};
use xfi_xenctrl_sys::{XENCALL_SONAMES, abi, call};

const PRIVCMD: &str = "/dev/xen/privcmd";

/// What to arm: a fault whose names have been resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArmRequest {
    /// The domain.
    pub domid: DomId,
    /// The vCPU.
    pub vcpu: VcpuId,
    /// The register.
    pub register: Register,
    /// The bits; none only in a dummy.
    pub mask: u64,
    /// What is done to them.
    pub op: BitOp,
    /// Do everything but the flip.
    pub dummy: bool,
    /// How the vCPU comes to be switched in.
    pub trigger: TriggerKind,
    /// The drawn moment, nanoseconds from the call on.
    pub not_before_ns: u64,
    /// Fire on the nth matching event, from 1.
    pub nth: u32,
    /// Give up this long after the call; none waits for ever.
    pub expire_ns: Option<u64>,
    /// Only when RIP lies in this range.
    pub rip: Option<RipRange>,
    /// Only in this mode.
    pub mode: Option<ModeFilter>,
}

/// The bits of each register that can be armed, for one kind of guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterMasks([u64; abi::XFI_NR_REGS as usize]);

impl RegisterMasks {
    /// The bits of `register` that can be armed.
    pub fn bits(&self, register: Register) -> u64 {
        self.0[register as usize]
    }
}

/// What the hypercall tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HypervisorInfo {
    /// For the protocol and the files.
    pub capabilities: Capabilities,
    /// Xen's `NOW()`, nanoseconds.
    pub now_ns: u64,
    /// The time-stamp counter's frequency, kHz.
    pub tsc_khz: u32,
    /// Injections armed at the moment.
    pub armed: u32,
    /// What can be armed in a 64-bit PV guest.
    pub pv: RegisterMasks,
    /// What can be armed in a 32-bit PV guest.
    pub pv32: RegisterMasks,
    /// What can be armed in an HVM or PVH guest.
    pub hvm: RegisterMasks,
    /// What can be armed in Xen itself, inside a hypercall.
    pub xen: RegisterMasks,
}

impl HypervisorInfo {
    /// The bits of `register` that can be armed in a guest of this kind.
    /// A PV guest's width is not known from outside: what either may.
    pub fn bits(&self, kind: GuestKind, register: Register) -> u64 {
        match kind {
            GuestKind::Pv => self.pv.bits(register) | self.pv32.bits(register),
            GuestKind::Hvm | GuestKind::Pvh => self.hvm.bits(register),
        }
    }
}

/// An injection's record and the time at which it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The record; its `domain` is empty: Xen knows no names.
    pub record: InjectionRecord,
    /// Xen's `NOW()` when the injection ended, if it has.
    pub finished_now_ns: Option<u64>,
}

/// An open way to the xfi hypercall of the running Xen.
///
/// Not for use by several threads at once: arguments go through one buffer.
#[derive(Debug)]
pub struct Hypercall {
    lib: LibCall,
    handle: NonNull<call::xencall_handle>,
    /// Memory that Xen can reach at any time.
    buffer: NonNull<Buffer>,
    entry: Entry,
    slots: u32,
}

/// Where a Xen answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// At a number of its own: the patched Xen.
    Own,
    /// At xsm_op's, by a livepatch.
    Livepatch,
}

/// What is shared with Xen; the argument is first.
#[repr(C)]
struct Buffer {
    argument: Argument,
    call: abi::xfi_livepatch_call,
}

struct LibCall(call::XenCall);

impl std::fmt::Debug for LibCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("XenCall")
    }
}

/// Any argument of the hypercall.
#[repr(C)]
union Argument {
    capabilities: abi::xfi_capabilities,
    arm: abi::xfi_arm,
    status: abi::xfi_status,
    disarm: abi::xfi_disarm,
    memory: abi::xfi_memory,
    profile: abi::xfi_profile,
}

/// Structures that go to Xen and back.
///
/// # Safety
/// An implementor is a member of [`Argument`], made of integers only, without
/// implicit padding, so that any bytes are a value of it.
pub(crate) unsafe trait Abi: Copy {}
// SAFETY: structures of public/xfi.h: fixed-width integers, padding is explicit
// (bindgen's layout tests and xenctrl-sys' own check sizes and offsets).
unsafe impl Abi for abi::xfi_capabilities {}
// SAFETY: as above.
unsafe impl Abi for abi::xfi_arm {}
// SAFETY: as above.
unsafe impl Abi for abi::xfi_status {}
// SAFETY: as above.
unsafe impl Abi for abi::xfi_disarm {}
// SAFETY: as above.
unsafe impl Abi for abi::xfi_memory {}
// SAFETY: as above.
unsafe impl Abi for abi::xfi_profile {}

impl Hypercall {
    /// Opens the hypercall interface and checks that this Xen has it.
    ///
    /// # Errors
    /// [`Error::NotAvailable`] without Xen, its library, or our patch;
    /// [`Error::OtherVersion`], [`Error::NotPermitted`].
    pub fn open() -> Result<Self> {
        if !Path::new(PRIVCMD).exists() {
            return Err(Error::NotAvailable(format!(
                "{PRIVCMD} does not exist, so this is not dom0 of a Xen host (or the module \
                 xen-privcmd is not loaded)"
            )));
        }
        let lib = load_xencall()?;
        // SAFETY: a null logger asks for the default one; no flags are set.
        let handle = unsafe { lib.0.xencall_open(std::ptr::null_mut(), 0) };
        let Some(handle) = NonNull::new(handle) else {
            let e = io::Error::last_os_error();
            return Err(Error::NotAvailable(format!("opening {PRIVCMD}: {e}")));
        };
        // SAFETY: `handle` was just opened by the same library.
        let buffer = unsafe {
            lib.0
                .xencall_alloc_buffer(handle.as_ptr(), size_of::<Buffer>())
        };
        let Some(buffer) = NonNull::new(buffer.cast::<Buffer>()) else {
            let source = io::Error::last_os_error();
            // SAFETY: opened above and not used after.
            unsafe { lib.0.xencall_close(handle.as_ptr()) };
            return Err(Error::Hypercall {
                op: "allocating a hypercall buffer",
                source,
            });
        };
        let mut this = Hypercall {
            lib,
            handle,
            buffer,
            entry: Entry::Own,
            slots: 0,
        };
        let info = this.info().or_else(|own| {
            if !matches!(own, Error::NotAvailable(_)) {
                return Err(own);
            }
            this.entry = Entry::Livepatch;
            this.info().map_err(|e| match e {
                Error::NotAvailable(_) => own,
                other => other,
            })
        })?;
        this.slots = info.capabilities.slots;
        Ok(this)
    }

    /// What this Xen's hypercall can do, and Xen's time.
    ///
    /// # Errors
    /// As for [`Hypercall::open`].
    pub fn info(&self) -> Result<HypervisorInfo> {
        let mut caps = abi::xfi_capabilities::default();
        self.call(abi::XFI_OP_capabilities, &mut caps)
            .map_err(|e| {
                match errno(&e) {
            // The patch answers EPERM before it looks at anything; a Xen
            // without it, ENOSYS, whoever calls.
            Some(ENOSYS) => Error::NotAvailable(
                "the running Xen has no xfi hypercall; load it with `xfi livepatch load`, or boot the \
                 Xen that xen-patches/build.sh makes"
                    .to_owned(),
            ),
            Some(EPERM | EACCES) => Error::NotPermitted("the xfi hypercall"),
            _ => Error::Hypercall { op: "capabilities", source: e },
        }
            })?;
        if caps.magic != abi::XFI_MAGIC {
            return Err(Error::NotAvailable(format!(
                "something else answers hypercall {} of the running Xen (magic {:#x})",
                abi::XFI_HYPERCALL_NR,
                caps.magic
            )));
        }
        if caps.abi_version != abi::XFI_ABI_VERSION {
            return Err(Error::OtherVersion {
                theirs: caps.abi_version,
                ours: abi::XFI_ABI_VERSION,
            });
        }
        Ok(HypervisorInfo {
            capabilities: Capabilities {
                delivery: match caps.delivery {
                    abi::XFI_DELIVERY_PATCHED => "patched".to_owned(),
                    abi::XFI_DELIVERY_LIVEPATCH => "livepatch".to_owned(),
                    n => format!("unknown ({n})"),
                },
                abi: caps.abi_version,
                features: record::feature_names(caps.features),
                slots: caps.nr_slots,
            },
            now_ns: caps.now_ns,
            tsc_khz: caps.tsc_khz,
            armed: caps.nr_armed,
            pv: RegisterMasks(caps.mask_pv.r),
            pv32: RegisterMasks(caps.mask_pv32.r),
            hvm: RegisterMasks(caps.mask_hvm.r),
            xen: RegisterMasks(caps.mask_xen.r),
        })
    }

    /// Arms a fault.
    ///
    /// # Errors
    /// What Xen refused, as its own variant each.
    pub fn arm(&self, request: &ArmRequest) -> Result<InjectionId> {
        const OP: &str = "arm";
        let mut arm = record::arm_argument(request);
        self.call(abi::XFI_OP_arm, &mut arm)
            .map_err(|e| match errno(&e) {
                Some(ESRCH) => Error::NoSuchDomainId {
                    domid: request.domid.0,
                },
                Some(ENOENT) => Error::NoSuchVcpu {
                    domain: request.domid.to_string(),
                    vcpu: request.vcpu.0,
                    vcpus: 0,
                },
                Some(EBUSY) => Error::Busy {
                    domid: request.domid.0,
                    vcpu: request.vcpu.0,
                },
                Some(ENOSPC) => Error::NoFreeSlot { slots: self.slots },
                _ => common(OP, e),
            })?;
        Ok(InjectionId(arm.id))
    }

    /// An injection's state and record.
    ///
    /// # Errors
    /// [`Error::NoSuchInjection`] when Xen has none with this id (any more).
    pub fn status(&self, id: InjectionId) -> Result<Snapshot> {
        const OP: &str = "status";
        let mut status = abi::xfi_status {
            version: abi::XFI_ABI_VERSION,
            id: id.0,
            ..Default::default()
        };
        self.call(abi::XFI_OP_status, &mut status)
            .map_err(|e| match errno(&e) {
                Some(ENOENT | ESRCH) => Error::NoSuchInjection(id.0),
                _ => common(OP, e),
            })?;
        record::snapshot(&status).map_err(|what| Error::Nonsense { op: OP, what })
    }

    /// Disarms one injection, or all (which also stops the profile). Returns how
    /// many were armed; one that is just firing is not counted, and finding none
    /// is no error.
    ///
    /// # Errors
    /// When the call itself fails.
    pub fn disarm(&self, id: Option<InjectionId>) -> Result<u32> {
        const OP: &str = "disarm";
        let mut disarm = abi::xfi_disarm {
            version: abi::XFI_ABI_VERSION,
            by: match id {
                Some(_) => abi::XFI_DISARM_ID,
                None => abi::XFI_DISARM_ALL,
            },
            id: id.map_or(0, |id| id.0),
            ..Default::default()
        };
        match self.call(abi::XFI_OP_disarm, &mut disarm) {
            Ok(()) => Ok(disarm.nr_disarmed),
            Err(e) if errno(&e) == Some(ENOENT) => Ok(0),
            Err(e) => Err(common(OP, e)),
        }
    }

    /// Injections that can be armed or remembered at once.
    pub(crate) fn slots(&self) -> u32 {
        self.slots
    }

    pub(crate) fn call<T: Abi>(&self, op: u32, argument: &mut T) -> io::Result<()> {
        let buffer = self.buffer.cast::<T>();
        // SAFETY: `buffer` points to memory of at least size_of::<Buffer>(),
        // which begins with the union of which T is a member, page-aligned, and
        // no reference to it lives: only this function touches it, and &self is
        // not Sync (NonNull).
        unsafe { buffer.write(*argument) };
        let (number, first, second) = match self.entry {
            Entry::Own => (abi::XFI_HYPERCALL_NR, u64::from(op), buffer.as_ptr() as u64),
            Entry::Livepatch => {
                // SAFETY: a place inside of the buffer, of which no more than
                // the address is taken.
                let call = unsafe { &raw mut (*self.buffer.as_ptr()).call };
                let block = abi::xfi_livepatch_call {
                    magic: abi::XFI_MAGIC,
                    cmd: op,
                    pad: 0,
                    arg: buffer.as_ptr() as u64,
                };
                // SAFETY: as for the argument, behind which it lies.
                unsafe { call.write(block) };
                (abi::XFI_LIVEPATCH_HYPERCALL_NR, call as u64, 0)
            }
        };
        // SAFETY: handle and buffer belong to this library instance and are
        // open until drop. Xen reads and writes no more than the operation's
        // own structure, and reads the block, at the addresses.
        let ret = unsafe {
            self.lib
                .0
                .xencall2(self.handle.as_ptr(), number, first, second)
        };
        if ret < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as for the write; any bytes are a T (trait Abi).
        *argument = unsafe { buffer.read() };
        Ok(())
    }
}

impl Drop for Hypercall {
    fn drop(&mut self) {
        // SAFETY: both were opened by this library and are not used after.
        unsafe {
            self.lib
                .0
                .xencall_free_buffer(self.handle.as_ptr(), self.buffer.as_ptr().cast());
            self.lib.0.xencall_close(self.handle.as_ptr());
        }
    }
}

fn load_xencall() -> Result<LibCall> {
    let mut reasons = Vec::new();
    for name in XENCALL_SONAMES {
        // SAFETY: libxencall's constructors do nothing that could break us, and
        // its ABI is fixed by its soname.
        match unsafe { call::XenCall::new(name) } {
            Ok(lib) => return Ok(LibCall(lib)),
            Err(e) => reasons.push(e.to_string()),
        }
    }
    Err(Error::NotAvailable(format!(
        "loading libxencall: {} (Debian: apt install libxencall1)",
        reasons.join("; ")
    )))
}

use nix::libc::{EACCES, EBUSY, EINVAL, ENOENT, ENOSPC, ENOSYS, EOPNOTSUPP, EPERM, ESRCH};

pub(crate) fn errno(e: &io::Error) -> Option<i32> {
    e.raw_os_error()
}

pub(crate) fn common(op: &'static str, e: io::Error) -> Error {
    match errno(&e) {
        Some(ENOSYS) => Error::NotAvailable("the running Xen has no xfi hypercall".to_owned()),
        Some(EPERM | EACCES) => Error::NotPermitted("the xfi hypercall"),
        Some(EINVAL) => Error::Invalid(op),
        Some(EOPNOTSUPP) => Error::Unsupported(op),
        _ => Error::Hypercall { op, source: e },
    }
}
