//! The machine as the engine reaches it, as in `daemon/hands.rs`; and the same with something wrong about it.

use std::time::Duration;

use hb_ebpf::{
    epoch::Epoch,
    lease::{Policy, Record, op::Order},
    maps::Peer,
    time::BootTime,
    wire::GROUPS,
};
use hb_user::{
    core::storage::Write,
    engine::controller::{Sweep, World},
    engine::takeover::Command,
    id::{GroupId, NodeId},
};

use crate::{
    auditor::Auditor, daemon::Work, fast::Fast, machine::Machine, mutants::Mutant, plan::STAND_BACK,
};

/// The machine as the engine reaches it, and what is noted of that.
pub(crate) struct Hands<'a, 'm> {
    pub(crate) machine: &'a mut Machine<'m>,
    pub(crate) auditor: &'a mut Auditor,
    pub(crate) fast: &'a mut Fast,
    pub(crate) work: &'a mut Vec<Work>,
    pub(crate) fingerprints: [u32; GROUPS],
    pub(crate) warm: bool,
    pub(crate) answers_for_it: bool,
}

/// The same with something wrong about it, perhaps.
pub(crate) struct Bent<'a, 'm> {
    pub(crate) hands: Hands<'a, 'm>,
    pub(crate) mutant: &'a mut dyn Mutant,
}

impl Hands<'_, '_> {
    /// Tells whether there are addresses of a group that this daemon knows of.
    pub(crate) fn has_taken(&mut self, group: GroupId) -> bool {
        self.fast.hands().taken[usize::from(group.0)]
    }
}

impl World for Hands<'_, '_> {
    fn now(&self) -> BootTime {
        BootTime(self.machine.now)
    }

    fn policy(&self) -> Policy {
        self.machine.kernel.terms.policy()
    }

    fn others(&self) -> Vec<NodeId> {
        self.machine.kernel.contacts.iter().map(|contact| NodeId(contact.id)).collect()
    }

    fn groups(&self) -> Vec<GroupId> {
        (0..self.machine.kernel.records.len() as u8).map(GroupId).collect()
    }

    fn fingerprints(&self) -> [u32; GROUPS] {
        self.fingerprints
    }

    fn is_warm(&self, _: GroupId) -> bool {
        self.warm
    }

    fn config_hash(&self) -> u64 {
        self.machine.kernel.node.config_hash
    }

    fn peer(&self, peer: NodeId) -> Option<Peer> {
        self.auditor.looks_at(peer);
        self.machine.kernel.peer(peer.0).copied()
    }

    fn answers(&self, peer: NodeId) -> bool {
        let contact = self.machine.kernel.contact(peer.0);
        contact.is_none_or(|contact| contact.answers(self.machine.now))
    }

    fn record(&self, group: GroupId) -> Option<Record> {
        self.auditor.looks_at_record();
        self.machine.kernel.records.get(usize::from(group.0)).copied()
    }

    fn order(&mut self, order: Order) -> Option<Order> {
        if !self.machine.calls() {
            return None;
        }
        self.auditor.order(&order, self.machine);
        let fails = self.machine.fail_orders && self.machine.rng.chance(300);
        if fails && self.machine.rng.chance(500) {
            return None;
        }
        let answer = self.machine.kernel.order(order, self.machine.now);
        self.auditor.ordered(&order, &answer);
        (!fails && !self.machine.is_struck()).then_some(answer)
    }

    fn fast_path_answers(&mut self) -> bool {
        let answers = self.fast.went_round(self.machine.now, self.answers_for_it);
        self.auditor.answers(answers);
        answers
    }

    fn stamp(&mut self) {
        if self.machine.calls() {
            self.auditor.stamps();
            self.machine.kernel.node.controller_stamp_ns = self.machine.now;
        }
    }

    fn watch(&mut self, peer: NodeId) -> bool {
        self.machine.kernel.watch(peer.0, false, self.machine.now);
        true
    }

    fn set_buddy(&mut self, peer: NodeId, buddy: Option<NodeId>) {
        let mut contacts = self.machine.kernel.contacts.iter_mut();
        if let Some(contact) = contacts.find(|contact| contact.id == peer.0) {
            contact.peer.buddy = buddy.map_or(0, |buddy| buddy.0);
        }
    }

    fn write(&mut self, write: Write) {
        if self.machine.calls() {
            self.auditor.write(&write, self.machine);
            self.work.push(Work::Store(write));
        }
    }

    fn delay_fence(&mut self, node: NodeId) {
        if self.machine.calls() {
            self.work.push(Work::FenceDue(node));
        }
    }

    /// Whoever is there may answer or not, whatever is wrong with the network.
    fn is_answered(&self, _: NodeId) -> bool {
        !self.machine.now.is_multiple_of(3)
    }

    fn stand_back(&self) -> Duration {
        Duration::from_nanos(STAND_BACK)
    }

    fn run_agent(&mut self, node: NodeId, asked: &[(GroupId, Epoch)]) -> Result<(), String> {
        if self.machine.calls() {
            self.auditor.run_agent(node, asked, self.machine);
            self.work.push(Work::Fence(node));
        }
        Ok(())
    }

    fn await_silence(&mut self, asked: Vec<(GroupId, Epoch)>) {
        self.work.push(Work::Silence(asked));
    }

    fn sweep(&mut self, group: GroupId, number: u64) -> Sweep {
        if self.machine.calls() {
            self.work.push(Work::Clean { group: group.0.into(), number });
        }
        Sweep::Begun
    }

    fn warm(&mut self, group: GroupId) {
        if self.machine.calls() {
            let taken = self.has_taken(group);
            self.auditor.warm(group, taken, self.machine);
            self.fast.commands.push_back(Command::Warm { group });
        }
    }

    fn cool(&mut self, group: GroupId) {
        if self.machine.calls() {
            self.auditor.cool(group);
            self.fast.commands.push_back(Command::Cool { group });
        }
    }
}

impl World for Bent<'_, '_> {
    fn now(&self) -> BootTime {
        self.hands.now()
    }

    fn policy(&self) -> Policy {
        self.hands.policy()
    }

    fn others(&self) -> Vec<NodeId> {
        self.hands.others()
    }

    fn groups(&self) -> Vec<GroupId> {
        self.hands.groups()
    }

    fn fingerprints(&self) -> [u32; GROUPS] {
        self.hands.fingerprints()
    }

    fn is_warm(&self, group: GroupId) -> bool {
        self.hands.is_warm(group)
    }

    fn config_hash(&self) -> u64 {
        self.hands.config_hash()
    }

    fn peer(&self, peer: NodeId) -> Option<Peer> {
        self.mutant.peer(&self.hands, peer)
    }

    fn answers(&self, peer: NodeId) -> bool {
        self.hands.answers(peer)
    }

    fn record(&self, group: GroupId) -> Option<Record> {
        self.mutant.record(&self.hands, group)
    }

    fn order(&mut self, order: Order) -> Option<Order> {
        self.mutant.order(&mut self.hands, order)
    }

    fn fast_path_answers(&mut self) -> bool {
        self.mutant.fast_path_answers(&mut self.hands)
    }

    fn stamp(&mut self) {
        self.hands.stamp();
    }

    fn watch(&mut self, peer: NodeId) -> bool {
        self.hands.watch(peer)
    }

    fn set_buddy(&mut self, peer: NodeId, buddy: Option<NodeId>) {
        self.hands.set_buddy(peer, buddy);
    }

    fn write(&mut self, write: Write) {
        self.mutant.write(&mut self.hands, write);
    }

    fn delay_fence(&mut self, node: NodeId) {
        self.mutant.delay_fence(&mut self.hands, node);
    }

    fn is_answered(&self, node: NodeId) -> bool {
        self.hands.is_answered(node)
    }

    fn stand_back(&self) -> Duration {
        self.hands.stand_back()
    }

    fn run_agent(&mut self, node: NodeId, asked: &[(GroupId, Epoch)]) -> Result<(), String> {
        self.mutant.run_agent(&mut self.hands, node, asked)
    }

    fn await_silence(&mut self, asked: Vec<(GroupId, Epoch)>) {
        self.hands.await_silence(asked);
    }

    fn sweep(&mut self, group: GroupId, number: u64) -> Sweep {
        self.mutant.sweep(&mut self.hands, group, number)
    }

    fn warm(&mut self, group: GroupId) {
        self.hands.warm(group);
    }

    fn cool(&mut self, group: GroupId) {
        self.mutant.cool(&mut self.hands, group);
    }
}
