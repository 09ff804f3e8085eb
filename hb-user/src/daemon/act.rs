//! Carrying out what the core wants.

use std::time::Duration;

use hb_ebpf::{time::BootTime, wire::GROUPS};

use super::{Daemon, LocalVip};
use crate::{
    address::{AddressSocket, Batch, Change, Done},
    clock,
    core::{Action, Input, Life, Phase, Takeover, Transition},
    fast::Command,
    id::{GroupId, NodeId},
    resource::Order,
};

impl Daemon {
    /// Tells the core what is new, one input at a time, and carries out everything it has in mind
    /// before the next. Returns whether the daemon shall exit.
    pub(super) fn act(&mut self) -> bool {
        loop {
            if self.carry_out() {
                return true;
            }
            let Some(input) = self.inputs.pop_front() else { return false };
            self.core.handle(input, clock::now());
        }
    }

    fn carry_out(&mut self) -> bool {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Publish { words, leaving } => {
                    self.command(Command::Publish { words, leaving });
                }
                Action::Arm { peer, takeovers } => {
                    let mut armed = [None; GROUPS];
                    for (slot, Takeover { group, epoch }) in armed.iter_mut().zip(takeovers) {
                        *slot = Some((group, epoch));
                    }
                    self.command(Command::Arm { peer, takeovers: armed });
                }
                Action::Take { group, epoch, .. } => self.command(Command::Take { group, epoch }),
                Action::Announce { group } => self.command(Command::Announce { group }),
                Action::Drop { group, .. } => self.command(Command::Drop { group }),
                Action::StartResources { group, epoch, reason } => {
                    let resuming = self
                        .resuming
                        .get_mut(group.0 as usize)
                        .is_some_and(|resuming| std::mem::replace(resuming, false));
                    match self.workers.get(group.0 as usize) {
                        Some(Some(worker)) => {
                            self.resource_states.insert(group, "starting");
                            worker.start(Order { epoch, reason: reason.to_string() }, resuming);
                        }
                        _ => self.feed(Input::ResourcesStarted { group, epoch, result: Ok(()) }),
                    }
                }
                Action::StopResources { group, reason } => {
                    let epoch = self.held_epoch(group);
                    match self.workers.get(group.0 as usize) {
                        Some(Some(worker)) => {
                            self.resource_states.insert(group, "stopping");
                            worker.stop(Order { epoch, reason: reason.to_string() });
                        }
                        _ => self.feed(Input::ResourcesStopped { group, result: Ok(()) }),
                    }
                }
                Action::Log(transition) => self.log(&transition),
                Action::Exit => return true,
            }
        }
        false
    }

    fn held_epoch(&self, group: GroupId) -> hb_ebpf::epoch::Epoch {
        let view = self.core.view();
        view.groups
            .iter()
            .find(|view| view.group == group)
            .map_or_else(Default::default, |view| view.epoch)
    }

    /// Puts an input in the queue that [`act`](Self::act) empties.
    pub(super) fn feed(&mut self, input: Input) {
        self.inputs.push_back(input);
    }

    fn command(&self, command: Command) {
        if !self.fast.command(command) {
            // It does not go round any more: neither does the controller's stamp.
            tracing::error!(?command, "the fast path takes no commands: restart hb on this node");
        }
    }

    pub(super) fn node_name(&self, node: NodeId) -> &str {
        let named = self.config.nodes.iter().find(|known| known.id == node);
        named.map_or("unknown node", |known| known.name.as_str())
    }

    pub(super) fn group_name(&self, group: GroupId) -> &str {
        let named = self.config.groups.get(group.0 as usize);
        named.map_or("unknown group", |known| known.name.as_str())
    }

    /// One line for each change of state.
    fn log(&mut self, transition: &Transition) {
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
            Transition::Joined => tracing::info!("joined: every peer was heard or declared dead"),
            Transition::Group { group, from, to, reason } => {
                let group = self.group_name(*group);
                let epoch = epoch_of(to).or(epoch_of(from)).unwrap_or_default().0;
                tracing::info!(group, %from, %to, epoch, cause = %reason, "group");
            }
            Transition::Conflict { group, peer, theirs, ours, won } => tracing::warn!(
                group = self.group_name(*group),
                peer = self.node_name(*peer),
                theirs = theirs.0,
                ours = ours.0,
                won,
                "two nodes hold the group: the higher epoch keeps it"
            ),
            Transition::ConflictOver { group, peer } => tracing::info!(
                group = self.group_name(*group),
                peer = self.node_name(*peer),
                "the other node gave the group up"
            ),
            Transition::Failed { group, error } => {
                tracing::error!(group = self.group_name(*group), error, "failed");
            }
            Transition::Cleared { group } => {
                tracing::info!(group = self.group_name(*group), "failure cleared");
            }
            Transition::PassedOver { group, node } => tracing::warn!(
                group = self.group_name(*group),
                node = self.node_name(*node),
                "did not take the group in its turn: passed over"
            ),
            Transition::Leaving => tracing::info!("leaving: handing over what is held"),
            Transition::LeftBehind { group, phase } => tracing::warn!(
                group = self.group_name(*group),
                %phase,
                "leaving without having handed the group over"
            ),
        }
    }

    /// Says that a peer is late, or in time again, unless it was said a moment ago.
    fn log_lateness(&mut self, peer: NodeId, to: Life) {
        let now = clock::now();
        let (said, unsaid) = self.lateness.get(&peer).copied().unwrap_or_default();
        if now.since(said) < LATE_EVERY && said != BootTime::NEVER {
            let more = u32::from(to == Life::Late);
            self.lateness.insert(peer, (said, unsaid.saturating_add(more)));
            return;
        }
        let name = self.node_name(peer);
        if to == Life::Late {
            let silence_us = self.silence_us(peer);
            tracing::warn!(peer = name, silence_us, before = unsaid, "peer is late");
            self.lateness.insert(peer, (now, 0));
        } else {
            tracing::info!(peer = name, before = unsaid, "peer is in time again");
        }
    }

    /// Returns how long a peer has been silent, in microseconds; 0 if it was never heard.
    fn silence_us(&self, peer: NodeId) -> u64 {
        let last = self.maps().peer(peer).map_or(0, |peer| peer.last_arrival_ns);
        if last == 0 { 0 } else { clock::now().since(BootTime(last)).as_micros() as u64 }
    }

    fn log_life(&mut self, peer: NodeId, from: Life, to: Life) {
        if to == Life::Late || (to == Life::Alive && from == Life::Late) {
            self.log_lateness(peer, to);
            return;
        }
        let name = self.node_name(peer);
        match to {
            Life::Dead(cause) => {
                tracing::warn!(
                    peer = name,
                    cause = cause.as_str(),
                    silence_us = self.silence_us(peer),
                    "peer died"
                );
            }
            Life::Late => {}
            Life::Alive => tracing::info!(peer = name, "peer is alive"),
            Life::Unheard => tracing::info!(peer = name, "peer not heard yet"),
        }
    }
}

/// Lateness is said at most this often: a peer at the edge is late many times a second, and a log
/// that is written all the time makes this node late itself.
const LATE_EVERY: Duration = Duration::from_secs(1);

fn epoch_of(phase: &Phase) -> Option<hb_ebpf::epoch::Epoch> {
    match phase {
        Phase::Idle | Phase::Clearing => None,
        Phase::Resuming { epoch }
        | Phase::Taking { epoch }
        | Phase::Starting { epoch }
        | Phase::Serving { epoch }
        | Phase::Stopping { epoch }
        | Phase::Dropping { epoch }
        | Phase::Released { epoch, .. }
        | Phase::Yielding { epoch } => Some(*epoch),
    }
}

/// Removes service addresses, and says of each what could not be done.
pub(super) fn remove_addresses(socket: &mut AddressSocket, vips: &[Vec<LocalVip>]) {
    for local in vips.iter().flatten() {
        let mut batch = Batch::new();
        let mut result = [Ok(Done::Missing)];
        let removed = batch
            .push(Change::Remove, local.vip)
            .map_err(|error| error.to_string())
            .and_then(|()| socket.execute(&batch, &mut result).map_err(|error| error.to_string()))
            .and_then(|()| result[0].map_err(|error| error.to_string()));
        if let Err(error) = removed {
            tracing::error!(vip = %local.vip, error, "address stays behind");
        }
    }
}
