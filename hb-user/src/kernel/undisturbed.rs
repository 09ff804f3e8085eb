//! Work that a signal must not interrupt.

use std::{mem::MaybeUninit, ptr};

/// While it lives, signals wait, or are another thread's.
///
/// The verifier gives up with `EAGAIN` when a signal waits for the thread that loads a program
/// (`kernel/bpf/verifier.c`, `do_check`). The load is then tried again with a log of every
/// instruction, which takes seconds.
#[derive(Debug)]
pub(super) struct Undisturbed {
    before: libc::sigset_t,
}

impl Undisturbed {
    /// Begins, for the calling thread.
    pub(super) fn begin() -> Self {
        let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: both sets outlive the calls. The first call fills `all`; the second reads it and
        // fills `before`, and cannot fail with these arguments.
        let before = unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            before.assume_init()
        };
        Self { before }
    }
}

impl Drop for Undisturbed {
    fn drop(&mut self) {
        // SAFETY: the set is one that the kernel gave.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_blocked(signal: i32) -> bool {
        let mut now = MaybeUninit::uninit();
        // SAFETY: the set outlives the calls, and the first one fills it.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), now.as_mut_ptr());
            libc::sigismember(now.as_ptr(), signal) == 1
        }
    }

    #[test]
    fn signals_wait_for_as_long_as_it_lives() {
        assert!(!is_blocked(libc::SIGTERM));
        let undisturbed = Undisturbed::begin();
        assert!(is_blocked(libc::SIGTERM) && is_blocked(libc::SIGINT) && is_blocked(libc::SIGCHLD));
        drop(undisturbed);
        assert!(!is_blocked(libc::SIGTERM));
    }
}
