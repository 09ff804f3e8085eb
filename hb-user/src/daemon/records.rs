//! The records of the groups, and the numbers that outlive a daemon, as its engine reaches them at a start.
//!
//! The record itself lies in the kernel, which changes it under a lock with every frame. The engine only
//! looks at it, and asks for a change ([`Op`](hb_ebpf::lease::op::Op)).

use std::collections::BTreeMap;

use hb_ebpf::{
    epoch::Epoch,
    lease::{Record, Terms, op::Order, start::is_learner},
    maps::Life,
    time::BootTime,
    wire::GROUPS,
};

use super::{Daemon, LocalVip, start_error::StartError};
use crate::{
    config::Config,
    engine::controller::start,
    id::GroupId,
    kernel::{Guarded, Kernel, KernelError, Leases, Shared},
    parting,
    state_dir::{StateDir, StateDirError},
};

/// Returns the service addresses, given in the order of the file, by the place of their group.
pub(super) fn by_place(config: &Config, vips: Vec<Vec<LocalVip>>) -> Vec<Vec<LocalVip>> {
    let mut placed: Vec<Vec<LocalVip>> = (0..GROUPS).map(|_| Vec::new()).collect();
    for (group, vips) in config.groups.iter().zip(vips) {
        if let Some(slot) = placed.get_mut(usize::from(group.id.0)) {
            *slot = vips;
        }
    }
    placed
}

/// Returns the epochs that this node promised without an end before it left.
pub(super) fn vows(
    config: &Config,
    state: &StateDir,
) -> Result<BTreeMap<GroupId, Epoch>, StateDirError> {
    let mut vows = BTreeMap::new();
    for group in &config.groups {
        if let Some(epoch) = state.vow(group.name.as_str())? {
            vows.insert(group.id, epoch);
        }
    }
    Ok(vows)
}

/// Returns which groups the records found are of, by place, and whether one of them is a learner's.
pub(super) fn found(shared: &Shared) -> ([u32; GROUPS], bool) {
    let record = |place| shared.record(GroupId(place as u8)).unwrap_or_default();
    let records: [Record; GROUPS] = std::array::from_fn(record);
    let learner = |record: &Record| record.fingerprint != 0 && is_learner(record);
    (records.map(|record| record.fingerprint), records.iter().any(learner))
}

/// What a start, or a reload, changes in the kernel half.
pub(super) struct Hands<'a> {
    pub(super) kernel: &'a mut Kernel,
    pub(super) leases: &'a Leases,
    pub(super) terms: &'a Terms,
    /// What the gate looks after.
    pub(super) guarded: &'a [Guarded],
}

impl start::Records for Hands<'_> {
    type Error = KernelError;

    fn order(&mut self, order: Order) -> Result<Order, KernelError> {
        self.leases.order(order)
    }

    fn set_terms(&mut self) -> Result<(), KernelError> {
        self.kernel.set_terms(self.terms)
    }

    fn set_addresses(&mut self) -> Result<(), KernelError> {
        self.kernel.set_vips(self.guarded)
    }
}

impl start::Numbers for StateDir {
    type Error = StartError;

    fn reserve_incarnation(&mut self, earlier: u32) -> Result<u32, StartError> {
        Ok(Self::reserve_incarnation(self, earlier)?)
    }

    fn take_note(&mut self) -> Result<Option<BootTime>, StartError> {
        Ok(parting::take(self.path())?)
    }

    fn voters(&mut self) -> Result<Option<String>, StartError> {
        Ok(Self::voters(self)?)
    }

    fn store_voters(&mut self, set: &str) -> Result<(), StartError> {
        Ok(Self::store_voters(self, set)?)
    }

    fn generation(&mut self) -> Result<u32, StartError> {
        Ok(Self::generation(self)?)
    }

    fn reserve_generation(&mut self) -> Result<u32, StartError> {
        Ok(Self::reserve_generation(self)?)
    }
}

impl Daemon {
    /// Tells the core what the record of a group says now.
    pub(super) fn look_at_record(&mut self, group: GroupId) {
        self.steer(|controller, hands| controller.look_at_record(hands, group));
    }

    /// Tells the operators who confirmed a learner what came of it.
    pub(super) fn answer_confirmations(&mut self, outcome: impl Fn() -> Result<String, String>) {
        for reply in self.confirmations.drain(..) {
            // Who asked may have gone.
            drop(reply.send(outcome().into()));
        }
    }

    /// Returns the names of the voters that are not heard, for people.
    pub(super) fn missing_voters(&self) -> String {
        let missing = self.others().into_iter().filter(|peer| {
            self.shared.peer(*peer).is_none_or(|state| {
                !matches!(Life::from_code(state.life), Life::Alive | Life::Late)
            })
        });
        let names: Vec<_> = missing.map(|peer| self.node_name(peer).to_owned()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }

    pub(super) fn groups(&self) -> Vec<GroupId> {
        self.config.groups.iter().map(|group| group.id).collect()
    }
}
