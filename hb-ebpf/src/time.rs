//! Instants of `CLOCK_BOOTTIME`, the one clock of the protocol.

use core::time::Duration;

/// A frame must echo a transmit time younger than this to count as an arrival, and no lease is
/// longer. A constant of protocol version 1, in nanoseconds.
pub const L_MAX_NS: u64 = 2_000_000_000;

/// An instant of this machine's `CLOCK_BOOTTIME`, in nanoseconds; 0 means "never".
///
/// Differences saturate: the fast kernel clock is not strictly monotonic across CPUs, so a stamp
/// may lie slightly ahead of `now`, and is then of age 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct BootTime(pub u64);

impl BootTime {
    /// The instant that never was.
    pub const NEVER: Self = Self(0);

    /// Returns nanoseconds since boot.
    #[must_use]
    pub const fn ns(self) -> u64 {
        self.0
    }

    /// Returns how long before `self` the instant `earlier` lies; zero if it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Returns the instant `by` later, saturating.
    #[must_use]
    pub const fn after(self, by: Duration) -> Self {
        let by = by.as_nanos();
        if by > u64::MAX as u128 { Self(u64::MAX) } else { Self(self.0.saturating_add(by as u64)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_saturate() {
        let early = BootTime(5);
        let late = BootTime(9);
        assert_eq!(late.since(early), Duration::from_nanos(4));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(late.after(Duration::MAX), BootTime(u64::MAX));
    }
}
