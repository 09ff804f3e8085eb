//! Other keys while heartbeats go on: take a second one, send with it, drop the first.
//!
//! Each step is refused while it would cost a heartbeat. A key is sent with only after every other
//! node has answered a probe under it; the probes under the key in use go on meanwhile, so a node
//! that does not know the new one misses nothing. A key is dropped only after no node has sent with
//! it for a while.

use std::{collections::BTreeMap, time::Duration};

use hb_ebpf::{maps::PeerKeys, time::BootTime};
use tokio::sync::oneshot;

use super::{Daemon, resources::describe};
use crate::{
    clock,
    control::Reply,
    fast,
    id::{LinkId, NodeId},
    key::{
        ClusterKeys, KeyError, peer_keys,
        rotate::{arrange, slot_of},
    },
    status::KeysReport,
};

/// How long answers under a new key are waited for, and how long nothing may come under an old one;
/// longer where the interval is.
const WATCH_FOR: Duration = Duration::from_millis(300);
/// At most: whoever asked waits for the reply.
const WATCH_MOST: Duration = Duration::from_secs(4);

/// The keys of a running node.
pub(super) struct Keys {
    /// Those shared with each other machine, as the kernel half has them.
    live: BTreeMap<NodeId, PeerKeys>,
    /// The id of the one that is sent with.
    sending: u8,
    step: Option<Step>,
}

/// A step under way.
struct Step {
    kind: Kind,
    /// The key that is to be used, or to be kept.
    id: u8,
    force: bool,
    until: BootTime,
    reply: oneshot::Sender<Reply>,
}

enum Kind {
    /// The machines that have not answered under the key, with the changes of key in their answers
    /// on each link when this began.
    Use(BTreeMap<NodeId, Vec<(LinkId, u32)>>),
    Keep,
}

impl Keys {
    /// The keys of a node that starts; it sends with the first.
    pub(super) fn new(keys: &ClusterKeys, live: BTreeMap<NodeId, PeerKeys>) -> Self {
        Self { live, sending: keys.ids().first().copied().unwrap_or(0), step: None }
    }

    /// What a status says of them.
    pub(super) fn report(&self) -> KeysReport {
        KeysReport { accepted: self.ids(), sends_with: self.sending }
    }

    fn ids(&self) -> Vec<u8> {
        let first = self.live.values().next();
        first.into_iter().flat_map(|keys| keys.ids).filter(|id| *id != 0).collect()
    }
}

impl Daemon {
    /// Takes the keys of the file, as another thread read it, beside those in use.
    pub(super) fn take_keys(
        &mut self,
        read: Result<ClusterKeys, KeyError>,
    ) -> Result<String, String> {
        let path = &self.config.cluster.key_file;
        let read = read.map_err(|error| describe(&error))?;
        let cluster = self.config.cluster_id();
        let mut wanted = BTreeMap::new();
        for (peer, live) in &self.keys.live {
            let found = peer_keys(&read, cluster, self.local.me.id, *peer);
            for (slot, id) in live.ids.iter().enumerate().filter(|(_, id)| **id != 0) {
                match slot_of(&found, *id) {
                    None => {
                        return Err(format!(
                            "key {id} is in use and not in {}; take it into the file, and drop it \
                             with `hb key rotate --step drop`",
                            path.display()
                        ));
                    }
                    Some(other) if found.receive[other] != live.receive[slot] => {
                        return Err(format!(
                            "key {id} in {} is not the one of that id in use; copy the file again, \
                             or give the new key an id of its own",
                            path.display()
                        ));
                    }
                    Some(_) => {}
                }
            }
            wanted.insert(*peer, arrange(live, &found));
        }
        self.set_keys(wanted)?;
        let ids = self.keys.ids();
        tracing::info!(?ids, sending = self.keys.sending, "keys loaded");
        let ids = ids.iter().map(u8::to_string).collect::<Vec<_>>().join(" and ");
        Ok(format!("takes key {ids}, sends with {}", self.keys.sending))
    }

    /// Writes the keys for the kernel half to take, and for the fast path to send with.
    fn set_keys(&mut self, keys: BTreeMap<NodeId, PeerKeys>) -> Result<(), String> {
        for (peer, keys) in keys {
            self.kernel.set_keys(peer, &keys).map_err(|error| describe(&error))?;
            self.keys.live.insert(peer, keys);
        }
        self.send_with(false);
        Ok(())
    }

    /// Tells the fast path which keys to send with, and whether to try the other one.
    fn send_with(&self, trial: bool) {
        for (peer, keys) in &self.keys.live {
            let slot = slot_of(keys, self.keys.sending).unwrap_or(0);
            self.command(fast::Command::Keys { peer: *peer, keys: *keys, slot, trial });
        }
    }

    /// Begins to find out whether all know key `id`, to send with it then.
    pub(super) fn use_key(&mut self, id: u8, force: bool, reply: oneshot::Sender<Reply>) {
        let refusal = if id == self.keys.sending {
            Some(Reply::Done { message: format!("sends with key {id} already") })
        } else if !self.keys.ids().contains(&id) {
            let message = format!(
                "key {id} is not known to this daemon; run `hb key rotate --step accept` first"
            );
            Some(Reply::Error { message })
        } else {
            self.not_all_heard(force, "whether it knows the key")
        };
        if let Some(refusal) = refusal.or_else(|| self.busy()) {
            drop(reply.send(refusal));
            return;
        }
        let waiting = self.keys.live.keys().copied().filter(|peer| self.is_heard(*peer));
        let waiting = waiting.map(|peer| (peer, self.changes(peer))).collect();
        self.begin(Kind::Use(waiting), id, force, reply);
        self.send_with(true);
    }

    /// Begins to watch whether anybody sends with another key than `id`, to drop that then.
    pub(super) fn keep_key(&mut self, id: u8, force: bool, reply: oneshot::Sender<Reply>) {
        let refusal = if self.keys.ids() == [id] {
            Some(Reply::Done { message: format!("takes no key but {id} already") })
        } else if id != self.keys.sending {
            let message = format!(
                "this node sends with key {}; run `hb key rotate --step use` first",
                self.keys.sending
            );
            Some(Reply::Error { message })
        } else {
            self.not_all_heard(force, "which key it sends with")
        };
        if let Some(refusal) = refusal.or_else(|| self.busy()) {
            drop(reply.send(refusal));
            return;
        }
        self.begin(Kind::Keep, id, force, reply);
    }

    fn begin(&mut self, kind: Kind, id: u8, force: bool, reply: oneshot::Sender<Reply>) {
        let watch = (self.config.timers.interval() * 4).clamp(WATCH_FOR, WATCH_MOST);
        let until = clock::now().after(watch);
        self.keys.step = Some(Step { kind, id, force, until, reply });
    }

    fn busy(&self) -> Option<Reply> {
        let message = "another step is under way; try again in some seconds".to_owned();
        self.keys.step.is_some().then_some(Reply::Error { message })
    }

    /// Refuses if there is a machine that cannot show something.
    fn not_all_heard(&self, force: bool, what: &str) -> Option<Reply> {
        let silent = self.keys.live.keys().find(|peer| !self.is_heard(**peer));
        let silent = silent.filter(|_| !force)?;
        let message = format!(
            "{} is not heard, so {what} is not known; bring it back, or give --force and copy the \
             key file to it before it starts again",
            self.machine(*silent)
        );
        Some(Reply::Error { message })
    }

    fn is_heard(&self, peer: NodeId) -> bool {
        self.maps().peer(peer).is_some_and(|state| state.links_up != 0)
    }

    fn machine(&self, id: NodeId) -> String {
        let node = self.local.peers.iter().find(|node| node.id == id).map(|node| &node.name);
        let witness = self.local.witness.iter().find(|witness| witness.id == id);
        match node.or(witness.map(|witness| &witness.name)) {
            Some(name) => format!("node {name}"),
            None => id.to_string(),
        }
    }

    /// Returns how often the key changed in the answers of a machine, by link.
    fn changes(&self, peer: NodeId) -> Vec<(LinkId, u32)> {
        let links = self.local.links.iter().filter_map(|link| {
            let (_, state) = self.maps().link(peer, link.id)?;
            Some((link.id, state.answer_key_changes))
        });
        links.collect()
    }

    /// Goes on with the step under way; called at every tick.
    pub(super) fn go_on_with_keys(&mut self) {
        let Some(step) = self.keys.step.take() else { return };
        let now = clock::now();
        let Step { kind, id, force, until, reply } = step;
        let (kind, verdict) = match kind {
            Kind::Use(mut waiting) => {
                waiting.retain(|peer, before| self.changes(*peer) == *before);
                let verdict = match waiting.keys().next() {
                    None => Some(Ok(())),
                    Some(_) if now < until => None,
                    Some(peer) => Some(Err(format!(
                        "{} did not answer under key {id}; copy the key file there and run `hb key \
                         rotate --step accept`",
                        self.machine(*peer)
                    ))),
                };
                (Kind::Use(waiting), verdict)
            }
            Kind::Keep => {
                let verdict = match self.still_sends(id) {
                    Some(peer) => Some(Err(format!(
                        "{} still sends with another key than {id}; run `hb key rotate --step use` \
                         there",
                        self.machine(peer)
                    ))),
                    None => (now >= until).then_some(Ok(())),
                };
                (Kind::Keep, verdict)
            }
        };
        let Some(verdict) = verdict else {
            self.keys.step = Some(Step { kind, id, force, until, reply });
            return;
        };
        let answer = match (verdict, kind) {
            (Err(message), kind) => {
                if let Kind::Use(_) = kind {
                    self.send_with(false);
                }
                tracing::info!(key = id, message, "keys stay as they are");
                Reply::Error { message }
            }
            (Ok(()), Kind::Use(_)) => {
                self.keys.sending = id;
                self.send_with(false);
                tracing::info!(key = id, "sends with another key");
                Reply::Done { message: format!("sends with key {id}") }
            }
            (Ok(()), Kind::Keep) => self.keep(id),
        };
        // Who asked may have gone.
        drop(reply.send(answer));
    }

    /// Returns a machine whose newest probe on a link that is up was under another key than `id`.
    fn still_sends(&self, id: u8) -> Option<NodeId> {
        self.keys.live.keys().copied().find(|peer| {
            let Some(state) = self.maps().peer(*peer) else { return false };
            self.local.links.iter().any(|link| {
                let up = state.links_up & (1 << (link.id.0 & 7)) != 0;
                let key = self.maps().link(*peer, link.id).map_or(0, |(_, link)| link.probe_key);
                // A witness never probes.
                up && key != 0 && key != id
            })
        })
    }

    fn keep(&mut self, id: u8) -> Reply {
        let only = |live: &PeerKeys| {
            let mut kept = PeerKeys::default();
            if let Some(slot) = slot_of(live, id) {
                kept.ids[slot] = id;
                kept.receive[slot] = live.receive[slot];
                kept.transmit[slot] = live.transmit[slot];
            }
            kept
        };
        let kept = self.keys.live.iter().map(|(peer, live)| (*peer, only(live))).collect();
        if let Err(message) = self.set_keys(kept) {
            return Reply::Error { message };
        }
        tracing::info!(key = id, "takes no other key any more");
        Reply::Done { message: format!("takes no key but {id} any more") }
    }
}
