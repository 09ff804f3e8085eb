//! What a voter does when it hears a request or a release.

use super::{
    fence::Vow,
    gate,
    record::Record,
    terms::{Policy, Terms},
};
use crate::{
    epoch::Epoch,
    wire::{State, UNLIMITED},
};

/// A request for a group, out of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Epoch that its sender seeks or holds.
    pub epoch: Epoch,
    /// Length of the lease asked for.
    pub lease_ns: u32,
    /// Transmit time of the frame, on the sender's clock.
    pub transmit_ns: u64,
    /// Whether its sender holds the group already.
    pub holds: bool,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// A new promise was recorded.
    Promised = 1,
    /// The promise that there was is renewed.
    Renewed = 2,
    /// Refused: this voter lost its record or mistrusts its clock, and waits.
    Blocked = 3,
    /// Refused: no node seeks such an epoch, or nobody may ask for such a lease.
    Malformed = 4,
    /// Refused for now: the generation, that of [`Record::heard`], is not on this disk yet.
    Generation = 5,
    /// Refused: not above every epoch recorded or held here.
    Low = 6,
    /// Refused: that epoch was released.
    Released = 7,
    /// Refused: a promise to another node has not run out.
    Bound = 8,
    /// Refused: this node holds, or its last packets may still leave.
    Sending = 9,
    /// Refused: this node seeks a higher epoch itself.
    Seeking = 10,
    /// Refused: this node has the other one fenced, and what comes of it is not known yet.
    Fencing = 11,
}

/// Hears a request by node `source`.
///
/// On [`Verdict::Promised`] and [`Verdict::Renewed`] the record already holds the promise, which
/// may then be spoken of.
#[inline(always)]
pub fn request(
    record: &mut Record,
    terms: &Terms,
    source: u8,
    request: &Request,
    now: u64,
) -> Verdict {
    let epoch = request.epoch;
    if record.is_blocked(now) {
        return Verdict::Blocked;
    }
    let lease_ns = u64::from(request.lease_ns);
    if epoch.node() != source
        || source == terms.own
        || terms.place(source).is_none()
        || lease_ns == 0
        || lease_ns > terms.longest_lease_ns
    {
        return Verdict::Malformed;
    }
    record.note(epoch);
    if epoch.generation() > record.generation {
        if request.holds && may_keep(record, terms, source, now) {
            promise(record, terms, request, now);
            return Verdict::Renewed;
        }
        return Verdict::Generation;
    }
    if record.fencing != 0 {
        return Verdict::Fencing;
    }
    if let Some(refusal) = yield_to(record, terms, epoch, now) {
        return refusal;
    }
    if epoch.0 == record.promised && epoch.0 == record.recorded {
        if record.released != 0 {
            return Verdict::Released;
        }
        promise(record, terms, request, now);
        return Verdict::Renewed;
    }
    if epoch.0 <= record.recorded {
        return Verdict::Low;
    }
    if record.is_bound(now) {
        if !may_renumber(record, terms, source, request.holds) {
            return Verdict::Bound;
        }
    } else {
        record.until_ns = 0;
    }
    record.promised = epoch.0;
    record.recorded = epoch.0;
    record.released = 0;
    promise(record, terms, request, now);
    Verdict::Promised
}

/// Tells whether what is promised here is promised to `source`, which did not release it.
#[inline(always)]
const fn is_given_to(record: &Record, source: u8) -> bool {
    record.released == 0 && Epoch(record.promised).node() == source
}

/// Tells whether a voter bound to `source` may promise it a higher epoch all the same: a promise binds
/// it to the node. A node that holds takes a higher number by that. One that seeks again would keep a
/// vote from others that need it; of two voters it cannot.
#[inline(always)]
const fn may_renumber(record: &Record, terms: &Terms, source: u8, holds: bool) -> bool {
    is_given_to(record, source) && (holds || matches!(terms.policy(), Policy::Safe))
}

/// Tells whether this voter may renew what it promised to `source`, which holds and asks for a number
/// that cannot be promised yet.
#[inline(always)]
fn may_keep(record: &Record, terms: &Terms, source: u8, now: u64) -> bool {
    is_given_to(record, source)
        && record.promised == record.recorded
        && matches!(record.state(), State::Idle | State::Released)
        && record.fencing == 0
        && !record.may_still_send(terms, now)
}

/// Makes way for `epoch`, or says why this node's own vote is not free for it.
#[inline(always)]
fn yield_to(record: &mut Record, terms: &Terms, epoch: Epoch, now: u64) -> Option<Verdict> {
    match record.state() {
        State::Seeking if epoch.0 <= record.epoch => return Some(Verdict::Seeking),
        State::Seeking => record.leave(State::Idle),
        State::Holding if gate::open(record, now).is_some() => return Some(Verdict::Sending),
        State::Holding if epoch.0 <= record.recorded => return Some(Verdict::Low),
        State::Holding if record.may_still_send(terms, now) => return Some(Verdict::Sending),
        State::Holding => record.stop_holding(State::Idle, now),
        State::Idle | State::Released => {}
    }
    if record.may_still_send(terms, now) { Some(Verdict::Sending) } else { None }
}

/// Binds the voter for the request's length from now, never shorter than it was. One that is bound for
/// longer, as after the pause of another machine, says so of a request for no less than before: that
/// one has ended when its own length has.
#[inline(always)]
fn promise(record: &mut Record, terms: &Terms, request: &Request, now: u64) {
    let until_ns = match record.vow() {
        Vow::None => now.saturating_add(terms.promise_ns(u64::from(request.lease_ns))),
        Vow::Given | Vow::Joining => u64::MAX,
    };
    let longest = until_ns >= record.until_ns;
    if longest {
        record.until_ns = until_ns;
    }
    if longest || request.lease_ns >= record.promise_lease_ns {
        record.promise_t0_ns = request.transmit_ns;
        record.promise_lease_ns = match record.vow() {
            Vow::Given => UNLIMITED,
            Vow::None | Vow::Joining => request.lease_ns,
        };
    }
}

/// Hears that node `source` released `epoch`; tells whether that was news.
///
/// A voter that had promised it, or a lower number of the same node, is bound for `drain` more at
/// most. One that had not remembers the epoch as released, so that a late request for it binds nobody.
#[inline(always)]
pub fn release(record: &mut Record, terms: &Terms, source: u8, epoch: Epoch, now: u64) -> bool {
    if record.is_blocked(now)
        || epoch.node() != source
        || source == terms.own
        || terms.place(source).is_none()
    {
        return false;
    }
    record.note(epoch);
    let stored = epoch.generation() <= record.generation;
    if epoch.0 == record.promised && epoch.0 == record.recorded {
        if record.released != 0 {
            return false;
        }
        drain(record, terms, now);
        return true;
    }
    if record.is_bound(now) {
        let given = Epoch(record.promised).node() == source && record.promised <= epoch.0;
        let told = record.released != 0 && (!stored || record.promised == epoch.0);
        if !given || told {
            return false;
        }
        drain(record, terms, now);
        if stored {
            record.promised = epoch.0;
            if epoch.0 > record.recorded {
                record.recorded = epoch.0;
            }
        }
        return true;
    }
    // What lies below this voter's own floor it cannot promise, and may be told of all the same.
    let passed = epoch.0 <= record.recorded && !Epoch(record.recorded).is_floor();
    let apart = matches!(record.state(), State::Idle | State::Released);
    if !apart || passed || epoch.0 <= record.promised || !stored {
        return false;
    }
    record.promised = epoch.0;
    if epoch.0 > record.recorded {
        record.recorded = epoch.0;
    }
    record.released = 1;
    record.until_ns = 0;
    record.promise_t0_ns = 0;
    record.promise_lease_ns = 0;
    true
}

/// Ends a promise to a node that released the group: when its last packets have left.
#[inline(always)]
const fn drain(record: &mut Record, terms: &Terms, now: u64) {
    let drained = now.saturating_add(terms.drain_ns);
    if drained < record.until_ns {
        record.until_ns = drained;
    }
    record.released = 1;
    record.vow = Vow::None as u8;
    record.promise_lease_ns = 0;
}

#[cfg(test)]
#[path = "voter_tests.rs"]
mod tests;
