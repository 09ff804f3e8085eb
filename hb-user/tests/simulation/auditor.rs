//! What an engine must not do to its machine, in whatever order it is done: judged at each call, by what the
//! machine has and not by what the engine knows.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        fence::Vow,
        op::{DONE, Op, Order},
        start,
    },
    wire::GROUPS,
};
use hb_user::{
    core::{GroupView, Phase, storage::Write},
    id::{GroupId, NodeId},
};

use crate::{kernel::Contact, machine::Machine};

/// Looks at every call of one engine.
#[derive(Default)]
pub(crate) struct Auditor {
    wrong: RefCell<Option<String>>,
    /// The fast path has gone round since the last stamp.
    answered: bool,
    /// The machines looked at in this round, and which of them before any record.
    seen: RefCell<Vec<NodeId>>,
    seen_first: Cell<Option<usize>>,
    writing: bool,
    /// What the agents that run were asked for, and what those that fenced were.
    asked: BTreeMap<NodeId, Vec<(GroupId, Epoch)>>,
    fenced: Vec<(GroupId, Epoch)>,
    warm: [bool; GROUPS],
    ungated: bool,
    /// Voters that this life has not taken part with.
    new_voters: Option<String>,
}

impl Auditor {
    pub(crate) fn new(new_voters: Option<String>) -> Self {
        Self { new_voters, ..Self::default() }
    }

    /// Returns what was wrong first.
    pub(crate) fn take(&mut self) -> Option<String> {
        self.wrong.get_mut().take()
    }

    fn check(&self, holds: bool, wrong: impl FnOnce() -> String) {
        if !holds {
            self.wrong.borrow_mut().get_or_insert_with(wrong);
        }
    }

    pub(crate) fn looks_at(&self, peer: NodeId) {
        self.seen.borrow_mut().push(peer);
    }

    pub(crate) fn looks_at_record(&self) {
        if self.seen_first.get().is_none() {
            self.seen_first.set(Some(self.seen.borrow().len()));
        }
    }

    /// The daemon looks at everything.
    pub(crate) fn begin_round(&mut self) {
        self.seen.get_mut().clear();
        self.seen_first.set(None);
    }

    pub(crate) fn end_round(&mut self, contacts: &[Contact]) {
        let seen = self.seen.borrow();
        let first = &seen[..self.seen_first.get().unwrap_or(0)];
        let all = contacts.iter().all(|contact| first.contains(&NodeId(contact.id)));
        self.check(all, || "looks at records before peers".to_owned());
    }

    pub(crate) fn answers(&mut self, answers: bool) {
        self.answered |= answers;
    }

    pub(crate) fn stamps(&mut self) {
        let answered = std::mem::take(&mut self.answered);
        self.check(answered, || "stamps, and the fast path did not answer".to_owned());
    }

    pub(crate) fn order(&self, order: &Order, machine: &Machine<'_>) {
        let Some(record) = machine.kernel.records.get(usize::from(order.group)) else { return };
        let (disk, group) = (&*machine.disk, order.group);
        match Op::from_code(order.op) {
            Some(Op::GenerationStored) => {
                let stored = disk.generation >= order.generation;
                self.check(stored, || {
                    format!("tells of generation {}, which is not stored", order.generation)
                });
            }
            Some(Op::Start) => self.starts(order, machine),
            Some(Op::Vow) => {
                let stored = disk.vows[usize::from(group)] == Some(Epoch(record.promised));
                self.check(stored, || "promises without an end what is not stored".to_owned());
            }
            Some(Op::Cleaned) => {
                let open = record.unclean != 0 && machine.open[usize::from(group)];
                self.check(!open, || "says that all is ended, and work is open".to_owned());
            }
            Some(Op::Fenced) => {
                let fenced = self.fenced.contains(&(GroupId(group), Epoch(order.epoch)));
                self.check(fenced, || "reports a fence that was none".to_owned());
            }
            _ => {}
        }
    }

    /// A learner takes part.
    fn starts(&self, order: &Order, machine: &Machine<'_>) {
        let generation = order.generation;
        let (kernel, stored) = (&*machine.kernel, machine.disk.generation);
        self.check(stored >= generation, || {
            format!("takes part from generation {generation}, which is not stored")
        });
        let records = kernel.records.iter().filter(|record| start::is_learner(record));
        let heard = records.map(|record| record.highest().generation());
        let told = kernel.contacts.iter().map(|other| start::told_generation(&other.peer.words));
        let known = heard.chain(told).max().unwrap_or(0);
        self.check(generation > known, || {
            format!("takes part from generation {generation}, and knows of {known}")
        });
        let all = kernel.contacts.iter().all(Contact::is_alive);
        self.check(all, || "takes part, and not every machine is heard".to_owned());
        if self.new_voters.is_some() {
            let stored = machine.disk.voters == self.new_voters;
            self.check(stored, || "takes part among voters that are not stored".to_owned());
            let own = kernel.node.config_hash;
            let agree = kernel.contacts.iter().all(|other| other.peer.config_hash == own);
            self.check(agree, || "takes part among voters that not everybody knows".to_owned());
        }
    }

    /// What came of an order, as far as the daemon hears of it.
    pub(crate) fn ordered(&mut self, order: &Order, answer: &Order) {
        if Op::from_code(order.op) == Some(Op::Fenced) && answer.code == DONE {
            let told = (GroupId(order.group), Epoch(order.epoch));
            self.fenced.retain(|fenced| *fenced != told);
        }
    }

    pub(crate) fn write(&mut self, write: &Write, machine: &Machine<'_>) {
        self.check(!self.writing, || "writes while something is being written".to_owned());
        self.writing = true;
        if let Write::Vow(group, None) = write {
            let bound = machine.kernel.records[usize::from(group.0)].vow() != Vow::None;
            self.check(!bound, || "takes a promise off the disk that binds".to_owned());
        }
    }

    pub(crate) fn written(&mut self) {
        self.writing = false;
    }

    pub(crate) fn run_agent(
        &mut self,
        node: NodeId,
        asked: &[(GroupId, Epoch)],
        machine: &Machine<'_>,
    ) {
        let (kernel, now) = (&*machine.kernel, machine.now);
        let well = |contact: &Contact| contact.is_alive() && contact.answers(now);
        let well = kernel.contact(node.0).is_some_and(well);
        self.check(!well, || "has a node fenced that is heard and answers".to_owned());
        for (group, epoch) in asked {
            let record = &kernel.records[usize::from(group.0)];
            self.check(record.epoch == epoch.0, || {
                "has a node fenced for an epoch that is not sought any more".to_owned()
            });
            self.check(record.fencing != 0, || {
                "has a node fenced, and the record does not know".to_owned()
            });
        }
        self.check(!self.asked.contains_key(&node), || "runs two agents at once".to_owned());
        self.asked.insert(node, asked.to_vec());
    }

    pub(crate) fn agent_done(&mut self, node: NodeId, fenced: bool) {
        let asked = self.asked.remove(&node).unwrap_or_default();
        if fenced {
            self.fenced.extend(asked);
        }
    }

    pub(crate) fn warm(&mut self, group: GroupId, taken: bool, machine: &Machine<'_>) {
        let open = machine.open[usize::from(group.0)] && !taken;
        self.check(!open, || "puts addresses up while work of an epoch is open".to_owned());
        self.check(!self.ungated, || "puts addresses up where there is no gate".to_owned());
        self.warm[usize::from(group.0)] = true;
    }

    pub(crate) fn cool(&mut self, group: GroupId) {
        self.warm[usize::from(group.0)] = false;
    }

    /// The engine was told whether every interface has a gate.
    pub(crate) fn gated(&mut self, views: &[GroupView], all: bool) {
        self.ungated = !all;
        let apart = |view: &&GroupView| {
            matches!(view.phase, Phase::Idle | Phase::Released { .. } | Phase::Seeking)
        };
        let warm = views.iter().filter(apart).any(|view| self.warm[usize::from(view.group.0)]);
        self.check(all || !warm, || "keeps addresses up where there is no gate".to_owned());
    }
}
