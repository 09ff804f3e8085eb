//! The gate as it is pinned, for whoever only looks: with a daemon, without one, or after one.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata, TryLockError},
    io,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::Arc,
};

use hb_ebpf::{
    gate::{COUNTS, Claims, Mode, Settings, Vip},
    lease::{self, Terms},
    maps::Node,
    time::BootTime,
};
use hb_lease::{LeaseView, ReadError};

use super::{
    attach::read_pin,
    error::KernelError,
    gate::{Displaced, NO_GROUP},
    owner::{self, Attached, GateMaps, Wanted},
    pinned::{PinnedMap, sum},
    pins::{GATE_MAP, attached_to, id_of_map, key_size, link_pins, open},
    program::{self, GateCounters, Kernel, NODE_HALF, SHOWN, Way},
};
use crate::{
    clock,
    id::{GroupId, NodeId},
    own_path::{self, NotOurs},
};

/// A service address at the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatedVip {
    /// The address.
    pub address: IpAddr,
    /// Its group, by the place of its record; `None` if the gate keeps it closed because it is of none.
    pub group: Option<GroupId>,
    /// Which group that record is of, 0 for none.
    pub fingerprint: u32,
    /// When the lease of its group ends, as the gate reads it: 0 while this node does not hold,
    /// [`lease::ENDLESS`] for one that ends with the daemon.
    pub expires_ns: u64,
    /// When that was read: a moment later it is no longer so.
    pub read_at: BootTime,
    /// What was counted, by [`hb_ebpf::gate::Count`].
    pub counters: GateCounters,
    /// MAC address of whoever else claimed it last while this node served it.
    pub claimed_by: Option<[u8; 6]>,
}

/// What of the gate is attached to an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatedInterface {
    /// Index of the interface.
    pub index: u32,
    /// The program that also hears heartbeats looks at what arrives.
    pub xdp: bool,
    /// A program of traffic control looks at what arrives.
    pub arriving: bool,
    /// One looks at what leaves.
    pub leaving: bool,
    /// Programs before it: what they let pass, or send elsewhere, it never sees.
    pub before: Vec<Displaced>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateView {
    /// What it does; `None` for a code of another version.
    pub mode: Option<Mode>,
    /// When the daemon had stamped its slot last, at [`read_at`](Self::read_at).
    pub controller_stamp: BootTime,
    /// When that was read.
    pub read_at: BootTime,
    /// A daemon older than this is dead, in nanoseconds.
    pub controller_deadtime_ns: u64,
    /// The service addresses, in the order of their numbers.
    pub vips: Vec<GatedVip>,
    /// The interfaces, by index.
    pub interfaces: Vec<GatedInterface>,
    /// Packets behind more VLAN tags than are looked behind.
    pub buried: u64,
}

impl GateView {
    /// Reads what is pinned at `pins`, and where the gate over it is; `None` if nothing is pinned.
    ///
    /// # Errors
    ///
    /// [`KernelError::Foreign`] if it is of another version; [`KernelError::NotOurs`] if others can
    /// have put it there; [`KernelError::Map`].
    pub fn read(pins: &Path) -> Result<Option<Self>, KernelError> {
        let map = match id_of_map(&pins.join(GATE_MAP)) {
            Ok(map) => map,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(KernelError::Pins { path: pins.to_owned(), source }),
        };
        Kernel::check_half(&NODE_HALF, pins)?;
        let unusable = |source| KernelError::Pins { path: pins.to_owned(), source };
        let mut interfaces = BTreeMap::new();
        for pin in link_pins(pins).map_err(unusable)? {
            // None of an interface that is gone.
            if let index @ 1.. = attached_to(&pin).map_err(unusable)?
                && read_pin(&pin).is_none_or(|(_, mode)| mode.is_xdp())
            {
                at(&mut interfaces, index).xdp = true;
            }
        }
        let gates = owner::find(Wanted::Over(map))?;
        Self::of(&Source::Pins(pins), interfaces, gates).map(Some)
    }

    /// Reads the gate of node `me` of `cluster` from where it is attached, when nothing of it is
    /// pinned any more; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`], [`KernelError::Chain`].
    pub fn find(cluster: u32, me: NodeId) -> Result<Option<Self>, KernelError> {
        let gates = owner::find(Wanted::Of((cluster, me)))?;
        // Only what looks at packets that arrive has counted all.
        let gate = gates.iter().find(|gate| gate.way == Way::In).or(gates.first());
        let Some(gate) = gate else { return Ok(None) };
        let maps = GateMaps::of(&gate.program).map_err(KernelError::Chain)?;
        let maps = maps.ok_or(KernelError::Missing(GATE_MAP))?;
        Self::of(&Source::Gate(&maps), BTreeMap::new(), gates).map(Some)
    }

    fn of(
        source: &Source<'_>,
        mut interfaces: BTreeMap<u32, GatedInterface>,
        gates: Vec<Attached>,
    ) -> Result<Self, KernelError> {
        for Attached { index, way, before, .. } in gates {
            let found = at(&mut interfaces, index);
            match way {
                Way::In => found.arriving = true,
                Way::Out => found.leaving = true,
            }
            let before = before.into_iter().map(|program| Displaced { way, program });
            found.before.extend(before);
        }
        let settings = source.open::<Settings, u32>(GATE_MAP)?;
        let nodes = source.open::<Node, u32>("NODE")?;
        let leases = source.leases()?;
        let counters = source.open::<GateCounters, u32>("GATED")?;
        let claims = source.open_if_there::<Claims, u32>("CLAIMS")?;
        let buried = source.open_if_there::<[u64; 1], u32>("BURIED")?;
        let four = source.open::<Vip, [u8; 4]>("VIPS4")?;
        let six = source.open::<Vip, [u8; 16]>("VIPS6")?;
        let settings = settings.get(0).map_err(failed("GATE"))?.unwrap_or_default();
        let node = nodes.get(0).map_err(failed("NODE"))?.ok_or(KernelError::Missing("NODE"))?;
        let read_at = clock::now();
        let four = four.entries().map_err(failed("VIPS4"))?.into_iter();
        let six = six.entries().map_err(failed("VIPS6"))?.into_iter();
        let mut known: Vec<(IpAddr, Vip)> = four
            .map(|(address, vip)| (address.into(), vip))
            .chain(six.map(|(address, vip)| (address.into(), vip)))
            .collect();
        known.sort_by_key(|(_, vip)| vip.number);
        let vips = known.into_iter().map(|(address, vip)| {
            let number = u32::from(vip.number);
            let lease = match leases.read(usize::from(vip.group)) {
                Err(ReadError::Group { .. }) => None,
                lease => Some(lease.map_err(io::Error::other).map_err(failed(SHOWN))?),
            };
            let read_at = clock::now();
            let counted = counters.get_per_cpu(number).map_err(failed("GATED"))?;
            let claims = claims.as_ref().map(|claims| claims.get(number)).transpose();
            let claims = claims.map_err(failed("CLAIMS"))?.flatten().unwrap_or_default();
            Ok(GatedVip {
                address,
                group: (vip.group != NO_GROUP).then_some(GroupId(vip.group)),
                fingerprint: lease.map_or(0, |lease| lease.fingerprint),
                expires_ns: lease.map_or(0, |lease| lease.expires_ns),
                read_at,
                counters: sum::<COUNTS>(&counted),
                claimed_by: (claims.mac != [0; 6]).then_some(claims.mac),
            })
        });
        let buried = buried.as_ref().map(|buried| buried.get_per_cpu(0)).transpose();
        let buried = buried.map_err(failed("BURIED"))?.unwrap_or_default();
        Ok(Self {
            buried: sum::<1>(&buried)[0],
            mode: [Mode::On, Mode::DryRun, Mode::Bypass]
                .into_iter()
                .find(|mode| *mode as u8 == settings.mode),
            controller_stamp: BootTime(node.controller_stamp_ns),
            read_at,
            controller_deadtime_ns: node.controller_deadtime_ns,
            vips: vips.collect::<Result<_, KernelError>>()?,
            interfaces: interfaces.into_values().collect(),
        })
    }

    /// Tells whether the daemon was alive, by its own stamp.
    #[must_use]
    pub fn is_daemon_alive(&self) -> bool {
        let age = self.read_at.since(self.controller_stamp);
        age.as_nanos() <= u128::from(self.controller_deadtime_ns)
    }

    /// Tells whether packets of `vip` passed by the lease when it was read.
    #[must_use]
    pub fn passes(&self, vip: &GatedVip) -> bool {
        let (stamp, deadtime) = (self.controller_stamp.ns(), self.controller_deadtime_ns);
        // Each is judged at the instant at which it was read.
        let now = if vip.expires_ns == lease::ENDLESS { self.read_at } else { vip.read_at };
        lease::gate::passes(vip.expires_ns, stamp, deadtime, now.ns())
    }
}

/// Returns the service addresses that a gate pinned at `pins` looks after, whichever version left it.
///
/// # Errors
///
/// [`KernelError::Foreign`] if its maps are not of addresses; [`KernelError::Map`].
pub fn gated_addresses(pins: &Path) -> Result<Vec<IpAddr>, KernelError> {
    let mut addresses = Vec::new();
    keys::<[u8; 4]>(pins, "VIPS4", &mut addresses)?;
    keys::<[u8; 16]>(pins, "VIPS6", &mut addresses)?;
    Ok(addresses)
}

/// Adds the keys of a map of addresses, if it is there.
fn keys<K>(pins: &Path, map: &'static str, into: &mut Vec<IpAddr>) -> Result<(), KernelError>
where
    K: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + Copy + Into<IpAddr>,
{
    let pin = pins.join(map);
    if !pin.exists() {
        return Ok(());
    }
    let bytes = key_size(&pin).map_err(failed(map))?;
    if bytes != size_of::<K>() {
        let what = format!("map {map} has keys of {bytes} bytes");
        return Err(KernelError::Foreign { path: pins.to_owned(), what });
    }
    // SAFETY: the size of its keys was just checked, and no value is read.
    let found = unsafe { PinnedMap::<[u8; 0], K>::open(&pin) };
    let found = found.and_then(|found| found.keys()).map_err(failed(map))?;
    into.extend(found.into_iter().map(Into::into));
    Ok(())
}

/// Returns the terms by which the records pinned at `pins` promise.
///
/// # Errors
///
/// [`KernelError::Foreign`] if they are of another version; [`KernelError::Map`].
pub fn pinned_terms(pins: &Path) -> Result<Terms, KernelError> {
    Kernel::check_half(&NODE_HALF, pins)?;
    let terms = Source::Pins(pins).open::<Terms, u32>("TERMS")?;
    terms.get(0).map_err(failed("TERMS"))?.ok_or(KernelError::Missing("TERMS"))
}

/// Where the maps of a gate are.
enum Source<'a> {
    /// Pinned.
    Pins(&'a Path),
    /// In the hands of a program.
    Gate(&'a GateMaps),
}

impl Source<'_> {
    fn open<V, K>(&self, map: &'static str) -> Result<PinnedMap<V, K>, KernelError>
    where
        V: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable,
        K: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + Copy,
    {
        match self {
            Self::Pins(pins) => open(&pins.join(map)).and_then(PinnedMap::of).map_err(failed(map)),
            Self::Gate(maps) => maps.open(map),
        }
    }

    /// Maps the leases.
    fn leases(&self) -> Result<LeaseView, KernelError> {
        let view = match self {
            Self::Pins(pins) => LeaseView::open(&pins.join(SHOWN)),
            Self::Gate(maps) => LeaseView::of_descriptor(maps.descriptor(SHOWN)?),
        };
        view.map_err(failed(SHOWN))
    }

    /// Opens a map that not every program of the gate has.
    fn open_if_there<V, K>(&self, map: &'static str) -> Result<Option<PinnedMap<V, K>>, KernelError>
    where
        V: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable,
        K: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + Copy,
    {
        match self.open(map) {
            Err(KernelError::Missing(_)) => Ok(None),
            opened => opened.map(Some),
        }
    }
}

fn at(interfaces: &mut BTreeMap<u32, GatedInterface>, index: u32) -> &mut GatedInterface {
    interfaces.entry(index).or_insert_with(|| GatedInterface { index, ..GatedInterface::default() })
}

fn failed(map: &'static str) -> impl Fn(io::Error) -> KernelError {
    move |source| KernelError::Map { map, step: "read", source: Box::new(source) }
}

/// A daemon's claim to what is pinned, for as long as its process lives: whoever wants to remove
/// the pins without a configuration has to get it first.
#[derive(Clone, Debug)]
pub struct PinsLock(Arc<File>);

impl PinsLock {
    /// Takes it; `None` if a living process, frozen ones included, has it.
    ///
    /// # Errors
    ///
    /// [`KernelError::Pins`].
    pub fn take(pins: &Path) -> Result<Option<Self>, KernelError> {
        Self::of(pins, own_path::open(pins))
    }

    /// Does the same, and makes the directory if it is not there.
    ///
    /// # Errors
    ///
    /// [`KernelError::Pins`].
    pub fn make(pins: &Path) -> Result<Option<Self>, KernelError> {
        Self::of(pins, own_path::make(pins))
    }

    fn of(pins: &Path, directory: Result<File, NotOurs>) -> Result<Option<Self>, KernelError> {
        let unusable = |source| KernelError::Pins { path: pins.to_owned(), source };
        let directory = directory.map_err(|error| program::unusable(pins, error))?;
        match directory.try_lock() {
            Ok(()) => Ok(Some(Self(Arc::new(directory)))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(unusable(source)),
        }
    }

    /// Tells whether the directory at `pins` is the one that is locked.
    #[must_use]
    pub fn is_of(&self, pins: &Path) -> bool {
        let same =
            |one: Metadata, other: Metadata| (one.dev(), one.ino()) == (other.dev(), other.ino());
        let both = self.0.metadata().and_then(|locked| Ok((locked, fs::metadata(pins)?)));
        both.is_ok_and(|(locked, there)| same(locked, there))
    }
}
