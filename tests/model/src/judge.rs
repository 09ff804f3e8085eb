//! Packets on their way to the wire, and the invariant over them.
//!
//! A packet that the gate let pass at `t` leaves at any instant from `t` to `t + margin`, on its
//! node's clock. Which packets there are need not be chosen: the adversary has one pass whenever
//! the gate is open, and has it leave at the worst instant. So it is enough to know, per machine,
//! the epoch of the packets that may still leave and until when, and the highest epoch of which
//! one left.
//!
//! An *opening* is a span in which one node's gate stays open; the node may renumber its epoch in
//! it. Judged is that no packet of an opening leaves after a packet of a later opening of another
//! node left, where later means: by the epoch, or, if a fence of the other node lies between, by
//! the fence. So two things are broken:
//!
//! - packets of two machines may leave at one time ([`overlap`]). Whichever opening is the later
//!   one, a packet of the other may follow its first;
//! - a packet may leave under the highest epoch that left another machine, or a lower one
//!   ([`Top::is_broken_by`]), unless that machine was fenced after it last served, and this one
//!   opened by the report of that fence ([`Top::fenced`]).
//!
//! Without a fence the second alone is the invariant of policy `witness`, and implies the first.

use hb_ebpf::epoch::Epoch;

/// Packets of one machine that may still leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pipe {
    /// Their epoch; none if [`Epoch::NONE`].
    pub epoch: Epoch,
    /// The last instant at which one may leave, on the machine's clock.
    pub until: u64,
}

impl Pipe {
    /// A packet of `epoch` passed the gate at `now`.
    pub fn passed(&mut self, epoch: Epoch, now: u64, margin: u64) {
        *self = Self { epoch, until: now + margin };
    }

    /// Forgets packets that have left.
    pub fn settle(&mut self, now: u64) {
        if self.until < now {
            *self = Self::default();
        }
    }
}

/// The highest epoch of which a packet left, and the machine it left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Top {
    /// The epoch.
    pub epoch: Epoch,
    /// The machine.
    pub machine: u8,
}

impl Top {
    /// A packet of `epoch` leaves `machine`.
    pub fn left(&mut self, epoch: Epoch, machine: u8) {
        if epoch > self.epoch {
            *self = Self { epoch, machine };
        }
    }

    /// The gate of a machine opens because `other` was fenced when the highest epoch that had left
    /// was `before`: if that was its own and is still the highest, the fence is the order.
    pub fn fenced(&mut self, other: u8, before: Epoch) {
        if self.machine == other && self.epoch == before {
            *self = Self::default();
        }
    }

    /// Tells whether a packet of `pipe` may leave `machine` after one of a higher epoch, or of the
    /// same one, left another machine.
    #[must_use]
    pub fn is_broken_by(&self, pipe: &Pipe, machine: u8) -> bool {
        pipe.epoch != Epoch::NONE && machine != self.machine && pipe.epoch <= self.epoch
    }
}

/// Tells whether packets of two machines may leave at one time.
#[must_use]
pub fn overlap<'a>(pipes: impl Iterator<Item = &'a Pipe>) -> bool {
    pipes.filter(|pipe| pipe.epoch != Epoch::NONE).count() > 1
}
