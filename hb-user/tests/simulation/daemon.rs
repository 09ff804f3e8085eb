//! The main loop of a daemon: the real engine of the controller with the real core, and the machine's side
//! of it. What `daemon/` does with threads and descriptors is a list of work here, and the world says how long it takes.

use std::collections::VecDeque;

use hb_ebpf::{
    epoch::Epoch,
    time::BootTime,
    wire::{GROUPS, State},
};
use hb_user::{
    core::{
        Action, Core, Input, Phase, Transition,
        storage::{Storage, Write},
    },
    engine::controller::{self, Controller, Left, Next, Swept},
    engine::takeover::{Command, EffectError, Report},
    id::{GroupId, NodeId},
};

use crate::{
    auditor::Auditor,
    fast::Fast,
    hands::{Bent, Hands},
    leaving::Departure,
    machine::Machine,
    mutants::Mutant,
    plan::{Plan, TICK, span},
    start::{Birth, Struck},
    upkeep::Upkeep,
};

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
            Action::StartResources { group: id, epoch, .. }
            | Action::RestartResources { group: id, epoch, .. } => {
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
            Work::FenceDue(node) => {
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
