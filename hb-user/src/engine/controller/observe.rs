//! What is looked at, and in which order.

use std::time::Duration;

use hb_ebpf::{
    epoch::Epoch,
    lease::Policy,
    maps::{Event, EventKind, Life, Peer},
    time::BootTime,
};

use super::{Controller, World};
use crate::{
    core::{Input, PeerFacts, RecordFacts},
    id::{GroupId, NodeId},
};

/// After so many ticks a daemon that did not run looks at the others before anything else.
const PAUSED: u32 = 3;
/// How long after a refusal to watch a peer it is asked for again, so that no log is flooded.
const WATCH_AGAIN: Duration = Duration::from_secs(1);

/// Tells whether a machine is heard.
pub(super) fn is_heard(peer: &Peer) -> bool {
    matches!(Life::from_code(peer.life), Life::Alive | Life::Late)
}

/// Tells whether a machine is heard that does not hear this one. Only under policy `safe` does that make a
/// difference: it promises nothing then, and serves until it is off.
pub(super) fn is_deaf(world: &impl World, node: NodeId, peer: &Peer) -> bool {
    world.policy() == Policy::Safe && is_heard(peer) && !world.answers(node)
}

impl Controller {
    /// A daemon that did not run for a while has waited long enough for others by its clock, and must
    /// not act on what it knew of them before: the core hears of them first. Tells whether that is so.
    pub(super) fn catch_up(&mut self, world: &mut impl World) -> bool {
        let now = world.now();
        let paused = now.since(self.round) > self.tick * PAUSED;
        self.round = now;
        if paused {
            let after = std::mem::take(&mut self.inputs);
            for peer in world.others() {
                self.look_at(world, peer);
            }
            self.inputs.extend(after);
        }
        paused
    }

    /// The kernel half has something to tell: the facts are in the maps.
    pub fn on_event(&mut self, world: &mut impl World, event: &Event) {
        self.catch_up(world);
        let peer = NodeId(event.peer);
        match EventKind::from_code(event.kind) {
            Some(EventKind::Lease) => {
                // What brought the news comes first, so that the core knows why.
                self.look_at(world, peer);
                self.look_at_record(world, GroupId(event.link));
            }
            Some(EventKind::Dead | EventKind::Controller) => {
                // What is sought now waits for this node's own promise, as it was renewed last.
                for group in world.groups() {
                    self.look_at_record(world, group);
                }
                self.look_at(world, peer);
            }
            Some(EventKind::Paused | EventKind::Claim | EventKind::Carrier) => {}
            _ => {
                self.look_at(world, peer);
            }
        }
    }

    /// The record of a group seeks, by what the fast path did.
    pub fn on_sought(&mut self, world: &mut impl World, group: GroupId) {
        self.catch_up(world);
        self.look_at_record(world, group);
    }

    /// The fast path has the addresses of a group up, or not.
    pub fn on_took(
        &mut self,
        world: &mut impl World,
        group: GroupId,
        epoch: Epoch,
        result: Result<(), String>,
    ) {
        self.catch_up(world);
        // The core hears that the record holds: what it does not hold is dropped again.
        self.look_at_record(world, group);
        self.feed(Input::Took { group, epoch, result });
    }

    /// Tells the core what the map says of a peer now.
    pub fn look_at(&mut self, world: &impl World, peer: NodeId) -> Option<Peer> {
        let state = world.peer(peer)?;
        let deaf = is_deaf(world, peer, &state);
        if is_heard(&state) && !deaf {
            self.is_well(peer);
        }
        let facts = PeerFacts { deaf, ..PeerFacts::of(&state, &world.fingerprints()) };
        self.feed(Input::Peer { peer, facts });
        Some(state)
    }

    /// Tells the core what the record of a group says now.
    pub fn look_at_record(&mut self, world: &impl World, group: GroupId) {
        let Some(record) = world.record(group) else { return };
        let record = RecordFacts::from(&record);
        let step = (record.state, record.epoch);
        let Some(seen) = self.seen.get_mut(usize::from(group.0)) else { return };
        if std::mem::replace(seen, step) != step {
            // What moved it is in the maps by now: the core hears of that first, so that it knows
            // why.
            for peer in world.others() {
                self.look_at(world, peer);
            }
        }
        self.feed(Input::Record { group, record });
    }

    /// Goes round: stamps the controller's slot if the fast path went round as well, and looks at
    /// everything that an event may have been lost of.
    pub fn on_tick(&mut self, world: &mut impl World) {
        let now = world.now();
        self.round = now;
        self.stamp(world);
        let others = world.others();
        let mut heard = Vec::new();
        for peer in &others {
            let Some(state) = self.look_at(world, *peer) else { continue };
            if is_heard(&state) {
                heard.push(*peer);
            }
            if state.watched == 0 {
                self.watch_again(world, *peer, now);
            }
        }
        // After the peers, for the same reason as in `catch_up`.
        self.look_at_records(world);
        for peer in others {
            let buddy = heard.iter().find(|other| **other != peer).copied();
            world.set_buddy(peer, buddy);
        }
        self.keep_warm(world);
    }

    /// Says that this controller lives, if the fast path does.
    pub(super) fn stamp(&mut self, world: &mut impl World) {
        if world.fast_path_answers() {
            world.stamp();
        }
    }

    /// Begins to watch a peer whose watch the kernel ended; not at once after a refusal.
    fn watch_again(&mut self, world: &mut impl World, peer: NodeId, now: BootTime) {
        if self.watch_refused.is_some_and(|refused| now.since(refused) < WATCH_AGAIN) {
            return;
        }
        self.watch_refused = (!world.watch(peer)).then_some(now);
    }
}
