//! Policy `available`: each node on its own. No promise is asked for or given.
//!
//! A node that seeks holds at once, without an end: its gate is open for as long as its controller
//! is alive. Of two that hold, the worse one closes its gate at the first word of the other: see
//! `Claim::outranks`.

use super::{
    holder::SeekError,
    record::{ENDLESS, Record},
    terms::Terms,
};
use crate::{
    epoch::Epoch,
    wire::{GroupWord, Standing, State},
};

/// Holds the group from now on under a new epoch, which is returned.
///
/// # Errors
///
/// A [`SeekError`]; the record is then as it was.
#[inline(always)]
pub fn seek(record: &mut Record, terms: &Terms, now: u64) -> Result<Epoch, SeekError> {
    if terms.witness != 0 {
        return Err(SeekError::Witness);
    }
    if matches!(record.state(), State::Seeking | State::Holding) {
        return Err(SeekError::Busy);
    }
    if record.unclean != 0 {
        return Err(SeekError::Unclean);
    }
    let Some(epoch) = record.highest().next(terms.own) else {
        return Err(SeekError::Exhausted);
    };
    if epoch.generation() > record.generation {
        return Err(SeekError::Generation);
    }
    record.leave(State::Holding);
    record.epoch = epoch.0;
    record.recorded = epoch.0;
    record.successor = 0;
    record.sought_ns = now;
    record.promise_t0_ns = 0;
    record.lease_end_ns = ENDLESS;
    Ok(epoch)
}

/// Returns for how long this node has held the group, by a clock that did not stand still meanwhile.
#[inline(always)]
#[must_use]
pub(super) const fn served_ns(record: &Record, now: u64) -> u64 {
    if matches!(record.state(), State::Holding) { now.saturating_sub(record.sought_ns) } else { 0 }
}

/// Two services that differ by less are as long as each other: what is said of them is some time old.
const AS_LONG_NS: u64 = 10_000_000;

/// What one of two holders goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    standing: Standing,
    served_ns: u64,
    epoch: Epoch,
    node: u8,
}

impl Claim {
    /// Tells whether the holder with this claim goes on, and the other one gives way: the one that was
    /// not isolated, then the one that has a path, then the one that served for longer, then the one
    /// with the higher epoch; at equal ones, which cannot be, the lower id. Of two claims one outranks
    /// the other.
    #[inline(always)]
    const fn outranks(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.standing.code(), other.standing.code());
        if ours != theirs {
            return ours < theirs;
        }
        if self.served_ns.abs_diff(other.served_ns) >= AS_LONG_NS {
            return self.served_ns > other.served_ns;
        }
        if self.epoch.0 != other.epoch.0 {
            return self.epoch.0 > other.epoch.0;
        }
        self.node < other.node
    }
}

/// A node that hears a better placed one gives way at once. One that goes on for longer does not hear it,
/// and so who is better placed gives way: nobody may hear that one at all.
const UNHEARD_NS: u64 = 200_000_000;

/// Hears `word` of `source`; tells whether this node gave way. A holder that nobody holds against any
/// more takes a number above all that it heard of, so that what it releases is the newest.
#[inline(always)]
pub fn hear(record: &mut Record, terms: &Terms, source: u8, word: &GroupWord, now: u64) -> bool {
    record.note(word.epoch());
    if record.state() != State::Holding {
        return false;
    }
    if word.state() != State::Holding {
        record.promise_t0_ns = 0;
        if record.newest().0 > record.epoch
            && let Some(epoch) = record.highest().next(terms.own)
            && epoch.generation() <= record.generation
        {
            record.epoch = epoch.0;
            record.recorded = epoch.0;
        }
        return false;
    }
    let ours = Claim {
        standing: Standing::from_code(record.standing),
        served_ns: served_ns(record, now),
        epoch: Epoch(record.epoch),
        node: terms.own,
    };
    let theirs = Claim {
        standing: word.standing(),
        served_ns: word.promise_t0_ns.get(),
        epoch: word.epoch(),
        node: source,
    };
    if ours.outranks(&theirs) {
        if theirs.epoch.0 <= record.epoch {
            return false;
        }
        if record.promise_t0_ns == 0 {
            record.promise_t0_ns = now;
        }
        if now.saturating_sub(record.promise_t0_ns) < UNHEARD_NS {
            return false;
        }
    }
    record.promise_t0_ns = 0;
    record.stop_holding(State::Idle, now);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lease::{
            gate,
            terms::{
                Policy,
                tests::{AFTER, OTHER, terms},
            },
        },
        wire::Be64,
    };

    fn available() -> Terms {
        Terms { policy: Policy::Available as u8, ..terms() }
    }

    fn fresh() -> Record {
        Record { recorded: Epoch::floor(1).0, generation: 1, ..Record::default() }
    }

    fn holding(epoch: u64) -> GroupWord {
        GroupWord { state: State::Holding as u8, epoch: Be64::new(epoch), ..GroupWord::default() }
    }

    #[test]
    fn holds_at_once_while_the_controller_lives() {
        let mut record = fresh();
        let epoch = seek(&mut record, &available(), AFTER).unwrap();
        assert_eq!(epoch.node(), available().own);
        let until = gate::until(&record);
        assert!(gate::passes(until, AFTER, 10, AFTER + 10));
        assert!(!gate::passes(until, AFTER, 10, AFTER + 11));
        assert_eq!(seek(&mut record, &available(), AFTER), Err(SeekError::Busy));
    }

    /// Holds since [`AFTER`].
    fn held() -> (Record, Epoch) {
        let mut record = fresh();
        let epoch = seek(&mut record, &available(), AFTER).unwrap();
        (record, epoch)
    }

    const MS: u64 = 1_000_000;
    const LATER: u64 = AFTER + 1_000 * MS;

    #[test]
    fn gives_way_to_a_higher_epoch_that_serves_as_long_and_to_no_lower_one() {
        let (mut record, epoch) = held();
        let lower = holding(Epoch::floor(1).0 | u64::from(OTHER));
        assert!(!hear(&mut record, &available(), OTHER, &lower, AFTER));
        assert_eq!(record.state(), State::Holding);
        let higher = epoch.next(OTHER).unwrap();
        assert!(hear(&mut record, &available(), OTHER, &holding(higher.0), AFTER));
        assert_eq!((record.state(), gate::until(&record), record.unclean), (State::Idle, 0, 1));
        assert_eq!(seek(&mut record, &available(), AFTER), Err(SeekError::Unclean));
        record.unclean = 0;
        assert!(seek(&mut record, &available(), AFTER).unwrap() > higher);
    }

    #[test]
    fn who_served_for_longer_goes_on() {
        for (theirs_ns, gives_way) in [(0, false), (999 * MS, true), (1_011 * MS, true)] {
            let (mut record, epoch) = held();
            let word = GroupWord {
                promise_t0_ns: Be64::new(theirs_ns),
                ..holding(epoch.next(OTHER).unwrap().0)
            };
            let gave_way = hear(&mut record, &available(), OTHER, &word, LATER);
            assert_eq!(gave_way, gives_way, "{theirs_ns} ns against a second");
        }
        // Not with time in which its clock stood still.
        let (mut record, epoch) = held();
        crate::lease::start::clock_jumped(&mut record, &available(), LATER);
        let word = GroupWord {
            promise_t0_ns: Be64::new(500 * MS),
            ..holding(epoch.next(OTHER).unwrap().0)
        };
        assert!(hear(&mut record, &available(), OTHER, &word, LATER));
    }

    #[test]
    fn who_is_placed_worse_gives_way() {
        let well = Standing::default();
        let (mute, deaf, lost) = (Standing::UNHEARD, Standing::DEAF, Standing::UNREACHED);
        let (dark, alone) = (Standing::NO_PATH, Standing::ISOLATED);
        let both = |one: Standing, other| one.with(other, true);
        let order = [
            well,
            mute,
            deaf,
            both(deaf, mute),
            lost,
            both(lost, deaf),
            dark,
            both(dark, deaf),
            alone,
            both(alone, mute),
            both(alone, dark),
        ];
        for (position, ours) in order.into_iter().enumerate() {
            for (other, theirs) in order.into_iter().enumerate() {
                let (mut record, epoch) = held();
                record.standing = ours.code();
                // Neither the epoch nor the length of the service counts where the standings differ.
                let served = if other > position { u64::MAX } else { 0 };
                let word = GroupWord {
                    state: State::Holding as u8 | theirs.in_word(),
                    promise_t0_ns: Be64::new(served),
                    ..holding(if other > position { epoch.next(OTHER).unwrap().0 } else { 1 })
                };
                let gave_way = hear(&mut record, &available(), OTHER, &word, LATER);
                assert_eq!(gave_way, other < position, "{ours:?} hears {theirs:?}");
            }
        }
    }

    #[test]
    fn who_is_better_placed_and_is_not_heard_gives_way_to_a_higher_epoch() {
        let (mut record, epoch) = held();
        let higher = holding(epoch.next(OTHER).unwrap().0);
        for later in [0, 1, UNHEARD_NS - 1] {
            assert!(!hear(&mut record, &available(), OTHER, &higher, LATER + later), "{later}");
        }
        // It was heard apart meanwhile: what comes then is another conflict.
        hear(&mut record, &available(), OTHER, &GroupWord::default(), LATER + UNHEARD_NS);
        let higher = holding(Epoch(record.epoch).next(OTHER).unwrap().0);
        let again = LATER + UNHEARD_NS + 1;
        assert!(!hear(&mut record, &available(), OTHER, &higher, again));
        assert!(hear(&mut record, &available(), OTHER, &higher, again + UNHEARD_NS));
        // Nor does an earlier conflict count against a later hold.
        let (mut record, _) = held();
        hear(&mut record, &available(), OTHER, &higher, LATER);
        record.stop_holding(State::Released, LATER);
        record.unclean = 0;
        let epoch = seek(&mut record, &available(), LATER).unwrap();
        let higher = holding(epoch.next(OTHER).unwrap().0);
        assert!(!hear(&mut record, &available(), OTHER, &higher, LATER + UNHEARD_NS));
        // Not to a lower one, which may wait for as long as it likes.
        let (mut record, _) = held();
        for later in [0, 2 * UNHEARD_NS] {
            assert!(!hear(&mut record, &available(), OTHER, &holding(1), LATER + later));
        }
    }

    #[test]
    fn of_two_that_hear_each_other_one_goes_on() {
        let mut count = 0;
        for standings in 0..1 << 10 {
            for served in [[0, 0], [5, 0], [0, 5], [50, 0], [0, 50], [100, 91], [91, 100]] {
                for epochs in [[0x101, 0x202], [0x201, 0x102]] {
                    let claim = |side: usize| Claim {
                        standing: Standing::from_code((standings >> (5 * side)) as u8),
                        served_ns: served[side] * MS,
                        epoch: Epoch(epochs[side]),
                        node: side as u8 + 1,
                    };
                    assert!(claim(0).outranks(&claim(1)) != claim(1).outranks(&claim(0)));
                    count += 1;
                }
            }
        }
        assert_eq!(count, 1024 * 7 * 2);
    }

    #[test]
    fn what_goes_on_under_a_lower_number_takes_a_higher_one_once_the_other_is_apart() {
        let (mut record, epoch) = held();
        let higher = epoch.next(OTHER).unwrap();
        assert!(!hear(&mut record, &available(), OTHER, &holding(higher.0), LATER));
        assert_eq!(record.epoch, epoch.0, "not while two hold");
        let apart = GroupWord { epoch: Be64::new(higher.0), ..GroupWord::default() };
        assert!(!hear(&mut record, &available(), OTHER, &apart, LATER));
        assert!(record.epoch > higher.0 && Epoch(record.epoch).node() == available().own);
        assert_eq!((record.state(), record.sought_ns), (State::Holding, AFTER));
        // Not beyond what is on the disk.
        let (mut record, epoch) = held();
        let beyond = GroupWord { epoch: Be64::new(Epoch::floor(2).0 | 0x102), ..apart };
        hear(&mut record, &available(), OTHER, &beyond, LATER);
        assert_eq!(record.epoch, epoch.0);
    }
}
