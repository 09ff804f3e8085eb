//! A node that stands aside: `hb standby`, `hb unstandby`.

use hb_ebpf::wire::{Health, State};
use tokio::sync::oneshot;

use super::{Daemon, disk};
use crate::{
    clock,
    control::Reply,
    core::{Aside, PeerFacts},
    id::{GroupId, NodeId},
};

impl Daemon {
    /// Stands aside of these groups from when that is stored, and answers then; or says what is in the way.
    pub(super) fn stand_aside(&mut self, aside: Aside, reply: oneshot::Sender<Reply>) {
        if let Err(message) = self.may_stand_aside(aside) {
            // Who asked may have gone.
            return drop(reply.send(Reply::Error { message }));
        }
        let message = match aside {
            Aside::Nothing => "this node takes every group again".to_owned(),
            aside => format!(
                "this node stands aside of {aside}: it takes none of them, not even when their holder dies, \
                 until `hb unstandby` on it"
            ),
        };
        tracing::info!(groups = %aside, "asked to stand aside of groups");
        self.asides.push((message, reply));
        self.steer(|controller, hands| controller.stand_aside(hands, aside));
        // It may be stored already.
        self.answer_asides();
    }

    /// Tells whether the disk works, and whether somebody could take what this node would hand over.
    fn may_stand_aside(&self, aside: Aside) -> Result<(), String> {
        if let Some(trouble) = self.controller.storage().trouble(clock::now()) {
            let trouble = disk::warning(&trouble);
            return Err(format!("not stored, so not done: {trouble}"));
        }
        if self.controller.is_stopping() {
            return Err("this node is leaving, and gives everything up anyway".to_owned());
        }
        let me = self.local.me.id;
        let covered = self.config.groups.iter();
        let covered = covered.filter(|group| aside.covers(group.preferred == me));
        let view = self.controller.core().view();
        for group in covered {
            let here = view.groups.iter().find(|here| here.group == group.id);
            let serves = |state| matches!(state, State::Holding | State::Seeking);
            if here.is_some_and(|here| serves(here.state)) {
                if here.is_some_and(|here| here.maintenance) {
                    return Err(format!(
                        "{name} is in maintenance on this node, and stays: `hb maintenance off {name}` first",
                        name = group.name.as_str()
                    ));
                }
                self.somebody_may_receive(group.name.as_str(), group.id)?;
            }
        }
        Ok(())
    }

    /// Tells whether any other node could take the group now, as far as is known here.
    fn somebody_may_receive(&self, name: &str, group: GroupId) -> Result<(), String> {
        let may = |peer: NodeId| self.may_receive(name, group, peer);
        let refusals: Vec<_> = self.peers().into_iter().map(may).collect();
        if refusals.iter().any(Result::is_ok) {
            return Ok(());
        }
        let why: Vec<_> = refusals.into_iter().filter_map(Result::err).collect();
        Err(format!(
            "nobody would serve {name}: {}; `hb stop` gives it up all the same",
            why.join("; ")
        ))
    }

    /// Says who stands aside: the next fault may be an outage.
    pub(super) fn warn_of_asides(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let own = self.controller.core().view().aside;
        if own != Aside::Nothing {
            warnings.push(format!(
                "this node stands aside of {own} and takes none of them, not even when their holder dies: \
                 `hb unstandby` ends that"
            ));
        }
        for peer in self.peers() {
            let Some(state) = self.shared.peer(peer) else { continue };
            let facts = PeerFacts::of(&state, &self.fingerprints);
            let is_aside = |group: &GroupId| {
                let word = facts.words.get(usize::from(group.0));
                facts.life.is_alive() && word.is_some_and(|word| word.health() == Health::Aside)
            };
            let groups = self.groups().into_iter().filter(is_aside);
            let names: Vec<_> = groups.map(|group| self.group_name(group).to_owned()).collect();
            if !names.is_empty() {
                let (peer, names) = (self.node_name(peer), names.join(", "));
                warnings.push(format!(
                    "{peer} stands aside of {names}, and does not take it if this node dies: \
                     `hb unstandby` on {peer} ends that"
                ));
            }
        }
        warnings
    }

    /// Says what is in maintenance: nobody does anything about the next failure.
    pub(super) fn warn_of_maintenance(&self) -> Option<String> {
        let view = self.controller.core().view();
        let (mut names, mut failed) = (Vec::new(), Vec::new());
        for group in view.groups.into_iter().filter(|group| group.maintenance) {
            let name = self.group_name(group.group);
            names.push(name);
            failed.extend(group.overlooked.map(|error| format!("; {name} failed: {error}")));
        }
        (!names.is_empty()).then(|| {
            format!(
                "in maintenance on this node: {}; nothing is done about what fails, and it is not taken: \
                 `hb maintenance off` ends that{}",
                names.join(", "),
                failed.concat()
            )
        })
    }

    /// Tells operators that it is stored of which groups this node stands aside, once that is so.
    pub(super) fn answer_asides(&mut self) {
        if self.controller.storage().aside().is_none() {
            return;
        }
        for (message, reply) in self.asides.drain(..) {
            // Who asked may have gone.
            drop(reply.send(Reply::Done { message }));
        }
    }
}
