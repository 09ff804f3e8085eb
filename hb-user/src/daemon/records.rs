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
        op::{DONE, Op, Order},
        start,
    },
    maps::Life,
    time::BootTime,
    wire::GROUPS,
};

use super::{Daemon, LocalVip, resources::describe};
use crate::{
    beginning::{Begin, Step},
    config::{Config, Policy},
    core::{Input, RecordFacts},
    id::{GroupId, NodeId},
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

/// Ends the part of all records, which are about to be gone, those of earlier configurations as well.
/// Returns when everything they promised has run out; `None` if that is not known of each.
///
/// # Errors
///
/// [`KernelError`].
pub(super) fn part(leases: &Leases) -> Result<Option<BootTime>, KernelError> {
    let mut latest = Some(BootTime::NEVER);
    for group in 0..GROUPS as u8 {
        let answer = leases.order(Order::new(Op::Part, group))?;
        let end = (answer.code == DONE).then_some(BootTime(answer.now_ns));
        latest = latest.zip(end).map(|(latest, end)| latest.max(end));
    }
    Ok(latest)
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
    /// Asks for a change of a group's record, and tells the core what it is then. Returns whether
    /// it was changed.
    pub(super) fn order(&mut self, group: GroupId, op: Op) -> bool {
        self.order_with(Order::new(op, group.0))
    }

    /// Does the same with an argument.
    pub(super) fn order_with(&mut self, order: Order) -> bool {
        self.order_for_code(order) == Some(DONE)
    }

    /// Does the same and returns what came of it, `None` if the kernel did not say.
    pub(super) fn order_for_code(&mut self, order: Order) -> Option<u8> {
        let group = GroupId(order.group);
        let code = match self.leases.order(order) {
            Ok(answer) => Some(answer.code),
            Err(error) => {
                let group = self.group_name(group);
                tracing::error!(group, error = describe(&error), "record not changed");
                None
            }
        };
        self.look_at_record(group);
        code
    }

    /// Tells the core what the record of a group says now.
    pub(super) fn look_at_record(&mut self, group: GroupId) {
        let Some(record) = self.shared.record(group) else { return };
        let record = RecordFacts::from(&record);
        let step = (record.state, record.epoch);
        if std::mem::replace(&mut self.seen[usize::from(group.0)], step) != step {
            // What moved it is in the maps by now: the core hears of that first, so that it knows
            // why.
            for peer in self.others() {
                self.look_at(peer);
            }
        }
        self.feed(Input::Record { group, record });
    }

    /// Looks at all records, and keeps disk and records in step.
    pub(super) fn look_at_records(&mut self) {
        self.learn();
        for group in self.groups() {
            self.keep_generation(group);
            self.look_at_vow(group);
            self.look_at_record(group);
        }
        self.store();
    }

    /// Has the generation stored that a record has heard of, and tells the record once it is: before
    /// that it neither votes for nor seeks any epoch of it.
    fn keep_generation(&mut self, group: GroupId) {
        if self.learner {
            return;
        }
        let Some(record) = self.shared.record(group) else { return };
        let Some(wanted) = start::generation_wanted(&record) else { return };
        if let Some(generation) = self.disk.storage.keep(wanted) {
            self.order_with(Order { generation, ..Order::new(Op::GenerationStored, group.0) });
        }
    }

    /// Ends the life of a learner once every other voter was heard: whatever this node may have
    /// promised before it lost its numbers, those it promised it to know the epoch, and the witness
    /// knows what it sought itself. Where the voters are new, each has to go by them as well. Or once
    /// an operator says so.
    fn learn(&mut self) {
        if !self.learner {
            return;
        }
        let own = self.shared.node().config_hash;
        let fits = |peer: NodeId| {
            self.shared.peer(peer).is_some_and(|peer| {
                let alive = matches!(Life::from_code(peer.life), Life::Alive | Life::Late);
                alive && (self.new_voters.is_none() || peer.config_hash == own)
            })
        };
        if self.confirmed {
            self.confirm("an operator confirmed it");
        } else if self.others().into_iter().all(fits) {
            self.confirm("every other machine was heard");
        }
    }

    /// Lets a learner take part, above everything it has heard of, once that is stored.
    fn confirm(&mut self, why: &'static str) {
        let records = self.groups().into_iter().filter_map(|group| self.shared.record(group));
        let generations: Option<Vec<_>> =
            records.map(|record| start::learned_generation(&record)).collect();
        // Of groups that this node does not have, any more or yet, it may have promised epochs as well.
        let words = self.others().into_iter().filter_map(|peer| self.shared.peer(peer));
        let told = words.map(|peer| start::told_generation(&peer.words)).max();
        let told = told.unwrap_or(0).checked_add(1);
        let learned = generations.and_then(|all| all.into_iter().max()).zip(told);
        let Some(learned) = learned.map(|(learned, told)| learned.max(told)) else {
            if !std::mem::replace(&mut self.used_up, true) {
                tracing::error!("the generations are used up: give this node a new id");
            }
            return self.answer_confirmations(|| Err("the generations are used up".to_owned()));
        };
        let voters = self.new_voters.as_deref();
        let Some(generation) = self.disk.storage.take_part(voters, learned) else { return };
        self.learner = false;
        self.new_voters = None;
        tracing::info!(generation, why, "no learner any more");
        for group in self.groups() {
            self.order_with(Order { generation, ..Order::new(Op::Start, group.0) });
        }
        let done = || Ok(format!("no learner any more: takes part from generation {generation}"));
        self.answer_confirmations(done);
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
