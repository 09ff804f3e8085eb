//! The record of a group, and what it publishes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::bpf_spin_lock;
use crate::{
    lease::{Record, Terms, gate},
    wire::State,
};

/// The record of one group. Map `GROUPS`, by group; a map with a lock in it cannot be mapped into
/// the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct GroupLock {
    /// Guards this entry and its published copies.
    pub lock: bpf_spin_lock,
    /// Zero.
    pub reserved: u32,
    /// The record.
    pub record: Record,
}

/// A copy of a record that userspace can read. Map `RECORDS`, by group, mapped into the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Recorded {
    /// Odd while the kernel writes the record.
    pub sequence: u32,
    /// Zero.
    pub reserved: u32,
    /// The record.
    pub record: Record,
}

/// Who serves a group, for its applications and for the gate. Map `LEASES`, by group; the daemon freezes
/// it, so userspace may only read it. 32 bytes, in host order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Lease {
    /// Odd while the kernel writes what follows.
    pub sequence: u32,
    /// The node that holds the group as far as this one knows; 0 for nobody.
    pub holder: u8,
    /// What this node is to the group: a [`crate::wire::State`].
    pub state: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Epoch that this node seeks, holds or released; 0 for none.
    pub epoch: u64,
    /// When this node's lease ends, exclusive; 0 if it does not hold. With [`ENDLESS`] it ends when
    /// this node's controller is older than its deadtime.
    ///
    /// [`ENDLESS`]: crate::lease::ENDLESS
    pub expires_ns: u64,
    /// Which group this is: what `hb status --json` shows as its fingerprint; 0 for none.
    pub fingerprint: u32,
    /// Zero.
    pub reserved2: u32,
}

const _: () = assert!(size_of::<Lease>() == 32);

impl Lease {
    /// Returns what `record` publishes at `now`, under the sequence number given. `heard` is the node
    /// that was last heard to hold the group, 0 for none.
    #[inline(always)]
    #[must_use]
    pub fn of(record: &Record, terms: &Terms, heard: u8, sequence: u32, now: u64) -> Self {
        let expires_ns = gate::until(record);
        Self {
            sequence,
            holder: if expires_ns > now {
                terms.own
            } else if record.is_bound(now) && record.released == 0 {
                crate::epoch::Epoch(record.promised).node()
            } else {
                heard
            },
            state: record.state,
            reserved: [0; 2],
            epoch: record.epoch,
            expires_ns,
            fingerprint: record.fingerprint,
            reserved2: 0,
        }
    }
}

/// What an [`EventKind::Lease`](super::EventKind::Lease) tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LeaseNews {
    /// This node holds the group now.
    Won = 1,
    /// It holds it no longer, because of what it heard or because its controller is dead.
    Lost = 2,
    /// A release was heard.
    Released = 3,
    /// This node seeks the group no longer, because another does.
    Yielded = 4,
}

impl LeaseNews {
    /// Returns the news of a code from the ring buffer.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Won,
            2 => Self::Lost,
            3 => Self::Released,
            4 => Self::Yielded,
            _ => return None,
        })
    }

    /// Returns the first news, if any, of a record that was `before` and is `after` hearing a word
    /// that told of a release or not.
    #[inline(always)]
    #[must_use]
    pub fn of(before: State, after: &Record, released: bool) -> Option<Self> {
        match (before, after.state()) {
            (State::Seeking, State::Holding) => Some(Self::Won),
            (State::Holding, State::Idle | State::Released) => Some(Self::Lost),
            (State::Seeking, State::Idle) => Some(Self::Yielded),
            _ if released => Some(Self::Released),
            _ => None,
        }
    }
}
