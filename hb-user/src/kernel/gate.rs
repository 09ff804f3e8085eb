//! Where the gate sits: on what goes through every interface, both ways. Where heartbeats are heard,
//! the program that hears them looks at what arrives; elsewhere a program of traffic control does,
//! which leaves XDP, and the order of devices upon devices, to others. Loopback is one of them:
//! programs of a node reach a service address there that it still has, as after its daemon froze,
//! and would be served by the node that lost the group.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use hb_ebpf::{
    gate::{self, Vip},
    wire::GROUPS,
};

use super::{
    error::{KernelError, describe},
    pins::{GATE_PIN, detach},
    program::{GatePrograms, Hold, Kernel, Way},
};
use crate::id::GroupId;

/// The gate on one interface, one way.
#[derive(Debug)]
pub(super) struct Gated {
    /// Index of the interface.
    pub(super) index: u32,
    /// Which way.
    pub(super) way: Way,
    /// Where the link is pinned.
    pub(super) pin: PathBuf,
    /// Keeps the link open; the pin keeps it alive.
    _link: Hold,
}

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

/// Puts the gate on interfaces, from whichever thread has it: the kernel does so under a lock that
/// whoever changes interfaces holds for milliseconds.
pub struct Gates {
    pins: PathBuf,
    programs: GatePrograms,
    /// Interfaces where the program that hears heartbeats looks at what arrives.
    heard: BTreeSet<u32>,
    gated: Vec<Gated>,
}

impl Gates {
    pub(super) fn new(pins: PathBuf, programs: GatePrograms, heard: BTreeSet<u32>) -> Self {
        Self { pins, programs, heard, gated: Vec::new() }
    }

    /// Puts the gate on an interface. Adopts what an earlier daemon left there.
    ///
    /// # Errors
    ///
    /// [`KernelError::Gate`].
    pub fn gate(&mut self, interface: &str, index: u32) -> Result<(), KernelError> {
        if !self.heard.contains(&index) {
            self.gate_way(interface, index, Way::In)?;
        }
        self.gate_way(interface, index, Way::Out)
    }

    fn gate_way(&mut self, interface: &str, index: u32, way: Way) -> Result<(), KernelError> {
        if self.gated.iter().any(|gated| gated.index == index && gated.way == way) {
            return Ok(());
        }
        let word = match way {
            Way::In => "in",
            Way::Out => "out",
        };
        let pin = self.pins.join(format!("{GATE_PIN}{word}-{index}"));
        if pin.exists() {
            if let Ok(link) = self.programs.adopt(interface, way, &pin) {
                self.gated.push(Gated { index, way, pin, _link: link });
                return Ok(());
            }
            // The interface is gone, or was made anew: the pin leads nowhere.
            let _ = detach(&pin);
            let _ = fs::remove_file(&pin);
        }
        let link = self.programs.link(interface, way).map_err(|error| KernelError::Gate {
            interface: interface.to_owned(),
            why: describe(&*error),
        })?;
        let link = link.pin(interface, &pin)?;
        self.gated.push(Gated { index, way, pin, _link: link });
        Ok(())
    }

    /// Forgets interfaces that are gone; `present` are the indices of those there are.
    pub fn forget(&mut self, present: &BTreeSet<u32>) {
        let (kept, gone): (Vec<_>, Vec<_>) =
            self.gated.drain(..).partition(|gated| present.contains(&gated.index));
        self.gated = kept;
        for gated in gone {
            // The kernel detached it with the interface.
            let _ = fs::remove_file(&gated.pin);
        }
        self.heard.retain(|index| present.contains(index));
    }

    /// Returns the indices of the interfaces that are gated.
    pub fn gated(&self) -> impl Iterator<Item = u32> {
        self.gated.iter().filter(|gated| gated.way == Way::Out).map(|gated| gated.index)
    }

    /// Tells whether `pin` holds one of these gates.
    pub(super) fn holds(&self, pin: &Path) -> bool {
        self.gated.iter().any(|gated| gated.pin == pin)
    }
}
