//! What the kernel half says of a peer.

use hb_ebpf::{
    maps::{self, Cause},
    wire::{FLAG_LEAVING, GROUPS, GroupWord},
};

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
    /// Number of its daemon's starts.
    pub incarnation: u32,
    /// Its group words, as they travel.
    pub words: [GroupWord; GROUPS],
}

impl From<&maps::Peer> for PeerFacts {
    fn from(peer: &maps::Peer) -> Self {
        Self {
            life: match maps::Life::from_code(peer.life) {
                maps::Life::Unheard => Life::Unheard,
                maps::Life::Alive => Life::Alive,
                maps::Life::Late => Life::Late,
                maps::Life::Dead => Life::Dead(Cause::from_code(peer.cause)),
            },
            controller_dead: peer.controller_dead != 0,
            leaving: peer.flags & FLAG_LEAVING != 0,
            incarnation: peer.incarnation,
            words: peer.words,
        }
    }
}
