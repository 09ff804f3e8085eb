//! The maps; their layouts are the library's.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, PerCpuArray, RingBuf},
    macros::btf_map,
};
use hb_ebpf::{
    maps::{
        EVENTS_BYTES, Event, Link, MAX_NODES, Node, Path, Peer, PeerKeys, PeerLock, PeerTimer,
        SLOTS,
    },
    refusal::COUNTERS,
    wire::Frame,
};

const MAPPED: usize = BPF_F_MMAPABLE as usize;

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
