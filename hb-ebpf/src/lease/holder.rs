//! What a node does to hold a group, and to give it away.

use super::{
    fence, gate,
    record::{CLOSING, ENDLESS, Record},
    terms::Terms,
};
use crate::{epoch::Epoch, wire::State};

/// Why a node cannot seek now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SeekError {
    /// It only votes.
    Witness = 1,
    /// It lost its record or mistrusts its clock, and waits.
    Blocked = 2,
    /// It seeks or holds already; a holder whose lease ran out steps down first.
    Busy = 3,
    /// Its vote is promised to another.
    Bound = 4,
    /// Sockets or addresses of the epoch it left may still be here.
    Unclean = 5,
    /// The generation, that of [`Record::highest`], has to be on this disk first.
    Generation = 6,
    /// The number space is used up.
    Exhausted = 7,
    /// What comes of an earlier fence is not known yet.
    Fencing = 8,
}

/// Begins to seek the group under a new epoch, which is returned. The node's own vote is its own
/// from here on, until it leaves this epoch.
///
/// # Errors
///
/// A [`SeekError`]; the record is then as it was.
#[inline(always)]
pub fn seek(record: &mut Record, terms: &Terms, now: u64) -> Result<Epoch, SeekError> {
    if terms.witness != 0 {
        return Err(SeekError::Witness);
    }
    if record.is_blocked(now) {
        return Err(SeekError::Blocked);
    }
    if matches!(record.state(), State::Seeking | State::Holding) {
        return Err(SeekError::Busy);
    }
    if record.is_bound(now) {
        return Err(SeekError::Bound);
    }
    if record.unclean != 0 {
        return Err(SeekError::Unclean);
    }
    if record.fencing != 0 {
        return Err(SeekError::Fencing);
    }
    let Some(epoch) = record.highest().next(terms.own) else {
        return Err(SeekError::Exhausted);
    };
    if epoch.generation() > record.generation {
        return Err(SeekError::Generation);
    }
    record.leave(State::Seeking);
    record.epoch = epoch.0;
    record.successor = 0;
    record.sought_ns = now;
    Ok(epoch)
}

/// Gives up a seek that took too long; tells whether it did.
#[inline(always)]
pub fn give_up(record: &mut Record, terms: &Terms, now: u64) -> bool {
    let due = now >= record.sought_ns.saturating_add(terms.seek_ns);
    if record.state() != State::Seeking || !due {
        return false;
    }
    record.leave(State::Idle);
    true
}

/// Stops holding after the lease ran out, so that the node may be cleaned and seek again; tells
/// whether it did.
#[inline(always)]
pub fn step_down(record: &mut Record, now: u64) -> bool {
    if record.state() != State::Holding || gate::open(record, now).is_some() {
        return false;
    }
    record.stop_holding(State::Idle, now);
    true
}

/// Notes that sockets bound to the group's addresses were destroyed and the addresses removed,
/// for the epoch left last; tells whether that was news. Refused while the node seeks or holds.
#[inline(always)]
pub fn cleaned(record: &mut Record) -> bool {
    let away = matches!(record.state(), State::Idle | State::Released);
    if !away || record.unclean == 0 {
        return false;
    }
    record.unclean = 0;
    true
}

/// A promise, out of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Epoch promised.
    pub epoch: Epoch,
    /// Transmit time, on this node's clock, of the request it answers.
    pub t0_ns: u64,
    /// Length of the lease promised; 0 of an epoch that was released.
    pub lease_ns: u32,
}

/// What became of a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Taken {
    /// It lengthened that voter's vote.
    Extended = 1,
    /// And with it the majority is complete: the node holds from now on.
    Won = 2,
    /// It is about an epoch that this node neither seeks nor holds.
    Other = 3,
    /// The request it answers is too old, lies ahead, or was answered as late before.
    Stale = 4,
}

/// Takes a promise given by voter `source`.
#[inline(always)]
pub fn promise(
    record: &mut Record,
    terms: &Terms,
    source: u8,
    promise: &Promise,
    now: u64,
) -> Taken {
    // A promise binds its voter to the node, by whichever of its numbers.
    let asked = record.asks_for(now);
    let ours = matches!(record.state(), State::Seeking | State::Holding)
        && promise.epoch.0 >= record.epoch
        && promise.epoch <= asked
        && promise.epoch.node() == terms.own
        && source != terms.own;
    if !ours {
        return Taken::Other;
    }
    let Some(place) = terms.place(source) else { return Taken::Other };
    let t0 = promise.t0_ns;
    if t0 == 0 || t0 > now || now - t0 >= terms.longest_lease_ns {
        return Taken::Stale;
    }
    if promise.epoch == asked {
        follow(record, terms, place, asked);
    }
    let unlimited = fence::is_unlimited(promise, terms);
    let promised_ns = u64::from(promise.lease_ns);
    let lease_ns = if promised_ns < terms.lease_ns { promised_ns } else { terms.lease_ns };
    let end = if unlimited { ENDLESS } else { t0.saturating_add(lease_ns) };
    let endless = record.is_endless();
    let turns = endless != unlimited && fence::may_turn(record, t0, end, now);
    let Some(expires_ns) = record.expires_ns.get_mut(place) else { return Taken::Other };
    // Of an endless lease, and of a promise without an end, only the turn changes anything.
    if !turns && (end <= *expires_ns || endless || unlimited) {
        return Taken::Stale;
    }
    *expires_ns = end;
    record.lease_end_ns = gate::majority_end(record, terms);
    if turns {
        record.sought_ns = now;
    }
    if turns && endless {
        // The new end may have passed by the time that it is published.
        record.open_until_ns = CLOSING;
    }
    if record.state() == State::Seeking && now < record.lease_end_ns {
        record.state = State::Holding as u8;
        record.recorded = record.epoch;
        return Taken::Won;
    }
    Taken::Extended
}

/// Asks for a number above every one known here, if this node holds a lower one and its gate is open,
/// because of a voter that does not vote for it: one that started since, or that another node asked,
/// could promise ours no more. Until a majority has promised the higher number, packets still leave
/// under the lower one.
#[inline(always)]
pub(super) fn renumber(record: &mut Record, terms: &Terms, now: u64) {
    let highest = record.highest();
    if highest <= record.asks_for(now) || gate::open(record, now).is_none() {
        return;
    }
    if let Some(next) = highest.next(terms.own)
        && next.generation() <= record.generation
    {
        record.next = next.0;
        record.followers = 0;
        record.note(next);
    }
}

/// Notes that the voter at `place` promised `asked`. With a majority that did, it is the epoch of this
/// node: whoever holds next needs one of them, and seeks above it.
#[inline(always)]
fn follow(record: &mut Record, terms: &Terms, place: usize, asked: Epoch) {
    if asked.0 == record.epoch {
        return;
    }
    record.followers |= 1 << place;
    if record.followers.count_ones() >= u32::from(terms.others_needed()) {
        record.epoch = asked.0;
        record.recorded = asked.0;
        record.next = 0;
        record.followers = 0;
    }
}

/// Gives a group away whose controller is dead, to whoever seeks it; tells whether it was held. The
/// kernel half does this by itself, so that the others need not wait for what they promised last.
#[inline(always)]
pub fn abandon(record: &mut Record, terms: &Terms, now: u64) -> bool {
    let before = *record;
    let held = release(record, terms, 0, now).is_some();
    record.count_change(&before);
    held
}

/// Gives the group away to `successor`, 0 for whoever seeks it, and closes the gate at once;
/// returns the epoch released, which is the highest it asked for while its gate was open. `None` if
/// the node does not hold, or `successor` is itself or no voter.
#[inline(always)]
pub fn release(record: &mut Record, terms: &Terms, successor: u8, now: u64) -> Option<Epoch> {
    let known = successor == 0 || (successor != terms.own && terms.place(successor).is_some());
    if record.state() != State::Holding || !known {
        return None;
    }
    // Voters may have promised a higher number already.
    record.epoch = record.asks_for(now).0;
    record.stop_holding(State::Released, now);
    record.successor = successor;
    Some(Epoch(record.epoch))
}

#[cfg(test)]
#[path = "holder_tests.rs"]
mod tests;
