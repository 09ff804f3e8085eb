//! Timers that do not contradict each other.

use std::{ops::RangeInclusive, time::Duration};

use hb_ebpf::maps::Timing;

use super::duration::Readable;

/// A timer late by less than this casts no doubt on ourselves, however short the interval.
const LEAST_LATE: Duration = Duration::from_micros(250);

/// Least and most of `interval`.
pub const INTERVAL: RangeInclusive<Duration> = Duration::from_micros(50)..=Duration::from_secs(10);
/// Least and most intervals in `deadtime`.
pub const MISSES: RangeInclusive<u32> = 2..=1000;
/// Least and most of `controller_deadtime`.
pub const CONTROLLER_DEADTIME: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(24 * 3600);
/// Least and most of `doubt_max`.
pub const DOUBT_MAX: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(10);
/// The longest `initdead`.
pub const INITDEAD_MOST: Duration = Duration::from_secs(48 * 3600);

/// Timers as somebody asks for them; `None` takes the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerValues {
    /// Time between two probes on a link.
    pub interval: Duration,
    /// Silence that means dead.
    pub deadtime: Duration,
    /// Silence that is logged. Default: the longer of two intervals and half of deadtime, or the
    /// middle between interval and deadtime where that would reach deadtime.
    pub warntime: Option<Duration>,
    /// The first deadtime after start. Default: the longer of 2 s and ten deadtimes.
    pub initdead: Option<Duration>,
    /// Controller age that means dead. Default: the longer of 100 ms and two deadtimes.
    pub controller_deadtime: Option<Duration>,
    /// How long doubt may put off a verdict. Default: 100 ms.
    pub doubt_max: Option<Duration>,
}

/// Timers of the cluster. What holds of them is what [`Timers::new`] checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    interval: Duration,
    warntime: Duration,
    deadtime: Duration,
    initdead: Duration,
    controller_deadtime: Duration,
    doubt_max: Duration,
}

/// Why timers are refused. Every message shows the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimersError {
    /// A timer is shorter or longer than anything sensible.
    #[error(
        "{key} {} is outside {} to {}; choose a time within",
        Readable(*value), Readable(*least), Readable(*most)
    )]
    Range {
        /// The timer.
        key: &'static str,
        /// What was asked for.
        value: Duration,
        /// The least allowed.
        least: Duration,
        /// The most allowed.
        most: Duration,
    },
    /// One lost probe would mean death.
    #[error(
        "deadtime {} is less than 2 x interval (2 x {} = {}); raise deadtime or lower interval",
        Readable(*deadtime), Readable(*interval), Readable(*interval * 2)
    )]
    DeadtimeShort {
        /// Deadtime.
        deadtime: Duration,
        /// Interval.
        interval: Duration,
    },
    /// Probes far closer than deadtime needs.
    #[error(
        "deadtime {} is more than {} x interval ({}); lower deadtime or raise interval",
        Readable(*deadtime), MISSES.end(), Readable(*interval)
    )]
    DeadtimeLong {
        /// Deadtime.
        deadtime: Duration,
        /// Interval.
        interval: Duration,
    },
    /// Every healthy interval would be logged.
    #[error(
        "warntime {} is less than interval {}; raise warntime to at least the interval",
        Readable(*warntime), Readable(*interval)
    )]
    WarntimeShort {
        /// Warntime.
        warntime: Duration,
        /// Interval.
        interval: Duration,
    },
    /// Death would come before the warning.
    #[error(
        "warntime {} is not less than deadtime {}; lower warntime or raise deadtime",
        Readable(*warntime), Readable(*deadtime)
    )]
    WarntimeLong {
        /// Warntime.
        warntime: Duration,
        /// Deadtime.
        deadtime: Duration,
    },
    /// A peer that is still booting would be taken for dead.
    #[error(
        "initdead {} is less than 2 x deadtime (2 x {} = {}); raise initdead or lower deadtime",
        Readable(*initdead), Readable(*deadtime), Readable(*deadtime * 2)
    )]
    InitdeadShort {
        /// Initdead.
        initdead: Duration,
        /// Deadtime.
        deadtime: Duration,
    },
}

impl TimersError {
    /// Returns the key to change.
    #[must_use]
    pub const fn key(&self) -> &'static str {
        match self {
            Self::Range { key, .. } => key,
            Self::DeadtimeShort { .. } | Self::DeadtimeLong { .. } => "deadtime",
            Self::WarntimeShort { .. } | Self::WarntimeLong { .. } => "warntime",
            Self::InitdeadShort { .. } => "initdead",
        }
    }
}

impl Timers {
    /// Fills in the defaults and checks that the timers fit together.
    ///
    /// # Errors
    ///
    /// Every contradiction, not only the first.
    pub fn new(values: &TimerValues) -> Result<Self, Vec<TimersError>> {
        let TimerValues { interval, deadtime, .. } = *values;
        let mut errors = Vec::new();
        let mut within = |key, value: Duration, range: RangeInclusive<Duration>| {
            if !range.contains(&value) {
                let (least, most) = range.into_inner();
                errors.push(TimersError::Range { key, value, least, most });
            }
        };

        within("interval", interval, INTERVAL);
        let controller_deadtime = values
            .controller_deadtime
            .unwrap_or_else(|| deadtime.saturating_mul(2).max(Duration::from_millis(100)));
        if values.controller_deadtime.is_some() {
            within("controller_deadtime", controller_deadtime, CONTROLLER_DEADTIME);
        }
        let doubt_max = values.doubt_max.unwrap_or(Duration::from_millis(100));
        within("doubt_max", doubt_max, DOUBT_MAX);

        // The rest is judged against the interval; a senseless one would only echo.
        if errors.iter().any(|error| error.key() == "interval") {
            return Err(errors);
        }
        if deadtime < interval * *MISSES.start() {
            errors.push(TimersError::DeadtimeShort { deadtime, interval });
            return Err(errors);
        }
        if deadtime > interval * *MISSES.end() {
            errors.push(TimersError::DeadtimeLong { deadtime, interval });
            return Err(errors);
        }

        let warntime = values.warntime.unwrap_or_else(|| {
            let usual = (interval * 2).max(deadtime / 2);
            if usual < deadtime { usual } else { (interval + deadtime) / 2 }
        });
        if warntime < interval {
            errors.push(TimersError::WarntimeShort { warntime, interval });
        }
        if warntime >= deadtime {
            errors.push(TimersError::WarntimeLong { warntime, deadtime });
        }

        let initdead = values.initdead.unwrap_or((deadtime * 10).max(Duration::from_secs(2)));
        if initdead < deadtime * 2 {
            errors.push(TimersError::InitdeadShort { initdead, deadtime });
        } else if values.initdead.is_some_and(|initdead| initdead > INITDEAD_MOST) {
            let least = deadtime * 2;
            let most = INITDEAD_MOST;
            errors.push(TimersError::Range { key: "initdead", value: initdead, least, most });
        }
        if errors.is_empty() {
            Ok(Self { interval, warntime, deadtime, initdead, controller_deadtime, doubt_max })
        } else {
            Err(errors)
        }
    }

    /// Returns the time between two probes on a link.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        self.interval
    }

    /// Returns the silence that is logged: at least an interval, less than deadtime.
    #[must_use]
    pub const fn warntime(&self) -> Duration {
        self.warntime
    }

    /// Returns the silence that means dead: 2 to 1000 intervals.
    #[must_use]
    pub const fn deadtime(&self) -> Duration {
        self.deadtime
    }

    /// Returns the first deadtime after start: at least two deadtimes.
    #[must_use]
    pub const fn initdead(&self) -> Duration {
        self.initdead
    }

    /// Returns the controller age that means dead.
    #[must_use]
    pub const fn controller_deadtime(&self) -> Duration {
        self.controller_deadtime
    }

    /// Returns how long doubt may put off a verdict.
    #[must_use]
    pub const fn doubt_max(&self) -> Duration {
        self.doubt_max
    }

    /// Returns how often the controller says that it lives, so that its stamp is never mistaken for that
    /// of a dead one.
    #[must_use]
    pub fn tick(&self) -> Duration {
        (self.controller_deadtime / 5).clamp(Duration::from_millis(1), Duration::from_millis(20))
    }

    /// Returns what the kernel half watches a peer by.
    #[must_use]
    pub fn of_peer(&self) -> Timing {
        let ns = |duration: Duration| duration.as_nanos() as u64;
        Timing {
            interval_ns: ns(self.interval),
            warn_ns: ns(self.warntime),
            dead_ns: ns(self.deadtime),
            init_dead_ns: ns(self.initdead),
            doubt_max_ns: ns(self.doubt_max),
            late_ns: ns(self.interval.max(LEAST_LATE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(interval: Duration, deadtime: Duration) -> TimerValues {
        TimerValues {
            interval,
            deadtime,
            warntime: None,
            initdead: None,
            controller_deadtime: None,
            doubt_max: None,
        }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn defaults() {
        let timers = Timers::new(&plain(MS, 5 * MS)).unwrap();
        assert_eq!(timers.warntime(), MS * 5 / 2);
        assert_eq!(timers.initdead(), Duration::from_secs(2));
        assert_eq!(timers.controller_deadtime(), 100 * MS);
        assert_eq!(timers.doubt_max(), 100 * MS);
        let slow = Timers::new(&plain(1000 * MS, 10_000 * MS)).unwrap();
        assert_eq!(slow.initdead(), Duration::from_secs(100));
        assert_eq!(slow.controller_deadtime(), Duration::from_secs(20));
        assert_eq!(slow.warntime(), Duration::from_secs(5));
        let tight = Timers::new(&plain(MS, 2 * MS)).unwrap();
        assert_eq!(tight.warntime(), MS * 3 / 2);
    }

    #[test]
    fn contradictions_show_the_numbers() {
        let text = |values: TimerValues| -> String {
            let errors = Timers::new(&values).unwrap_err();
            errors.iter().map(|error| format!("{error}\n")).collect()
        };
        let base = plain(MS, 5 * MS);
        let short = text(plain(MS, MS * 3 / 2));
        assert!(short.contains("deadtime 1.5ms is less than 2 x interval (2 x 1ms = 2ms)"));
        let both = text(TimerValues {
            warntime: Some(5 * MS),
            initdead: Some(9 * MS),
            doubt_max: Some(Duration::ZERO),
            ..base
        });
        assert!(both.contains("warntime 5ms is not less than deadtime 5ms"), "{both}");
        assert!(both.contains("initdead 9ms is less than 2 x deadtime (2 x 5ms = 10ms)"), "{both}");
        assert!(both.contains("doubt_max 0s is outside 1ms to 10s"), "{both}");
    }

    proptest! {
        /// Whatever is asked for, what comes out fits together, and nothing overflows.
        #[test]
        fn accepted_timers_fit_together(
            interval: u64,
            deadtime: u64,
            warntime: Option<u64>,
            initdead: Option<u64>,
            controller_deadtime: Option<u64>,
            doubt_max: Option<u64>,
            shift in 0_u32..64,
        ) {
            let time = |ns: u64| Duration::from_nanos(ns >> shift);
            let values = TimerValues {
                interval: time(interval),
                deadtime: time(deadtime),
                warntime: warntime.map(time),
                initdead: initdead.map(time),
                controller_deadtime: controller_deadtime.map(time),
                doubt_max: doubt_max.map(time),
            };
            match Timers::new(&values) {
                Ok(timers) => {
                    prop_assert!(INTERVAL.contains(&timers.interval()));
                    prop_assert!(timers.interval() <= timers.warntime());
                    prop_assert!(timers.warntime() < timers.deadtime());
                    prop_assert!(timers.deadtime() * 2 <= timers.initdead());
                }
                Err(errors) => prop_assert!(!errors.is_empty()),
            }
        }

        #[test]
        fn defaults_are_always_accepted(interval_us in 50_u64..=10_000_000, misses in MISSES) {
            let interval = Duration::from_micros(interval_us);
            prop_assert!(Timers::new(&plain(interval, interval * misses)).is_ok());
        }
    }
}
