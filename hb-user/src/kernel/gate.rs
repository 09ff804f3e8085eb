//! Where the gate sits: on what goes through every interface, both ways. Where heartbeats are heard by the
//! hook of XDP, the program that hears them looks at what arrives; elsewhere a program of traffic control does,
//! which leaves XDP, and the order of devices upon devices, to others. Loopback is one of them:
//! programs of a node reach a service address there that it still has, as after its daemon froze,
//! and would be served by the node that lost the group.
//!
//! It stands before all other programs of traffic control: one before it that lets a packet pass, or
//! sends it elsewhere, ends the chain. Only another gate of `hb` may come first, as two clusters in one
//! network namespace have: it lets all pass on that is not of its own addresses.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io,
    net::IpAddr,
    os::fd::AsFd,
};

use hb_ebpf::{
    gate::{self, Vip},
    wire::GROUPS,
};

use super::{
    chain::{self, Program},
    error::{KernelError, describe},
    owner::{self, GateMaps, Whose},
    program::{Kernel, Way},
};
use crate::id::GroupId;

/// A chain that changes at every look, so often in a row, is given up until the next one.
const TRIES: u32 = 16;

/// A program that came before the gate so many times in a row will do so again.
const STUBBORN: u32 = 3;
/// Each time is forgotten after so many looks, one a second, at which the gate was first.
const CALM: u32 = 3;

/// What the gate is told of an address of no group: there is no lease of that number, so it is closed.
pub(super) const NO_GROUP: u8 = u8::MAX;
const _: () = assert!(GROUPS <= NO_GROUP as usize);

/// A service address, as the gate is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guarded {
    /// The address.
    pub address: IpAddr,
    /// Its group; `None` if it is of none, which no lease ever opens.
    pub group: Option<GroupId>,
    /// Whether it is on this node also while it does not hold the group.
    pub warm: bool,
}

impl Kernel {
    /// Sets which addresses are gated; the place in the list is the number of the address.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn set_vips(&mut self, vips: &[Guarded]) -> Result<(), KernelError> {
        let (mut four, mut six) = (Vec::new(), Vec::new());
        for (number, &Guarded { address, group, warm }) in vips.iter().enumerate() {
            let group = group.map_or(NO_GROUP, |group| group.0);
            // Beyond those that are counted there may be some of no group.
            let number = u8::try_from(number).unwrap_or(u8::MAX);
            let vip = Vip { group, number, warm: warm.into(), reserved: 0 };
            match address {
                IpAddr::V4(address) => four.push((address.octets(), vip)),
                IpAddr::V6(address) => six.push((address.octets(), vip)),
            }
        }
        // Nothing is excluded while addresses come and go.
        self.set_absent(0)?;
        self.replace_vips("VIPS4", &four)?;
        self.replace_vips("VIPS6", &six)?;
        self.set_absent(gate::absent(
            four.iter()
                .map(|(address, _)| gate::fold_v4(*address))
                .chain(six.iter().map(|(address, _)| gate::fold_v6(*address))),
        ))
    }
}

/// Puts the gate on interfaces and keeps it before all other programs there, from whichever thread has
/// it: the kernel does so under a lock that whoever changes interfaces holds for milliseconds.
pub struct Gates {
    me: Whose,
    /// Id of the map that the gate goes by.
    map: u32,
    /// What looks at what arrives, and at what leaves, each twice.
    programs: [[Program; 2]; 2],
    /// Interfaces where the program that hears heartbeats, by the hook of XDP, looks at what arrives.
    heard: BTreeSet<u32>,
    gated: BTreeMap<(u32, Way), Gated>,
}

/// The gate on one interface, one way.
#[derive(Clone, Debug, Default)]
struct Gated {
    /// Looks at which it has to be first until all is forgotten.
    disturbed: u32,
    /// What keeps coming before it.
    stubborn: Option<String>,
}

impl Gated {
    /// Takes note of what stood before it at a look; returns what will do so again.
    fn look(&mut self, ahead: &[String]) -> Option<&str> {
        if ahead.is_empty() {
            self.disturbed = self.disturbed.saturating_sub(1);
            if self.disturbed == 0 {
                self.stubborn = None;
            }
        } else {
            self.disturbed = (self.disturbed + CALM).min(STUBBORN * CALM);
            if self.stubborn.is_some() || self.disturbed >= STUBBORN * CALM {
                self.stubborn = Some(ahead.join(", "));
            }
        }
        self.stubborn.as_deref()
    }
}

/// A program that stood before the gate until now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Displaced {
    /// Which packets it saw first.
    pub way: Way,
    /// Its name and id.
    pub program: String,
}

impl Gates {
    pub(super) fn new(
        me: Whose,
        map: u32,
        programs: [[Program; 2]; 2],
        heard: BTreeSet<u32>,
    ) -> Self {
        Self { me, map, programs, heard, gated: BTreeMap::new() }
    }

    /// Puts the gate on an interface before all other programs, in the place of what an earlier daemon
    /// left there; at no instant is there none. Returns what stands behind it now, and stood before it.
    ///
    /// Of an interface that is gone nothing is said.
    ///
    /// # Errors
    ///
    /// [`KernelError::Gate`]; [`KernelError::NotFirst`] if another program comes before it again and
    /// again: it is first at this instant, and will not be for long.
    pub fn gate(&mut self, interface: &str, index: u32) -> Result<Vec<Displaced>, KernelError> {
        let mut displaced = Vec::new();
        if self.heard.contains(&index) {
            self.take_off(index, Way::In)?;
        } else {
            displaced.extend(self.gate_way(interface, index, Way::In)?);
        }
        displaced.extend(self.gate_way(interface, index, Way::Out)?);
        Ok(displaced)
    }

    fn gate_way(
        &mut self,
        interface: &str,
        index: u32,
        way: Way,
    ) -> Result<Vec<Displaced>, KernelError> {
        let ahead = match self.put_first(index, way) {
            Ok(ahead) => ahead,
            Err(KernelError::Chain(error)) if error.raw_os_error() == Some(libc::ENODEV) => {
                return Ok(Vec::new());
            }
            Err(error) => {
                self.gated.remove(&(index, way));
                let interface = interface.to_owned();
                return Err(KernelError::Gate { interface, why: describe(&error) });
            }
        };
        match self.gated.entry((index, way)) {
            Entry::Vacant(entry) => {
                entry.insert(Gated::default());
            }
            Entry::Occupied(mut entry) => {
                if let Some(program) = entry.get_mut().look(&ahead) {
                    return Err(KernelError::NotFirst {
                        interface: interface.to_owned(),
                        way: way.words(),
                        program: program.to_owned(),
                    });
                }
            }
        }
        Ok(ahead.into_iter().map(|program| Displaced { way, program }).collect())
    }

    /// Brings one of the two programs to the head of a chain, and takes off what else of this node is
    /// there. Returns the names of those that stood before it.
    fn put_first(&self, index: u32, way: Way) -> Result<Vec<String>, KernelError> {
        let [first, second] = &self.programs[way as usize];
        let mut ahead = Vec::new();
        for _ in 0..TRIES {
            let (ids, revision) = chain::query(index, way).map_err(KernelError::Chain)?;
            let (mut own, mut earlier, mut others) = (Vec::new(), Vec::new(), Vec::new());
            for (at, id) in ids.into_iter().enumerate() {
                if id == first.id || id == second.id {
                    own.push((at, if id == first.id { first } else { second }));
                    continue;
                }
                let Some(program) = chain::program(id).map_err(KernelError::Chain)? else {
                    continue;
                };
                if self.is_earlier(&program)? {
                    earlier.push((at, program));
                } else if owner::hears(&program)? {
                    // The gate comes before it as well, but it lets nothing past it.
                    others.push((at, None));
                } else if !owner::is_gate(&program)? {
                    others.push((at, Some(owner::name(&program))));
                }
            }
            let place = own.first().map(|(at, _)| *at).or(earlier.first().map(|(at, _)| *at));
            let is_before = |at: usize| place.is_none_or(|place| at < place);
            let before: Vec<_> = others.into_iter().filter(|(at, _)| is_before(*at)).collect();
            if before.is_empty()
                && let [_, more @ ..] = own.as_slice()
            {
                let more = more.iter().map(|(_, program)| *program);
                for program in more.chain(earlier.iter().map(|(_, program)| program)) {
                    chain::take_off(program.as_fd(), index, way).map_err(KernelError::Chain)?;
                }
                return Ok(ahead);
            }
            if ahead.is_empty() {
                ahead = before.iter().filter_map(|(_, name)| name.clone()).collect();
            }
            let placed = match (own.as_slice(), earlier.first()) {
                ([], Some((_, old))) if before.is_empty() => {
                    chain::replace(first.as_fd(), old.as_fd(), index, way)
                }
                // One of the two has to be free to be put first.
                ([_, (_, more), ..], _) => chain::take_off(more.as_fd(), index, way),
                (own, _) => {
                    let is_there = own.iter().any(|(_, program)| program.id == first.id);
                    let spare = if is_there { second } else { first };
                    chain::put_first(spare.as_fd(), index, way, revision)
                }
            };
            match placed {
                Err(error)
                    if !matches!(error.raw_os_error(), Some(libc::ESTALE | libc::ENOENT)) =>
                {
                    return Err(KernelError::Chain(error));
                }
                // Done, or somebody changed the chain meanwhile: it is looked at again.
                _ => {}
            }
        }
        Err(KernelError::Chain(io::Error::from_raw_os_error(libc::ESTALE)))
    }

    /// Tells whether a program is the gate of an earlier daemon of this node, or of a start that ended
    /// before it said whose it was.
    fn is_earlier(&self, program: &Program) -> Result<bool, KernelError> {
        if program.maps.contains(&self.map) {
            return Ok(true);
        }
        let Some(maps) = GateMaps::of(program).map_err(KernelError::Chain)? else {
            return Ok(false);
        };
        Ok(maps.whose().is_ok_and(|whose| whose.is_none_or(|whose| whose == self.me)))
    }

    /// Takes the gate off one way of an interface, where something else does its work.
    fn take_off(&mut self, index: u32, way: Way) -> Result<(), KernelError> {
        for id in chain::query(index, way).map_err(KernelError::Chain)?.0 {
            if let Some(program) = chain::program(id).map_err(KernelError::Chain)?
                && self.is_earlier(&program)?
            {
                chain::take_off(program.as_fd(), index, way).map_err(KernelError::Chain)?;
            }
        }
        self.gated.remove(&(index, way));
        Ok(())
    }

    /// Has the gate look at what arrives by itself from now on, since the program that hears heartbeats may
    /// not do so any more; else as [`gate`](Self::gate).
    ///
    /// # Errors
    ///
    /// As for [`gate`](Self::gate).
    pub fn gate_alone(
        &mut self,
        interface: &str,
        index: u32,
    ) -> Result<Vec<Displaced>, KernelError> {
        self.heard.remove(&index);
        self.gate(interface, index)
    }

    /// Forgets interfaces that are gone; `present` are the indices of those there are.
    pub fn forget(&mut self, present: &BTreeSet<u32>) {
        // The kernel took it off with the interface.
        self.gated.retain(|(index, _), _| present.contains(index));
        self.heard.retain(|index| present.contains(index));
    }

    /// Returns the indices of the interfaces that are gated.
    pub fn gated(&self) -> impl Iterator<Item = u32> {
        self.gated.keys().filter(|(_, way)| *way == Way::Out).map(|(index, _)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_before_the_gate_once_is_put_behind_it_and_who_does_so_again_is_not_trusted() {
        let ahead = ["other".to_owned()];
        let mut gated = Gated::default();
        assert_eq!(gated.look(&ahead), None);
        for _ in 0..CALM {
            assert_eq!(gated.look(&[]), None);
        }
        assert_eq!(gated.look(&ahead), None);
        assert_eq!(gated.look(&ahead), None);
        assert_eq!(gated.look(&ahead), Some("other"));
        // For a while also when it is first.
        for _ in 1..STUBBORN * CALM {
            assert_eq!(gated.look(&[]), Some("other"));
        }
        assert_eq!(gated.look(&[]), None);
    }

    #[test]
    fn who_does_so_at_every_other_look_is_found_out() {
        let ahead = ["other".to_owned()];
        let mut gated = Gated::default();
        let found = (0..4 * STUBBORN).position(|_| {
            let out = gated.look(&ahead).is_some();
            gated.look(&[]);
            out
        });
        assert!(found.is_some());
    }
}
