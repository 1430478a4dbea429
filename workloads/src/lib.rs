//! Load drivers and the oracles that check every answer.
//!
//! [`load`] is the load model that all workloads share; [`http`] is the
//! thesis's web workload, [`exec`] anyone's own program. A campaign runs a load in a process of its own
//! ([`run_spec`]): it is told its load in a file, applies it, judges each
//! answer and writes a log. It knows nothing of faults. [`pcap`] reads the
//! record of the emulated NIC, where resets can be seen that the driver's own
//! sockets hide.
//!
//! Times are nanoseconds of `CLOCK_MONOTONIC` unless said otherwise.

mod clock;
mod driver;
mod error;
pub mod exec;
mod hex;
pub mod http;
pub mod load;
pub mod pcap;

pub use clock::monotonic_ns;
pub use driver::{block_on, parse_spec, run_spec};
pub use error::WorkloadError;
