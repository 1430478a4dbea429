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
    /// A RIP range that is not `START..END`, or is empty or reversed.
    BadRipRange {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
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
