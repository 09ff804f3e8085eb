//! How the daemon sees that the thread goes round.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use hb_ebpf::time::BootTime;

/// Tokens that show the daemon that the thread goes round.
#[derive(Debug, Default)]
pub struct Token {
    asked: AtomicU64,
    answered: AtomicU64,
    /// Since when it has been asking the kernel to change addresses, in boot time; 0 if it is not.
    away_ns: AtomicU64,
}

/// For so long the kernel may take to change addresses. A machine that does not come to it in that
/// time serves no other group well either.
pub const AWAY: Duration = Duration::from_secs(2);

impl Token {
    /// The thread went round.
    pub fn answer(&self) {
        let asked = self.asked.load(Ordering::Acquire);
        self.answered.store(asked, Ordering::Release);
    }

    /// The thread asks the kernel to change addresses, from `now` on.
    pub fn go_away(&self, now: BootTime) {
        self.away_ns.store(now.ns(), Ordering::Release);
    }

    /// It does so no more.
    pub fn come_back(&self) {
        self.away_ns.store(0, Ordering::Release);
    }

    /// Tells whether the thread has gone round since the last call, or waits for the kernel and has
    /// not done so for long; asks it to go round again.
    pub fn is_shown(&self, now: BootTime) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        if self.answered.load(Ordering::Acquire) == asked {
            self.asked.store(asked + 1, Ordering::Release);
            return true;
        }
        let away = BootTime(self.away_ns.load(Ordering::Acquire));
        away != BootTime::NEVER && now.since(away) < AWAY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_for_the_kernel_is_not_stuck_for_a_while() {
        let token = Token::default();
        let at = |ms: u64| BootTime(5_000_000_000 + ms * 1_000_000);
        assert!(token.is_shown(at(0)), "nothing was asked before");
        assert!(!token.is_shown(at(1)), "it did not answer");
        token.go_away(at(2));
        assert!(token.is_shown(at(3)) && token.is_shown(at(2001)));
        assert!(!token.is_shown(at(2002)), "for too long");
        token.come_back();
        assert!(!token.is_shown(at(2003)));
        token.answer();
        assert!(token.is_shown(at(2004)));
        assert!(!token.is_shown(at(2005)));
    }
}
