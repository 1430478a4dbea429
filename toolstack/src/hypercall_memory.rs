//! Words of Xen's own memory (`XFI_OP_memory` of public/xfi.h).

use crate::hypercall::{Hypercall, common, errno};
use crate::{Error, Result, record};
use nix::libc::{EFAULT, ENXIO};
use xfi_model::BitOp;
use xfi_xenctrl_sys::abi;

/// What can be accessed at once, at a multiple of its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum WordSize {
    /// One byte.
    U8 = 1,
    /// Two bytes.
    U16 = 2,
    /// Four bytes.
    U32 = 4,
    /// Eight bytes.
    U64 = 8,
}

impl WordSize {
    /// In bytes.
    pub fn bytes(self) -> u32 {
        self as u32
    }

    /// All bits of such a word.
    pub fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }

    /// Is this an address of such a word, and are these bits of it?
    ///
    /// # Errors
    /// [`Error::BadWord`], [`Error::BadMask`].
    pub(crate) fn check(self, address: u64, mask: Option<u64>) -> Result<()> {
        let size = self.bytes();
        if !address.is_multiple_of(u64::from(size)) {
            return Err(Error::BadWord { address, size });
        }
        match mask {
            Some(mask) if mask == 0 || mask & !self.mask() != 0 => {
                Err(Error::BadMask { mask, size })
            }
            _ => Ok(()),
        }
    }
}

impl TryFrom<u32> for WordSize {
    type Error = Error;

    /// From bytes.
    fn try_from(size: u32) -> Result<Self> {
        match size {
            1 => Ok(WordSize::U8),
            2 => Ok(WordSize::U16),
            4 => Ok(WordSize::U32),
            8 => Ok(WordSize::U64),
            size => Err(Error::BadWord { address: 0, size }),
        }
    }
}

/// A word of memory, read or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryRecord {
    /// Its value before.
    pub before: u64,
    /// Its value after; when it was only read, the same.
    pub after: u64,
    /// Its machine address, bytes; none for an HVM or PVH guest's.
    pub machine_address: Option<u64>,
    /// Xen's `NOW()` at that moment, nanoseconds; none where Xen was not asked.
    pub now_ns: Option<u64>,
    /// The time-stamp counter at that moment; none where Xen was not asked.
    pub tsc: Option<u64>,
}

impl Hypercall {
    /// Reads a word of Xen's memory: a virtual address in Xen's image, heap and
    /// other tables that are the same for all domains.
    ///
    /// # Errors
    /// [`Error::NotMapped`], [`Error::NotMemory`] (a device's registers),
    /// [`Error::BadWord`].
    pub fn peek_xen(&self, address: u64, size: WordSize) -> Result<MemoryRecord> {
        size.check(address, None)?;
        self.memory(abi::xfi_memory {
            cmd: abi::XFI_MEMORY_PEEK,
            addr: address,
            size: size.bytes(),
            ..Default::default()
        })
    }

    /// Changes bits of a word of Xen's memory, now and atomically. Code and
    /// read-only data can be changed as well.
    ///
    /// # Errors
    /// As for [`Hypercall::peek_xen`], and [`Error::BadMask`].
    pub fn flip_xen(
        &self,
        address: u64,
        size: WordSize,
        mask: u64,
        op: BitOp,
    ) -> Result<MemoryRecord> {
        size.check(address, Some(mask))?;
        self.memory(abi::xfi_memory {
            cmd: abi::XFI_MEMORY_FLIP,
            addr: address,
            size: size.bytes(),
            op: record::bit_op(op),
            mask,
            ..Default::default()
        })
    }

    fn memory(&self, mut m: abi::xfi_memory) -> Result<MemoryRecord> {
        m.version = abi::XFI_ABI_VERSION;
        self.call(abi::XFI_OP_memory, &mut m)
            .map_err(|e| match errno(&e) {
                Some(EFAULT) => Error::NotMapped {
                    address: m.addr,
                    whose: "Xen".to_owned(),
                },
                Some(ENXIO) => Error::NotMemory { address: m.addr },
                _ => common("memory", e),
            })?;
        Ok(MemoryRecord {
            before: m.before,
            after: m.after,
            machine_address: Some(m.maddr),
            now_ns: Some(m.now_ns),
            tsc: Some(m.tsc),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_aligned_words_and_their_own_bits_pass() {
        assert!(WordSize::U64.check(0x1008, Some(1 << 63)).is_ok());
        assert!(WordSize::U8.check(0x1003, Some(0x80)).is_ok());
        for (size, address, mask) in [
            (WordSize::U64, 0x1004, Some(1)),
            (WordSize::U16, 0x1001, None),
            (WordSize::U32, 0x1000, Some(1 << 32)),
            (WordSize::U8, 0x1000, Some(0)),
        ] {
            assert!(
                size.check(address, mask).is_err(),
                "{size:?} {address:#x} {mask:?}"
            );
        }
        for size in [0, 3, 5, 6, 7, 9, u32::MAX] {
            let e = WordSize::try_from(size).unwrap_err().to_string();
            assert!(
                e.contains(&size.to_string()) && e.contains("1, 2, 4 and 8"),
                "{e}"
            );
        }
    }
}
