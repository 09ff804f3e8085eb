//! Groups of another configuration, taken while the daemon runs.
//!
//! What a new configuration does not have, or not as it is, is given up first; the core says when nothing of
//! it is left here ([`Action::Regroup`](crate::core::Action::Regroup)). Then the records begin by the same
//! steps as at a start ([`Begin`]), and everything that knows a group by its place is told what is there
//! now. Groups that both have go on untouched.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use hb_ebpf::{lease::identity::Places, time::BootTime, wire::GROUPS};
use tokio::sync::oneshot;

use super::{
    Daemon, LocalVip, anew,
    prepare::Prepared,
    records,
    resources::{Worker, describe, rule},
    setup::core_setup,
    start_error::StartError,
    strays,
};
use crate::{
    beginning::{Begin, Beginning},
    clock,
    config::{Config, Group, Name, Require},
    control::Reply,
    core::{Aside, Input},
    engine::controller::start,
    fast::{Effect, Rebind},
    id::GroupId,
    sockets::SweepError,
};

/// Who asked for a reload is told by then that it goes on.
const REPLY_WITHIN: Duration = Duration::from_secs(4);
/// Before what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A configuration that fits, and waits until what it does not have is gone from here.
pub(super) struct Pending {
    config: Box<Config>,
    /// The service addresses of each group, in the order of the file.
    vips: Vec<Vec<LocalVip>>,
    /// The groups that go.
    gone: Vec<GroupId>,
    /// Names of the groups that begin.
    arriving: Vec<Name>,
    /// The generation that new records begin with, once it is stored.
    generation: Option<u32>,
    /// Nothing is left of what goes.
    left: bool,
    /// What is taken, for people.
    keys: String,
    since: BootTime,
    retry: BootTime,
    reply: Option<oneshot::Sender<Reply>>,
    /// Why it was not taken yet, as it was told last.
    error: Option<String>,
}

/// Why groups cannot be taken now.
#[derive(Debug, thiserror::Error)]
enum RegroupError {
    /// The kernel, or what is bound to an interface.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Connections cannot be ended.
    #[error(transparent)]
    Sweep(#[from] SweepError),
    /// The fast path.
    #[error("the fast path takes no commands: restart hb on this node")]
    Stuck,
}

/// Returns what taking and dropping a group with these addresses means.
///
/// # Errors
///
/// [`StartError`].
pub(super) fn effect(group: Option<&Group>, vips: &[LocalVip]) -> Result<Effect, StartError> {
    let mut effect = Effect::new(group.is_some_and(|group| !group.resources.is_empty()));
    if group.is_some_and(|group| group.warm_addresses) {
        effect = effect.warm();
    }
    if group.is_some_and(|group| group.require == Require::All) {
        effect = effect.needs_all();
    }
    anew::push(&mut effect, vips)?;
    Ok(effect)
}

impl Daemon {
    /// Begins to take the groups of `prepared`, which differs from what runs in `keys`. Without an error
    /// who asked is answered later.
    ///
    /// # Errors
    ///
    /// Why not, for people; then nothing was changed.
    pub(super) fn begin_regroup(
        &mut self,
        prepared: Prepared,
        keys: String,
        reply: &mut Option<oneshot::Sender<Reply>>,
    ) -> Result<(), String> {
        let Prepared { config, vips, .. } = prepared;
        if self.controller.is_learner() {
            return Err("this node is a learner and takes no part yet: see `hb status`".to_owned());
        }
        let gone = config.groups_unlike(&self.config);
        let gone: Vec<GroupId> = self
            .config
            .groups
            .iter()
            .filter(|group| gone.contains(&&group.name))
            .map(|group| group.id)
            .collect();
        if let Some(group) = gone.iter().find(|group| self.controller.storage().has_vow(**group)) {
            return Err(format!(
                "group {} is promised to the other node until that one is heard: reload then",
                self.group_name(*group)
            ));
        }
        // What may fail does so now.
        for (group, vips) in config.groups.iter().zip(&vips) {
            effect(Some(group), vips).map_err(|error| describe(&error))?;
        }
        let begins = config.groups_wanted();
        let generation = if begins.iter().all(|one| self.fingerprints.contains(one)) {
            None
        } else {
            let used_up = || "the generations are used up: give this node a new id".to_owned();
            Some(self.controller.storage_mut().reserve().ok_or_else(used_up)?)
        };
        let arriving = self.config.groups_unlike(&config).into_iter().cloned().collect();
        let names: Vec<_> = gone.iter().map(|group| self.group_name(*group).to_owned()).collect();
        tracing::info!(
            keys,
            gives_up = names.join(", "),
            "configuration read again: taking groups"
        );
        let now = clock::now();
        // The core says once that the same groups are gone.
        let earlier = self.take_back("another one came after it");
        let left = earlier.is_some_and(|earlier| earlier.left && earlier.gone == gone);
        self.pending = Some(Pending {
            gone: gone.clone(),
            config: Box::new(config),
            vips,
            arriving,
            generation,
            left: left || gone.is_empty(),
            keys,
            since: now,
            retry: now,
            reply: reply.take(),
            error: None,
        });
        self.feed(Input::Withdrawn { groups: gone });
        Ok(())
    }

    /// Gives up a reload that waits, of which nothing is begun yet, and tells who asked for it why.
    fn take_back(&mut self, why: &str) -> Option<Pending> {
        let mut earlier = self.pending.take()?;
        if let Some(reply) = earlier.reply.take() {
            // Who asked may have gone.
            drop(reply.send(Err(format!("not taken: {why}")).into()));
        }
        Some(earlier)
    }

    /// Goes on with what runs: the file is as it was before a reload that waits.
    pub(super) fn regroup_no_more(&mut self) {
        if self.take_back("the file is again what runs").is_some() {
            self.feed(Input::Withdrawn { groups: Vec::new() });
        }
    }

    /// Tells whether records have begun to change, perhaps: from then on there is no way back.
    pub(super) fn has_begun_to_regroup(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.error.is_some())
    }

    /// The core says that nothing is left of what goes. Others come at the next tick, when all of it was told.
    pub(super) const fn on_left(&mut self) {
        if let Some(pending) = &mut self.pending {
            pending.left = true;
        }
    }

    /// Takes the groups that wait, once nothing of others is left and the disk has what it needs. Called at
    /// every tick.
    pub(super) fn go_on_with_groups(&mut self, now: BootTime) {
        if self.controller.is_stopping() {
            drop(self.take_back("this node is leaving"));
        }
        let Some(mut pending) = self.pending.take() else { return };
        if now.since(pending.since) >= REPLY_WITHIN {
            let so_far = pending.error.clone();
            let so_far = so_far.unwrap_or_else(|| "what it gives up is still here".to_owned());
            answer(&mut pending.reply, format!("being taken: {} ({so_far})", pending.keys));
        }
        let stored = match pending.generation {
            Some(generation) => self.controller.storage_mut().keep(generation),
            None => Some(0),
        };
        // What goes meanwhile may be what comes.
        let due = now >= pending.retry && !self.strays.are_going();
        let (true, Some(stored), true) = (pending.left, stored, due) else {
            self.pending = Some(pending);
            return;
        };
        if let Err(error) = self.regroup(&mut pending, stored) {
            let error = describe(&error);
            if pending.error.as_ref() != Some(&error) {
                tracing::error!(error, "groups not taken: tried again every second");
            }
            (pending.error, pending.retry) = (Some(error), now.after(RETRY));
            self.pending = Some(pending);
            return;
        }
        let path = self.source.path.display().to_string();
        let outcome = self.taken(&pending.keys);
        tracing::info!(path, outcome, "configuration read again");
        answer(&mut pending.reply, outcome);
    }

    /// Tells whether groups wait to be taken, for a status.
    pub(super) fn is_regrouping(&self) -> Option<String> {
        let pending = self.pending.as_ref()?;
        let why = match &pending.error {
            Some(error) => format!("tried again every second: {error}"),
            None => "once nothing is left here of what it gives up".to_owned(),
        };
        Some(format!("a reload is under way, and takes {} {why}", pending.keys))
    }

    fn regroup(&mut self, pending: &mut Pending, generation: u32) -> Result<(), RegroupError> {
        let config = &mut *pending.config;
        let (found, _) = records::found(&self.shared);
        let places = Places::new(&found, &config.groups_wanted());
        config.place(&places);
        for local in pending.vips.iter_mut().flatten() {
            // It may have been made anew since.
            let bound = self.anew.bound(&local.interface, local.vip.interface());
            local.vip = local.vip.on(bound);
        }
        let vips = records::by_place(config, pending.vips.clone());
        let changed = self.changed_places(config, &pending.arriving);
        let groups = self.bind_groups(config, &vips, &changed)?;
        let gated = self.vips.iter().flatten().map(|local| local.vip.ip());
        let gated = gated.chain(self.strays.gated()).collect();
        let gated = strays::of_no_group(&vips, &[], gated);
        let guarded = strays::guarded(config, &vips, &gated);
        let fingerprints = config.fingerprints();
        let beginning = Beginning::Found(Some(generation));
        let begin = Begin { beginning, places, fingerprints, new_terms: false };
        let terms = self.config.terms(self.local.me.id).map_err(StartError::from)?;
        let (kernel, leases) = (&mut self.kernel, &self.leases);
        let mut hands = records::Hands { kernel, leases, terms: &terms, guarded: &guarded };
        start::begin(&mut hands, &begin).map_err(StartError::from)?;
        if !self.fast.rebind(Rebind::of_groups(groups)) {
            return Err(RegroupError::Stuck);
        }
        self.shared.raise_groups(places.end());
        self.strays.guarded_now(gated);
        self.vips = vips;
        self.fingerprints = fingerprints;
        self.adopt_groups(config.clone(), &changed);
        Ok(())
    }

    /// Returns the places whose group is not what it was.
    fn changed_places(&self, new: &Config, arriving: &[Name]) -> Vec<GroupId> {
        let as_before = |place: &GroupId| match (self.config.group(*place), new.group(*place)) {
            (Some(old), Some(new)) => old.name == new.name && !arriving.contains(&new.name),
            (None, None) => true,
            _ => false,
        };
        (0..GROUPS as u8).map(GroupId).filter(|place| !as_before(place)).collect()
    }

    /// Makes what the fast path and the cleaner need of the groups at these places.
    fn bind_groups(
        &self,
        config: &Config,
        vips: &[Vec<LocalVip>],
        changed: &[GroupId],
    ) -> Result<Vec<(GroupId, Effect)>, RegroupError> {
        let mut groups = Vec::new();
        for place in changed {
            let vips = vips.get(usize::from(place.0)).map_or(&[][..], Vec::as_slice);
            groups.push((*place, effect(config.group(*place), vips)?));
            if let Some(cleaner) = &self.cleaner {
                let addresses: Vec<IpAddr> = vips.iter().map(|local| local.vip.ip()).collect();
                cleaner.replace(*place, addresses)?;
            }
        }
        Ok(groups)
    }

    /// Goes by a configuration whose groups have their records; those at `changed` are others now.
    fn adopt_groups(&mut self, new: Config, changed: &[GroupId]) {
        let timers = self.timers_in_force();
        let old = std::mem::replace(&mut self.config, new);
        if let Some(timers) = timers {
            self.retime(timers);
        }
        self.anew.bind(&self.vips);
        let is_kept = |group: &&Group| !changed.contains(&group.id);
        for group in changed {
            self.forget_group(*group);
        }
        for place in changed {
            let group = self.config.group(*place).filter(|group| !group.resources.is_empty());
            let worker = group.map(|group| {
                let rule = rule(&self.config, &self.local, group);
                Worker::spawn(self.surveyor.background(), group.id, rule, self.done.clone())
            });
            if let Some(slot) = self.workers.get_mut(usize::from(place.0)) {
                *slot = worker;
            }
        }
        // What the ones before said is not about those that come.
        while let Ok(done) = self.results.try_recv() {
            self.on_done(done);
        }
        for group in self.config.groups.iter().filter(is_kept) {
            if let Some(Some(worker)) = self.workers.get(usize::from(group.id.0)) {
                worker.go_by(rule(&self.config, &self.local, group));
            }
            let before = old.group(group.id);
            let wishes = |group: &Group| (group.preferred, group.auto_failback);
            if before.is_some_and(|before| wishes(before) != wishes(group)) {
                self.unsettled.insert(group.id);
            }
        }
        let served: BTreeSet<IpAddr> =
            self.vips.iter().flatten().map(|local| local.vip.ip()).collect();
        self.upkeep.keep(&served);
        // Their numbers are others.
        self.defended.clear();
        self.routes.tell_gateways_again();
        let names = self.config.groups.iter();
        let names = names.map(|group| (group.fingerprint(), group.name.to_string())).collect();
        self.surveyor.set_groups(names);
        self.shared.set_config_hash(self.config.fingerprint());
        if old.pings != self.config.pings {
            self.ask_pings();
        }
        if old.notifies != self.config.notifies {
            self.notify_others();
        }
        // What others say of these groups comes before the groups themselves.
        for peer in self.others() {
            self.look_at(peer);
        }
        // The groups alone are told of.
        let setup = core_setup(&self.config, &self.local, &self.shared, Aside::Nothing);
        self.feed(Input::Regrouped { groups: setup.groups });
        for group in self.groups() {
            self.tell_wishes(group);
            self.look_at_record(group);
        }
        self.tell_paths();
        self.look_at_routes();
        self.surveyor.cover();
    }

    /// Forgets what was known of the group at a place, which is another one's now.
    fn forget_group(&mut self, group: GroupId) {
        let place = usize::from(group.0);
        self.resource_states.remove(&group);
        self.ended.remove(&group);
        self.unsettled.remove(&group);
        self.controller.forget(group);
        self.paths.forget(place);
        self.hearing.forget(place);
        self.routes.forget(place);
        if let Some(resuming) = self.resuming.get_mut(place) {
            *resuming = false;
        }
    }
}

fn answer(reply: &mut Option<oneshot::Sender<Reply>>, outcome: String) {
    if let Some(reply) = reply.take() {
        // Who asked may have gone.
        drop(reply.send(Ok(outcome).into()));
    }
}
