//! What is worth a line in the log: changes, said once, with their cause.

use std::{collections::BTreeMap, time::Duration};

use hb_ebpf::{
    epoch::Epoch,
    maps::{self, MAX_LINKS, Peer},
    refusal::Refusal,
    time::BootTime,
};

use super::{Daemon, pauses::News, resources::describe};
use crate::{
    clock,
    core::{Aside, Life, Phase, Reason, Transition},
    id::NodeId,
    kernel::Counters,
};

/// Lateness is said at most this often: a peer at the edge is late many times a second, and a log
/// that is written all the time makes this node late itself.
const LATE_EVERY: Duration = Duration::from_secs(1);
/// Rounds of the main loop for which a link has to stay as it is before that is said.
const STEADY_ROUNDS: u8 = 3;
/// Refused frames of a link are said at most this often.
const REFUSED_EVERY: Duration = Duration::from_secs(60);

/// What was said of each peer.
pub(super) type Memory = BTreeMap<NodeId, PeerMemory>;

/// What was said of one peer, and what is not worth a line yet.
#[derive(Debug, Default)]
pub(super) struct PeerMemory {
    /// Since when its life is what it is.
    pub(super) life_since: BootTime,
    /// Its silence when the kernel last called it late or dead, in microseconds.
    silence_us: u64,
    late_said: BootTime,
    late_unsaid: u32,
    /// The links said to be heard, those heard at the last look, and for how many looks.
    links_said: u8,
    links_seen: u8,
    links_rounds: u8,
    /// Code of the refusal it last told us of.
    refuses_us: u8,
    /// Frames refused, as last said, and when.
    refused: [Option<Counters>; MAX_LINKS],
    refused_said: BootTime,
}

impl Daemon {
    /// One line for each change of state.
    pub(super) fn log(&mut self, transition: &Transition) {
        match transition {
            Transition::Peer { peer, from, to } => self.log_life(*peer, *from, *to),
            Transition::PeerLeft { peer } => {
                tracing::info!(peer = self.node_name(*peer), "peer left in order");
            }
            Transition::PeerLeaving { peer } => {
                tracing::info!(peer = self.node_name(*peer), "peer is leaving in order");
            }
            Transition::PeerRestarted { peer, incarnation } => {
                tracing::info!(peer = self.node_name(*peer), incarnation, "peer's daemon started");
            }
            Transition::Controller { peer, dead: true } => {
                let peer = self.node_name(*peer);
                tracing::warn!(peer, "peer's controller is dead, its kernel half answers");
            }
            Transition::Controller { peer, dead: false } => {
                tracing::info!(peer = self.node_name(*peer), "peer's controller is alive");
            }
            Transition::Lacks { peer, groups } => {
                let peer = self.node_name(*peer);
                let names: Vec<_> = groups.iter().map(|group| self.group_name(*group)).collect();
                if names.is_empty() {
                    tracing::info!(peer, "it has all groups of this node");
                } else {
                    let groups = names.join(", ");
                    tracing::warn!(
                        peer,
                        groups,
                        "it does not have these groups as they are here: another configuration"
                    );
                }
            }
            Transition::Joined => tracing::info!("joined: every peer was heard or declared dead"),
            Transition::Group { group, from, to, reason } => {
                let group = self.group_name(*group);
                let epoch = epoch_of(to).or(epoch_of(from)).unwrap_or_default().0;
                tracing::info!(group, %from, %to, epoch, cause = self.reason(reason), "group changes state");
            }
            Transition::Conflict { group, peer, theirs, ours, won } => tracing::warn!(
                group = self.group_name(*group),
                peer = self.node_name(*peer),
                theirs = theirs.0,
                ours = ours.0,
                won,
                "two nodes hold the group: the one that is worse placed gives it up"
            ),
            Transition::ConflictOver { group, peer } => tracing::info!(
                group = self.group_name(*group),
                peer = self.node_name(*peer),
                "the other node gave the group up"
            ),
            Transition::Failed { group, error } => {
                tracing::error!(group = self.group_name(*group), error, "failed");
            }
            Transition::Maintenance { group, begins: true } => tracing::warn!(
                group = self.group_name(*group),
                "in maintenance: nothing is done about what fails, and the group is not taken"
            ),
            Transition::Maintenance { group, begins: false } => {
                tracing::info!(group = self.group_name(*group), "maintenance is over");
            }
            Transition::Overlooked { group, error } => tracing::warn!(
                group = self.group_name(*group),
                error,
                "failed in maintenance: nothing is done about it"
            ),
            Transition::Restarts { group, error, times, most } => tracing::warn!(
                group = self.group_name(*group),
                error,
                times,
                most,
                "a resource failed: all of the group are started again here"
            ),
            Transition::Unfit { group, error } => tracing::warn!(
                group = self.group_name(*group),
                error,
                "a check fails: this node is not able to take the group"
            ),
            Transition::Fit { group } => {
                tracing::info!(group = self.group_name(*group), "all checks pass again");
            }
            Transition::Blocked { group } => tracing::error!(
                group = self.group_name(*group),
                "not given to another node: a resource could not be stopped and may still run here"
            ),
            Transition::Stays { group } => tracing::error!(
                group = self.group_name(*group),
                "not leaving: a resource could not be stopped and may still run here"
            ),
            Transition::Cleared { group } => {
                tracing::info!(group = self.group_name(*group), "failure cleared");
            }
            Transition::Forgotten { group, error, alone: true } => tracing::warn!(
                group = self.group_name(*group),
                error,
                "tried again although it failed here: no other node can serve"
            ),
            Transition::Forgotten { group, error, alone: false } => tracing::info!(
                group = self.group_name(*group),
                error,
                "the failure is old: this node may take the group again"
            ),
            Transition::PassedOver { group, node } => tracing::warn!(
                group = self.group_name(*group),
                node = self.node_name(*node),
                "did not take the group in its turn: passed over"
            ),
            Transition::NoMajority { group } => tracing::warn!(
                group = self.group_name(*group),
                missing = self.missing_voters(),
                "seeking: no majority of the voters answered; trying again until one does"
            ),
            Transition::Fencing { group, node } => tracing::info!(
                group = self.group_name(*group),
                node = self.node_name(*node),
                "seeking: the other node is silent or hears nothing, and is to be fenced"
            ),
            Transition::Lapsed { group } => tracing::warn!(
                group = self.group_name(*group),
                missing = self.missing_voters(),
                "lease ran out: the gate is closed until a majority of the voters answers"
            ),
            Transition::Regained { group, closed } => tracing::warn!(
                group = self.group_name(*group),
                closed_us = closed.as_micros() as u64,
                "lease renewed: the gate is open again"
            ),
            Transition::NoPath { group, error } => {
                tracing::warn!(group = self.group_name(*group), error, "no path to the clients");
            }
            Transition::Path { group } => {
                tracing::info!(group = self.group_name(*group), "the path to the clients is back");
            }
            Transition::Isolated(true) => {
                tracing::warn!("nothing arrives on any interface: look at cables and switch ports");
            }
            Transition::Isolated(false) => tracing::info!("packets arrive again"),
            Transition::Aside(Aside::Nothing) => {
                tracing::info!("stands aside no more: this node takes groups again");
            }
            Transition::Aside(aside) => tracing::warn!(
                groups = %aside,
                "stands aside: this node does not take these groups, not even when their holder dies"
            ),
            Transition::Leaving => tracing::info!("leaving: handing over what is held"),
            Transition::LeftBehind { group, phase } => tracing::warn!(
                group = self.group_name(*group),
                %phase,
                "leaving without having handed the group over"
            ),
        }
    }

    /// Says that this machine, or a peer, stood still.
    pub(super) fn log_pause(&mut self, peer: NodeId, event: &maps::Event) {
        let (at, us) = (BootTime(event.at_ns), event.silence_ns / 1_000);
        let ours = event.cause != 0;
        let pauses =
            if ours { &mut self.pauses } else { self.peers_pauses.entry(peer).or_default() };
        // Of a peer only one machine speaks here.
        let by = if ours { peer } else { self.local.me.id };
        let news = pauses.note(by, at, us);
        let peer = self.node_name(peer);
        match (news, ours) {
            (News::First, false) => {
                tracing::warn!(peer, us, "the peer was paused: promises given here begin anew");
            }
            (News::First, true) => {
                tracing::warn!(
                    peer,
                    us,
                    "this node was paused, or the peer was: all promises begin anew"
                );
            }
            (News::Confirmed, _) => {
                tracing::info!(peer, us, "this node was paused: another machine says so too");
            }
            (News::Again, _) => {}
        }
    }

    /// Says why, with the names of nodes.
    pub(super) fn reason(&self, reason: &Reason) -> String {
        let name = |node: &NodeId| self.node_name(*node).to_owned();
        match reason {
            Reason::HolderDied { node, cause } => {
                format!("{} died: {}", name(node), cause.as_str())
            }
            Reason::HandedOver(node) => format!("{} handed it over", name(node)),
            Reason::Failback(node) => format!("failback to {}", name(node)),
            Reason::Moved(node) => format!("moved to {}", name(node)),
            Reason::ControllerDied(node) => format!("the controller of {} died", name(node)),
            Reason::Outranked(node) => format!("{} holds it, and is better placed", name(node)),
            other => other.to_string(),
        }
    }

    /// Remembers how long a peer had been silent when the kernel said so.
    pub(super) fn remember_silence(&mut self, peer: NodeId, silence_ns: u64) {
        self.memory.entry(peer).or_default().silence_us = silence_ns / 1000;
    }

    fn log_life(&mut self, peer: NodeId, from: Life, to: Life) {
        let now = clock::now();
        let leaving = self.is_leaving(peer);
        let name = self.node_name(peer).to_owned();
        let memory = self.memory.entry(peer).or_default();
        let before = memory.late_unsaid;
        let silence_us = memory.silence_us;
        if to == Life::Late || (to == Life::Alive && from == Life::Late) {
            if memory.late_said != BootTime::NEVER && now.since(memory.late_said) < LATE_EVERY {
                memory.late_unsaid += u32::from(to == Life::Late);
                return;
            }
        } else {
            memory.life_since = now;
        }
        match to {
            Life::Dead(cause) => {
                tracing::warn!(peer = name, cause = cause.as_str(), silence_us, "peer died");
            }
            // The silence after a farewell is no news.
            Life::Late if leaving => {}
            Life::Late => {
                memory.late_said = now;
                memory.late_unsaid = 0;
                tracing::warn!(peer = name, silence_us, before, "peer is late");
            }
            Life::Alive if from == Life::Late => {
                tracing::info!(peer = name, before, "peer is in time again");
            }
            Life::Alive => tracing::info!(peer = name, "peer is alive"),
            Life::Unheard => tracing::info!(peer = name, "peer not heard yet"),
        }
    }

    fn is_leaving(&self, peer: NodeId) -> bool {
        self.controller.core().view().peers.iter().any(|view| view.peer == peer && view.left)
    }

    /// Says which links of a living peer fell silent or were heard, once that is steady; called
    /// once a round.
    pub(super) fn log_links(&mut self, peer: NodeId, state: &Peer) {
        let alive = maps::Life::from_code(state.life) == maps::Life::Alive;
        let memory = self.memory.entry(peer).or_default();
        if !alive || memory.links_seen != state.links_up {
            memory.links_seen = state.links_up;
            memory.links_rounds = 0;
            return;
        }
        memory.links_rounds = memory.links_rounds.saturating_add(1);
        if memory.links_rounds < STEADY_ROUNDS || memory.links_said == state.links_up {
            return;
        }
        let before = std::mem::replace(&mut memory.links_said, state.links_up);
        let name = self.node_name(peer);
        for link in &self.local.links {
            let bit = 1 << link.id.0;
            let link = &link.name;
            let is_heard = state.links_up & bit != 0;
            match (before & bit != 0, is_heard) {
                (true, false) => {
                    tracing::warn!(peer = name, %link, "link is silent, the peer lives on another");
                }
                (false, true) => tracing::info!(peer = name, %link, "link is heard"),
                _ => continue,
            }
            self.notify_link(peer, link.as_str(), is_heard);
        }
    }

    /// Says that a peer refuses our frames, or no longer does.
    pub(super) fn log_refusal(&mut self, peer: NodeId, state: &Peer) {
        let memory = self.memory.entry(peer).or_default();
        let before = std::mem::replace(&mut memory.refuses_us, state.refused);
        if before == state.refused {
            return;
        }
        let name = self.node_name(peer);
        match Refusal::from_code(state.refused) {
            Some(refusal) => {
                let reason = refusal.as_str();
                tracing::warn!(peer = name, reason, "peer refuses our frames");
            }
            None => tracing::info!(peer = name, "peer takes our frames again"),
        }
    }

    /// Says which frames of a peer were refused since that was last said.
    pub(super) fn log_refused(&mut self, peer: NodeId, now: BootTime) {
        let said = self.memory.entry(peer).or_default().refused_said;
        if said != BootTime::NEVER && now.since(said) < REFUSED_EVERY {
            return;
        }
        for link in &self.local.links {
            let counters = match self.kernel.refused(Some((peer, link.id))) {
                Ok(counters) => counters,
                Err(error) => {
                    tracing::error!(error = describe(&error), "refused frames not counted");
                    continue;
                }
            };
            let memory = self.memory.entry(peer).or_default();
            let Some(before) = memory.refused.get_mut(link.id.0 as usize) else { continue };
            // What an earlier daemon saw was said by that one.
            let Some(before) = before.replace(counters) else { continue };
            let more: Vec<String> = Refusal::ALL
                .iter()
                .map(|refusal| (refusal, *refusal as usize))
                .filter(|(_, index)| counters[*index] > before[*index])
                .map(|(refusal, index)| {
                    format!("{} {}", refusal.as_str(), counters[index] - before[index])
                })
                .collect();
            if !more.is_empty() {
                memory.refused_said = now;
                let name = self.node_name(peer);
                let frames = more.join(", ");
                tracing::warn!(peer = name, link = %link.name, frames, "frames refused");
            }
        }
    }
}

pub(super) fn epoch_of(phase: &Phase) -> Option<Epoch> {
    match phase {
        Phase::Idle | Phase::Seeking | Phase::Clearing => None,
        Phase::Resuming { epoch }
        | Phase::Starting { epoch }
        | Phase::Serving { epoch }
        | Phase::Stopping { epoch }
        | Phase::Blocked { epoch }
        | Phase::Dropping { epoch }
        | Phase::Released { epoch, .. }
        | Phase::Yielding { epoch } => Some(*epoch),
    }
}
