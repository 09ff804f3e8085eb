//! What failed on this node, and for how long that keeps it from taking a group.

use std::time::Duration;

use hb_ebpf::time::BootTime;

use super::{Around, Group};
use crate::core::{
    action::{Action, Reason, Transition},
    choose::Choice,
};

/// Before a node tries again where no other one can; twice as long after each failure in a row,
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// until it is this.
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// Doublings of the time for which a failure counts where other nodes can serve.
const MOST_DOUBLINGS: u32 = 6;
/// A node that served for so long begins to count its failures anew, where those are never forgotten.
const STEADY: Duration = Duration::from_secs(600);

/// A failure.
#[derive(Clone, Debug)]
struct Failure {
    error: String,
    since: BootTime,
    /// It may be over without anybody's help. What may still run here is never thought to have ended.
    passes: bool,
}

/// The newest failure of a group here that counts, and how many there were in a row.
#[derive(Clone, Debug, Default)]
pub(super) struct Failures {
    counts: Option<Failure>,
    row: u32,
}

impl Failures {
    /// Returns what failed, while it counts.
    pub(super) fn error(&self) -> Option<&String> {
        self.counts.as_ref().map(|failure| &failure.error)
    }

    /// Takes note of a failure; tells whether it is news.
    fn note(&mut self, error: String, passes: bool, now: BootTime) -> bool {
        if self.error() == Some(&error) {
            return false;
        }
        self.row = self.row.saturating_add(1);
        let lasts = self.counts.as_ref().is_some_and(|failure| !failure.passes);
        // What may still run here is not over because something else failed since.
        if !lasts || !passes {
            self.counts = Some(Failure { error, since: now, passes });
        }
        true
    }

    /// Takes note that nothing runs here any more.
    pub(super) fn ended(&mut self, now: BootTime) {
        if let Some(failure) = self.counts.as_mut().filter(|failure| !failure.passes) {
            (failure.since, failure.passes) = (now, true);
        }
    }

    /// Returns when this node may try again although another one can serve.
    fn forgotten_at(&self, timeout: Option<Duration>) -> Option<BootTime> {
        let failure = self.counts.as_ref().filter(|failure| failure.passes)?;
        let doublings = self.row.saturating_sub(1).min(MOST_DOUBLINGS);
        timeout.map(|timeout| failure.since.after(timeout.saturating_mul(1 << doublings)))
    }

    /// Returns when this node may try again if no other one can serve.
    fn retried_at(&self) -> Option<BootTime> {
        let failure = self.counts.as_ref().filter(|failure| failure.passes)?;
        let doublings = self.row.saturating_sub(1).min(MOST_DOUBLINGS);
        Some(failure.since.after((FIRST_RETRY * (1 << doublings)).min(LONGEST_RETRY)))
    }

    /// Returns both.
    pub(super) fn due(&self, timeout: Option<Duration>) -> [Option<BootTime>; 2] {
        [self.forgotten_at(timeout), self.retried_at()]
    }

    /// Forgets everything; tells whether something failed.
    pub(super) fn clear(&mut self) -> bool {
        std::mem::take(self).counts.is_some()
    }
}

impl Group {
    /// Takes note of what failed, which keeps this node from the group until an operator clears it or
    /// `failure_timeout` has passed.
    pub(super) fn fail(&mut self, error: String, now: BootTime, out: &mut Vec<Action>) {
        self.fail_so(error, true, now, out);
    }

    /// Takes note of a failure that leaves something behind: nobody but an operator can say when that is
    /// over.
    pub(super) fn fail_for_good(&mut self, error: String, now: BootTime, out: &mut Vec<Action>) {
        self.fail_so(error, false, now, out);
    }

    fn fail_so(&mut self, error: String, passes: bool, now: BootTime, out: &mut Vec<Action>) {
        let steady = self.setup.failure_timeout.unwrap_or(STEADY);
        if matches!(self.phase, super::Phase::Serving { .. }) && now.since(self.since) >= steady {
            self.failures.row = 0;
        }
        if self.failures.note(error.clone(), passes, now) {
            out.push(Action::Log(Transition::Failed { group: self.id(), error }));
        }
    }

    /// Forgets a failure that is old enough, or sooner where nobody can serve. The node that failed first
    /// tries first. Called while nothing of the group is here.
    pub(super) fn forget_failure(&mut self, around: &Around, out: &mut Vec<Action>) {
        let [forgotten, retried] = self.failures.due(self.setup.failure_timeout);
        let over = |due: Option<BootTime>| due.is_some_and(|due| due <= around.now);
        let nobody = around.choice == Choice::Nobody
            && around.joined
            && !around.leaving
            && !self.takes_nothing();
        let alone = nobody && over(retried);
        if !alone && !over(forgotten) {
            return;
        }
        if let Some(failure) = self.failures.counts.take() {
            let (group, error) = (self.id(), failure.error);
            self.reason = Reason::Cleared;
            out.push(Action::Log(Transition::Forgotten { group, error, alone }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_still_run_counts_on_whatever_else_fails() {
        let (now, timeout) = (BootTime(1_000_000_000), Some(STEADY));
        let mut failures = Failures::default();
        assert!(failures.note("stop".to_owned(), false, now));
        assert!(failures.note("addresses".to_owned(), true, now));
        assert_eq!(failures.due(timeout), [None, None]);
        assert_eq!(failures.error().map(String::as_str), Some("stop"));
        // The other way round it is the later one that lasts.
        assert!(failures.clear() && failures.error().is_none());
        failures.note("start".to_owned(), true, now);
        assert!(failures.due(timeout).iter().all(Option::is_some));
        failures.note("stop".to_owned(), false, now);
        assert_eq!(failures.due(timeout), [None, None]);
    }
}
