//! Base-two histograms, as the kernel side fills them.

use serde::Serialize;
use sluice_ebpf_common::endpoint::BUCKETS;

/// Counts by magnitude: bucket 0 holds values below 2, bucket `i` holds `2^i ..= 2^(i+1) - 1`, the last one everything
/// above. What the unit is depends on the field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Histogram {
    /// The counts.
    pub buckets: [u64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS] }
    }
}

impl Histogram {
    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The smallest value that is not in bucket `index` any more; `None` for the last bucket, which has no end.
    #[must_use]
    pub fn upper_bound(index: usize) -> Option<u64> {
        (index + 1 < BUCKETS).then(|| 1_u64 << (index + 1))
    }

    /// An upper bound of the value that `share` (0 to 1) of all values do not exceed; `None` while nothing was counted.
    /// It is at most twice the true value.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank"
        )]
        let rank = ((count as f64 * share.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            seen += bucket;
            if seen >= rank {
                return Some(Self::upper_bound(index).map_or(u64::MAX, |bound| bound - 1));
            }
        }
        None
    }

    pub(crate) fn add(&mut self, other: &[u64; BUCKETS]) {
        for (sum, more) in self.buckets.iter_mut().zip(other) {
            *sum += more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_bounds_the_value_from_above() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        histogram.buckets[3] = 90; // 8..=15
        histogram.buckets[10] = 10; // 1024..=2047
        assert_eq!(histogram.quantile(0.5), Some(15));
        assert_eq!(histogram.quantile(0.9), Some(15));
        assert_eq!(histogram.quantile(0.99), Some(2047));
    }

    #[test]
    fn the_last_bucket_has_no_upper_bound() {
        assert_eq!(Histogram::upper_bound(0), Some(2));
        assert_eq!(Histogram::upper_bound(BUCKETS - 1), None);
    }
}
