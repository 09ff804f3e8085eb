//! What a simulated cluster is configured to be.

use std::time::Duration;

use hb_ebpf::{
    epoch::Epoch,
    lease::{Policy, Terms, Timing, terms::stretch},
    maps,
    time::L_MAX_NS,
    wire::GROUPS,
};
use hb_user::{
    core::{Aside, Bounds, GroupSetup, ResourceBounds, Restarts, Setup},
    engine::takeover::Rule,
    id::{GroupId, NodeId},
};

use crate::{
    mutants::{Mutant, Sound},
    rng::Rng,
};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const INTERVAL: u64 = 5 * MS;
pub(crate) const DEADTIME: u64 = 20 * MS;
pub(crate) const INITDEAD: u64 = 100 * MS;
pub(crate) const CONTROLLER_DEADTIME: u64 = 40 * MS;
/// How often a daemon goes round.
pub(crate) const TICK: u64 = CONTROLLER_DEADTIME / 5;
pub(crate) const MARGIN: u64 = 5 * MS;
pub(crate) const RHO: u32 = 205;
/// Lengths of leases, by the files.
const LEASES: [u64; 2] = [40 * MS, 60 * MS];
const SEEK: u64 = 20 * MS;
/// Longest that a simulated agent of a fence may take, with the delay before it.
pub(crate) const FENCE: u64 = 200 * MS;
pub(crate) const FENCE_DELAY: u64 = 60 * MS;
/// How much longer a node waits that nobody answers.
pub(crate) const STAND_BACK: u64 = 2 * FENCE_DELAY + 30 * MS;
/// Longest that a simulated disk takes to store something, while it is slow.
pub(crate) const SLOW_DISK: u64 = 600 * MS;

/// Returns nanoseconds as a duration.
pub(crate) const fn span(ns: u64) -> Duration {
    Duration::from_nanos(ns)
}

/// Which machines there are, and under which policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cluster {
    /// Two nodes and a witness.
    Witness,
    /// Three nodes, and a majority of them.
    Three,
    /// Two nodes, of which both are needed, with fences.
    Safe,
    /// Two nodes, each on its own.
    Available,
}

impl Cluster {
    pub(crate) fn policy(self) -> Policy {
        match self {
            Self::Witness | Self::Three => Policy::Witness,
            Self::Safe => Policy::Safe,
            Self::Available => Policy::Available,
        }
    }

    pub(crate) fn nodes(self) -> usize {
        if self == Self::Three { 3 } else { 2 }
    }

    /// All machines, nodes first.
    pub(crate) fn machines(self) -> usize {
        self.nodes() + usize::from(self == Self::Witness)
    }
}

/// One cluster's configuration.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) cluster: Cluster,
    pub(crate) groups: usize,
    preferred: Option<NodeId>,
    pub(crate) auto_failback: bool,
    /// For how long the preferred node stands by before it is given a group back.
    pub(crate) failback_ms: u64,
    pub(crate) resources: bool,
    /// Addresses of each group; whether all are needed, and whether they are up where it is not held.
    pub(crate) vips: usize,
    pub(crate) all: bool,
    pub(crate) warm: bool,
    /// A rule of the fast path that none keeps to.
    pub(crate) broken: Option<Rule>,
    /// A daemon takes its fast path to go round.
    pub(crate) answers_for_it: bool,
    /// How often each group was changed in the file that machines start with.
    pub(crate) changes: [u32; GROUPS],
    /// How often the voters were changed in that file, and the lengths of leases.
    pub(crate) voters: u32,
    pub(crate) lengths: u32,
    /// A group that is changed takes part at once.
    pub(crate) unwaited: bool,
    /// What is wrong with every engine.
    pub(crate) mutant: fn() -> Box<dyn Mutant>,
    /// Whether kernel halves look at what frames say of clocks.
    pub(crate) watches_clocks: bool,
}

impl Plan {
    pub(crate) fn draw(cluster: Cluster, rng: &mut Rng) -> Self {
        let preferred = rng.chance(700).then(|| id(rng.index(cluster.nodes())));
        Self {
            cluster,
            groups: if rng.chance(250) { 2 } else { 1 },
            preferred,
            auto_failback: preferred.is_some() && rng.chance(500),
            failback_ms: 0,
            resources: rng.chance(600),
            vips: rng.within(1, 3) as usize,
            all: rng.chance(400),
            warm: rng.chance(300),
            broken: None,
            answers_for_it: false,
            changes: [0; GROUPS],
            voters: 0,
            lengths: 0,
            unwaited: false,
            watches_clocks: true,
            mutant: || Box::new(Sound),
        }
    }

    /// The node that has to end up with the groups if it can, if there is one.
    pub(crate) fn home(&self) -> Option<NodeId> {
        self.preferred.filter(|_| self.auto_failback)
    }

    /// What the groups are in frames and records, by place, to a machine that starts now.
    pub(crate) fn fingerprints(&self) -> [u32; GROUPS] {
        std::array::from_fn(|group| {
            if group < self.groups { 100 * (self.changes[group] + 1) + group as u32 } else { 0 }
        })
    }

    fn lease(&self) -> u64 {
        LEASES[self.lengths as usize % LEASES.len()]
    }

    /// What the file calls the set of voters.
    pub(crate) fn voter_set(&self) -> String {
        format!("set {}", self.voters)
    }

    /// What frames say of the file.
    pub(crate) fn config_hash(&self) -> u64 {
        let changes = self.changes.iter().fold(1, |hash, changes| hash * 31 + u64::from(*changes));
        (changes * 31 + u64::from(self.voters)) * 31 + u64::from(self.lengths)
    }

    pub(crate) fn terms(&self, own: usize) -> Terms {
        let timing = Timing {
            lease_ns: self.lease(),
            margin_ns: MARGIN,
            drain_ns: stretch(MARGIN, RHO) * 11 / 10,
            seek_ns: SEEK,
            rho: RHO,
            interval_ns: INTERVAL,
            deadtime_ns: DEADTIME,
            controller_deadtime_ns: CONTROLLER_DEADTIME,
        };
        let voters: Vec<u8> = (0..self.cluster.machines()).map(|index| id(index).0).collect();
        let witness = (self.cluster == Cluster::Witness).then(|| id(self.cluster.nodes()).0);
        Terms::new(self.cluster.policy(), &timing, &voters, id(own).0, witness)
            .expect("lengths that fit together")
    }

    pub(crate) fn timing(&self) -> maps::Timing {
        maps::Timing {
            interval_ns: INTERVAL,
            warn_ns: DEADTIME / 2,
            dead_ns: DEADTIME,
            init_dead_ns: INITDEAD,
            doubt_max_ns: 100 * MS,
            late_ns: INTERVAL,
        }
    }

    pub(crate) fn setup(
        &self,
        me: usize,
        aside: Aside,
        resumed: impl Fn(GroupId) -> Option<Epoch>,
    ) -> Setup {
        let bound = |ms| Duration::from_millis(ms);
        let groups = (0..self.groups).map(|group| GroupSetup {
            id: GroupId(group as u8),
            preferred: self.preferred,
            auto_failback: self.auto_failback.then(|| bound(self.failback_ms)),
            failure_timeout: Some(bound(250)),
            links: 1,
            resources: self.resources.then_some(ResourceBounds {
                start: bound(100),
                stop: bound(100),
                block: true,
                restarts: self
                    .failback_ms
                    .is_multiple_of(2)
                    .then(|| Restarts { most: 2, window: bound(400) }),
            }),
            resumed: resumed(GroupId(group as u8)),
        });
        let policy = self.cluster.policy();
        Setup {
            me: id(me),
            nodes: (0..self.cluster.nodes()).map(id).collect(),
            groups: groups.collect(),
            witness: (self.cluster == Cluster::Witness).then(|| id(self.cluster.nodes())),
            promises: policy != Policy::Available,
            aside,
            bounds: Bounds {
                initdead: Duration::from_nanos(INITDEAD),
                seek: match policy {
                    Policy::Available => bound(100),
                    Policy::Witness | Policy::Safe => Duration::from_nanos(SEEK),
                },
                promise: Duration::from_nanos(stretch(self.lease() + MARGIN, RHO)),
                contend: Duration::from_nanos(2 * INTERVAL),
                fence: (policy == Policy::Safe).then(|| Duration::from_nanos(FENCE)),
                fence_retry: bound(200),
                hold_down: Duration::from_nanos(HOLD_DOWN),
                route_loss: bound(20),
                take: bound(100),
                drop: bound(100),
                retry: bound(50),
                patience: bound(100),
                linger: Duration::from_nanos(2 * INTERVAL),
            },
        }
    }

    /// Within what, by the slowest clock, the groups are served once everything is mended and every
    /// daemon runs: the rule of the lab, with the bounds of this plan for what the core waits for.
    pub(crate) fn patience(&self) -> u64 {
        let promise = stretch(LEASES[1] + MARGIN, RHO);
        let amnesia = stretch(L_MAX_NS + MARGIN, RHO);
        let fences =
            if self.cluster == Cluster::Safe { 3 * (FENCE + STAND_BACK + 200 * MS) } else { 0 };
        // Addresses and resources that fail are given up within 100 ms each and tried again; a node
        // that starts is waited for, and then passed over.
        let effects = 10 * 100 * MS;
        amnesia
            + 3 * INITDEAD
            + 2 * promise
            + 8 * SEEK
            + effects
            + fences
            + SLOW_DISK
            + HOLD_DOWN
            + self.failback_ms * MS
    }
}

/// How long a path has to last before it counts.
const HOLD_DOWN: u64 = 50 * MS;

/// Returns the id of the machine at `index`.
pub(crate) fn id(index: usize) -> NodeId {
    NodeId(index as u8 + 1)
}

/// Returns the index of the machine `id`.
pub(crate) fn index(id: u8) -> usize {
    usize::from(id) - 1
}
