//! Histograms with one bucket per power of two.

/// Buckets of a histogram. Bucket `n` counts values of `n` significant bits, that is
/// `2^(n-1) <= value < 2^n`; bucket 0 counts zeros.
pub const BUCKETS: usize = 64;

/// Counts of durations in nanoseconds.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(C)]
pub struct Histogram {
    /// Values seen per bucket.
    pub counts: [u64; BUCKETS],
}

impl Histogram {
    /// A histogram that has seen nothing.
    pub const EMPTY: Self = Self { counts: [0; BUCKETS] };

    /// Counts one value.
    #[inline(always)]
    pub fn record(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
    }

    /// Returns how many values were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns an upper bound of the `quantile` (0 to 1) in nanoseconds: the top of the bucket it
    /// lies in. `None` if nothing was counted.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let wanted = ((total as f64 * quantile) as u64).clamp(1, total);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Some((1u64 << index) - 1);
            }
        }
        None
    }
}

/// Returns the bucket that counts `ns`. Values of 64 bits (five centuries) would share bucket 0;
/// the mask is what shows the kernel's verifier that the index is in range.
#[inline(always)]
#[must_use]
pub fn bucket(ns: u64) -> usize {
    (u64::BITS - ns.leading_zeros()) as usize & (BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_are_powers_of_two() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(1), 1);
        assert_eq!(bucket(1023), 10);
        assert_eq!(bucket(1024), 11);
        assert_eq!(bucket(u64::MAX >> 1), BUCKETS - 1);
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantile_of_nothing_is_nothing() {
        assert_eq!(Histogram::EMPTY.quantile(0.5), None);
    }

    proptest! {
        #[test]
        fn a_quantile_bounds_its_share(values in prop::collection::vec(0u64..1 << 34, 1..200)) {
            let mut histogram = Histogram::EMPTY;
            for value in &values {
                histogram.record(*value);
            }
            let p50 = histogram.quantile(0.5).unwrap();
            let below = values.iter().filter(|value| **value <= p50).count();
            prop_assert!(below * 2 >= values.len() - 1);
            prop_assert_eq!(histogram.total(), values.len() as u64);
        }
    }
}
