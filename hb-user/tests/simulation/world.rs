//! Nodes, the wires between them, a virtual clock, and what must never be seen.

mod faults;

use std::{collections::BTreeMap, rc::Rc};

use hb_ebpf::{epoch::Epoch, time::BootTime};
use hb_user::{
    core::{Action, Core, Input, Phase},
    id::{GroupId, NodeId},
};

use crate::{
    node::{Frame, INTERVAL, Node, times},
    rng::Rng,
    schedule::Schedule,
};

pub(crate) const US: u64 = 1_000;
pub(crate) const MS: u64 = 1_000 * US;
const LINKS: usize = 2;

/// What is the same for all nodes.
pub(crate) struct Config {
    pub(crate) preferred: Vec<Option<NodeId>>,
    pub(crate) auto_failback: Vec<bool>,
    pub(crate) resources: Vec<bool>,
}

enum Event {
    Boot { node: usize },
    Begin { fault: usize },
    End { fault: usize },
    Tick { node: usize, boot: u64 },
    Arrive { to: usize, to_boot: u64, frame: Rc<Frame> },
    Wake { node: usize, incarnation: u32 },
    Done { node: usize, incarnation: u32, group: usize, work: Work },
}

#[derive(Clone, Copy, Debug)]
enum Work {
    Take { epoch: Epoch },
    Drop,
    Start { epoch: Epoch },
    Stop,
}

/// What a run went through.
#[derive(Default, Debug)]
pub(crate) struct Stats {
    pub(crate) holds: u64,
    pub(crate) deaths: u64,
    pub(crate) fast_takeovers: u64,
    pub(crate) hand_overs: u64,
    pub(crate) conflicts: u64,
    pub(crate) failures: u64,
    pub(crate) exits: u64,
    pub(crate) resumes: u64,
}

impl Stats {
    pub(crate) fn add(&mut self, other: &Self) {
        self.holds += other.holds;
        self.deaths += other.deaths;
        self.fast_takeovers += other.fast_takeovers;
        self.hand_overs += other.hand_overs;
        self.conflicts += other.conflicts;
        self.failures += other.failures;
        self.exits += other.exits;
        self.resumes += other.resumes;
    }
}

pub(crate) struct World {
    pub(crate) now: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), Event>,
    rng: Rng,
    pub(crate) config: Config,
    pub(crate) schedule: Schedule,
    pub(crate) nodes: Vec<Node>,
    /// Cuts in force, by pair and link.
    pub(crate) cuts: BTreeMap<(usize, usize), [u32; LINKS]>,
    loss_permille: u64,
    /// Until when a partition explains what would otherwise be wrong.
    pub(crate) excused_until: u64,
    pub(crate) partitioned_ever: bool,
    /// Per group, whether two nodes have it up, and whether a partition explains that.
    pub(crate) double: Vec<bool>,
    pub(crate) highest: Vec<Epoch>,
    pub(crate) stats: Stats,
    pub(crate) wrong: Option<String>,
    pub(crate) trace: Option<Vec<String>>,
}

impl World {
    pub(crate) fn new(seed: u64, nodes: usize, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let groups = 1 + rng.index(2);
        let config = Config {
            preferred: (0..groups)
                .map(|_| rng.chance(800).then(|| NodeId(1 + rng.index(nodes) as u8)))
                .collect(),
            auto_failback: (0..groups).map(|_| rng.chance(500)).collect(),
            resources: (0..groups).map(|_| rng.chance(700)).collect(),
        };
        let schedule = Schedule::draw(&mut rng, nodes);
        let mut world = Self {
            now: 0,
            order: 0,
            queue: BTreeMap::new(),
            rng,
            config,
            schedule,
            nodes: (1..=nodes).map(|id| Node::new(NodeId(id as u8), nodes, groups)).collect(),
            cuts: BTreeMap::new(),
            loss_permille: 0,
            excused_until: 0,
            partitioned_ever: false,
            double: vec![false; groups],
            highest: vec![Epoch::NONE; groups],
            stats: Stats::default(),
            wrong: None,
            trace: traced.then(Vec::new),
        };
        for node in 0..nodes {
            let at = world.schedule.boots[node];
            world.at(at, Event::Boot { node });
        }
        for fault in 0..world.schedule.faults.len() {
            let (_, begin, end) = world.schedule.faults[fault];
            world.at(begin, Event::Begin { fault });
            if let Some(end) = end {
                world.at(end, Event::End { fault });
            }
        }
        world.note(|world| {
            let Config { preferred, auto_failback, resources } = &world.config;
            format!("preferred {preferred:?} failback {auto_failback:?} resources {resources:?}")
        });
        world
    }

    /// Runs to the end.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            if at > self.schedule.end {
                break;
            }
            self.now = at;
            self.happen(event);
            self.judge_addresses();
            if let Some(wrong) = self.wrong.take() {
                return Err(wrong);
            }
        }
        self.judge_the_end()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Boot { node } => self.boot(node),
            Event::Begin { fault } => self.begin(self.schedule.faults[fault].0),
            Event::End { fault } => self.end(fault),
            Event::Tick { node, boot } => self.tick(node, boot),
            Event::Arrive { to, to_boot, frame } => {
                let (now, node) = (self.now, &mut self.nodes[to]);
                let fresh = node.powered && node.boot == to_boot;
                if fresh && node.peers[frame.from].hear(&frame, now) {
                    self.wake(to);
                }
            }
            Event::Wake { node, incarnation } => self.woken(node, incarnation),
            Event::Done { node, incarnation, group, work } => {
                if self.nodes[node].incarnation == incarnation && self.nodes[node].core.is_some() {
                    self.done(node, group, work);
                }
            }
        }
    }

    fn boot(&mut self, index: usize) {
        if self.nodes[index].powered {
            return;
        }
        let now = self.now;
        // Every start without a record reserves a generation above all before it.
        let generation = 1 + self.nodes.iter().map(|node| node.generation).max().unwrap_or(0);
        self.note(|_| format!("boot node {}", index + 1));
        let node = &mut self.nodes[index];
        node.power_on(generation, now);
        node.start_daemon(&self.config, now);
        let boot = node.boot;
        let phase = self.rng.within(0, INTERVAL);
        self.after(phase, Event::Tick { node: index, boot });
        self.wake(index);
        self.obey(index);
    }

    fn tick(&mut self, index: usize, boot: u64) {
        if !self.nodes[index].powered || self.nodes[index].boot != boot {
            return;
        }
        self.speak(index);
        for peer in (0..self.nodes.len()).filter(|peer| *peer != index) {
            let (now, node) = (self.now, &mut self.nodes[index]);
            let was_dead = node.peers[peer].facts.life.is_dead();
            if node.peers[peer].look(node.booted, now) {
                if node.peers[peer].facts.life.is_dead() && !was_dead {
                    self.died(index, peer);
                }
                self.wake(index);
            }
        }
        self.after(INTERVAL, Event::Tick { node: index, boot });
    }

    /// Says what the core wants said, except where the fast path was quicker.
    fn say(&mut self, index: usize) {
        for group in 0..self.double.len() {
            if !self.nodes[index].unreported[group] {
                let word = self.nodes[index].wanted[group];
                self.judge_word(index, group, &word);
                self.nodes[index].words[group] = word;
            }
        }
        self.speak(index);
    }

    /// Sends a frame on every link to every peer.
    fn speak(&mut self, index: usize) {
        let frame = self.nodes[index].frame(index, self.now);
        for to in (0..self.nodes.len()).filter(|to| *to != index) {
            let cuts = self.cuts.get(&(index.min(to), index.max(to))).copied().unwrap_or_default();
            for cut in cuts {
                let delay = self.rng.within(times::WIRE.0, times::WIRE.1);
                let lost = self.rng.chance(self.loss_permille);
                if cut == 0 && !lost {
                    let to_boot = self.nodes[to].boot;
                    self.after(delay, Event::Arrive { to, to_boot, frame: Rc::clone(&frame) });
                }
            }
        }
    }

    /// The kernel of `index` declared `peer` dead: the fast path does what was prepared.
    fn died(&mut self, index: usize, peer: usize) {
        self.stats.deaths += 1;
        self.note(|_| format!("kernel of node {} declares node {} dead", index + 1, peer + 1));
        let other = &self.nodes[peer];
        if other.powered && self.now - other.booted > 3 * MS && self.now > self.excused_until {
            self.wrong = Some(format!("node {} was declared dead and lives", peer + 1));
        }
        if self.nodes[index].core.is_none() {
            return;
        }
        for takeover in std::mem::take(&mut self.nodes[index].peers[peer].plan) {
            self.stats.fast_takeovers += 1;
            let group = usize::from(takeover.group.0);
            self.note(|_| format!("fast path of node {} takes {takeover:?}", index + 1));
            self.judge_epoch(index, group, takeover.epoch);
            self.nodes[index].hold(takeover);
            self.begin_work(index, group, Work::Take { epoch: takeover.epoch });
        }
    }

    fn wake(&mut self, index: usize) {
        let delay = self.rng.within(times::WAKE.0, times::WAKE.1);
        let incarnation = self.nodes[index].incarnation;
        self.after(delay, Event::Wake { node: index, incarnation });
    }

    fn woken(&mut self, index: usize, incarnation: u32) {
        let (now, node) = (BootTime(self.now), &mut self.nodes[index]);
        if node.core.is_none() || node.incarnation != incarnation {
            return;
        }
        // Results and facts race each other.
        let results_first = self.rng.chance(500);
        let mut inputs: Vec<_> = node.inbox.drain(..).collect();
        for peer in 0..node.peers.len() {
            if peer != index && std::mem::take(&mut node.peers[peer].unread) {
                let id = NodeId(peer as u8 + 1);
                inputs.push(Input::Peer { peer: id, facts: node.peers[peer].facts });
            }
        }
        if !results_first {
            inputs.sort_by_key(|input| !matches!(input, Input::Peer { .. }));
        }
        for input in inputs {
            let twice = self.rng.chance(50).then(|| input.clone());
            for input in twice.into_iter().chain([input]) {
                self.give(index, input);
            }
        }
        if let Some(core) = &mut self.nodes[index].core {
            core.handle_timeout(now);
        }
        self.obey(index);
    }

    /// Hands one input to the core and does what comes of it, as the shell has to.
    fn give(&mut self, index: usize, input: Input) {
        let (now, node) = (BootTime(self.now), &mut self.nodes[index]);
        let Some(core) = &mut node.core else {
            return;
        };
        let reported = match &input {
            Input::Took { group, .. } => {
                std::mem::replace(&mut node.unreported[usize::from(group.0)], false)
            }
            _ => false,
        };
        core.handle(input, now);
        self.obey(index);
        if reported && self.nodes[index].core.is_some() {
            self.say(index);
        }
    }

    fn tell(&mut self, index: usize, input: Input) {
        if self.nodes[index].core.is_some() {
            self.nodes[index].inbox.push_back(input);
            self.wake(index);
        }
    }

    /// Carries out what the core wants.
    fn obey(&mut self, index: usize) {
        while let Some(action) = self.nodes[index].core.as_mut().and_then(Core::poll_action) {
            self.note(|_| match &action {
                Action::Publish { words, leaving } => {
                    let groups = words.iter().take(2).map(|word| {
                        let (state, health) = (word.state(), word.health());
                        format!("{state:?}/{health:?}@{:x}>{}", word.epoch().0, word.successor)
                    });
                    let words: Vec<_> = groups.collect();
                    format!("node {}: say {} leaving {leaving}", index + 1, words.join(" "))
                }
                other => format!("node {}: {other:?}", index + 1),
            });
            match action {
                Action::Publish { words, leaving } => {
                    (self.nodes[index].wanted, self.nodes[index].leaving) = (words, leaving);
                    self.say(index);
                }
                Action::Arm { peer, takeovers } => {
                    self.nodes[index].peers[usize::from(peer.0) - 1].plan = takeovers;
                }
                Action::Take { group, epoch, .. } => {
                    self.begin_work(index, group.0.into(), Work::Take { epoch });
                }
                Action::Drop { group, .. } => self.begin_work(index, group.0.into(), Work::Drop),
                Action::StartResources { group, epoch, .. } => {
                    self.begin_work(index, group.0.into(), Work::Start { epoch });
                }
                Action::StopResources { group, .. } => {
                    self.begin_work(index, group.0.into(), Work::Stop);
                }
                Action::Log(transition) => self.count(&transition),
                Action::Announce { .. } => {}
                Action::Exit => {
                    self.stats.exits += 1;
                    self.judge_exit(index);
                    self.nodes[index].core = None;
                    self.nodes[index].powered = false;
                    return;
                }
            }
        }
        let due = self.nodes[index].core.as_ref().and_then(Core::poll_timeout);
        if let Some(due) = due {
            if due.0 <= self.now {
                self.wrong = Some(format!("node {} wants to be called in the past", index + 1));
            }
            if self.nodes[index].timer.is_none_or(|timer| due.0 < timer || timer <= self.now) {
                self.nodes[index].timer = Some(due.0);
                let incarnation = self.nodes[index].incarnation;
                self.at(due.0, Event::Wake { node: index, incarnation });
            }
        }
    }

    fn begin_work(&mut self, node: usize, group: usize, work: Work) {
        let is_address = matches!(work, Work::Take { .. } | Work::Drop);
        let (low, high) = if is_address { times::ADDRESS } else { times::RESOURCE };
        let takes = self.rng.within(low, high);
        let lanes = &mut self.nodes[node].lanes[group];
        let lane = if is_address { &mut lanes.addresses } else { &mut lanes.resources };
        *lane = self.now.max(*lane) + takes;
        let at = *lane;
        let incarnation = self.nodes[node].incarnation;
        self.at(at, Event::Done { node, incarnation, group, work });
    }

    fn done(&mut self, index: usize, group: usize, work: Work) {
        let node = &mut self.nodes[index];
        let id = GroupId(group as u8);
        let refused = |fails: bool| if fails { Err("refused".to_owned()) } else { Ok(()) };
        let input = match work {
            Work::Take { epoch } => {
                let result = refused(node.fail_takes);
                node.addresses[group] |= result.is_ok();
                Input::Took { group: id, epoch, result }
            }
            Work::Drop => {
                let result = refused(node.fail_drops);
                node.addresses[group] &= result.is_err();
                Input::Dropped { group: id, result }
            }
            Work::Start { epoch } => {
                let result = refused(node.fail_starts);
                node.resources[group] = true;
                Input::ResourcesStarted { group: id, epoch, result }
            }
            Work::Stop => {
                node.resources[group] = false;
                Input::ResourcesStopped { group: id, result: Ok(()) }
            }
        };
        self.note(|_| format!("node {}: {input:?}", index + 1));
        self.tell(index, input);
    }

    fn count(&mut self, transition: &hb_user::core::Transition) {
        use hb_user::core::Transition;
        match transition {
            Transition::Conflict { .. } => self.stats.conflicts += 1,
            Transition::Failed { .. } => self.stats.failures += 1,
            Transition::Group { to: Phase::Released { .. }, .. } => self.stats.hand_overs += 1,
            _ => {}
        }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.queue.insert((at, self.order), event);
    }

    fn after(&mut self, by: u64, event: Event) {
        self.at(self.now + by, event);
    }

    fn note(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>10.3} ms  {}", self.now as f64 / MS as f64, text(self));
            self.trace.get_or_insert_default().push(line);
        }
    }
}
