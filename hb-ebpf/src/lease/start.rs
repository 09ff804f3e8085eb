//! Beginnings: a machine without its record, a generation on disk, a clock that jumped.

use super::{
    record::{CLOSING, Record},
    terms::{Policy, Terms},
};
use crate::{
    epoch::Epoch,
    wire::{GROUPS, GroupWord, State},
};

/// The record of a machine that starts at `now` without one and reserved `generation` on its disk:
/// one more than the number stored there, stored before this is called.
///
/// It takes no part until every promise it may have given before has run out.
#[inline(always)]
#[must_use]
pub fn start(terms: &Terms, generation: u32, now: u64) -> Record {
    Record {
        recorded: Epoch::floor(generation).0,
        generation,
        blocked_until_ns: now.saturating_add(terms.amnesia_ns()),
        ..Record::default()
    }
}

/// Has a record that begins follow one that was there `before`: its gate may be open until it is
/// published that it is not.
#[inline(always)]
pub(super) const fn follow(record: &mut Record, before: &Record) {
    record.changes = before.changes;
    if before.lease_end_ns != 0 || before.open_until_ns != 0 {
        record.open_until_ns = CLOSING;
    }
}

/// Ends the record's part: this machine leaves in order, and its record goes with it. Returns the
/// instant by which every promise it gave has run out and its own last packets have left, so that a
/// later [`start`] on the same clock need not wait for longer; `None`, and nothing changed, if it is
/// a learner, seeks or holds still, or is [closing](Record::closing).
///
/// A promise without an end has no such instant, and is begun with [again](super::fence::rejoin).
#[inline(always)]
pub fn part(record: &mut Record, terms: &Terms, now: u64) -> Option<u64> {
    let apart = matches!(record.state(), State::Idle | State::Released);
    if is_learner(record) || !apart || record.closing().is_some() {
        return None;
    }
    let mut end = now;
    if record.blocked_until_ns > end {
        end = record.blocked_until_ns;
    }
    if record.vow == 0 && record.until_ns > end {
        end = record.until_ns;
    }
    if record.open_until_ns != 0 {
        let last_packets = record.open_until_ns.saturating_add(terms.wait_ns());
        if last_packets > end {
            end = last_packets;
        }
    }
    record.blocked_until_ns = u64::MAX;
    Some(end)
}

/// The record of a machine that lost its disk as well: a learner. It hears of epochs and takes no
/// part until an operator confirms, which is [`start`] with the generation that
/// [`learned_generation`] names.
#[inline(always)]
#[must_use]
pub fn start_as_learner() -> Record {
    Record { blocked_until_ns: u64::MAX, ..Record::default() }
}

/// Tells whether the record is a learner's: it stays one, whatever is started anew around it, until
/// an operator or the other voters confirm.
#[inline(always)]
#[must_use]
pub const fn is_learner(record: &Record) -> bool {
    record.blocked_until_ns == u64::MAX
}

/// Returns the generation a confirmed learner starts with, `None` if the numbers are used up: one
/// above what it heard of, to be confirmed only when every other voter was heard.
#[must_use]
pub fn learned_generation(record: &Record) -> Option<u32> {
    record.highest().generation().checked_add(1)
}

/// Returns the highest generation that a machine's words tell of, whichever groups they are of.
#[must_use]
pub fn told_generation(words: &[GroupWord; GROUPS]) -> u32 {
    let told = |word: &GroupWord| word.epoch().max(Epoch(word.promise_epoch.get()));
    words.iter().map(told).max().unwrap_or_default().generation()
}

/// Notes that `generation` is on this machine's disk now; tells whether that was news.
#[inline(always)]
pub fn generation_stored(record: &mut Record, generation: u32) -> bool {
    if generation <= record.generation {
        return false;
    }
    record.generation = generation;
    true
}

/// Returns the generation that has to be stored before this machine can vote for or seek the
/// highest epoch it heard of; `None` if it is there.
#[inline(always)]
#[must_use]
pub fn generation_wanted(record: &Record) -> Option<u32> {
    let heard = record.highest().generation();
    if heard > record.generation { Some(heard) } else { None }
}

/// Notes that this machine's clock jumped or stood still, by any amount either way: its gate
/// closes, and every promise counts from `now` as if it were the longest.
#[inline(always)]
pub fn clock_jumped(record: &mut Record, terms: &Terms, now: u64) {
    if matches!(terms.policy(), Policy::Available) {
        // What was not served counts for nothing against who served meanwhile.
        record.sought_ns = now;
        record.promise_t0_ns = 0;
        return;
    }
    if record.is_endless() {
        // No promise is counted on, and none was given that a clock could end too soon.
        return;
    }
    let later = now.saturating_add(terms.amnesia_ns());
    match record.state() {
        State::Holding => {
            // When the gate was last open is known only on the clock that is no more.
            let was_open = record.lease_end_ns != 0;
            record.stop_holding(State::Idle, now);
            record.open_until_ns = if was_open { CLOSING } else { 0 };
        }
        State::Seeking => record.leave(State::Idle),
        State::Idle | State::Released => {
            if record.open_until_ns != 0 {
                record.open_until_ns = CLOSING;
            }
        }
    }
    record.sought_ns = 0;
    if record.promised != 0 && record.vow == 0 {
        record.until_ns = later;
    }
    // A learner stays one.
    if !is_learner(record) {
        record.blocked_until_ns = later;
    }
}

/// Notes that `terms` take the place of those that promises were given by: all counts anew, as after a
/// jump of the clock, but no wait gets shorter. To be called under either terms.
#[inline(always)]
pub fn terms_changed(record: &mut Record, terms: &Terms, now: u64) {
    let (until_ns, blocked_until_ns) = (record.until_ns, record.blocked_until_ns);
    clock_jumped(record, terms, now);
    if record.until_ns < until_ns {
        record.until_ns = until_ns;
    }
    if record.blocked_until_ns < blocked_until_ns {
        record.blocked_until_ns = blocked_until_ns;
    }
}

/// Notes that the clock of another machine stood still, or that this one's went ahead: what was
/// promised counts from `now` as if it were the longest. The gate is as it was: by a clock that went
/// ahead the lease only ends sooner, and nothing is wrong with it where the other one stood still.
#[inline(always)]
pub fn other_clock_jumped(record: &mut Record, terms: &Terms, now: u64) {
    let later = now.saturating_add(terms.amnesia_ns());
    if record.is_bound(now) && record.until_ns < later {
        record.until_ns = later;
    }
}

#[cfg(test)]
#[path = "start_tests.rs"]
mod tests;
