//! How the command waits, and what may end that.

use std::{io, mem, ptr, time::Duration};

use super::WitnessError;

/// Waits for `time`; returns whether SIGTERM or SIGINT came meanwhile. Before and after they end the process
/// as always.
///
/// # Errors
///
/// [`WitnessError::Signals`].
pub(super) fn told_to_end_within(time: Duration) -> Result<bool, WitnessError> {
    // SAFETY: all zero is a valid set of signals, and made an empty one here; each call gets sets and times
    // that live on this stack, and the mask that was is put back.
    unsafe {
        let (mut ends, mut before): (libc::sigset_t, libc::sigset_t) =
            (mem::zeroed(), mem::zeroed());
        libc::sigemptyset(&raw mut ends);
        libc::sigaddset(&raw mut ends, libc::SIGTERM);
        libc::sigaddset(&raw mut ends, libc::SIGINT);
        check(libc::pthread_sigmask(libc::SIG_BLOCK, &raw const ends, &raw mut before))?;
        let mut timeout: libc::timespec = mem::zeroed();
        timeout.tv_sec = time.as_secs() as libc::time_t;
        timeout.tv_nsec = time.subsec_nanos().into();
        let came = libc::sigtimedwait(&raw const ends, ptr::null_mut(), &raw const timeout);
        check(libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()))?;
        // Nothing came, or a signal that was handled: looked again either way.
        Ok(came > 0)
    }
}

/// Returns the error that a number of `pthread_sigmask(3)` means.
fn check(result: libc::c_int) -> Result<(), WitnessError> {
    if result == 0 {
        return Ok(());
    }
    Err(WitnessError::Signals(io::Error::from_raw_os_error(result)))
}

/// Has SIGHUP, SIGUSR1 and SIGUSR2 mean nothing: a terminal that goes must not end a command at work.
pub(super) fn ignore_hangups() {
    for signal in [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2] {
        // SAFETY: sets a disposition, of signals that may be ignored; it cannot fail for these.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_over_when_its_time_is_or_at_a_signal_that_ends_it() {
        assert!(!told_to_end_within(Duration::from_millis(1)).unwrap());
        // SAFETY: sends a signal to this thread, which has it blocked until it waits.
        unsafe {
            let (mut ends, mut before): (libc::sigset_t, libc::sigset_t) =
                (mem::zeroed(), mem::zeroed());
            libc::sigemptyset(&raw mut ends);
            libc::sigaddset(&raw mut ends, libc::SIGTERM);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const ends, &raw mut before);
            libc::pthread_kill(libc::pthread_self(), libc::SIGTERM);
            assert!(told_to_end_within(Duration::from_secs(10)).unwrap());
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        }
    }
}
