//! Words of a domain's memory, dom0's own included, by foreign mapping (thesis
//! §4.5.1).
//!
//! An address is what the domain takes for physical: of an HVM or PVH guest the
//! guest-physical address; of a PV guest, dom0 too, the pseudo-physical one,
//! which its P2M table turns into a machine address. That table is found as
//! Xen's own tools find it: by `p2m_cr3` and `p2m_vaddr` of the shared info page
//! (public/arch-x86/xen.h), which Linux fills in.
//!
//! dom0's own pages are mapped like others', as the domain `DOMID_SELF`: Xen
//! checks them as it checks any mapping, so that what cannot be written safely
//! (page tables, descriptor tables) is refused and not changed behind its back,
//! which `/dev/mem` would do.
#![expect(
    unsafe_code,
    reason = "calls libxenforeignmemory and accesses what it maps"
)]

use crate::hypercall_memory::{MemoryRecord, WordSize};
use crate::xenctl::XenDomain;
use crate::{Error, Result};
use nix::libc::{PROT_READ, PROT_WRITE};
use std::io;
use std::mem::offset_of;
use std::path::Path;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU64, Ordering};
use xfi_model::{BitOp, DomId, GuestKind};
use xfi_xenctrl_sys::{XENFOREIGNMEMORY_SONAMES, foreign};

const PAGE: u64 = 4096;
/// `DOMID_SELF` of public/xen.h: Xen refuses one's own number here.
const DOMID_SELF: u32 = 0x7ff0;
const CONTROL_DOMAIN: DomId = DomId(0);

/// Page-table entries: present, and the bits of the frame.
const PRESENT: u64 = 1;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// In a P2M entry: what is not the domain's own memory (Linux:
/// `FOREIGN_FRAME_BIT`, `IDENTITY_FRAME_BIT`).
const NOT_OWN: u64 = 3 << 62;

/// An open way to other domains' memory.
pub struct DomainMemory {
    lib: foreign::XenForeignMemory,
    handle: NonNull<foreign::xenforeignmemory_handle>,
}

impl std::fmt::Debug for DomainMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DomainMemory")
    }
}

impl DomainMemory {
    /// Loads libxenforeignmemory and opens its interface.
    ///
    /// # Errors
    /// [`Error::NotAvailable`], saying what is missing.
    pub fn open() -> Result<Self> {
        if !Path::new("/dev/xen/privcmd").exists() {
            return Err(Error::NotAvailable(
                "/dev/xen/privcmd does not exist, so this is not dom0 of a Xen host".to_owned(),
            ));
        }
        let lib = load()?;
        // SAFETY: a null logger asks for the default one; no flags are set.
        let handle = unsafe { lib.xenforeignmemory_open(null_mut(), 0) };
        match NonNull::new(handle) {
            Some(handle) => Ok(DomainMemory { lib, handle }),
            None => Err(Error::NotAvailable(format!(
                "libxenforeignmemory cannot open its interface: {}",
                io::Error::last_os_error()
            ))),
        }
    }

    /// Reads a word of a domain's memory.
    ///
    /// # Errors
    /// [`Error::NotMapped`] where the domain has no memory; [`Error::BadWord`].
    pub fn peek(&self, domain: &XenDomain, address: u64, size: WordSize) -> Result<MemoryRecord> {
        size.check(address, None)?;
        let frame = self.frame(domain, address)?;
        let page = self.map(domain, frame, PROT_READ, address)?;
        let word = page.word(address).load(Ordering::SeqCst);
        Ok(record(domain, frame, address, size, word, word))
    }

    /// Changes bits of a word of a domain's memory, now and atomically.
    ///
    /// # Errors
    /// As for [`DomainMemory::peek`], [`Error::BadMask`], and
    /// [`Error::NotMapped`] where Xen gives no writable mapping: of a PV domain's
    /// page and descriptor tables.
    pub fn flip(
        &self,
        domain: &XenDomain,
        address: u64,
        size: WordSize,
        mask: u64,
        op: BitOp,
    ) -> Result<MemoryRecord> {
        size.check(address, Some(mask))?;
        let frame = self.frame(domain, address)?;
        let page = self.map(domain, frame, PROT_READ | PROT_WRITE, address)?;
        let mask = mask << shift(address);
        let word = page.word(address);
        let (before, after) = match op {
            BitOp::Flip => {
                let old = word.fetch_xor(mask, Ordering::SeqCst);
                (old, old ^ mask)
            }
            BitOp::Set => {
                let old = word.fetch_or(mask, Ordering::SeqCst);
                (old, old | mask)
            }
            BitOp::Clear => {
                let old = word.fetch_and(!mask, Ordering::SeqCst);
                (old, old & !mask)
            }
        };
        Ok(record(domain, frame, address, size, before, after))
    }

    /// The number by which Xen knows the frame of this address.
    fn frame(&self, domain: &XenDomain, address: u64) -> Result<u64> {
        let pfn = address / PAGE;
        match domain.kind {
            GuestKind::Hvm | GuestKind::Pvh => Ok(pfn),
            GuestKind::Pv => self
                .p2m(domain, pfn)?
                .filter(|mfn| mfn & NOT_OWN == 0)
                .ok_or_else(|| not_mapped(domain, address)),
        }
    }

    /// A PV domain's P2M entry, if the table reaches that far.
    fn p2m(&self, domain: &XenDomain, pfn: u64) -> Result<Option<u64>> {
        const ARCH: usize = offset_of!(foreign::shared_info, arch);
        let field = |offset: usize| {
            let at = domain.shared_info_frame * PAGE + (ARCH + offset) as u64;
            self.read(domain, at)
        };
        let cr3 = field(offset_of!(foreign::arch_shared_info, p2m_cr3))?;
        if cr3 == 0 {
            return Err(Error::NotAvailable(format!(
                "domain {}: its kernel does not publish a P2M table, so its addresses cannot be \
                 told",
                domain.domid
            )));
        }
        if pfn >= field(offset_of!(foreign::arch_shared_info, max_pfn))? {
            return Ok(None);
        }
        let table = field(offset_of!(foreign::arch_shared_info, p2m_vaddr))?;
        let va = table.wrapping_add(pfn * 8);
        let mut frame = cr3 & FRAME;
        for level in [39, 30, 21, 12] {
            let entry = self.read(domain, frame + ((va >> level) & 0x1ff) * 8)?;
            if entry & PRESENT == 0 {
                return Ok(None);
            }
            frame = entry & FRAME;
        }
        self.read(domain, frame + va % PAGE).map(Some)
    }

    /// A word of a PV domain, by machine address.
    fn read(&self, domain: &XenDomain, machine: u64) -> Result<u64> {
        let page = self.map(domain, machine / PAGE, PROT_READ, machine)?;
        Ok(page.word(machine).load(Ordering::SeqCst))
    }

    fn map(&self, domain: &XenDomain, frame: u64, prot: i32, address: u64) -> Result<Page<'_>> {
        let whom = match domain.domid {
            CONTROL_DOMAIN => DOMID_SELF,
            DomId(n) => u32::from(n),
        };
        let mut error = 0;
        // SAFETY: one frame and one error, both live through the call; the
        // handle belongs to this library.
        let at = unsafe {
            self.lib
                .xenforeignmemory_map(self.handle.as_ptr(), whom, prot, 1, &frame, &mut error)
        };
        let Some(at) = NonNull::new(at.cast::<u8>()) else {
            return Err(Error::Hypercall {
                op: "mapping a domain's memory",
                source: io::Error::last_os_error(),
            });
        };
        // From here on it is unmapped in any case.
        let page = Page { memory: self, at };
        if error == 0 {
            Ok(page)
        } else {
            Err(not_mapped(domain, address))
        }
    }
}

impl Drop for DomainMemory {
    fn drop(&mut self) {
        // SAFETY: opened by this library and not used after.
        unsafe { self.lib.xenforeignmemory_close(self.handle.as_ptr()) };
    }
}

/// A mapped page.
struct Page<'a> {
    memory: &'a DomainMemory,
    at: NonNull<u8>,
}

impl Page<'_> {
    /// The aligned eight bytes in which this address lies.
    fn word(&self, address: u64) -> &AtomicU64 {
        let offset = ((address % PAGE) & !7) as usize;
        // SAFETY: the offset is within the page and a multiple of 8; the page is
        // mapped while self lives, and kept by Xen as long as it is mapped. The
        // domain itself may write to it, as atomics allow. Whoever writes by
        // this mapped it writable.
        unsafe { AtomicU64::from_ptr(self.at.as_ptr().add(offset).cast()) }
    }
}

impl Drop for Page<'_> {
    fn drop(&mut self) {
        // SAFETY: one page that this library mapped; no reference to it is left,
        // as they borrow self.
        unsafe {
            self.memory.lib.xenforeignmemory_unmap(
                self.memory.handle.as_ptr(),
                self.at.as_ptr().cast(),
                1,
            )
        };
    }
}

fn shift(address: u64) -> u64 {
    8 * (address % 8)
}

fn not_mapped(domain: &XenDomain, address: u64) -> Error {
    Error::NotMapped {
        address,
        whose: format!("domain {}", domain.domid),
    }
}

fn record(
    domain: &XenDomain,
    frame: u64,
    address: u64,
    size: WordSize,
    before: u64,
    after: u64,
) -> MemoryRecord {
    let value = |word: u64| (word >> shift(address)) & size.mask();
    MemoryRecord {
        before: value(before),
        after: value(after),
        machine_address: (domain.kind == GuestKind::Pv).then_some(frame * PAGE + address % PAGE),
        now_ns: None,
        tsc: None,
    }
}

fn load() -> Result<foreign::XenForeignMemory> {
    let mut reasons = Vec::new();
    for name in XENFOREIGNMEMORY_SONAMES {
        // SAFETY: the library's constructors do nothing that could break us, and
        // its ABI is fixed by its soname.
        match unsafe { foreign::XenForeignMemory::new(name) } {
            Ok(lib) => return Ok(lib),
            Err(e) => reasons.push(e.to_string()),
        }
    }
    Err(Error::NotAvailable(format!(
        "loading libxenforeignmemory: {} (Debian: apt install libxenforeignmemory1)",
        reasons.join("; ")
    )))
}
