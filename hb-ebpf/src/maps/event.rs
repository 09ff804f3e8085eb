//! What the kernel tells the daemon through the ring buffer.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What an [`Event`] tells. The maps hold the facts; an event says that it is time to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EventKind {
    /// The peer was heard, for the first time or again.
    Up = 1,
    /// Silent for warntime.
    Late = 2,
    /// Silent for deadtime.
    Dead = 3,
    /// It changed its group words, flags, incarnation or what it refuses of us.
    Said = 4,
    /// Its controller died or came back.
    Controller = 5,
    /// A link fell silent or was heard again.
    Link = 6,
    /// Our own controller is too old: the kernel stopped watching.
    Unwatched = 7,
    /// A group's record changed.
    Lease = 8,
    /// This machine or the peer stood still, or a clock was set.
    Paused = 9,
    /// Somebody else claims an address that this node serves.
    Claim = 10,
    /// The first interval of silence of a peer that was heard: it is asked more often.
    Missed = 11,
    /// An interface loses its carrier.
    Carrier = 12,
}

impl EventKind {
    /// Returns the kind of a code from the ring buffer.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Up,
            2 => Self::Late,
            3 => Self::Dead,
            4 => Self::Said,
            5 => Self::Controller,
            6 => Self::Link,
            7 => Self::Unwatched,
            8 => Self::Lease,
            9 => Self::Paused,
            10 => Self::Claim,
            11 => Self::Missed,
            12 => Self::Carrier,
            _ => return None,
        })
    }
}

/// An entry of the ring buffer `EVENTS`, 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// An [`EventKind`].
    pub kind: u8,
    /// Node id of the peer, or of whoever's frame brought the news.
    pub peer: u8,
    /// Link, for [`EventKind::Link`] and [`EventKind::Paused`]; group, for [`EventKind::Lease`];
    /// number of the address, for [`EventKind::Claim`].
    pub link: u8,
    /// The [`Cause`](super::Cause), for [`EventKind::Dead`]; the [`LeaseNews`](super::LeaseNews), for [`EventKind::Lease`]; 1 if this
    /// machine's clock stood still and 0 if the peer's did, for [`EventKind::Paused`].
    pub cause: u8,
    /// Index of the interface, for [`EventKind::Carrier`]; else zero.
    pub interface: u32,
    /// When the kernel decided.
    pub at_ns: u64,
    /// When that was due: the end of deadtime for [`EventKind::Dead`], else the same as `at_ns`.
    pub due_ns: u64,
    /// Silence at `at_ns`; the size of the jump, for [`EventKind::Paused`].
    pub silence_ns: u64,
}
