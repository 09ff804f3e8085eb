//! The record in a frame, and a frame taken.

use super::{
    available, fence, gate,
    holder::{self, Promise, Taken},
    record::Record,
    terms::{Policy, Terms},
    voter::{self, Request, Verdict},
};
use crate::{
    epoch::Epoch,
    wire::{Be32, Be64, GroupWord, Standing, State, WORD_ENDLESS},
};

/// What one word changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// What became of the request in it, if there was one.
    pub request: Option<Verdict>,
    /// Whether it told of a release that was news.
    pub released: bool,
    /// What became of the promise in it, if there was one.
    pub promise: Option<Taken>,
    /// Whether this node gave way to a higher epoch, without a request.
    pub yielded: bool,
}

/// Fills the part of `word` that tells of leases; `health` is left alone.
///
/// `controller_lives` is false when this machine's controller is older than its deadtime: then
/// nothing is asked for, and the lease ends by itself. What is promised is said by a record that
/// already holds it, whoever calls this and when.
#[inline(always)]
pub fn speak(
    record: &Record,
    terms: &Terms,
    controller_lives: bool,
    now: u64,
    word: &mut GroupWord,
) {
    let state = record.state();
    let voted = !matches!(terms.policy(), Policy::Available);
    let asks = voted && controller_lives && matches!(state, State::Seeking | State::Holding);
    let own = matches!(state, State::Seeking | State::Holding | State::Released);
    let endless = if record.is_endless() { WORD_ENDLESS } else { 0 };
    word.state = record.state | endless | Standing::from_code(record.standing).in_word();
    // What something newer has overtaken is given to nobody any more.
    let given = state == State::Released && record.newest().0 == record.epoch;
    word.successor = if given { record.successor } else { 0 };
    word.lease_ns = Be32::new(if asks { terms.lease_ns as u32 } else { 0 });
    word.epoch = Be64::new(if own { record.asks_for(now).0 } else { record.highest().0 });
    word.holder = if gate::open(record, now).is_some() {
        terms.own
    } else if record.is_bound(now) && record.released == 0 {
        Epoch(record.promised).node()
    } else {
        0
    };
    word.promise_epoch = Be64::new(record.promised);
    word.promise_t0_ns = Be64::new(match terms.policy() {
        Policy::Available => available::served_ns(record, now),
        Policy::Witness | Policy::Safe => record.promise_t0_ns,
    });
    word.promise_lease_ns = Be32::new(record.promise_lease_ns);
    word.fingerprint = Be32::new(record.fingerprint);
}

/// Takes the word of an authentic, fresh frame that `source` sent at `transmit_ns` on its clock. The
/// word of another group than the record's changes nothing.
#[inline(always)]
pub fn hear(
    record: &mut Record,
    terms: &Terms,
    source: u8,
    transmit_ns: u64,
    word: &GroupWord,
    now: u64,
) -> Heard {
    if word.fingerprint.get() != record.fingerprint {
        return Heard::default();
    }
    let before = *record;
    let heard = match terms.policy() {
        Policy::Available => {
            let yielded = available::hear(record, terms, source, word, now);
            Heard { yielded, ..Heard::default() }
        }
        Policy::Witness | Policy::Safe => hear_voter(record, terms, source, transmit_ns, word, now),
    };
    record.count_change(&before);
    heard
}

#[inline(always)]
fn hear_voter(
    record: &mut Record,
    terms: &Terms,
    source: u8,
    transmit_ns: u64,
    word: &GroupWord,
    now: u64,
) -> Heard {
    let mut heard = Heard::default();
    let epoch = word.epoch();
    record.note(epoch);
    match word.state() {
        State::Seeking | State::Holding if word.lease_ns.get() != 0 => {
            let holds = word.state() == State::Holding;
            let request = Request { epoch, lease_ns: word.lease_ns.get(), transmit_ns, holds };
            heard.request = Some(voter::request(record, terms, source, &request, now));
        }
        State::Released => heard.released = voter::release(record, terms, source, epoch, now),
        _ => {}
    }
    let promise = Promise {
        epoch: Epoch(word.promise_epoch.get()),
        t0_ns: word.promise_t0_ns.get(),
        lease_ns: word.promise_lease_ns.get(),
    };
    record.note(promise.epoch);
    if promise.epoch != Epoch::NONE && promise.lease_ns != 0 {
        heard.promise = Some(holder::promise(record, terms, source, &promise, now));
    }
    if let Policy::Safe = terms.policy() {
        fence::join(record, terms, source, word, now);
    }
    // What another node only seeks, and what was heard of by a voter that votes for this node, is in
    // nobody's way.
    let apart = matches!(word.state(), State::Idle | State::Released);
    let votes = promise.epoch.node() == terms.own && promise.lease_ns != 0;
    if apart && !votes {
        holder::renumber(record, terms, now);
    }
    heard
}

/// Tells whether a machine that sends `word` gives the group to this one, whose record it is: a release
/// stays in the word until something else happens there, and counts only while no newer epoch is known.
/// A floor is none: this node may have started under the hold that is released.
#[must_use]
pub fn hands_over(record: &Record, terms: &Terms, word: &GroupWord) -> bool {
    word.fingerprint.get() == record.fingerprint
        && word.state() == State::Released
        && word.successor == terms.own
        && word.epoch() >= record.newest()
}

#[cfg(test)]
#[path = "word_tests.rs"]
mod tests;
