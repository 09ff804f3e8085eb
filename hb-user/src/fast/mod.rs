//! The fast path: one real-time thread that probes, hears the verdict and takes over.
//!
//! It allocates nothing, logs nothing and awaits nothing once it runs. What it shall do at a
//! peer's death was prepared before (`Command::Arm`); what it did goes to the daemon as a
//! [`Report`] through a bounded queue, with an eventfd as its bell.
//!
//! Who may serve is not its to decide: it asks the kernel's record for the group
//! ([`hb_ebpf::lease::op`]), waits until the record says that it is won, and only then puts
//! addresses up.

mod burst;
mod deputy;
mod group;
mod poller;
mod probe;
mod pursuit;
mod queue;
mod quiet;
mod thread;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use hb_ebpf::{
    epoch::Epoch,
    lease::Terms,
    maps::{Cause, Event, PeerKeys},
    time::BootTime,
    wire::{GROUPS, Health},
};

pub use group::{Effect, EffectError};
pub(crate) use poller::Poller;
pub use probe::{Outlet, Target, TargetCounters};
pub use pursuit::{Ground, Pursuit};
pub use queue::{Bell, Queue};

use crate::{
    address::{AddressError, Vip},
    announce::Gateways,
    id::{GroupId, LinkId, NodeId},
    kernel::{Events, Judge, Leases, Shared},
    realtime::{self, Demand, LockError, Mutex, Scheduling},
};

/// Groups, each by its index.
pub type Groups = [bool; GROUPS];

/// What the daemon asks of the fast path.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// Say this in frames from now on, and send a probe at once.
    Publish {
        /// How each group fares here.
        health: [Health; GROUPS],
        /// The daemon is leaving in order.
        leaving: bool,
    },
    /// Seek these groups at the instant the kernel declares `peer` dead or finds its controller
    /// dead, and each of them at the instant the peer says that it released it to this node.
    Arm {
        /// The peer.
        peer: NodeId,
        /// What to seek.
        groups: Groups,
    },
    /// Seek a group, and once it is held put up its addresses and announce them. One that is held
    /// already is only put up.
    Seek {
        /// The group.
        group: GroupId,
    },
    /// Seek a group no longer, unless it has been won.
    GiveUp {
        /// The group.
        group: GroupId,
    },
    /// Give a group away: close its gate, say so, and take down its addresses.
    Release {
        /// The group.
        group: GroupId,
        /// To whom; `None` for whoever seeks it.
        successor: Option<NodeId>,
    },
    /// Take down the addresses of a group that is held no longer, or whose lease has run out.
    Drop {
        /// The group.
        group: GroupId,
    },
    /// Announce the addresses of a group again, from the start of the schedule.
    Announce {
        /// The group.
        group: GroupId,
    },
    /// Announce the addresses of a group once more, and go on with its schedule.
    Remind {
        /// The group.
        group: GroupId,
    },
    /// Put up the addresses of a group that are missing, and announce them again.
    Restore {
        /// The group.
        group: GroupId,
        /// Which: a set of places in the group.
        missing: u64,
    },
    /// An interface has another MAC address: announce what is on it by that one.
    Mac {
        /// Index of the interface.
        interface: u32,
        /// The address it has now.
        mac: [u8; 6],
    },
    /// Ask these routers as well when what is on an interface is announced.
    Gateways {
        /// Index of the interface.
        interface: u32,
        /// The routers it has now.
        gateways: Gateways,
    },
    /// Put up the addresses of a group that is not held, behind the closed gate.
    Warm {
        /// The group.
        group: GroupId,
    },
    /// Take them down again.
    Cool {
        /// The group.
        group: GroupId,
    },
    /// Go by these keys in probes to a peer.
    Keys {
        /// The peer, or the witness.
        peer: NodeId,
        /// The keys shared with it.
        keys: PeerKeys,
        /// Which of them to send with.
        slot: usize,
        /// Precede each probe by one under the other, to see whether it is answered.
        trial: bool,
    },
    /// Probe at this interval from now on, with this demand on the scheduler.
    Pace {
        /// Between two probes, in nanoseconds.
        interval_ns: u64,
        /// CPU time, if it is reserved.
        demand: Demand,
    },
    /// Take up what [`Fast::rebind`] has ready.
    Rebind,
    /// End the thread.
    Exit,
}

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

/// What set off a takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The daemon asked.
    Asked,
    /// The kernel declared a peer dead.
    Death(NodeId, Cause),
    /// The kernel half of a peer says that its controller is dead.
    Controller(NodeId),
    /// A peer handed the group over.
    Release(NodeId),
}

/// When the steps of a takeover were done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// When the verdict was due, or the release arrived; never where the daemon asked.
    pub due: BootTime,
    /// When the kernel gave the verdict, or took in the release.
    pub verdict: BootTime,
    /// When this thread saw it, or the command.
    pub seen: BootTime,
    /// When the record began to seek.
    pub sought: BootTime,
    /// When this thread saw that the record holds.
    pub won: BootTime,
    /// When the last address was up.
    pub address: BootTime,
    /// When the last announcement had left.
    pub announced: BootTime,
}

/// What the fast path did, or what the kernel told it.
#[derive(Clone, Copy, Debug)]
pub enum Report {
    /// The kernel has something to tell; the facts are in the maps.
    Event(Event),
    /// The record of a group seeks now.
    Sought {
        /// The group.
        group: GroupId,
    },
    /// An address could not be put up; it is not there.
    Refused {
        /// The group.
        group: GroupId,
        /// The address.
        vip: Vip,
        /// Why not.
        error: EffectError,
    },
    /// The addresses of a group are up as far as they are needed, or not.
    Took {
        /// The group.
        group: GroupId,
        /// In which epoch.
        epoch: Epoch,
        /// What set it off.
        trigger: Trigger,
        /// When.
        steps: Steps,
        /// Announcements that could not be sent.
        unsent: u32,
        /// The first thing that failed.
        result: Result<(), EffectError>,
    },
    /// The addresses of a group that is not held are up, or not.
    Warmed {
        /// The group.
        group: GroupId,
        /// The first thing that failed.
        result: Result<(), EffectError>,
    },
    /// The thread is scheduled otherwise, for another interval.
    Rescheduled {
        /// How.
        policy: realtime::Policy,
        /// The kernel's error number if it refused a reservation, 0 if not.
        errno: i32,
    },
    /// The addresses of a group are gone, or not.
    Dropped {
        /// The group.
        group: GroupId,
        /// When.
        at: BootTime,
        /// The first thing that failed.
        result: Result<(), EffectError>,
    },
}

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

/// Tokens that show the daemon that the thread goes round.
#[derive(Debug, Default)]
struct Token {
    asked: AtomicU64,
    answered: AtomicU64,
    /// Since when it has been asking the kernel to change addresses, in boot time; 0 if it is not.
    away_ns: AtomicU64,
}

/// For so long the kernel may take to change addresses. A machine that does not come to it in that
/// time serves no other group well either.
const AWAY: Duration = Duration::from_secs(2);

impl Token {
    /// Tells whether the thread has gone round since the last call, or waits for the kernel and has
    /// not done so for long; asks it to go round again.
    fn is_shown(&self, now: BootTime) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        if self.answered.load(Ordering::Acquire) == asked {
            self.asked.store(asked + 1, Ordering::Release);
            return true;
        }
        let away = BootTime(self.away_ns.load(Ordering::Acquire));
        away != BootTime::NEVER && now.since(away) < AWAY
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_for_the_kernel_is_not_stuck_for_a_while() {
        let token = Token::default();
        let at = |ms: u64| BootTime(5_000_000_000 + ms * 1_000_000);
        assert!(token.is_shown(at(0)), "nothing was asked before");
        assert!(!token.is_shown(at(1)), "it did not answer");
        token.away_ns.store(at(2).ns(), Ordering::Release);
        assert!(token.is_shown(at(3)) && token.is_shown(at(2001)));
        assert!(!token.is_shown(at(2002)), "for too long");
        token.away_ns.store(0, Ordering::Release);
        assert!(!token.is_shown(at(2003)));
        token.answered.store(1, Ordering::Release);
        assert!(token.is_shown(at(2004)));
        assert!(!token.is_shown(at(2005)));
    }
}
