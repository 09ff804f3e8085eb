//! A machine with its disk, and the instant at which what runs on it ends in the middle of something.

use std::collections::BTreeMap;

use hb_ebpf::epoch::Epoch;
use hb_user::{
    core::{Aside, storage::Write},
    id::GroupId,
};

use crate::{fast::Addresses, kernel::Kernel, rng::Rng};

/// What a machine's disk holds of hb.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) incarnation: u32,
    pub(crate) generation: u32,
    pub(crate) voters: Option<String>,
    /// Per group, the epoch promised without an end.
    pub(crate) vows: Vec<Option<Epoch>>,
    /// Of which groups the node stands aside.
    pub(crate) aside: Aside,
    /// When what was promised has run out, by the clock of this boot.
    pub(crate) parted: Option<u64>,
}

impl Disk {
    pub(crate) fn store(&mut self, write: &Write) {
        match write {
            Write::Generation(generation) => self.generation = self.generation.max(*generation),
            Write::Voters(set) => self.voters = Some(set.clone()),
            Write::Vow(group, epoch) => self.vows[usize::from(group.0)] = *epoch,
            Write::Aside(aside) => self.aside = *aside,
        }
    }
}

impl Disk {
    /// What is promised without an end.
    pub(crate) fn vows(&self) -> BTreeMap<GroupId, Epoch> {
        let vows = self.vows.iter().zip(0..);
        vows.filter_map(|(vow, group)| Some((GroupId(group), (*vow)?))).collect()
    }
}

/// The end of a process, or of its machine, in the middle of what it does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strike {
    /// How many calls it still makes.
    pub(crate) calls: u32,
    /// The machine loses power; otherwise the process is killed.
    pub(crate) power: bool,
    /// The last call has its effect all the same.
    pub(crate) done: bool,
}

impl Strike {
    /// One call more; tells whether it has an effect.
    pub(crate) fn call(&mut self) -> bool {
        let last = self.calls == 1;
        self.calls = self.calls.saturating_sub(1);
        self.calls > 0 || (last && self.done)
    }
}

/// What a turn of the main loop works on.
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a mut Kernel,
    pub(crate) disk: &'a mut Disk,
    pub(crate) addresses: &'a mut Addresses,
    pub(crate) now: u64,
    /// What is open at the addresses of each group.
    pub(crate) open: &'a [bool],
    pub(crate) rng: &'a mut Rng,
    /// Now and then the kernel does not say what came of an order.
    pub(crate) fail_orders: bool,
    pub(crate) strike: &'a mut Option<Strike>,
}

impl Machine<'_> {
    /// Tells whether a call is still made, and whether it has an effect.
    pub(crate) fn calls(&mut self) -> bool {
        self.strike.as_mut().is_none_or(Strike::call)
    }

    /// Tells whether the process is dead by now.
    pub(crate) fn is_struck(&self) -> bool {
        self.strike.is_some_and(|strike| strike.calls == 0)
    }
}
