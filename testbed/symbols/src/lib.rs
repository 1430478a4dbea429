//! Names, ranges and instructions of the code a vCPU can execute: Xen's, from
//! its `xen-syms`, and a guest kernel's, from its symbol list.
//!
//! A crate of its own as testbed, campaign, command and fuzz targets all need
//! it and none of them should pull in the others; it reads files it is given
//! and knows of no testbed.

mod elf;
mod error;
mod hypercalls;
mod lines;
mod locations;
mod place;
mod rip;
mod table;

pub use elf::Elf;
pub use error::SymbolsError;
pub use hypercalls::{HYPERCALLS, Handler, Hypercall, find_hypercall};
pub use lines::SourceLines;
pub use locations::{At, Instruction, Locations, Part, Path as CodePath};
pub use place::Place;
pub use rip::{RipExpr, RipFilter, XEN_RESERVED};
pub use table::{Symbol, SymbolTable, Symbols};
