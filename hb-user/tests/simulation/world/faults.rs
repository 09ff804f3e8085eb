//! Faults begin and end.

use hb_ebpf::wire::GROUPS;
use hb_user::{
    core::{Aside, Input},
    id::GroupId,
};

use super::{Event, World, machines::draw_rates};
use crate::{
    network::Trouble,
    plan::{MS, id},
    schedule::Fault,
};

impl World {
    pub(super) fn begin(&mut self, at: usize) {
        let scheduled = self.schedule.faults[at].clone();
        self.at(scheduled.end.max(self.now + 1), Event::End { fault: at });
        self.note(0, || format!("FAULT {:?}", scheduled.fault));
        let now = self.now;
        match scheduled.fault {
            Fault::Crash { host } => self.hosts[host].power_off(),
            Fault::LoseDisk { host } => {
                let host = &mut self.hosts[host];
                host.power_off();
                host.disk.generation = 0;
                host.disk.voters = None;
                host.disk.vows.fill(None);
            }
            Fault::Kill { host } => self.hosts[host].kill_daemon(),
            Fault::Freeze { host } => self.hosts[host].frozen = self.hosts[host].daemon.is_some(),
            Fault::Leave { host } => {
                self.hosts[host].leaves = self.hosts[host].daemon.is_some();
                self.feed(host, Input::Stop);
            }
            Fault::Pause { host } => {
                let host = &mut self.hosts[host];
                if host.powered && !host.clock.stands() {
                    host.clock.stop(now);
                    host.stood = Some(now);
                }
            }
            Fault::Rates => {
                let rates = draw_rates(&mut self.rng, self.hosts.len(), self.bent);
                for (host, rate) in rates.into_iter().enumerate() {
                    self.hosts[host].clock.set_rate(now, rate);
                    self.look_again(host);
                }
            }
            Fault::Wire(troubles) => {
                troubles.into_iter().for_each(|trouble| self.network.set(trouble, true));
            }
            Fault::Move { group, to } => {
                for host in 0..self.plan.cluster.nodes() {
                    self.feed(host, Input::Move { group: GroupId(group as u8), to: id(to) });
                }
            }
            Fault::Aside { host, aside } => self.stand_aside(host, aside),
            Fault::Maintenance { host } => self.feed(host, Input::Maintenance([true; GROUPS])),
            Fault::Fail { host } => self.fail(host),
            Fault::FailStarts { host } => {
                self.hosts[host].fail_starts = true;
                self.make_room(host);
            }
            Fault::FailStops { host } => {
                self.hosts[host].fail_stops = true;
                if self.rng.chance(500) {
                    self.move_away(host);
                } else {
                    self.fail(host);
                }
            }
            Fault::FailAdds { host } => {
                let some = self.rng.within(1, (1 << self.plan.vips) - 1);
                self.hosts[host].addresses.fail_adds = some;
                self.make_room(host);
            }
            Fault::FailRemoves { host } => {
                self.hosts[host].addresses.fail_removes = true;
                self.fail(host);
            }
            Fault::SlowLock { host } => {
                self.hosts[host].addresses.slow = true;
                self.make_room(host);
            }
            Fault::FullQueue { host } => {
                self.hosts[host].addresses.full = true;
                self.make_room(host);
            }
            Fault::Strip { host } => self.strip(host),
            Fault::Stab { host } => {
                let steps = self.rng.within(1, 60) as u32;
                if let Some(daemon) = &mut self.hosts[host].daemon {
                    daemon.fast.hands().dies_in = Some(steps);
                }
            }
            Fault::FailCleans { host } => {
                self.hosts[host].fail_cleans = true;
                self.move_away(host);
            }
            Fault::FailFences => self.hosts.iter_mut().for_each(|host| host.fail_fences = true),
            Fault::NoPath { host, alone } => {
                if alone {
                    self.part(host, true);
                }
                self.hosts[host].no_path = true;
                self.tell_of_path(host, alone);
            }
            Fault::SlowDisk { host } => self.hosts[host].slow_disk = true,
            Fault::FailDisk { host } => self.hosts[host].fail_disk = true,
            Fault::FailOrders { host } => self.hosts[host].fail_orders = true,
            Fault::Strike { host, strike, starts } => {
                if self.hosts[host].daemon.is_some() {
                    if starts {
                        self.hosts[host].kill_daemon();
                    }
                    self.hosts[host].strike = Some(strike);
                    self.start_daemon(host);
                }
            }
            Fault::Revote { host } => {
                self.plan.voters += 1;
                self.start_again(host);
            }
            Fault::Relength { host } => {
                self.plan.lengths += 1;
                self.start_again(host);
            }
            Fault::Stick { host } => self.hosts[host].stuck = true,
            Fault::Ungate { host } => self.tell_of_gate(host, Err("no gate".to_owned())),
            Fault::Edit { group, host } => {
                self.plan.changes[group] += 1;
                self.start_again(host);
            }
        }
    }

    pub(super) fn end(&mut self, at: usize) {
        let fault = self.schedule.faults[at].fault.clone();
        match &fault {
            Fault::Crash { host } | Fault::LoseDisk { host } => self.boot(*host),
            Fault::Kill { host } => self.start_daemon(*host),
            Fault::Freeze { host } => {
                self.hosts[*host].frozen = false;
                self.look_again(*host);
            }
            Fault::Leave { host } => {
                if self.hosts[*host].leaves {
                    // Started again at once, while what it promised may bind still.
                    return self.after(MS / 4, Event::End { fault: at });
                }
                self.start_daemon(*host);
            }
            Fault::Pause { host } => self.resume(*host),
            Fault::Wire(troubles) => {
                troubles.iter().for_each(|trouble| self.network.set(*trouble, false));
            }
            Fault::FailStops { host } => self.hosts[*host].fail_stops = false,
            Fault::FailStarts { .. }
            | Fault::FailAdds { .. }
            | Fault::FailRemoves { .. }
            | Fault::Fail { .. } => {
                for host in &mut self.hosts {
                    host.fail_starts = false;
                    (host.addresses.fail_adds, host.addresses.fail_removes) = Default::default();
                }
            }
            Fault::SlowLock { host } => {
                let now = self.now;
                let found = &mut self.hosts[*host];
                found.addresses.slow = false;
                if let Some(until) = &mut found.blocked {
                    *until = (*until).min(now);
                    self.wake_fast(*host);
                }
            }
            Fault::FullQueue { host } => self.hosts[*host].addresses.full = false,
            Fault::Strip { host } => self.strip(*host),
            Fault::Stab { host } => {
                if let Some(daemon) = &mut self.hosts[*host].daemon {
                    daemon.fast.hands().dies_in = None;
                }
                self.start_daemon(*host);
            }
            Fault::FailCleans { host } => {
                self.hosts[*host].fail_cleans = false;
                // Nobody has to say so: the next try succeeds.
                return self.mended(&fault);
            }
            Fault::FailFences => self.hosts.iter_mut().for_each(|host| host.fail_fences = false),
            Fault::NoPath { host, alone } => {
                if *alone {
                    self.part(*host, false);
                }
                self.hosts[*host].no_path = false;
                self.tell_of_path(*host, false);
            }
            Fault::SlowDisk { host } => self.hosts[*host].slow_disk = false,
            Fault::FailDisk { host } => self.hosts[*host].fail_disk = false,
            Fault::FailOrders { host } => self.hosts[*host].fail_orders = false,
            Fault::Strike { host, .. } => {
                self.hosts[*host].strike = None;
                self.boot(*host);
                self.start_daemon(*host);
            }
            Fault::Stick { host } => {
                self.hosts[*host].stuck = false;
                self.look_again(*host);
            }
            Fault::Ungate { host } => self.tell_of_gate(*host, Ok(())),
            Fault::Edit { .. } | Fault::Revote { .. } | Fault::Relength { .. } => {
                if !self.renew() {
                    return self.after(MS / 4, Event::End { fault: at });
                }
            }
            Fault::Aside { host, .. } => self.stand_aside(*host, Aside::Nothing),
            Fault::Maintenance { host } => {
                self.feed(*host, Input::Maintenance([false; GROUPS]));
            }
            Fault::Rates | Fault::Move { .. } => {}
        }
        // The operator has mended it, and says so.
        for host in 0..self.plan.cluster.nodes() {
            self.hosts[host].end_what_does_not_stop();
            for group in 0..self.plan.groups as u8 {
                self.feed(host, Input::Clear { group: GroupId(group) });
            }
        }
        self.mended(&fault);
    }

    /// A node is killed and starts with the file as it is now, and so may the witness.
    fn start_again(&mut self, host: usize) {
        if self.hosts[host].daemon.is_some() {
            self.hosts[host].kill_daemon();
            let delay = self.rng.within(MS, 60 * MS);
            self.after(delay, Event::StartDaemon { host });
        }
        if self.rng.chance(500) {
            let delay = self.rng.within(MS, 60 * MS);
            self.after(delay, Event::Reload);
        }
    }

    fn mended(&mut self, fault: &Fault) {
        self.open_faults -= 1;
        self.judge.mended(self.now);
        self.note(0, || format!("mended {fault:?}"));
    }

    /// An operator wants a node to stand aside, and says so again to a daemon that starts.
    fn stand_aside(&mut self, host: usize, aside: Aside) {
        self.hosts[host].wants_aside = aside;
        self.feed(host, Input::Aside(aside));
    }

    /// Has whatever a node holds moved to another.
    fn move_away(&mut self, host: usize) {
        let to = (host + 1) % self.plan.cluster.nodes();
        for group in 0..self.plan.groups as u8 {
            self.feed(host, Input::Move { group: GroupId(group), to: id(to) });
        }
    }

    /// Cuts a machine from all others, or connects it again.
    fn part(&mut self, host: usize, cut: bool) {
        let others = (0..self.plan.cluster.machines()).filter(|other| *other != host);
        for other in others {
            self.network.set(Trouble::Cut { from: host, to: other }, cut);
            self.network.set(Trouble::Cut { from: other, to: host }, cut);
        }
    }

    /// Tells a daemon what its interfaces are like.
    pub(super) fn tell_of_path(&mut self, host: usize, isolated: bool) {
        for group in 0..self.plan.groups as u8 {
            let broken = self.hosts[host].no_path;
            let result = if broken { Err("no carrier".to_owned()) } else { Ok(()) };
            // By turns a cable and a route.
            let group = GroupId(group);
            self.feed(
                host,
                match host % 2 {
                    0 => Input::Path { group, result },
                    _ => Input::Route { group, result },
                },
            );
        }
        self.feed(host, Input::Isolated(isolated));
    }

    fn tell_of_gate(&mut self, host: usize, result: Result<(), String>) {
        self.feed(host, Input::Gated { group: GroupId(0), result });
    }

    /// A machine that stood still goes on: what waits in its ring comes first.
    fn resume(&mut self, at: usize) {
        let now = self.now;
        let host = &mut self.hosts[at];
        if !host.powered || !host.clock.stands() {
            return;
        }
        host.clock.go_on(now);
        host.resumed = Some(host.clock.at(now));
        let ring = std::mem::take(&mut host.ring);
        for frame in ring {
            self.arrive(at, frame);
        }
        self.look_again(at);
    }

    /// Every timer and thread of a machine looks at its clock anew.
    fn look_again(&mut self, at: usize) {
        self.hosts[at].timers.fill(0);
        self.wake_fast(at);
        self.wake_main(at);
        self.set_timers(at);
    }

    /// Only who takes a group can fail to: the others lose it.
    fn make_room(&mut self, host: usize) {
        let others = (0..self.plan.cluster.nodes()).filter(|other| *other != host);
        others.collect::<Vec<_>>().into_iter().for_each(|other| self.fail(other));
    }

    fn fail(&mut self, host: usize) {
        for group in 0..self.plan.groups as u8 {
            let error = "it ended".to_owned();
            self.feed(host, Input::ResourcesFailed { group: GroupId(group), error });
        }
    }

    /// Somebody else removes addresses.
    fn strip(&mut self, host: usize) {
        let Self { rng, hosts, .. } = self;
        for up in hosts[host].addresses.up.iter_mut().flatten() {
            if rng.chance(500) {
                *up = None;
            }
        }
    }

    pub(super) fn feed(&mut self, host: usize, input: Input) {
        if let Some(daemon) = &mut self.hosts[host].daemon {
            daemon.requests.push_back(input);
            self.wake_main(host);
        }
    }
}
