//! The one place that asks for the time.
//!
//! Everything else is told it. The clock of the protocol is `CLOCK_BOOTTIME`, which goes on while
//! the machine sleeps; tokio's timers follow `CLOCK_MONOTONIC`, which does not, so a deadline is
//! converted late and checked again when it has passed.

use std::time::Duration;

use hb_ebpf::time::BootTime;
use tokio::time::Instant;

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

/// Returns the deadline of tokio's clock at which `at` will come if the machine does not sleep
/// until then; the present for one that has passed. One too far away to express is put off by a
/// year.
#[must_use]
pub fn to_tokio(at: BootTime) -> Instant {
    let present = Instant::now();
    let year = Duration::from_secs(365 * 86_400);
    present.checked_add(at.since(now())).unwrap_or(present + year)
}

/// Returns the instant of `CLOCK_BOOTTIME` at which tokio's clock reads `at`, under the same
/// condition; for a past `at`, when that was, if the machine has not slept since.
#[must_use]
pub fn from_tokio(at: Instant) -> BootTime {
    let present = Instant::now();
    match at.checked_duration_since(present) {
        Some(ahead) => now().after(ahead),
        None => {
            let ago = u64::try_from(present.duration_since(at).as_nanos()).unwrap_or(u64::MAX);
            BootTime(now().ns().saturating_sub(ago))
        }
    }
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
    fn a_deadline_survives_the_way_there_and_back() {
        let error = Duration::from_millis(500);
        for ahead in [Duration::ZERO, Duration::from_millis(3), Duration::from_secs(9000)] {
            let at = now().after(ahead);
            let back = from_tokio(to_tokio(at));
            assert!(back.since(at) < error && at.since(back) < error, "{at:?} became {back:?}");
        }
    }

    #[test]
    fn extremes_do_not_panic() {
        assert!(to_tokio(BootTime::NEVER) <= Instant::now());
        assert!(to_tokio(BootTime(u64::MAX)) > Instant::now());
        let past = Instant::now() - Duration::from_millis(20);
        assert!(now().since(from_tokio(past)) >= Duration::from_millis(19));
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
