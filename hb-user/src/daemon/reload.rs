//! The configuration read again while the node runs: all that changed in it is taken, or nothing.

use std::{io, path::PathBuf};

use tokio::sync::oneshot;

use super::{
    Daemon,
    prepare::{self, Plan, PrepareError, Prepared},
    resources::{describe, rule},
    setup::resource_bounds,
    survey::Found,
};
use crate::{
    config::{Config, ConfigErrors, Difference},
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
    fn read(&self) -> Result<Box<Plan>, PrepareError> {
        let plan = prepare::plan(&self.path, Some(&self.node))?;
        drop(plan.fit()?);
        Ok(Box::new(plan))
    }
}

impl Daemon {
    /// Has another thread read the configuration, for who asked by the control socket or by SIGHUP.
    pub(super) fn begin_reload(&self, reply: Option<oneshot::Sender<Reply>>) {
        let source = self.source.clone();
        self.surveyor.begin_blocking(move || Found::Reread(source.read(), reply));
    }

    /// Takes what was read, if all of it can be taken now.
    pub(super) fn on_reread(
        &mut self,
        read: Result<Box<Plan>, PrepareError>,
        reply: Option<oneshot::Sender<Reply>>,
    ) {
        let path = self.source.path.display().to_string();
        let outcome = read
            .map_err(|error| describe(&error).replace('\n', "; "))
            .and_then(|plan| self.take(&plan.config));
        match &outcome {
            Ok(outcome) => tracing::info!(path, outcome, "configuration read again"),
            Err(error) => {
                tracing::error!(
                    path,
                    error,
                    "configuration not taken: this node goes on as before"
                );
            }
        }
        if let Some(reply) = reply {
            let outcome = outcome.map_err(|error| format!("nothing was changed: {error}"));
            // Who asked may have gone.
            drop(reply.send(outcome.into()));
        }
    }

    fn take(&mut self, new: &Config) -> Result<String, String> {
        let found = self.config.differences(new);
        if found.is_empty() {
            return Ok("nothing in the file differs from what runs".to_owned());
        }
        if self.stopping {
            return Err("this node is leaving".to_owned());
        }
        let (live, restart): (Vec<_>, Vec<_>) = found.into_iter().partition(|found| found.live);
        if !restart.is_empty() {
            let others = if live.is_empty() {
                String::new()
            } else {
                format!("; it takes {} as well then", listed(&live))
            };
            return Err(format!("restart hb on this node to apply: {}{others}", listed(&restart)));
        }
        // The only step that can fail comes first.
        self.source.levels.set(new.log.level.as_str()).map_err(|error| describe(&error))?;
        let wishes = |config: &Config| {
            let groups = config.groups.iter();
            groups.map(|group| (group.preferred, group.auto_failback)).collect::<Vec<_>>()
        };
        let before = wishes(&self.config);
        let asks_others = self.config.pings != new.pings;
        self.config.adopt(new);
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
        Ok(format!("taken: {}", listed(&live)))
    }

    /// Tells the core what the configuration wants of a group. While another node may want something else,
    /// it is moved back nowhere: the two would move it to and fro.
    fn tell_wishes(&mut self, id: GroupId) {
        let Some(group) = self.config.group(id) else { return };
        self.inputs.push_back(Input::Wishes {
            group: id,
            preferred: Some(group.preferred),
            auto_failback: group.auto_failback && !self.unsettled.contains(&id),
            failure_timeout: group.failure_timeout,
            resources: resource_bounds(group),
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
        match file {
            Err(errors) => Some(format!(
                "the configuration could not be read again, and a restart would fail: {}",
                errors.to_string().replace('\n', "; ")
            )),
            Ok(file) => {
                let found = self.config.differences(file);
                let how = if found.iter().all(|found| found.live) { "reload" } else { "restart" };
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
