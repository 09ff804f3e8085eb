//! What is looked at, and when.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use hb_ebpf::{
    lease::Record,
    maps::{Life, Peer},
};
use hb_user::{
    engine::controller::World,
    id::{GroupId, NodeId},
};

use super::Mutant;
use crate::hands::Hands;

/// What is told of peers was seen before the records were; they are looked at after these.
#[derive(Default)]
pub(crate) struct RecordsFirst {
    records: Cell<bool>,
    before: RefCell<BTreeMap<NodeId, Peer>>,
}

impl Mutant for RecordsFirst {
    fn peer(&self, hands: &Hands<'_, '_>, peer: NodeId) -> Option<Peer> {
        let before = self.before.borrow().get(&peer).copied();
        if let (Some(before), false) = (before, self.records.get()) {
            return Some(before);
        }
        let seen = hands.peer(peer)?;
        self.before.borrow_mut().insert(peer, seen);
        Some(seen)
    }

    fn record(&self, hands: &Hands<'_, '_>, group: GroupId) -> Option<Record> {
        self.records.set(true);
        hands.record(group)
    }

    fn stepped(&mut self, _: &mut Hands<'_, '_>) {
        self.records.set(false);
    }
}

/// The stamp does not ask whether the fast path goes round.
pub(crate) struct StampsUnanswered;

impl Mutant for StampsUnanswered {
    fn fast_path_answers(&mut self, hands: &mut Hands<'_, '_>) -> bool {
        hands.fast_path_answers();
        true
    }
}

/// A learner takes part whoever is heard.
pub(crate) struct LearnsUnheard;

impl Mutant for LearnsUnheard {
    fn peer(&self, hands: &Hands<'_, '_>, peer: NodeId) -> Option<Peer> {
        let life = Life::Alive as u8;
        hands.peer(peer).map(|peer| Peer { life, ..peer })
    }
}
