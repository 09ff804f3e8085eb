//! Layout of the maps that kernel and controller share.
//!
//! Who writes what: the daemon writes [`Node`], [`Path`], [`PeerKeys`], [`Terms`] and the `daemon`
//! part of a [`Peer`]; the kernel writes everything else. A peer and its links it writes under the
//! lock of the peer's [`PeerLock`], between two increments of [`Peer::sequence`]; a group's
//! [`Recorded`] and [`Lease`] under the lock of its [`GroupLock`], between two increments of each
//! one's own sequence. Integers are in host order except in [`GroupWord`](crate::wire::GroupWord)s, which are kept as they
//! travel. All times are `CLOCK_BOOTTIME` nanoseconds, 0 for never.
//!
//! [`Terms`]: crate::lease::Terms

mod event;
mod group;
mod peer;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::wire::GROUPS;

pub use event::{Event, EventKind};
pub use group::{GroupLock, Lease, LeaseNews, Recorded};
pub use peer::{
    Cause, Life, Link, Path, Peer, PeerKeys, PeerLock, PeerTimer, Request, Stream, Timing,
    Transport, bpf_timer,
};

/// Nodes of a cluster; node ids run from 1 to this.
pub const MAX_NODES: usize = 64;
/// Links between two nodes.
pub const MAX_LINKS: usize = 4;
const _: () = assert!(MAX_LINKS.is_power_of_two());
/// Slots of the maps that hold one entry per peer and link.
pub const SLOTS: usize = MAX_NODES * MAX_LINKS;
/// Number of this layout. Pinned maps with another one are refused, never reinterpreted.
pub const LAYOUT: u64 = 0x6862_0001_0000_0009;
/// Bytes of the ring buffer.
pub const EVENTS_BYTES: usize = 1 << 16;

/// Returns the index of peer `node` (1 to [`MAX_NODES`]) in the per-peer maps.
#[inline(always)]
#[must_use]
pub const fn peer_index(node: u8) -> Option<u32> {
    if node >= 1 && node as usize <= MAX_NODES { Some(node as u32 - 1) } else { None }
}

/// Returns the index of `link` to peer `node` in the per-link maps.
#[inline(always)]
#[must_use]
pub const fn slot(node: u8, link: u8) -> Option<u32> {
    match peer_index(node) {
        Some(index) if (link as usize) < MAX_LINKS => Some(index * MAX_LINKS as u32 + link as u32),
        _ => None,
    }
}

/// How the groups fare on a node, in two copies: `healths[generation % 2]` is whole, the other one
/// is being written. A reader that finds `generation` unchanged after copying has a whole one. The
/// rest of a group's word is its [`Record`](crate::lease::Record)'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Words {
    /// Counts writes; part of what travels as [`crate::wire::Frame::revision`].
    pub generation: u32,
    /// `FLAG_*` bits of the frames to send, for each copy.
    pub flags: [u32; 2],
    /// Zero.
    pub reserved: u32,
    /// The two copies: codes of [`crate::wire::Health`], by group.
    pub healths: [[u8; GROUPS]; 2],
}

/// This node, as its daemon describes it. Map `NODE`, one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Node {
    /// [`LAYOUT`]; written last when the maps are new.
    pub layout: u64,
    /// Boot nonce of this kernel half.
    pub nonce: u64,
    /// Fingerprint of the configuration.
    pub config_hash: u64,
    /// When the daemon's main loop last went round.
    pub controller_stamp_ns: u64,
    /// A controller older than this is dead.
    pub controller_deadtime_ns: u64,
    /// Cluster id.
    pub cluster: u32,
    /// Number of the daemon's starts.
    pub incarnation: u32,
    /// This node's id.
    pub id: u8,
    /// Groups there are: those below this number.
    pub groups: u8,
    /// Zero.
    pub reserved: [u8; 6],
    /// How the groups fare.
    pub words: Words,
}

/// A lock the kernel can take (`linux/bpf.h`); the name is what the verifier looks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct bpf_spin_lock {
    val: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_distinct_and_bounded() {
        let mut seen = [false; SLOTS];
        for node in 1..=MAX_NODES as u8 {
            for link in 0..MAX_LINKS as u8 {
                let slot = slot(node, link).unwrap() as usize;
                assert!(!std::mem::replace(&mut seen[slot], true));
            }
        }
        assert_eq!(slot(0, 0), None);
        assert_eq!(slot(65, 0), None);
        assert_eq!(slot(1, MAX_LINKS as u8), None);
    }
}
