//! The fast path: one real-time thread that probes, hears the verdict and takes over.
//!
//! It allocates nothing, logs nothing and awaits nothing once it runs. What it shall do at a
//! peer's death was prepared before (`Command::Arm`); what it did goes to the daemon as a
//! [`Report`] through a bounded queue, with an eventfd as its bell.
//!
//! Who may serve is not its to decide: it asks the kernel's record for the group
//! ([`hb_ebpf::lease::op`]), waits until the record says that it is won, and only then puts
//! addresses up. What is done in which order is in [`crate::engine::takeover`]; here are threads,
//! queues and sockets.

mod deputy;
mod effect;
mod poller;
mod probe;
mod queue;
mod thread;

use std::{io, sync::Arc, thread::JoinHandle, time::Duration};

use hb_ebpf::{lease::Terms, time::BootTime};

pub use effect::Effect;
pub(crate) use poller::Poller;
pub use probe::{Outlet, Target, TargetCounters};
pub use queue::{Bell, Queue};

pub use crate::engine::takeover::{Command, EffectError, Groups, Report, Steps, Trigger};
use crate::{
    address::AddressError,
    engine::takeover::Token,
    id::{GroupId, LinkId, NodeId},
    kernel::{Events, Judge, Leases, Shared},
    realtime::{self, Demand, LockError, Mutex, Scheduling},
};

/// What takes the place of things that were bound to an interface which is gone, of other links, or of other
/// groups.
#[derive(Debug, Default)]
pub struct Rebind {
    /// How frames leave, by peer and link; `None` where they do no more.
    pub outlets: Vec<(NodeId, LinkId, Option<Outlet>)>,
    /// Addresses, by group: each takes the place of the same one.
    pub effects: Vec<(GroupId, Effect)>,
    /// What taking and dropping a group means from now on. Nothing of it is up by what is known here.
    pub groups: Vec<(GroupId, Effect)>,
    /// The thread has taken it up: what is in it now is what it had before.
    done: bool,
}

impl Rebind {
    /// Other groups.
    #[must_use]
    pub fn of_groups(groups: Vec<(GroupId, Effect)>) -> Self {
        Self { groups, ..Self::default() }
    }
}

/// What waits for the thread to take it up, or for whoever made it to drop it.
type Rebinds = Arc<Mutex<Vec<Rebind>>>;

/// What the thread is made of.
pub struct Setup {
    /// Where probes go.
    pub targets: Vec<Target>,
    /// Time between two probes.
    pub interval: Duration,
    /// What taking and dropping each group means.
    pub effects: Vec<Effect>,
    /// The shared maps.
    pub shared: Arc<Shared>,
    /// The kernel's events.
    pub events: Events,
    /// With it the thread counts the misses itself; without, the kernel's timers do.
    pub judge: Option<Judge>,
    /// The records of the groups.
    pub leases: Leases,
    /// How long leases last and who votes.
    pub terms: Terms,
    /// The priority to ask for.
    pub demand: Demand,
}

/// Why the thread does not run.
#[derive(Debug, thiserror::Error)]
pub enum FastError {
    /// A kernel object is missing.
    #[error("cannot {action} for the fast path")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// No way to change addresses.
    #[error("the fast path cannot change addresses")]
    Address(#[from] AddressError),
}

/// How the thread runs.
#[derive(Debug)]
pub struct Running {
    /// Its priority.
    pub scheduling: Scheduling,
    /// Whether its memory is locked.
    pub locked: Result<(), LockError>,
    /// Whether its stack was touched before.
    pub stack: Result<(), String>,
}

/// The daemon's end of the fast path.
pub struct Fast {
    commands: Arc<Queue<Command>>,
    reports: Arc<Queue<Report>>,
    token: Arc<Token>,
    counters: Arc<[TargetCounters]>,
    running: Running,
    rebinds: Rebinds,
    thread: Option<JoinHandle<()>>,
}

impl Fast {
    /// Starts the thread, and returns once it runs.
    ///
    /// # Errors
    ///
    /// [`FastError`]; then there is no thread.
    pub fn start(setup: Setup) -> Result<Self, FastError> {
        thread::start(setup)
    }

    /// Gives a command. Returns whether there was room; there always is unless the thread is
    /// stuck.
    #[must_use]
    pub fn command(&self, command: Command) -> bool {
        self.commands.push(command).is_ok()
    }

    /// Has the thread go by what is bound to another interface from now on. Returns whether there was
    /// room for the command.
    #[must_use]
    pub fn rebind(&self, rebind: Rebind) -> bool {
        let mut rebinds = self.rebinds.lock();
        // What the thread had is closed here: it frees nothing itself.
        rebinds.retain(|earlier| !earlier.done);
        rebinds.push(rebind);
        drop(rebinds);
        self.command(Command::Rebind)
    }

    /// Returns the queue of reports, whose bell rings for each.
    #[must_use]
    pub fn reports(&self) -> &Arc<Queue<Report>> {
        &self.reports
    }

    /// Returns how the thread runs.
    #[must_use]
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Takes note of what was reported of the scheduler.
    pub fn rescheduled(&mut self, policy: realtime::Policy) {
        self.running.scheduling.policy = policy;
    }

    /// Returns what was sent to each target.
    #[must_use]
    pub fn counters(&self) -> &[TargetCounters] {
        &self.counters
    }

    /// Tells at `now` whether the thread has gone round since the last call, or else waits for the
    /// kernel to change an address, as it may for a while; asks it to go round again.
    #[must_use]
    pub fn went_round(&self, now: BootTime) -> bool {
        self.token.is_shown(now)
    }
}

impl Drop for Fast {
    fn drop(&mut self) {
        // A full queue means a stuck thread, which cannot be waited for.
        if self.command(Command::Exit)
            && let Some(thread) = self.thread.take()
        {
            drop(thread.join());
        }
    }
}
