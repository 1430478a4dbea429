//! A user thread's registers as the kernel's register sets hold them.

use super::ptrace::{RegSet, Tracee, ymm_offset};
use nix::errno::Errno;
use std::fmt::Write;
use xfi_model::{TaskRegister, TaskRegisterFile};

/// Where `struct user_regs_struct` (asm/user_64.h) has the general registers,
/// in the order of [`TaskRegister::GENERAL`].
const GENERAL_AT: [usize; 16] = [10, 5, 11, 12, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0];
/// The segments, in the order of [`TaskRegister::SEGMENTS`].
const SEGMENT_AT: [usize; 6] = [17, 20, 23, 24, 25, 26];
pub(super) const ORIG_RAX: usize = 15;
pub(super) const RIP: usize = 16;
pub(super) const RAX: usize = 10;
const RFLAGS: usize = 18;
const FS_BASE: usize = 21;
const GS_BASE: usize = 22;
const GENERAL_WORDS: usize = 27;

const FXSAVE_BYTES: usize = 512;
/// XSTATE_BV: which components are not in their initial state.
const XSTATE_BV: usize = 512;
const AVX: u64 = 1 << 2;
/// Room for the largest XSAVE area in use (AMX tiles: 11 KiB).
const XSTATE_ROOM: usize = 64 * 1024;

/// Where a register lies: the set, the byte, and how many bytes of it; a ymm
/// register's upper half is elsewhere.
fn place(register: TaskRegister, word: u32) -> Option<(RegSet, usize)> {
    let word = word as usize;
    let general = |nth: usize| Some((RegSet::General, nth * 8));
    match register {
        TaskRegister::General(n) => general(*GENERAL_AT.get(usize::from(n))?),
        TaskRegister::Segment(n) => general(*SEGMENT_AT.get(usize::from(n))?),
        TaskRegister::Rip => general(RIP),
        TaskRegister::Rflags => general(RFLAGS),
        TaskRegister::FsBase => general(FS_BASE),
        TaskRegister::GsBase => general(GS_BASE),
        TaskRegister::Fcw => Some((RegSet::Fxsave, 0)),
        TaskRegister::Fsw => Some((RegSet::Fxsave, 2)),
        TaskRegister::Mxcsr => Some((RegSet::Fxsave, 24)),
        TaskRegister::St(n) => Some((RegSet::Fxsave, 32 + 16 * usize::from(n) + 8 * word)),
        TaskRegister::Xmm(n) => Some((RegSet::Fxsave, 160 + 16 * usize::from(n) + 8 * word)),
        TaskRegister::Ymm(n) if word < 2 => {
            Some((RegSet::Fxsave, 160 + 16 * usize::from(n) + 8 * word))
        }
        TaskRegister::Ymm(n) => Some((
            RegSet::Xstate,
            ymm_offset() + 16 * usize::from(n) + 8 * (word - 2),
        )),
        TaskRegister::Ret => None,
    }
}

/// All registers of a stopped thread.
#[derive(Debug, Clone)]
pub(super) struct Registers {
    general: Vec<u8>,
    fxsave: Vec<u8>,
    /// Where there is XSAVE.
    xstate: Option<Vec<u8>>,
    /// The kernel takes the thread for a 32-bit one, by its cs.
    pub(super) compat: bool,
}

impl Registers {
    pub(super) fn read(tracee: &Tracee) -> Result<Self, Errno> {
        let mut general = vec![0; GENERAL_WORDS * 8];
        let mut fxsave = vec![0; FXSAVE_BYTES];
        let compat = tracee.read(RegSet::General, &mut general)? != general.len();
        if compat {
            // Word by word the kernel gives all of them.
            for (nth, bytes) in general.chunks_exact_mut(8).enumerate() {
                bytes.copy_from_slice(&tracee.peek(nth)?.to_le_bytes());
            }
        }
        let set = if compat {
            RegSet::FxsaveCompat
        } else {
            RegSet::Fxsave
        };
        tracee.read(set, &mut fxsave)?;
        let mut area = vec![0; XSTATE_ROOM];
        let xstate = match tracee.read(RegSet::Xstate, &mut area) {
            Ok(len) => {
                area.truncate(len);
                Some(area)
            }
            Err(_) => None,
        };
        Ok(Registers {
            general,
            fxsave,
            xstate,
            compat,
        })
    }

    /// Whether the register is there at all on this machine.
    pub(super) fn has(&self, register: TaskRegister) -> bool {
        match register {
            TaskRegister::Ymm(_) => self.avx(),
            TaskRegister::Ret => false,
            _ => true,
        }
    }

    fn avx(&self) -> bool {
        let end = ymm_offset() + 256;
        // The components that the kernel saves, in the bytes FXSAVE leaves to
        // software.
        self.xstate
            .as_ref()
            .is_some_and(|x| x.len() >= end && word_at(x, 464) & AVX != 0)
    }

    fn bytes(&self, set: RegSet) -> &[u8] {
        match set {
            RegSet::General => &self.general,
            RegSet::Fxsave | RegSet::FxsaveCompat => &self.fxsave,
            RegSet::Xstate => self.xstate.as_deref().unwrap_or_default(),
        }
    }

    /// A 64-bit word of a register; of a narrower one its bits alone.
    pub(super) fn get(&self, register: TaskRegister, word: u32) -> Option<u64> {
        if !self.has(register) {
            return None;
        }
        let (set, at) = place(register, word)?;
        Some(word_at(self.bytes(set), at) & register.word_bits(word))
    }

    /// A word of `struct user_regs_struct`.
    pub(super) fn general(&self, nth: usize) -> u64 {
        word_at(&self.general, nth * 8)
    }

    /// Changes a word of a register of the stopped thread, and nothing else.
    pub(super) fn put(
        &self,
        tracee: &Tracee,
        register: TaskRegister,
        word: u32,
        value: u64,
    ) -> Result<(), Errno> {
        let (set, at) = place(register, word).ok_or(Errno::EINVAL)?;
        let bits = register.word_bits(word);
        match set {
            RegSet::General => tracee.poke(at / 8, value),
            RegSet::Fxsave | RegSet::FxsaveCompat => {
                let mut area = self.fxsave.clone();
                merge(&mut area, at, value, bits);
                tracee.write(set, &mut area)
            }
            RegSet::Xstate => {
                let mut area = self.xstate.clone().ok_or(Errno::ENODEV)?;
                // Else the kernel takes the initial state, all zeros.
                let present = word_at(&area, XSTATE_BV) | AVX;
                merge(&mut area, XSTATE_BV, present, u64::MAX);
                merge(&mut area, at, value, bits);
                tracee.write(set, &mut area)
            }
        }
    }

    /// All of them, by name.
    pub(super) fn file(&self) -> TaskRegisterFile {
        TaskRegister::all()
            .filter(|r| self.has(*r))
            .map(|r| {
                let words = (0..r.words()).map(|w| self.get(r, w).unwrap_or(0));
                (r, hex(r, words))
            })
            .collect()
    }

    /// The bits that differ, of each register that does. A ymm register's lower
    /// half is told as xmm.
    pub(super) fn changed(
        &self,
        after: &Registers,
    ) -> std::collections::BTreeMap<TaskRegister, Vec<u32>> {
        let mut all = std::collections::BTreeMap::new();
        for r in TaskRegister::all() {
            let mut bits = Vec::new();
            let first = if matches!(r, TaskRegister::Ymm(_)) {
                2
            } else {
                0
            };
            for word in first..r.words() {
                if let (Some(a), Some(b)) = (self.get(r, word), after.get(r, word)) {
                    bits.extend(
                        (0..64)
                            .filter(|i| (a ^ b) >> i & 1 == 1)
                            .map(|i| 64 * word + i),
                    );
                }
            }
            if !bits.is_empty() {
                all.insert(r, bits);
            }
        }
        all
    }
}

/// `0x` and all digits of the register's width; the first word is the lowest.
pub(super) fn hex(register: TaskRegister, words: impl Iterator<Item = u64>) -> String {
    let words: Vec<u64> = words.collect();
    let mut digits = String::new();
    for word in words.iter().rev() {
        let _ = write!(digits, "{word:016x}");
    }
    let keep = (register.width() / 4) as usize;
    let skip = digits.len().saturating_sub(keep);
    format!("0x{}", &digits[skip..])
}

/// Eight bytes from `at` on; bytes past the end count as 0.
fn word_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    for (to, from) in word.iter_mut().zip(bytes.iter().skip(at)) {
        *to = *from;
    }
    u64::from_le_bytes(word)
}

fn merge(bytes: &mut [u8], at: usize, value: u64, bits: u64) {
    let value = (word_at(bytes, at) & !bits) | (value & bits);
    for (to, from) in bytes.iter_mut().skip(at).zip(value.to_le_bytes()) {
        *to = from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_all_digits_of_their_width() {
        let st: TaskRegister = "st0".parse().unwrap();
        assert_eq!(hex(st, [1, 0x3fff].into_iter()), "0x3fff0000000000000001");
        let cs: TaskRegister = "cs".parse().unwrap();
        assert_eq!(hex(cs, [0x33].into_iter()), "0x0033");
    }

    #[test]
    fn a_narrow_register_is_changed_without_its_neighbours() {
        let mut bytes = vec![0xff; 16];
        merge(&mut bytes, 2, 0x1234, 0xffff);
        assert_eq!(bytes[..5], [0xff, 0xff, 0x34, 0x12, 0xff]);
    }
}
