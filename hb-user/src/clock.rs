//! The one place that asks for the time.
//!
//! Everything else is told it. The clock of the protocol is `CLOCK_BOOTTIME`, which goes on while
//! the machine sleeps; tokio's timers follow `CLOCK_MONOTONIC`, which does not, so whoever sleeps looks
//! at the first in between.

use std::time::{Duration, SystemTime};

use hb_ebpf::time::BootTime;

/// How long a sleep may go without looking at `CLOCK_BOOTTIME`: after the machine slept, a deadline
/// that has passed meanwhile is noticed this much later at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Returns the present instant of `CLOCK_BOOTTIME`.
#[must_use]
pub fn now() -> BootTime {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that outlives the call, which writes nothing else.
    let code = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    // It fails only for a clock the kernel does not have, and this one is older than BPF.
    debug_assert_eq!(code, 0, "clock_gettime(CLOCK_BOOTTIME) failed");
    BootTime(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Returns the time of the clock on the wall, in milliseconds since 1970; 0 before.
#[must_use]
pub fn unix_ms() -> u64 {
    since(SystemTime::UNIX_EPOCH).as_millis() as u64
}

/// Returns how long ago that was by the clock on the wall; zero for what is yet to come.
#[must_use]
pub fn since(time: SystemTime) -> Duration {
    time.elapsed().unwrap_or_default()
}

/// Waits until `at` has come; never returns before, and within a millisecond after unless the
/// runtime is busy or the machine slept.
///
/// Dropping the future is harmless.
pub async fn sleep_until(at: BootTime) {
    loop {
        let left = at.since(now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK_EVERY)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn time_goes_forward() {
        let first = now();
        std::thread::sleep(Duration::from_millis(2));
        assert!(now().since(first) >= Duration::from_millis(2));
        assert!(first > BootTime::NEVER);
    }

    #[test]
    fn sleeps_until_the_deadline_and_not_less() {
        block_on(async {
            sleep_until(BootTime::NEVER).await;
            let at = now().after(Duration::from_millis(30));
            sleep_until(at).await;
            assert!(now() >= at);
        });
    }
}
