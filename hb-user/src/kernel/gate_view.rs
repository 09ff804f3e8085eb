//! The gate as it is pinned, for whoever only looks: with a daemon, without one, or after one.

use std::{
    fs::{self, File, TryLockError},
    io,
    net::IpAddr,
    path::Path,
};

use hb_ebpf::{
    gate::{COUNTS, Claims, Mode, Settings, Vip},
    lease::{self, Terms},
    maps::{Lease, Node},
    time::BootTime,
};

use super::{
    error::KernelError,
    gate::NO_GROUP,
    pinned::{PinnedMap, sum},
    pins::{GATE_PIN, LINK_PIN, attached_to, key_size},
    program::{GateCounters, Kernel, NODE_HALF},
};
use crate::{clock, id::GroupId};

/// A service address at the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatedVip {
    /// The address.
    pub address: IpAddr,
    /// Its group; `None` if the gate keeps it closed because it is of none.
    pub group: Option<GroupId>,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GatedInterface {
    /// Index of the interface.
    pub index: u32,
    /// The program that also hears heartbeats looks at what arrives.
    pub xdp: bool,
    /// A program of traffic control looks at what arrives.
    pub arriving: bool,
    /// One looks at what leaves.
    pub leaving: bool,
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
    /// Reads what is pinned at `pins`; `None` if nothing is.
    ///
    /// # Errors
    ///
    /// [`KernelError::Foreign`] if it is of another version; [`KernelError::Map`].
    pub fn read(pins: &Path) -> Result<Option<Self>, KernelError> {
        if !pins.join("GATE").exists() {
            return Ok(None);
        }
        Kernel::check_half(&NODE_HALF, pins)?;
        // SAFETY: the sizes of all values were just checked, and these maps have keys of 4 bytes.
        let (settings, nodes, leases, counters, claims, buried) = unsafe {
            (
                open::<Settings, u32>(pins, "GATE")?,
                open::<Node, u32>(pins, "NODE")?,
                open::<Lease, u32>(pins, "LEASES")?,
                open::<GateCounters, u32>(pins, "GATED")?,
                open::<Claims, u32>(pins, "CLAIMS")?,
                open::<[u64; 1], u32>(pins, "BURIED")?,
            )
        };
        // SAFETY: as above, but their keys are addresses.
        let (four, six) = unsafe {
            (open::<Vip, [u8; 4]>(pins, "VIPS4")?, open::<Vip, [u8; 16]>(pins, "VIPS6")?)
        };
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
            let (group, number) = (u32::from(vip.group), u32::from(vip.number));
            let lease = leases.get(group).map_err(failed("LEASES"))?.unwrap_or_default();
            let read_at = clock::now();
            let counted = counters.get_per_cpu(number).map_err(failed("GATED"))?;
            let claims = claims.get(number).map_err(failed("CLAIMS"))?.unwrap_or_default();
            Ok(GatedVip {
                address,
                group: (vip.group != NO_GROUP).then_some(GroupId(vip.group)),
                expires_ns: lease.expires_ns,
                read_at,
                counters: sum::<COUNTS>(&counted),
                claimed_by: (claims.mac != [0; 6]).then_some(claims.mac),
            })
        });
        let buried = sum::<1>(&buried.get_per_cpu(0).map_err(failed("BURIED"))?);
        Ok(Some(Self {
            buried: buried[0],
            mode: [Mode::On, Mode::DryRun, Mode::Bypass]
                .into_iter()
                .find(|mode| *mode as u8 == settings.mode),
            controller_stamp: BootTime(node.controller_stamp_ns),
            read_at,
            controller_deadtime_ns: node.controller_deadtime_ns,
            vips: vips.collect::<Result<_, KernelError>>()?,
            interfaces: interfaces(pins)
                .map_err(|source| KernelError::Pins { path: pins.to_owned(), source })?,
        }))
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
    // SAFETY: the sizes of all values were just checked, and this map has keys of 4 bytes.
    let terms = unsafe { open::<Terms, u32>(pins, "TERMS")? };
    terms.get(0).map_err(failed("TERMS"))?.ok_or(KernelError::Missing("TERMS"))
}

/// Opens a map.
///
/// # Safety
///
/// Its keys must have as many bytes as a `K`, and its values as many as a `V`.
unsafe fn open<V, K>(pins: &Path, map: &'static str) -> Result<PinnedMap<V, K>, KernelError>
where
    V: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable,
    K: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + Copy,
{
    // SAFETY: the caller's promise.
    unsafe { PinnedMap::open(&pins.join(map)) }.map_err(failed(map))
}

fn failed(map: &'static str) -> impl Fn(io::Error) -> KernelError {
    move |source| KernelError::Map { map, step: "read", source: Box::new(source) }
}

/// Asks each pinned link where it is attached.
fn interfaces(pins: &Path) -> io::Result<Vec<GatedInterface>> {
    let mut found: Vec<GatedInterface> = Vec::new();
    for entry in fs::read_dir(pins)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let way = name.strip_prefix(GATE_PIN);
        if way.is_none() && !name.starts_with(LINK_PIN) {
            continue;
        }
        let index = attached_to(&entry.path())?;
        if index == 0 {
            // Its interface is gone.
            continue;
        }
        let at = found.iter().position(|gated| gated.index == index).unwrap_or_else(|| {
            found.push(GatedInterface { index, ..GatedInterface::default() });
            found.len() - 1
        });
        match way {
            None => found[at].xdp = true,
            Some(way) if way.starts_with("in-") => found[at].arriving = true,
            Some(_) => found[at].leaving = true,
        }
    }
    found.sort_by_key(|gated| gated.index);
    Ok(found)
}

/// A daemon's claim to what is pinned, for as long as its process lives: whoever wants to remove
/// the pins without a configuration has to get it first.
#[derive(Debug)]
pub struct PinsLock(#[expect(dead_code, reason = "held for its lock")] File);

impl PinsLock {
    /// Takes it; `None` if a living process, frozen ones included, has it.
    ///
    /// # Errors
    ///
    /// [`KernelError::Pins`].
    pub fn take(pins: &Path) -> Result<Option<Self>, KernelError> {
        let unusable = |source| KernelError::Pins { path: pins.to_owned(), source };
        let directory = File::open(pins).map_err(unusable)?;
        match directory.try_lock() {
            Ok(()) => Ok(Some(Self(directory))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(unusable(source)),
        }
    }
}
