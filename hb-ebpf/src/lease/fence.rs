//! Policy `safe`: two nodes, of which both are needed, or one whose peer is confirmed to be fenced.
//!
//! A node that seeks and does not hear the other has it fenced, and then holds without an end: the
//! other one is off, and when it is back it needs this node's own vote, or a fence of this node. A
//! node that leaves in order makes its promise unlimited instead, so that it need not be fenced.
//!
//! An endless lease becomes an ordinary one with the first limited promise of the other node. Only
//! the fence is believed here; what an agent may report as done is the operator's to configure.

use super::{
    holder::Promise,
    record::{ENDLESS, Record},
    terms::{Policy, Terms},
};
use crate::{
    epoch::Epoch,
    wire::{GroupWord, State, UNLIMITED},
};

/// [`Record::fencing`]: a fence was asked for, and nothing is known of it.
const ASKED: u8 = 1;
/// [`Record::fencing`]: it was confirmed, and the other node's last packets may still leave.
const CONFIRMED: u8 = 2;

/// Whether a promise has an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Vow {
    /// It has.
    None = 0,
    /// It has none, and frames say so: this node leaves.
    Given = 1,
    /// It has none, of an earlier life of this node. Frames ask for its end, by promising as if it
    /// had one: it ends when the holder is heard to hold by such promises.
    Joining = 2,
}

impl Record {
    /// Returns whether the promise has an end.
    #[inline(always)]
    #[must_use]
    pub const fn vow(&self) -> Vow {
        match self.vow {
            1 => Vow::Given,
            2 => Vow::Joining,
            _ => Vow::None,
        }
    }
}

/// Notes that the other node is going to be fenced, for the epoch that this one seeks; tells
/// whether that may begin. Until [`report`] is done with it nothing is promised.
#[inline(always)]
pub fn ask(record: &mut Record, terms: &Terms) -> bool {
    let seeks = matches!(record.state(), State::Seeking);
    if !matches!(terms.policy(), Policy::Safe) || !seeks || record.fencing != 0 {
        return false;
    }
    record.fencing = ASKED;
    true
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reported {
    /// Nothing: the fence failed, or it counts no more.
    Dropped = 0,
    /// It counts; the last packets of the other node may still leave. To be reported again, after
    /// [`Terms::wait_ns`] and until this node holds.
    Waits = 1,
    /// This node holds by it, without an end.
    Holds = 2,
}

/// Takes what came of the fence asked for in `epoch`.
///
/// It counts once, and only in the epoch it was asked for: a node that gave that up meanwhile may
/// promise again, and the other one may have come back and been given the group since.
///
/// The other node's gate may have been open until it was off, by an endless lease, and a fence need
/// not cut the queues behind the gate (of a virtual machine they are the host's). So from the first
/// report of success on the node waits as if that gate had closed then.
#[inline(always)]
pub fn report(
    record: &mut Record,
    terms: &Terms,
    epoch: Epoch,
    fenced: bool,
    now: u64,
) -> Reported {
    let stage = core::mem::replace(&mut record.fencing, 0);
    let same = record.epoch == epoch.0;
    let may_hold = matches!(record.state(), State::Seeking | State::Holding);
    if stage == 0 || !fenced || !same || !may_hold {
        return Reported::Dropped;
    }
    if stage == ASKED {
        record.sought_ns = now;
    }
    // A packet may have passed at the very instant of the report.
    if now <= record.sought_ns.saturating_add(terms.wait_ns()) {
        record.fencing = CONFIRMED;
        return Reported::Waits;
    }
    record.state = State::Holding as u8;
    record.recorded = record.epoch;
    record.lease_end_ns = ENDLESS;
    record.sought_ns = now;
    Reported::Holds
}

/// Makes the promise to the holder unlimited, because this node leaves; tells whether there was one
/// to a node that holds, as far as this one knows.
#[inline(always)]
pub fn vow(record: &mut Record, terms: &Terms, now: u64) -> bool {
    let apart = matches!(record.state(), State::Idle | State::Released);
    let bound = record.is_bound(now) && record.released == 0 && record.promised != 0;
    if !matches!(terms.policy(), Policy::Safe) || !apart || !bound {
        return false;
    }
    record.vow = Vow::Given as u8;
    record.until_ns = u64::MAX;
    record.promise_lease_ns = UNLIMITED;
    true
}

/// Begins with the unlimited promise of `epoch` that this node gave when it left, as its disk says,
/// or with the one in the record; tells whether there is one.
///
/// A record that was kept knows more than the disk: the holder may have taken a higher number since,
/// or the promise may have an end again.
#[inline(always)]
pub fn rejoin(record: &mut Record, terms: &Terms, epoch: Epoch) -> bool {
    if !matches!(terms.policy(), Policy::Safe) {
        return false;
    }
    if epoch.0 > record.promised {
        record.promised = epoch.0;
        record.released = 0;
        record.recorded = record.recorded.max(epoch.0);
    } else if matches!(record.vow(), Vow::None) {
        return false;
    }
    record.vow = Vow::Joining as u8;
    record.until_ns = u64::MAX;
    // The next request says what is promised from here on; until then, nothing.
    record.promise_t0_ns = 0;
    record.promise_lease_ns = 0;
    true
}

/// Ends an unlimited promise by an operator's word; tells whether there was one. The group is not
/// this node's by that: it may seek, and has the other node fenced.
#[inline(always)]
pub fn absolve(record: &mut Record, now: u64) -> bool {
    if matches!(record.vow(), Vow::None) {
        return false;
    }
    record.vow = Vow::None as u8;
    record.until_ns = now;
    true
}

/// Ends the unlimited promise of a node that is back, once the holder holds by limited ones.
#[inline(always)]
pub(super) fn join(record: &mut Record, terms: &Terms, source: u8, word: &GroupWord, now: u64) {
    let holder = matches!(word.state(), State::Holding)
        && word.epoch().0 == record.promised
        && word.epoch().node() == source;
    // Without a lease it has not counted this node's promise yet.
    let counted = word.holder == source && !word.is_endless();
    if matches!(record.vow(), Vow::Joining) && holder && counted && record.promise_lease_ns != 0 {
        record.vow = Vow::None as u8;
        record.until_ns = now.saturating_add(terms.promise_ns(u64::from(record.promise_lease_ns)));
    }
}

/// Tells whether a promise has no end.
#[inline(always)]
pub(super) const fn is_unlimited(promise: &Promise, terms: &Terms) -> bool {
    matches!(terms.policy(), Policy::Safe) && promise.lease_ns == UNLIMITED
}

/// Tells whether a promise that answers a request of `t0` may turn an endless lease into one until
/// `end`, or the other way round: not if the lease turned since, and not into one that has run out.
#[inline(always)]
pub(super) const fn may_turn(record: &Record, t0: u64, end: u64, now: u64) -> bool {
    t0 >= record.sought_ns && end > now
}

#[cfg(test)]
#[path = "fence_tests.rs"]
mod tests;
