//! The records of the groups as the daemon deals with them: begun, looked at, kept in step with
//! the disk.
//!
//! The record itself lies in the kernel, which changes it under a lock with every frame. Here it
//! is only looked at, and asked for a change ([`Op`]).

use std::collections::BTreeMap;

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        Record, Terms,
        op::{Op, Order},
        start,
    },
    maps::Life,
    wire::GROUPS,
};

use super::{Daemon, LocalVip};
use crate::{
    beginning::{Begin, Step},
    config::{Config, Policy},
    id::GroupId,
    kernel::{Guarded, Kernel, KernelError, Leases, Shared},
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
    let learner = |record: &Record| record.fingerprint != 0 && start::is_learner(record);
    (records.map(|record| record.fingerprint), records.iter().any(learner))
}

/// Carries out how records begin: the terms and what the gate guards are these, once it is their turn.
///
/// # Errors
///
/// [`KernelError`]. What was done by then is what the next try finds.
pub(super) fn begin(
    kernel: &mut Kernel,
    leases: &Leases,
    begin: &Begin,
    terms: &Terms,
    guarded: &[Guarded],
) -> Result<(), KernelError> {
    for step in begin.steps() {
        match step {
            Step::Order(order) => drop(leases.order(order)?),
            Step::Terms => kernel.set_terms(terms)?,
            Step::Addresses => kernel.set_vips(guarded)?,
        }
    }
    Ok(())
}

/// Takes up what an earlier daemon left to do of the groups; `vows` are the epochs promised without an
/// end, by what is on the disk. Returns whether this node is a learner.
///
/// # Errors
///
/// [`KernelError`].
pub(super) fn take_up(
    leases: &Leases,
    groups: impl Iterator<Item = GroupId>,
    vows: &BTreeMap<GroupId, Epoch>,
) -> Result<bool, KernelError> {
    let mut learner = false;
    for group in groups {
        // An agent of an earlier daemon has nobody to report to.
        leases.order(Order::new(Op::FenceFailed, group.0))?;
        let vow = vows.get(&group).copied().unwrap_or(Epoch::NONE);
        let order = Order { epoch: vow.0, ..Order::new(Op::Rejoin, group.0) };
        // Also of an earlier daemon that did not live to see it confirmed.
        learner |= start::is_learner(&leases.order(order)?.record);
    }
    Ok(learner)
}

/// Returns the set of voters, if this node has not taken part in it and must not do so by itself:
/// until every machine goes by it, a majority of the old set may exist beside one of the new.
///
/// # Errors
///
/// The state directory's.
pub(super) fn new_voters(
    config: &Config,
    state: &mut StateDir,
) -> Result<Option<String>, StateDirError> {
    let set = config.voter_set();
    let known = state.voters()?;
    if known.as_ref() == Some(&set) {
        return Ok(None);
    }
    // Alone each node decides by itself; and a version before this file was wrote none.
    let alone = config.cluster.policy == Policy::Available;
    if alone || (known.is_none() && state.generation()? != 0) {
        state.store_voters(&set)?;
        return Ok(None);
    }
    Ok(Some(set))
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
