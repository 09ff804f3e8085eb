//! In which order a node leaves nothing behind: what is known goes in, the next step comes out.
//!
//! The gate is the last thing to go. What it holds back is ended first: the leases of this node, its
//! service addresses, what was on its way through the gate, and the connections that are open at those
//! addresses. Where that cannot be done the gate stays, closed.

use std::time::Duration;

use hb_ebpf::time::BootTime;

/// How long it may take until connections are ended, and the last packets have left.
pub(super) const LONGEST: Duration = Duration::from_secs(30);
/// How often a step that fails is tried, and how long after a failure.
const TRIES: u8 = 3;
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// What is known of one of the things that have to be so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known<T> {
    /// Nothing yet.
    Nothing,
    /// It is not so, after so many tries.
    Failed(u8, String),
    /// It is under way, and goes forward.
    Unfinished,
    /// It is so.
    Done(T),
}

impl<T> Known<T> {
    /// Takes note of one more try.
    pub(super) fn tried(&mut self, result: Result<T, Failure>) {
        *self = match (result, &*self) {
            (Ok(done), _) => Self::Done(done),
            (Err(Failure::Unfinished), _) => Self::Unfinished,
            (Err(Failure::Refused(why)), Self::Failed(tries, _)) => {
                Self::Failed(tries.saturating_add(1), why)
            }
            (Err(Failure::Refused(why)), _) => Self::Failed(1, why),
        };
    }
}

/// Why a step was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is more to do than was done at one go.
    Unfinished,
    /// It cannot be done, and why not.
    Refused(String),
}

/// All that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// When this began.
    pub(super) began: BootTime,
    /// No record holds or seeks; by when the last packet has left that the gate let pass.
    pub(super) closed: Known<BootTime>,
    /// No service address is up.
    pub(super) addresses: Known<()>,
    /// Nothing is open or waits unread at a service address.
    pub(super) work: Known<()>,
}

impl Facts {
    pub(super) fn new(began: BootTime) -> Self {
        let (addresses, work) = (Known::Nothing, Known::Nothing);
        Self { began, closed: Known::Nothing, addresses, work }
    }
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Have the records hold and seek nothing.
    Close,
    /// Take the service addresses down.
    RemoveAddresses,
    /// Wait until then.
    Wait(BootTime),
    /// End connections, and read away what nobody has read.
    EndWork,
    /// Take the gate away.
    TakeAway,
    /// Leave the gate where it is, and why.
    Keep(String),
}

/// Returns the next step.
pub(super) fn next(facts: &Facts, now: BootTime) -> Step {
    let left = match step(&facts.closed, Step::Close, facts, now) {
        Ok(left) => *left,
        Err(step) => return step,
    };
    // Before that is waited for: no client begins anything new meanwhile.
    if let Err(step) = step(&facts.addresses, Step::RemoveAddresses, facts, now) {
        return step;
    }
    if left > facts.began.after(LONGEST) {
        return Step::Keep("nobody can tell when the last packets have left".to_owned());
    }
    if now < left {
        return Step::Wait(left);
    }
    match step(&facts.work, Step::EndWork, facts, now) {
        Ok(()) => Step::TakeAway,
        Err(step) => step,
    }
}

/// Returns what is known to be so; else what is to be done about it.
fn step<'a, T>(
    known: &'a Known<T>,
    act: Step,
    facts: &Facts,
    now: BootTime,
) -> Result<&'a T, Step> {
    match known {
        Known::Done(done) => Ok(done),
        Known::Failed(tries, why) if *tries >= TRIES => Err(Step::Keep(why.clone())),
        Known::Unfinished if now >= facts.began.after(LONGEST) => Err(Step::Keep(format!(
            "there are more connections to its service addresses than could be ended in {LONGEST:?}"
        ))),
        Known::Nothing | Known::Failed(..) | Known::Unfinished => Err(act),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn done() -> Facts {
        Facts {
            closed: Known::Done(BootTime(50)),
            addresses: Known::Done(()),
            work: Known::Done(()),
            ..Facts::new(BootTime(10))
        }
    }

    #[test]
    fn everything_the_gate_holds_back_ends_before_it_goes() {
        let mut facts = Facts::new(BootTime(10));
        assert_eq!(next(&facts, BootTime(10)), Step::Close);
        facts.closed.tried(Ok(BootTime(50)));
        assert_eq!(next(&facts, BootTime(10)), Step::RemoveAddresses);
        facts.addresses.tried(Ok(()));
        assert_eq!(next(&facts, BootTime(49)), Step::Wait(BootTime(50)));
        assert_eq!(next(&facts, BootTime(50)), Step::EndWork);
        facts.work.tried(Err(Failure::Unfinished));
        assert_eq!(next(&facts, BootTime(60)), Step::EndWork);
        facts.work.tried(Ok(()));
        assert_eq!(next(&facts, BootTime(60)), Step::TakeAway);
    }

    #[test]
    fn nothing_is_waited_for_that_never_comes() {
        let facts = Facts { closed: Known::Done(BootTime(u64::MAX)), ..done() };
        assert!(matches!(next(&facts, BootTime(60)), Step::Keep(_)));
    }

    #[test]
    fn what_fails_is_tried_again_and_then_keeps_the_gate() {
        let mut facts = Facts { addresses: Known::Nothing, ..done() };
        for _ in 0..TRIES {
            assert_eq!(next(&facts, BootTime(60)), Step::RemoveAddresses);
            facts.addresses.tried(Err(Failure::Refused("busy".to_owned())));
        }
        assert_eq!(next(&facts, BootTime(60)), Step::Keep("busy".to_owned()));
    }

    #[test]
    fn connections_are_ended_for_as_long_as_it_goes_forward_and_not_for_ever() {
        let mut facts = Facts { work: Known::Failed(TRIES - 1, String::new()), ..done() };
        facts.work.tried(Err(Failure::Unfinished));
        let late = BootTime(10).after(LONGEST);
        assert_eq!(next(&facts, BootTime(late.ns() - 1)), Step::EndWork);
        assert!(matches!(next(&facts, late), Step::Keep(_)));
    }

    fn known<T: Clone + std::fmt::Debug + 'static>(done: T) -> impl Strategy<Value = Known<T>> {
        prop_oneof![
            Just(Known::Nothing),
            (0..=TRIES).prop_map(|tries| Known::Failed(tries, "no".to_owned())),
            Just(Known::Unfinished),
            Just(Known::Done(done)),
        ]
    }

    proptest! {
        #[test]
        fn the_gate_goes_only_after_all_else(
            closed in known(BootTime(50)), addresses in known(()), work in known(()),
            now in 0u64..100,
        ) {
            let facts = Facts { began: BootTime(10), closed, addresses, work };
            if next(&facts, BootTime(now)) == Step::TakeAway {
                prop_assert_eq!(&facts, &done());
                prop_assert!(now >= 50);
            }
        }
    }
}
