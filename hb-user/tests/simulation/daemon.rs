//! The main loop of a daemon: the real engine of the controller with the real core, and the machine's side
//! of it. What `daemon/` does with threads and descriptors is a list of work here, and the world says how long it takes.

use std::collections::{BTreeMap, VecDeque};

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        Policy, Record, Terms,
        identity::Places,
        op::{Op, Order},
        start,
    },
    maps::Peer,
    time::BootTime,
    wire::{GROUPS, State},
};
use hb_user::{
    core::{
        Action, Aside, Core, Input, Phase, Transition,
        storage::{Storage, Write},
    },
    engine::controller::{
        self, Controller, Left, Next, Parting, Sweep, Swept, World,
        start::{Found, Numbers, Records},
    },
    engine::takeover::{Command, EffectError, Report},
    id::{GroupId, NodeId},
};

use crate::{
    auditor::Auditor,
    fast::{Addresses, Fast},
    kernel::Kernel,
    mutants::Mutant,
    plan::{Plan, TICK, span},
    rng::Rng,
    upkeep::Upkeep,
};

/// What a machine's disk holds of hb.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) incarnation: u32,
    pub(crate) generation: u32,
    pub(crate) voters: Option<String>,
    /// Per group, the epoch promised without an end.
    pub(crate) vows: Vec<Option<Epoch>>,
    /// Of which groups the node stands aside.
    pub(crate) aside: Aside,
    /// When what was promised has run out, by the clock of this boot.
    pub(crate) parted: Option<u64>,
}

impl Disk {
    pub(crate) fn store(&mut self, write: &Write) {
        match write {
            Write::Generation(generation) => self.generation = self.generation.max(*generation),
            Write::Voters(set) => self.voters = Some(set.clone()),
            Write::Vow(group, epoch) => self.vows[usize::from(group.0)] = *epoch,
            Write::Aside(aside) => self.aside = *aside,
        }
    }
}

impl Disk {
    /// What is promised without an end.
    pub(crate) fn vows(&self) -> BTreeMap<GroupId, Epoch> {
        let vows = self.vows.iter().zip(0..);
        vows.filter_map(|(vow, group)| Some((GroupId(group), (*vow)?))).collect()
    }
}

/// What became of a start.
#[derive(Debug)]
pub(crate) enum Started {
    /// It runs, and found a kernel half.
    Found,
    /// It runs, with a new one.
    New,
    /// It ended in the middle of it.
    Struck,
    /// It did what it must not.
    Wrong(String),
}

/// Work that takes time, begun by a daemon.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Clean {
        group: usize,
        number: u64,
    },
    Start {
        group: usize,
        epoch: Epoch,
    },
    Stop {
        group: usize,
    },
    /// The delay before a fence is over.
    FenceDue(NodeId),
    /// The second one, of a node that nobody answered.
    StoodBack(NodeId),
    /// The agent runs.
    Fence(NodeId),
    /// The last packets of a node that was fenced leave.
    Silence(Vec<(GroupId, Epoch)>),
    /// The disk is written.
    Store(Write),
}

/// Of [`Work::Clean`]: some connections were ended, and there are more.
pub(crate) const THERE_IS_MORE: &str = "there is more";

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) work: Work,
    pub(crate) result: Result<(), String>,
}

/// The end of a process, or of its machine, in the middle of what it does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strike {
    /// How many calls it still makes.
    pub(crate) calls: u32,
    /// The machine loses power; otherwise the process is killed.
    pub(crate) power: bool,
    /// The last call has its effect all the same.
    pub(crate) done: bool,
}

impl Strike {
    /// One call more; tells whether it has an effect.
    fn call(&mut self) -> bool {
        let last = self.calls == 1;
        self.calls = self.calls.saturating_sub(1);
        self.calls > 0 || (last && self.done)
    }
}

/// What a turn of the main loop works on.
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a mut Kernel,
    pub(crate) disk: &'a mut Disk,
    pub(crate) addresses: &'a mut Addresses,
    pub(crate) now: u64,
    /// What is open at the addresses of each group.
    pub(crate) open: &'a [bool],
    pub(crate) rng: &'a mut Rng,
    /// Now and then the kernel does not say what came of an order.
    pub(crate) fail_orders: bool,
    pub(crate) strike: &'a mut Option<Strike>,
}

impl Machine<'_> {
    /// Tells whether a call is still made, and whether it has an effect.
    fn calls(&mut self) -> bool {
        self.strike.as_mut().is_none_or(Strike::call)
    }

    /// Tells whether the process is dead by now.
    pub(crate) fn is_struck(&self) -> bool {
        self.strike.is_some_and(|strike| strike.calls == 0)
    }
}

pub(crate) struct Daemon {
    pub(crate) controller: Controller,
    pub(crate) fast: Fast,
    /// What operators and signals ask for: heard last, like by the loop in `daemon/mod.rs`.
    pub(crate) requests: VecDeque<Input>,
    pub(crate) done: VecDeque<Done>,
    /// Work to be begun: the world says how long it takes.
    pub(crate) work: Vec<Work>,
    pub(crate) logs: Vec<Transition>,
    next_tick: u64,
    leaving: bool,
    /// The file that it goes by, and what the groups are there.
    pub(crate) file: u64,
    fingerprints: [u32; GROUPS],
    warm: bool,
    pub(crate) resources: Vec<bool>,
    pub(crate) auditor: Auditor,
    pub(crate) upkeep: Upkeep,
    /// A wrong machine, which takes the fast path to go round.
    answers_for_it: bool,
    mutant: Box<dyn Mutant>,
}

/// The machine as the engine reaches it, and what is noted of that.
pub(crate) struct Hands<'a, 'm> {
    pub(crate) machine: &'a mut Machine<'m>,
    pub(crate) auditor: &'a mut Auditor,
    fast: &'a mut Fast,
    work: &'a mut Vec<Work>,
    fingerprints: [u32; GROUPS],
    warm: bool,
    answers_for_it: bool,
}

/// The same with something wrong about it, perhaps.
pub(crate) struct Bent<'a, 'm> {
    hands: Hands<'a, 'm>,
    mutant: &'a mut dyn Mutant,
}

impl Daemon {
    /// Starts, as `daemon/start.rs`: `found` tells that the kernel half was there before.
    ///
    /// # Errors
    ///
    /// What it did and must not have, or nothing if it was struck.
    pub(crate) fn start(
        plan: &Plan,
        me: usize,
        machine: Machine<'_>,
        found: bool,
    ) -> Result<Self, Option<String>> {
        let now = machine.now;
        let mut mutant = (plan.mutant)();
        let mut birth = Birth {
            machine,
            terms: plan.terms(me),
            fingerprints: plan.fingerprints(),
            wrong: None,
        };
        let born = mutant.start(&mut birth, plan, found);
        let Birth { machine, wrong, .. } = birth;
        if wrong.is_some() {
            return Err(wrong);
        }
        let (life, learner) = born.map_err(|Struck| None)?;
        let (kernel, disk) = (machine.kernel, machine.disk);
        if disk.incarnation < life.incarnation {
            return Err(Some("begins a life whose number is not stored".to_owned()));
        }
        let known = disk.voters == Some(plan.voter_set());
        if !known && life.new_voters.is_none() {
            return Err(Some("takes part among voters that are new to it".to_owned()));
        }
        kernel.node.incarnation = life.incarnation;
        kernel.node.config_hash = plan.config_hash();
        kernel.node.controller_stamp_ns = now;
        let held = |group: GroupId| {
            let record = &kernel.records[usize::from(group.0)];
            (record.state() == State::Holding).then_some(Epoch(record.epoch))
        };
        let controller = Controller::new(controller::Begin {
            core: Core::new(plan.setup(me, disk.aside, held), BootTime(now))
                .expect("a usable setup"),
            storage: Storage::new(disk.generation, &disk.vows(), disk.aside),
            tick: span(TICK),
            learner,
            new_voters: life.new_voters.clone(),
            now: BootTime(now),
        });
        for at in 0..kernel.contacts.len() {
            let id = kernel.contacts[at].id;
            kernel.watch(id, true, now);
        }
        Ok(Self {
            controller,
            fast: Fast::new(plan, kernel, kernel.node.nonce ^ now, now),
            requests: VecDeque::new(),
            done: VecDeque::new(),
            work: Vec::new(),
            logs: Vec::new(),
            next_tick: now,
            leaving: false,
            file: plan.config_hash(),
            fingerprints: plan.fingerprints(),
            warm: plan.warm,
            resources: vec![false; plan.groups],
            upkeep: Upkeep::new(plan, now),
            answers_for_it: plan.answers_for_it,
            auditor: Auditor::new(life.new_voters),
            mutant,
        })
    }

    /// Returns how far this node is with a group.
    pub(crate) fn phase(&self, group: usize) -> Phase {
        self.controller.core().view().groups[group].phase
    }

    /// Takes away what is this node's.
    pub(crate) fn leave(&mut self, departure: &mut Departure<'_>) -> Result<Left, ()> {
        self.mutant.leave(departure)
    }

    /// Has the engine take a step.
    pub(crate) fn steer<T>(
        &mut self,
        machine: &mut Machine<'_>,
        step: impl FnOnce(&mut Controller, &mut Bent<'_, '_>) -> T,
    ) -> T {
        let hands = Hands {
            machine,
            auditor: &mut self.auditor,
            fast: &mut self.fast,
            work: &mut self.work,
            fingerprints: self.fingerprints,
            warm: self.warm,
            answers_for_it: self.answers_for_it,
        };
        let mut world = Bent { hands, mutant: &mut *self.mutant };
        let done = step(&mut self.controller, &mut world);
        world.mutant.stepped(&mut world.hands);
        self.controller.take_news();
        done
    }

    /// Goes round once; returns when to go round next, or `None` to exit.
    pub(crate) fn turn(&mut self, machine: &mut Machine<'_>) -> Option<u64> {
        if self.leaving {
            return self.bid_farewell(machine);
        }
        while let Some(report) = self.fast.hands().reports.pop_front() {
            self.on_report(machine, report);
        }
        let mut exits = self.act(machine);
        if !exits && machine.now >= self.next_tick {
            self.next_tick = machine.now + TICK;
            self.auditor.begin_round();
            self.steer(machine, |controller, world| controller.on_tick(world));
            self.auditor.end_round(&machine.kernel.contacts);
            self.look_after_addresses(machine);
            exits = self.act(machine);
        }
        while let (false, Some(done)) = (exits, self.done.pop_front()) {
            self.on_done(machine, done);
            exits = self.act(machine);
        }
        while let (false, Some(request)) = (exits, self.requests.pop_front()) {
            match request {
                Input::Stop => self.controller.stop(),
                Input::Gated { result, .. } => self.on_gated(machine, &result),
                Input::Aside(aside) => {
                    self.steer(machine, |controller, world| controller.stand_aside(world, aside));
                }
                input => self.controller.feed(input),
            }
            exits = self.act(machine);
        }
        while !exits && !machine.is_struck() {
            let due = self.controller.poll_timeout().map_or(u64::MAX, |due| due.0);
            if due > machine.now {
                return Some(due.min(self.next_tick));
            }
            self.steer(machine, |controller, world| controller.on_timeout(world));
            exits = self.act(machine);
        }
        self.leaving = true;
        self.bid_farewell(machine)
    }

    /// Does everything that is to be done now; returns whether to exit.
    fn act(&mut self, machine: &mut Machine<'_>) -> bool {
        loop {
            match self.steer(machine, |controller, world| controller.next(world)) {
                _ if machine.is_struck() => return false,
                Next::Do(action) => self.carry_out(action),
                Next::Tell(told) => self.logs.extend(told),
                Next::Rest => return false,
                Next::Exit(told) => {
                    self.logs.extend(told);
                    return true;
                }
            }
        }
    }

    /// As `daemon/act.rs`.
    fn carry_out(&mut self, action: Action) {
        let group = |group: GroupId| usize::from(group.0);
        let commands = &mut self.fast.commands;
        match action {
            Action::Publish { health, leaving } => {
                commands.push_back(Command::Publish { health, leaving });
            }
            Action::Arm { peer, groups } => {
                let mut armed = [false; GROUPS];
                groups.into_iter().for_each(|id| armed[group(id)] = true);
                commands.push_back(Command::Arm { peer, groups: armed });
            }
            Action::Seek { group, .. } => commands.push_back(Command::Seek { group }),
            Action::GiveUp { group } => commands.push_back(Command::GiveUp { group }),
            Action::Release { group, successor, .. } => {
                self.auditor.cool(group);
                commands.push_back(Command::Release { group, successor });
            }
            Action::Drop { group, .. } => {
                self.auditor.cool(group);
                commands.push_back(Command::Drop { group });
            }
            Action::Announce { group } => commands.push_back(Command::Announce { group }),
            Action::StartResources { group: id, epoch, .. } => {
                self.work.push(Work::Start { group: group(id), epoch });
            }
            Action::StopResources { group: id, .. } => {
                self.work.push(Work::Stop { group: group(id) });
            }
            // No simulated machine gets another file.
            Action::Regroup => {}
            Action::Fence { .. } | Action::Place { .. } | Action::Log(_) | Action::Exit => {
                unreachable!("the engine carries it out")
            }
        }
    }

    fn on_report(&mut self, machine: &mut Machine<'_>, report: Report) {
        let said = |result: Result<(), EffectError>| result.map_err(|error| error.to_string());
        self.steer(machine, |controller, world| match report {
            Report::Event(event) => controller.on_event(world, &event),
            Report::Sought { group } => controller.on_sought(world, group),
            Report::Took { group, epoch, result, .. } => {
                controller.on_took(world, group, epoch, said(result));
            }
            Report::Dropped { group, result, .. } => {
                controller.on_dropped(world, group, said(result));
            }
            Report::Warmed { group, result } => {
                controller.on_warmed(world, group, &said(result));
            }
            Report::Refused { .. } | Report::Rescheduled { .. } => {}
        });
    }

    fn on_done(&mut self, machine: &mut Machine<'_>, done: Done) {
        let Done { work, result } = done;
        let id = |group: usize| GroupId(group as u8);
        match work {
            Work::Start { group, epoch } => {
                self.resources[group] |= result.is_ok();
                let group = id(group);
                return self.controller.feed(Input::ResourcesStarted { group, epoch, result });
            }
            Work::Stop { group } => {
                self.resources[group] = false;
                let group = id(group);
                return self.controller.feed(Input::ResourcesStopped { group, result });
            }
            _ => {}
        }
        self.steer(machine, |controller, world| match work {
            Work::Clean { group, number } => {
                let swept = match result {
                    Err(why) if why == THERE_IS_MORE => {
                        world.hands.work.push(Work::Clean { group, number });
                        Swept::More
                    }
                    result => Swept::Done(world.mutant.swept(result)),
                };
                controller.on_swept(world, id(group), number, swept);
            }
            Work::FenceDue(node) | Work::StoodBack(node) => {
                world.mutant.fence_due(&world.hands);
                controller.on_fence_due(world, node);
            }
            Work::Fence(node) => {
                world.hands.auditor.agent_done(node, result.is_ok());
                let result = world.mutant.agent(result);
                controller.on_agent(world, node, &result);
            }
            Work::Silence(asked) => controller.on_silent(world, asked),
            Work::Store(write) => {
                if result.is_ok() {
                    world.hands.machine.disk.store(&write);
                }
                world.hands.auditor.written();
                let result = world.mutant.written(result);
                controller.on_written(world, result);
            }
            Work::Start { .. } | Work::Stop { .. } => {}
        });
    }

    fn on_gated(&mut self, machine: &mut Machine<'_>, result: &Result<(), String>) {
        let groups = (0..machine.kernel.records.len() as u8).map(GroupId);
        let groups = groups.map(|group| (group, result.clone())).collect();
        let all = result.is_ok();
        self.steer(machine, |controller, world| controller.on_gated(world, groups, all));
        self.auditor.gated(&self.controller.core().view().groups, all);
    }

    /// Waits for the disk, and for the holder to go on alone; `None` once that is so, or took too
    /// long.
    fn bid_farewell(&mut self, machine: &mut Machine<'_>) -> Option<u64> {
        // Nothing else is heard of by now.
        let stored = |done: &Done| matches!(done.work, Work::Store(_));
        for done in std::mem::take(&mut self.done).into_iter().filter(stored) {
            self.on_done(machine, done);
        }
        let over = self.steer(machine, |controller, world| controller.bid_farewell(world));
        (!over || machine.is_struck()).then_some(machine.now + 1_000_000)
    }
}

impl Hands<'_, '_> {
    /// Tells whether there are addresses of a group that this daemon knows of.
    pub(crate) fn has_taken(&mut self, group: GroupId) -> bool {
        self.fast.hands().taken[usize::from(group.0)]
    }
}

impl World for Hands<'_, '_> {
    fn now(&self) -> BootTime {
        BootTime(self.machine.now)
    }

    fn policy(&self) -> Policy {
        self.machine.kernel.terms.policy()
    }

    fn others(&self) -> Vec<NodeId> {
        self.machine.kernel.contacts.iter().map(|contact| NodeId(contact.id)).collect()
    }

    fn groups(&self) -> Vec<GroupId> {
        (0..self.machine.kernel.records.len() as u8).map(GroupId).collect()
    }

    fn fingerprints(&self) -> [u32; GROUPS] {
        self.fingerprints
    }

    fn is_warm(&self, _: GroupId) -> bool {
        self.warm
    }

    fn config_hash(&self) -> u64 {
        self.machine.kernel.node.config_hash
    }

    fn peer(&self, peer: NodeId) -> Option<Peer> {
        self.auditor.looks_at(peer);
        self.machine.kernel.peer(peer.0).copied()
    }

    fn record(&self, group: GroupId) -> Option<Record> {
        self.auditor.looks_at_record();
        self.machine.kernel.records.get(usize::from(group.0)).copied()
    }

    fn order(&mut self, order: Order) -> Option<Order> {
        if !self.machine.calls() {
            return None;
        }
        self.auditor.order(&order, self.machine);
        let fails = self.machine.fail_orders && self.machine.rng.chance(300);
        if fails && self.machine.rng.chance(500) {
            return None;
        }
        let answer = self.machine.kernel.order(order, self.machine.now);
        self.auditor.ordered(&order, &answer);
        (!fails && !self.machine.is_struck()).then_some(answer)
    }

    fn fast_path_answers(&mut self) -> bool {
        let answers = self.fast.went_round(self.machine.now, self.answers_for_it);
        self.auditor.answers(answers);
        answers
    }

    fn stamp(&mut self) {
        if self.machine.calls() {
            self.auditor.stamps();
            self.machine.kernel.node.controller_stamp_ns = self.machine.now;
        }
    }

    fn watch(&mut self, peer: NodeId) -> bool {
        self.machine.kernel.watch(peer.0, false, self.machine.now);
        true
    }

    fn set_buddy(&mut self, peer: NodeId, buddy: Option<NodeId>) {
        let mut contacts = self.machine.kernel.contacts.iter_mut();
        if let Some(contact) = contacts.find(|contact| contact.id == peer.0) {
            contact.peer.buddy = buddy.map_or(0, |buddy| buddy.0);
        }
    }

    fn write(&mut self, write: Write) {
        if self.machine.calls() {
            self.auditor.write(&write, self.machine);
            self.work.push(Work::Store(write));
        }
    }

    fn delay_fence(&mut self, node: NodeId) {
        if self.machine.calls() {
            self.work.push(Work::FenceDue(node));
        }
    }

    /// Whoever is there may answer or not, whatever is wrong with the network.
    fn is_answered(&self, _: NodeId) -> bool {
        !self.machine.now.is_multiple_of(3)
    }

    fn stand_back(&mut self, node: NodeId) {
        if self.machine.calls() {
            self.work.push(Work::StoodBack(node));
        }
    }

    fn run_agent(&mut self, node: NodeId, asked: &[(GroupId, Epoch)]) -> Result<(), String> {
        if self.machine.calls() {
            self.auditor.run_agent(node, asked, self.machine.kernel);
            self.work.push(Work::Fence(node));
        }
        Ok(())
    }

    fn await_silence(&mut self, asked: Vec<(GroupId, Epoch)>) {
        self.work.push(Work::Silence(asked));
    }

    fn sweep(&mut self, group: GroupId, number: u64) -> Sweep {
        if self.machine.calls() {
            self.work.push(Work::Clean { group: group.0.into(), number });
        }
        Sweep::Begun
    }

    fn warm(&mut self, group: GroupId) {
        if self.machine.calls() {
            let taken = self.has_taken(group);
            self.auditor.warm(group, taken, self.machine);
            self.fast.commands.push_back(Command::Warm { group });
        }
    }

    fn cool(&mut self, group: GroupId) {
        if self.machine.calls() {
            self.auditor.cool(group);
            self.fast.commands.push_back(Command::Cool { group });
        }
    }
}

impl World for Bent<'_, '_> {
    fn now(&self) -> BootTime {
        self.hands.now()
    }

    fn policy(&self) -> Policy {
        self.hands.policy()
    }

    fn others(&self) -> Vec<NodeId> {
        self.hands.others()
    }

    fn groups(&self) -> Vec<GroupId> {
        self.hands.groups()
    }

    fn fingerprints(&self) -> [u32; GROUPS] {
        self.hands.fingerprints()
    }

    fn is_warm(&self, group: GroupId) -> bool {
        self.hands.is_warm(group)
    }

    fn config_hash(&self) -> u64 {
        self.hands.config_hash()
    }

    fn peer(&self, peer: NodeId) -> Option<Peer> {
        self.mutant.peer(&self.hands, peer)
    }

    fn record(&self, group: GroupId) -> Option<Record> {
        self.mutant.record(&self.hands, group)
    }

    fn order(&mut self, order: Order) -> Option<Order> {
        self.mutant.order(&mut self.hands, order)
    }

    fn fast_path_answers(&mut self) -> bool {
        self.mutant.fast_path_answers(&mut self.hands)
    }

    fn stamp(&mut self) {
        self.hands.stamp();
    }

    fn watch(&mut self, peer: NodeId) -> bool {
        self.hands.watch(peer)
    }

    fn set_buddy(&mut self, peer: NodeId, buddy: Option<NodeId>) {
        self.hands.set_buddy(peer, buddy);
    }

    fn write(&mut self, write: Write) {
        self.mutant.write(&mut self.hands, write);
    }

    fn delay_fence(&mut self, node: NodeId) {
        self.mutant.delay_fence(&mut self.hands, node);
    }

    fn is_answered(&self, node: NodeId) -> bool {
        self.hands.is_answered(node)
    }

    fn stand_back(&mut self, node: NodeId) {
        self.hands.stand_back(node);
    }

    fn run_agent(&mut self, node: NodeId, asked: &[(GroupId, Epoch)]) -> Result<(), String> {
        self.mutant.run_agent(&mut self.hands, node, asked)
    }

    fn await_silence(&mut self, asked: Vec<(GroupId, Epoch)>) {
        self.hands.await_silence(asked);
    }

    fn sweep(&mut self, group: GroupId, number: u64) -> Sweep {
        self.mutant.sweep(&mut self.hands, group, number)
    }

    fn warm(&mut self, group: GroupId) {
        self.hands.warm(group);
    }

    fn cool(&mut self, group: GroupId) {
        self.mutant.cool(&mut self.hands, group);
    }
}

/// The process, or its machine, has ended.
#[derive(Debug)]
pub(crate) struct Struck;

/// A machine on which a daemon starts.
pub(crate) struct Birth<'a> {
    pub(crate) machine: Machine<'a>,
    terms: Terms,
    fingerprints: [u32; GROUPS],
    wrong: Option<String>,
}

/// The groups of the file beside the records of a kernel half, and whether its terms are others.
#[derive(Clone, Copy)]
pub(crate) struct Before {
    pub(crate) places: Places,
    pub(crate) new_terms: bool,
}

impl Birth<'_> {
    /// One call more, which has an effect or not; it is the last if the process is struck.
    fn call<T>(&mut self, effect: impl FnOnce(&mut Self) -> T) -> Result<T, Struck> {
        let done = self.machine.calls().then(|| effect(self));
        done.filter(|_| !self.machine.is_struck()).ok_or(Struck)
    }

    fn check(&mut self, holds: bool, wrong: impl FnOnce() -> String) {
        if !holds {
            self.wrong.get_or_insert_with(wrong);
        }
    }

    pub(crate) fn found(&self, plan: &Plan, records: bool) -> Found {
        let kernel = &*self.machine.kernel;
        let learns = |record: &Record| record.fingerprint != 0 && start::is_learner(record);
        Found {
            records,
            incarnation: kernel.node.incarnation,
            learns: kernel.records.iter().any(learns),
            lacks: kernel.places(plan.fingerprints()).begun().next().is_some(),
        }
    }

    /// Returns what of the records is there before.
    pub(crate) fn before(&self) -> Before {
        let kernel = &*self.machine.kernel;
        let new_terms = kernel.terms != self.terms;
        Before { places: kernel.places(self.fingerprints), new_terms }
    }
}

impl Numbers for Birth<'_> {
    type Error = Struck;

    fn reserve_incarnation(&mut self, earlier: u32) -> Result<u32, Struck> {
        self.call(|birth| {
            let disk = &mut *birth.machine.disk;
            disk.incarnation = disk.incarnation.max(earlier) + 1;
            disk.incarnation
        })
    }

    fn take_note(&mut self) -> Result<Option<BootTime>, Struck> {
        self.call(|birth| birth.machine.disk.parted.take().map(BootTime))
    }

    fn voters(&mut self) -> Result<Option<String>, Struck> {
        Ok(self.machine.disk.voters.clone())
    }

    fn store_voters(&mut self, set: &str) -> Result<(), Struck> {
        self.call(|birth| birth.machine.disk.voters = Some(set.to_owned()))
    }

    fn generation(&mut self) -> Result<u32, Struck> {
        Ok(self.machine.disk.generation)
    }

    fn reserve_generation(&mut self) -> Result<u32, Struck> {
        self.call(|birth| {
            birth.machine.disk.generation += 1;
            birth.machine.disk.generation
        })
    }
}

impl Records for Birth<'_> {
    type Error = Struck;

    fn order(&mut self, order: Order) -> Result<Order, Struck> {
        self.call(|birth| {
            let begins = matches!(Op::from_code(order.op), Some(Op::Start | Op::Learner));
            let noted = birth.machine.disk.parted.is_some();
            birth.check(!(begins && noted), || "begins records beside its note".to_owned());
            let stored = birth.machine.disk.generation;
            birth.check(order.generation <= stored, || {
                format!("begins at generation {}, which is not stored", order.generation)
            });
            birth.machine.kernel.order_to_begin(order, birth.machine.now)
        })
    }

    fn set_terms(&mut self) -> Result<(), Struck> {
        self.call(|birth| {
            let (kernel, now) = (&mut *birth.machine.kernel, birth.machine.now);
            let blocked = now + kernel.terms.amnesia_ns();
            // An endless lease is left alone; of a group that nobody had nothing was promised.
            let free = |record: &&Record| {
                record.fingerprint != 0 && !record.is_endless() && record.blocked_until_ns < blocked
            };
            let free = kernel.terms.policy() != Policy::Available
                && kernel.node.incarnation != 0
                && kernel.records.iter().any(|record| free(&record));
            kernel.terms = birth.terms;
            birth.check(!free, || "takes new terms while promises of the old ones bind".to_owned());
        })
    }

    fn set_addresses(&mut self) -> Result<(), Struck> {
        self.call(|_| ())
    }
}

/// A machine from which a daemon takes all that was its.
pub(crate) struct Departure<'a> {
    /// What is pinned, and what is only in the hands of who leaves.
    pub(crate) pinned: &'a mut Option<Kernel>,
    pub(crate) kept: Option<Kernel>,
    pub(crate) disk: &'a mut Disk,
    pub(crate) now: u64,
    /// Of the calls that follow, only so many are made.
    pub(crate) strike: &'a mut Option<Strike>,
    pub(crate) wrong: Option<String>,
}

impl Departure<'_> {
    fn calls(&mut self) -> bool {
        self.strike.as_mut().is_none_or(Strike::call)
    }
}

impl Parting for Departure<'_> {
    type Error = ();

    fn take_away(&mut self) -> Result<bool, ()> {
        if !self.calls() {
            return Err(());
        }
        // Addresses and sockets go first, and the gate last, in which nothing fails here.
        if let Some(mut kernel) = self.pinned.take() {
            kernel.close_all(self.now);
            self.kept = Some(kernel);
        }
        Ok(true)
    }

    fn order(&mut self, order: Order) -> Result<Order, String> {
        if !self.calls() {
            return Err("killed".to_owned());
        }
        let now = self.now;
        let kernel = self.kept.as_mut().or(self.pinned.as_mut()).ok_or("no records")?;
        // Of a group that no file has.
        if usize::from(order.group) >= kernel.records.len() {
            return Ok(Order { code: hb_ebpf::lease::op::DONE, now_ns: 0, ..order });
        }
        Ok(kernel.order(order, now))
    }

    fn note(&mut self, end: BootTime) -> Result<(), String> {
        if self.calls() {
            if self.pinned.is_some() {
                self.wrong = Some("leaves a note before its pins are gone".to_owned());
            }
            let kernel = self.kept.as_ref().or(self.pinned.as_ref());
            if kernel.is_some_and(|kernel| kernel.bound_until() > end.ns()) {
                self.wrong = Some("leaves a note that is too early".to_owned());
            }
            self.disk.parted = Some(end.ns());
        }
        Ok(())
    }
}
