//! A node: a model of its kernel half and of the shell around the core.

use std::{collections::VecDeque, rc::Rc, time::Duration};

use hb_ebpf::{
    epoch::Epoch,
    maps::Cause,
    time::BootTime,
    wire::{Be64, GROUPS, GroupWord, Health, State},
};
use hb_user::{
    core::{Bounds, Core, GroupSetup, Life, PeerFacts, ResourceBounds, Setup, Takeover},
    id::{GroupId, NodeId},
};

use crate::world::{Config, MS};

pub(crate) const INTERVAL: u64 = MS;
pub(crate) const WARNTIME: u64 = 3 * MS;
pub(crate) const DEADTIME: u64 = 5 * MS;
pub(crate) const INITDEAD: u64 = 20 * MS;
pub(crate) const CONTROLLER_DEADTIME: u64 = 8 * MS;

/// What a heartbeat says.
pub(crate) struct Frame {
    pub(crate) from: usize,
    pub(crate) boot: u64,
    pub(crate) sequence: u64,
    pub(crate) incarnation: u32,
    pub(crate) leaving: bool,
    pub(crate) controller_dead: bool,
    pub(crate) words: [GroupWord; GROUPS],
}

/// What the kernel half of one node has of another.
#[derive(Clone)]
pub(crate) struct Kernel {
    pub(crate) facts: PeerFacts,
    pub(crate) newest: (u64, u64),
    pub(crate) last_arrival: u64,
    pub(crate) plan: Vec<Takeover>,
    pub(crate) unread: bool,
}

impl Kernel {
    fn new() -> Self {
        Self {
            facts: PeerFacts::default(),
            newest: (0, 0),
            last_arrival: 0,
            plan: Vec::new(),
            unread: true,
        }
    }

    /// Takes a frame in. Returns whether anything changed that the daemon is told of.
    pub(crate) fn hear(&mut self, frame: &Frame, now: u64) -> bool {
        let newest = (frame.boot, frame.sequence);
        if frame.boot < self.newest.0 {
            return false;
        }
        self.last_arrival = now;
        let mut facts = PeerFacts { life: Life::Alive, ..self.facts };
        if newest > self.newest {
            self.newest = newest;
            facts.controller_dead = frame.controller_dead;
            facts.leaving = frame.leaving;
            facts.incarnation = frame.incarnation;
            facts.words = frame.words;
        }
        self.note(facts)
    }

    /// Looks at the silence. Returns whether anything changed.
    pub(crate) fn look(&mut self, booted: u64, now: u64) -> bool {
        let life = match self.facts.life {
            Life::Unheard if now - booted >= INITDEAD => Life::Dead(Cause::NeverHeard),
            Life::Alive | Life::Late if now - self.last_arrival >= DEADTIME => {
                Life::Dead(Cause::Silence)
            }
            Life::Alive if now - self.last_arrival >= WARNTIME => Life::Late,
            same => same,
        };
        self.note(PeerFacts { life, ..self.facts })
    }

    fn note(&mut self, facts: PeerFacts) -> bool {
        let changed = facts != self.facts;
        self.facts = facts;
        self.unread |= changed;
        changed
    }
}

/// The last thing the shell began on one group, to keep its order.
#[derive(Clone, Copy, Default)]
pub(crate) struct Lanes {
    pub(crate) addresses: u64,
    pub(crate) resources: u64,
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    /// Number of boots; frames of an earlier one are void.
    pub(crate) boot: u64,
    pub(crate) powered: bool,
    pub(crate) booted: u64,
    pub(crate) sequence: u64,
    /// Number of daemon starts; results of an earlier one are void.
    pub(crate) incarnation: u32,
    pub(crate) generation: u32,
    pub(crate) core: Option<Core>,
    pub(crate) daemon_since: u64,
    pub(crate) timer: Option<u64>,
    pub(crate) words: [GroupWord; GROUPS],
    /// The newest words the core published.
    pub(crate) wanted: [GroupWord; GROUPS],
    /// Per group, whether the core has yet to hear of a takeover by the fast path.
    pub(crate) unreported: Vec<bool>,
    pub(crate) leaving: bool,
    pub(crate) peers: Vec<Kernel>,
    pub(crate) addresses: Vec<bool>,
    pub(crate) resources: Vec<bool>,
    pub(crate) lanes: Vec<Lanes>,
    pub(crate) fail_starts: bool,
    pub(crate) fail_takes: bool,
    pub(crate) fail_drops: bool,
    pub(crate) inbox: VecDeque<hb_user::core::Input>,
}

impl Node {
    pub(crate) fn new(id: NodeId, nodes: usize, groups: usize) -> Self {
        Self {
            id,
            boot: 0,
            powered: false,
            booted: 0,
            sequence: 0,
            incarnation: 0,
            generation: 0,
            core: None,
            daemon_since: 0,
            timer: None,
            words: [GroupWord::default(); GROUPS],
            wanted: [GroupWord::default(); GROUPS],
            unreported: vec![false; groups],
            leaving: false,
            peers: vec![Kernel::new(); nodes],
            addresses: vec![false; groups],
            resources: vec![false; groups],
            lanes: vec![Lanes::default(); groups],
            fail_starts: false,
            fail_takes: false,
            fail_drops: false,
            inbox: VecDeque::new(),
        }
    }

    /// The machine boots; its daemon loads the kernel half.
    pub(crate) fn power_on(&mut self, generation: u32, now: u64) {
        self.boot += 1;
        self.powered = true;
        self.booted = now;
        self.sequence = 0;
        self.generation = generation;
        self.words = [GroupWord::default(); GROUPS];
        self.peers.iter_mut().for_each(|peer| *peer = Kernel::new());
    }

    /// The machine goes dark, and with it all it served.
    pub(crate) fn power_off(&mut self) {
        self.powered = false;
        self.core = None;
        self.addresses.fill(false);
        self.resources.fill(false);
    }

    pub(crate) fn start_daemon(&mut self, config: &Config, now: u64) {
        self.incarnation += 1;
        self.leaving = false;
        self.timer = None;
        self.inbox.clear();
        for peer in &mut self.peers {
            peer.unread = true;
            peer.plan.clear();
        }
        self.lanes.fill(Lanes::default());
        self.unreported.fill(false);
        let resumed = |group: usize| {
            let word = &self.words[group];
            (word.state() == State::Holding).then(|| word.epoch())
        };
        let groups = (0..self.addresses.len()).map(|group| GroupSetup {
            id: GroupId(group as u8),
            preferred: config.preferred[group],
            auto_failback: config.auto_failback[group],
            resources: config.resources[group].then_some(ResourceBounds {
                start: Duration::from_millis(50),
                stop: Duration::from_millis(50),
            }),
            resumed: resumed(group),
            known: self.words[group].epoch(),
        });
        let setup = Setup {
            me: self.id,
            nodes: (1..=self.peers.len()).map(|id| NodeId(id as u8)).collect(),
            groups: groups.collect(),
            epoch_floor: Epoch::floor(self.generation),
            bounds: Bounds {
                initdead: Duration::from_nanos(INITDEAD),
                fast_path: Duration::from_millis(1),
                contend: Duration::from_nanos(2 * INTERVAL),
                take: Duration::from_millis(10),
                drop: Duration::from_millis(10),
                retry: Duration::from_millis(4),
                patience: Duration::from_millis(60),
                linger: Duration::from_nanos(2 * INTERVAL),
            },
        };
        self.core = Some(Core::new(setup, BootTime(now)).expect("the setup is sound"));
        self.daemon_since = now;
    }

    pub(crate) fn kill_daemon(&mut self, now: u64) {
        self.core = None;
        self.daemon_since = now;
        // A script that was running may or may not have done its work; the next start asks.
    }

    /// What the fast path does before it adds addresses.
    pub(crate) fn hold(&mut self, takeover: Takeover) {
        let group = usize::from(takeover.group.0);
        self.unreported[group] = true;
        let word = &mut self.words[group];
        *word = GroupWord {
            state: State::Holding as u8,
            health: Health::Starting as u8,
            holder: self.id.0,
            epoch: Be64::new(takeover.epoch.0),
            ..GroupWord::default()
        };
    }

    pub(crate) fn frame(&mut self, from: usize, now: u64) -> Rc<Frame> {
        self.sequence += 1;
        Rc::new(Frame {
            from,
            boot: self.boot,
            sequence: self.sequence,
            incarnation: self.incarnation,
            leaving: self.leaving,
            controller_dead: self.core.is_none() && now - self.daemon_since > CONTROLLER_DEADTIME,
            words: self.words,
        })
    }
}

/// How long things take, shortest and longest, in nanoseconds.
pub(crate) mod times {
    use crate::world::{MS, US};

    pub(crate) const WIRE: (u64, u64) = (20 * US, 300 * US);
    pub(crate) const WAKE: (u64, u64) = (5 * US, 80 * US);
    pub(crate) const ADDRESS: (u64, u64) = (10 * US, 90 * US);
    pub(crate) const RESOURCE: (u64, u64) = (MS / 10, 6 * MS);
}
