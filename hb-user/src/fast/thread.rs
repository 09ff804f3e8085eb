//! The thread's loop.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    sync::{Arc, atomic::Ordering, mpsc},
};

use hb_ebpf::{
    epoch::Epoch,
    maps::{Cause, Event, EventKind, Life},
    time::BootTime,
    wire::{GROUPS, GroupWord, Health, State},
};

use super::{
    Command, EffectError, Fast, FastError, Queue, Report, Running, Setup, Steps, Takeovers,
    TargetCounters, Token, Trigger,
    group::{Added, Group},
    probe::Stream,
};
use crate::{
    address::AddressSocket,
    clock,
    id::{GroupId, NodeId},
    kernel::{Events, Judge, Shared},
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
    let mut worker = Worker {
        me: setup.me,
        interval_ns: setup.interval.as_nanos() as u64,
        streams: setup.targets.into_iter().map(Stream::new).collect(),
        groups: setup.effects.into_iter().map(Group::new).collect(),
        armed: [[None; GROUPS]; hb_ebpf::maps::MAX_NODES],
        watched: Vec::new(),
        words: setup.words,
        leaving: false,
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

struct Worker {
    me: NodeId,
    interval_ns: u64,
    streams: Vec<Stream>,
    groups: Vec<Group>,
    armed: [Takeovers; hb_ebpf::maps::MAX_NODES],
    /// Peers that this thread judges itself.
    watched: Vec<NodeId>,
    words: [GroupWord; GROUPS],
    leaving: bool,
    shared: Arc<Shared>,
    events: Events,
    judge: Option<Judge>,
    addresses: AddressSocket,
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

            let now = clock::now().ns();
            if now + EARLY_NS >= next_probe {
                self.probe();
                next_probe += self.interval_ns;
                // After a stall the missed probes are not sent late, all at once.
                if next_probe <= now {
                    next_probe = now + self.interval_ns;
                }
            }
            let due = self.judge_due().min(self.announce_due()).min(next_probe);
            let now = clock::now().ns();
            if due > now + EARLY_NS {
                self.poller.wait(due - now);
            }
        }
    }

    fn probe(&mut self) {
        for (stream, counters) in self.streams.iter_mut().zip(self.counters.iter()) {
            stream.send(&self.shared, counters, clock::now());
        }
    }

    fn on_event(&mut self, event: Event) {
        let seen = clock::now();
        match EventKind::from_code(event.kind) {
            Some(EventKind::Dead) => self.on_death(&event, seen),
            // One event stands for all the news of a frame.
            Some(EventKind::Said | EventKind::Controller | EventKind::Up) => {
                self.on_word(&event, seen);
            }
            _ => {}
        }
        self.report(Report::Event(event));
    }

    /// Executes what was armed for the death of a peer, if it is dead still: an event may have
    /// waited while this thread did not run.
    fn on_death(&mut self, event: &Event, seen: BootTime) {
        let peer = NodeId(event.peer);
        let dead = |shared: &Shared| {
            shared.peer(peer).is_some_and(|peer| Life::from_code(peer.life) == Life::Dead)
        };
        let Some(armed) = self.armed.get_mut(event.peer.wrapping_sub(1) as usize) else { return };
        if !dead(&self.shared) {
            return;
        }
        let takeovers = std::mem::replace(armed, [None; GROUPS]);
        let trigger = Trigger::Death(peer, Cause::from_code(event.cause));
        let steps = Steps {
            due: BootTime(event.due_ns),
            verdict: BootTime(event.at_ns),
            seen,
            ..Steps::default()
        };
        for (group, epoch) in takeovers.into_iter().flatten() {
            self.take(group, epoch, trigger, steps);
        }
    }

    /// Executes what was armed for the groups that the peer has just handed to this node.
    fn on_word(&mut self, event: &Event, seen: BootTime) {
        let peer = NodeId(event.peer);
        let Some(armed) = self.armed.get_mut(event.peer.wrapping_sub(1) as usize) else { return };
        if armed.iter().all(Option::is_none) {
            return;
        }
        let Some(state) = self.shared.peer(peer) else { return };
        let mut given: Takeovers = [None; GROUPS];
        for (slot, given) in armed.iter_mut().zip(&mut given) {
            let Some((group, epoch)) = *slot else { continue };
            let Some(word) = state.words.get(group.0 as usize) else { continue };
            let released = word.state() == State::Released && word.successor == self.me.0;
            if released && word.epoch() < epoch {
                *given = slot.take();
            }
        }
        let at = BootTime(event.at_ns);
        let steps = Steps { due: at, verdict: at, seen, ..Steps::default() };
        for (group, epoch) in given.into_iter().flatten() {
            self.take(group, epoch, Trigger::Release(peer), steps);
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Publish { words, leaving } => {
                for (word, new) in self.words.iter_mut().zip(words) {
                    // A takeover of ours that the daemon has not heard of yet is newer.
                    if new.epoch() >= word.epoch() {
                        *word = new;
                    }
                }
                self.leaving = leaving;
                self.shared.publish(&self.words, leaving);
                self.probe();
            }
            Command::Arm { peer, takeovers } => {
                if let Some(armed) = self.armed.get_mut(peer.0.wrapping_sub(1) as usize) {
                    *armed = takeovers;
                }
            }
            Command::Take { group, epoch } => {
                let steps = Steps { seen: clock::now(), ..Steps::default() };
                self.take(group, epoch, Trigger::Asked, steps);
            }
            Command::Drop { group } => {
                let result = match self.groups.get_mut(group.0 as usize) {
                    Some(found) => found.remove(&mut self.addresses),
                    None => Err(EffectError::Unknown),
                };
                self.report(Report::Dropped { group, at: clock::now(), result });
            }
            Command::Announce { group } => {
                if let Some(found) = self.groups.get_mut(group.0 as usize) {
                    found.announce(clock::now());
                }
            }
            Command::Restore { group } => {
                // Not if it was dropped since the daemon looked.
                if let Some(found) = self.groups.get_mut(group.0 as usize)
                    && let Some(epoch) = found.taken()
                {
                    let Added { result, .. } = found.add(&mut self.addresses, epoch);
                    self.report(Report::Restored { group, result });
                }
            }
            Command::Exit => {}
        }
    }

    fn take(&mut self, group: GroupId, epoch: Epoch, trigger: Trigger, mut steps: Steps) {
        let index = group.0 as usize;
        let (Some(found), Some(word)) = (self.groups.get_mut(index), self.words.get_mut(index))
        else {
            let result = Err(EffectError::Unknown);
            self.report(Report::Took { group, epoch, trigger, steps, unsent: 0, result });
            return;
        };
        if trigger == Trigger::Asked && found.taken() == Some(epoch) {
            // The daemon asked before it had heard that this was done already.
            let result = Ok(());
            self.report(Report::Took { group, epoch, trigger, steps, unsent: 0, result });
            return;
        }
        if trigger != Trigger::Asked && epoch <= word.epoch() {
            // The plan is older than what was said since; the daemon has sent another, or will.
            return;
        }
        if epoch >= word.epoch() {
            *word = GroupWord {
                state: State::Holding as u8,
                health: if word.state() == State::Holding {
                    word.health
                } else {
                    Health::Starting as u8
                },
                holder: self.me.0,
                epoch: hb_ebpf::wire::Be64::new(epoch.0),
                ..GroupWord::default()
            };
            self.shared.publish(&self.words, self.leaving);
        }
        steps.published = clock::now();
        let Added { at, unsent, result } = found.add(&mut self.addresses, epoch);
        steps.address = at;
        steps.announced = clock::now();
        self.report(Report::Took { group, epoch, trigger, steps, unsent, result });
        self.probe();
    }

    /// A full queue drops the report; the daemon looks at the maps and the addresses from time to
    /// time and finds out.
    fn report(&self, report: Report) {
        let _ = self.reports.push(report);
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

/// Waits for descriptors with nanosecond time-outs.
struct Poller(OwnedFd);

impl Poller {
    fn new(descriptors: &[RawFd]) -> io::Result<Self> {
        // SAFETY: plain system call.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and is nobody else's.
        let poller = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        for descriptor in descriptors {
            // Edges: what rang need not be hushed, which saves a system call.
            let events = (libc::EPOLLIN | libc::EPOLLET) as u32;
            let mut event = libc::epoll_event { events, u64: 0 };
            // SAFETY: the event outlives the call.
            let added =
                unsafe { libc::epoll_ctl(fd, libc::EPOLL_CTL_ADD, *descriptor, &raw mut event) };
            if added < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(poller)
    }

    /// Waits for an edge, at most `timeout_ns`. Spurious wake-ups are harmless to the caller.
    fn wait(&self, timeout_ns: u64) {
        let timeout = libc::timespec {
            tv_sec: (timeout_ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (timeout_ns % 1_000_000_000) as libc::c_long,
        };
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
        // SAFETY: the array and the time outlive the call, and its length is given.
        unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                events.len(),
                &raw const timeout,
                ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
    }
}
