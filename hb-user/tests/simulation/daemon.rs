//! The main loop of a daemon around the real core: what `daemon/` does, without a system.

use std::collections::VecDeque;

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        fence::Vow,
        identity,
        op::{DONE, Op, Order, WAIT},
        start,
    },
    maps::{EventKind, Life},
    time::BootTime,
    wire::{GROUPS, State},
};
use hb_user::{
    beginning::Beginning,
    core::{
        Action, Core, Input, PeerFacts, RecordFacts, Transition,
        storage::{Storage, Write},
    },
    engine::takeover::{Command, Report, Trigger},
    id::{GroupId, NodeId},
};

use crate::{
    fast::{Addresses, Fast},
    kernel::Kernel,
    plan::{Plan, TICK},
    upkeep::Upkeep,
};

/// What a machine's disk holds of hb.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) incarnation: u32,
    pub(crate) generation: u32,
    /// Per group, the epoch promised without an end.
    pub(crate) vows: Vec<Option<Epoch>>,
    /// When what was promised has run out, by the clock of this boot.
    pub(crate) parted: Option<u64>,
}

impl Disk {
    pub(crate) fn store(&mut self, write: &Write) {
        match write {
            Write::Generation(generation) => self.generation = self.generation.max(*generation),
            Write::Voters(_) => {}
            Write::Vow(group, epoch) => self.vows[usize::from(group.0)] = *epoch,
        }
    }
}

/// What a daemon that leaves does last.
struct Farewell {
    /// Groups whose promises may have to be stored, and until when that is waited for.
    asked: Vec<usize>,
    give_up: u64,
    /// Groups promised without an end, and to whom; and until when these are waited for.
    bound: Vec<(usize, u8)>,
    end: u64,
}

/// Work that takes time, begun by a daemon.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Clean {
        group: usize,
    },
    Start {
        group: usize,
        epoch: Epoch,
    },
    Stop {
        group: usize,
    },
    /// The delay before a fence is over.
    FenceDue,
    /// The agent runs.
    Fence,
    /// The last packets of a node that was fenced leave.
    Silence,
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
    pub(crate) core: Core,
    pub(crate) fast: Fast,
    inputs: VecDeque<Input>,
    /// What operators and signals ask for: heard last, like by the loop in `daemon/mod.rs`.
    pub(crate) requests: VecDeque<Input>,
    pub(crate) done: VecDeque<Done>,
    /// Work to be begun: the world says how long it takes.
    pub(crate) work: Vec<Work>,
    pub(crate) logs: Vec<Transition>,
    next_tick: u64,
    round: u64,
    learner: bool,
    pub(crate) fingerprints: [u32; GROUPS],
    /// For which group and epoch a fence is wanted, and those that the agent runs for.
    wanted: Vec<(GroupId, Epoch)>,
    fencing: Vec<(GroupId, Epoch)>,
    /// And those whose records wait for the last packets of the other node.
    silent: Vec<(GroupId, Epoch)>,
    fence_due: bool,
    farewell: Option<Farewell>,
    storage: Storage,
    pub(crate) resources: Vec<bool>,
    pub(crate) upkeep: Upkeep,
    /// A wrong daemon, which takes its fast path to go round.
    answers_for_it: bool,
}

/// What a turn of the main loop works on.
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a mut Kernel,
    pub(crate) disk: &'a mut Disk,
    pub(crate) addresses: &'a mut Addresses,
    pub(crate) now: u64,
}

impl Daemon {
    /// Starts, as `daemon/start.rs`: `found` tells that the kernel half was there before.
    pub(crate) fn start(plan: &Plan, me: usize, machine: &mut Machine<'_>, found: bool) -> Self {
        let Machine { kernel, disk, now, .. } = machine;
        let now = *now;
        let available = kernel.terms.policy() == hb_ebpf::lease::Policy::Available;
        disk.incarnation += 1;
        disk.vows.resize(plan.groups, None);
        let parted = disk.parted.take();
        if !found {
            let lost = disk.generation == 0 && !available;
            if !lost {
                disk.generation += 1;
            }
            let parted = parted.map(BootTime);
            let new = Beginning::New(disk.generation, parted);
            kernel.begin(if lost { Beginning::Lost } else { new }, plan.fingerprints(), now);
        } else if kernel.places(plan.fingerprints()).begun().next().is_some() {
            let learns = kernel.records.iter().any(start::is_learner);
            let number = !learns && (disk.generation != 0 || available);
            let generation = number.then(|| {
                disk.generation += 1;
                disk.generation
            });
            kernel.begin(Beginning::Found(generation), plan.fingerprints(), now);
        }
        let learner = kernel.records.iter().any(start::is_learner);
        let stored = disk.vows.iter().enumerate();
        let vows = stored.filter_map(|(at, vow)| Some((GroupId(at as u8), (*vow)?))).collect();
        for group in 0..plan.groups as u8 {
            kernel.order(Order::new(Op::FenceFailed, group), now);
            let vow = disk.vows[usize::from(group)].unwrap_or(Epoch::NONE);
            kernel.order(Order { epoch: vow.0, ..Order::new(Op::Rejoin, group) }, now);
        }
        kernel.node.incarnation = disk.incarnation;
        kernel.node.controller_stamp_ns = now;
        let held = |group: GroupId| {
            let record = &kernel.records[usize::from(group.0)];
            (record.state() == State::Holding).then_some(Epoch(record.epoch))
        };
        let core = Core::new(plan.setup(me, held), BootTime(now)).expect("a usable setup");
        for at in 0..kernel.contacts.len() {
            let id = kernel.contacts[at].id;
            kernel.watch(id, true, now);
        }
        Self {
            core,
            fast: Fast::new(plan, kernel, kernel.node.nonce ^ now, now),
            inputs: VecDeque::new(),
            requests: VecDeque::new(),
            done: VecDeque::new(),
            work: Vec::new(),
            logs: Vec::new(),
            next_tick: now,
            round: now,
            learner,
            fingerprints: plan.fingerprints(),
            wanted: Vec::new(),
            fencing: Vec::new(),
            silent: Vec::new(),
            fence_due: false,
            farewell: None,
            storage: Storage::new(disk.generation, &vows),
            resources: vec![false; plan.groups],
            upkeep: Upkeep::new(plan, now),
            answers_for_it: plan.answers_for_it,
        }
    }

    fn feed(&mut self, input: Input) {
        self.inputs.push_back(input);
    }

    /// Goes round once; returns when to go round next, or `None` to exit.
    pub(crate) fn turn(&mut self, machine: &mut Machine<'_>) -> Option<u64> {
        if self.farewell.is_some() {
            return self.bid_farewell(machine);
        }
        if machine.now > self.round + 3 * TICK {
            // As `catch_up` in `daemon/observe.rs`.
            for at in 0..machine.kernel.contacts.len() {
                let peer = machine.kernel.contacts[at].id;
                self.look_at(machine, peer);
            }
        }
        self.round = machine.now;
        while let Some(report) = self.fast.hands().reports.pop_front() {
            self.on_report(machine, report);
        }
        while let Some(done) = self.done.pop_front() {
            self.on_done(machine, done);
        }
        if machine.now >= self.next_tick {
            self.next_tick = machine.now + TICK;
            self.on_tick(machine);
        }
        self.inputs.extend(self.requests.drain(..));
        let now = BootTime(machine.now);
        self.store(machine.now);
        if !self.act(machine) {
            self.core.handle_timeout(now);
            if !self.act(machine) {
                let due = self.core.poll_timeout().map_or(u64::MAX, |due| due.0);
                assert!(due > machine.now, "the core wants to be called in the past");
                return Some(due.min(self.next_tick));
            }
        }
        let safe = machine.kernel.terms.policy() == hb_ebpf::lease::Policy::Safe;
        self.farewell = Some(Farewell {
            asked: (0..machine.kernel.records.len()).filter(|_| safe).collect(),
            give_up: machine.now + 5_000_000_000,
            bound: Vec::new(),
            end: 0,
        });
        self.bid_farewell(machine)
    }

    /// Returns whether to exit.
    fn act(&mut self, machine: &mut Machine<'_>) -> bool {
        loop {
            while let Some(action) = self.core.poll_action() {
                if self.carry_out(machine, action) {
                    return true;
                }
            }
            let Some(input) = self.inputs.pop_front() else { return false };
            self.core.handle(input, BootTime(machine.now));
        }
    }

    fn carry_out(&mut self, machine: &mut Machine<'_>, action: Action) -> bool {
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
                self.upkeep.leave(group);
                commands.push_back(Command::Release { group, successor });
            }
            Action::Drop { group, .. } => {
                self.upkeep.leave(group);
                commands.push_back(Command::Drop { group });
            }
            Action::Announce { group } => commands.push_back(Command::Announce { group }),
            Action::Fence { group, epoch, .. } => {
                self.wanted.push((group, epoch));
                self.schedule_fence();
            }
            Action::StartResources { group: id, epoch, .. } => {
                self.work.push(Work::Start { group: group(id), epoch });
            }
            Action::StopResources { group: id, .. } => {
                self.work.push(Work::Stop { group: group(id) });
            }
            Action::Place { group, standing } => {
                self.order(machine, Order::placed(group.0, standing));
            }
            Action::Log(transition) => self.logs.push(transition),
            // No simulated machine gets another file.
            Action::Regroup => {}
            Action::Exit => return true,
        }
        false
    }

    fn on_report(&mut self, machine: &mut Machine<'_>, report: Report) {
        match report {
            Report::Event(event) => match EventKind::from_code(event.kind) {
                Some(EventKind::Lease) => {
                    self.look_at(machine, event.peer);
                    self.look_at_record(machine, usize::from(event.link));
                }
                Some(EventKind::Dead | EventKind::Controller) => {
                    for group in 0..machine.kernel.records.len() {
                        self.look_at_record(machine, group);
                    }
                    self.look_at(machine, event.peer);
                }
                Some(EventKind::Paused) => {}
                _ => self.look_at(machine, event.peer),
            },
            Report::Sought { group } => self.look_at_record(machine, group.0.into()),
            Report::Took { group, epoch, trigger, result, .. } => {
                if let Trigger::Death(peer, _)
                | Trigger::Controller(peer)
                | Trigger::Release(peer) = trigger
                {
                    self.look_at(machine, peer.0);
                }
                self.look_at_record(machine, group.0.into());
                let result = result.map_err(|error| error.to_string());
                self.feed(Input::Took { group, epoch, result });
            }
            Report::Dropped { group, result: Ok(()), .. } => {
                self.work.push(Work::Clean { group: group.0.into() });
            }
            Report::Dropped { group, result: Err(error), .. } => {
                self.feed(Input::Dropped { group, result: Err(error.to_string()) });
            }
            Report::Warmed { group, result: Ok(()) } => self.upkeep.warmed(group),
            Report::Warmed { .. } | Report::Refused { .. } | Report::Rescheduled { .. } => {}
        }
    }

    fn on_done(&mut self, machine: &mut Machine<'_>, done: Done) {
        let Done { work, result } = done;
        let id = |group: usize| GroupId(group as u8);
        match work {
            Work::Clean { group } if result.as_ref().is_err_and(|why| why == THERE_IS_MORE) => {
                self.feed(Input::Dropping { group: id(group) });
                self.work.push(work);
            }
            Work::Clean { group } => {
                if result.is_ok() {
                    self.order(machine, Order::new(Op::Cleaned, group as u8));
                }
                self.feed(Input::Dropped { group: id(group), result });
            }
            Work::Start { group, epoch } => {
                self.resources[group] |= result.is_ok();
                self.feed(Input::ResourcesStarted { group: id(group), epoch, result });
            }
            Work::Stop { group } => {
                self.resources[group] = false;
                self.feed(Input::ResourcesStopped { group: id(group), result });
            }
            Work::FenceDue => self.begin_fence(machine),
            Work::Fence => {
                let asked = std::mem::take(&mut self.fencing);
                self.report_fence(machine, asked, &result);
                self.schedule_fence();
            }
            Work::Silence => {
                let asked = std::mem::take(&mut self.silent);
                self.report_fence(machine, asked, &result);
            }
            Work::Store(write) => {
                machine.disk.store(&write);
                self.storage.done(result, BootTime(machine.now));
                self.look_at_records(machine);
            }
        }
    }

    /// As `daemon/disk.rs`.
    fn store(&mut self, now: u64) {
        self.work.extend(self.storage.next(BootTime(now)).map(Work::Store));
    }

    fn on_tick(&mut self, machine: &mut Machine<'_>) {
        self.look_after_addresses(machine);
        if self.fast.went_round(machine.now, self.answers_for_it) {
            machine.kernel.node.controller_stamp_ns = machine.now;
        }
        let others: Vec<u8> = machine.kernel.contacts.iter().map(|contact| contact.id).collect();
        let mut alive = Vec::new();
        for peer in &others {
            self.look_at(machine, *peer);
            let Some(contact) = machine.kernel.contact(*peer) else { continue };
            if contact.is_alive() {
                alive.push(*peer);
            }
            if contact.peer.watched == 0 {
                machine.kernel.watch(*peer, false, machine.now);
            }
        }
        self.look_at_records(machine);
        for contact in &mut machine.kernel.contacts {
            let buddy = alive.iter().find(|other| **other != contact.id);
            contact.peer.buddy = buddy.copied().unwrap_or(0);
        }
    }

    fn look_at(&mut self, machine: &Machine<'_>, peer: u8) {
        if let Some(state) = machine.kernel.peer(peer) {
            self.feed(Input::Peer {
                peer: NodeId(peer),
                facts: PeerFacts::of(state, &self.fingerprints),
            });
        }
    }

    fn look_at_record(&mut self, machine: &Machine<'_>, group: usize) {
        let record = RecordFacts::from(&machine.kernel.records[group]);
        self.feed(Input::Record { group: GroupId(group as u8), record });
    }

    fn order(&mut self, machine: &mut Machine<'_>, order: Order) -> bool {
        let group = usize::from(order.group);
        let done = machine.kernel.order(order, machine.now).code == DONE;
        self.look_at_record(machine, group);
        done
    }

    /// As `daemon/records.rs`.
    fn look_at_records(&mut self, machine: &mut Machine<'_>) {
        self.learn(machine);
        for group in 0..machine.kernel.records.len() {
            self.keep_generation(machine, group);
            if self.farewell.is_none() {
                self.forget_vow(machine, group);
            }
            self.look_at_record(machine, group);
        }
    }

    fn keep_generation(&mut self, machine: &mut Machine<'_>, group: usize) {
        if self.learner {
            return;
        }
        let wanted = start::generation_wanted(&machine.kernel.records[group]);
        if let Some(generation) = wanted.and_then(|wanted| self.storage.keep(wanted)) {
            let order = Order { generation, ..Order::new(Op::GenerationStored, group as u8) };
            self.order(machine, order);
        }
    }

    fn learn(&mut self, machine: &mut Machine<'_>) {
        if !self.learner || !machine.kernel.contacts.iter().all(crate::kernel::Contact::is_alive) {
            return;
        }
        let learned = machine.kernel.records.iter().filter_map(start::learned_generation).max();
        let learned = learned.expect("numbers enough");
        let Some(generation) = self.storage.take_part(None, learned) else { return };
        self.learner = false;
        for group in 0..machine.kernel.records.len() as u8 {
            self.order(machine, Order { generation, ..Order::new(Op::Start, group) });
        }
    }

    /// As `daemon/fence.rs`.
    fn schedule_fence(&mut self) {
        if !self.fence_due && self.fencing.is_empty() && !self.wanted.is_empty() {
            self.fence_due = true;
            self.work.push(Work::FenceDue);
        }
    }

    /// Tells whether the other node lives.
    fn is_heard(&self, machine: &Machine<'_>) -> bool {
        let mut lives = machine.kernel.contacts.iter().map(|other| other.peer.life);
        lives.any(|life| matches!(Life::from_code(life), Life::Alive | Life::Late))
    }

    fn begin_fence(&mut self, machine: &mut Machine<'_>) {
        self.fence_due = false;
        for (group, epoch) in std::mem::take(&mut self.wanted) {
            let record = &machine.kernel.records[usize::from(group.0)];
            let same = record.epoch == epoch.0 && !self.is_heard(machine);
            if same && self.order(machine, Order::new(Op::FenceAsk, group.0)) {
                self.fencing.push((group, epoch));
            } else {
                let result = Err("not sought any more".to_owned());
                self.feed(Input::Fenced { group, epoch, result });
            }
        }
        if !self.fencing.is_empty() {
            self.work.push(Work::Fence);
        }
    }

    fn report_fence(
        &mut self,
        machine: &mut Machine<'_>,
        asked: Vec<(GroupId, Epoch)>,
        result: &Result<(), String>,
    ) {
        let op = if result.is_ok() { Op::Fenced } else { Op::FenceFailed };
        for (group, epoch) in asked {
            let order = Order { epoch: epoch.0, ..Order::new(op, group.0) };
            let code = machine.kernel.order(order, machine.now).code;
            self.look_at_record(machine, usize::from(group.0));
            if code == WAIT {
                self.silent.push((group, epoch));
                continue;
            }
            let taken = code == DONE;
            let late = || Err("the report came too late".to_owned());
            let result = if taken || result.is_err() { result.clone() } else { late() };
            self.feed(Input::Fenced { group, epoch, result });
        }
        if !self.silent.is_empty() {
            self.work.push(Work::Silence);
        }
    }

    /// Binds this node, which leaves, to whoever holds a group; `None` while that waits for the disk,
    /// else to whom, 0 for nobody.
    fn vow(&mut self, machine: &mut Machine<'_>, group: usize) -> Option<u8> {
        let record = machine.kernel.records[group];
        let apart = matches!(record.state(), State::Idle | State::Released);
        if !apart || !record.is_bound(machine.now) || record.released != 0 {
            self.forget_vow(machine, group);
            return Some(0);
        }
        let promised = Epoch(record.promised);
        if !self.storage.vow(GroupId(group as u8), promised) {
            return None;
        }
        if !self.order(machine, Order::new(Op::Vow, group as u8)) {
            self.forget_vow(machine, group);
            return Some(0);
        }
        Some(promised.node())
    }

    fn forget_vow(&mut self, machine: &Machine<'_>, group: usize) {
        let id = GroupId(group as u8);
        if self.storage.has_vow(id) && machine.kernel.records[group].vow() == Vow::None {
            self.storage.forget_vow(id);
        }
    }

    /// Waits for the disk, and for the holder to go on alone; `None` once that is so, or took too
    /// long.
    fn bid_farewell(&mut self, machine: &mut Machine<'_>) -> Option<u64> {
        while let Some(done) = self.done.pop_front() {
            self.on_done(machine, done);
        }
        let now = machine.now;
        let Farewell { asked, give_up, mut bound, mut end } = self.farewell.take()?;
        let mut waiting = Vec::new();
        for group in asked {
            match self.vow(machine, group) {
                None => waiting.push(group),
                Some(0) => {}
                Some(holder) => {
                    bound.push((group, holder));
                    end = now + 1_000_000_000;
                }
            }
        }
        let kernel = &mut *machine.kernel;
        bound.retain(|(group, holder)| {
            let words = kernel.peer(*holder).map(|peer| peer.words).unwrap_or_default();
            let fingerprint = kernel.records[*group].fingerprint;
            !identity::find(&words, fingerprint, *group).is_some_and(|word| {
                word.state() == State::Holding
                    && word.epoch().0 == kernel.records[*group].promised
                    && word.is_endless()
            })
        });
        kernel.node.controller_stamp_ns = now;
        self.store(now);
        let waits = !waiting.is_empty() && now < give_up;
        let over = !waits && (bound.is_empty() || now >= end);
        self.farewell = Some(Farewell { asked: waiting, give_up, bound, end });
        (!over).then_some(now + 1_000_000)
    }
}
