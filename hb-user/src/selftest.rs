//! Does the attached program really answer?
//!
//! A driver may take the program and lose what it sends. Only the peer can tell: each frame of its
//! says whether an answer of ours arrived on that link within `L_max`. So a native attachment is on
//! trial until the peer has heard an answer; if it was answered often and never heard one, the
//! attachment falls back to generic mode. A witness has no process that could look, so its command does, while
//! the nodes ask.

use std::time::Duration;

use hb_ebpf::{maps::Link, time::BootTime, wire::FLAG_ANSWERS_HEARD};

/// Answers that cannot all have been lost by chance.
const ANSWERS: u64 = 20;
/// How long the peer had to hear one of them.
const PATIENCE: Duration = Duration::from_millis(500);

/// The trial of one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trial {
    /// Answers sent before the trial began.
    answered: u64,
    began: BootTime,
    verdict: Verdict,
}

/// How a trial stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The peer has not asked often enough.
    Pending,
    /// The peer heard an answer.
    Passed,
    /// The peer was answered and heard nothing.
    Failed,
}

impl Trial {
    /// Begins a trial at the first look at a link.
    pub(crate) fn new(link: &Link, now: BootTime) -> Self {
        Self { answered: link.answered, began: now, verdict: Verdict::Pending }
    }

    /// Tells whether the peer was answered since the trial began.
    pub(crate) fn is_asked(&self, link: &Link) -> bool {
        link.answered != self.answered
    }

    /// Looks again. The verdict, once given, stays.
    pub(crate) fn look(&mut self, link: &Link, now: BootTime) -> Verdict {
        if self.verdict == Verdict::Pending {
            let answered = link.answered - self.answered;
            if answered == 0 {
                // The patience begins with the first answer.
                self.began = now;
            }
            if link.flags & FLAG_ANSWERS_HEARD != 0 && answered > 0 {
                self.verdict = Verdict::Passed;
            } else if answered >= ANSWERS && now.since(self.began) >= PATIENCE {
                self.verdict = Verdict::Failed;
            }
        }
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    fn link(answered: u64, flags: u32) -> Link {
        Link { answered, flags, ..Link::new_zeroed() }
    }

    const START: BootTime = BootTime(1_000_000_000);

    fn later(ms: u64) -> BootTime {
        START.after(Duration::from_millis(ms))
    }

    #[test]
    fn passes_when_the_peer_heard() {
        let mut trial = Trial::new(&link(5, 0), START);
        assert_eq!(trial.look(&link(6, FLAG_ANSWERS_HEARD), later(1)), Verdict::Passed);
        assert_eq!(trial.look(&link(500, 0), later(5000)), Verdict::Passed);
    }

    #[test]
    fn fails_after_answers_that_nobody_heard() {
        let mut trial = Trial::new(&link(0, 0), START);
        assert_eq!(trial.look(&link(1, 0), later(1)), Verdict::Pending);
        assert_eq!(trial.look(&link(ANSWERS, 0), later(400)), Verdict::Pending);
        assert_eq!(trial.look(&link(ANSWERS, 0), later(600)), Verdict::Failed);
    }

    #[test]
    fn a_peer_that_does_not_ask_says_nothing() {
        let mut trial = Trial::new(&link(7, 0), START);
        assert_eq!(trial.look(&link(7, 0), later(60_000)), Verdict::Pending);
        assert_eq!(trial.look(&link(8, 0), later(60_001)), Verdict::Pending);
        // An answer heard before the trial proves nothing of what is attached now.
        let mut trial = Trial::new(&link(7, 0), START);
        assert_eq!(trial.look(&link(7, FLAG_ANSWERS_HEARD), later(1)), Verdict::Pending);
    }
}
