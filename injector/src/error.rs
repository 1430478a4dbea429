//! Why a fault could not be armed or followed.

use xfi_model::{AgentErrorCode, GuestKind, Register, bit_list};
use xfi_toolstack::Error as ToolError;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, InjectError>;

/// Why a fault could not be armed or followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InjectError {
    /// Xen, libvirt or the host said no.
    #[error(transparent)]
    Toolstack(#[from] ToolError),
    /// Bits that cannot be changed in this register of this kind of guest.
    #[error(
        "bits {} of {register} cannot be changed in a {} guest; valid: {}",
        bit_list(*bits), kind_name(*kind), bit_list(*valid)
    )]
    BitsNotArmable {
        /// The register.
        register: Register,
        /// The bits that cannot be.
        bits: u64,
        /// Those that can.
        valid: u64,
        /// The kind of guest.
        kind: GuestKind,
    },
    /// A place that this Xen cannot reach.
    #[error("this Xen's hypercall has no {0}")]
    NotAvailable(&'static str),
    /// Bits that cannot be changed in this register of Xen's.
    #[error(
        "bits {} of {register} cannot be changed inside a hypercall; valid: {}",
        bit_list(*bits), bit_list(*valid)
    )]
    BitsNotArmableInXen {
        /// The register.
        register: Register,
        /// The bits that cannot be.
        bits: u64,
        /// Those that can.
        valid: u64,
    },
    /// A location of another kind.
    #[error("{0} is no register inside a hypercall")]
    NotOfHypercall(String),
    /// A location of another kind.
    #[error("{0} is no word of memory")]
    NotOfMemory(String),
    /// A number of words that cannot be read at once.
    #[error("{count} words cannot be read at once; valid: 1 to {most}")]
    BadWordCount {
        /// How many were asked for.
        count: u32,
        /// How many there can be.
        most: u32,
    },
    /// A time that hypercalls cannot be counted for.
    #[error("hypercalls cannot be counted for {0} ms; valid: 1 ms to one day")]
    BadProfileTime(u64),
    /// A fault that changes nothing.
    #[error("the mask is 0: a fault needs at least one bit (only a dummy may have none)")]
    EmptyMask,
    /// A location of another kind.
    #[error("{0} is no register of a vCPU")]
    NotOfVcpu(String),
    /// No task fits.
    #[error("{0}")]
    NoSuchTask(String),
    /// A task, or a register of it, that a fault cannot be put in.
    #[error("{0}")]
    TaskRefused(String),
    /// The kernel module is needed and not there.
    #[error(
        "{path}: {source}; the kernel side of a task is reached by the module xfi_task, loaded by          root: insmod xfi_task.ko"
    )]
    NoModule {
        /// Its device.
        path: &'static str,
        /// Why it cannot be used.
        source: std::io::Error,
    },
    /// A trigger that can never fire.
    #[error("the trigger's {what} is {value}; {valid}")]
    BadTrigger {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What is valid.
        valid: &'static str,
    },
}

impl InjectError {
    /// The protocol's kind of this failure.
    pub fn code(&self) -> AgentErrorCode {
        match self {
            InjectError::Toolstack(e) => error_code(e),
            InjectError::NotAvailable(_) | InjectError::NoModule { .. } => {
                AgentErrorCode::NotAvailable
            }
            InjectError::NoSuchTask(_) => AgentErrorCode::NoSuchTask,
            InjectError::BitsNotArmable { .. }
            | InjectError::EmptyMask
            | InjectError::TaskRefused(_)
            | InjectError::BitsNotArmableInXen { .. }
            | InjectError::NotOfHypercall(_)
            | InjectError::NotOfVcpu(_)
            | InjectError::NotOfMemory(_)
            | InjectError::BadWordCount { .. }
            | InjectError::BadProfileTime(_)
            | InjectError::BadTrigger { .. } => AgentErrorCode::Invalid,
        }
    }
}

/// The protocol's kind of a toolstack failure.
pub fn error_code(e: &ToolError) -> AgentErrorCode {
    match e {
        ToolError::NoSuchDomain { .. }
        | ToolError::NoSuchDomainId { .. }
        | ToolError::NoSuchVcpu { .. } => AgentErrorCode::NoSuchDomain,
        ToolError::Busy { .. }
        | ToolError::HypercallBusy { .. }
        | ToolError::ProfileRunning
        | ToolError::NoFreeSlot { .. } => AgentErrorCode::Busy,
        ToolError::Invalid(_)
        | ToolError::Unsupported(_)
        | ToolError::BadLocation { .. }
        | ToolError::NotMapped { .. }
        | ToolError::NotMemory { .. }
        | ToolError::BadWord { .. }
        | ToolError::BadMask { .. }
        | ToolError::BadGuest { .. } => AgentErrorCode::Invalid,
        ToolError::NotAvailable(_)
        | ToolError::NotPermitted(_)
        | ToolError::OtherVersion { .. } => AgentErrorCode::NotAvailable,
        _ => AgentErrorCode::Failed,
    }
}

fn kind_name(kind: GuestKind) -> &'static str {
    match kind {
        GuestKind::Pv => "PV",
        GuestKind::Hvm => "HVM",
        GuestKind::Pvh => "PVH",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_the_bits_asked_for_and_the_valid_ones() {
        let e = InjectError::BitsNotArmable {
            register: Register::Rflags,
            bits: 1 << 9,
            valid: 0x8d5,
            kind: GuestKind::Pv,
        };
        assert_eq!(
            e.to_string(),
            "bits 9 of rflags cannot be changed in a PV guest; valid: 0, 2, 4, 6-7, 11"
        );
        assert_eq!(e.code(), AgentErrorCode::Invalid);
    }
}
