//! Policy `available`: each node on its own. No promise is asked for or given.
//!
//! A node that seeks holds at once, without an end: its gate is open for as long as its controller
//! is alive. Of two that hold, the one with the lower epoch closes its gate at the first word of
//! the other.

use super::{
    holder::SeekError,
    record::{ENDLESS, Record},
    terms::Terms,
};
use crate::{
    epoch::Epoch,
    wire::{GroupWord, State},
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
    record.lease_end_ns = ENDLESS;
    Ok(epoch)
}

/// Hears `word` of `source`; tells whether this node gave way. At equal epochs, which cannot be, the
/// lower id keeps the group.
#[inline(always)]
pub fn hear(record: &mut Record, terms: &Terms, source: u8, word: &GroupWord, now: u64) -> bool {
    record.note(word.epoch());
    let theirs = word.epoch();
    let outranked = matches!(word.state(), State::Holding)
        && (theirs.0 > record.epoch || (theirs.0 == record.epoch && source < terms.own));
    if record.state() != State::Holding || !outranked {
        return false;
    }
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

    #[test]
    fn gives_way_to_a_higher_epoch_and_to_no_lower_one() {
        let mut record = fresh();
        let epoch = seek(&mut record, &available(), AFTER).unwrap();
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
}
