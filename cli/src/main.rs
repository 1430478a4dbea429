//! The xfi command.
fn main() {}
