//! The clock of one machine: its own origin, its own rate, and it may stand still.

/// Rates count in this many parts of real time, as [`hb_ebpf::lease::terms::RHO_ONE`].
pub(crate) const RATE_ONE: u64 = 1024;

/// Reads `CLOCK_BOOTTIME` of one machine at an instant of real time. Everything in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// An instant of real time, and what the clock read then.
    real: u64,
    local: u64,
    /// 0 while it stands still.
    rate: u64,
    /// The rate it goes at otherwise.
    nominal: u64,
}

impl Clock {
    pub(crate) fn new(real: u64, local: u64, rate: u64) -> Self {
        Self { real, local, rate, nominal: rate }
    }

    /// Returns what the clock reads at `real`.
    pub(crate) fn at(&self, real: u64) -> u64 {
        self.local + real.saturating_sub(self.real) * self.rate / RATE_ONE
    }

    /// Returns the first instant of real time, from `now` on, at which the clock reads at least
    /// `local`, as far as can be told at `now`; never for a clock that stands still before.
    pub(crate) fn real_of(&self, local: u64, now: u64) -> u64 {
        if local <= self.at(now) {
            return now;
        }
        if self.rate == 0 {
            return u64::MAX;
        }
        let span = u128::from(local - self.local) * u128::from(RATE_ONE);
        let span = span.div_ceil(u128::from(self.rate));
        self.real.saturating_add(u64::try_from(span).unwrap_or(u64::MAX))
    }

    /// Goes at another rate from `real` on, at once or when it is let go.
    pub(crate) fn set_rate(&mut self, real: u64, rate: u64) {
        self.nominal = rate;
        if self.rate != 0 {
            self.turn(real, rate);
        }
    }

    pub(crate) fn stop(&mut self, real: u64) {
        self.turn(real, 0);
    }

    pub(crate) fn go_on(&mut self, real: u64) {
        self.turn(real, self.nominal);
    }

    pub(crate) fn stands(&self) -> bool {
        self.rate == 0
    }

    fn turn(&mut self, real: u64, rate: u64) {
        *self = Self { real, local: self.at(real), rate, nominal: self.nominal };
    }
}

#[test]
fn a_clock_reads_and_is_asked_back() {
    let mut clock = Clock::new(1_000, 50, 1229);
    assert_eq!(clock.at(1_000), 50);
    assert_eq!(clock.at(2_024), 50 + 1229);
    for local in 51..2_000 {
        let real = clock.real_of(local, 1_000);
        assert!(clock.at(real) >= local && clock.at(real - 1) < local, "{local}");
    }
    clock.stop(2_024);
    assert_eq!((clock.at(9_000), clock.stands()), (50 + 1229, true));
    assert_eq!(clock.real_of(5_000, 9_000), u64::MAX);
    clock.set_rate(9_000, 1024);
    clock.go_on(9_000);
    assert_eq!(clock.at(9_100), 50 + 1229 + 100);
}
