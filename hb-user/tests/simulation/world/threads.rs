//! When timers fire and threads run.

use super::{Event, World};
use crate::plan::{Cluster, MS};

impl World {
    pub(super) fn set_timers(&mut self, at: usize) {
        let late = self.rng.within(10_000, 100_000);
        let (host, now) = (&mut self.hosts[at], self.now);
        let Some(kernel) = &host.kernel else { return };
        let mut timers = Vec::new();
        for (contact, known) in kernel.contacts.iter().enumerate() {
            if let (Some(due), false) = (known.timer, host.timers[contact] == known.set) {
                let real = host.clock.real_of(due, now);
                if real != u64::MAX {
                    host.timers[contact] = known.set;
                    timers.push((real + late, contact, known.set));
                }
            }
        }
        let life = host.life;
        for (due, contact, set) in timers {
            self.at(due, Event::Timer { host: at, life, contact, set });
        }
    }

    /// A thread that is woken runs a little later; now and then it has to wait for the processor.
    pub(super) fn wake_fast(&mut self, host: usize) {
        let stall = if self.rng.chance(10) { 3 * MS } else { 50_000 };
        let at = self.now + self.rng.within(5_000, stall);
        self.wake_fast_at(host, at);
    }

    pub(super) fn wake_main(&mut self, host: usize) {
        // Of two nodes that think it is their turn, nothing but what they hear within two intervals
        // keeps them apart where nobody votes: then a daemon may not be as late as that.
        let late = if self.plan.cluster == Cluster::Available { 3 * MS } else { 10 * MS };
        let stall = if self.rng.chance(10) { late } else { 200_000 };
        let at = self.now + self.rng.within(5_000, stall);
        self.wake_main_at(host, at);
    }

    pub(super) fn wake_fast_at(&mut self, host: usize, at: u64) {
        let found = &mut self.hosts[host];
        if at < found.fast_at && found.daemon.is_some() {
            let at = at.max(self.now + 1);
            found.fast_at = at;
            let start = found.start;
            self.at(at, Event::Fast { host, start });
        }
    }

    pub(super) fn wake_deputy_at(&mut self, host: usize, at: u64) {
        let found = &mut self.hosts[host];
        if at < found.deputy_at && found.daemon.is_some() {
            let at = at.max(self.now + 1);
            found.deputy_at = at;
            let start = found.start;
            self.at(at, Event::Deputy { host, start });
        }
    }

    pub(super) fn wake_main_at(&mut self, host: usize, at: u64) {
        let found = &mut self.hosts[host];
        if at < found.main_at && found.daemon.is_some() {
            let at = at.max(self.now + 1);
            found.main_at = at;
            let start = found.start;
            self.at(at, Event::Main { host, start });
        }
    }
}
