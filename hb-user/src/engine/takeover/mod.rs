//! The order of steps of the fast path: what is done upon an event, a command and a change that was made, and
//! what is due when.
//!
//! [`Takeover::turn`] goes on until something has to be waited for, and says for what: a while, or the change of
//! one address, which takes as long as somebody holds the kernel's lock of interfaces. Everything else is done
//! at once through a [`World`]. Nothing is allocated.

mod burst;
mod group;
mod message;
mod pursuit;
mod quiet;
mod rules;
mod token;
mod world;

use hb_ebpf::{
    epoch::Epoch,
    lease::{Record, Terms, op::Order},
    maps::{Event, EventKind, Life, MAX_NODES, Peer},
    time::BootTime,
    wire::GROUPS,
};

pub use group::Shape;
pub use message::{Command, EffectError, Groups, Report, Steps, Trigger};
pub use pursuit::{Ground, Pursuit};
pub use rules::{Production, Rule, Rules};
pub use token::{AWAY, Token};
pub use world::{AddressChange, Peers, Rebound, World};

use crate::{
    address::Done,
    id::{GroupId, NodeId},
};

use burst::Burst;
use group::{Group, Next as NextStep, Stepped, Task};
use quiet::Quiet;

/// A wake-up this early before a deadline is on time: the kernel rounds.
const EARLY_NS: u64 = 1_000;

/// What the thread is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// To make this change, and to say what came of it by [`Takeover::changed`].
    Change(AddressChange),
    /// To sleep for this long, in nanoseconds, or until there is an event or a command.
    Wait(u64),
    /// To end.
    Exit,
}

/// Where in a round the thread is.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Events,
    Commands,
    Deadlines,
    Rest,
}

/// The order of steps of the fast path.
pub struct Takeover<R> {
    stage: Stage,
    interval_ns: u64,
    /// When probes leave next, in nanoseconds of boot time.
    next_probe: u64,
    /// When misses are counted next, where this thread does.
    next_count: u64,
    pursuit: Pursuit,
    hands: Hands<R>,
    /// Peers whose misses this thread counts itself.
    watched: Peers,
    burst: Burst,
    /// An event that was acted upon, and that the daemon is to hear of once its first addresses were changed.
    heard: Option<Event>,
    /// Groups that the daemon asked for among the commands that are being heard.
    sought: Groups,
}

/// What is being done to the addresses of the groups, and what the daemon is told.
struct Hands<R> {
    rules: R,
    groups: [Group; GROUPS],
    /// How many of those there are.
    count: usize,
    /// One address of each group is changed; which group is next.
    sweep: Option<usize>,
    /// What the thread was asked to change, and has not said yet what came of it.
    asked: Option<AddressChange>,
    /// The deputy stands in for this thread.
    is_away: bool,
    quiet: Quiet,
}

/// The hands, with the world that they work on.
struct Reach<'a, R, W> {
    hands: &'a mut Hands<R>,
    world: &'a mut W,
}

impl<R: Rules> Takeover<R> {
    /// Begins at `now_ns`, with these groups, by their numbers; `watched` are the peers whose misses are counted
    /// here and not by the kernel's timers.
    ///
    /// # Panics
    ///
    /// If there are more groups than a frame has room for.
    #[must_use]
    pub fn new(
        rules: R,
        terms: Terms,
        shapes: &[Shape],
        watched: Peers,
        interval_ns: u64,
        now_ns: u64,
    ) -> Self {
        let mut groups = [Group::default(); GROUPS];
        for (group, shape) in groups[..shapes.len()].iter_mut().zip(shapes) {
            *group = Group::new(*shape);
        }
        let hands = Hands {
            rules,
            groups,
            count: shapes.len(),
            sweep: None,
            asked: None,
            is_away: false,
            quiet: Quiet::default(),
        };
        Self {
            stage: Stage::Events,
            interval_ns,
            next_probe: now_ns,
            next_count: u64::MAX,
            pursuit: Pursuit::new(terms, interval_ns),
            hands,
            watched,
            burst: Burst::default(),
            heard: None,
            sought: [false; GROUPS],
        }
    }

    /// Goes on until there is something to wait for.
    pub fn turn<W: World>(&mut self, world: &mut W) -> Next {
        loop {
            if let Some(change) = self.hands.next_change(world) {
                return Next::Change(change);
            }
            if let Some(event) = self.heard.take() {
                self.tell(world, &event);
            }
            match self.stage {
                Stage::Events => match world.event() {
                    Some(event) => {
                        if !self.hands.rules.keeps(Rule::RoundShownAtItsEnd) {
                            world.went_round();
                        }
                        self.on_event(world, event);
                    }
                    None => self.stage = Stage::Commands,
                },
                Stage::Commands => match world.command() {
                    Some(Command::Exit) => return Next::Exit,
                    Some(command) => self.on_command(world, command),
                    None => {
                        self.seek(world);
                        world.went_round();
                        self.hands.begin_sweep(world);
                        self.stage = Stage::Deadlines;
                    }
                },
                Stage::Deadlines => {
                    self.probe_if_due(world);
                    self.count_misses(world);
                    let (pursuit, mut reach) = self.reach(world);
                    pursuit.go_on(&mut reach);
                    self.stage = Stage::Rest;
                }
                Stage::Rest => {
                    self.stage = Stage::Events;
                    return Next::Wait(self.rest(world));
                }
            }
        }
    }

    /// Hears what came of the change that [`turn`](Self::turn) asked for.
    pub fn changed<W: World>(&mut self, world: &mut W, result: Result<Done, EffectError>) {
        let Some(AddressChange { group, .. }) = self.hands.asked.take() else { return };
        let Hands { groups, rules, .. } = &mut self.hands;
        let stepped = groups[usize::from(group.0)].changed(world, rules, group, result);
        self.hands.conclude(world, group, stepped);
    }

    fn reach<'a, W>(&'a mut self, world: &'a mut W) -> (&'a mut Pursuit, Reach<'a, R, W>) {
        (&mut self.pursuit, Reach { hands: &mut self.hands, world })
    }

    fn on_event<W: World>(&mut self, world: &mut W, event: Event) {
        let seen = world.now();
        if event.kind == EventKind::Missed as u8 {
            return self.burst.begin(NodeId(event.peer), seen.ns());
        }
        let (pursuit, mut reach) = self.reach(world);
        pursuit.on_event(&mut reach, &event, seen);
        self.heard = Some(event);
    }

    /// Tells the daemon of an event, at once or when the service has had its core.
    fn tell<W: World>(&mut self, world: &mut W, event: &Event) {
        let hands = &mut self.hands;
        match EventKind::from_code(event.kind) {
            // What is not won yet may wait for a fence, which is the daemon's.
            Some(EventKind::Dead) if self.pursuit.is_under_way() => hands.end_quiet(world),
            // What is held may have to be handed over.
            Some(EventKind::Carrier) => hands.end_quiet(world),
            // No hurry, and a verdict may follow. Without a group there is no service to let run first.
            Some(EventKind::Late) if hands.count > 0 => hands.quiet.begin_once(world.now().ns()),
            _ => {}
        }
        hands.report(world, Report::Event(*event));
    }

    /// Begins to seek what was asked for. The kernel may have been waited for since: what ended the seek
    /// meanwhile was heard by now.
    fn seek<W: World>(&mut self, world: &mut W) {
        for (group, sought) in (0..).map(GroupId).zip(std::mem::take(&mut self.sought)) {
            if !sought {
                continue;
            }
            let steps = Steps { seen: world.now(), ..Steps::default() };
            let trigger = Trigger::Asked;
            let (pursuit, mut reach) = self.reach(world);
            if !pursuit.begin(&mut reach, group, trigger, steps) {
                let (epoch, result) = (Epoch::NONE, Err(EffectError::Unknown));
                let took = Report::Took { group, epoch, trigger, steps, unsent: 0, result };
                self.hands.report(world, took);
            }
        }
    }

    fn on_command<W: World>(&mut self, world: &mut W, command: Command) {
        if let Command::GiveUp { group } | Command::Release { group, .. } | Command::Drop { group } =
            command
            && let Some(sought) = self.sought.get_mut(usize::from(group.0))
        {
            *sought = false;
        }
        let Self { pursuit, hands, .. } = self;
        match command {
            Command::Publish { health, leaving } => {
                world.publish(&health, leaving);
                world.probe();
            }
            Command::Arm { peer, groups } => pursuit.arm(peer, groups),
            Command::Seek { group } => {
                if let Some(sought) = self.sought.get_mut(usize::from(group.0)) {
                    *sought = true;
                }
                if !hands.rules.keeps(Rule::SoughtWhenHeardOut) {
                    self.seek(world);
                }
            }
            Command::GiveUp { group } => pursuit.give_up(&mut Reach { hands, world }, group),
            Command::Release { group, successor } => {
                hands.quiet.begin(world.now().ns());
                pursuit.release(&mut Reach { hands, world }, group, successor);
            }
            Command::Drop { group } => pursuit.step_down(&mut Reach { hands, world }, group),
            Command::Announce { group } => {
                if let Some(found) = hands.idle(group) {
                    found.announce_taken(world, group);
                }
            }
            Command::Remind { group } => {
                if let Some(found) = hands.idle(group) {
                    found.remind(world, group);
                }
            }
            Command::Restore { group, missing } => {
                // Not if it was dropped since the daemon looked.
                let always = !hands.rules.keeps(Rule::RestoredIfTaken);
                if hands.idle(group).is_some_and(|found| found.taken().is_some() || always) {
                    hands.begin(world, group, Task::Restore(missing));
                }
            }
            Command::Mac { interface, mac } => {
                hands.announce_by(world, |world, group| world.set_mac(group, interface, mac));
            }
            Command::Gateways { interface, gateways } => hands
                .announce_by(world, |world, group| world.set_gateways(group, interface, gateways)),
            Command::Pace { interval_ns, demand } => {
                pursuit.pace(interval_ns);
                self.interval_ns = interval_ns;
                self.next_probe = self.next_probe.min(world.now().ns() + interval_ns);
                if let Some((policy, errno)) = world.pace(interval_ns, demand) {
                    hands.report(world, Report::Rescheduled { policy, errno });
                }
            }
            Command::Rebind => hands.rebind(world),
            Command::Warm { group } => hands.begin_apart(world, group, Task::Warm),
            Command::Cool { group } => hands.begin_apart(world, group, Task::Cool),
            Command::Keys { peer, keys, slot, trial } => world.set_keys(peer, &keys, slot, trial),
            Command::Exit => {}
        }
    }

    fn probe_if_due<W: World>(&mut self, world: &mut W) {
        let now = world.now().ns();
        // While this thread is away that is the deputy's.
        if now + EARLY_NS < self.next_probe || self.hands.is_away {
            return;
        }
        world.probe();
        self.next_probe += self.interval_ns;
        // After a stall the missed probes are not sent late, all at once.
        if self.next_probe <= now && self.hands.rules.keeps(Rule::MissedProbesLeftOut) {
            self.next_probe = now + self.interval_ns;
        }
    }

    /// Does what is due beside seeks and probes; returns how long there is nothing to do.
    fn rest<W: World>(&mut self, world: &mut W) -> u64 {
        let announce = self.hands.announce_due(world);
        let quiet = self.hands.quiet_due(world);
        let due = self.next_count.min(self.pursuit.due()).min(announce).min(quiet);
        let due = due.min(self.burst_due(world)).min(self.next_probe);
        let now = world.now().ns();
        if due > now + EARLY_NS && !self.hands.is_away { due - now } else { 0 }
    }

    /// Probes the peers that have just missed, if that is due; returns when next.
    fn burst_due<W: World>(&mut self, world: &mut W) -> u64 {
        if self.burst.due_ns == u64::MAX {
            return u64::MAX;
        }
        let now = world.now().ns();
        if now + EARLY_NS < self.burst.due_ns {
            return self.burst.due_ns;
        }
        let mut wanted = [false; MAX_NODES];
        for (wanted, id) in wanted.iter_mut().zip(1..) {
            let peer = NodeId(id);
            if !self.burst.goes_on(peer) {
                continue;
            }
            let silent = world
                .peer(peer)
                .is_some_and(|state| state.misses > 0 && Life::from_code(state.life) != Life::Dead);
            if !silent {
                self.burst.end(peer);
            }
            *wanted = silent;
        }
        world.probe_these(&wanted);
        self.burst.next(now, self.interval_ns)
    }

    /// Counts misses where the kernel's timers do not.
    fn count_misses<W: World>(&mut self, world: &mut W) {
        self.next_count = u64::MAX;
        if self.watched == [false; MAX_NODES] {
            return;
        }
        let now = world.now().ns();
        for (watched, id) in self.watched.into_iter().zip(1..) {
            let peer = NodeId(id);
            let Some(mut state) = watched.then(|| world.peer(peer)).flatten() else { continue };
            if state.watched == 0 {
                continue;
            }
            if state.due_ns <= now && world.count_misses(peer) {
                match world.peer(peer) {
                    Some(counted) => state = counted,
                    None => continue,
                }
            }
            self.next_count = self.next_count.min(state.due_ns.max(now + EARLY_NS));
        }
    }
}

impl<R: Rules> Hands<R> {
    fn groups(&mut self) -> &mut [Group] {
        &mut self.groups[..self.count]
    }

    fn get(&mut self, group: GroupId) -> Option<&mut Group> {
        self.groups().get_mut(usize::from(group.0))
    }

    /// Returns a group to whose addresses nothing is being done.
    fn idle(&mut self, group: GroupId) -> Option<&mut Group> {
        self.get(group).filter(|found| !found.is_busy())
    }

    fn begin<W: World>(&mut self, world: &W, group: GroupId, task: Task) {
        let Self { groups, count, rules, .. } = self;
        if let Some(found) = groups[..*count].get_mut(usize::from(group.0)) {
            found.begin(task, world.now(), rules);
        }
    }

    /// Begins something beside any holding: not if the group was taken since the daemon looked.
    fn begin_apart<W: World>(&mut self, world: &W, group: GroupId, task: Task) {
        let always = !self.rules.keeps(Rule::WarmedApart);
        if self.get(group).is_some_and(|found| found.is_apart() || always) {
            self.begin(world, group, task);
        }
    }

    /// Has one address changed of each group that has some to change.
    fn begin_sweep<W: World>(&mut self, world: &mut W) {
        if !self.groups().iter().any(Group::is_busy) {
            return;
        }
        if !self.is_away {
            if self.rules.keeps(Rule::DeputyStandsIn) {
                world.stand_in();
            }
            self.is_away = true;
        }
        self.sweep = Some(0);
    }

    /// Returns the next address to be changed in this sweep.
    fn next_change<W: World>(&mut self, world: &mut W) -> Option<AddressChange> {
        if self.asked.is_some() {
            return self.asked;
        }
        while let Some(index) = self.sweep {
            if index == self.count {
                self.sweep = None;
                self.come_back(world);
                break;
            }
            self.sweep = Some(index + 1);
            let group = GroupId(index as u8);
            match self.groups[index].step(world, &self.rules, group) {
                NextStep::Nothing => {}
                NextStep::Change { place, change } => {
                    self.asked = Some(AddressChange { group, place, change });
                    return self.asked;
                }
                NextStep::Stepped(stepped) => self.conclude(world, group, stepped),
            }
        }
        None
    }

    /// Tells what came of a step, and of all if it was the last.
    fn conclude<W: World>(&mut self, world: &mut W, group: GroupId, stepped: Stepped) {
        let Stepped { refused, done } = stepped;
        if let Some((vip, error)) = refused
            && self.rules.keeps(Rule::RefusalsTold)
        {
            self.report(world, Report::Refused { group, vip, error });
        }
        let Some((task, added)) = done else { return };
        let result = added.result;
        match task {
            Task::Take(epoch, trigger, mut steps) => {
                let resources = self.get(group).is_some_and(|found| found.has_resources());
                if result.is_ok() && !resources {
                    self.quiet.begin(world.now().ns());
                } else {
                    self.end_quiet(world);
                }
                steps.address = added.at;
                steps.announced = world.now();
                let unsent = added.unsent;
                self.report(world, Report::Took { group, epoch, trigger, steps, unsent, result });
                world.probe();
            }
            Task::Warm => self.report(world, Report::Warmed { group, result }),
            Task::Restore(_) | Task::Cool => {}
            Task::Remove => {
                let at = world.now();
                self.report(world, Report::Dropped { group, at, result });
            }
        }
    }

    /// Probes by itself again, if nothing is to be done to any address.
    fn come_back<W: World>(&mut self, world: &mut W) {
        if self.is_away && !self.groups().iter().any(Group::is_busy) {
            if self.rules.keeps(Rule::DeputyStandsBack) {
                world.stand_back();
            }
            self.is_away = false;
        }
    }

    /// Goes by what is bound to other interfaces, or by other groups.
    fn rebind<W: World>(&mut self, world: &mut W) {
        world.rebind(|group, rebound| {
            if let Some(found) = self.get(group) {
                found.rebound(rebound);
            }
        });
        self.come_back(world);
    }

    /// Announces otherwise: `change` says whether a group has an address that this concerns.
    fn announce_by<W: World>(&mut self, world: &mut W, change: impl Fn(&mut W, GroupId) -> bool) {
        for (found, id) in self.groups().iter_mut().zip(0..) {
            let group = GroupId(id);
            if change(world, group) {
                found.announce_taken(world, group);
            }
        }
    }

    /// A full queue drops the report; the daemon looks at the maps and the addresses from time to
    /// time and finds out.
    fn report<W: World>(&self, world: &mut W, report: Report) {
        world.report(report, !self.quiet.lasts());
    }

    /// Wakes the daemon for what it was not told of, and for each report from now on.
    fn end_quiet<W: World>(&mut self, world: &mut W) {
        if self.quiet.end() && self.rules.keeps(Rule::QuietEndsWithARing) {
            world.ring();
        }
    }

    /// Does so if the moment has passed; returns when it will have.
    fn quiet_due<W: World>(&mut self, world: &mut W) -> u64 {
        if self.quiet.lasts()
            && self.quiet.expire(world.now().ns())
            && self.rules.keeps(Rule::QuietEndsWithARing)
        {
            world.ring();
        }
        self.quiet.due_ns()
    }

    fn announce_due<W: World>(&mut self, world: &mut W) -> u64 {
        let now = world.now();
        let mut due = u64::MAX;
        for (found, id) in self.groups().iter_mut().zip(0..) {
            found.repeat(world, GroupId(id), now);
            if let Some(next) = found.due() {
                due = due.min(next.ns());
            }
        }
        due
    }
}

impl<R: Rules, W: World> Ground for Reach<'_, R, W> {
    fn now(&self) -> BootTime {
        self.world.now()
    }

    fn record(&self, group: GroupId) -> Option<Record> {
        self.world.record(group)
    }

    fn peer(&self, peer: NodeId) -> Option<Peer> {
        self.world.peer(peer)
    }

    fn order(&mut self, order: Order) -> Option<Order> {
        self.world.order(order)
    }

    fn probe(&mut self) {
        self.world.probe();
    }

    fn sought(&mut self, group: GroupId) {
        self.hands.report(self.world, Report::Sought { group });
    }

    fn put_up(&mut self, group: GroupId, epoch: Epoch, trigger: Trigger, steps: Steps) {
        let Self { hands, world } = self;
        let Some(found) = hands.get(group) else { return };
        if found.taken() == Some(epoch) {
            // Asked for again before the daemon had heard that this was done already, or begun.
            if !found.is_being_taken() && hands.rules.keeps(Rule::TookRepeated) {
                let result = Ok(());
                let took = Report::Took { group, epoch, trigger, steps, unsent: 0, result };
                hands.report(*world, took);
            }
            return;
        }
        hands.begin(*world, group, Task::Take(epoch, trigger, steps));
        hands.begin_sweep(*world);
    }

    fn take_down(&mut self, group: GroupId) {
        let Self { hands, world } = self;
        let at = world.now();
        let Some(found) = hands.get(group) else {
            let result = Err(EffectError::Unknown);
            return hands.report(*world, Report::Dropped { group, at, result });
        };
        if found.is_being_taken() && !hands.rules.keeps(Rule::TakeDownEndsATake) {
            return;
        }
        hands.begin(*world, group, Task::Remove);
        if !hands.rules.keeps(Rule::DroppedAfterTheLast) {
            hands.report(*world, Report::Dropped { group, at, result: Ok(()) });
        }
    }

    fn keeps(&self, rule: Rule) -> bool {
        self.hands.rules.keeps(rule)
    }
}

#[cfg(test)]
mod tests;
