//! Whose gate a program in a chain is.
//!
//! A gate outlives pins and processes, and with it the maps it goes by. So what is known of it is
//! asked of the program itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use hb_ebpf::{
    gate::Vip,
    maps::{LAYOUT, Node},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    chain::{self, Program},
    error::KernelError,
    gate::NO_GROUP,
    pinned::PinnedMap,
    program::Way,
};
use crate::id::NodeId;

/// The program that hears heartbeats in traffic control.
pub(super) const HEARS: &str = "hear_ingress";

/// The program that hears them in the hook of XDP.
const HEARTBEAT: &str = "heartbeat";

/// A node of a cluster, by their ids.
pub(super) type Whose = (u32, NodeId);

/// The maps of a gate, by name.
#[derive(Debug)]
pub(super) struct GateMaps(BTreeMap<String, OwnedFd>);

impl GateMaps {
    /// Returns the maps of a program, if it is a gate: by its name, its maps, and that root loaded it
    /// or whoever runs this.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn of(program: &Program) -> io::Result<Option<Self>> {
        if !is_trusted(program)
            || ![Way::In, Way::Out].iter().any(|way| way.program() == program.name)
        {
            return Ok(None);
        }
        let mut maps = BTreeMap::new();
        for id in &program.maps {
            let Some(map) = chain::map(*id)? else { return Ok(None) };
            maps.insert(chain::describe_map(map.as_fd())?.name, map);
        }
        let complete = ["GATE", "NODE", "LEASES", "VIPS4", "VIPS6"];
        Ok(complete.iter().all(|name| maps.contains_key(*name)).then_some(Self(maps)))
    }

    /// Returns whose it is; `None` if it was attached by a start that did not get as far as to say.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`] if it is of another version.
    pub(super) fn whose(&self) -> Result<Option<Whose>, KernelError> {
        let nodes = self.open::<Node, u32>("NODE")?;
        let read =
            |source| KernelError::Map { map: "NODE", step: "read", source: Box::new(source) };
        let node = nodes.get(0).map_err(read)?;
        Ok(node.filter(|node| node.layout == LAYOUT).map(|node| (node.cluster, NodeId(node.id))))
    }

    /// Opens one of the maps, of values `V` by keys `K`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Missing`]; [`KernelError::Map`] if it is of other sizes.
    pub(super) fn open<V, K>(&self, name: &'static str) -> Result<PinnedMap<V, K>, KernelError>
    where
        V: FromBytes + IntoBytes + Immutable,
        K: FromBytes + IntoBytes + Immutable + Copy,
    {
        let failed =
            |source| KernelError::Map { map: name, step: "open", source: Box::new(source) };
        let map = self.descriptor(name)?.try_clone_to_owned();
        map.and_then(PinnedMap::of).map_err(failed)
    }

    /// Returns the descriptor of one of the maps.
    ///
    /// # Errors
    ///
    /// [`KernelError::Missing`].
    pub(super) fn descriptor(&self, name: &'static str) -> Result<BorrowedFd<'_>, KernelError> {
        self.0.get(name).map(AsFd::as_fd).ok_or(KernelError::Missing(name))
    }
}

/// A gate in a chain.
#[derive(Debug)]
pub(super) struct Attached {
    /// Index of the interface.
    pub(super) index: u32,
    /// Which way.
    pub(super) way: Way,
    /// The program.
    pub(super) program: Program,
    /// What stands before it: programs that may let a packet pass, or send it elsewhere, before the
    /// gate has seen it.
    pub(super) before: Vec<String>,
}

/// Which gates are looked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// The one that goes by the map `GATE` of this id.
    Over(u32),
    /// That of a node, whatever maps it goes by.
    Of(Whose),
}

impl Wanted {
    /// Tells whether `program` is such a gate.
    fn is(self, program: &Program) -> Result<bool, KernelError> {
        match self {
            Self::Over(map) => Ok(program.maps.contains(&map)),
            Self::Of(whose) => match maps_of(program)? {
                Some(maps) => Ok(maps.whose().is_ok_and(|found| found == Some(whose))),
                None => Ok(false),
            },
        }
    }
}

fn maps_of(program: &Program) -> Result<Option<GateMaps>, KernelError> {
    GateMaps::of(program).map_err(KernelError::Chain)
}

/// Tells whether a program may stand before a gate: only another gate of `hb`, which lets all pass
/// that is not of its own addresses, and never ends the chain for it.
pub(super) fn is_gate(program: &Program) -> Result<bool, KernelError> {
    maps_of(program).map(|maps| maps.is_some())
}

/// Tells whether a program ends the chain for heartbeats of its node alone: by its name, its maps, and who
/// loaded it.
pub(super) fn hears(program: &Program) -> Result<bool, KernelError> {
    if !is_trusted(program) || program.name != HEARS {
        return Ok(false);
    }
    let mut wanted = BTreeSet::from(["NODE", "PATHS", "KEYS", "RECORDS"]);
    for id in &program.maps {
        if let Some(map) = chain::map(*id).map_err(KernelError::Chain)? {
            let map = chain::describe_map(map.as_fd()).map_err(KernelError::Chain)?;
            wanted.remove(map.name.as_str());
        }
    }
    Ok(wanted.is_empty())
}

/// Tells whether root loaded a program, or whoever runs this.
fn is_trusted(program: &Program) -> bool {
    // SAFETY: takes nothing and cannot fail.
    let own = unsafe { libc::geteuid() };
    program.uid == 0 || program.uid == own
}

/// Names the program of this id, if it is not one of ours that hears heartbeats; `None` also for one that is
/// gone, or that this process may not look at.
#[must_use]
pub fn stranger(id: u32) -> Option<String> {
    let program = chain::program(id).ok().flatten()?;
    (program.name != HEARTBEAT || !is_trusted(&program)).then(|| name(&program))
}

/// Names a program for people.
pub(super) fn name(program: &Program) -> String {
    let name = if program.name.is_empty() { "without a name" } else { &program.name };
    format!("{name} (program {})", program.id)
}

/// Finds gates at the interfaces of this network namespace.
///
/// # Errors
///
/// [`KernelError::Chain`].
pub(super) fn find(wanted: Wanted) -> Result<Vec<Attached>, KernelError> {
    let mut found = Vec::new();
    for index in chain::interfaces().map_err(KernelError::Chain)? {
        for way in [Way::In, Way::Out] {
            let mut before = Vec::new();
            for id in chain::query(index, way).map_err(KernelError::Chain)?.0 {
                let Some(program) = chain::program(id).map_err(KernelError::Chain)? else {
                    continue;
                };
                if wanted.is(&program)? {
                    let before = std::mem::take(&mut before);
                    found.push(Attached { index, way, program, before });
                    break;
                }
                if !is_gate(&program)? && !hears(&program)? {
                    before.push(name(&program));
                }
            }
        }
    }
    Ok(found)
}

/// Returns the addresses that gates of other clusters in this network namespace look after, for groups of
/// theirs. Every gate is on the loopback interface too, so only that is looked at.
///
/// # Errors
///
/// [`KernelError::Chain`], [`KernelError::Map`].
pub fn addresses_of_others(cluster: u32) -> Result<BTreeSet<IpAddr>, KernelError> {
    /// Of every network namespace.
    const LOOPBACK: u32 = 1;
    let mut addresses = BTreeSet::new();
    for id in chain::query(LOOPBACK, Way::Out).map_err(KernelError::Chain)?.0 {
        let Some(program) = chain::program(id).map_err(KernelError::Chain)? else { continue };
        let Some(maps) = maps_of(&program)? else { continue };
        // One that does not say whose it is may be an earlier one of this node.
        if maps.whose().ok().flatten().is_none_or(|(other, _)| other == cluster) {
            continue;
        }
        let (four, six) =
            (maps.open::<Vip, [u8; 4]>("VIPS4")?, maps.open::<Vip, [u8; 16]>("VIPS6")?);
        let failed =
            |map| move |source| KernelError::Map { map, step: "read", source: Box::new(source) };
        let four = four.entries().map_err(failed("VIPS4"))?.into_iter();
        let six = six.entries().map_err(failed("VIPS6"))?.into_iter();
        let all = four
            .map(|(ip, vip)| (IpAddr::from(ip), vip))
            .chain(six.map(|(ip, vip)| (IpAddr::from(ip), vip)));
        addresses.extend(all.filter(|(_, vip)| vip.group != NO_GROUP).map(|(ip, _)| ip));
    }
    Ok(addresses)
}

/// Takes gates off the interfaces of this network namespace, and has what may be left of them
/// elsewhere, at an interface that was moved to another namespace, look at nothing any more. Returns
/// how many interfaces had one.
///
/// # Errors
///
/// [`KernelError::Chain`]; what it had not come to is as it was.
pub(super) fn remove(wanted: Wanted) -> Result<usize, KernelError> {
    let mut indexes = BTreeSet::new();
    let mut taken = Vec::new();
    // More than one at a place, if a start was interrupted.
    loop {
        let found = find(wanted)?;
        if found.is_empty() {
            break;
        }
        for gate in found {
            chain::take_off(gate.program.as_fd(), gate.index, gate.way)
                .map_err(KernelError::Chain)?;
            indexes.insert(gate.index);
            taken.push(gate.program);
        }
    }
    for program in &taken {
        if let Some(maps) = maps_of(program)? {
            bypass(&maps)?;
        }
    }
    Ok(indexes.len())
}

fn bypass(maps: &GateMaps) -> Result<(), KernelError> {
    use hb_ebpf::gate::{Mode, Settings};
    let failed = |source| KernelError::Map { map: "GATE", step: "write", source: Box::new(source) };
    let settings = maps.open::<Settings, u32>("GATE")?;
    let bypassed = Settings { mode: Mode::Bypass as u8, ..Settings::default() };
    settings.set(0, &bypassed).map_err(failed)
}
