//! Arms faults and reads back what happened.
//!
//! One module per place a fault can be put ([`vcpu`], [`task`]), and the host's
//! [`integrity`] test.

mod error;
pub mod integrity;
pub mod task;
pub mod vcpu;

pub use error::{InjectError, Result, error_code};
