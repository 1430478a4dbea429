//! The HTTP workload of thesis §4.1.2.1: closed-loop clients that ask a CGI for
//! the SHA-1 of N zero bytes and check every answer.
//!
//! * [`run_http_driver`] is the driver as a process, [`run_driver`] as a future;
//! * [`oracle`] decides whether an answer was right;
//! * [`summarise`] turns a driver's log into what the classifier reads;
//! * [`bands`] and [`calibrate`] learn from golden runs.

mod band;
mod config;
mod driver;
mod exchange;
mod log;
pub mod oracle;
mod page;
mod summary;
mod wire;

pub use band::{Calibration, band, bands, calibrate};
pub use config::{load_config, parse_config, validate};
pub use driver::{DriverReport, run_driver, run_http_driver};
pub use log::{LOG_FORMAT, LogReader};
pub use summary::{ServiceContext, Summary, summarise};

/// What the driver is told; see [`xfi_model::HttpLoad`].
pub type Config = xfi_model::HttpLoad;
