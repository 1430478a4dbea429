//! The share of runs with some property: weights, clusters and unjudged runs.
//!
//! - *Unjudged* runs stay in the denominator. The interval runs from the lower
//!   bound with all of them counted as lacking the property to the upper bound
//!   with all of them counted as having it.
//! - *Weights*: when all are equal the share is plain and its interval exact.
//!   Otherwise the share is Σw·y / Σw and the interval is Clopper-Pearson's at
//!   the effective sample size (Korn and Graubard 1998).
//! - *Clusters*: runs from one warmed snapshot resemble each other. The robust
//!   interval takes its variance between snapshots (linearised, with K-1
//!   degrees of freedom) and is never narrower than the plain one.

use super::binomial::{CONFIDENCE, Interval, clopper_pearson_real};
use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};
use std::collections::BTreeMap;

/// Whether a run has the property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It has.
    Yes,
    /// It has not.
    No,
    /// It fired, or may have, and could not be judged.
    Unjudged,
}

/// One run, as far as a share is concerned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Whether it has the property.
    pub truth: Truth,
    /// How many points of the fault space it stands for.
    pub weight: f64,
    /// The snapshot it started from.
    pub cluster: u32,
}

/// A share with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    /// Runs that have the property.
    pub count: u64,
    /// Runs in the denominator, unjudged ones included.
    pub total: u64,
    /// Unjudged runs in the denominator.
    pub unjudged: u64,
    /// The (weighted) share with unjudged runs counted as lacking the
    /// property; none when the denominator is empty.
    pub share: Option<f64>,
    /// The same with unjudged runs counted as having it.
    pub share_if_unjudged: Option<f64>,
    /// 95 % interval, over both ways of counting the unjudged.
    pub interval: Interval,
    /// Whether weights differed.
    pub weighted: bool,
}

/// A cluster-robust interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Robust {
    /// 95 % interval, over both ways of counting the unjudged.
    pub interval: Interval,
    /// Variance between snapshots over the variance of as many independent
    /// runs; none when every run or no run has the property.
    pub design_effect: Option<f64>,
    /// K: snapshots among these runs.
    pub clusters: u32,
}

/// The share of `samples` that have the property.
pub fn share(samples: &[Sample]) -> Share {
    let count = samples.iter().filter(|s| s.truth == Truth::Yes).count() as u64;
    let unjudged = samples
        .iter()
        .filter(|s| s.truth == Truth::Unjudged)
        .count() as u64;
    let low = Moments::of(samples, false);
    let high = Moments::of(samples, true);
    Share {
        count,
        total: samples.len() as u64,
        unjudged,
        share: low.share(),
        share_if_unjudged: high.share(),
        interval: Interval {
            lo: low.interval().lo,
            hi: high.interval().hi,
        },
        weighted: low.weighted,
    }
}

/// The interval that is robust to clustering by snapshot; none with fewer than
/// two snapshots.
pub fn robust_share(samples: &[Sample]) -> Option<Robust> {
    let (low, clusters, design_effect) = clustered(samples, false)?;
    let (high, ..) = clustered(samples, true)?;
    let plain = share(samples).interval;
    let interval = Interval {
        lo: low.lo.min(plain.lo),
        hi: high.hi.max(plain.hi),
    };
    Some(Robust {
        interval,
        design_effect,
        clusters,
    })
}

/// Sums over samples with the unjudged counted one way.
struct Moments {
    n: f64,
    yes: f64,
    weight: f64,
    weight_yes: f64,
    /// Σ w² over those that have the property, and over those that lack it.
    square_yes: f64,
    square_no: f64,
    weighted: bool,
}

impl Moments {
    fn of(samples: &[Sample], unjudged_as: bool) -> Moments {
        let first = samples.first().map_or(1.0, |s| s.weight);
        let mut m = Moments {
            n: samples.len() as f64,
            yes: 0.0,
            weight: 0.0,
            weight_yes: 0.0,
            square_yes: 0.0,
            square_no: 0.0,
            weighted: false,
        };
        for s in samples {
            m.weighted |= s.weight != first;
            m.weight += s.weight;
            if has(s, unjudged_as) {
                m.yes += 1.0;
                m.weight_yes += s.weight;
                m.square_yes += s.weight * s.weight;
            } else {
                m.square_no += s.weight * s.weight;
            }
        }
        m
    }

    fn share(&self) -> Option<f64> {
        if self.n == 0.0 {
            None
        } else if self.weighted && self.weight > 0.0 {
            Some(self.weight_yes / self.weight)
        } else {
            Some(self.yes / self.n)
        }
    }

    fn interval(&self) -> Interval {
        let Some(p) = self.share() else {
            return Interval::NOTHING_KNOWN;
        };
        if !self.weighted {
            return clopper_pearson_real(self.yes, self.n, CONFIDENCE);
        }
        // Linearised variance of Σwy/Σw: Σ w²(y-p)² / (Σw)².
        let squares = self.square_yes * (1.0 - p) * (1.0 - p) + self.square_no * p * p;
        let variance = squares / (self.weight * self.weight);
        let kish = self.weight * self.weight / (self.square_yes + self.square_no);
        let n = if variance > 0.0 {
            (p * (1.0 - p) / variance).min(self.n)
        } else {
            kish
        };
        clopper_pearson_real(p * n, n, CONFIDENCE)
    }
}

fn has(sample: &Sample, unjudged_as: bool) -> bool {
    match sample.truth {
        Truth::Yes => true,
        Truth::No => false,
        Truth::Unjudged => unjudged_as,
    }
}

fn clustered(samples: &[Sample], unjudged_as: bool) -> Option<(Interval, u32, Option<f64>)> {
    let moments = Moments::of(samples, unjudged_as);
    let p = moments.share()?;
    let weight_of = |s: &Sample| if moments.weighted { s.weight } else { 1.0 };
    let total: f64 = samples.iter().map(weight_of).sum();
    let mut residual: BTreeMap<u32, f64> = BTreeMap::new();
    for s in samples {
        let y = f64::from(u8::from(has(s, unjudged_as)));
        *residual.entry(s.cluster).or_insert(0.0) += weight_of(s) * (y - p);
    }
    let clusters = residual.len() as u32;
    if clusters < 2 {
        return None;
    }
    if p <= 0.0 || p >= 1.0 {
        return Some((moments.interval(), clusters, None));
    }
    let k = f64::from(clusters);
    let variance = k / (k - 1.0) * residual.values().map(|r| r * r).sum::<f64>() / (total * total);
    let n = moments.n;
    let design_effect = variance / (p * (1.0 - p) / n);
    let effective = if design_effect > 0.0 {
        let ratio = t_quantile(n - 1.0) / t_quantile(k - 1.0);
        (n / design_effect * ratio * ratio).min(n)
    } else {
        n
    };
    let interval = clopper_pearson_real(p * effective, effective, CONFIDENCE);
    Some((interval, clusters, Some(design_effect)))
}

/// The two-sided quantile of Student's t at [`CONFIDENCE`].
fn t_quantile(freedom: f64) -> f64 {
    StudentsT::new(0.0, 1.0, freedom.max(1.0))
        .map_or(f64::NAN, |t| t.inverse_cdf(1.0 - (1.0 - CONFIDENCE) / 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::clopper_pearson;
    use proptest::prelude::*;

    fn sample(truth: Truth, weight: f64, cluster: u32) -> Sample {
        Sample {
            truth,
            weight,
            cluster,
        }
    }

    #[test]
    fn student_t_quantiles_are_those_of_the_tables() {
        for (freedom, want) in [(1.0, 12.706_205), (9.0, 2.262_157), (120.0, 1.979_930)] {
            let got = t_quantile(freedom);
            assert!((got - want).abs() < 1e-5, "{freedom}: {got} {want}");
        }
    }

    #[test]
    fn unjudged_runs_widen_both_ways() {
        let mut runs = vec![sample(Truth::Yes, 1.0, 0); 3];
        runs.extend(vec![sample(Truth::No, 1.0, 0); 15]);
        runs.extend(vec![sample(Truth::Unjudged, 1.0, 0); 2]);
        let s = share(&runs);
        assert_eq!((s.count, s.total, s.unjudged), (3, 20, 2));
        assert_eq!((s.share, s.share_if_unjudged), (Some(0.15), Some(0.25)));
        assert_eq!(s.interval.lo, clopper_pearson(3, 20, CONFIDENCE).lo);
        assert_eq!(s.interval.hi, clopper_pearson(5, 20, CONFIDENCE).hi);
    }

    #[test]
    fn weights_move_the_share_and_shrink_the_effective_sample() {
        let mut runs = vec![sample(Truth::Yes, 4.0, 0); 10];
        runs.extend(vec![sample(Truth::No, 1.0, 0); 40]);
        let s = share(&runs);
        assert!(s.weighted);
        assert_eq!(s.share, Some(0.5));
        let plain = clopper_pearson(25, 50, CONFIDENCE);
        assert!(
            s.interval.lo < plain.lo && s.interval.hi > plain.hi,
            "{:?}",
            s.interval
        );
    }

    #[test]
    fn a_snapshot_that_decides_everything_shows_as_a_large_design_effect() {
        let mut runs = Vec::new();
        for cluster in 0..10 {
            let truth = if cluster < 2 { Truth::Yes } else { Truth::No };
            runs.extend(vec![sample(truth, 1.0, cluster); 50]);
        }
        let robust = robust_share(&runs).unwrap();
        // 50 runs a cluster, all alike: the design effect is 50 · K/(K-1).
        assert!((robust.design_effect.unwrap() - 50.0 * 10.0 / 9.0).abs() < 1e-9);
        let plain = share(&runs).interval;
        assert!(robust.interval.lo < plain.lo / 2.0 && robust.interval.hi > plain.hi * 1.5);
    }

    #[test]
    fn snapshots_alike_leave_the_exact_interval() {
        let mut runs = Vec::new();
        for cluster in 0..10 {
            runs.extend(vec![sample(Truth::Yes, 1.0, cluster); 5]);
            runs.extend(vec![sample(Truth::No, 1.0, cluster); 45]);
        }
        let robust = robust_share(&runs).unwrap();
        assert!(robust.design_effect.unwrap() < 1e-20);
        assert_eq!(robust.interval, share(&runs).interval);
        assert!(robust_share(&runs[..50]).is_none());
    }

    fn samples() -> impl Strategy<Value = Vec<Sample>> {
        let truth = prop_oneof![Just(Truth::Yes), Just(Truth::No), Just(Truth::Unjudged)];
        let weight = prop_oneof![3 => Just(1.0), 1 => 0.1..9.0_f64];
        let one = (truth, weight, 0..4_u32).prop_map(|(truth, weight, cluster)| Sample {
            truth,
            weight,
            cluster,
        });
        proptest::collection::vec(one, 0..120)
    }

    proptest! {
        #[test]
        fn intervals_contain_the_share_whatever_the_weights(runs in samples()) {
            let s = share(&runs);
            if let (Some(low), Some(high)) = (s.share, s.share_if_unjudged) {
                prop_assert!(s.interval.lo <= low + 1e-12);
                prop_assert!(high <= s.interval.hi + 1e-12);
            }
            if let Some(r) = robust_share(&runs) {
                prop_assert!(r.interval.lo <= s.interval.lo && s.interval.hi <= r.interval.hi);
            }
            let mut reversed = runs.clone();
            reversed.reverse();
            let back = share(&reversed);
            prop_assert_eq!(back.count, s.count);
            prop_assert!((back.interval.lo - s.interval.lo).abs() < 1e-9);
        }
    }
}
