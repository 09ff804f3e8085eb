//! Every frame ever sent.
//!
//! The network is a set that only grows: delivering a frame does not take it out, so loss, delay,
//! reordering, duplication and replay are all the same move, made late, again or never. Machines
//! send whatever they could say at every instant; what is not delivered was lost or never sent.
//!
//! A frame is cut into the parts that act on a record by themselves, each deliverable alone: that
//! gives the adversary more than a whole frame does, and the search fewer combinations.

use hb_ebpf::{
    epoch::Epoch,
    wire::{Be32, Be64, GroupWord, State, UNLIMITED},
};

/// [`Frame::number`] of a promise without an end.
pub const NO_END: u8 = u8::MAX;

/// What a part of a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The sender asks for a lease; `time` is when it sent this. It arrives as that of a node that
    /// holds, which gives the adversary more than one that seeks.
    Request,
    /// The sender promised `epoch`; `time` is the transmit time of the request.
    Promise,
    /// The sender released `epoch`.
    Release,
    /// The sender heard of `epoch`.
    Heard,
    /// The sender holds `epoch` by promises that have an end.
    Counted,
    /// The sender asks for nothing; `time` is when it sent this.
    Silent,
    /// The sender heard a frame of the node that `epoch` names, transmitted at `time`.
    Echo,
}

/// A part of a frame. Times are on the clock of the machine that asks, and wear away with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame {
    /// What it says.
    pub part: Part,
    /// Who sent it.
    pub source: u8,
    /// The lease asked for or promised, [`NO_END`] included; of [`Part::Heard`] the node that the
    /// sender votes for, 0 for none. The successor of a release, which no rule here looks at, is
    /// left out.
    pub number: u8,
    /// See [`Part`].
    pub time: u16,
    /// Epoch it is about.
    pub epoch: Epoch,
}

impl Frame {
    /// Returns the machine whose clock `time` is of.
    #[must_use]
    pub fn clock(&self) -> u8 {
        match self.part {
            Part::Promise | Part::Echo => self.epoch.node(),
            _ => self.source,
        }
    }

    /// Returns the word that says just this, and when it was transmitted.
    #[must_use]
    pub fn word(&self) -> (GroupWord, u64) {
        let mut word = GroupWord::default();
        let time = u64::from(self.time);
        match self.part {
            Part::Request => {
                word.state = State::Holding as u8;
                word.epoch = Be64::new(self.epoch.0);
                word.lease_ns = Be32::new(u32::from(self.number));
            }
            Part::Release => {
                word.state = State::Released as u8;
                word.epoch = Be64::new(self.epoch.0);
            }
            Part::Promise => {
                word.promise_epoch = Be64::new(self.epoch.0);
                word.promise_t0_ns = Be64::new(time);
                word.promise_lease_ns = Be32::new(match self.number {
                    NO_END => UNLIMITED,
                    lease => u32::from(lease),
                });
                return (word, 0);
            }
            Part::Counted => {
                word.state = State::Holding as u8;
                word.epoch = Be64::new(self.epoch.0);
                word.holder = self.source;
            }
            // A promise of nothing, which production's rules ignore.
            Part::Echo => word.promise_t0_ns = Be64::new(time),
            Part::Heard => {
                word.epoch = Be64::new(self.epoch.0);
                // A number of that node from before all others.
                word.promise_epoch = Be64::new(u64::from(self.number));
                word.promise_lease_ns = Be32::new(u32::from(self.number));
            }
            Part::Silent => word.epoch = Be64::new(self.epoch.0),
        }
        (word, time)
    }

    /// Returns the part that says that `source` holds by promises with an end, if `word` does.
    #[must_use]
    pub fn counted(source: u8, word: &GroupWord) -> Option<Self> {
        let counted = word.state() == State::Holding && word.holder == source && !word.is_endless();
        let epoch = word.epoch();
        counted.then_some(Self { part: Part::Counted, source, number: 0, time: 0, epoch })
    }

    /// Cuts what `source` says at `now` on its clock into its parts.
    pub fn cut(source: u8, word: &GroupWord, now: u64) -> impl Iterator<Item = Self> {
        let epoch = word.epoch();
        let time = now as u16;
        let lease = word.lease_ns.get() as u8;
        let promise_lease = match word.promise_lease_ns.get() {
            UNLIMITED => NO_END,
            lease => lease as u8,
        };
        let promise_epoch = Epoch(word.promise_epoch.get());
        let own = match word.state() {
            State::Seeking | State::Holding if lease != 0 => {
                Some(Self { part: Part::Request, source, number: lease, time, epoch })
            }
            State::Released => {
                Some(Self { part: Part::Release, source, number: 0, time: 0, epoch })
            }
            _ if epoch != Epoch::NONE => {
                let number = if promise_lease == 0 { 0 } else { promise_epoch.node() };
                Some(Self { part: Part::Heard, source, number, time: 0, epoch })
            }
            _ => None,
        };
        let promise = (promise_lease != 0).then(|| Self {
            part: Part::Promise,
            source,
            number: promise_lease,
            time: word.promise_t0_ns.get() as u16,
            epoch: promise_epoch,
        });
        own.into_iter().chain(promise)
    }
}
