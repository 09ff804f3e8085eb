//! Generations that a machine reserves when nothing of it runs afterwards.
//!
//! A voter promises no epoch of a generation that is not on its disk, so that its next start, which
//! takes a generation above that number, begins above every epoch it ever promised. A daemon stores
//! a generation when it hears of it. Nobody does that for a witness, so it stores [`HEADROOM`] more
//! than it needs, and may vote for all of them.

/// Generations that are reserved at once. Each start of a node without its record uses up one.
pub const HEADROOM: u32 = 1 << 16;
/// With fewer left than this, [`refill`] reserves more.
const LOW: u32 = HEADROOM / 2;

/// What a start without a record begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Its first generation: nothing below it is promised.
    pub floor: u32,
    /// What has to be on the disk before; everything up to it may be promised.
    pub stored: u32,
}

/// Returns what a machine whose disk holds `stored` begins with, at `learned` or above; `None` if
/// the numbers are used up.
#[must_use]
pub fn reserve(stored: u32, learned: u32) -> Option<Reserved> {
    let floor = stored.checked_add(1)?.max(learned);
    Some(Reserved { floor, stored: floor.saturating_add(HEADROOM) })
}

/// Returns what to store for records that may promise generations up to `granted` and have heard
/// of `heard`; `None` if enough is left.
#[must_use]
pub fn refill(granted: u32, heard: u32) -> Option<u32> {
    let wanted = heard.saturating_add(LOW);
    (granted < wanted).then(|| heard.saturating_add(HEADROOM).max(granted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hb_ebpf::{
        epoch::Epoch,
        lease::{
            Policy, Record, Terms, Timing, start,
            voter::{self, Request, Verdict},
        },
    };
    use proptest::prelude::*;

    fn terms() -> Terms {
        let timing = Timing {
            lease_ns: 2_000_000,
            margin_ns: 200_000,
            drain_ns: 300_000,
            seek_ns: 1_000_000,
            rho: 205,
            interval_ns: 100_000,
            deadtime_ns: 300_000,
            controller_deadtime_ns: 5_000_000,
        };
        Terms::new(Policy::Witness, &timing, &[1, 2, 3], 3, Some(3)).unwrap()
    }

    /// A start without a record, and the instant from which it takes part.
    fn begin(terms: &Terms, reserved: Reserved) -> (Record, u64) {
        let mut record = start::start(terms, reserved.floor, 1);
        assert_eq!(
            start::generation_stored(&mut record, reserved.stored),
            reserved.stored > reserved.floor
        );
        let from = record.blocked_until_ns;
        (record, from)
    }

    fn ask(record: &mut Record, terms: &Terms, epoch: Epoch, now: u64) -> Verdict {
        let request = Request { epoch, lease_ns: 2_000_000, transmit_ns: 1, holds: false };
        voter::request(record, terms, epoch.node(), &request, now)
    }

    #[test]
    fn the_last_number_is_the_last() {
        assert_eq!(reserve(u32::MAX, 0), None);
        let last = reserve(u32::MAX - 1, 0).unwrap();
        assert_eq!((last.floor, last.stored), (u32::MAX, u32::MAX));
        assert_eq!(refill(u32::MAX, u32::MAX), None, "there is nothing to add");
    }

    #[test]
    fn headroom_is_refilled_before_it_is_used_up() {
        let first = reserve(0, 0).unwrap();
        assert_eq!(refill(first.stored, first.floor), None);
        let heard = first.stored - LOW + 1;
        assert_eq!(refill(first.stored, heard), Some(heard + HEADROOM));
        assert_eq!(refill(first.stored, first.stored + 7), Some(first.stored + 7 + HEADROOM));
    }

    proptest! {
        /// Whatever one life promised, the next promises only what lies above.
        #[test]
        fn a_life_promises_nothing_of_an_earlier_one(
            stored in 0..u32::MAX - 2 * HEADROOM - 2,
            learned in 0..u32::MAX - 2 * HEADROOM - 2,
            above in 0..=HEADROOM + 1,
            counter in 1..1u64 << 24,
            again in 0..1u64 << 24,
        ) {
            let terms = terms();
            let first = reserve(stored, learned).unwrap();
            let (mut record, now) = begin(&terms, first);
            let generation = first.floor + above;
            let epoch = Epoch(Epoch::floor(generation).0 | (counter << 8) | 1);
            let verdict = ask(&mut record, &terms, epoch, now);
            if generation > first.stored {
                // What is not on the disk is not promised, however it is heard of.
                prop_assert_eq!(verdict, Verdict::Generation);
                return Ok(());
            }
            prop_assert_eq!(verdict, Verdict::Promised);

            let second = reserve(first.stored, 0).unwrap();
            let (mut record, now) = begin(&terms, second);
            prop_assert!(Epoch::floor(second.floor) > epoch);
            prop_assert_eq!(ask(&mut record, &terms, epoch, now), Verdict::Low);
            let lower = Epoch((epoch.0 & !0xff).saturating_sub(again << 8) | 2);
            prop_assert_eq!(ask(&mut record, &terms, lower, now), Verdict::Low);
            let above = Epoch(Epoch::floor(second.floor).0 | (1 << 8) | 2);
            prop_assert_eq!(ask(&mut record, &terms, above, now), Verdict::Promised);
        }
    }
}
