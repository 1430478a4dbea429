//! `xfi workload` against servers of its own: one that misbehaves when told to,
//! and Debian's Apache with the CGI of the web guests.

mod apache;
mod command;
mod server;
