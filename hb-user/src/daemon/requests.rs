//! What an operator asks of the daemon by its control socket.

use std::time::Duration;

use hb_ebpf::wire::{GROUPS, Health};

use tokio::sync::oneshot;

use super::{Daemon, report, resources::describe, survey::Host};
use crate::{
    config::Group,
    control::{Command, Reply, Request},
    core::{Aside, GroupView, Input, PeerFacts, Phase, choose::Standing},
    id::{GroupId, NodeId},
};

/// Done in words, or why not.
type Outcome = Result<String, String>;

impl Daemon {
    pub(super) fn on_request(&mut self, command: Command) {
        let Command { request, reply } = command;
        let outcome = match request {
            // These take a while, and answer by themselves.
            Request::Status => {
                return self.surveyor.begin_status(self.source.path.clone(), reply);
            }
            Request::Reload => return self.begin_reload(Some(reply)),
            Request::UseKey { id, force } => return self.use_key(id, force, reply),
            Request::KeepKey { id, force } => return self.keep_key(id, force, reply),
            Request::LoadKeys => {
                return self.surveyor.begin_keys(self.config.cluster.key_file.clone(), reply);
            }
            Request::Ping => {
                let version = report::VERSION.to_owned();
                return drop(reply.send(Reply::Pong { version }));
            }
            Request::Clear { group } => self.clear(&group),
            Request::Maintenance { on, group } => self.maintain(on, group.as_deref()),
            Request::RestartResources { group } => self.restart_resources(&group),
            Request::Move { group, node } => self.move_group(&group, &node),
            Request::Confirm if self.controller.is_learner() => return self.confirm_learner(reply),
            Request::Confirm => self.absolve(),
            Request::Standby { groups } => return self.stand_aside(groups.into(), reply),
            Request::Unstandby => return self.stand_aside(Aside::Nothing, reply),
            Request::Stop => {
                tracing::info!("asked to leave by the control socket");
                self.stop();
                Ok("leaving in order".to_owned())
            }
        };
        // Who asked may have gone.
        drop(reply.send(outcome.into()));
    }

    /// Answers who asked for a status, with what another thread saw of the host.
    pub(super) fn on_status(&mut self, host: Host, reply: oneshot::Sender<Reply>) {
        let answer = match self.report(host) {
            Ok(report) => Reply::Status { report: Box::new(report) },
            Err(error) => Reply::Error { message: describe(&error) },
        };
        // Who asked may have gone.
        drop(reply.send(answer));
    }

    fn clear(&mut self, name: &str) -> Outcome {
        let group = self.group_named(name)?.id;
        self.feed(Input::Clear { group });
        Ok(format!("{name} is cleared on this node"))
    }

    /// Begins or ends maintenance of a group, or of all.
    fn maintain(&mut self, on: bool, name: Option<&str>) -> Outcome {
        if on && self.controller.is_stopping() {
            return Err("this node is leaving, and gives everything up".to_owned());
        }
        let chosen: Vec<_> = match name {
            Some(name) => vec![self.group_named(name)?.id],
            None => self.groups(),
        };
        let mut groups = [false; GROUPS];
        for view in self.controller.core().view().groups {
            let wanted = if chosen.contains(&view.group) { on } else { view.maintenance };
            if let Some(slot) = groups.get_mut(usize::from(view.group.0)) {
                *slot = wanted;
            }
        }
        self.feed(Input::Maintenance(groups));
        let what = name.unwrap_or("every group");
        Ok(if on {
            format!(
                "{what} is in maintenance on this node: what is served here stays, whatever fails, and what is \
                 not is not taken, until `hb maintenance off` or the daemon ends"
            )
        } else {
            format!("{what} is not in maintenance on this node any more")
        })
    }

    /// Has the resources of a group that is served here started again.
    fn restart_resources(&mut self, name: &str) -> Outcome {
        let group = self.group_named(name)?;
        let id = group.id;
        if group.resources.is_empty() {
            return Err(format!("{name} has no resources"));
        }
        let view = self.held_here(name, id, &format!("hb resource restart {name}"))?;
        self.may_release(name, &view)?;
        tracing::info!(group = name, "asked to restart the resources of a group");
        self.feed(Input::Restart { group: id });
        Ok(format!("the resources of {name} are stopped and started again"))
    }

    /// Moves a group that is served here, or says who has to be asked, or what is in the way.
    fn move_group(&mut self, name: &str, to: &str) -> Outcome {
        let group = self.group_named(name)?;
        let (id, comes_back) =
            (group.id, group.auto_failback.filter(Duration::is_zero).map(|_| group.preferred));
        let Some(node) = self.config.node(to).map(|node| node.id) else {
            let nodes: Vec<_> = self.config.nodes.iter().map(|node| node.name.as_str()).collect();
            return Err(format!("there is no node {to:?}; nodes: {}", nodes.join(", ")));
        };
        let me = self.local.me.id;
        if self.view_of(name, id)?.holder == Some(node) {
            return Ok(format!("{to} holds {name} already"));
        }
        let view = self.held_here(name, id, &format!("hb move {name} {to}"))?;
        self.may_release(name, &view)?;
        self.may_receive(name, id, node)?;
        if comes_back == Some(me) {
            let me = self.node_name(me);
            return Err(format!(
                "{name} would come back at once: it prefers {me} and auto_failback is on; `hb stop` \
                 on {me} moves it for as long as {me} is stopped"
            ));
        }
        tracing::info!(group = name, to, "asked to move a group");
        self.feed(Input::Move { group: id, to: node });
        Ok(format!("moving {name} to {to}"))
    }

    fn view_of(&self, name: &str, id: GroupId) -> Result<GroupView, String> {
        let view = self.controller.core().view();
        let found = view.groups.into_iter().find(|view| view.group == id);
        found.ok_or_else(|| format!("{name} is not known to the core"))
    }

    /// Returns what is known of a group that this node holds, or says where to `ask`, or why nobody holds it.
    fn held_here(&self, name: &str, id: GroupId, ask: &str) -> Result<GroupView, String> {
        let view = self.view_of(name, id)?;
        match view.holder {
            Some(holder) if holder == self.local.me.id => Ok(view),
            Some(holder) => {
                let holder = self.node_name(holder);
                Err(format!("{holder} holds {name}: ask there, `{ask}` on {holder}"))
            }
            None => {
                let why = self.why(&view).unwrap_or_else(|| "nobody knows why".to_owned());
                Err(format!(
                    "nobody holds {name}, so nothing of it can be moved or restarted: {why}"
                ))
            }
        }
    }

    /// Tells whether this node, which holds the group, can give it up now.
    fn may_release(&self, name: &str, view: &GroupView) -> Result<(), String> {
        if self.controller.is_stopping() {
            return Err(format!("this node is leaving, and gives {name} up anyway"));
        }
        if view.maintenance {
            return Err(format!(
                "{name} is in maintenance on this node: `hb maintenance off {name}` first"
            ));
        }
        match view.phase {
            Phase::Serving { .. } => Ok(()),
            phase => Err(format!("{name} does not serve here yet, or no longer: {phase}")),
        }
    }

    /// Tells whether `node` could take the group now, as far as is known here.
    pub(super) fn may_receive(
        &self,
        name: &str,
        group: GroupId,
        node: NodeId,
    ) -> Result<(), String> {
        let to = self.node_name(node);
        let peer = self.shared.peer(node);
        let facts = peer.map(|peer| PeerFacts::of(&peer, &self.fingerprints)).unwrap_or_default();
        let standing = Standing::new(node, &facts, group);
        let matters = match (standing.health, &standing) {
            (_, Standing { alive: false, .. }) => {
                "is not up: it is not heard on any link".to_owned()
            }
            _ if facts.lacks_group(group) => {
                "has no group of that name with these addresses: its configuration is another one"
                    .to_owned()
            }
            (_, Standing { controller: false, .. }) => "answers, but its daemon is dead".to_owned(),
            (_, Standing { leaving: true, .. }) => "is leaving".to_owned(),
            (Health::Failed, _) => {
                format!("failed with {name}, and `hb status` there says how: mend that, then `hb clear {name}` on {to}")
            }
            (Health::NoPath, _) => {
                "has no path to the clients, or did not have one a moment ago: `hb status` there says why"
                    .to_owned()
            }
            (Health::Aside, _) => {
                format!(
                    "stands aside or has it in maintenance, as an operator wants it: `hb unstandby` or \
                     `hb maintenance off` on {to} ends that"
                )
            }
            (Health::Starting, _) => "is starting, and does not stand by yet".to_owned(),
            (Health::Stopping, _) => format!("is still stopping {name}"),
            (Health::Healthy | Health::Standby, _) => return Ok(()),
        };
        Err(format!("{to} cannot take {name}: it {matters}"))
    }

    /// The operator answers for what a learner cannot know. Who asked is told once it takes part.
    fn confirm_learner(&mut self, reply: oneshot::Sender<Reply>) {
        self.confirmations.push(reply);
        self.steer(|controller, hands| controller.confirm(hands));
    }

    /// The operator answers for it that the node that holds is off for good.
    fn absolve(&mut self) -> Outcome {
        let bound = self.controller.core().view().groups.into_iter().map(|view| view.group);
        let bound: Vec<_> = bound.filter(|group| self.is_vowed(*group)).collect();
        if bound.is_empty() {
            return Err("nothing to confirm: this node has its numbers, and is bound to no other \
                        without an end"
                .to_owned());
        }
        let mut freed = Vec::new();
        for group in bound {
            if !self.steer(|controller, hands| controller.absolve(hands, group)) {
                return Err(format!("{} could not be freed: see the log", self.group_name(group)));
            }
            freed.push(self.group_name(group).to_owned());
        }
        let freed = freed.join(", ");
        tracing::warn!(groups = freed, "an operator confirmed that the holder is off for good");
        Ok(format!("bound no longer: {freed}"))
    }

    fn is_vowed(&self, group: GroupId) -> bool {
        let record = self.shared.record(group);
        record.is_some_and(|record| crate::core::RecordFacts::from(&record).vowed)
    }

    fn group_named(&self, name: &str) -> Result<&Group, String> {
        let groups = &self.config.groups;
        groups.iter().find(|known| known.name.as_str() == name).ok_or_else(|| {
            let names: Vec<_> = groups.iter().map(|known| known.name.as_str()).collect();
            format!("no group {name:?} in this configuration; there are: {}", names.join(", "))
        })
    }
}
