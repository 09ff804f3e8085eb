//! Layout of the one map of the lab's switch (`switch.rs`).
//!
//! The switch is a bridge in a namespace of its own. Each of its ports is the far end of a veth
//! whose near end a node or the client owns; the program on it looks here whether to let a packet
//! pass. So a cut is a memory store: it has an exact instant, takes no carrier away, and may be
//! one-way.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Entries of map `PORTS`; the index is the interface index within the switch's namespace.
pub const MAX_PORTS: usize = 1024;

/// One port. Map `PORTS`, mapped into the lab.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Port {
    /// Written by the lab: not zero drops what comes from the machine on this port.
    pub drop_in: u32,
    /// Written by the lab: not zero drops what goes to the machine on this port.
    pub drop_out: u32,
    /// Written by the lab: bit per machine whose packets are not let out to this one, by the last
    /// byte of their source MAC address.
    pub deaf_to: u32,
    /// Written by the lab: the chance of each packet to the machine to be lost, of 2^32.
    pub loss: u32,
    /// Packets let in; exact, one queue delivers them.
    pub passed_in: u64,
    /// Packets dropped on the way in; exact.
    pub dropped_in: u64,
    /// Packets let out; may miss some when two CPUs send at once.
    pub passed_out: u64,
    /// Packets dropped on the way out; may miss some when two CPUs send at once.
    pub dropped_out: u64,
}
