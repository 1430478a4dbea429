//! The registers a vCPU fault can be put in, with their real widths.

use crate::GuestKind;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

macro_rules! registers {
    ($($variant:ident = $number:literal $name:literal $width:literal),* $(,)?) => {
        /// A register of an x86-64 vCPU. The discriminant is its number in
        /// `public/xfi.h`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Register {
            $(
                #[doc = concat!("`", $name, "`, ", stringify!($width), " bits.")]
                $variant = $number,
            )*
        }

        impl Register {
            /// All registers, in the order of `public/xfi.h`.
            pub const ALL: &'static [Register] = &[$(Register::$variant),*];

            /// The register's lower-case name, as on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Register::$variant => $name),* }
            }

            /// The register's width in bits: 64 or 16.
            pub const fn width(self) -> u32 {
                match self { $(Register::$variant => $width),* }
            }
        }
    };
}

registers! {
    Rax = 0 "rax" 64, Rbx = 1 "rbx" 64, Rcx = 2 "rcx" 64, Rdx = 3 "rdx" 64,
    Rsi = 4 "rsi" 64, Rdi = 5 "rdi" 64, Rbp = 6 "rbp" 64, Rsp = 7 "rsp" 64,
    R8 = 8 "r8" 64, R9 = 9 "r9" 64, R10 = 10 "r10" 64, R11 = 11 "r11" 64,
    R12 = 12 "r12" 64, R13 = 13 "r13" 64, R14 = 14 "r14" 64, R15 = 15 "r15" 64,
    Rip = 16 "rip" 64, Rflags = 17 "rflags" 64,
    Cs = 18 "cs" 16, Ss = 19 "ss" 16, Ds = 20 "ds" 16,
    Es = 21 "es" 16, Fs = 22 "fs" 16, Gs = 23 "gs" 16,
}

/// The bits of rflags that software can write (Intel SDM vol. 1, §3.4.3):
/// CF PF AF ZF SF TF IF DF OF IOPL NT RF AC ID. VM, VIF and VIP are left out:
/// VM cannot be set in 64-bit mode and the others belong to virtual-8086 mode.
pub const RFLAGS_WRITABLE: u64 = 0x0025_7fd5;

/// IF and IOPL.
const RFLAGS_PV_FORCED: u64 = 0x3200;

impl Register {
    /// The registers of Xen that a fault inside a hypercall can be put in: those
    /// of the exception frame that the flip is done in (thesis §3.2.2.1).
    pub const IN_HYPERCALLS: &'static [Register] = Register::ALL.split_at(17).0;

    /// The bits of this register that a fault may touch.
    pub const fn writable_bits(self) -> u64 {
        match self {
            Register::Rflags => RFLAGS_WRITABLE,
            _ if self.width() == 16 => 0xffff,
            _ => u64::MAX,
        }
    }

    /// The bits of this register that a fault in a guest of this kind may touch.
    /// Returning to a PV guest, Xen sets IF and clears IOPL, so that a flip of
    /// theirs would not outlive the return (`arch/x86/x86_64/entry.S`).
    pub const fn faultable_bits(self, kind: GuestKind) -> u64 {
        match (self, kind) {
            (Register::Rflags, GuestKind::Pv) => RFLAGS_WRITABLE & !RFLAGS_PV_FORCED,
            _ => self.writable_bits(),
        }
    }

    /// Checks that `mask` has a bit, and only such as can be flipped.
    ///
    /// # Errors
    /// [`FaultError::BadMask`], naming the offending bits and the valid ones.
    pub fn check_mask(self, mask: u64) -> Result<(), FaultError> {
        self.check_mask_in(mask, self.writable_bits())
    }

    /// As [`Register::check_mask`], for a guest of this kind.
    ///
    /// # Errors
    /// [`FaultError::BadMask`].
    pub fn check_mask_for(self, kind: GuestKind, mask: u64) -> Result<(), FaultError> {
        self.check_mask_in(mask, self.faultable_bits(kind))
    }

    const fn check_mask_in(self, mask: u64, valid: u64) -> Result<(), FaultError> {
        if mask == 0 || mask & !valid != 0 {
            return Err(FaultError::BadMask {
                register: self,
                mask,
                valid,
            });
        }
        Ok(())
    }

    /// The register with this number in `public/xfi.h`.
    pub fn from_number(number: u32) -> Option<Register> {
        Register::ALL.get(number as usize).copied()
    }

    /// Checks that `bit` exists in this register and can be flipped.
    ///
    /// # Errors
    /// [`FaultError::BitOutOfRange`] or [`FaultError::BitReserved`], naming the
    /// valid bits.
    pub fn check_bit(self, bit: u32) -> Result<(), FaultError> {
        if bit >= self.width() {
            Err(FaultError::BitOutOfRange {
                register: self,
                bit,
            })
        } else if self.writable_bits() >> bit & 1 == 0 {
            Err(FaultError::BitReserved {
                register: self,
                bit,
            })
        } else {
            Ok(())
        }
    }
}

/// Why a register, bit or range is not a valid fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultError {
    /// No register has this name.
    UnknownRegister(String),
    /// The bit lies outside the register's width.
    BitOutOfRange {
        /// The register asked for.
        register: Register,
        /// The bit asked for.
        bit: u32,
    },
    /// The bit is architecturally reserved or not writable.
    BitReserved {
        /// The register asked for.
        register: Register,
        /// The bit asked for.
        bit: u32,
    },
    /// Bits of a mask that do not exist or cannot be changed.
    BadMask {
        /// The register asked for.
        register: Register,
        /// The mask asked for.
        mask: u64,
        /// The bits of the register that can be changed.
        valid: u64,
    },
    /// A RIP range that is not `START..END`, or is empty or reversed.
    BadRipRange {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// The bits of a mask in words, neighbours joined: `0, 2, 6-14`.
pub fn bit_list(mask: u64) -> String {
    let mut parts = Vec::new();
    let mut bit = 0;
    while bit < 64 {
        if mask >> bit & 1 == 0 {
            bit += 1;
            continue;
        }
        let first = bit;
        while bit < 63 && mask >> (bit + 1) & 1 == 1 {
            bit += 1;
        }
        parts.push(if first == bit {
            first.to_string()
        } else {
            format!("{first}-{bit}")
        });
        bit += 1;
    }
    if parts.is_empty() {
        "none".to_owned()
    } else {
        parts.join(", ")
    }
}

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FaultError::UnknownRegister(name) => {
                let names: Vec<_> = Register::ALL.iter().map(|r| r.name()).collect();
                write!(f, "unknown register '{name}'; valid: {}", names.join(" "))
            }
            FaultError::BitOutOfRange { register, bit } => write!(
                f,
                "bit {bit} is outside {register}, which has {} bits; valid: 0 to {}",
                register.width(),
                register.width() - 1
            ),
            FaultError::BitReserved { register, bit } => {
                let bits: Vec<_> = (0..64)
                    .filter(|b| register.writable_bits() >> b & 1 == 1)
                    .map(|b| b.to_string())
                    .collect();
                write!(
                    f,
                    "bit {bit} of {register} is not writable; valid: {}",
                    bits.join(" ")
                )
            }
            FaultError::BadMask {
                register,
                mask: 0,
                valid,
            } => write!(
                f,
                "mask 0x0 changes nothing of {register}; valid bits: {}",
                bit_list(*valid)
            ),
            FaultError::BadMask {
                register,
                mask,
                valid,
            } => write!(
                f,
                "mask {mask:#x} has bits of {register} ({} bits) that cannot be changed: {}; \
                 valid: {}",
                register.width(),
                bit_list(mask & !valid),
                bit_list(*valid)
            ),
            FaultError::BadRipRange { text, why } => write!(
                f,
                "RIP range '{text}' {why}; valid: START..END, half-open, START below END, \
                 hexadecimal (0x...) or decimal"
            ),
        }
    }
}

impl std::error::Error for FaultError {}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Register {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        Register::ALL
            .iter()
            .copied()
            .find(|r| r.name() == lower)
            .ok_or_else(|| FaultError::UnknownRegister(text.to_owned()))
    }
}

impl Serialize for Register {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Register {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A 64-bit value that is written as `"0x…"`: JSON numbers lose bits past 2^53.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hex64(pub u64);

impl fmt::Display for Hex64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

impl FromStr for Hex64 {
    type Err = std::num::ParseIntError;

    /// Accepts `0x` hexadecimal or decimal, with `_` between digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.trim().replace('_', "");
        let value = match digits
            .strip_prefix("0x")
            .or_else(|| digits.strip_prefix("0X"))
        {
            Some(hex) => u64::from_str_radix(hex, 16)?,
            None => digits.parse()?,
        };
        Ok(Hex64(value))
    }
}

impl Serialize for Hex64 {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hex64 {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse()
            .map_err(|_| de::Error::custom(format!("'{text}' is not a 64-bit number")))
    }
}

/// The values of all registers at one moment, keyed by name when written.
pub type RegisterFile = BTreeMap<Register, Hex64>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_match_the_order() {
        for (i, r) in Register::ALL.iter().enumerate() {
            assert_eq!(*r as u32, i as u32);
            assert_eq!(Register::from_number(i as u32), Some(*r));
            assert_eq!(r.name().parse::<Register>(), Ok(*r));
        }
        assert_eq!(Register::from_number(24), None);
    }

    #[test]
    fn bits_outside_the_width_are_refused_with_the_valid_ones() {
        let e = Register::Rbx.check_bit(64).unwrap_err().to_string();
        assert!(e.contains("64") && e.contains("0 to 63"), "{e}");
        assert!(Register::Cs.check_bit(16).is_err());
        assert!(Register::Cs.check_bit(15).is_ok());
        assert!(Register::Rflags.check_bit(1).is_err());
        assert!(Register::Rflags.check_bit(0).is_ok());
    }

    #[test]
    fn masks_are_refused_with_the_offending_bits_and_the_valid_ones() {
        let e = |r: Register, m| r.check_mask(m).unwrap_err().to_string();
        assert_eq!(
            e(Register::Cs, 0x3_0001),
            "mask 0x30001 has bits of cs (16 bits) that cannot be changed: 16-17; valid: 0-15"
        );
        assert_eq!(
            e(Register::Rflags, 0x3),
            "mask 0x3 has bits of rflags (64 bits) that cannot be changed: 1; \
             valid: 0, 2, 4, 6-14, 16, 18, 21"
        );
        assert!(e(Register::Rbx, 0).contains("changes nothing of rbx"));
        assert_eq!(Register::Rbx.check_mask(u64::MAX), Ok(()));
        let pv = Register::Rflags.check_mask_for(GuestKind::Pv, 1 << 9);
        assert!(
            pv.unwrap_err()
                .to_string()
                .contains(": 9; valid: 0, 2, 4, 6-8, 10-11, 14")
        );
        assert_eq!(
            Register::Rflags.check_mask_for(GuestKind::Pvh, 1 << 9),
            Ok(())
        );
    }

    #[test]
    fn bits_are_listed_as_ranges() {
        assert_eq!(bit_list(0), "none");
        assert_eq!(bit_list(0b1011), "0-1, 3");
        assert_eq!(bit_list(u64::MAX), "0-63");
        assert_eq!(bit_list(1 << 63), "63");
    }

    #[test]
    fn registers_inside_hypercalls_are_the_general_ones_and_rip() {
        let names: Vec<_> = Register::IN_HYPERCALLS.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), 17);
        assert_eq!((names[0], names[16]), ("rax", "rip"));
    }

    #[test]
    fn hex64_keeps_all_64_bits() {
        let v = Hex64(u64::MAX - 1);
        assert_eq!(v.to_string().parse::<Hex64>(), Ok(v));
        assert_eq!(
            "0xffff_8000_0000_0000".parse(),
            Ok(Hex64(0xffff_8000_0000_0000))
        );
        assert_eq!("18".parse(), Ok(Hex64(18)));
    }
}
