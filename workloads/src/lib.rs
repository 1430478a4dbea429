//! Load drivers and the oracles that check every answer.
//!
//! A driver is a process of its own: it is told its load in a file, applies it,
//! judges each answer and writes a log, one JSON object a line. It knows
//! nothing of faults. [`http`] is the thesis's web workload; [`pcap`] reads the
//! record of the emulated NIC, where resets can be seen that the driver's own
//! sockets hide.
//!
//! Times are nanoseconds of `CLOCK_MONOTONIC` unless said otherwise.

mod clock;
mod error;
pub mod http;
pub mod pcap;

pub use clock::monotonic_ns;
pub use error::WorkloadError;
