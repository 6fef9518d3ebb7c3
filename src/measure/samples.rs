//! Repeated timings of one thing.

use serde::{Deserialize, Serialize};

/// Seconds, in the order in which they were measured. Nothing is thrown away: what is made of them can be made again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Samples {
    seconds: Vec<f64>,
}

/// Whether one thing is faster than another, as far as their samples tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The second takes less time.
    Faster,
    /// The second takes more time.
    Slower,
    /// The difference is within the noise, or too small to matter.
    Same,
}

/// Differences of medians below this share are no news, however sure they are.
const MATTERS: f64 = 0.02;

impl Samples {
    /// Samples in the order in which they were measured.
    pub fn new(seconds: Vec<f64>) -> Self {
        Self { seconds }
    }

    /// Adds one.
    pub fn push(&mut self, seconds: f64) {
        self.seconds.push(seconds);
    }

    /// All of them, in order.
    pub fn seconds(&self) -> &[f64] {
        &self.seconds
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.seconds.len()
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.seconds.is_empty()
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// The median, seconds; NaN without samples.
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        match sorted.len() {
            0 => f64::NAN,
            n => (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
        }
    }

    /// The least, seconds; NaN without samples. Disturbances only ever add time.
    pub fn least(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::NAN, f64::min)
    }

    /// An interval that holds the true median with a probability of at least 95 %, seconds: order statistics, whose
    /// ranks follow the binomial distribution whatever the samples' own is. Below six samples no two of them are that
    /// far apart; then it is from the least to the greatest.
    pub fn interval(&self) -> [f64; 2] {
        let sorted = self.sorted();
        let n = sorted.len();
        if n == 0 {
            return [f64::NAN; 2];
        }
        // The greatest rank r with P(fewer than r samples lie below the median) <= 2.5 %.
        let (mut below, mut term, mut rank) = (0.0, 0.5f64.powi(n as i32), 0);
        while rank < n / 2 && below + term <= 0.025 {
            below += term;
            term *= (n - rank) as f64 / (rank + 1) as f64;
            rank += 1;
        }
        let rank = rank.max(1) - 1;
        [sorted[rank], sorted[n - 1 - rank]]
    }

    /// Half of [`Samples::interval`] as a share of the median: 0.03 is ± 3 %.
    pub fn uncertainty(&self) -> f64 {
        let [low, high] = self.interval();
        (high - low) / 2.0 / self.median()
    }

    /// What `after` is against these.
    pub fn verdict(&self, after: &Samples) -> Verdict {
        let ([before_low, before_high], [after_low, after_high]) = (self.interval(), after.interval());
        let (before, after) = (self.median(), after.median());
        if after_high < before_low && after < before * (1.0 - MATTERS) {
            Verdict::Faster
        } else if after_low > before_high && after > before * (1.0 + MATTERS) {
            Verdict::Slower
        } else {
            Verdict::Same
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(seconds: impl IntoIterator<Item = f64>) -> Samples {
        Samples::new(seconds.into_iter().collect())
    }

    #[test]
    fn medians_and_their_intervals() {
        assert!(Samples::default().median().is_nan() && Samples::default().interval()[0].is_nan());
        assert_eq!(samples([3.0]).interval(), [3.0, 3.0]);
        assert_eq!(samples([3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(samples([4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert_eq!(samples([4.0, 1.0, 2.0, 3.0]).least(), 1.0);
        // From six samples on, least to greatest hold it with 97 %; of twenty, the 6th to the 15th with 95.9 %, and
        // the 7th to the 14th would with 88 %.
        assert_eq!(samples((1..=6).map(f64::from)).interval(), [1.0, 6.0]);
        assert_eq!(samples((1..=20).map(f64::from)).interval(), [6.0, 15.0]);
        assert!((samples((1..=20).map(f64::from)).uncertainty() - 4.5 / 10.5).abs() < 1e-12);
    }

    #[test]
    fn only_what_the_samples_show_is_a_difference() {
        let about = |middle: f64, spread: f64| samples((0..20).map(|i| middle + spread * (f64::from(i) / 19.0 - 0.5)));
        assert_eq!(about(1.0, 0.1).verdict(&about(0.8, 0.1)), Verdict::Faster);
        assert_eq!(about(1.0, 0.1).verdict(&about(1.3, 0.1)), Verdict::Slower);
        assert_eq!(about(1.0, 0.5).verdict(&about(1.1, 0.5)), Verdict::Same, "noise");
        assert_eq!(about(1.0, 0.001).verdict(&about(1.01, 0.001)), Verdict::Same, "too little to matter");
        assert_eq!(Samples::default().verdict(&about(1.0, 0.1)), Verdict::Same, "nothing to compare with");
    }
}
