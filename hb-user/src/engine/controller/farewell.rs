//! Policy `safe`: a node that leaves binds itself to the one that goes on.

use std::time::Duration;

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        Policy,
        fence::Vow,
        identity,
        op::{Op, Order},
    },
    time::BootTime,
    wire::State,
};

use super::{Controller, News, World};
use crate::id::{GroupId, NodeId};

/// How long a node that leaves waits for the other one to say that it goes on alone.
const FAREWELL: Duration = Duration::from_secs(1);
/// And for its disk.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// What a node that leaves waits for.
#[derive(Debug)]
pub(super) struct Farewell {
    /// Groups whose promises may have to be stored, and until when that is waited for.
    asked: Vec<GroupId>,
    give_up: BootTime,
    /// Groups promised without an end, and to whom; and until when these are waited for.
    bound: Vec<(GroupId, NodeId)>,
    end: BootTime,
}

/// What became of the wish to promise a group without an end.
enum Vowed {
    /// There is nobody to promise it to.
    Not,
    /// It waits for the disk.
    Waits,
    /// It is promised, to this node.
    Bound(NodeId),
}

impl Controller {
    /// Binds this node, which leaves, to the node that holds each group, so that it goes on without
    /// a fence. Tells whether there is nothing to wait for any more; until then it is to be called
    /// again, after a millisecond and whenever the disk has answered.
    pub fn bid_farewell(&mut self, world: &mut impl World) -> bool {
        if world.policy() != Policy::Safe {
            return true;
        }
        let began = world.now();
        let farewell = self.farewell.take().unwrap_or_else(|| Farewell {
            asked: world.groups(),
            give_up: began.after(LEAVE_WITHIN),
            bound: Vec::new(),
            end: began.after(FAREWELL),
        });
        let Farewell { asked, give_up, mut bound, mut end } = farewell;
        let mut waiting = Vec::new();
        for group in asked {
            match self.vow(world, group) {
                Vowed::Not => {}
                Vowed::Waits => waiting.push(group),
                Vowed::Bound(holder) => {
                    end = world.now().after(FAREWELL);
                    bound.push((group, holder));
                }
            }
        }
        bound.retain(|(group, holder)| !goes_on_alone(world, *group, *holder));
        let now = world.now();
        let waits = !waiting.is_empty() && now < give_up;
        if !waits && (bound.is_empty() || now >= end) {
            self.news.extend(waiting.into_iter().map(News::Unstored));
            let unanswered = |(group, holder)| News::Unanswered(group, holder);
            self.news.extend(bound.into_iter().map(unanswered));
            return true;
        }
        self.stamp(world);
        self.store(world);
        self.farewell = Some(Farewell { asked: waiting, give_up, bound, end });
        false
    }

    /// Promises a group to its holder without an end, on the disk first.
    fn vow(&mut self, world: &mut impl World, group: GroupId) -> Vowed {
        let Some(record) = world.record(group) else { return Vowed::Not };
        let apart = matches!(record.state(), State::Idle | State::Released);
        if !apart || !record.is_bound(world.now().ns()) || record.released != 0 {
            self.forget_vow(world, group);
            return Vowed::Not;
        }
        let promised = Epoch(record.promised);
        if !self.storage.vow(group, promised) {
            return Vowed::Waits;
        }
        if !self.order(world, Order::new(Op::Vow, group.0)) {
            self.forget_vow(world, group);
            return Vowed::Not;
        }
        Vowed::Bound(NodeId(promised.node()))
    }

    /// An operator answers for it that the node a group was promised to is off for good; tells whether
    /// the record was changed.
    pub fn absolve(&mut self, world: &mut impl World, group: GroupId) -> bool {
        let freed = self.order(world, Order::new(Op::Absolve, group.0));
        if freed {
            self.look_at_vow(world, group);
        }
        freed
    }

    /// Removes a promise from the disk once the record says that it has an end again.
    pub(super) fn look_at_vow(&mut self, world: &impl World, group: GroupId) {
        // A node that leaves has not given it yet, perhaps.
        if !self.stopping && self.forget_vow(world, group) {
            self.news.push(News::Unbound(group));
        }
    }

    /// Removes a promise from the disk that the record has not; tells whether there was one.
    fn forget_vow(&mut self, world: &impl World, group: GroupId) -> bool {
        let ended = || world.record(group).is_some_and(|record| record.vow() == Vow::None);
        let forgets = self.storage.has_vow(group) && ended();
        if forgets {
            self.storage.forget_vow(group);
        }
        forgets
    }
}

/// Tells whether the holder of a group holds it without an end, and in the epoch promised.
fn goes_on_alone(world: &impl World, group: GroupId, holder: NodeId) -> bool {
    let (Some(peer), Some(record)) = (world.peer(holder), world.record(group)) else {
        return false;
    };
    let word = identity::find(&peer.words, record.fingerprint, usize::from(group.0));
    word.is_some_and(|word| {
        word.state() == State::Holding && word.epoch().0 == record.promised && word.is_endless()
    })
}
