//! The maps of a witness; their layouts are the library's, their indexes those of
//! [`hb_ebpf::homes`].

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_RDONLY},
    btf_maps::{Array, HashMap, PerCpuArray},
    macros::btf_map,
};
use hb_ebpf::{
    answer::Reply,
    homes::{self, HOMES, MEMBERS},
    lease::{Terms, op::Order},
    maps::{GroupLock, Lease, Link, MAX_LINKS, Node, Path, Peer, PeerKeys, PeerLock, Recorded},
    packet::{self, Bytes, Envelope},
    refusal::{COUNTERS, Refusal},
    wire::Frame,
};

/// Userspace may read and not write.
const SHOWN: usize = (BPF_F_MMAPABLE | BPF_F_RDONLY) as usize;

/// Returns the home of the cluster that the heartbeat in a packet names; `None` for one in which
/// this machine has no vote.
#[inline(always)]
pub(crate) fn home_of<B: Bytes>(packet: &B, envelope: Envelope) -> Option<u32> {
    let cluster = packet::cluster(packet, envelope)?;
    // SAFETY: one aligned word, which the command writes before it adds the cluster.
    unsafe { CLUSTERS.get(cluster) }.copied()
}

/// Returns which home a slot belongs to.
#[inline(always)]
pub(crate) fn home(slot: u32) -> u32 {
    homes::home_of(slot)
}

/// Returns the slot of a voter and a link.
#[inline(always)]
pub(crate) fn slot(home: u32, source: u8, link: u8) -> Result<u32, Refusal> {
    homes::named(home, TERMS.get(home).ok_or(Refusal::Source)?, source, link)
}

/// Returns the slot under which frames are counted that name none.
#[inline(always)]
pub(crate) fn nowhere(home: u32) -> u32 {
    homes::nowhere(home) * MAX_LINKS as u32
}

/// Returns the index of a group's record.
#[inline(always)]
pub(crate) fn record(home: u32, group: u32) -> u32 {
    homes::record(home, group)
}

/// The home of each cluster, by its id. Written by the command, after all else of the cluster.
#[btf_map]
pub(crate) static CLUSTERS: HashMap<u32, u32, HOMES> = HashMap::new();
#[btf_map]
pub(crate) static NODE: Array<Node, HOMES> = Array::new();
#[btf_map]
pub(crate) static TERMS: Array<Terms, HOMES> = Array::new();
#[btf_map]
pub(crate) static PEERS: Array<Peer, MEMBERS> = Array::new();
#[btf_map]
pub(crate) static LINKS: Array<Link, { homes::SLOTS }> = Array::new();
#[btf_map]
pub(crate) static PATHS: Array<Path, { homes::SLOTS }> = Array::new();
#[btf_map]
pub(crate) static KEYS: Array<PeerKeys, MEMBERS> = Array::new();
#[btf_map]
pub(crate) static LOCKS: Array<PeerLock, MEMBERS> = Array::new();
#[btf_map]
pub(crate) static GROUPS: Array<GroupLock, { homes::RECORDS }> = Array::new();
#[btf_map]
pub(crate) static RECORDS: Array<Recorded, { homes::RECORDS }> = Array::new();
#[btf_map]
pub(crate) static LEASES: Array<Lease, { homes::RECORDS }, SHOWN> = Array::new();
/// By member; the last place of a home is that of frames that name none.
#[btf_map]
pub(crate) static REFUSED: PerCpuArray<[u64; COUNTERS], MEMBERS> = PerCpuArray::new();
/// The frame at hand: too large for the stack, and aligned here.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<Frame, 1> = PerCpuArray::new();
/// What is ready for the answer at hand.
#[btf_map]
pub(crate) static REPLY: PerCpuArray<Reply, 1> = PerCpuArray::new();
/// The order at hand.
#[btf_map]
pub(crate) static ORDERS: PerCpuArray<Order, 1> = PerCpuArray::new();
