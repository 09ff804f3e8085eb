//! The configuration read again while the node runs: all that changed in it is taken, or nothing.

use std::{io, path::PathBuf};

use tokio::sync::oneshot;

use super::{
    Daemon,
    prepare::{self, PrepareError, Prepared},
    resources::{describe, rule},
    setup::{links_beside, resource_bounds},
    survey::Found,
};
use crate::{
    config::{Config, ConfigErrors, Difference, Policy, Way},
    control::Reply,
    core::Input,
    id::GroupId,
    logging::Levels,
};

/// Where the configuration comes from, and who this node is in it.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// The file, absolute.
    pub(super) path: PathBuf,
    node: String,
    levels: Levels,
}

impl Source {
    /// Of a node that starts, whose log has `levels`.
    ///
    /// # Errors
    ///
    /// The working directory cannot be told.
    pub(super) fn new(prepared: &Prepared, levels: Levels) -> io::Result<Self> {
        let path = std::path::absolute(prepared.config.path())?;
        Ok(Self { path, node: prepared.local.me.name.to_string(), levels })
    }

    /// Reads the file, and checks it against this host as a start would.
    fn read(&self) -> Result<Box<Prepared>, PrepareError> {
        prepare::prepare(&self.path, Some(&self.node)).map(Box::new)
    }
}

impl Daemon {
    /// Has another thread read the configuration, for who asked by the control socket or by SIGHUP.
    pub(super) fn begin_reload(&self, reply: Option<oneshot::Sender<Reply>>) {
        let source = self.source.clone();
        self.surveyor.begin_blocking(move || Found::Reread(source.read(), reply));
    }

    /// Takes what was read, if all of it can be taken.
    pub(super) fn on_reread(
        &mut self,
        read: Result<Box<Prepared>, PrepareError>,
        mut reply: Option<oneshot::Sender<Reply>>,
    ) {
        let outcome = read
            .map_err(|error| describe(&error).replace('\n', "; "))
            .and_then(|prepared| self.take(*prepared, &mut reply))
            .map_err(|error| format!("nothing was changed: {error}"));
        self.end_reload(outcome, reply);
    }

    /// Says what came of a reload; nothing yet if it needs a while. An error says what was changed all the same.
    pub(super) fn end_reload(
        &self,
        outcome: Result<Option<String>, String>,
        reply: Option<oneshot::Sender<Reply>>,
    ) {
        let path = self.source.path.display().to_string();
        match &outcome {
            Ok(Some(outcome)) => tracing::info!(path, outcome, "configuration read again"),
            Ok(None) => return,
            Err(error) => {
                tracing::error!(path, error, "configuration not taken");
            }
        }
        if let Some(reply) = reply {
            let outcome = outcome.map(Option::unwrap_or_default);
            // Who asked may have gone.
            drop(reply.send(outcome.into()));
        }
    }

    /// Takes all of it, and returns what that is; `None` where that needs a while, after which who asked is
    /// answered.
    fn take(
        &mut self,
        prepared: Prepared,
        reply: &mut Option<oneshot::Sender<Reply>>,
    ) -> Result<Option<String>, String> {
        let new = &prepared.config;
        let found = self.config.differences(new);
        if self.has_begun_to_regroup() || self.is_relinking() {
            return Err("an earlier reload is still under way: see `hb status`".to_owned());
        }
        if found.is_empty() {
            self.regroup_no_more();
            return Ok(Some("nothing in the file differs from what runs".to_owned()));
        }
        if self.controller.is_stopping() {
            return Err("this node is leaving".to_owned());
        }
        let (restart, taken): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|found| found.way == Way::Restart);
        if !restart.is_empty() {
            let others = if taken.is_empty() {
                String::new()
            } else {
                format!("; it takes {} as well then", listed(&taken))
            };
            return Err(format!("restart hb on this node to apply: {}{others}", listed(&restart)));
        }
        let timers = self.timers_in_force();
        if timers.is_none() && taken.iter().any(|found| found.way == Way::Agreed) {
            return Err("timers are being changed: reload again in a few seconds".to_owned());
        }
        let me = self.local.me.id;
        if new.cluster.policy != Policy::Available && self.config.terms(me) != new.terms(me) {
            return Err("restart hb on this node to apply: what promises bind changes".to_owned());
        }
        // The only step that can fail comes first.
        self.source.levels.set(new.log.level.as_str()).map_err(|error| describe(&error))?;
        let keys = listed(&taken);
        if taken.iter().any(|found| found.way == Way::Link) {
            let begun = self.begin_relink(prepared, keys, reply).map(|()| None);
            if begun.is_err() {
                self.restore_level();
            }
            return begun;
        }
        self.take_on(prepared, keys, reply)
    }

    /// Takes a configuration with the links that this node has.
    pub(super) fn take_on(
        &mut self,
        prepared: Prepared,
        keys: String,
        reply: &mut Option<oneshot::Sender<Reply>>,
    ) -> Result<Option<String>, String> {
        let found = self.config.differences(&prepared.config);
        if found.iter().any(|found| found.way == Way::Group) {
            let begun = self.begin_regroup(prepared, keys, reply).map(|()| None);
            if begun.is_err() {
                self.restore_level();
            }
            return begun;
        }
        self.regroup_no_more();
        let timers = self.timers_in_force();
        self.adopt(&prepared.config);
        if let Some(old) = timers {
            self.retime(old);
        }
        Ok(Some(self.taken(&keys)))
    }

    /// Has the log go by the level of the configuration in use again.
    pub(super) fn restore_level(&self) {
        if let Err(error) = self.source.levels.set(self.config.log.level.as_str()) {
            tracing::error!(
                error = describe(&error),
                "the log keeps the level of a file not taken"
            );
        }
    }

    /// Returns what to say of `keys` that were taken.
    pub(super) fn taken(&self, keys: &str) -> String {
        let later = if self.retiming.is_some() {
            "; timers are changed once every node goes by this file"
        } else {
            ""
        };
        format!("taken: {keys}{later}")
    }

    /// Goes by another configuration of the same groups.
    fn adopt(&mut self, new: &Config) {
        let wishes = |config: &Config| {
            let groups = config.groups.iter();
            groups.map(|group| (group.preferred, group.auto_failback)).collect::<Vec<_>>()
        };
        let before = wishes(&self.config);
        let asks_others = self.config.pings != new.pings;
        let tells_others = self.config.notifies != new.notifies;
        self.config.adopt(new);
        if tells_others {
            self.notify_others();
        }
        if asks_others {
            self.ask_pings();
        }
        let changed = before.iter().zip(wishes(&self.config)).map(|(old, new)| *old != new);
        let changed: Vec<_> = changed.zip(&self.config.groups).collect();
        self.unsettled.extend(changed.iter().filter(|(did, _)| *did).map(|(_, group)| group.id));
        for group in &self.config.groups {
            if let Some(Some(worker)) = self.workers.get(usize::from(group.id.0)) {
                worker.go_by(rule(&self.config, &self.local, group));
            }
        }
        self.shared.set_config_hash(self.config.fingerprint());
        let groups: Vec<_> = self.config.groups.iter().map(|group| group.id).collect();
        groups.into_iter().for_each(|group| self.tell_wishes(group));
    }

    /// Tells the core what the configuration wants of a group. While another node may want something else,
    /// it is moved back nowhere: the two would move it to and fro.
    pub(super) fn tell_wishes(&mut self, id: GroupId) {
        let Some(group) = self.config.group(id) else { return };
        self.controller.feed(Input::Wishes {
            group: id,
            preferred: Some(group.preferred),
            auto_failback: group.auto_failback.filter(|_| !self.unsettled.contains(&id)),
            failure_timeout: group.failure_timeout,
            resources: resource_bounds(group),
            links: links_beside(&self.local, group),
        });
    }

    /// Lets groups be moved back once every other node goes by the same file; called at every tick.
    pub(super) fn settle_wishes(&mut self) {
        if self.unsettled.is_empty() {
            return;
        }
        let own = self.config.fingerprint();
        let agrees = |peer| self.shared.peer(peer).is_some_and(|peer| peer.config_hash == own);
        if self.peers().into_iter().all(agrees) {
            for group in std::mem::take(&mut self.unsettled) {
                self.tell_wishes(group);
            }
        }
    }

    /// Returns what a status says of the file as it is now.
    pub(super) fn of_the_file(&self, file: &Result<Config, ConfigErrors>) -> Option<String> {
        let path = self.source.path.display();
        if let Some(under_way) = self.is_regrouping() {
            return Some(under_way);
        }
        match file {
            Err(errors) => Some(format!(
                "the configuration could not be read again, and a restart would fail: {}",
                errors.to_string().replace('\n', "; ")
            )),
            Ok(file) => {
                let found = self.config.differences(file);
                let restart = found.iter().any(|found| found.way == Way::Restart);
                let how = if restart { "restart" } else { "reload" };
                (!found.is_empty()).then(|| {
                    format!("{path} is not what runs here, {how} hb to apply: {}", listed(&found))
                })
            }
        }
    }
}

fn listed(found: &[Difference]) -> String {
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
