//! The lab's clock: `CLOCK_BOOTTIME`, as everywhere in `hb`, so that instants of the kernel, the
//! daemons and the lab lie on one line.

use hb_ebpf::time::BootTime;

/// Returns the time of `clock`, in nanoseconds.
fn read_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for the call. The clocks named here exist on every kernel that can
    // run the lab, so the call does not fail; if it did, `time` would read zero.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
}

/// Returns the time since boot.
#[must_use]
pub fn now() -> BootTime {
    BootTime(read_ns(libc::CLOCK_BOOTTIME))
}

/// Sleeps until `at`; returns at once if that has passed.
pub fn sleep_until(at: BootTime) {
    let time = libc::timespec {
        tv_sec: (at.ns() / 1_000_000_000) as libc::time_t,
        tv_nsec: (at.ns() % 1_000_000_000) as libc::c_long,
    };
    loop {
        // SAFETY: `time` is valid for the call, and no remainder is asked for.
        let result = unsafe {
            libc::clock_nanosleep(
                libc::CLOCK_BOOTTIME,
                libc::TIMER_ABSTIME,
                &raw const time,
                std::ptr::null_mut(),
            )
        };
        if result != libc::EINTR {
            return;
        }
    }
}

/// How to turn `CLOCK_REALTIME` stamps, which sockets carry, into [`BootTime`].
///
/// That clock may be set while stamps wait to be read, as on a virtual machine that stood still.
#[derive(Clone, Copy, Debug)]
pub struct RealTime {
    offset_ns: i64,
    /// The same when it was compared before.
    before_ns: i64,
    /// When that was: what is read now was stamped later.
    since: BootTime,
    at: BootTime,
}

impl RealTime {
    /// Compares the two clocks now. The tightest of five readings counts, a few tens of
    /// nanoseconds wide.
    #[must_use]
    pub fn sample() -> Self {
        let mut best = (u64::MAX, 0);
        let at = now();
        for _ in 0..5 {
            let before = now().ns();
            let real = read_ns(libc::CLOCK_REALTIME);
            let after = now().ns();
            let width = after.saturating_sub(before);
            if width < best.0 {
                best = (width, real as i64 - (before + width / 2) as i64);
            }
        }
        Self { offset_ns: best.1, before_ns: best.1, since: BootTime(0), at }
    }

    /// Compares them again, after all stamps were read that came before `self`.
    #[must_use]
    pub fn again(self) -> Self {
        Self { before_ns: self.offset_ns, since: self.at, ..Self::sample() }
    }

    /// Returns the boot time of a `CLOCK_REALTIME` stamp.
    #[must_use]
    pub fn boot_time(self, stamp: libc::timespec) -> BootTime {
        let real = stamp.tv_sec * 1_000_000_000 + stamp.tv_nsec;
        let known = [self.offset_ns, self.before_ns];
        let within = (self.since, now());
        boot_time(real, &known, within)
            .or_else(|| boot_time(real, &[Self::sample().offset_ns], within))
            .unwrap_or_else(|| BootTime(real.saturating_sub(self.offset_ns).max(0) as u64))
    }
}

/// Returns the boot time of a stamp by the first of `offsets` by which it lies `within` these times, give or take
/// what the clocks are compared to.
fn boot_time(real: i64, offsets: &[i64], within: (BootTime, BootTime)) -> Option<BootTime> {
    const SLACK_NS: u64 = 100_000;
    let at = |offset: &i64| BootTime(real.saturating_sub(*offset).max(0) as u64);
    let fits =
        |at: &BootTime| at.ns() + SLACK_NS >= within.0.ns() && at.ns() <= within.1.ns() + SLACK_NS;
    offsets.iter().map(at).find(fits)
}

/// Asks for `SCHED_FIFO` at `priority` for the calling thread and for exact timers.
///
/// # Errors
///
/// Whatever `sched_setscheduler` says, `EPERM` without `CAP_SYS_NICE`; the thread then goes on as
/// before, with its timers exact.
pub fn real_time(priority: i32) -> std::io::Result<()> {
    // SAFETY: neither call takes memory that outlives it.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
        let parameters = libc::sched_param { sched_priority: priority };
        if libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) == 0 {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error())
        }
    }
}

/// Puts the calling thread back under ordinary scheduling.
///
/// # Errors
///
/// Whatever `sched_setscheduler` says.
pub fn ordinary() -> std::io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads the parameters, which outlive it.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameters) } == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn real_time_stamps_come_back_as_boot_time() {
        let clock = RealTime::sample();
        let before = now();
        let real = read_ns(libc::CLOCK_REALTIME);
        let after = now();
        let stamp = libc::timespec {
            tv_sec: (real / 1_000_000_000) as i64,
            tv_nsec: (real % 1_000_000_000) as i64,
        };
        let boot = clock.boot_time(stamp);
        assert!(boot.after(Duration::from_millis(1)) >= before, "{boot:?} before {before:?}");
        assert!(after.after(Duration::from_millis(1)) >= boot, "{boot:?} after {after:?}");
    }

    /// The clock is set forward by a second while stamps wait: those from before it are converted as before.
    #[test]
    fn a_clock_that_is_set_moves_no_stamp() {
        const MS: i64 = 1_000_000;
        let within = (BootTime(10_000 * MS as u64), BootTime(10_005 * MS as u64));
        let (before, after) = (50_000 * MS, 51_000 * MS);
        let known = [after, before];
        for (real, boot) in [(60_002 * MS, 10_002), (61_003 * MS, 10_003)] {
            assert_eq!(boot_time(real, &known, within), Some(BootTime(boot * MS as u64)));
        }
        // It was set after it was compared.
        assert_eq!(boot_time(61_003 * MS, &[before], within), None);
    }

    #[test]
    fn sleeping_until_the_past_returns() {
        sleep_until(BootTime(1));
        let at = now().after(Duration::from_millis(2));
        sleep_until(at);
        assert!(now() >= at);
    }
}
