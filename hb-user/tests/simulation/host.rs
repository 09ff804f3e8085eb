//! One machine: its clock, its disk, what runs on it, and what is wrong with it.

use hb_ebpf::{epoch::Epoch, wire::State};
use hb_user::core::{Aside, Phase};

use crate::{
    clock::Clock,
    daemon::Daemon,
    fast::Addresses,
    kernel::Kernel,
    leaving::Departure,
    machine::{Disk, Machine, Strike},
    network::Frames,
    plan::Plan,
    rng::Rng,
    start::Started,
};

/// How a machine came to part with a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Parting {
    /// It has not, or it was lost: nobody asked whether what runs could be stopped.
    #[default]
    None,
    /// It gave the group away.
    Given,
}

pub(crate) struct Host {
    pub(crate) clock: Clock,
    pub(crate) disk: Disk,
    pub(crate) powered: bool,
    pub(crate) boots: u64,
    pub(crate) kernel: Option<Kernel>,
    pub(crate) daemon: Option<Daemon>,
    /// Counts kernel halves, and daemons: what is on its way for an earlier one is void.
    pub(crate) life: u64,
    pub(crate) start: u64,
    /// The daemon is stopped (SIGSTOP).
    pub(crate) frozen: bool,
    /// It was told to leave in order.
    pub(crate) leaves: bool,
    /// When a pause of the machine ended, by its clock, if there was one in this life.
    pub(crate) resumed: Option<u64>,
    /// When it last stood still, in real time.
    pub(crate) stood: Option<u64>,
    /// Frames that wait in the ring of a machine that stands still.
    pub(crate) ring: Frames,
    /// When each thread is to run next, in real time.
    pub(crate) fast_at: u64,
    pub(crate) main_at: u64,
    /// When the resources of each group are done with what was asked last.
    pub(crate) lanes: Vec<u64>,
    /// Whether the resources of each group run, whatever the daemon knows of them; they outlive it.
    pub(crate) runs: Vec<bool>,
    pub(crate) partings: Vec<Parting>,
    /// Which setting of each timer the queue has.
    pub(crate) timers: Vec<u64>,
    pub(crate) addresses: Addresses,
    /// Until when the fast path waits for the kernel to change an address, if it does.
    pub(crate) blocked: Option<u64>,
    /// When the deputy is to look at its timer next.
    pub(crate) deputy_at: u64,
    /// The daemon passed another node over for the group: it hands nothing to that one before that
    /// one changes.
    pub(crate) passed_over: Vec<bool>,
    /// What the operator wants, and the groups that the daemon must not take therefore: it had nothing of them
    /// since it stands aside.
    pub(crate) wants_aside: Aside,
    pub(crate) bars: Vec<bool>,
    pub(crate) fail_starts: bool,
    pub(crate) fail_stops: bool,
    pub(crate) fail_cleans: bool,
    pub(crate) fail_fences: bool,
    pub(crate) slow_disk: bool,
    /// Nothing can be stored.
    pub(crate) fail_disk: bool,
    /// The kernel does not say what came of an order.
    pub(crate) fail_orders: bool,
    pub(crate) no_path: bool,
    /// The fast path does not go round.
    pub(crate) stuck: bool,
    /// The end of this daemon, or of the machine.
    pub(crate) strike: Option<Strike>,
    /// Whether something may be open at the addresses of each group.
    pub(crate) open: Vec<bool>,
}

impl Host {
    /// Takes note of the groups of which a daemon stands aside by now.
    pub(crate) fn note_aside(&mut self) {
        let asks = [self.wants_aside, self.disk.aside].iter().any(|aside| *aside != Aside::Nothing);
        let views =
            self.daemon.as_ref().filter(|_| asks).map(|daemon| daemon.controller.core().view());
        let Some((view, kernel)) = views.zip(self.kernel.as_ref()) else {
            return self.bars.fill(false);
        };
        for ((bar, group), record) in self.bars.iter_mut().zip(view.groups).zip(&kernel.records) {
            let has = matches!(record.state(), State::Holding | State::Seeking);
            *bar = group.aside && (*bar || (group.phase.is_apart() && !has));
        }
    }

    pub(crate) fn new(plan: &Plan, clock: Clock) -> Self {
        Self {
            clock,
            disk: Disk {
                generation: 1,
                voters: Some(plan.voter_set()),
                vows: vec![None; plan.groups],
                ..Disk::default()
            },
            powered: false,
            boots: 0,
            kernel: None,
            daemon: None,
            life: 0,
            start: 0,
            frozen: false,
            leaves: false,
            resumed: None,
            stood: None,
            ring: Frames::new(),
            fast_at: u64::MAX,
            main_at: u64::MAX,
            lanes: vec![0; plan.groups],
            wants_aside: Aside::Nothing,
            bars: vec![false; plan.groups],
            runs: vec![false; plan.groups],
            partings: vec![Parting::None; plan.groups],
            timers: vec![0; plan.cluster.machines() - 1],
            addresses: Addresses::new(plan),
            blocked: None,
            deputy_at: u64::MAX,
            passed_over: vec![false; plan.groups],
            fail_starts: false,
            fail_stops: false,
            fail_cleans: false,
            fail_fences: false,
            slow_disk: false,
            fail_disk: false,
            fail_orders: false,
            no_path: false,
            stuck: false,
            strike: None,
            open: vec![false; plan.groups],
        }
    }

    /// A daemon starts, and with it a kernel half if there is none.
    pub(crate) fn start_daemon(
        &mut self,
        plan: &Plan,
        me: usize,
        nonce: u64,
        real: u64,
        rng: &mut Rng,
    ) -> Started {
        let now = self.clock.at(real);
        let found = match &self.kernel {
            Some(kernel) => kernel.node.incarnation != 0,
            None => false,
        };
        if self.kernel.is_none() {
            self.life += 1;
            self.timers.fill(0);
        }
        let kernel = self.kernel.get_or_insert_with(|| Kernel::new(plan, me, nonce));
        let machine = Machine {
            kernel,
            disk: &mut self.disk,
            addresses: &mut self.addresses,
            now,
            open: &self.open,
            rng,
            fail_orders: false,
            strike: &mut self.strike,
        };
        self.start += 1;
        self.frozen = false;
        self.lanes.fill(real);
        self.passed_over.fill(false);
        match Daemon::start(plan, me, machine, found) {
            Ok(daemon) => {
                self.daemon = Some(daemon);
                if found { Started::Found } else { Started::New }
            }
            Err(Some(wrong)) => Started::Wrong(wrong),
            Err(None) => Started::Struck,
        }
    }

    /// The daemon is gone; its kernel half and its addresses stay.
    pub(crate) fn kill_daemon(&mut self) {
        self.daemon = None;
        self.frozen = false;
        self.leaves = false;
        self.strike = None;
        self.fast_at = u64::MAX;
        self.main_at = u64::MAX;
        self.blocked = None;
        self.deputy_at = u64::MAX;
    }

    /// The daemon has left in order, and takes all that was its with it, but for a note. Returns what it
    /// does and must not.
    pub(crate) fn left(&mut self, real: u64) -> Option<String> {
        let now = self.clock.at(real);
        let Some(daemon) = &mut self.daemon else { return None };
        let mut departure = Departure {
            pinned: &mut self.kernel,
            kept: None,
            disk: &mut self.disk,
            now,
            strike: &mut self.strike,
            wrong: None,
        };
        let left = daemon.leave(&mut departure);
        let wrong = departure.wrong.take();
        if left.is_err() {
            // Killed before its pins were gone.
            self.kill_daemon();
            return wrong;
        }
        for group in 0..self.runs.len() {
            let phase = self.daemon.as_ref().map(|daemon| daemon.phase(group));
            if phase.is_some_and(|phase| phase.held().is_some()) {
                self.partings[group] = Parting::Given;
            }
        }
        self.open.fill(false);
        self.clear();
        wrong
    }

    fn clear(&mut self) {
        self.kill_daemon();
        self.kernel = None;
        self.addresses.clear();
    }

    pub(crate) fn power_off(&mut self) {
        self.clear();
        self.runs.fill(false);
        self.open.fill(false);
        self.disk.parted = None;
        self.powered = false;
        self.resumed = None;
        self.stood = None;
        self.ring.clear();
    }

    /// An operator ends what hb may not have been able to stop, before saying that nothing runs.
    pub(crate) fn end_what_does_not_stop(&mut self) {
        let Some(daemon) = &self.daemon else { return };
        for (runs, view) in self.runs.iter_mut().zip(daemon.controller.core().view().groups) {
            let stops = matches!(
                view.phase,
                Phase::Stopping { .. } | Phase::Blocked { .. } | Phase::Clearing
            );
            *runs &= !stops;
        }
    }

    /// What runs looks at the clock; `None` if it does not run now.
    pub(crate) fn running<'a>(
        &'a mut self,
        real: u64,
        rng: &'a mut Rng,
    ) -> Option<(&'a mut Daemon, Machine<'a>)> {
        if self.frozen || self.clock.stands() {
            return None;
        }
        let now = self.clock.at(real);
        let kernel = self.kernel.as_mut()?;
        let machine = Machine {
            kernel,
            disk: &mut self.disk,
            addresses: &mut self.addresses,
            now,
            open: &self.open,
            rng,
            fail_orders: self.fail_orders,
            strike: &mut self.strike,
        };
        self.daemon.as_mut().map(|daemon| (daemon, machine))
    }

    /// Tells whether the clock goes and the daemon runs, if there is a kernel half that needs one.
    pub(crate) fn is_well(&self) -> bool {
        let hangs = self.stuck
            || self.frozen
            || (self.daemon.is_none() && self.start > 0 && self.kernel.is_some());
        !self.clock.stands() && !hangs
    }

    /// Returns the epoch under which packets of the group leave now.
    pub(crate) fn open(&self, group: usize, real: u64, bypass: bool) -> Option<Epoch> {
        if self.clock.stands() {
            return None;
        }
        if bypass {
            return self.addresses.epoch(group);
        }
        self.kernel.as_ref()?.open(group, self.clock.at(real))
    }
}
