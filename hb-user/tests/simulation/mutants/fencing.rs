//! Fences, and what is told of them.

use std::collections::BTreeMap;

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        Record,
        op::{DONE, Op, Order},
    },
    maps::{Life, Peer},
};
use hb_user::{
    engine::controller::World,
    id::{GroupId, NodeId},
};

use super::{Mutant, Outcome};
use crate::hands::Hands;

/// A fence begins for the epoch that was sought when it was asked for.
#[derive(Default)]
pub(crate) struct FencesStale {
    sought: BTreeMap<GroupId, u64>,
    due: bool,
}

impl Mutant for FencesStale {
    fn delay_fence(&mut self, hands: &mut Hands<'_, '_>, node: NodeId) {
        let groups = hands.groups().into_iter();
        self.sought =
            groups.filter_map(|group| Some((group, hands.record(group)?.epoch))).collect();
        hands.delay_fence(node);
    }

    fn fence_due(&mut self, _: &Hands<'_, '_>) {
        self.due = true;
    }

    fn record(&self, hands: &Hands<'_, '_>, group: GroupId) -> Option<Record> {
        let record = hands.record(group)?;
        let sought = self.sought.get(&group).filter(|_| self.due);
        Some(Record { epoch: sought.copied().unwrap_or(record.epoch), ..record })
    }

    fn stepped(&mut self, _: &mut Hands<'_, '_>) {
        self.due = false;
    }
}

/// A node is fenced though it is heard again.
#[derive(Default)]
pub(crate) struct FencesHeard {
    due: bool,
}

impl Mutant for FencesHeard {
    fn fence_due(&mut self, _: &Hands<'_, '_>) {
        self.due = true;
    }

    fn peer(&self, hands: &Hands<'_, '_>, peer: NodeId) -> Option<Peer> {
        let seen = hands.peer(peer)?;
        let life = if self.due { Life::Dead as u8 } else { seen.life };
        Some(Peer { life, ..seen })
    }

    fn stepped(&mut self, _: &mut Hands<'_, '_>) {
        self.due = false;
    }
}

/// The agent runs, and the record was not told.
pub(crate) struct AskedForNothing;

impl Mutant for AskedForNothing {
    fn order(&mut self, hands: &mut Hands<'_, '_>, order: Order) -> Option<Order> {
        match Op::from_code(order.op) {
            Some(Op::FenceAsk) => Some(Order { code: DONE, ..order }),
            _ => hands.order(order),
        }
    }
}

/// A failed fence is reported as a success.
pub(crate) struct FailureCounts;

impl Mutant for FailureCounts {
    fn agent(&mut self, _: Outcome) -> Outcome {
        Ok(())
    }
}

/// A fence is reported as soon as the agent runs.
pub(crate) struct ReportsFirst;

impl Mutant for ReportsFirst {
    fn run_agent(
        &mut self,
        hands: &mut Hands<'_, '_>,
        node: NodeId,
        asked: &[(GroupId, Epoch)],
    ) -> Outcome {
        hands.run_agent(node, asked)?;
        for (group, epoch) in asked {
            hands.order(Order { epoch: epoch.0, ..Order::new(Op::Fenced, group.0) });
        }
        Ok(())
    }
}

/// A fence that was reported, and held by, is reported once more.
pub(crate) struct ReportsTwice;

impl Mutant for ReportsTwice {
    fn order(&mut self, hands: &mut Hands<'_, '_>, order: Order) -> Option<Order> {
        let answer = hands.order(order);
        let fenced = Op::from_code(order.op) == Some(Op::Fenced);
        if fenced && answer.is_some_and(|answer| answer.code == DONE) {
            hands.order(order);
        }
        answer
    }
}
