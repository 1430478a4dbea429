//! Proportions, their intervals, and what they are conditional on.
//!
//! The sampling unit is a run: one (bit × time) point of the fault space,
//! drawn with its weight. Everything here is a function of counts; nothing
//! draws random numbers.

mod beta;
mod binomial;
mod share;

pub use binomial::{CONFIDENCE, Interval, clopper_pearson, controls_needed};
pub use share::{Robust, Sample, Share, Truth, robust_share, share};
