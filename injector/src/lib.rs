//! Arms faults and reads back what happened.
//!
//! One module per place a fault can be put ([`vcpu`], [`hypercall`], [`task`],
//! [`memory`]), what is [`armed`] in Xen, hypercalls that are counted
//! ([`profile`]), and the host's [`integrity`] test.

pub mod armed;
mod error;
pub mod hypercall;
pub mod integrity;
pub mod memory;
pub mod profile;
pub mod task;
mod times;
pub mod vcpu;

pub use error::{InjectError, Result, error_code};
