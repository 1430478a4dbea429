//! The command on a real emulated Xen host. Without QEMU or a built testbed
//! these are skipped, and say so; where `CI` is set they fail instead.

mod campaign;
mod host;
mod inject;
mod livepatch;
mod memory;
mod tasks;
