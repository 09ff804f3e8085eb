//! What the kernel half says of a peer.

use std::array;

use hb_ebpf::{
    epoch::Epoch,
    lease::{Record, fence::Vow, gate, identity},
    maps::{self, Cause},
    time::BootTime,
    wire::{FLAG_LEAVING, GROUPS, GroupWord, State},
};

use crate::id::GroupId;

/// A peer's life with the cause of its death.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Life {
    /// Watched, and never heard since.
    #[default]
    Unheard,
    /// Heard within deadtime.
    Alive,
    /// Silent for warntime.
    Late,
    /// Silent for deadtime.
    Dead(Cause),
}

impl Life {
    /// Tells whether the kernel counts the peer among the living.
    #[must_use]
    pub const fn is_alive(self) -> bool {
        matches!(self, Self::Alive | Self::Late)
    }

    /// Tells whether the kernel declared the peer dead.
    #[must_use]
    pub const fn is_dead(self) -> bool {
        matches!(self, Self::Dead(_))
    }
}

/// All the core wants to know of a peer, as the shared map has it at one instant.
///
/// A state, not an event: the core compares it with the one before, so that a lost or repeated
/// event costs nothing. The default is a peer of which nothing was read yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerFacts {
    /// Is its kernel half heard?
    pub life: Life,
    /// Its newest frame said that its daemon is too old.
    pub controller_dead: bool,
    /// Its newest frame said that its daemon leaves in order.
    pub leaving: bool,
    /// It is heard and answers nothing: what is sent to it does not arrive. Looked for under policy `safe`, where
    /// it has to be fenced like one that is silent.
    pub deaf: bool,
    /// Number of its daemon's starts.
    pub incarnation: u32,
    /// The links it is heard on, a bit each, by [`LinkId`](crate::id::LinkId).
    pub links: u8,
    /// Its words of this node's groups, by [`GroupId`].
    pub words: [GroupWord; GROUPS],
    /// Which of this node's groups it does not have: its configuration is another one.
    pub lacks: [bool; GROUPS],
    /// How many groups it has that this node does not have.
    pub only_there: u8,
    /// The highest epoch in which it holds a group that this node does not have; none if it holds none.
    pub holds_other: Epoch,
}

impl PeerFacts {
    /// Returns what the map says of a peer to a node whose groups have those fingerprints, by place; 0
    /// where there is none.
    #[must_use]
    pub fn of(peer: &maps::Peer, groups: &[u32; GROUPS]) -> Self {
        let word = |place: usize| identity::find(&peer.words, groups[place], place);
        let others = || {
            peer.words.iter().filter(|word| {
                let fingerprint = word.fingerprint.get();
                fingerprint != 0 && !groups.contains(&fingerprint)
            })
        };
        let held = others().filter(|word| word.state() == State::Holding);
        Self {
            life: match maps::Life::from_code(peer.life) {
                maps::Life::Unheard => Life::Unheard,
                maps::Life::Alive => Life::Alive,
                maps::Life::Late => Life::Late,
                maps::Life::Dead => Life::Dead(Cause::from_code(peer.cause)),
            },
            controller_dead: peer.controller_dead != 0,
            leaving: peer.flags & FLAG_LEAVING != 0,
            deaf: false,
            incarnation: peer.incarnation,
            links: peer.links_up,
            words: array::from_fn(|place| word(place).copied().unwrap_or_default()),
            lacks: array::from_fn(|place| groups[place] != 0 && word(place).is_none()),
            holds_other: held.map(GroupWord::epoch).max().unwrap_or_default(),
            only_there: others().count() as u8,
        }
    }
}

impl PeerFacts {
    /// Tells whether nothing can be agreed upon with it.
    #[must_use]
    pub const fn is_to_be_fenced(&self) -> bool {
        self.life.is_dead() || self.deaf
    }

    /// Tells whether it does not have a group of this node.
    #[must_use]
    pub fn lacks_group(&self, group: GroupId) -> bool {
        self.lacks.get(usize::from(group.0)).copied().unwrap_or(true)
    }
}

/// What the kernel's record of a group says at one instant.
///
/// A state, like [`PeerFacts`]. The default is a record of which nothing was read yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordFacts {
    /// What this node is to the group.
    pub state: RecordState,
    /// Epoch that this node seeks, holds or released, or did last.
    pub epoch: Epoch,
    /// Highest epoch known here that a node sought.
    pub newest: Epoch,
    /// When the lease ends or ended; never while this node does not hold,
    /// [`hb_ebpf::lease::ENDLESS`] for a lease without an end of its own.
    pub lease_end: BootTime,
    /// Until when this node's vote is given to another.
    pub bound_until: BootTime,
    /// Until when this node takes no part, because it lost its record or mistrusts its clock.
    pub blocked_until: BootTime,
    /// Addresses and sockets of an epoch that was left may still be here.
    pub unclean: bool,
    /// The promise has no end: this node left, or is back and waits for the holder to confirm it.
    pub vowed: bool,
}

/// The state of a record; idle by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecordState {
    /// Does not hold the group.
    #[default]
    Idle,
    /// Seeks to hold it.
    Seeking,
    /// Holds it, with or without a lease that runs.
    Holding,
    /// Held it and gave it away.
    Released,
}

impl From<&Record> for RecordFacts {
    fn from(record: &Record) -> Self {
        Self {
            state: match record.state() {
                State::Idle => RecordState::Idle,
                State::Seeking => RecordState::Seeking,
                State::Holding => RecordState::Holding,
                State::Released => RecordState::Released,
            },
            epoch: Epoch(record.epoch),
            newest: record.newest(),
            lease_end: BootTime(gate::until(record)),
            bound_until: BootTime(record.until_ns),
            blocked_until: BootTime(record.blocked_until_ns),
            unclean: record.unclean != 0,
            vowed: record.vow() != Vow::None,
        }
    }
}

impl RecordFacts {
    /// Returns the epoch at which this node holds the group, if it does.
    #[must_use]
    pub fn held(&self) -> Option<Epoch> {
        (self.state == RecordState::Holding).then_some(self.epoch)
    }
}
