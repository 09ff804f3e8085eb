//! The status report, gathered from wherever the facts are.

use std::{collections::BTreeMap, fmt};

use hb_ebpf::{
    epoch::Epoch,
    histogram::Histogram,
    lease,
    maps::{self, Cause},
    refusal::Refusal,
    time::BootTime,
    wire::{FLAG_ANSWERS_HEARD, GROUPS, Health, State},
};

use super::{
    Daemon, EngineKind, disk, pauses::Pauses, resources::describe, start::transport, survey::Host,
};
use crate::{
    address::Present,
    clock,
    config::{self, Failure, LocalLink, Node, Readable, Resource, differing},
    core::{Blocked, GroupView, Life, PeerFacts, Phase},
    id::{GroupId, NodeId},
    kernel::{Counters, KernelError, Mode},
    realtime::Policy,
    status::{
        AddressStatus, AttachMode, Controller, Engine, EngineKind as ReportedEngine, GroupHealth,
        GroupState, GroupStatus, LeaseStatus, LinkStatus, Misses, PauseReport, PausesReport,
        PeerController, PeerLife, PeerStatus, Promise, Quantiles, ResourceStatus, Scheduling,
        StatusReport, Vote,
    },
};

/// Returns the health as a report has it.
const fn reported(health: Health) -> GroupHealth {
    match health {
        Health::Starting => GroupHealth::Starting,
        Health::Healthy => GroupHealth::Healthy,
        Health::Failed => GroupHealth::Failed,
        Health::Stopping => GroupHealth::Stopping,
        Health::Standby => GroupHealth::Standby,
        Health::NoPath => GroupHealth::NoPath,
        Health::Aside => GroupHealth::Aside,
    }
}

/// Version of this daemon.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Daemon {
    /// Gathers the report; another thread has looked at the `host`.
    ///
    /// # Errors
    ///
    /// The kernel's counters cannot be read.
    pub(super) fn report(&self, host: Host) -> Result<StatusReport, KernelError> {
        let running = self.fast.running();
        let (mut warnings, past) = (self.warnings(), self.past());
        let Host { present, gate, file } = host;
        warnings.extend(self.of_the_file(&file));
        if let Err(error) = &present {
            warnings.push(error.to_string());
        }
        let present = present.unwrap_or_default();
        if let Err(error) = &gate {
            warnings.push(describe(error));
        }
        let mend = warnings.len();
        warnings.extend(past);
        let machines = self.machines();
        // What takes longest is behind us: ages are those of one instant, as nearly as may be.
        let node = self.maps().node();
        let now = clock::now();
        Ok(StatusReport {
            version: VERSION.to_owned(),
            cluster: self.config.cluster.name.to_string(),
            cluster_id: node.cluster,
            node: self.local.me.name.to_string(),
            node_id: self.local.me.id.0,
            incarnation: self.incarnation,
            config_hash: format!("{:016x}", node.config_hash),
            engine: Engine {
                kind: match self.engine.0 {
                    EngineKind::KernelTimer => ReportedEngine::KernelTimer,
                    EngineKind::User => ReportedEngine::User,
                },
                reason: self.engine.1.clone(),
            },
            scheduling: Scheduling {
                policy: match running.scheduling.policy {
                    Policy::Ordinary => "SCHED_OTHER".to_owned(),
                    Policy::Fifo { .. } => "SCHED_FIFO".to_owned(),
                    Policy::Deadline { .. } => "SCHED_DEADLINE".to_owned(),
                },
                refused: running.scheduling.refused.iter().map(ToString::to_string).collect(),
            },
            controller: Controller {
                age_us: micros(now, BootTime(node.controller_stamp_ns)),
                tick_ms: self.tick.as_millis() as u64,
            },
            keys: self.keys.report(),
            policy: self.config.cluster.policy.as_str().to_owned(),
            uptime_s: now.since(self.started).as_secs(),
            pauses: self.pauses_of(&self.pauses, now),
            peers: machines
                .iter()
                .map(|machine| self.peer(machine, now))
                .collect::<Result<_, _>>()?,
            gate: gate.ok(),
            groups: self
                .controller
                .core()
                .view()
                .groups
                .iter()
                .map(|view| self.group(view, &present, now))
                .collect(),
            refused: reasons(&self.kernel.refused(None)?),
            warnings,
            mend,
        })
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let running = self.fast.running();
        if let Err(error) = &running.locked {
            warnings.push(error.to_string());
        }
        if let Err(error) = &running.stack {
            warnings.push(error.clone());
        }
        if self.controller.is_learner() {
            warnings.push(self.learns());
        }
        warnings
            .extend(self.controller.storage().trouble(clock::now()).as_ref().map(disk::warning));
        for Machine { id, name, witness } in self.machines() {
            let Some(state) = self.maps().peer(id) else { continue };
            if state.incarnation != 0 && state.config_hash != self.maps().node().config_hash {
                let mend =
                    if witness { "reload the witness" } else { "reload one node after the other" };
                warnings.push(format!(
                    "{name} runs another configuration: make the files equal and {mend}"
                ));
            }
            let facts = PeerFacts::of(&state, &self.fingerprints);
            if !facts.life.is_alive() {
                continue;
            }
            for group in self.config.groups.iter().filter(|group| facts.lacks_group(group.id)) {
                warnings.push(format!(
                    "{name} has no group {} with these addresses, and has no part in it",
                    group.name
                ));
            }
            let only = facts.only_there;
            if only > 0 {
                let what = if only == 1 { "a group" } else { "groups" };
                let holds =
                    if facts.holds_other == Epoch::NONE { "" } else { ", and serves there" };
                warnings.push(format!("{name} has {what} that this node does not have{holds}"));
            }
        }
        warnings.extend(self.warn_of_asides());
        warnings.extend(self.warn_of_maintenance());
        warnings.extend(self.is_retiming());
        warnings.extend(self.warn_of_strays());
        warnings.extend(self.warn_of_addresses());
        warnings
    }

    /// The machines that are heard and do not have a group.
    fn lacking(&self, group: GroupId) -> Vec<String> {
        let lacks = |machine: &Machine| {
            let facts = self.maps().peer(machine.id);
            let facts = facts.map(|peer| PeerFacts::of(&peer, &self.fingerprints));
            facts.is_some_and(|facts| facts.life.is_alive() && facts.lacks_group(group))
        };
        self.machines().into_iter().filter(lacks).map(|machine| machine.name).collect()
    }

    /// The other machines of the cluster: the nodes, then the witness.
    fn machines(&self) -> Vec<Machine> {
        let node =
            |node: &Node| Machine { id: node.id, name: node.name.to_string(), witness: false };
        let witness = self.local.witness.iter().map(|witness| Machine {
            id: witness.id,
            name: witness.name.to_string(),
            witness: true,
        });
        self.local.peers.iter().map(node).chain(witness).collect()
    }

    /// The record of a group, as far as it concerns leases.
    fn lease(&self, group: GroupId) -> Option<LeaseStatus> {
        let record = self.shared.record(group)?;
        // A lease may be shorter than a report takes.
        let now = clock::now();
        let terms = self.config.terms(self.local.me.id).ok()?;
        let node = self.maps().node();
        let until = lease::gate::until(&record);
        let endless = until == lease::ENDLESS;
        let (stamp, deadtime) = (node.controller_stamp_ns, node.controller_deadtime_ns);
        let open = lease::gate::passes(until, stamp, deadtime, now.ns());
        let left = |end: u64| (end > now.ns()).then(|| (end - now.ns()) / 1000);
        let promises = self.config.cluster.policy != config::Policy::Available;
        let competes = matches!(record.state(), State::Holding | State::Seeking);
        let vote = |(place, voter): (usize, &u8)| Vote {
            voter: self.node_name(NodeId(*voter)).to_owned(),
            given: competes && (*voter == terms.own || record.expires_ns[place] > now.ns()),
            ends_in_us: left(record.expires_ns[place]).filter(|_| *voter != terms.own),
        };
        let voters = terms.voters.iter().take(usize::from(terms.count)).enumerate();
        let mut votes: Vec<_> = voters.filter(|_| promises).map(vote).collect();
        let own = self.node_name(self.local.me.id).to_owned();
        votes.sort_by_key(|vote| vote.voter != own);
        Some(LeaseStatus {
            open,
            ends_in_us: left(until).filter(|_| !endless),
            ended_us_ago: (until != 0 && until <= now.ns()).then(|| (now.ns() - until) / 1000),
            endless,
            length_us: terms.lease_ns / 1000,
            needed: if promises { terms.others_needed() + 1 } else { 1 },
            votes,
            promised: (promises && record.is_bound(now.ns())).then(|| Promise {
                node: self.node_name(NodeId(Epoch(record.promised).node())).to_owned(),
                epoch: record.promised,
                ends_in_us: left(record.until_ns).filter(|_| record.until_ns != u64::MAX),
                released: record.released != 0,
            }),
        })
    }

    /// Says why this node is a learner, and for how long.
    fn learns(&self) -> String {
        let (why, with) =
            match (self.controller.new_voters(), self.controller.storage().generation()) {
                (None, _) => ("this node has no numbers from before", ""),
                (Some(_), 0) => {
                    ("this node has no numbers from before", " with this configuration")
                }
                (Some(_), _) => ("the voters are new to this node", " with this configuration"),
            };
        format!(
            "learner: {why}, and it takes part once every other machine was heard{with}, or after \
             `hb confirm` on this node"
        )
    }

    fn pauses_of(&self, pauses: &Pauses, now: BootTime) -> PausesReport {
        PausesReport {
            total: pauses.total,
            latest: pauses.latest.as_ref().map(|pause| PauseReport {
                us: pause.us,
                us_ago: micros(now, pause.at),
                by: pause.by.iter().map(|node| self.node_name(*node).to_owned()).collect(),
            }),
        }
    }

    fn peer(&self, peer: &Machine, now: BootTime) -> Result<PeerStatus, KernelError> {
        let state = self.maps().peer(peer.id).ok_or(KernelError::Missing("PEERS"))?;
        let view = self.controller.core().view();
        let seen = view.peers.iter().find(|view| view.peer == peer.id);
        let life = seen.map_or(Life::Unheard, |seen| seen.life);
        let left = seen.is_some_and(|seen| seen.left) && life.is_dead();
        let heard = state.incarnation != 0;
        let links = self
            .local
            .links
            .iter()
            .filter(|link| link.others().any(|(other, _)| *other == peer.id))
            .map(|link| self.link(peer.id, link, now))
            .collect::<Result<Vec<_>, _>>()?;
        let own_hash = self.maps().node().config_hash;
        let offset = self.local.links.iter().find_map(|link| {
            let (_, link) = self.maps().link(peer.id, link.id)?;
            (link.last_answer_ns != 0).then_some(link.offset_ns as f64 / 1000.0)
        });
        let since = self.memory.get(&peer.id).map_or(BootTime::NEVER, |memory| memory.life_since);
        let since = if since == BootTime::NEVER { BootTime(state.started_ns) } else { since };
        Ok(PeerStatus {
            node: peer.name.clone(),
            id: peer.id.0,
            witness: peer.witness,
            life: match life {
                _ if left => PeerLife::Left,
                Life::Unheard => PeerLife::Unheard,
                Life::Alive => PeerLife::Alive,
                Life::Late => PeerLife::Late,
                Life::Dead(_) => PeerLife::Dead,
            },
            cause: match life {
                _ if left => None,
                Life::Dead(cause) if cause != Cause::None => Some(cause.as_str().to_owned()),
                Life::Late => Some("silence".to_owned()),
                _ => None,
            },
            since_us_ago: micros(now, since),
            last_arrival_us_ago: ago(now, state.last_arrival_ns),
            incarnation: heard.then_some(state.incarnation),
            controller: (heard && !peer.witness).then_some(PeerController {
                alive: state.controller_dead == 0,
                age_us: state.controller_age_ns / 1000,
            }),
            config_matches: heard.then_some(state.config_hash == own_hash),
            config_differs: if heard {
                differing(own_hash, state.config_hash).into_iter().map(str::to_owned).collect()
            } else {
                Vec::new()
            },
            refuses_us: Refusal::from_code(state.refused)
                .map(|refusal| refusal.as_str().to_owned()),
            misses: Misses { consecutive: u64::from(state.misses), total: state.misses_total },
            doubts_total: state.doubts_total,
            deaths_total: state.deaths_total,
            offset_us: offset,
            pauses: self
                .peers_pauses
                .get(&peer.id)
                .map(|pauses| self.pauses_of(pauses, now))
                .unwrap_or_default(),
            links,
        })
    }

    fn link(
        &self,
        peer: NodeId,
        link: &LocalLink,
        now: BootTime,
    ) -> Result<LinkStatus, KernelError> {
        let (state, found) =
            self.maps().link(peer, link.id).ok_or(KernelError::Missing("LINKS"))?;
        let refused = self.kernel.refused(Some((peer, link.id)))?;
        let interface = link.own.interface.to_string();
        let attachment = self.kernel.attachments().iter().find(|held| held.interface == interface);
        let sent = self
            .fast
            .counters()
            .iter()
            .find(|target| target.peer == peer && target.link == link.id);
        let load = |counter: Option<&std::sync::atomic::AtomicU64>| {
            counter.map_or(0, |counter| counter.load(std::sync::atomic::Ordering::Relaxed))
        };
        Ok(LinkStatus {
            link: link.name.to_string(),
            transport: transport(link.transport).to_owned(),
            interface,
            attach_mode: match attachment.map(|held| held.mode) {
                Some(Mode::Native) => AttachMode::Native,
                Some(Mode::Generic) => AttachMode::Generic,
                Some(Mode::Tcx) => AttachMode::Tcx,
                None => AttachMode::None,
            },
            attach_reason: attachment.and_then(|held| held.reason.clone()),
            up: state.links_up & (1 << link.id.0) != 0,
            last_arrival_us_ago: ago(now, found.last_arrival_ns),
            received: found.received,
            answered: found.answered,
            send_errors: load(sent.map(|target| &target.errors)),
            sent: load(sent.map(|target| &target.sent)),
            refused: reasons(&refused),
            unfresh: refused[0],
            rtt_us: quantiles(&found.rtts),
            gap_us: quantiles(&found.gaps),
            answers_heard_by_peer: found.flags & FLAG_ANSWERS_HEARD != 0,
        })
    }

    fn group(&self, view: &GroupView, present: &[Present], now: BootTime) -> GroupStatus {
        let index = view.group.0 as usize;
        let vips = self.vips.get(index).map_or(&[][..], Vec::as_slice);
        let resources: &[Resource] =
            self.config.group(view.group).map_or(&[], |group| &group.resources);
        let state = self.resource_states.get(&view.group).copied();
        GroupStatus {
            group: self.group_name(view.group).to_owned(),
            state: match view.state {
                State::Idle => GroupState::Idle,
                State::Seeking => GroupState::Seeking,
                State::Holding => GroupState::Holding,
                State::Released => GroupState::Released,
            },
            health: reported(view.health),
            fingerprint: format!("{:08x}", self.fingerprints[index % GROUPS]),
            record: view.group.0,
            lacking: self.lacking(view.group),
            holder: view.holder.map(|holder| self.node_name(holder).to_owned()),
            holder_health: view.holder.and_then(|holder| self.health_at(holder, view)),
            epoch: view.epoch.0,
            generation: view.epoch.generation(),
            lease: self.lease(view.group),
            addresses: vips
                .iter()
                .map(|local| AddressStatus {
                    address: format!("{}/{}", local.vip.ip(), local.vip.prefix()),
                    interface: local.interface.clone(),
                    present: present.iter().any(|found| local.vip.is(found)),
                    warm: self.config.group(view.group).is_some_and(|group| group.warm_addresses),
                })
                .collect(),
            resources: resources
                .iter()
                .map(|resource| ResourceStatus {
                    name: resource.name.to_string(),
                    kind: resource.kind.to_string(),
                    state: state.unwrap_or("not started").to_owned(),
                    watched: watched(resource),
                })
                .collect(),
            restarts: view.restarts,
            aside: view.aside,
            maintenance: view.maintenance,
            reason: self.why(view),
            since_us_ago: micros(now, view.since),
        }
    }

    /// How a group fares on a node, here or by its newest word.
    fn health_at(&self, node: NodeId, view: &GroupView) -> Option<GroupHealth> {
        if node == self.local.me.id {
            return Some(reported(view.health));
        }
        let facts = PeerFacts::of(&self.maps().peer(node)?, &self.fingerprints);
        let word = facts.words.get(usize::from(view.group.0))?;
        Some(reported(word.health()))
    }

    /// Says why a group does not serve here, or what is still going on.
    pub(super) fn why(&self, view: &GroupView) -> Option<String> {
        if let Some(ended) = self.ended.get(&view.group) {
            return Some(format!(
                "connections are being ended, {ended} so far: this node cannot take it before"
            ));
        }
        match &view.blocked {
            Some(Blocked::Failed(error)) => Some(format!(
                "failed here: {error}; repair it, then `hb clear {}`",
                self.group_name(view.group)
            )),
            Some(Blocked::Unstopped(error)) => Some(format!(
                "not stopped here, so it may still run: {error}; it is tried again; stop it by hand, then \
                 `hb clear {}`",
                self.group_name(view.group)
            )),
            Some(Blocked::Unfit(error)) => Some(format!("not able to serve: {error}")),
            Some(Blocked::NoPath(error)) => Some(format!("no path to the clients: {error}")),
            Some(Blocked::Aside) => Some(
                "this node stands aside, and does not take it even if no other node serves it: \
                 `hb unstandby` on this node ends that"
                    .to_owned(),
            ),
            Some(Blocked::Maintenance) => Some(
                "in maintenance, and not taken here even if no other node serves it: `hb maintenance off` on \
                 this node ends that"
                    .to_owned(),
            ),
            Some(Blocked::Leaving) => Some("this node is leaving".to_owned()),
            Some(Blocked::Withdrawn) => Some("withdrawn by a reload".to_owned()),
            Some(Blocked::Joining) => Some(
                "this node is joining: not every peer was heard or declared dead yet".to_owned(),
            ),
            Some(Blocked::Waiting(until)) if until.ns() == u64::MAX => Some(self.learns()),
            Some(Blocked::Waiting(until)) => Some(format!(
                "this node has no record from before, and takes part in {} ms: until then promises \
                 of its earlier life may bind",
                until.since(clock::now()).as_millis()
            )),
            Some(Blocked::Vowed) => Some(
                "this node left while another one held the group, and is bound to that one until \
                 it is heard; if it is off for good, `hb confirm` on this node"
                    .to_owned(),
            ),
            Some(Blocked::HeldBy(node)) => Some(format!("{} holds it", self.node_name(*node))),
            Some(Blocked::TurnOf(node)) => {
                Some(format!("it is the turn of {}", self.node_name(*node)))
            }
            Some(Blocked::WaitingFor(node)) => {
                Some(format!("waiting for {}, which is starting", self.node_name(*node)))
            }
            Some(Blocked::Lacks(node)) => Some(format!(
                "{} has no group of that name with these addresses, and is in the way: give every \
                 machine the same configuration",
                self.node_name(*node)
            )),
            None => match view.phase {
                Phase::Serving { .. } => {
                    if let Some(error) = &view.overlooked {
                        return Some(format!("in maintenance, and failed: {error}"));
                    }
                    if let Some(error) = self.paths.error(view.group) {
                        return Some(format!(
                            "no path to the clients: {error}; no other node can take it"
                        ));
                    }
                    if let Some((node, due)) = view.goes_back {
                        let left = due.since(clock::now()).as_secs();
                        return Some(format!("moves back to {} in {left} s", self.node_name(node)));
                    }
                    self.restarted(view)
                }
                phase => Some(format!("{phase}: {}", self.reason(&view.reason))),
            },
        }
    }
}

impl Daemon {
    /// Says how often resources failed and were started again here, if they were.
    fn restarted(&self, view: &GroupView) -> Option<String> {
        let Failure::Restart { most, window } = self.config.group(view.group)?.on_failure else {
            return None;
        };
        let restarts = Some(view.restarts).filter(|restarts| *restarts > 0)?;
        let window = Readable(window);
        Some(format!(
            "resources failed and were started again here: {restarts} of at most {most} times within {window}"
        ))
    }
}

/// Says by what a resource is watched.
fn watched(resource: &Resource) -> Vec<String> {
    let every = |what: &dyn fmt::Display, interval| format!("{what} every {}", Readable(interval));
    let process = resource.pid_file.iter();
    let process = process.map(|file| format!("the process of {}", file.display()));
    let status = resource.status_interval.iter().map(|interval| every(&"status", *interval));
    let checks = resource.checks.iter().map(|check| {
        let standby = if check.standby { ", also on a standby" } else { "" };
        every(&check.kind, check.interval) + standby
    });
    process.chain(status).chain(checks).collect()
}

/// Another machine of the cluster.
struct Machine {
    id: NodeId,
    name: String,
    witness: bool,
}

/// Returns the reasons that occurred, with their counts.
fn reasons(counters: &Counters) -> BTreeMap<String, u64> {
    Refusal::ALL
        .iter()
        .map(|refusal| (refusal.as_str().to_owned(), counters[*refusal as usize]))
        .filter(|(_, count)| *count > 0)
        .collect()
}

fn micros(now: BootTime, then: BootTime) -> u64 {
    now.since(then).as_micros() as u64
}

fn ago(now: BootTime, then_ns: u64) -> Option<u64> {
    (then_ns != 0).then(|| micros(now, BootTime(then_ns)))
}

fn quantiles(histogram: &Histogram) -> Option<Quantiles> {
    let at = |quantile| histogram.quantile(quantile).map(|ns| ns as f64 / 1000.0);
    Some(Quantiles { p50: at(0.5)?, p99: at(0.99)?, max: at(1.0) })
}

const _: () = assert!(maps::MAX_LINKS <= 8, "links_up is a byte of bits");
