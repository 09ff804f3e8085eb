//! What a voter remembers of one group.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    gate,
    terms::{MAX_VOTERS, Terms},
};
use crate::{epoch::Epoch, wire::State};

/// A voter's record of one group. All zero knows nothing and is not blocked: only a test may use
/// it as it is; a machine begins with [`start`](super::start::start).
///
/// Times are this machine's `CLOCK_BOOTTIME` in nanoseconds, except `promise_t0_ns`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Record {
    /// Epoch that this node seeks, holds or released, or did last; 0 for none.
    pub epoch: u64,
    /// Highest epoch promised or held here: nothing at or below it is promised anew.
    pub recorded: u64,
    /// Highest epoch heard of that a node sought; raises what is sought next, never what is refused.
    pub heard: u64,
    /// Higher epoch that this node asks for while it holds [`Record::epoch`]; 0 for none. It asks
    /// only while its gate is open.
    pub next: u64,
    /// End of the lease, exclusive: until then a strict majority of the votes lies ahead.
    pub lease_end_ns: u64,
    /// When the gate was last open by what was published before: of an earlier epoch, or without an
    /// end; exclusive. [`CLOSING`] until that is known.
    pub open_until_ns: u64,
    /// End of each voter's vote for `epoch`, in the order of [`Terms::voters`].
    pub expires_ns: [u64; MAX_VOTERS],
    /// Epoch promised; its low byte names the node. 0 for none.
    pub promised: u64,
    /// End of that promise, exclusive.
    pub until_ns: u64,
    /// Transmit time, on the requester's clock, of the request promised last; `until_ns` covers it. With
    /// policy `available`: since when this node has held against another one that goes on; 0 for none.
    pub promise_t0_ns: u64,
    /// Takes no part before this instant.
    pub blocked_until_ns: u64,
    /// When the seek began, or a fence was confirmed in it; while the node holds, when the lease last
    /// became endless or ceased to be, or a fence was confirmed. Of a holder that nobody promises
    /// anything: since when it has held on a clock that did not stand still.
    pub sought_ns: u64,
    /// Lease of that request.
    pub promise_lease_ns: u32,
    /// Generation on this machine's disk.
    pub generation: u32,
    /// A [`State`].
    pub state: u8,
    /// Node the group was released to, with [`State::Released`]; 0 for anyone.
    pub successor: u8,
    /// 1 if the promised epoch was released.
    pub released: u8,
    /// 1 while sockets and addresses of an earlier epoch may still be here.
    pub unclean: u8,
    /// Grows with every transition that changes what frames say, renewals apart.
    pub changes: u32,
    /// A [`Vow`](super::fence::Vow): whether the promise has no end.
    pub vow: u8,
    /// 1 while a fence of the other node is under way, 2 while its last packets may still leave
    /// after one; nothing is promised meanwhile.
    pub fencing: u8,
    /// Voters that promised [`Record::next`]: a bit for each place in [`Terms::voters`].
    pub followers: u8,
    /// How well this node is placed to hold the group: a [`Standing`](crate::wire::Standing).
    pub standing: u8,
    /// Highest generation of which a floor was heard; raises what is sought next.
    pub heard_generation: u32,
    /// Which group it is the record of, by the fingerprint in its words; 0 for none.
    pub fingerprint: u32,
    /// Zero.
    pub padding: u32,
}

/// A [`Record::lease_end_ns`] without an end of its own: the gate is open for as long as the age of
/// this machine's controller is at most its deadtime.
pub const ENDLESS: u64 = u64::MAX;

/// A [`Record::open_until_ns`] of a gate that a transition has just closed, or given a nearer end. Packets
/// pass by what was published before until the change is, and nobody knows beforehand how long that takes.
pub const CLOSING: u64 = u64::MAX;

const _: () = assert!(size_of::<Record>() == 160);

impl Record {
    /// Returns the state.
    #[inline(always)]
    #[must_use]
    pub const fn state(&self) -> State {
        State::from_code(self.state)
    }

    /// Tells whether the record may not be used yet.
    #[inline(always)]
    #[must_use]
    pub const fn is_blocked(&self, now: u64) -> bool {
        now < self.blocked_until_ns
    }

    /// Tells whether a promise to another node binds this voter.
    #[inline(always)]
    #[must_use]
    pub const fn is_bound(&self, now: u64) -> bool {
        now < self.until_ns
    }

    /// Tells whether packets of this node may still be on their way to the wire, as far as
    /// another node's clock could tell: its gate is open, or was within `margin (1 + rho)`.
    #[inline(always)]
    #[must_use]
    pub const fn may_still_send(&self, terms: &Terms, now: u64) -> bool {
        let last = match self.state() {
            State::Holding if self.lease_end_ns > self.open_until_ns => self.lease_end_ns,
            _ => self.open_until_ns,
        };
        last != 0 && now < last.saturating_add(terms.wait_ns())
    }

    /// Tells whether this node holds without an end.
    #[inline(always)]
    #[must_use]
    pub const fn is_endless(&self) -> bool {
        self.lease_end_ns == ENDLESS && matches!(self.state(), State::Holding)
    }

    /// Returns what frames say of the record, renewals apart.
    #[inline(always)]
    const fn said(&self) -> (u32, u64, u64, u64, u8, u8, u8, u8, u8, bool) {
        let Self { fingerprint, epoch, next, promised, .. } = *self;
        let Self { state, successor, released, vow, standing, .. } = *self;
        let endless = self.is_endless();
        (fingerprint, epoch, next, promised, state, successor, released, vow, standing, endless)
    }

    /// Counts a change of what frames say since `before`.
    #[inline(always)]
    pub fn count_change(&mut self, before: &Self) {
        if self.said() != before.said() {
            self.changes = self.changes.wrapping_add(1);
        }
    }

    /// Returns the highest number known here, floors included: what is sought next lies above it.
    #[inline(always)]
    #[must_use]
    pub const fn highest(&self) -> Epoch {
        let floor = Epoch::floor(self.heard_generation).0;
        let mut highest = self.heard;
        if floor > highest {
            highest = floor;
        }
        if self.recorded > highest {
            highest = self.recorded;
        }
        if self.epoch > highest {
            highest = self.epoch;
        }
        Epoch(highest)
    }

    /// Returns the highest epoch known here that a node sought, [`Epoch::NONE`] if there is none. A
    /// floor says only that a voter started.
    #[inline(always)]
    #[must_use]
    pub const fn newest(&self) -> Epoch {
        let mut newest = self.heard;
        if self.recorded > newest && !Epoch(self.recorded).is_floor() {
            newest = self.recorded;
        }
        if self.epoch > newest {
            newest = self.epoch;
        }
        Epoch(newest)
    }

    /// Returns the epoch that this node asks for: above the one it holds, if it takes a higher
    /// number and its gate is open.
    #[inline(always)]
    #[must_use]
    pub const fn asks_for(&self, now: u64) -> Epoch {
        if self.next > self.epoch && gate::open(self, now).is_some() {
            Epoch(self.next)
        } else {
            Epoch(self.epoch)
        }
    }

    /// Notes that `epoch` exists.
    #[inline(always)]
    pub(super) const fn note(&mut self, epoch: Epoch) {
        if epoch.is_floor() {
            if epoch.generation() > self.heard_generation {
                self.heard_generation = epoch.generation();
            }
        } else if epoch.0 > self.heard {
            self.heard = epoch.0;
        }
    }

    /// Stops seeking or holding. `open_until_ns` must be up to date.
    #[inline(always)]
    pub(super) const fn leave(&mut self, state: State) {
        self.state = state as u8;
        self.lease_end_ns = 0;
        self.next = 0;
        self.followers = 0;
        self.expires_ns = [0; MAX_VOTERS];
    }

    /// Stops holding, by a clock that read `now` before the record was locked. A lease that had ended
    /// closed the gate by itself; otherwise this does, and when is told by [`closed`](Self::closed).
    #[inline(always)]
    pub(super) const fn stop_holding(&mut self, state: State, now: u64) {
        if self.lease_end_ns > now {
            self.open_until_ns = CLOSING;
        } else if self.lease_end_ns > self.open_until_ns {
            self.open_until_ns = self.lease_end_ns;
        }
        self.unclean = 1;
        self.leave(state);
    }

    /// Returns [`changes`](Self::changes) while it is not known until when packets passed by what was
    /// published before, else `None`. Whoever changed the record, or only finds it so, publishes it, reads
    /// the clock after that, and calls [`closed`](Self::closed).
    #[inline(always)]
    #[must_use]
    pub const fn closing(&self) -> Option<u32> {
        if self.open_until_ns == CLOSING { Some(self.changes) } else { None }
    }

    /// Notes that the record as of `changes` was published before `now`; tells whether that counts. If
    /// the record changed since, the gate may have opened and closed again: whoever changed it tells.
    #[inline(always)]
    pub const fn closed(&mut self, changes: u32, now: u64) -> bool {
        if self.open_until_ns != CLOSING || self.changes != changes {
            return false;
        }
        // A packet may have passed at the very instant of the publication.
        self.open_until_ns = now.saturating_add(1);
        true
    }
}

#[cfg(test)]
#[path = "closing_tests.rs"]
mod tests;
