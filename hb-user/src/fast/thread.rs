//! The thread's loop.

use std::{
    io,
    os::fd::AsRawFd,
    sync::{Arc, atomic::Ordering, mpsc},
};

use hb_ebpf::{
    lease::{Terms, op::Op, word},
    maps::{Cause, Event, EventKind, Life},
    time::BootTime,
    wire::{GROUPS, State},
};

use super::{
    Command, EffectError, Fast, FastError, Groups, Queue, Report, Running, Setup, Steps,
    TargetCounters, Token, Trigger,
    burst::Burst,
    deputy::Deputy,
    group::{Added, Group, Task},
    poller::Poller,
    probe::Streams,
    quiet::Quiet,
    seek::Seek,
};
use crate::{
    address::AddressSocket,
    clock,
    id::{GroupId, NodeId},
    kernel::{Events, Judge, Leases, Shared},
    realtime,
};

/// Commands and reports under way at once; both are drained as soon as they ring.
const QUEUE: usize = 256;
/// Stack touched before the first wait.
const STACK: usize = 64 * 1024;
/// A wake-up this early before a deadline is on time: the kernel rounds.
const EARLY_NS: u64 = 1_000;

pub(super) fn start(setup: Setup) -> Result<Fast, FastError> {
    let system = |action| move |source| FastError::System { action, source };
    let commands = Arc::new(Queue::new(QUEUE).map_err(system("make a queue of commands"))?);
    let reports = Arc::new(Queue::new(QUEUE).map_err(system("make a queue of reports"))?);
    let token = Arc::new(Token::default());
    let counters: Arc<[_]> = setup.targets.iter().map(TargetCounters::new).collect();
    let addresses = AddressSocket::open()?;
    let poller = Poller::new(&[setup.events.as_raw_fd(), commands.bell().as_raw_fd()])
        .map_err(system("make an epoll descriptor"))?;
    let demand = setup.demand;
    let interval_ns = setup.interval.as_nanos() as u64;
    let streams = Arc::new(Streams::new(
        setup.targets,
        Arc::clone(&setup.shared),
        setup.terms,
        Arc::clone(&counters),
    ));
    let deputy = Deputy::start(Arc::clone(&streams), interval_ns, demand.fifo_priority)
        .map_err(system("start a second thread"))?;
    let mut worker = Worker {
        interval_ns,
        streams,
        deputy,
        is_away: false,
        groups: setup.effects.into_iter().map(Group::new).collect(),
        seeks: [None; GROUPS],
        armed: [[false; GROUPS]; hb_ebpf::maps::MAX_NODES],
        watched: Vec::new(),
        burst: Burst::default(),
        quiet: Quiet::default(),
        leases: setup.leases,
        terms: setup.terms,
        shared: setup.shared,
        events: setup.events,
        judge: setup.judge,
        addresses,
        commands: Arc::clone(&commands),
        reports: Arc::clone(&reports),
        token: Arc::clone(&token),
        counters: Arc::clone(&counters),
        poller,
    };
    if worker.judge.is_some() {
        worker.watched = worker.counters.iter().map(|target| target.peer).collect();
        worker.watched.sort();
        worker.watched.dedup();
    }
    let (sender, started) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("hb-fast".to_owned())
        .spawn(move || {
            let running = Running {
                scheduling: realtime::prefer_deadline(demand),
                locked: realtime::lock_memory(),
                stack: realtime::prefault_stack(STACK)
                    .map_err(|error| error.to_string())
                    .and_then(|()| realtime::tighten_timers().map_err(|error| error.to_string())),
            };
            if sender.send(running).is_ok() {
                worker.run();
            }
        })
        .map_err(system("start a thread"))?;
    let gone = || io::Error::other("the thread ended before it began");
    let running = started.recv().map_err(|_| gone()).map_err(system("start a thread"))?;
    Ok(Fast { commands, reports, token, counters, running, thread: Some(thread) })
}

pub(super) struct Worker {
    pub(super) interval_ns: u64,
    streams: Arc<Streams>,
    deputy: Deputy,
    /// The deputy stands in for this thread.
    is_away: bool,
    pub(super) groups: Vec<Group>,
    pub(super) seeks: [Option<Seek>; GROUPS],
    armed: [Groups; hb_ebpf::maps::MAX_NODES],
    /// Peers that this thread judges itself.
    watched: Vec<NodeId>,
    burst: Burst,
    quiet: Quiet,
    pub(super) leases: Leases,
    terms: Terms,
    pub(super) shared: Arc<Shared>,
    events: Events,
    judge: Option<Judge>,
    pub(super) addresses: AddressSocket,
    commands: Arc<Queue<Command>>,
    reports: Arc<Queue<Report>>,
    token: Arc<Token>,
    counters: Arc<[TargetCounters]>,
    poller: Poller,
}

impl Worker {
    fn run(&mut self) {
        let mut next_probe = clock::now().ns();
        loop {
            while let Some(event) = self.events.take() {
                self.on_event(event);
            }
            while let Some(command) = self.commands.pop() {
                if let Command::Exit = command {
                    return;
                }
                self.on_command(command);
            }
            let asked = self.token.asked.load(Ordering::Acquire);
            self.token.answered.store(asked, Ordering::Release);

            self.work();
            let now = clock::now().ns();
            if now + EARLY_NS >= next_probe && !self.is_away {
                self.probe();
                next_probe += self.interval_ns;
                // After a stall the missed probes are not sent late, all at once.
                if next_probe <= now {
                    next_probe = now + self.interval_ns;
                }
            }
            let due = self.judge_due().min(self.seek_due()).min(self.announce_due());
            let due = due.min(self.burst_due()).min(self.quiet_due()).min(next_probe);
            let now = clock::now().ns();
            if due > now + EARLY_NS && !self.is_away {
                self.poller.wait(due - now);
            }
        }
    }

    /// Does one address of each group that has some to do, and says so when it was the last.
    pub(super) fn work(&mut self) {
        if !self.groups.iter().any(Group::is_busy) {
            return;
        }
        if !self.is_away {
            self.deputy.stand_in();
            self.is_away = true;
            self.token.away_ns.store(clock::now().ns(), Ordering::Release);
        }
        for index in 0..self.groups.len() {
            let Some((task, added)) = self.groups[index].step(&mut self.addresses) else {
                continue;
            };
            let group = GroupId(index as u8);
            let Added { at, unsent, result } = added;
            match task {
                Task::Take(epoch, trigger, mut steps) => {
                    if result.is_ok() && !self.groups[index].has_resources() {
                        self.be_quiet();
                    } else {
                        self.end_quiet();
                    }
                    steps.address = at;
                    steps.announced = clock::now();
                    self.report(Report::Took { group, epoch, trigger, steps, unsent, result });
                    self.probe();
                }
                Task::Restore(_) => self.report(Report::Restored { group, result }),
                Task::Warm => self.report(Report::Warmed { group, result }),
                Task::Cool => {}
                Task::Remove => self.report(Report::Dropped { group, at: clock::now(), result }),
            }
        }
        if !self.groups.iter().any(Group::is_busy) {
            self.deputy.stand_back();
            self.is_away = false;
            self.token.away_ns.store(0, Ordering::Release);
        }
    }

    pub(super) fn probe(&self) {
        self.streams.probe();
    }

    fn on_event(&mut self, event: Event) {
        let seen = clock::now();
        if event.kind == EventKind::Missed as u8 {
            return self.burst.begin(NodeId(event.peer), seen.ns());
        }
        match EventKind::from_code(event.kind) {
            Some(EventKind::Dead) => {
                self.on_death(&event, seen);
                // What is not won yet may wait for a fence, which is the daemon's.
                if self.seeks.iter().any(Option::is_some) {
                    self.end_quiet();
                }
            }
            Some(EventKind::Lease) => {
                self.pursue(GroupId(event.link));
                // A release to this node, perhaps.
                self.on_word(&event, seen);
            }
            // No hurry, and a verdict may follow.
            Some(EventKind::Late) => self.quiet.begin_once(seen.ns()),
            // One event stands for all the news of a frame.
            Some(EventKind::Said | EventKind::Controller | EventKind::Up) => {
                self.on_controller(&event, seen);
                self.on_word(&event, seen);
            }
            _ => {}
        }
        self.report(Report::Event(event));
    }

    /// Seeks what was armed for the death of a peer, if it is dead still: an event may have
    /// waited while this thread did not run.
    fn on_death(&mut self, event: &Event, seen: BootTime) {
        let peer = NodeId(event.peer);
        let dead =
            self.shared.peer(peer).is_some_and(|peer| Life::from_code(peer.life) == Life::Dead);
        if dead {
            let trigger = Trigger::Death(peer, Cause::from_code(event.cause));
            self.seek_armed(event, trigger, seen);
        }
    }

    /// Seeks what was armed for the death of a peer's controller.
    fn on_controller(&mut self, event: &Event, seen: BootTime) {
        let peer = NodeId(event.peer);
        if self.shared.peer(peer).is_some_and(|peer| peer.controller_dead != 0) {
            self.seek_armed(event, Trigger::Controller(peer), seen);
        }
    }

    /// Seeks the armed groups that the peer has just handed to this node.
    fn on_word(&mut self, event: &Event, seen: BootTime) {
        let peer = NodeId(event.peer);
        let armed = self.armed(peer);
        if armed == [false; GROUPS] {
            return;
        }
        let Some(state) = self.shared.peer(peer) else { return };
        let steps = steps(event, seen);
        for (index, (armed, word)) in armed.into_iter().zip(&state.words).enumerate() {
            let group = GroupId(index as u8);
            let given = |record| word::hands_over(&record, &self.terms, word);
            if armed && self.shared.record(group).is_some_and(given) {
                self.disarm(peer, index);
                self.begin(group, Trigger::Release(peer), steps);
            }
        }
    }

    fn seek_armed(&mut self, event: &Event, trigger: Trigger, seen: BootTime) {
        let peer = NodeId(event.peer);
        let steps = steps(event, seen);
        for (index, armed) in self.armed(peer).into_iter().enumerate() {
            if armed {
                self.disarm(peer, index);
                self.begin(GroupId(index as u8), trigger, steps);
            }
        }
    }

    fn armed(&self, peer: NodeId) -> Groups {
        let index = peer.0.wrapping_sub(1) as usize;
        self.armed.get(index).copied().unwrap_or_default()
    }

    fn disarm(&mut self, peer: NodeId, group: usize) {
        if let Some(armed) = self.armed.get_mut(peer.0.wrapping_sub(1) as usize) {
            armed[group] = false;
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Publish { health, leaving } => {
                self.shared.publish(&health.map(|health| health as u8), leaving);
                self.probe();
            }
            Command::Arm { peer, groups } => {
                if let Some(armed) = self.armed.get_mut(peer.0.wrapping_sub(1) as usize) {
                    *armed = groups;
                }
            }
            Command::Seek { group } => {
                let steps = Steps { seen: clock::now(), ..Steps::default() };
                self.begin(group, Trigger::Asked, steps);
            }
            Command::GiveUp { group } => self.give_up(group),
            Command::Release { group, successor } => {
                self.end_seek(group);
                self.order(group, Op::Release, successor);
                self.be_quiet();
                // Before anything that takes time: the successor waits for this word.
                self.probe();
                self.take_down(group);
            }
            Command::Drop { group } => {
                self.end_seek(group);
                self.order(group, Op::StepDown, None);
                if self.state(group) == Some(State::Holding) {
                    // The lease came back meanwhile; what is taken down must not be let through.
                    self.order(group, Op::Release, None);
                    self.probe();
                }
                self.take_down(group);
            }
            Command::Announce { group } => {
                if let Some(found) = self.idle(group) {
                    found.announce(clock::now());
                }
            }
            Command::Restore { group } => {
                // Not if it was dropped since the daemon looked.
                if let Some(found) = self.idle(group)
                    && let Some(epoch) = found.taken()
                {
                    found.begin(Task::Restore(epoch));
                }
            }
            // Not if it was taken since the daemon looked.
            Command::Warm { group } => self.begin_apart(group, Task::Warm),
            Command::Cool { group } => self.begin_apart(group, Task::Cool),
            Command::Keys { peer, keys, slot, trial } => {
                self.streams.set_keys(peer, &keys, slot, trial);
            }
            Command::Exit => {}
        }
    }

    /// Returns a group to whose addresses nothing is being done.
    fn idle(&mut self, group: GroupId) -> Option<&mut Group> {
        self.groups.get_mut(group.0 as usize).filter(|found| !found.is_busy())
    }

    fn begin_apart(&mut self, group: GroupId, task: Task) {
        if let Some(found) = self.groups.get_mut(group.0 as usize)
            && found.is_apart()
        {
            found.begin(task);
        }
    }

    fn take_down(&mut self, group: GroupId) {
        match self.groups.get_mut(group.0 as usize) {
            Some(found) => found.begin(Task::Remove),
            None => {
                let result = Err(EffectError::Unknown);
                self.report(Report::Dropped { group, at: clock::now(), result });
            }
        }
    }

    /// A full queue drops the report; the daemon looks at the maps and the addresses from time to
    /// time and finds out.
    pub(super) fn report(&self, report: Report) {
        let _ =
            if self.quiet.lasts() { self.reports.put(report) } else { self.reports.push(report) };
    }

    /// Lets the daemon sleep on for a moment.
    pub(super) fn be_quiet(&mut self) {
        self.quiet.begin(clock::now().ns());
    }

    /// Wakes it for what it was not told of, and for each report from now on.
    pub(super) fn end_quiet(&mut self) {
        if self.quiet.end() {
            self.reports.bell().ring();
        }
    }

    /// Does so if the moment has passed; returns when it will have.
    fn quiet_due(&mut self) -> u64 {
        if self.quiet.lasts() && self.quiet.expire(clock::now().ns()) {
            self.reports.bell().ring();
        }
        self.quiet.due_ns()
    }

    fn announce_due(&mut self) -> u64 {
        let now = clock::now();
        let mut due = u64::MAX;
        for group in &mut self.groups {
            group.repeat(now);
            if let Some(next) = group.due() {
                due = due.min(next.ns());
            }
        }
        due
    }

    /// Probes the peers that have just missed, if that is due; returns when next.
    fn burst_due(&mut self) -> u64 {
        if self.burst.due_ns == u64::MAX {
            return u64::MAX;
        }
        let now = clock::now();
        if now.ns() + EARLY_NS < self.burst.due_ns {
            return self.burst.due_ns;
        }
        let (burst, shared) = (&mut self.burst, &self.shared);
        self.streams.probe_those(|peer| {
            let silent = || {
                shared.peer(peer).is_some_and(|state| {
                    state.misses > 0 && Life::from_code(state.life) != Life::Dead
                })
            };
            if !burst.goes_on(peer) {
                return false;
            }
            if !silent() {
                burst.end(peer);
            }
            burst.goes_on(peer)
        });
        self.burst.next(now.ns(), self.interval_ns)
    }

    /// Counts misses where the kernel's timers do not.
    fn judge_due(&mut self) -> u64 {
        let Some(judge) = &self.judge else { return u64::MAX };
        let now = clock::now().ns();
        let mut due = u64::MAX;
        for peer in &self.watched {
            let Some(mut state) = self.shared.peer(*peer) else { continue };
            if state.watched == 0 {
                continue;
            }
            if state.due_ns <= now && judge.judge(*peer).is_ok() {
                match self.shared.peer(*peer) {
                    Some(judged) => state = judged,
                    None => continue,
                }
            }
            due = due.min(state.due_ns.max(now + EARLY_NS));
        }
        due
    }
}

/// The steps of a takeover that an event sets off.
fn steps(event: &Event, seen: BootTime) -> Steps {
    let verdict = BootTime(event.at_ns);
    Steps { due: BootTime(event.due_ns), verdict, seen, ..Steps::default() }
}
