//! Fault, injection, run and outcome as pure data.
//!
//! Everything that crosses a process, a file or a crate boundary in xfi is
//! defined here, so that the classifier, the agent and the command cannot
//! disagree about it. No I/O, no clock, no randomness.
//!
//! Times are nanoseconds in fields that end in `_ns`. `CLOCK_MONOTONIC` of the
//! machine that runs `xfi` is the reference unless a field says otherwise.

mod fault;
mod ids;
mod injection;
mod journal;
mod layout;
mod load;
mod manifest;
mod memory;
mod observation;
mod outcome;
mod plan;
mod protocol;
mod register;
mod run;
mod task;

pub use fault::*;
pub use ids::*;
pub use injection::*;
pub use journal::*;
pub use layout::*;
pub use load::*;
pub use manifest::*;
pub use memory::*;
pub use observation::*;
pub use outcome::*;
pub use plan::*;
pub use protocol::*;
pub use register::*;
pub use run::*;
pub use task::*;
