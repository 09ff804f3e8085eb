//! May this packet pass?

use super::{
    record::{ENDLESS, Record},
    terms::Terms,
};
use crate::{epoch::Epoch, wire::State};

/// Returns the epoch under which a packet may pass at `now`, or `None` if the gate is closed.
///
/// Two compares: the majority was counted when the last promise came in.
#[inline(always)]
#[must_use]
pub const fn open(record: &Record, now: u64) -> Option<Epoch> {
    if runs(until(record), now) { Some(Epoch(record.epoch)) } else { None }
}

/// Tells whether a lease until `expires_ns`, exclusive, runs at `now`.
#[inline(always)]
const fn runs(expires_ns: u64, now: u64) -> bool {
    now < expires_ns
}

/// What [`until`] publishes of a group that this node does not hold: [`passes`] at no time.
pub const NEVER: u64 = 0;

/// Returns what the gate goes by, published beside the record: when the lease ends, exclusive;
/// [`NEVER`] if this node does not hold; [`ENDLESS`].
#[inline(always)]
#[must_use]
pub const fn until(record: &Record) -> u64 {
    match record.state() {
        State::Holding => record.lease_end_ns,
        _ => NEVER,
    }
}

/// Tells whether a packet may pass at `now`, by what [`until`] published and the stamp of this
/// machine's controller.
#[inline(always)]
#[must_use]
pub const fn passes(
    expires_ns: u64,
    controller_stamp_ns: u64,
    controller_deadtime_ns: u64,
    now: u64,
) -> bool {
    if expires_ns == ENDLESS {
        now.saturating_sub(controller_stamp_ns) <= controller_deadtime_ns
    } else {
        runs(expires_ns, now)
    }
}

/// Returns until when, exclusive, the votes in `record` are those of a strict majority: the end of
/// the vote that is `n`-th to last to end, where `n` other voters complete the majority. 0 if there
/// never was one.
///
/// A majority of up to five voters is this node with one or two others.
#[inline(always)]
#[must_use]
pub fn majority_end(record: &Record, terms: &Terms) -> u64 {
    let (mut last, mut second) = (0, 0);
    for &end in &record.expires_ns {
        if end > last {
            second = last;
            last = end;
        } else if end > second {
            second = end;
        }
    }
    match terms.others_needed() {
        1 => last,
        2 => second,
        _ => 0,
    }
}

const _: () = assert!(super::terms::MAX_VOTERS <= 5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::terms::MAX_VOTERS;
    use proptest::prelude::*;

    proptest! {
        /// Against counting, which is what the rule says.
        #[test]
        fn ends_with_the_majority(
            ends in prop::array::uniform4(0u64..20), count in 2u8..=5, now in 0u64..25
        ) {
            let mut record = Record::default();
            // Place 0 is this node's, whose vote is its own state.
            let others = usize::from(count) - 1;
            record.expires_ns[1..=others].copy_from_slice(&ends[..others]);
            let terms = Terms { count, ..crate::lease::terms::tests::terms() };
            let ahead = 1 + (1..MAX_VOTERS).filter(|&p| now < record.expires_ns[p]).count();
            let majority = 2 * ahead > usize::from(count);
            prop_assert_eq!(now < majority_end(&record, &terms), majority);
        }
    }

    #[test]
    fn only_a_holder_passes_and_only_before_the_end() {
        let mut record = Record { epoch: 0x101, lease_end_ns: 10, ..Record::default() };
        for state in [State::Idle, State::Seeking, State::Released] {
            record.state = state as u8;
            assert_eq!(open(&record, 5), None);
        }
        record.state = State::Holding as u8;
        assert_eq!(open(&record, 9), Some(Epoch(0x101)));
        assert_eq!(open(&record, 10), None);
        assert!(passes(until(&record), 0, 0, 9) && !passes(until(&record), 0, 0, 10));
    }
}
