//! The HTTP workload of thesis §4.1.2.1: clients that ask a CGI for the SHA-1
//! of N zero bytes and check every answer.
//!
//! [`HttpWorkload`] is what [`crate::load::run`] applies, [`run_driver`] both
//! together; [`oracle`] decides whether an answer was right.

mod config;
mod driver;
mod exchange;
pub mod oracle;
mod page;
mod plain;
mod wire;

pub use config::{check_hash_bytes, validate};
pub use driver::{HttpWorkload, run_driver};
pub use exchange::{Get, HttpClient};
pub use plain::{Expect, HttpUrl};
