//! Packets on their way to the wire, and the invariant over them.
//!
//! A packet that the gate let pass at `t` leaves at any instant from `t` to `t + margin`, on its
//! node's clock. Which packets there are need not be chosen: the adversary has one pass whenever
//! the gate is open, and has it leave at the worst instant. So it is enough to know, per machine,
//! the epoch of the packets that may still leave and until when, and the highest epoch of which
//! one left.

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

    /// Tells whether a packet of `pipe` may leave `machine` after one of a higher epoch, or of the
    /// same one, left another machine.
    #[must_use]
    pub fn is_broken_by(&self, pipe: &Pipe, machine: u8) -> bool {
        pipe.epoch != Epoch::NONE && machine != self.machine && pipe.epoch <= self.epoch
    }
}
