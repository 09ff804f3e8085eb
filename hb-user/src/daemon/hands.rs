//! What the controller's engine reaches of this machine.

use std::{collections::BTreeSet, time::Duration};

use hb_ebpf::{
    epoch::Epoch,
    lease::{self, Record, op::Order},
    maps::Peer,
    time::BootTime,
    wire::GROUPS,
};

use super::{
    Daemon, EngineKind, act, clean::Cleaner, disk::Disk, fence::Fences, prepare::LocalVip,
    resources::describe,
};
use crate::{
    clock,
    config::{Config, Fence, Local},
    core::storage::Write,
    engine::controller::{Controller, Sweep, World},
    fast::{Command, Fast},
    id::{GroupId, NodeId},
    kernel::{Kernel, Leases, Shared},
};

/// A node that is heard and has not answered for so long, or for deadtime if that is longer, does not hear this one.
const UNANSWERED: Duration = Duration::from_millis(500);

/// The parts of a daemon that its engine acts with.
pub(super) struct Hands<'a> {
    config: &'a Config,
    local: &'a Local,
    fingerprints: [u32; GROUPS],
    kernel: &'a mut Kernel,
    counts: EngineKind,
    shared: &'a Shared,
    leases: &'a Leases,
    fast: &'a Fast,
    disk: &'a Disk,
    fences: &'a mut Fences,
    vips: &'a [Vec<LocalVip>],
    cleaner: Option<&'a Cleaner>,
}

impl Daemon {
    /// Has the engine take a step, and tells people what they may want to know of it.
    pub(super) fn steer<T>(
        &mut self,
        step: impl FnOnce(&mut Controller, &mut Hands<'_>) -> T,
    ) -> T {
        let mut hands = Hands {
            config: &self.config,
            local: &self.local,
            fingerprints: self.fingerprints,
            kernel: &mut self.kernel,
            counts: self.engine.0,
            shared: &self.shared,
            leases: &self.leases,
            fast: &self.fast,
            disk: &self.disk,
            fences: &mut self.fences,
            vips: &self.vips,
            cleaner: self.cleaner.as_ref(),
        };
        let done = step(&mut self.controller, &mut hands);
        for news in self.controller.take_news() {
            self.tell(news);
        }
        done
    }
}

impl Hands<'_> {
    fn node_name(&self, node: NodeId) -> &str {
        act::node_name(self.config, self.local, node)
    }
}

impl World for Hands<'_> {
    fn now(&self) -> BootTime {
        clock::now()
    }

    fn policy(&self) -> lease::Policy {
        self.config.cluster.policy.into()
    }

    fn others(&self) -> Vec<NodeId> {
        self.local.peers.iter().map(|peer| peer.id).chain(self.local.witness_id()).collect()
    }

    fn groups(&self) -> Vec<GroupId> {
        self.config.groups.iter().map(|group| group.id).collect()
    }

    fn fingerprints(&self) -> [u32; GROUPS] {
        self.fingerprints
    }

    fn is_warm(&self, group: GroupId) -> bool {
        self.config.group(group).is_some_and(|group| group.warm_addresses)
    }

    fn config_hash(&self) -> u64 {
        self.shared.node().config_hash
    }

    fn peer(&self, peer: NodeId) -> Option<Peer> {
        self.shared.peer(peer)
    }

    fn answers(&self, peer: NodeId) -> bool {
        let Some(state) = self.shared.peer(peer) else { return true };
        let now = clock::now();
        let since = |ns: u64| now.since(BootTime(ns));
        // A silence that comes of this node's own pause says nothing.
        let asks = since(state.probe_ns) < self.config.timers.deadtime();
        let long = self.config.timers.deadtime().max(UNANSWERED);
        if !asks || since(state.started_ns) < long {
            return true;
        }
        let links =
            self.local.links.iter().filter(|link| link.peers.iter().any(|(id, _)| *id == peer));
        let mut links = links.filter_map(|link| self.shared.link(peer, link.id));
        links.any(|(_, link)| since(link.last_answer_ns) < long)
    }

    fn record(&self, group: GroupId) -> Option<Record> {
        self.shared.record(group)
    }

    fn order(&mut self, order: Order) -> Option<Order> {
        match self.leases.order(order) {
            Ok(answer) => Some(answer),
            Err(error) => {
                let group = act::group_name(self.config, GroupId(order.group));
                tracing::error!(group, error = describe(&error), "record not changed");
                None
            }
        }
    }

    fn fast_path_answers(&mut self) -> bool {
        self.fast.went_round(clock::now())
    }

    fn stamp(&mut self) {
        self.shared.stamp_controller(clock::now());
    }

    fn watch(&mut self, peer: NodeId) -> bool {
        let watched = act::watch(self.kernel, self.counts, peer, false);
        if let Err(error) = &watched {
            let peer = self.node_name(peer);
            tracing::error!(peer, error = describe(error), "nobody watches the peer");
        }
        watched.is_ok()
    }

    fn set_buddy(&mut self, peer: NodeId, buddy: Option<NodeId>) {
        self.shared.set_buddy(peer, buddy);
    }

    fn write(&mut self, write: Write) {
        self.disk.begin(self.config, write);
    }

    fn delay_fence(&mut self, node: NodeId) {
        let me = self.local.me.id;
        let delay = self.config.fence.as_ref().map(|fence| fence.delay(me, node));
        let interfaces: BTreeSet<_> =
            self.vips.iter().flatten().map(|vip| vip.interface.clone()).collect();
        self.fences.delay(node, delay.unwrap_or_default(), interfaces);
    }

    fn is_answered(&self, node: NodeId) -> bool {
        self.fences.is_answered(node)
    }

    fn stand_back(&self) -> Duration {
        self.config.fence.as_ref().map(Fence::stand_back).unwrap_or_default()
    }

    fn run_agent(&mut self, node: NodeId, asked: &[(GroupId, Epoch)]) -> Result<(), String> {
        self.fences.run(self.config, self.local, node, asked.first().map(|(_, epoch)| *epoch))
    }

    fn await_silence(&mut self, asked: Vec<(GroupId, Epoch)>) {
        self.fences.await_silence(asked, self.config.lease.wait());
    }

    fn sweep(&mut self, group: GroupId, number: u64) -> Sweep {
        // Without: policy available, on a kernel that cannot, which was said at the start.
        self.cleaner.map_or(Sweep::Impossible, |cleaner| match cleaner.sweep(group, number) {
            Ok(()) => Sweep::Begun,
            Err(error) => Sweep::Refused(error.to_string()),
        })
    }

    fn warm(&mut self, group: GroupId) {
        act::command(self.fast, Command::Warm { group });
    }

    fn cool(&mut self, group: GroupId) {
        act::command(self.fast, Command::Cool { group });
    }
}
