//! The replay window of one stream of frames.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Sequence numbers this far behind the newest are still told apart; older ones are refused.
pub const WIDTH: u64 = 128;

/// Which of the last [`WIDTH`] sequence numbers were taken (the sliding window of RFC 4303,
/// section 3.4.3). All zero is a window that has taken nothing.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Window {
    /// The newest sequence number taken; 0 before the first.
    pub newest: u64,
    /// Bit `n` of `taken[0]` stands for `newest - n`, of `taken[1]` for `newest - 64 - n`.
    pub taken: [u64; 2],
}

impl Window {
    /// A window that has taken nothing.
    pub const EMPTY: Self = Self { newest: 0, taken: [0; 2] };

    /// Tells whether `sequence` would be taken. Sequence numbers start at 1.
    #[inline(always)]
    #[must_use]
    pub fn admits(&self, sequence: u64) -> bool {
        if sequence == 0 {
            return false;
        }
        if sequence > self.newest {
            return true;
        }
        let behind = self.newest - sequence;
        if behind < 64 {
            self.taken[0] & (1 << behind) == 0
        } else if behind < WIDTH {
            self.taken[1] & (1 << (behind - 64)) == 0
        } else {
            false
        }
    }

    /// Takes `sequence`, which [`admits`](Self::admits) allowed.
    #[inline(always)]
    pub fn take(&mut self, sequence: u64) {
        if sequence > self.newest {
            let by = sequence - self.newest;
            if by < 64 {
                self.taken[1] = (self.taken[1] << by) | (self.taken[0] >> (64 - by));
                self.taken[0] <<= by;
            } else if by < WIDTH {
                self.taken[1] = self.taken[0] << (by - 64);
                self.taken[0] = 0;
            } else {
                self.taken = [0; 2];
            }
            self.taken[0] |= 1;
            self.newest = sequence;
        } else {
            let behind = self.newest - sequence;
            if behind < 64 {
                self.taken[0] |= 1 << behind;
            } else if behind < WIDTH {
                self.taken[1] |= 1 << (behind - 64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn zero_is_never_taken() {
        assert!(!Window::EMPTY.admits(0));
        assert!(Window::EMPTY.admits(1));
    }

    proptest! {
        /// Against a model that remembers everything.
        #[test]
        fn takes_each_number_once_within_its_width(
            steps in prop::collection::vec((any::<bool>(), 0u64..300), 1..300)
        ) {
            let mut window = Window::EMPTY;
            let mut taken = BTreeSet::new();
            let mut base = 1u64;
            for (forward, by) in steps {
                let sequence = if forward { base + by } else { base.saturating_sub(by) };
                base = base.max(sequence);
                let newest = taken.last().copied().unwrap_or(0);
                let expected = sequence != 0
                    && !taken.contains(&sequence)
                    && (sequence > newest || newest - sequence < WIDTH);
                prop_assert_eq!(window.admits(sequence), expected);
                if expected {
                    window.take(sequence);
                    taken.insert(sequence);
                }
            }
        }
    }
}
