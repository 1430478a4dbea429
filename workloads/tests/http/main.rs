//! The HTTP workload against servers that misbehave on purpose.

mod driver;
mod faults;
mod labels;
mod oracle;
mod proxy;
mod server;
mod summary;
