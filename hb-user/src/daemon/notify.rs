//! What programs of `[[notify]]` are told of each change that the log tells people of.

use std::time::Duration;

use super::Daemon;
use crate::{
    clock,
    core::{Life, Transition},
    id::{GroupId, NodeId},
    notify::{Event, Kind, Notifiers},
};

/// How long a daemon that leaves waits for programs that are still to be told.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl Daemon {
    /// Tells the programs of a change.
    pub(super) fn notify(&self, transition: &Transition) {
        let group = |group: &GroupId, code, text: &str| self.of_group(*group, code, text);
        let peer = |peer: &NodeId, code, text: &str| self.of_peer(*peer, code, text);
        let event = match transition {
            Transition::Group { group, from, to, reason } => {
                let mut event = self.of_group(*group, "state", &self.reason(reason));
                let epoch = super::notice::epoch_of(to).or(super::notice::epoch_of(from));
                event.epoch = epoch.map(|epoch| epoch.0).or(event.epoch);
                (event.from, event.to) = (Some(from.to_string()), Some(to.to_string()));
                event.cause = Some(reason.code());
                event
            }
            Transition::Peer { peer: node, from, to } => match (from, to) {
                (_, Life::Dead(cause)) => {
                    let mut event = peer(node, "died", "died");
                    event.cause = Some(cause.as_str());
                    event
                }
                (Life::Unheard | Life::Dead(_), Life::Alive) => peer(node, "alive", "is alive"),
                // What is late a thousand times a second is for a log that counts.
                _ => return,
            },
            Transition::PeerLeaving { peer: node } => peer(node, "leaving", "is leaving in order"),
            Transition::PeerLeft { peer: node } => peer(node, "left", "left in order"),
            Transition::PeerRestarted { peer: node, .. } => {
                peer(node, "started", "its daemon started")
            }
            Transition::Controller { peer: node, dead: true } => {
                peer(node, "controller_died", "its daemon is dead, its kernel half answers")
            }
            Transition::Controller { peer: node, dead: false } => {
                peer(node, "controller_alive", "its daemon is alive")
            }
            Transition::Lacks { peer: node, groups } => {
                let names: Vec<_> = groups.iter().map(|group| self.group_name(*group)).collect();
                match names.is_empty() {
                    true => peer(node, "same_groups", "it has all groups of this node"),
                    false => peer(node, "other_groups", &names.join(", ")),
                }
            }
            Transition::Conflict { group: id, peer: node, won, .. } => {
                let text = if *won { "this node keeps it" } else { "this node gives it up" };
                Event {
                    peer: Some(self.node_name(*node).to_owned()),
                    ..group(id, "conflict", text)
                }
            }
            Transition::ConflictOver { group: id, peer: node } => Event {
                peer: Some(self.node_name(*node).to_owned()),
                ..group(id, "conflict_over", "the other node gave the group up")
            },
            Transition::Failed { group: id, error } => group(id, "failed", error),
            Transition::Blocked { group: id } => {
                group(id, "blocked", "a resource could not be stopped and may still run here")
            }
            Transition::Cleared { group: id } => group(id, "cleared", "failure cleared"),
            Transition::Forgotten { group: id, error, .. } => group(id, "forgotten", error),
            Transition::Maintenance { group: id, begins } => {
                let text = if *begins { "maintenance begins" } else { "maintenance is over" };
                group(id, if *begins { "maintenance" } else { "maintained" }, text)
            }
            Transition::Overlooked { group: id, error } => group(id, "overlooked", error),
            Transition::Restarts { group: id, error, .. } => group(id, "restarts", error),
            Transition::Unfit { group: id, error } => group(id, "unfit", error),
            Transition::Fit { group: id } => group(id, "fit", "all checks pass again"),
            Transition::NoPath { group: id, error } => group(id, "no_path", error),
            Transition::Path { group: id } => group(id, "path", "the path to the clients is back"),
            Transition::Lapsed { group: id } => group(id, "lapsed", &self.missing_voters()),
            Transition::Regained { group: id, .. } => {
                group(id, "regained", "the gate is open again")
            }
            Transition::NoMajority { group: id } => {
                group(id, "no_majority", &self.missing_voters())
            }
            Transition::PassedOver { group: id, node } => Event {
                peer: Some(self.node_name(*node).to_owned()),
                ..group(id, "passed_over", "it did not take the group in its turn")
            },
            Transition::Fencing { group: id, node } => Event {
                peer: Some(self.node_name(*node).to_owned()),
                ..group(
                    id,
                    "fencing",
                    "the other node is silent or hears nothing, and is to be fenced",
                )
            },
            Transition::Joined => {
                self.event(Kind::Node, "joined", "every peer was heard or declared dead")
            }
            Transition::Isolated(true) => {
                self.event(Kind::Node, "isolated", "nothing arrives on any interface")
            }
            Transition::Isolated(false) => self.event(Kind::Node, "heard", "packets arrive again"),
            Transition::Aside(aside) => {
                self.event(Kind::Node, "aside", &format!("it stands aside of {aside}"))
            }
            Transition::Leaving => self.event(Kind::Node, "leaving", "handing over what is held"),
            Transition::LeftBehind { group: id, phase } => {
                group(id, "left_behind", &phase.to_string())
            }
            Transition::Stays { group: id } => {
                group(id, "stays", "a resource could not be stopped, so this node does not leave")
            }
        };
        self.notifiers.tell(&event);
    }

    /// Tells the programs that a link fell silent while the peer lives on another, or is heard again.
    pub(super) fn notify_link(&self, peer: NodeId, link: &str, is_heard: bool) {
        let (code, text) = match is_heard {
            true => ("heard", "link is heard"),
            false => ("silent", "link is silent, the peer lives on another"),
        };
        let peer = Some(self.node_name(peer).to_owned());
        let link = Some(link.to_owned());
        self.notifiers.tell(&Event { peer, link, ..self.event(Kind::Link, code, text) });
    }

    /// Calls the programs of the configuration from now on. Those of an earlier one are told what waits.
    pub(super) fn notify_others(&mut self) {
        let background = self.surveyor.background();
        let new = Notifiers::start(&self.config.notifies, background);
        background.spawn(std::mem::replace(&mut self.notifiers, new).finish(LAST_WORDS));
    }

    /// Waits a moment for programs that are still to be told.
    pub(super) async fn last_words(&mut self) {
        std::mem::take(&mut self.notifiers).finish(LAST_WORDS).await;
    }

    fn of_group(&self, group: GroupId, code: &'static str, text: &str) -> Event {
        let known = self.config.group(group);
        Event {
            group: Some(self.group_name(group).to_owned()),
            epoch: Some(self.held_epoch(group).0),
            preferred: known.is_some_and(|group| group.preferred == self.local.me.id),
            ..self.event(Kind::Group, code, text)
        }
    }

    fn of_peer(&self, peer: NodeId, code: &'static str, text: &str) -> Event {
        Event { peer: Some(self.node_name(peer).to_owned()), ..self.event(Kind::Peer, code, text) }
    }

    fn event(&self, event: Kind, code: &'static str, text: &str) -> Event {
        Event {
            event,
            code,
            text: text.to_owned(),
            cluster: self.config.cluster.name.to_string(),
            node: self.local.me.name.to_string(),
            group: None,
            epoch: None,
            from: None,
            to: None,
            cause: None,
            peer: None,
            link: None,
            boot_ns: clock::now().ns(),
            unix_ms: clock::unix_ms(),
            lost: 0,
            preferred: false,
        }
    }
}
