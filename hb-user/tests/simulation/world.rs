//! All machines and the wire, under one virtual time.

mod faults;
mod machines;
mod threads;

use std::collections::BTreeMap;

use hb_ebpf::{
    maps::{self, Cause, EventKind, LeaseNews},
    wire::Frame,
};
use hb_user::{
    core::{Phase, Transition},
    engine::takeover::Rule,
};

use machines::draw_rates;

use crate::{
    clock::Clock,
    daemon::{Done, Work},
    fast::Wake,
    host::{Host, Parting},
    judge::Judge,
    machine::Strike,
    mutants::Mutant,
    network::Network,
    plan::{Cluster, MS, Plan, index},
    rng::Rng,
    schedule::{Schedule, add_aside, add_maintenance, draw},
    stats::Stats,
};

/// A rule broken on purpose, to see that it is found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bent {
    Nothing,
    /// Packets leave whenever the addresses are up.
    Bypass,
    /// One clock goes at twice the rate of another, and nobody looks.
    Clocks,
    /// Packets leave long after they passed the gate.
    Margin,
    /// Groups that a file changes take part at once.
    Unwaited,
    /// The fast path does not keep to a rule.
    Breaks(Rule),
    /// A daemon takes its fast path to go round, whether or not it does.
    Answers,
    /// Every engine is this one.
    Engine(fn() -> Box<dyn Mutant>),
}

enum Event {
    Frame { to: usize, frame: Box<Frame> },
    Timer { host: usize, life: u64, contact: usize, set: u64 },
    Fast { host: usize, start: u64 },
    Deputy { host: usize, start: u64 },
    Main { host: usize, start: u64 },
    Work { host: usize, start: u64, done: Done },
    Begin { fault: usize },
    End { fault: usize },
    PowerOff { host: usize },
    Boot { host: usize },
    StartDaemon { host: usize },
    Reload,
    Look,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) bent: Bent,
    rng: Rng,
    pub(crate) now: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), Event>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) network: Network,
    schedule: Schedule,
    open_faults: usize,
    judge: Judge,
    pub(crate) stats: Stats,
    /// What the kernel halves told and must not have.
    wrong: Option<String>,
    trace: Option<Vec<String>>,
}

impl World {
    pub(crate) fn new(cluster: Cluster, seed: u64, bent: Bent, trace: bool) -> Self {
        let seed = seed.wrapping_mul(4).wrapping_add(cluster as u64);
        let mut rng = Rng::new(seed);
        let mut plan = Plan::draw(cluster, &mut rng);
        // Else the gates close at the first frames.
        plan.watches_clocks = !matches!(bent, Bent::Clocks);
        plan.unwaited = matches!(bent, Bent::Unwaited);
        plan.answers_for_it = matches!(bent, Bent::Answers);
        // Without a gate warm addresses are served.
        plan.warm &= !matches!(bent, Bent::Bypass);
        if let Bent::Breaks(rule) = bent {
            plan.broken = Some(rule);
        }
        if let Bent::Engine(mutant) = bent {
            plan.mutant = mutant;
        }
        let machines = cluster.machines();
        let rates = draw_rates(&mut rng, machines, bent);
        let hosts = rates.into_iter().map(|rate| {
            // Clocks need not be set alike.
            let local = rng.within(10_000 * MS, 1_000_000_000 * MS);
            Host::new(&plan, Clock::new(0, local, rate))
        });
        let hosts: Vec<_> = hosts.collect();
        let mut schedule = draw(&mut rng, &plan);
        let mut others = Rng::new(!seed);
        add_aside(&mut others, &plan, &mut schedule);
        // A third of those that move back at all wait for it.
        if others.chance(333) {
            plan.failback_ms = others.within(1, 200);
        }
        add_maintenance(&mut others, &plan, &mut schedule);
        let mut world = Self {
            judge: Judge::new(machines, plan.groups),
            network: Network::new(machines),
            plan,
            bent,
            rng,
            now: 0,
            order: 0,
            queue: BTreeMap::new(),
            hosts,
            open_faults: schedule.faults.len(),
            schedule,
            stats: Stats::default(),
            wrong: None,
            trace: trace.then(Vec::new),
        };
        for host in 0..machines {
            world.genesis(host);
        }
        for fault in 0..world.schedule.faults.len() {
            world.at(world.schedule.faults[fault].begin, Event::Begin { fault });
        }
        world.at(10 * MS, Event::Look);
        world
    }

    /// A machine of a cluster that has never been: nothing was promised that could bind.
    fn genesis(&mut self, host: usize) {
        self.boot(host);
        if host < self.plan.cluster.nodes() {
            self.start_daemon(host);
        }
        if let Some(kernel) = &mut self.hosts[host].kernel {
            kernel.records.iter_mut().for_each(|record| record.blocked_until_ns = 0);
        }
    }

    /// Runs to the end.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.judge.passed_until(&self.hosts, self.now, at, self.bent);
            self.now = at;
            let looks = matches!(event, Event::Look);
            self.handle(event);
            self.look_at_the_wire()?;
            if let Some(wrong) = self.wrong.take() {
                return Err(wrong);
            }
            if looks && self.is_over()? {
                return Ok(());
            }
        }
        Err("nothing happens any more".to_owned())
    }

    pub(crate) fn timeline(self) -> String {
        self.trace.unwrap_or_default().join("\n")
    }

    fn look_at_the_wire(&mut self) -> Result<(), String> {
        let well = self.network.is_well() && self.hosts.iter().all(Host::is_well);
        let seen = self.judge.look(&self.plan, &self.hosts, self.now, well, self.bent)?;
        self.stats.holders += seen.opened.len() as u64;
        self.stats.residues += seen.residues;
        for (host, group, epoch) in seen.opened {
            if self.hosts[host].daemon.is_some() && self.hosts[host].bars[group] {
                return Err(format!(
                    "machine {} stands aside of group {group}, and takes it",
                    host + 1
                ));
            }
            self.note(host, || format!("gate of group {group} is open at {:x}", epoch.0));
        }
        Ok(())
    }

    /// Looks whether all is well again; an error if it takes too long.
    fn is_over(&mut self) -> Result<bool, String> {
        self.after(5 * MS, Event::Look);
        let nodes = &self.hosts[..self.plan.cluster.nodes()];
        let runs = |host: &Host| host.daemon.is_some() && !host.frozen;
        let mended = self.open_faults == 0 && nodes.iter().all(runs);
        let settled = mended && self.judge.settled(&self.plan, &self.hosts, self.now);
        let over = self.judge.over(&self.plan, &self.hosts, mended, settled, self.now);
        let Some(took) = over.map_err(|error| format!("{error}: {}", self.phases()))? else {
            return Ok(false);
        };
        self.stats.slowest_ms = took / MS;
        Ok(true)
    }

    fn phases(&self) -> String {
        let phases = self.hosts.iter().enumerate().filter_map(|(at, host)| {
            let views = host.daemon.as_ref()?.controller.core().view().groups;
            let of = |view: &hb_user::core::GroupView| format!("{} {:?}", view.phase, view.blocked);
            Some(format!("{}: {}", at + 1, views.iter().map(of).collect::<Vec<_>>().join(", ")))
        });
        phases.collect::<Vec<_>>().join("; ")
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Frame { to, frame } => self.arrive(to, frame),
            Event::Timer { host, life, contact, set } => self.timer(host, life, contact, set),
            Event::Fast { host, start } => self.fast(host, start),
            Event::Deputy { host, start } => self.deputy(host, start),
            Event::Main { host, start } => self.main(host, start),
            Event::Work { host, start, done } => {
                if self.daemon_of(host, start).is_some() {
                    self.started_or_stopped(host, &done);
                }
                if let (Work::Clean { group, .. }, Ok(()), true) =
                    (&done.work, &done.result, self.daemon_of(host, start).is_some())
                {
                    self.hosts[host].open[*group] = false;
                }
                if let Some(daemon) = self.daemon_of(host, start) {
                    daemon.done.push_back(done);
                    self.wake_main(host);
                }
            }
            Event::Begin { fault } => self.begin(fault),
            Event::End { fault } => self.end(fault),
            Event::PowerOff { host } => self.fence(host),
            Event::Boot { host } => self.boot(host),
            Event::StartDaemon { host } => self.start_daemon(host),
            Event::Reload => drop(self.reload()),
            Event::Look => {}
        }
    }

    fn daemon_of(&mut self, host: usize, start: u64) -> Option<&mut crate::daemon::Daemon> {
        let host = &mut self.hosts[host];
        host.daemon.as_mut().filter(|_| host.start == start)
    }

    /// Resources of a group begin to run, or run no more. An exclusive one must not begin to while it runs on
    /// a machine that gave the group away.
    fn started_or_stopped(&mut self, at: usize, done: &Done) {
        match (&done.work, &done.result) {
            (Work::Start { group, .. }, Ok(())) => {
                let both = |other: &usize| {
                    let host = &self.hosts[*other];
                    *other != at && host.runs[*group] && host.partings[*group] == Parting::Given
                };
                if let Some(other) = (0..self.hosts.len()).find(both) {
                    self.wrong = Some(format!(
                        "resources of group {group} start on {}, and still run on {}, which gave it away",
                        at + 1,
                        other + 1
                    ));
                }
                let others = self.hosts.iter().enumerate().filter(|(other, _)| *other != at);
                let lost = others.filter(|(_, host)| host.runs[*group]).count();
                self.stats.lost_and_run += lost as u64;
                self.hosts[at].runs[*group] = true;
            }
            (Work::Stop { group }, Ok(())) => self.hosts[at].runs[*group] = false,
            _ => {}
        }
    }

    fn arrive(&mut self, to: usize, frame: Box<Frame>) {
        let host = &mut self.hosts[to];
        if host.clock.stands() {
            if host.ring.len() < 256 {
                host.ring.push_back(frame);
            }
            return;
        }
        let now = host.clock.at(self.now);
        if let Some(kernel) = &mut host.kernel {
            self.stats.frames += 1;
            kernel.hear(*frame, now);
            self.follow_up(to);
        }
    }

    fn timer(&mut self, host: usize, life: u64, contact: usize, set: u64) {
        let found = &mut self.hosts[host];
        let Some(kernel) = found.kernel.as_mut().filter(|_| found.life == life) else { return };
        let timer = kernel.contacts[contact].timer;
        if found.clock.stands() || kernel.contacts[contact].set != set {
            return;
        }
        let now = found.clock.at(self.now);
        match timer {
            Some(due) if due <= now => kernel.tick(contact, now),
            Some(_) => found.timers[contact] = 0,
            None => return,
        }
        self.follow_up(host);
    }

    fn fast(&mut self, at: usize, start: u64) {
        let now = self.now;
        let host = &mut self.hosts[at];
        if host.start != start || host.fast_at != now {
            return;
        }
        host.fast_at = u64::MAX;
        if let Some(until) = host.blocked.filter(|until| now < *until) {
            return self.wake_fast_at(at, until);
        }
        let stuck = host.stuck;
        let Some((daemon, mut machine)) = host.running(now, &mut self.rng) else { return };
        if stuck {
            return;
        }
        let wake = daemon.fast.turn(&mut machine);
        let deputy = daemon.fast.deputy();
        let hands = daemon.fast.hands();
        let rung = std::mem::take(&mut hands.rung);
        self.stats.note(std::mem::take(&mut hands.counts));
        if let Some(wrong) = hands.wrong.take() {
            self.wrong = Some(format!("machine {} {wrong}", at + 1));
        }
        let taken = hands.taken;
        host.open.iter_mut().zip(taken).for_each(|(open, taken)| *open |= taken);
        host.blocked = None;
        let next = match wake {
            Wake::At(due) => host.clock.real_of(due, now),
            Wake::Blocked(for_ns) => {
                self.stats.hung += u64::from(for_ns > 2_000 * MS);
                *host.blocked.insert(now + for_ns)
            }
            Wake::Dead => {
                host.kill_daemon();
                self.note(at, || "daemon killed between two steps".to_owned());
                return self.follow_up(at);
            }
        };
        let deputy = deputy.map(|due| host.clock.real_of(due, now));
        self.wake_fast_at(at, next);
        if let Some(due) = deputy {
            self.wake_deputy_at(at, due);
        }
        if rung {
            self.wake_main(at);
        }
        self.follow_up(at);
    }

    fn deputy(&mut self, at: usize, start: u64) {
        let now = self.now;
        let host = &mut self.hosts[at];
        if host.start != start || host.deputy_at != now {
            return;
        }
        host.deputy_at = u64::MAX;
        let Some((daemon, mut machine)) = host.running(now, &mut self.rng) else {
            return self.wake_deputy_at(at, now + MS);
        };
        daemon.fast.stand_in(&mut machine);
        if let Some(due) = daemon.fast.deputy() {
            let due = host.clock.real_of(due, now);
            self.wake_deputy_at(at, due);
        }
        self.follow_up(at);
    }

    fn main(&mut self, at: usize, start: u64) {
        let now = self.now;
        let host = &mut self.hosts[at];
        if host.start != start || host.main_at != now {
            return;
        }
        host.main_at = u64::MAX;
        let Some((daemon, mut machine)) = host.running(now, &mut self.rng) else { return };
        let due = daemon.turn(&mut machine);
        if let Some(wrong) = daemon.auditor.take() {
            self.wrong = Some(format!("machine {} {wrong}", at + 1));
        }
        let unstored = daemon.controller.storage().aside().is_some_and(|aside| {
            aside != machine.disk.aside || aside != daemon.controller.core().view().aside
        });
        if unstored {
            self.wrong = Some(format!("machine {} stands aside by what is not stored", at + 1));
        }
        let commands = !daemon.fast.commands.is_empty();
        let (work, logs) = (std::mem::take(&mut daemon.work), std::mem::take(&mut daemon.logs));
        for transition in logs {
            self.note(at, || format!("{transition:?}"));
            if let Transition::PassedOver { group, .. } = &transition {
                self.hosts[at].passed_over[usize::from(group.0)] = true;
            }
            if let Transition::Group { group, to, .. } = &transition {
                let parting = &mut self.hosts[at].partings[usize::from(group.0)];
                match to {
                    Phase::Dropping { .. } => *parting = Parting::Given,
                    Phase::Yielding { .. } | Phase::Seeking => *parting = Parting::None,
                    _ => {}
                }
            }
            self.stats.count(&transition);
        }
        for work in work {
            self.begin_work(at, work);
        }
        self.hosts[at].note_aside();
        let struck = self.hosts[at].strike.filter(|strike| strike.calls == 0);
        let Some(due) = due.filter(|_| struck.is_none()) else {
            return self.end_daemon(at, struck);
        };
        if commands {
            self.wake_fast(at);
        }
        let next = self.hosts[at].clock.real_of(due, now);
        self.wake_main_at(at, next);
        self.follow_up(at);
    }

    /// A daemon has left, or is killed in the middle of something, or its machine loses power then.
    fn end_daemon(&mut self, at: usize, struck: Option<Strike>) {
        let now = self.now;
        let struck = struck.or_else(|| {
            self.note(at, || "leaves".to_owned());
            if let Some(wrong) = self.hosts[at].left(now) {
                self.wrong = Some(format!("machine {} {wrong}", at + 1));
            }
            self.hosts[at].strike.filter(|strike| strike.calls == 0)
        });
        let Some(strike) = struck else { return };
        self.stats.struck += 1;
        self.note(at, || format!("ends in the middle of something: {strike:?}"));
        if strike.power {
            self.hosts[at].power_off();
        } else {
            self.hosts[at].kill_daemon();
        }
    }

    /// Lets happen what follows from what a machine did: frames, wake-ups, timers.
    fn follow_up(&mut self, at: usize) {
        let Some(kernel) = &mut self.hosts[at].kernel else { return };
        let out = std::mem::take(&mut kernel.out);
        let events = !kernel.events.is_empty();
        for event in std::mem::take(&mut kernel.news) {
            self.tell(at, &event);
        }
        self.tell_of_records(at);
        for frame in out {
            let to = index(frame.destination);
            let copies = self.network.carry(&mut self.rng, at, to);
            for delay in copies.into_iter().flatten() {
                self.after(delay, Event::Frame { to, frame: Box::new(frame) });
            }
        }
        if events {
            self.wake_fast(at);
        }
        self.set_timers(at);
    }

    fn tell(&mut self, at: usize, event: &maps::Event) {
        let text = match EventKind::from_code(event.kind) {
            Some(EventKind::Dead) => format!("{:?}", Cause::from_code(event.cause)),
            Some(EventKind::Lease) => format!("{:?}", LeaseNews::from_code(event.cause)),
            Some(EventKind::Up) => "is heard".to_owned(),
            Some(EventKind::Paused) => {
                self.stats.jumps += 1;
                let whose = if event.cause == 1 { "this" } else { "that" };
                let ms = event.silence_ns / MS;
                if matches!(self.bent, Bent::Nothing) && !self.schedule.pauses() {
                    self.wrong = Some(format!(
                        "machine {} says that a clock stood still, and none did",
                        at + 1
                    ));
                }
                format!("the clock of {whose} machine stood still for {ms} ms")
            }
            _ => return,
        };
        self.note(at, || format!("kernel: machine {}: {text}", event.peer));
    }

    /// Tells of records that changed; one that holds is told of by its gate.
    fn tell_of_records(&mut self, at: usize) {
        if self.trace.is_none() {
            return;
        }
        let Some(kernel) = &mut self.hosts[at].kernel else { return };
        let mut told = Vec::new();
        for (group, record) in kernel.records.iter().enumerate() {
            let now = (record.state, record.epoch, record.promised);
            if kernel.told[group] != now {
                kernel.told[group] = now;
                let (state, epoch, promised) = (record.state(), record.epoch, record.promised);
                told.push(format!(
                    "record of group {group}: {state:?} {epoch:x}, promised {promised:x}"
                ));
            }
        }
        for text in told {
            self.note(at, || text);
        }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.queue.insert((at, self.order), event);
    }

    fn after(&mut self, by: u64, event: Event) {
        self.at(self.now + by, event);
    }

    fn note(&mut self, host: usize, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let at = self.now as f64 / MS as f64;
            trace.push(format!("{at:>10.3} ms  {}  {}", host + 1, text()));
        }
    }
}
