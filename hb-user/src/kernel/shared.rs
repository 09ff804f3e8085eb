//! The shared maps, mapped into this process.
//!
//! The kernel writes while we read and the other way round, so nothing here hands out references
//! into the maps: whole records are copied out, single words stored.

use std::{
    io,
    mem::offset_of,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, AtomicU64, Ordering, fence},
    thread,
};

use hb_ebpf::{
    lease::Record,
    maps::{self, Link, Node, Peer, Recorded, Timing, Words},
    time::BootTime,
    wire::{FLAG_LEAVING, GROUPS},
};

use crate::id::{GroupId, LinkId, NodeId};

/// A map of `T`s, mapped for reading and writing until dropped.
struct Mapped<T> {
    entries: NonNull<T>,
    count: usize,
}

// SAFETY: the mapping belongs to the process and not to a thread, and every access goes through
// volatile or atomic operations.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T> Mapped<T> {
    fn new(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8), "the kernel rounds values up to 8 bytes") };
        // SAFETY: a fresh mapping at an address of the kernel's choice; the kernel refuses a
        // length beyond the map.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<T>() * count,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let entries = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { entries, count })
    }

    /// Returns where entry `index` lies.
    fn at(&self, index: u32) -> Option<*mut T> {
        // SAFETY: the index is below the count the mapping was made for.
        ((index as usize) < self.count)
            .then(|| unsafe { self.entries.as_ptr().add(index as usize) })
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and nothing refers to it any more.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), size_of::<T>() * self.count) };
    }
}

/// The node, the peers, the links and the groups' records.
pub struct Shared {
    node: Mapped<Node>,
    peers: Mapped<Peer>,
    links: Mapped<Link>,
    records: Mapped<Recorded>,
}

/// What a daemon says of its node when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Cluster id.
    pub cluster: u32,
    /// This node.
    pub id: NodeId,
    /// Number of this start.
    pub incarnation: u32,
    /// Boot nonce; kept from maps that were found.
    pub nonce: u64,
    /// Fingerprint of the configuration.
    pub config_hash: u64,
    /// Groups there are.
    pub groups: u8,
    /// A controller older than this is dead.
    pub controller_deadtime_ns: u64,
}

impl Shared {
    /// Maps the maps.
    ///
    /// # Errors
    ///
    /// The kernel's, if one of them cannot be mapped.
    pub fn new(
        node: BorrowedFd<'_>,
        peers: BorrowedFd<'_>,
        links: BorrowedFd<'_>,
        records: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        Ok(Self {
            node: Mapped::new(node, 1)?,
            peers: Mapped::new(peers, maps::MAX_NODES)?,
            links: Mapped::new(links, maps::SLOTS)?,
            records: Mapped::new(records, GROUPS)?,
        })
    }

    fn node_at(&self) -> *mut Node {
        self.node.entries.as_ptr()
    }

    /// Returns a copy of the node's record.
    #[must_use]
    pub fn node(&self) -> Node {
        // SAFETY: the entry is mapped and any bytes are a `Node`; only this process writes it.
        unsafe { ptr::read_volatile(self.node_at()) }
    }

    /// Says who we are. The layout number goes last, so that maps are never taken for whole before
    /// they are.
    pub fn introduce(&self, identity: &Identity) {
        let node = self.node_at();
        // SAFETY: the entry is mapped; each store is one word of it.
        unsafe {
            ptr::write_volatile(
                &raw mut (*node).controller_deadtime_ns,
                identity.controller_deadtime_ns,
            );
            ptr::write_volatile(&raw mut (*node).cluster, identity.cluster);
            ptr::write_volatile(&raw mut (*node).id, identity.id.0);
            ptr::write_volatile(&raw mut (*node).groups, identity.groups);
            ptr::write_volatile(&raw mut (*node).nonce, identity.nonce);
            ptr::write_volatile(&raw mut (*node).config_hash, identity.config_hash);
            ptr::write_volatile(&raw mut (*node).incarnation, identity.incarnation);
        }
        fence(Ordering::Release);
        // SAFETY: as above.
        unsafe { ptr::write_volatile(&raw mut (*node).layout, maps::LAYOUT) };
    }

    /// Says that so many places of records may have a group. Where it were fewer than before, words of this
    /// life would seem older than earlier ones (`revision` in [`hb_ebpf::wire::Frame`]): then it stays.
    pub fn raise_groups(&self, groups: u8) {
        let groups = groups.max(self.node().groups);
        // SAFETY: the entry is mapped and the field is a byte of it, which the kernel reads whole.
        unsafe { ptr::write_volatile(&raw mut (*self.node_at()).groups, groups) };
    }

    /// Says that this node goes by another configuration.
    pub fn set_config_hash(&self, hash: u64) {
        // SAFETY: the entry is mapped and the field is an aligned word of it.
        let word = unsafe { AtomicU64::from_ptr(&raw mut (*self.node_at()).config_hash) };
        word.store(hash, Ordering::Release);
    }

    /// Tells the kernel that the controller's main loop went round at `now`.
    pub fn stamp_controller(&self, now: BootTime) {
        // SAFETY: the entry is mapped and the field is an aligned word of it.
        let stamp = unsafe { AtomicU64::from_ptr(&raw mut (*self.node_at()).controller_stamp_ns) };
        stamp.store(now.ns(), Ordering::Release);
    }

    /// Changes what frames say of health: the copy that is not in use is written, then made current. Only
    /// one thread may publish.
    pub fn publish(&self, healths: &[u8; GROUPS], leaving: bool) {
        let node = self.node_at();
        // SAFETY: the entry is mapped and the field is an aligned word of it.
        let generation = unsafe { AtomicU32::from_ptr(&raw mut (*node).words.generation) };
        let next = generation.load(Ordering::Relaxed).wrapping_add(1);
        let half = (next & 1) as usize;
        // SAFETY: the kernel does not read this half before the generation says so.
        unsafe {
            ptr::write_volatile(&raw mut (*node).words.healths[half], *healths);
            let flags = if leaving { FLAG_LEAVING } else { 0 };
            ptr::write_volatile(&raw mut (*node).words.flags[half], flags);
        }
        generation.store(next, Ordering::Release);
    }

    /// Returns what frames say of health now.
    #[must_use]
    pub fn published(&self) -> [u8; GROUPS] {
        let Words { generation, healths, .. } = self.node().words;
        healths[(generation & 1) as usize]
    }

    /// Returns a copy of the record of `group`, of one instant.
    #[must_use]
    pub fn record(&self, group: GroupId) -> Option<Record> {
        let entry = self.records.at(group.0.into())?;
        const _: () = assert!(offset_of!(Recorded, sequence) % 4 == 0);
        // SAFETY: the entry is mapped and the field is an aligned word of it.
        let sequence = unsafe { AtomicU32::from_ptr(&raw mut (*entry).sequence) };
        // SAFETY: the entry is mapped and any bytes are a `Record`.
        steady(sequence, || unsafe { ptr::read_volatile(&raw const (*entry).record) })
    }

    fn peer_at(&self, peer: NodeId) -> Option<*mut Peer> {
        maps::peer_index(peer.0).and_then(|index| self.peers.at(index))
    }

    /// Sets a peer's timers; before it is armed.
    pub fn set_timing(&self, peer: NodeId, timing: &Timing) {
        if let Some(record) = self.peer_at(peer) {
            let &Timing { interval_ns, warn_ns, dead_ns, init_dead_ns, doubt_max_ns, late_ns } =
                timing;
            // SAFETY: the entry is mapped, and each field is an aligned word of it.
            let words = unsafe {
                [
                    (&raw mut (*record).timing.interval_ns, interval_ns),
                    (&raw mut (*record).timing.warn_ns, warn_ns),
                    (&raw mut (*record).timing.dead_ns, dead_ns),
                    (&raw mut (*record).timing.init_dead_ns, init_dead_ns),
                    (&raw mut (*record).timing.doubt_max_ns, doubt_max_ns),
                    (&raw mut (*record).timing.late_ns, late_ns),
                ]
            };
            for (word, value) in words {
                // SAFETY: as above. The kernel may read between two of them: no mixture does harm.
                unsafe { AtomicU64::from_ptr(word) }.store(value, Ordering::Relaxed);
            }
        }
    }

    /// Names the live node whose silence would show that it is we who do not hear.
    pub fn set_buddy(&self, peer: NodeId, buddy: Option<NodeId>) {
        if let Some(record) = self.peer_at(peer) {
            // SAFETY: the entry is mapped; one byte.
            unsafe {
                ptr::write_volatile(&raw mut (*record).buddy, buddy.map_or(0, |node| node.0));
            };
        }
    }

    /// Notes that a probe left for `peer` at `now`.
    pub fn stamp_probe(&self, peer: NodeId, now: BootTime) {
        if let Some(record) = self.peer_at(peer) {
            // SAFETY: the entry is mapped and the field is an aligned word of it.
            let stamp = unsafe { AtomicU64::from_ptr(&raw mut (*record).probe_ns) };
            stamp.store(now.ns(), Ordering::Release);
        }
    }

    /// Returns a copy of what the kernel holds of `peer` and its links, all of one instant.
    #[must_use]
    pub fn peer(&self, peer: NodeId) -> Option<Peer> {
        self.consistent(peer, |_| ()).map(|(peer, ())| peer)
    }

    /// Returns a copy of `peer` and of its link `link`, of one instant.
    #[must_use]
    pub fn link(&self, peer: NodeId, link: LinkId) -> Option<(Peer, Link)> {
        let slot = maps::slot(peer.0, link.0)?;
        let record = self.links.at(slot)?;
        // SAFETY: the entry is mapped and any bytes are a `Link`.
        self.consistent(peer, move |()| unsafe { ptr::read_volatile(record) })
    }

    /// Reads under the sequence count of the peer. The kernel holds it for well under a
    /// microsecond; a writer interrupted by the hypervisor is waited for.
    fn consistent<R>(&self, peer: NodeId, read: impl Fn(()) -> R) -> Option<(Peer, R)> {
        let record = self.peer_at(peer)?;
        const _: () = assert!(offset_of!(Peer, sequence) % 4 == 0);
        // SAFETY: the entry is mapped and the field is an aligned word of it.
        let sequence = unsafe { AtomicU32::from_ptr(&raw mut (*record).sequence) };
        // SAFETY: the entry is mapped and any bytes are a `Peer`.
        steady(sequence, || (unsafe { ptr::read_volatile(record) }, read(())))
    }
}

/// Reads under a sequence count that is odd while the kernel writes.
fn steady<R>(sequence: &AtomicU32, read: impl Fn() -> R) -> Option<R> {
    for attempt in 0..10_000u32 {
        let before = sequence.load(Ordering::Acquire);
        if before.is_multiple_of(2) {
            let copy = read();
            fence(Ordering::Acquire);
            if sequence.load(Ordering::Relaxed) == before {
                return Some(copy);
            }
        }
        if attempt % 64 == 63 {
            thread::yield_now();
        }
    }
    None
}
