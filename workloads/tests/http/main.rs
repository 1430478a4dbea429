//! The HTTP workload against servers that misbehave on purpose.

mod driver;
mod labels;
mod oracle;
mod server;
mod summary;
