//! Exact intervals on a proportion.

use super::beta::inv_beta_reg;
use serde::Serialize;

/// The confidence of every interval in tables and figures.
pub const CONFIDENCE: f64 = 0.95;

/// A two-sided confidence interval on a proportion.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Lower bound.
    pub lo: f64,
    /// Upper bound.
    pub hi: f64,
}

impl Interval {
    /// What is known of a proportion with no observation.
    pub const NOTHING_KNOWN: Interval = Interval { lo: 0.0, hi: 1.0 };

    /// Whether `p` lies inside, ends included.
    pub fn contains(self, p: f64) -> bool {
        self.lo <= p && p <= self.hi
    }
}

/// The Clopper-Pearson interval on k successes of n independent trials
/// (C. J. Clopper, E. S. Pearson, Biometrika 26(4), 1934), as in the thesis's
/// tables. Exact: its coverage is never below `confidence`.
pub fn clopper_pearson(k: u64, n: u64, confidence: f64) -> Interval {
    debug_assert!(k <= n, "{k} of {n}");
    clopper_pearson_real(k.min(n) as f64, n as f64, confidence)
}

/// The same with real-valued counts, for effective sample sizes (E. L. Korn,
/// B. I. Graubard, Survey Methodology 24(2), 1998).
pub(super) fn clopper_pearson_real(k: f64, n: f64, confidence: f64) -> Interval {
    // NaN is nothing known as well.
    if n.is_nan() || n <= 0.0 {
        return Interval::NOTHING_KNOWN;
    }
    let tail = (1.0 - confidence) / 2.0;
    // For k = 0 and k = n the beta quantile has a closed form; the other end
    // is 0 or 1.
    let open_end = || -(tail.ln() / n).exp_m1();
    if k <= 0.0 {
        return Interval {
            lo: 0.0,
            hi: open_end(),
        };
    }
    if k >= n {
        return Interval {
            lo: 1.0 - open_end(),
            hi: 1.0,
        };
    }
    Interval {
        lo: inv_beta_reg(k, n - k + 1.0, tail),
        hi: inv_beta_reg(k + 1.0, n - k, 1.0 - tail),
    }
}

/// How many control runs without one false failure bring the control's upper
/// bound below `lower_bound`; none when no number does.
pub fn controls_needed(lower_bound: f64, confidence: f64) -> Option<u64> {
    if !(lower_bound > 0.0 && lower_bound < 1.0) {
        return None;
    }
    let tail = (1.0 - confidence) / 2.0;
    Some((tail.ln() / (-lower_bound).ln_1p()).floor() as u64 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn percent(k: u64, n: u64) -> String {
        let i = clopper_pearson(k, n, CONFIDENCE);
        format!("{:.2} {:.2}", i.lo * 100.0, i.hi * 100.0)
    }

    #[test]
    fn known_values() {
        // Thesis table 4, HVM, connection reset; the thesis prints
        // [0.06%; 0.2%], which is a slip.
        assert_eq!(percent(12, 1027), "0.61 2.03");
        // Thesis table 4: client timeouts 130 of 1027, 71 of 968, 150 of 1165.
        assert_eq!(percent(130, 1027), "10.69 14.85");
        assert_eq!(percent(71, 968), "5.77 9.16");
        assert_eq!(percent(150, 1165), "11.00 14.94");
        // Closed forms.
        assert_eq!(percent(0, 10), "0.00 30.85");
        assert_eq!(percent(10, 10), "69.15 100.00");
        assert_eq!(clopper_pearson(0, 0, CONFIDENCE), Interval::NOTHING_KNOWN);
    }

    /// `tests/data/clopper_pearson.csv` was computed with 60 digits
    /// (`tests/data/clopper_pearson.py`).
    #[test]
    fn agrees_with_a_60_digit_reference_up_to_ten_million() {
        let text = include_str!("../../tests/data/clopper_pearson.csv");
        let mut count = 0;
        for line in text.lines().skip(1) {
            let mut f = line.split(',');
            let mut next = || f.next().unwrap();
            let (k, n): (u64, u64) = (next().parse().unwrap(), next().parse().unwrap());
            let (lo, hi): (f64, f64) = (next().parse().unwrap(), next().parse().unwrap());
            let got = clopper_pearson(k, n, CONFIDENCE);
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs().max(1e-300);
            assert!(close(got.lo, lo), "{k}/{n}: lo {} want {lo}", got.lo);
            assert!(close(got.hi, hi), "{k}/{n}: hi {} want {hi}", got.hi);
            count += 1;
        }
        assert!(count >= 1000, "{count} pairs");
    }

    #[test]
    fn coverage_is_at_least_nominal() {
        // Exact, by summing the binomial distribution: no simulation needed.
        for n in [1_u64, 7, 40, 150] {
            let intervals: Vec<_> = (0..=n).map(|k| clopper_pearson(k, n, CONFIDENCE)).collect();
            for step in 1..=100 {
                let p = f64::from(step) / 200.0;
                let mut mass = (1.0 - p).powi(n as i32);
                let mut covered = 0.0;
                for k in 0..=n {
                    if intervals[k as usize].contains(p) {
                        covered += mass;
                    }
                    mass *= (n - k) as f64 / (k + 1) as f64 * p / (1.0 - p);
                }
                assert!(
                    covered >= CONFIDENCE - 1e-9,
                    "n={n} p={p} covered={covered}"
                );
            }
        }
    }

    #[test]
    fn controls_needed_is_the_least_number() {
        for lower in [0.005, 0.02, 0.1, 0.4] {
            let n = controls_needed(lower, CONFIDENCE).unwrap();
            assert!(clopper_pearson(0, n, CONFIDENCE).hi < lower);
            assert!(clopper_pearson(0, n - 1, CONFIDENCE).hi >= lower);
        }
        assert_eq!(controls_needed(0.0, CONFIDENCE), None);
    }

    proptest! {
        #[test]
        fn contains_the_share_and_is_monotone_and_symmetric(n in 1_u64..3_000, f in 0.0..1.0_f64) {
            let k = ((n as f64) * f) as u64;
            let i = clopper_pearson(k, n, CONFIDENCE);
            prop_assert!(i.contains(k as f64 / n as f64));
            prop_assert!(0.0 <= i.lo && i.hi <= 1.0);
            if k < n {
                let next = clopper_pearson(k + 1, n, CONFIDENCE);
                prop_assert!(next.lo >= i.lo && next.hi >= i.hi);
            }
            // More trials with the same successes: both ends fall.
            let more = clopper_pearson(k, n + 1, CONFIDENCE);
            prop_assert!(more.lo <= i.lo && more.hi <= i.hi);
            let mirrored = clopper_pearson(n - k, n, CONFIDENCE);
            prop_assert!((1.0 - mirrored.hi - i.lo).abs() < 1e-12);
            // A wider confidence contains the narrower interval.
            let wide = clopper_pearson(k, n, 0.99);
            prop_assert!(wide.lo <= i.lo && wide.hi >= i.hi);
        }
    }
}
