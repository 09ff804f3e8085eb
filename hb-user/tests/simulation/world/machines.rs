//! Machines start and lose power, and daemons begin work that takes time.

use hb_ebpf::lease::start;
use hb_user::{beginning::Beginning, core::Input, witness::generation::reserve};

use super::{Bent, Event, World};
use crate::{
    clock::{Clock, RATE_ONE},
    daemon::{Done, THERE_IS_MORE, Work},
    kernel::Kernel,
    plan::{FENCE_DELAY, MS, RHO, SLOW_DISK},
    rng::Rng,
    start::Started,
};

impl World {
    /// A machine starts; a node's daemon follows, a witness needs none.
    pub(super) fn boot(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        if host.powered {
            return;
        }
        host.powered = true;
        host.boots += 1;
        let witness = at >= self.plan.cluster.nodes();
        if self.now > 0 {
            let rate = draw_rates(&mut self.rng, 1, self.bent)[0];
            host.clock = Clock::new(self.now, self.rng.within(5_000 * MS, 10_000 * MS), rate);
        }
        let now = host.clock.at(self.now);
        if witness {
            host.life += 1;
            host.timers.fill(0);
            let mut kernel = Kernel::new(&self.plan, at, self.rng.next() | 1);
            let reserved = reserve(host.disk.generation, 0).expect("numbers enough");
            host.disk.generation = reserved.stored;
            let groups = self.plan.fingerprints();
            let terms = kernel.terms;
            kernel.begin(Beginning::New(reserved.floor, None), groups, terms, now);
            for record in &mut kernel.records {
                start::generation_stored(record, reserved.stored);
            }
            // It has no daemon that could grow old.
            kernel.node.controller_stamp_ns = u64::MAX;
            kernel.node.config_hash = self.plan.config_hash();
            kernel.node.incarnation = self.hosts[at].life as u32;
            self.hosts[at].kernel = Some(kernel);
        } else if self.now > 0 {
            let delay = self.rng.within(MS, 30 * MS);
            self.after(delay, Event::StartDaemon { host: at });
        }
        self.note(at, || "boots".to_owned());
    }

    /// Has every machine that runs go by the file as it is now, one after the other; tells whether all do.
    pub(super) fn renew(&mut self) -> bool {
        let file = self.plan.config_hash();
        for at in 0..self.plan.cluster.nodes() {
            let host = &mut self.hosts[at];
            match &host.daemon {
                Some(daemon) if daemon.file == file => {}
                Some(_) if host.leaves => return false,
                Some(_) => {
                    host.leaves = true;
                    self.feed(at, Input::Stop);
                    return false;
                }
                None => self.start_daemon(at),
            }
        }
        self.reload()
    }

    /// Has the witness go by the file as it is now, if there is one; tells whether it does.
    pub(super) fn reload(&mut self) -> bool {
        let (groups, at) = (self.plan.fingerprints(), self.plan.cluster.nodes());
        let Some(host) = self.hosts.get_mut(at) else { return true };
        let now = host.clock.at(self.now);
        if host.clock.stands() {
            return false;
        }
        let Some(kernel) = host.kernel.as_mut() else { return true };
        if kernel.node.config_hash != self.plan.config_hash() {
            // The command that an operator runs there.
            let heard = kernel.records.iter().map(|record| record.highest().generation()).max();
            let reserved =
                reserve(host.disk.generation, heard.unwrap_or(0)).expect("numbers enough");
            host.disk.generation = reserved.stored;
            kernel.begin(Beginning::Found(Some(reserved.floor)), groups, self.plan.terms(at), now);
            for record in &mut kernel.records {
                start::generation_stored(record, reserved.stored);
            }
            kernel.node.config_hash = self.plan.config_hash();
        }
        true
    }

    pub(super) fn start_daemon(&mut self, at: usize) {
        let (now, nonce) = (self.now, self.rng.next() | 1);
        let host = &mut self.hosts[at];
        if !host.powered || host.daemon.is_some() {
            return;
        }
        let started = host.start_daemon(&self.plan, at, nonce, now, &mut self.rng);
        self.note(at, || format!("daemon starts: {started:?}"));
        match started {
            Started::Found => self.stats.resumed += 1,
            Started::New => {}
            Started::Wrong(wrong) => {
                self.wrong = Some(format!("machine {} {wrong}", at + 1));
                return;
            }
            Started::Struck => {
                self.stats.struck_starting += 1;
                let struck = self.hosts[at].strike.take();
                if struck.is_some_and(|strike| strike.power) {
                    self.hosts[at].power_off();
                }
                return;
            }
        }
        let host = &mut self.hosts[at];
        host.note_aside();
        let wants = host.wants_aside;
        if host.disk.aside != wants {
            self.feed(at, Input::Aside(wants));
        }
        self.tell_of_path(at, false);
        self.wake_main(at);
        self.wake_fast(at);
        self.follow_up(at);
    }

    pub(super) fn fence(&mut self, at: usize) {
        self.note(at, || "fenced".to_owned());
        self.stats.fences += 1;
        self.hosts[at].power_off();
        self.judge.fenced(at, self.now);
        let delay = self.rng.within(50 * MS, 400 * MS);
        self.after(delay, Event::Boot { host: at });
    }

    pub(super) fn begin_work(&mut self, at: usize, work: Work) {
        let rng = &mut self.rng;
        let takes = match work {
            Work::Clean { .. } => rng.within(MS / 10, 3 * MS),
            Work::Start { .. } | Work::Stop { .. } => rng.within(MS / 2, 6 * MS),
            // Who waits may have to wait for the processor as well.
            Work::FenceDue(_) if rng.chance(100) => rng.within(FENCE_DELAY, 400 * MS),
            Work::FenceDue(_) => MS / 10 + if at == 0 { 0 } else { FENCE_DELAY },
            Work::Fence(_) if rng.chance(100) => rng.within(100 * MS, 400 * MS),
            Work::Fence(_) => rng.within(2 * MS, 60 * MS),
            Work::Silence(_) => self.plan.terms(at).wait_ns(),
            Work::Store(_) if self.hosts[at].slow_disk => rng.within(20 * MS, SLOW_DISK),
            Work::Store(_) => rng.within(MS / 20, 8 * MS),
        };
        let host = &mut self.hosts[at];
        let mut result = Ok(());
        let mut due = self.now + takes;
        match work {
            Work::Start { group, .. } | Work::Stop { group } => {
                due = self.now.max(host.lanes[group]) + takes;
                host.lanes[group] = due;
                let starts = matches!(work, Work::Start { .. });
                if if starts { host.fail_starts } else { host.fail_stops } {
                    result = Err("refused".to_owned());
                }
                if !starts && host.fail_stops && self.rng.chance(300) {
                    // It hangs for longer than anybody waits.
                    due += self.rng.within(100 * MS, 200 * MS);
                    host.lanes[group] = due;
                }
            }
            Work::Fence(_) => {
                // An agent may do it and not know it.
                let fails = host.fail_fences;
                if fails {
                    result = Err("no answer".to_owned());
                }
                if !fails || self.rng.chance(300) {
                    let off = self.now + self.rng.within(MS, takes);
                    self.at(off, Event::PowerOff { host: 1 - at });
                }
            }
            Work::Store(ref write) => {
                // It may be there before anybody is told so, or though it is told otherwise.
                if self.rng.chance(if host.fail_disk { 200 } else { 500 }) {
                    host.disk.store(write);
                }
                if host.fail_disk {
                    result = Err("disk full".to_owned());
                }
            }
            Work::Clean { .. } if host.fail_cleans => {
                let more = self.rng.chance(700);
                result = Err(if more { THERE_IS_MORE } else { "refused" }.to_owned());
            }
            Work::Clean { .. } | Work::FenceDue(_) | Work::Silence(_) => {}
        }
        let start = self.hosts[at].start;
        self.at(due, Event::Work { host: at, start, done: Done { work, result } });
    }
}

/// Rates within rho of each other, often at its ends.
pub(super) fn draw_rates(rng: &mut Rng, count: usize, bent: Bent) -> Vec<u64> {
    let most = if matches!(bent, Bent::Clocks) { 2 * RATE_ONE } else { RATE_ONE + u64::from(RHO) };
    let rate = |_| match rng.index(3) {
        0 => RATE_ONE,
        1 => most,
        _ => rng.within(RATE_ONE, most),
    };
    (0..count).map(rate).collect()
}
