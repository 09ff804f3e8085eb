//! The kernel half of a machine that only votes.
//!
//! Its maps are pinned and so is its program on every interface: it votes on when no process of
//! ours runs. The command that configures it, and the one that only looks, reach the maps by their
//! pins.

use std::{
    fs, io,
    os::fd::BorrowedFd,
    path::{Path as FilePath, PathBuf},
};

use hb_ebpf::{
    homes::{self, HOMES, MEMBERS, PLACES, RECORDS},
    lease::{Record, Terms, op::Order},
    maps::{
        GroupLock, LAYOUT, Lease, Link, MAX_LINKS, Node, Path, Peer, PeerKeys, PeerLock, Recorded,
    },
    refusal::COUNTERS,
};
use zerocopy::FromZeros as _;

use super::{
    attach::{Attachment, Mode, read_pin},
    error::KernelError,
    pinned::{PinnedMap, sum},
    pins::{self, detach, remove_pins},
    program::{Counters, Half, Kernel, Leases},
};

const HALF: Half = Half {
    pinned: &[
        ("CLUSTERS", size_of::<u32>(), HOMES),
        ("NODE", size_of::<Node>(), HOMES),
        ("TERMS", size_of::<Terms>(), HOMES),
        ("PEERS", size_of::<Peer>(), MEMBERS),
        ("LINKS", size_of::<Link>(), homes::SLOTS),
        ("PATHS", size_of::<Path>(), homes::SLOTS),
        ("KEYS", size_of::<PeerKeys>(), MEMBERS),
        ("LOCKS", size_of::<PeerLock>(), MEMBERS),
        ("GROUPS", size_of::<GroupLock>(), RECORDS),
        ("RECORDS", size_of::<Recorded>(), RECORDS),
        ("LEASES", size_of::<Lease>(), RECORDS),
        ("REFUSED", size_of::<Counters>(), MEMBERS),
    ],
    programs: &["heartbeat", "order"],
    timers: None,
    gate: false,
    carriers: false,
};

/// The bytes of a [`PeerLock`], which userspace may set and never interprets.
type LockBytes = [u8; size_of::<PeerLock>()];

/// Where a cluster's voter is kept: the home of its cluster, and its place among the voters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The home.
    pub home: u32,
    /// The place.
    pub place: u32,
}

/// All of a cluster but its records.
#[derive(Clone)]
pub struct Seat {
    /// Who this machine is there.
    pub node: Node,
    /// How long promises last, and who votes.
    pub terms: Terms,
    /// The keys of the voters, by place; none for this machine.
    pub keys: [PeerKeys; PLACES],
    /// Where frames of the voters may come from, by place and link.
    pub paths: [[Path; MAX_LINKS]; PLACES],
}

/// The maps of the kernel half.
pub struct WitnessMaps {
    clusters: PinnedMap<u32>,
    nodes: PinnedMap<Node>,
    terms: PinnedMap<Terms>,
    peers: PinnedMap<Peer>,
    links: PinnedMap<Link>,
    paths: PinnedMap<Path>,
    keys: PinnedMap<PeerKeys>,
    locks: PinnedMap<LockBytes>,
    records: PinnedMap<Recorded>,
    refused: PinnedMap<Counters>,
    pins: PathBuf,
}

fn failed(map: &'static str, step: &'static str) -> impl Fn(io::Error) -> KernelError {
    move |source| KernelError::Map { map, step, source: Box::new(source) }
}

impl WitnessMaps {
    /// Opens the maps pinned at `pins`; `None` if there are none.
    ///
    /// # Errors
    ///
    /// [`KernelError::Foreign`] if they are of another version.
    pub fn open(pins: &FilePath) -> Result<Option<Self>, KernelError> {
        if !pins.join("CLUSTERS").exists() {
            return Ok(None);
        }
        Kernel::check_half(&HALF, pins)?;
        // SAFETY: the sizes were just checked; every map of `HALF` has keys of four bytes.
        let maps = unsafe {
            Self {
                clusters: open(pins, "CLUSTERS")?,
                nodes: open(pins, "NODE")?,
                terms: open(pins, "TERMS")?,
                peers: open(pins, "PEERS")?,
                links: open(pins, "LINKS")?,
                paths: open(pins, "PATHS")?,
                keys: open(pins, "KEYS")?,
                locks: open(pins, "LOCKS")?,
                records: open(pins, "RECORDS")?,
                refused: open(pins, "REFUSED")?,
                pins: pins.to_owned(),
            }
        };
        for (_, home) in maps.clusters()? {
            let layout = maps.node(home)?.layout;
            if layout != LAYOUT {
                let what = format!("layout {layout:#x} instead of {LAYOUT:#x}");
                return Err(KernelError::Foreign { path: pins.to_owned(), what });
            }
        }
        Ok(Some(maps))
    }

    /// Returns the id and the home of every cluster, by home.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn clusters(&self) -> Result<Vec<(u32, u32)>, KernelError> {
        let mut clusters = self.clusters.entries().map_err(failed("CLUSTERS", "read"))?;
        clusters.sort_unstable_by_key(|(_, home)| *home);
        Ok(clusters)
    }

    /// Returns who this machine is to the cluster at `home`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn node(&self, home: u32) -> Result<Node, KernelError> {
        get(&self.nodes, "NODE", home)
    }

    /// Returns the terms of the cluster at `home`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn terms(&self, home: u32) -> Result<Terms, KernelError> {
        get(&self.terms, "TERMS", home)
    }

    /// Returns what was heard of a voter.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn peer(&self, at: Place) -> Result<Peer, KernelError> {
        let index = homes::member(at.home, at.place);
        steady(|| get(&self.peers, "PEERS", index), |peer| peer.sequence)
    }

    /// Returns what was heard of a voter on a link.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn link(&self, at: Place, link: u32) -> Result<Link, KernelError> {
        get(&self.links, "LINKS", homes::slot(at.home, at.place, link))
    }

    /// Returns where frames of a voter on a link may come from.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn path(&self, at: Place, link: u32) -> Result<Path, KernelError> {
        get(&self.paths, "PATHS", homes::slot(at.home, at.place, link))
    }

    /// Returns the record of a group, of one instant.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn record(&self, home: u32, group: u8) -> Result<Record, KernelError> {
        let index = homes::record(home, group.into());
        steady(|| get(&self.records, "RECORDS", index), |copy| copy.sequence)
            .map(|copy| copy.record)
    }

    /// Returns the counters of refused frames of a voter; of frames that name none at the last
    /// place.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn refused(&self, at: Place) -> Result<Counters, KernelError> {
        let index = homes::member(at.home, at.place);
        let values = self.refused.get_per_cpu(index).map_err(failed("REFUSED", "read"))?;
        Ok(sum::<COUNTERS>(&values))
    }

    /// Returns the interface indexes the program is attached to, and how.
    ///
    /// # Errors
    ///
    /// [`KernelError::Pins`] if the pins cannot be listed.
    pub fn interfaces(&self) -> Result<Vec<(u32, Mode)>, KernelError> {
        let mut found: Vec<_> =
            link_pins(&self.pins)?.iter().filter_map(|pin| read_pin(pin)).collect();
        found.sort_unstable_by_key(|(index, _)| *index);
        Ok(found)
    }
}

/// # Safety
///
/// As for [`PinnedMap::open`].
unsafe fn open<V>(pins: &FilePath, map: &'static str) -> Result<PinnedMap<V>, KernelError>
where
    V: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable,
{
    // SAFETY: the caller's promise.
    unsafe { PinnedMap::open(&pins.join(map)) }.map_err(failed(map, "open"))
}

fn get<V>(map: &PinnedMap<V>, name: &'static str, index: u32) -> Result<V, KernelError>
where
    V: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable,
{
    map.get(index).map_err(failed(name, "read"))?.ok_or(KernelError::Missing("entry"))
}

fn set<V>(map: &PinnedMap<V>, name: &'static str, index: u32, value: &V) -> Result<(), KernelError>
where
    V: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable,
{
    map.set(index, value).map_err(failed(name, "write"))
}

/// Reads until two copies in a row bear the same even sequence count: then nobody wrote while the
/// first was copied. The kernel writes for well under a microsecond.
fn steady<V>(
    read: impl Fn() -> Result<V, KernelError>,
    sequence: impl Fn(&V) -> u32,
) -> Result<V, KernelError> {
    let mut before = read()?;
    for _ in 0..1000 {
        let after = read()?;
        if sequence(&before) == sequence(&after) && sequence(&after).is_multiple_of(2) {
            return Ok(before);
        }
        before = after;
    }
    Ok(before)
}

fn link_pins(pins: &FilePath) -> Result<Vec<PathBuf>, KernelError> {
    pins::link_pins(pins).map_err(|source| KernelError::Pins { path: pins.to_owned(), source })
}

/// The kernel half, to be configured.
pub struct Witness {
    kernel: Kernel,
    maps: WitnessMaps,
    leases: Leases,
    found: bool,
    /// Attachments that were there before.
    earlier: Vec<PathBuf>,
}

impl Witness {
    /// Loads the programs over the maps pinned at `pins`, or over new ones that are then pinned
    /// there. Nothing is attached yet.
    ///
    /// # Errors
    ///
    /// As for [`Kernel::open`]; new pins are removed again.
    pub fn open(object: &'static [u8], pins: &FilePath) -> Result<Self, KernelError> {
        let found = WitnessMaps::open(pins)?.is_some();
        let opened = Self::load(object, pins, found);
        if opened.is_err() && !found {
            // The error at hand is the one that matters.
            drop(remove_pins(pins));
        }
        opened
    }

    fn load(object: &'static [u8], pins: &FilePath, found: bool) -> Result<Self, KernelError> {
        let earlier = if found { link_pins(pins)? } else { Vec::new() };
        let mut kernel = Kernel::open_half(&HALF, object, pins)?;
        let maps = WitnessMaps::open(pins)?.ok_or(KernelError::Missing("CLUSTERS"))?;
        let leases = kernel.leases()?;
        Ok(Self { kernel, maps, leases, found, earlier })
    }

    /// Tells whether the maps were there before.
    #[must_use]
    pub const fn found(&self) -> bool {
        self.found
    }

    /// Returns the maps.
    #[must_use]
    pub const fn maps(&self) -> &WitnessMaps {
        &self.maps
    }

    /// Returns the program that votes, for whoever looks at it.
    ///
    /// # Errors
    ///
    /// [`KernelError::Missing`] if it is not loaded.
    pub fn program_fd(&self) -> Result<BorrowedFd<'_>, KernelError> {
        self.kernel.program_fd("heartbeat")
    }

    /// Attaches to an interface as [`Kernel::attach`] does.
    ///
    /// # Errors
    ///
    /// Those of [`Kernel::attach`].
    pub fn attach(
        &mut self,
        interface: &str,
        index: u32,
        only: Option<Mode>,
    ) -> Result<&Attachment, KernelError> {
        self.kernel.attach(interface, index, only)
    }

    /// Replaces a native attachment by a generic one, because of `reason`.
    ///
    /// # Errors
    ///
    /// As for [`Generic::replace`](super::Generic::replace); without a native attachment there,
    /// [`KernelError::Missing`].
    pub fn fall_back(&mut self, index: u32, reason: String) -> Result<&Attachment, KernelError> {
        let missing = KernelError::Missing("native attachment");
        let held = self.kernel.lend(index).ok_or(missing)?;
        match self.kernel.generic()?.replace(held, reason) {
            Ok(attachment) => self.kernel.hold(attachment),
            Err(failed) => {
                if let Some(kept) = failed.kept {
                    self.kernel.hold(kept);
                }
                return Err(failed.error);
            }
        }
        self.kernel.attachments().last().ok_or(KernelError::Missing("attachment"))
    }

    /// Undoes what this process attached; if it found nothing, nothing is left.
    ///
    /// # Errors
    ///
    /// [`KernelError::Pins`], [`KernelError::Detach`].
    pub fn undo(self) -> Result<(), KernelError> {
        let Self { kernel, maps, found, earlier, .. } = self;
        drop(kernel);
        if !found {
            return remove_pins(&maps.pins);
        }
        for pin in link_pins(&maps.pins)?.into_iter().filter(|pin| !earlier.contains(pin)) {
            detach(&pin).map_err(|source| KernelError::Detach { pin: pin.clone(), source })?;
            fs::remove_file(&pin)
                .map_err(|source| KernelError::Pins { path: pin.clone(), source })?;
        }
        Ok(())
    }

    /// Removes the attachments to other interfaces than those attached to since.
    pub fn detach_others(&self) {
        self.kernel.detach_others();
    }

    /// Writes what of `seat` differs from what is there. The cluster may be at work meanwhile: a
    /// frame that is being judged may then be refused, and no more.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn seat(&mut self, home: u32, seat: &Seat) -> Result<(), KernelError> {
        let maps = &self.maps;
        for place in 0..PLACES as u32 {
            let at = Place { home, place };
            let member = homes::member(home, place);
            let keys = &seat.keys[place as usize];
            if get(&maps.keys, "KEYS", member)? != *keys {
                set(&maps.keys, "KEYS", member, keys)?;
            }
            for link in 0..MAX_LINKS as u32 {
                let path = &seat.paths[place as usize][link as usize];
                if maps.path(at, link)? != *path {
                    set(&maps.paths, "PATHS", homes::slot(home, place, link), path)?;
                }
            }
        }
        if maps.terms(home)? != seat.terms {
            set(&maps.terms, "TERMS", home, &seat.terms)?;
        }
        if maps.node(home)? != seat.node {
            set(&maps.nodes, "NODE", home, &seat.node)?;
        }
        Ok(())
    }

    /// Forgets all that was heard of the members of `home`, and their keys; the records stay. No
    /// cluster may have this home, and [`quiesce`](Self::quiesce) must have been called since.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn clear_members(&mut self, home: u32) -> Result<(), KernelError> {
        let maps = &self.maps;
        set(&maps.nodes, "NODE", home, &Node::new_zeroed())?;
        for place in 0..PLACES as u32 {
            let member = homes::member(home, place);
            set(&maps.keys, "KEYS", member, &PeerKeys::default())?;
            set(&maps.peers, "PEERS", member, &Peer::new_zeroed())?;
            set(&maps.locks, "LOCKS", member, &[0; size_of::<PeerLock>()])?;
            for link in 0..MAX_LINKS as u32 {
                let slot = homes::slot(home, place, link);
                set(&maps.paths, "PATHS", slot, &Path::default())?;
                set(&maps.links, "LINKS", slot, &Link::new_zeroed())?;
            }
        }
        Ok(())
    }

    /// Lets frames of `cluster` be answered from `home`, which has to be complete.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn admit(&mut self, cluster: u32, home: u32) -> Result<(), KernelError> {
        set(&self.maps.clusters, "CLUSTERS", cluster, &home)
    }

    /// Lets frames of `cluster` pass as if it had never been there.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn dismiss(&mut self, cluster: u32) -> Result<(), KernelError> {
        self.maps.clusters.remove(cluster).map_err(failed("CLUSTERS", "write"))
    }

    /// Returns once every frame that any CPU had at hand has been dealt with.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`] if the kernel has no membarrier(2).
    pub fn quiesce(&self) -> Result<(), KernelError> {
        // The program runs within a read section of RCU, whose end this waits for.
        const GLOBAL: libc::c_int = 1;
        // SAFETY: takes numbers alone.
        if unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) } == 0 {
            Ok(())
        } else {
            Err(failed("CLUSTERS", "wait for readers of")(io::Error::last_os_error()))
        }
    }

    /// Carries out an order on the record of a group of `home`, and returns it.
    ///
    /// # Errors
    ///
    /// [`KernelError::Order`].
    pub fn order(&self, home: u32, order: Order) -> Result<Record, KernelError> {
        self.leases.order(Order { home, ..order }).map(|answer| answer.record)
    }

    /// Runs the attached program on `packet`, as [`Kernel::run_packet`] does.
    ///
    /// # Errors
    ///
    /// [`KernelError::Program`].
    pub fn run_packet(&self, packet: &[u8], interface: u32) -> Result<(u32, Vec<u8>), KernelError> {
        self.kernel.run_packet(packet, interface)
    }
}
