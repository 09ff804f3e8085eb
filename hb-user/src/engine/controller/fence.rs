//! Policy `safe`: silent nodes are fenced.
//!
//! What a fence is good for is decided by the record: it is told when one begins and what came of
//! it, and drops a report that comes too late.

use hb_ebpf::{
    epoch::Epoch,
    lease::op::{DONE, Op, Order, WAIT},
};

use super::{
    Controller, News, World,
    observe::{is_deaf, is_heard},
};
use crate::{
    core::Input,
    id::{GroupId, NodeId},
};

/// What records seek for which a node is fenced.
pub(super) type Asked = Vec<(GroupId, Epoch)>;

/// Fences of one node.
#[derive(Debug, Default)]
pub(super) struct Target {
    /// Asked for since the agent began: what it reports says nothing about these.
    waiting: Asked,
    /// Whether the delay runs.
    due: bool,
    /// Nobody answered during the last one, and the node was not heard since.
    stood_back: bool,
    /// What the agent that runs was asked for.
    running: Asked,
}

impl Controller {
    /// Has `node` fenced for the epoch that a group's record seeks.
    pub(super) fn fence(
        &mut self,
        world: &mut impl World,
        group: GroupId,
        epoch: Epoch,
        node: NodeId,
    ) {
        self.fences.entry(node).or_default().waiting.push((group, epoch));
        self.schedule_fence(world, node);
    }

    /// Begins the delay before a fence, unless one runs or is about to.
    fn schedule_fence(&mut self, world: &mut impl World, node: NodeId) {
        let Some(target) = self.fences.get_mut(&node) else { return };
        if target.due || !target.running.is_empty() || target.waiting.is_empty() {
            return;
        }
        target.due = true;
        world.delay_fence(node);
    }

    /// The delay before a fence of a node is over: tells the records that it begins, and starts the
    /// agent for those that still seek.
    ///
    /// A node that nobody answers may be the one that is cut off. It stands back once, so that it does not have a
    /// healthy one fenced that could do the same to it. It seeks nothing meanwhile: that one may hear it, and would
    /// go on promising it what it asks for.
    pub fn on_fence_due(&mut self, world: &mut impl World, node: NodeId) {
        let Some(target) = self.fences.get_mut(&node) else { return };
        // It may have come back during the delay. Its promise is asked for then, as any other's.
        let peer = world.peer(node);
        let heard = peer.is_some_and(|peer| is_heard(&peer) && !is_deaf(world, node, &peer));
        let stands_back = !heard && !target.stood_back && !world.is_answered(node);
        (target.due, target.stood_back) = (false, stands_back);
        let asked = std::mem::take(&mut target.waiting);
        if stands_back {
            self.news.push(News::StandsBack(node));
            let wait = world.stand_back();
            for (group, epoch) in asked {
                self.feed(Input::StandBack { group, epoch, wait });
            }
            return;
        }
        let mut running = Vec::new();
        for (group, epoch) in asked {
            let same = world.record(group).is_some_and(|record| record.epoch == epoch.0);
            if !heard && same && self.order(world, Order::new(Op::FenceAsk, group.0)) {
                running.push((group, epoch));
                continue;
            }
            let why = if heard {
                "the node is heard again"
            } else {
                "the group is not sought in that epoch any more"
            };
            self.feed(Input::Fenced { group, epoch, result: Err(why.to_owned()) });
        }
        if running.is_empty() {
            return;
        }
        if let Err(why) = world.run_agent(node, &running) {
            return self.report_fence(world, running, &Err(why));
        }
        if let Some(target) = self.fences.get_mut(&node) {
            target.running = running;
        }
    }

    /// A node is heard and answers: what was known of an earlier cut is over.
    pub(super) fn is_well(&mut self, node: NodeId) {
        if let Some(target) = self.fences.get_mut(&node) {
            target.stood_back = false;
        }
    }

    /// The agent that was to fence a node is done.
    pub fn on_agent(&mut self, world: &mut impl World, node: NodeId, result: &Result<(), String>) {
        let target = self.fences.get_mut(&node);
        let running = target.map(|target| std::mem::take(&mut target.running));
        self.report_fence(world, running.unwrap_or_default(), result);
        self.schedule_fence(world, node);
    }

    /// A node was fenced, and its last packets have left: for the records that waited for that.
    pub fn on_silent(&mut self, world: &mut impl World, asked: Vec<(GroupId, Epoch)>) {
        self.silent.retain(|silent| !asked.contains(silent));
        self.report_fence(world, asked, &Ok(()));
    }

    /// Ends a fence that a record waits for and nobody will report: the kernel did not say that it had
    /// begun, or was not heard when it had ended. Until then the record promises nothing.
    pub(super) fn end_lost_fence(&mut self, world: &mut impl World, group: GroupId) {
        let waits = world.record(group).is_some_and(|record| record.fencing != 0);
        let mut known = self.fences.values().flat_map(|target| &target.running).chain(&self.silent);
        if waits && !known.any(|(known, _)| *known == group) {
            self.order(world, Order::new(Op::FenceFailed, group.0));
        }
    }

    /// Tells records and core what came of a fence.
    fn report_fence(&mut self, world: &mut impl World, asked: Asked, result: &Result<(), String>) {
        let op = if result.is_ok() { Op::Fenced } else { Op::FenceFailed };
        let mut waiting = Vec::new();
        for (group, epoch) in asked {
            let order = Order { epoch: epoch.0, ..Order::new(op, group.0) };
            let code = self.order_for_code(world, order);
            if code == Some(WAIT) {
                waiting.push((group, epoch));
                continue;
            }
            let taken = code == Some(DONE);
            if result.is_ok() && !taken {
                self.news.push(News::Late(group, epoch));
            }
            let result = if taken || result.is_err() {
                result.clone()
            } else {
                Err("the report came too late".to_owned())
            };
            self.feed(Input::Fenced { group, epoch, result });
        }
        if !waiting.is_empty() {
            self.silent.extend(waiting.iter().copied());
            world.await_silence(waiting);
        }
    }
}
