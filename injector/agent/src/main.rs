//! The program in dom0 that arms, runs and reports.
fn main() {}
