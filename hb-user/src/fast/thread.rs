//! The thread's loop.

use std::{
    io,
    os::fd::AsRawFd,
    sync::{Arc, atomic::Ordering, mpsc},
};

use hb_ebpf::{
    epoch::Epoch,
    lease::{Record, op::Order},
    maps::{Event, EventKind, Life, Peer},
    time::BootTime,
};

use super::{
    Command, EffectError, Fast, FastError, Queue, Rebinds, Report, Running, Setup, Steps,
    TargetCounters, Token, Trigger,
    burst::Burst,
    deputy::Deputy,
    group::{Added, Group, Stepped, Task},
    poller::Poller,
    probe::Streams,
    pursuit::{Ground, Pursuit},
    quiet::Quiet,
};
use crate::{
    address::AddressSocket,
    clock,
    id::{GroupId, NodeId},
    kernel::{Events, Judge, Leases, Shared},
    realtime::{self, Mutex},
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
    let shared = Arc::clone(&setup.shared);
    let streams = Streams::new(setup.targets, shared, setup.terms, Arc::clone(&counters))
        .map_err(system("make a lock that inherits priorities"))?;
    let streams = Arc::new(streams);
    let deputy = Deputy::start(Arc::clone(&streams), interval_ns, demand.fifo_priority)
        .map_err(system("start a second thread"))?;
    let rebinds: Rebinds =
        Arc::new(Mutex::new(Vec::new()).map_err(system("make a lock that inherits priorities"))?);
    let hands = Hands {
        rebinds: Arc::clone(&rebinds),
        streams,
        deputy,
        is_away: false,
        groups: setup.effects.into_iter().map(Group::new).collect(),
        quiet: Quiet::default(),
        leases: setup.leases,
        shared: setup.shared,
        addresses,
        reports: Arc::clone(&reports),
        token: Arc::clone(&token),
    };
    let mut worker = Worker {
        interval_ns,
        next_probe: 0,
        reserved: false,
        pursuit: Pursuit::new(setup.terms, interval_ns),
        hands,
        watched: Vec::new(),
        burst: Burst::default(),
        events: setup.events,
        judge: setup.judge,
        commands: Arc::clone(&commands),
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
            // Before it has a budget, which is short.
            let locked = realtime::lock_memory();
            let running = Running {
                scheduling: realtime::prefer_deadline(demand),
                locked,
                stack: realtime::prefault_stack(STACK)
                    .map_err(|error| error.to_string())
                    .and_then(|()| realtime::tighten_timers().map_err(|error| error.to_string())),
            };
            worker.reserved =
                matches!(running.scheduling.policy, realtime::Policy::Deadline { .. });
            if sender.send(running).is_ok() {
                worker.run();
            }
        })
        .map_err(system("start a thread"))?;
    let gone = || io::Error::other("the thread ended before it began");
    let running = started.recv().map_err(|_| gone()).map_err(system("start a thread"))?;
    Ok(Fast { commands, reports, token, counters, running, rebinds, thread: Some(thread) })
}

struct Worker {
    interval_ns: u64,
    /// When probes leave next, in nanoseconds of boot time.
    next_probe: u64,
    /// CPU time is reserved for this thread.
    reserved: bool,
    pursuit: Pursuit,
    hands: Hands,
    /// Peers that this thread judges itself.
    watched: Vec<NodeId>,
    burst: Burst,
    events: Events,
    judge: Option<Judge>,
    commands: Arc<Queue<Command>>,
    counters: Arc<[TargetCounters]>,
    poller: Poller,
}

/// What the thread sees and acts with.
struct Hands {
    rebinds: Rebinds,
    streams: Arc<Streams>,
    deputy: Deputy,
    /// The deputy stands in for this thread.
    is_away: bool,
    groups: Vec<Group>,
    quiet: Quiet,
    leases: Leases,
    shared: Arc<Shared>,
    addresses: AddressSocket,
    reports: Arc<Queue<Report>>,
    token: Arc<Token>,
}

impl Worker {
    fn run(&mut self) {
        self.next_probe = clock::now().ns();
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
            let asked = self.hands.token.asked.load(Ordering::Acquire);
            self.hands.token.answered.store(asked, Ordering::Release);

            self.hands.work();
            let now = clock::now().ns();
            if now + EARLY_NS >= self.next_probe && !self.hands.is_away {
                self.hands.probe();
                self.next_probe += self.interval_ns;
                // After a stall the missed probes are not sent late, all at once.
                if self.next_probe <= now {
                    self.next_probe = now + self.interval_ns;
                }
            }
            let due = self.judge_due().min(self.pursuit.go_on(&mut self.hands));
            let due = due.min(self.hands.announce_due()).min(self.hands.quiet_due());
            let due = due.min(self.burst_due()).min(self.next_probe);
            let now = clock::now().ns();
            if due > now + EARLY_NS && !self.hands.is_away {
                self.poller.wait(due - now);
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        let seen = clock::now();
        if event.kind == EventKind::Missed as u8 {
            return self.burst.begin(NodeId(event.peer), seen.ns());
        }
        self.pursuit.on_event(&mut self.hands, &event, seen);
        match EventKind::from_code(event.kind) {
            // What is not won yet may wait for a fence, which is the daemon's.
            Some(EventKind::Dead) if self.pursuit.is_under_way() => self.hands.end_quiet(),
            // What is held may have to be handed over.
            Some(EventKind::Carrier) => self.hands.end_quiet(),
            // No hurry, and a verdict may follow. Without a group there is no service to let run first.
            Some(EventKind::Late) if !self.hands.groups.is_empty() => {
                self.hands.quiet.begin_once(seen.ns());
            }
            _ => {}
        }
        self.hands.report(Report::Event(event));
    }

    fn on_command(&mut self, command: Command) {
        let (pursuit, hands) = (&mut self.pursuit, &mut self.hands);
        match command {
            Command::Publish { health, leaving } => {
                hands.shared.publish(&health.map(|health| health as u8), leaving);
                hands.probe();
            }
            Command::Arm { peer, groups } => pursuit.arm(peer, groups),
            Command::Seek { group } => {
                let steps = Steps { seen: clock::now(), ..Steps::default() };
                let trigger = Trigger::Asked;
                if !pursuit.begin(hands, group, trigger, steps) {
                    let result = Err(EffectError::Unknown);
                    let epoch = Epoch::NONE;
                    hands.report(Report::Took { group, epoch, trigger, steps, unsent: 0, result });
                }
            }
            Command::GiveUp { group } => pursuit.give_up(hands, group),
            Command::Release { group, successor } => {
                hands.be_quiet();
                pursuit.release(hands, group, successor);
            }
            Command::Drop { group } => pursuit.step_down(hands, group),
            Command::Announce { group } => {
                if let Some(found) = hands.idle(group) {
                    found.announce_taken(clock::now());
                }
            }
            Command::Remind { group } => {
                if let Some(found) = hands.idle(group) {
                    found.remind();
                }
            }
            Command::Restore { group, missing } => {
                // Not if it was dropped since the daemon looked.
                if let Some(found) = hands.idle(group)
                    && found.taken().is_some()
                {
                    found.begin(Task::Restore(missing));
                }
            }
            Command::Mac { interface, mac } => {
                let now = clock::now();
                for group in &mut hands.groups {
                    group.set_mac(interface, mac, now);
                }
            }
            Command::Gateways { interface, gateways } => {
                let now = clock::now();
                for group in &mut hands.groups {
                    group.set_gateways(interface, gateways, now);
                }
            }
            Command::Pace { interval_ns, demand } => {
                self.interval_ns = interval_ns;
                self.next_probe = self.next_probe.min(clock::now().ns() + interval_ns);
                pursuit.pace(interval_ns);
                hands.deputy.pace(interval_ns);
                if self.reserved {
                    let (policy, errno) = realtime::reserve_anew(demand);
                    hands.report(Report::Rescheduled { policy, errno });
                }
            }
            Command::Rebind => hands.rebind(),
            // Not if it was taken since the daemon looked.
            Command::Warm { group } => hands.begin_apart(group, Task::Warm),
            Command::Cool { group } => hands.begin_apart(group, Task::Cool),
            Command::Keys { peer, keys, slot, trial } => {
                hands.streams.set_keys(peer, &keys, slot, trial);
            }
            Command::Exit => {}
        }
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
        let (burst, shared) = (&mut self.burst, &self.hands.shared);
        self.hands.streams.probe_those(|peer| {
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
            let Some(mut state) = self.hands.shared.peer(*peer) else { continue };
            if state.watched == 0 {
                continue;
            }
            if state.due_ns <= now && judge.judge(*peer).is_ok() {
                match self.hands.shared.peer(*peer) {
                    Some(judged) => state = judged,
                    None => continue,
                }
            }
            due = due.min(state.due_ns.max(now + EARLY_NS));
        }
        due
    }
}

impl Hands {
    /// Takes up what is ready, and leaves what it had in its place.
    fn rebind(&mut self) {
        for rebind in self.rebinds.lock().iter_mut().filter(|rebind| !rebind.done) {
            self.streams.rebind(&mut rebind.outlets);
            for (group, effect) in &mut rebind.effects {
                if let Some(group) = self.groups.get_mut(usize::from(group.0)) {
                    group.rebind(effect);
                }
            }
            for (group, effect) in &mut rebind.groups {
                if let Some(group) = self.groups.get_mut(usize::from(group.0)) {
                    group.replace(effect);
                }
            }
            rebind.done = true;
        }
        self.come_back();
    }

    /// Probes by itself again, if nothing is to be done to any address.
    fn come_back(&mut self) {
        if self.is_away && !self.groups.iter().any(Group::is_busy) {
            self.deputy.stand_back();
            self.is_away = false;
            self.token.away_ns.store(0, Ordering::Release);
        }
    }

    /// Does one address of each group that has some to do, and says so when it was the last.
    fn work(&mut self) {
        if !self.groups.iter().any(Group::is_busy) {
            return;
        }
        if !self.is_away {
            self.deputy.stand_in();
            self.is_away = true;
            self.token.away_ns.store(clock::now().ns(), Ordering::Release);
        }
        for index in 0..self.groups.len() {
            let group = GroupId(index as u8);
            let Stepped { refused, done } = self.groups[index].step(&mut self.addresses);
            if let Some((vip, error)) = refused {
                self.report(Report::Refused { group, vip, error });
            }
            let Some((task, added)) = done else { continue };
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
                Task::Warm => self.report(Report::Warmed { group, result }),
                Task::Restore(_) | Task::Cool => {}
                Task::Remove => self.report(Report::Dropped { group, at: clock::now(), result }),
            }
        }
        self.come_back();
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

    /// A full queue drops the report; the daemon looks at the maps and the addresses from time to
    /// time and finds out.
    fn report(&self, report: Report) {
        let _ =
            if self.quiet.lasts() { self.reports.put(report) } else { self.reports.push(report) };
    }

    /// Lets the daemon sleep on for a moment.
    fn be_quiet(&mut self) {
        self.quiet.begin(clock::now().ns());
    }

    /// Wakes it for what it was not told of, and for each report from now on.
    fn end_quiet(&mut self) {
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
}

impl Ground for Hands {
    fn now(&self) -> BootTime {
        clock::now()
    }

    fn record(&self, group: GroupId) -> Option<Record> {
        self.shared.record(group)
    }

    fn peer(&self, peer: NodeId) -> Option<Peer> {
        self.shared.peer(peer)
    }

    fn order(&mut self, order: Order) -> Option<Order> {
        self.leases.order(order).ok()
    }

    fn probe(&mut self) {
        self.streams.probe();
    }

    fn sought(&mut self, group: GroupId) {
        self.report(Report::Sought { group });
    }

    fn put_up(&mut self, group: GroupId, epoch: Epoch, trigger: Trigger, steps: Steps) {
        let Some(found) = self.groups.get_mut(group.0 as usize) else { return };
        if found.taken() == Some(epoch) {
            // Asked for again before the daemon had heard that this was done already, or begun.
            if !found.is_being_taken() {
                let result = Ok(());
                self.report(Report::Took { group, epoch, trigger, steps, unsent: 0, result });
            }
            return;
        }
        found.begin(Task::Take(epoch, trigger, steps));
        self.work();
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
}
