//! The maps; their layouts are the library's.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_RDONLY},
    btf_maps::{Array, HashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use hb_ebpf::{
    answer::Reply,
    gate::{Bounce, COUNTS, Claims, MAX_MACS, MAX_VIPS, Settings, Vip},
    lease::{Terms, op::Order},
    maps::{
        self as layout, EVENTS_BYTES, Event, GroupLock, Lease, Link, MAX_NODES, Node, Path, Peer,
        PeerKeys, PeerLock, PeerTimer, Recorded, SLOTS, peer_index,
    },
    packet::{Bytes, Envelope},
    refusal::{COUNTERS, Refusal},
    wire::{Frame, GROUPS as GROUP_COUNT},
};

const MAPPED: usize = BPF_F_MMAPABLE as usize;
/// Userspace may read and not write.
const SHOWN: usize = (BPF_F_MMAPABLE | BPF_F_RDONLY) as usize;

/// Returns which home the heartbeat in a packet is for: an index into `NODE` and `TERMS`. A node has
/// one; a witness one for each cluster.
#[inline(always)]
pub(crate) fn home_of<B: Bytes>(_packet: &B, _envelope: Envelope) -> Option<u32> {
    Some(0)
}

/// Returns which home a slot belongs to. Computed all the same, because an argument that nothing
/// uses is left undefined, which the verifier refuses.
#[inline(always)]
pub(crate) fn home(slot: u32) -> u32 {
    slot / SLOTS as u32
}

/// Returns the slot of a peer and a link.
#[inline(always)]
pub(crate) fn slot(_home: u32, source: u8, link: u8) -> Result<u32, Refusal> {
    peer_index(source).ok_or(Refusal::Source)?;
    layout::slot(source, link).ok_or(Refusal::Link)
}

/// Returns the slot under which frames are counted that name none.
#[inline(always)]
pub(crate) fn nowhere(_home: u32) -> u32 {
    SLOTS as u32
}

/// Returns the index of a group's record.
#[inline(always)]
pub(crate) fn record(home: u32, group: u32) -> u32 {
    home * GROUP_COUNT as u32 + group
}

#[btf_map]
pub(crate) static NODE: Array<Node, 1, MAPPED> = Array::new();
#[btf_map]
pub(crate) static PEERS: Array<Peer, MAX_NODES, MAPPED> = Array::new();
#[btf_map]
pub(crate) static LINKS: Array<Link, SLOTS, MAPPED> = Array::new();
#[btf_map]
pub(crate) static PATHS: Array<Path, SLOTS> = Array::new();
#[btf_map]
pub(crate) static KEYS: Array<PeerKeys, MAX_NODES> = Array::new();
#[btf_map]
pub(crate) static LOCKS: Array<PeerLock, MAX_NODES> = Array::new();
#[btf_map]
pub(crate) static TERMS: Array<Terms, 1> = Array::new();
#[btf_map]
pub(crate) static GROUPS: Array<GroupLock, GROUP_COUNT> = Array::new();
#[btf_map]
pub(crate) static RECORDS: Array<Recorded, GROUP_COUNT, MAPPED> = Array::new();
#[btf_map]
pub(crate) static LEASES: Array<Lease, GROUP_COUNT, SHOWN> = Array::new();
#[btf_map]
pub(crate) static TIMERS: Array<PeerTimer, MAX_NODES> = Array::new();
#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, EVENTS_BYTES> = RingBuf::new();
/// By slot, then one for frames that name no slot.
#[btf_map]
pub(crate) static REFUSED: PerCpuArray<[u64; COUNTERS], { SLOTS + 1 }> = PerCpuArray::new();
/// Events that did not fit into the ring.
#[btf_map]
pub(crate) static LOST: PerCpuArray<u64, 1> = PerCpuArray::new();
/// The frame at hand: too large for the stack, and aligned here.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<Frame, 1> = PerCpuArray::new();
/// What is ready for the answer at hand.
#[btf_map]
pub(crate) static REPLY: PerCpuArray<Reply, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static GATE: Array<Settings, 1> = Array::new();
#[btf_map]
pub(crate) static VIPS4: HashMap<[u8; 4], Vip, MAX_VIPS> = HashMap::new();
#[btf_map]
pub(crate) static VIPS6: HashMap<[u8; 16], Vip, MAX_VIPS> = HashMap::new();
#[btf_map]
pub(crate) static GATED: PerCpuArray<[u64; COUNTS], MAX_VIPS> = PerCpuArray::new();
#[btf_map]
pub(crate) static BOUNCES: Array<Bounce, MAX_VIPS> = Array::new();
/// MAC addresses of this node's own interfaces.
#[btf_map]
pub(crate) static MACS: HashMap<[u8; 6], u8, MAX_MACS> = HashMap::new();
/// Packets behind more tags than the gate looks behind.
#[btf_map]
pub(crate) static BURIED: PerCpuArray<u64, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static CLAIMS: Array<Claims, MAX_VIPS> = Array::new();
/// The order at hand.
#[btf_map]
pub(crate) static ORDERS: PerCpuArray<Order, 1> = PerCpuArray::new();
