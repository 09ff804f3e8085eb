//! Policy `safe` as the daemon deals with it: silent nodes are fenced, and a node that leaves binds
//! itself to the one that goes on.
//!
//! What a fence is good for is decided by the record: it is told when one begins and what came of
//! it, and drops a report that comes too late.

use std::{collections::BTreeMap, time::Duration};

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        fence::Vow,
        identity,
        op::{DONE, Op, Order, WAIT},
    },
    maps::Life,
    wire::State,
};
use tokio::{runtime::Handle, sync::mpsc};

use super::{Daemon, disk};
use crate::{
    clock,
    config::Policy,
    core::Input,
    fence::{self, Asker, Report},
    id::{GroupId, NodeId},
};

/// How long a node that leaves waits for the other one to say that it goes on alone.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(1);

/// What the tasks of a fence tell the main loop.
pub(super) enum Word {
    /// The delay before a fence of this node is over.
    Due(NodeId),
    /// The agent is done.
    Done(Box<Report>),
    /// A node was fenced, and its last packets have left: for the groups whose records waited.
    Silent(Vec<(GroupId, Epoch)>),
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

/// The fences asked for.
pub(super) struct Fences {
    background: Handle,
    sender: mpsc::UnboundedSender<Word>,
    receiver: mpsc::UnboundedReceiver<Word>,
    targets: BTreeMap<NodeId, Target>,
}

/// Fences of one node.
#[derive(Default)]
struct Target {
    /// Asked for since the agent began: what it reports says nothing about these.
    waiting: Vec<(GroupId, Epoch)>,
    /// Whether the delay runs.
    due: bool,
    /// What the agent that runs was asked for.
    running: Vec<(GroupId, Epoch)>,
}

impl Fences {
    /// Returns none; agents are run by `background`.
    pub(super) fn new(background: Handle) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self { background, sender, receiver, targets: BTreeMap::new() }
    }

    /// Returns the next word; waits for ever if there is none.
    pub(super) async fn next(&mut self) -> Word {
        match self.receiver.recv().await {
            Some(word) => word,
            // Not reached while this holds a sender of its own.
            None => std::future::pending().await,
        }
    }
}

impl Daemon {
    /// Has `node` fenced for the epoch that a group's record seeks.
    pub(super) fn fence(&mut self, group: GroupId, epoch: Epoch, node: NodeId) {
        let target = self.fences.targets.entry(node).or_default();
        target.waiting.push((group, epoch));
        self.schedule_fence(node);
    }

    /// Begins the delay before a fence, unless one runs or is about to.
    fn schedule_fence(&mut self, node: NodeId) {
        let Some(target) = self.fences.targets.get_mut(&node) else { return };
        if target.due || !target.running.is_empty() || target.waiting.is_empty() {
            return;
        }
        target.due = true;
        let me = self.local.me.id;
        let delay =
            self.config.fence.as_ref().map_or(Duration::ZERO, |fence| fence.delay(me, node));
        let sender = self.fences.sender.clone();
        self.fences.background.spawn(async move {
            tokio::time::sleep(delay).await;
            // The daemon that is gone needs no fence.
            drop(sender.send(Word::Due(node)));
        });
    }

    pub(super) fn on_fence(&mut self, word: Word) {
        match word {
            Word::Due(node) => self.begin_fence(node),
            Word::Done(report) => self.end_fence(&report),
            Word::Silent(asked) => self.report_fence(asked, &Ok(())),
        }
    }

    /// Tells the records that a fence begins, and starts the agent for those that still seek.
    fn begin_fence(&mut self, node: NodeId) {
        let Some(target) = self.fences.targets.get_mut(&node) else { return };
        target.due = false;
        let asked = std::mem::take(&mut target.waiting);
        let mut running = Vec::new();
        // It may have come back during the delay. Its promise is asked for then, as any other's.
        let heard = self
            .shared
            .peer(node)
            .is_some_and(|peer| matches!(Life::from_code(peer.life), Life::Alive | Life::Late));
        for (group, epoch) in asked {
            let same = self.shared.record(group).is_some_and(|record| record.epoch == epoch.0);
            if !heard && same && self.order(group, Op::FenceAsk) {
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
        let Some((_, epoch)) = running.first().copied() else { return };
        let (agent, named) = (self.config.fence.clone(), self.config.nodes.iter());
        let (Some(agent), Some(named)) = (agent, named.clone().find(|known| known.id == node))
        else {
            // The configuration of policy safe has both.
            return self.report_fence(running, &Err("no fence is configured".to_owned()));
        };
        let named = named.clone();
        tracing::warn!(
            node = named.name.as_str(),
            epoch = epoch.0,
            agent = %agent.command.display(),
            "fencing: the node is silent, and nobody serves before it is off"
        );
        if let Some(target) = self.fences.targets.get_mut(&node) {
            target.running = running;
        }
        let asker = Asker {
            cluster: self.config.cluster.name.to_string(),
            node: self.local.me.name.to_string(),
            epoch: Some(epoch),
        };
        let sender = self.fences.sender.clone();
        self.fences.background.spawn(async move {
            let action = agent.action.into();
            let report = fence::run(&agent, &named, action, &asker).await;
            drop(sender.send(Word::Done(Box::new(report))));
        });
    }

    fn end_fence(&mut self, report: &Report) {
        let result = if report.fenced() {
            tracing::info!(%report, "fenced");
            Ok(())
        } else {
            tracing::error!(%report, "not fenced: nobody serves, and it is tried again");
            Err(report.to_string())
        };
        let node = report.node;
        let running = match self.fences.targets.get_mut(&node) {
            Some(target) => std::mem::take(&mut target.running),
            None => Vec::new(),
        };
        self.report_fence(running, &result);
        self.schedule_fence(node);
    }

    /// Tells records and core what came of a fence.
    fn report_fence(&mut self, asked: Vec<(GroupId, Epoch)>, result: &Result<(), String>) {
        let op = if result.is_ok() { Op::Fenced } else { Op::FenceFailed };
        let mut waiting = Vec::new();
        for (group, epoch) in asked {
            let order = Order { epoch: epoch.0, ..Order::new(op, group.0) };
            let code = self.order_for_code(order);
            if code == Some(WAIT) {
                waiting.push((group, epoch));
                continue;
            }
            let taken = code == Some(DONE);
            if result.is_ok() && !taken {
                let group = self.group_name(group);
                tracing::warn!(group, epoch = epoch.0, "report of a fence came too late: dropped");
            }
            let result = if taken || result.is_err() {
                result.clone()
            } else {
                Err("the report came too late".to_owned())
            };
            self.feed(Input::Fenced { group, epoch, result });
        }
        if !waiting.is_empty() {
            self.report_once_silent(waiting);
        }
    }

    /// Reports a fence again once the last packets of the node that was fenced have left.
    fn report_once_silent(&self, waiting: Vec<(GroupId, Epoch)>) {
        let last_packets = self.config.lease.wait();
        let sender = self.fences.sender.clone();
        self.fences.background.spawn(async move {
            tokio::time::sleep(last_packets).await;
            // The daemon that is gone holds nothing.
            drop(sender.send(Word::Silent(waiting)));
        });
    }

    /// Binds this node, which leaves, to the node that holds each group, so that it goes on without
    /// a fence; and waits a moment for it to say so.
    pub(super) async fn bid_farewell(&mut self) {
        if self.config.cluster.policy != Policy::Safe {
            return;
        }
        let give_up = clock::now().after(disk::LEAVE_WITHIN);
        let mut farewell = clock::now().after(FAREWELL);
        let mut asked: Vec<_> = self.groups();
        let mut bound = Vec::new();
        loop {
            asked.retain(|group| match self.vow(*group) {
                Vowed::Not => false,
                Vowed::Waits => true,
                Vowed::Bound(holder) => {
                    farewell = clock::now().after(FAREWELL);
                    bound.push((*group, holder));
                    false
                }
            });
            bound.retain(|(group, holder)| !self.goes_on_alone(*group, *holder));
            let now = clock::now();
            let waits = !asked.is_empty() && now < give_up;
            if !waits && (bound.is_empty() || now >= farewell) {
                break;
            }
            if self.fast.went_round(now) {
                self.shared.stamp_controller(now);
            }
            self.store();
            tokio::select! {
                written = self.disk.next() => self.on_written(written),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        for group in asked {
            tracing::error!(
                group = self.group_name(group),
                "promise not stored before leaving: the holder may have this node fenced"
            );
        }
        for (group, holder) in bound {
            tracing::warn!(
                group = self.group_name(group),
                holder = self.node_name(holder),
                "the holder did not say that it goes on alone: it may have this node fenced"
            );
        }
    }

    /// Promises a group to its holder without an end, on the disk first.
    fn vow(&mut self, group: GroupId) -> Vowed {
        let Some(record) = self.shared.record(group) else { return Vowed::Not };
        let apart = matches!(record.state(), State::Idle | State::Released);
        if !apart || !record.is_bound(clock::now().ns()) || record.released != 0 {
            self.forget_vow(group);
            return Vowed::Not;
        }
        let promised = Epoch(record.promised);
        if !self.disk.storage.vow(group, promised) {
            return Vowed::Waits;
        }
        if !self.order(group, Op::Vow) {
            self.forget_vow(group);
            return Vowed::Not;
        }
        Vowed::Bound(NodeId(promised.node()))
    }

    /// Tells whether the holder of a group holds it without an end, and in the epoch promised.
    fn goes_on_alone(&self, group: GroupId, holder: NodeId) -> bool {
        let (Some(peer), Some(record)) = (self.shared.peer(holder), self.shared.record(group))
        else {
            return false;
        };
        let word = identity::find(&peer.words, record.fingerprint, usize::from(group.0));
        word.is_some_and(|word| {
            word.state() == State::Holding && word.epoch().0 == record.promised && word.is_endless()
        })
    }

    /// Removes a promise from the disk once the record says that it has an end again.
    pub(super) fn look_at_vow(&mut self, group: GroupId) {
        // A node that leaves has not given it yet, perhaps.
        if !self.stopping && self.forget_vow(group) {
            tracing::info!(group = self.group_name(group), "bound without an end no longer");
        }
    }

    /// Removes a promise from the disk that the record has not; tells whether there was one.
    fn forget_vow(&mut self, group: GroupId) -> bool {
        let ended = || self.shared.record(group).is_some_and(|record| record.vow() == Vow::None);
        let forgets = self.disk.storage.has_vow(group) && ended();
        if forgets {
            self.disk.storage.forget_vow(group);
        }
        forgets
    }
}
