//! The daemon of one node: one loop that owns the core, with everything else at arm's length.
//!
//! ```text
//!             frames           XDP and timers (kernel)
//!                                  |  ring buffer
//!                                  v
//!   commands  +----------------> fast path (real-time thread)
//!             |                    |  reports: events, takeovers done
//!             |                    v
//!          +--+---------------- main loop ------------------+
//!          |  facts and results -> Core -> actions          |
//!          +--+-----------+--------------+-----------+------+
//!             |           |              |           |
//!          signals    resources      control      tick: stamp, look at the maps,
//!                     and fences     (socket)     self-test
//!                     (background thread)
//!
//!    disk, addresses, interfaces, sockets: a thread each, asked and answered by messages
//! ```
//!
//! Inputs go one way into the core, actions come out the other way; effects report back as inputs.

mod act;
mod advice;
mod agents;
mod anew;
mod aside;
mod clean;
mod defend;
mod disk;
mod evidence;
mod fence;
mod gate;
mod gate_report;
mod hands;
mod keys;
mod macs;
mod network;
mod notice;
mod notify;
mod observe;
mod paths;
mod pauses;
mod prepare;
mod records;
mod regroup;
mod relink;
mod reload;
mod removal;
mod report;
mod requests;
mod resources;
mod retime;
mod routes;
mod setup;
mod signals;
mod start;
mod start_error;
mod strays;
mod survey;
mod upkeep;
mod warm;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
    time::Duration,
};

use hb_ebpf::{lease::op::Order, time::BootTime, wire::GROUPS};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, oneshot},
    time::MissedTickBehavior,
};

pub use gate_report::{GateError, GateNode, GatePlace, gate, remove_gate};
pub use prepare::{
    Fit, LocalVip, Plan, PrepareError, Prepared, Remains, pins, plan, prepare, remains,
};
pub use removal::{RemovalError, Removed, detach};
pub use signals::Signals;
pub use start_error::StartError;

use self::{
    removal::{Records, Removal},
    resources::{Done, Worker},
    signals::Asked,
};
use crate::{
    address::{AddressNotices, RouteNotices},
    background::Background,
    clock,
    config::{Config, Local},
    control::{Command, ControlError, Reply, Server},
    core::retiming::Retiming,
    engine::controller::{self, Controller, Left, Parting},
    fast::{Fast, Queue, Report},
    id::{GroupId, LinkId, NodeId},
    kernel::{Attachment, Kernel, KernelLog, Leases, Mode, PinsLock, Shared, gated_addresses},
    logging,
    notify::Notifiers,
    realtime::{self, Demand},
    selftest::Trial,
    state_dir::{StateDir, StateDirError},
};

/// Below the fast path's, and above whatever is ordinary.
const MAIN_PRIORITY: u8 = Demand::DEFAULT_FIFO_PRIORITY - 10;

/// Who counts the misses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EngineKind {
    /// Timers of the kernel.
    KernelTimer,
    /// The fast path.
    User,
}

/// Why a daemon ended other than asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The files, or this host.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The runtime.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The way out.
    #[error("left, but something stays behind")]
    Leave(#[source] RemovalError),
}

/// A running node.
struct Daemon {
    config: Config,
    local: Local,
    links: relink::Links,
    notifiers: Notifiers,
    /// The service addresses, by the place of their group's record.
    vips: Vec<Vec<LocalVip>>,
    /// What the groups are in frames and records, by place.
    fingerprints: [u32; GROUPS],
    strays: strays::Strays,
    /// What is done in which order, with the core and what it is to be told.
    controller: Controller,
    kernel: Kernel,
    shared: Arc<Shared>,
    leases: Leases,
    /// Operators who let a learner take part, and wait to hear that it does.
    confirmations: Vec<oneshot::Sender<Reply>>,
    /// Operators who wait until it is stored of which groups this node stands aside, and what they are told
    /// then.
    asides: Vec<(String, oneshot::Sender<Reply>)>,
    fast: Fast,
    workers: Vec<Option<Worker>>,
    done: mpsc::UnboundedSender<Done>,
    results: mpsc::UnboundedReceiver<Done>,
    /// The first start of a group's resources after a resume asks for their state first.
    resuming: [bool; GROUPS],
    /// What the last job said of a group's resources.
    resource_states: BTreeMap<GroupId, &'static str>,
    engine: (EngineKind, String),
    trials: BTreeMap<(NodeId, LinkId), Trial>,
    memory: notice::Memory,
    incarnation: u32,
    started: BootTime,
    tick: Duration,
    lost_events: u64,
    /// Where the configuration is read again.
    source: reload::Source,
    /// Other timers are being taken.
    retiming: Option<Retiming>,
    /// A configuration that waits to be taken.
    pending: Option<regroup::Pending>,
    /// Groups whose wishes changed here, and perhaps not at the others yet: none is moved back meanwhile.
    unsettled: BTreeSet<GroupId>,
    log_lost: logging::Lost,
    /// How many lost lines were told of.
    told_lost: usize,
    /// When the kernel half's own counters were last looked at.
    counted: BootTime,
    /// How each service address is defended, by its number.
    defended: BTreeMap<u8, defend::Defense>,
    upkeep: upkeep::Upkeep,
    /// Pauses of this node, or of another whose clock cannot be told from it.
    pauses: pauses::Pauses,
    /// Pauses of the others.
    peers_pauses: BTreeMap<NodeId, pauses::Pauses>,
    disk: disk::Disk,
    keys: keys::Keys,
    fences: fence::Fences,
    surveyor: survey::Surveyor,
    cleaner: Option<clean::Cleaner>,
    /// Connections ended so far, of groups that were left and still have some.
    ended: BTreeMap<GroupId, u32>,
    macs: macs::Macs,
    anew: anew::Anew,
    paths: paths::Paths,
    hearing: evidence::Hearing,
    routes: routes::Routes,
    /// Nobody else may remove what is pinned.
    pins_lock: PinsLock,
    /// Why what somebody removed could not be pinned anew, as it was told last.
    unpinned: Option<String>,
}

/// Waits until this host has what `plan` needs, and runs the node until it has left or `signals` end it. Its
/// `log` is asked how many lines it lost, and told of other levels.
///
/// # Errors
///
/// [`RunError`].
pub async fn run(plan: Plan, mut signals: Signals, log: &logging::Log) -> Result<(), RunError> {
    let state = StateDir::open(&plan.local.state_dir)?;
    let background = Background::start()
        .map_err(|source| RunError::System { action: "start a thread", source })?;
    let server = {
        let _its_sockets = background.handle().enter();
        Server::bind(&plan.local.control_socket)?
    };
    let (requests, mut commands) = mpsc::channel(16);
    let control = background.spawn(server.serve(requests));
    let Some(fit) = network::wait(&plan, &mut commands, &mut signals).await? else {
        drop(commands);
        drop(control.await);
        return Ok(());
    };
    let prepared = plan.on(fit);
    let queues = prepared.slow_queues();
    let source = reload::Source::new(&prepared, log.levels()).map_err(|source| {
        RunError::System { action: "tell the path of the configuration", source }
    })?;
    let mut daemon = start::start(prepared, state, background.handle(), source, log.lost())?;
    tracing::info!(
        cluster = %daemon.config.cluster.name,
        node = %daemon.local.me.name,
        incarnation = daemon.incarnation,
        engine = daemon.engine.1,
        scheduling = %daemon.fast.running().scheduling.policy,
        "started"
    );
    daemon.warn_of_the_start(queues);
    let ended = daemon.serve(commands, signals).await;
    let left = daemon.leave();
    // The receiver of requests is gone: the server says so to whoever still waits, and ends.
    drop(control.await);
    ended?;
    left.map_err(RunError::Leave)
}

impl Daemon {
    /// The loop. Returns when the core says so, or at the second signal.
    async fn serve(
        &mut self,
        mut commands: mpsc::Receiver<Command>,
        mut signals: Signals,
    ) -> Result<(), RunError> {
        let system = |action| move |source| RunError::System { action, source };
        let ears = listen(Ears(Arc::clone(self.fast.reports())))
            .map_err(system("listen to the fast path"))?;
        let mut log = match self.kernel.log() {
            Ok(log) => Some(listen(log).map_err(system("listen to the kernel half's log"))?),
            Err(error) => {
                tracing::warn!(
                    error = resources::describe(&error),
                    "the kernel half's log is lost"
                );
                None
            }
        };
        let interfaces = gate::Interfaces::listen()
            .and_then(listen)
            .map_err(system("listen for news of interfaces"))?;
        let removals = AddressNotices::listen()
            .and_then(listen)
            .map_err(system("listen for addresses that are removed"))?;
        let routes = RouteNotices::listen()
            .and_then(listen)
            .map_err(system("listen for routes that change"))?;
        // One may have come up since the start looked.
        self.surveyor.cover();
        for refusal in &realtime::prefer_deadline(demand(self.tick)).refused {
            tracing::warn!(%refusal, "scheduling of the main loop");
        }
        let mut ticks = tokio::time::interval(self.tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.act() {
                self.bid_farewell().await;
                self.last_words().await;
                return Ok(());
            }
            let timeout = self.controller.poll_timeout();
            tokio::select! {
                biased;
                ready = ears.readable() => {
                    ready.map_err(system("listen to the fast path"))?.clear_ready();
                    self.fast.reports().bell().hush();
                    while let Some(report) = self.fast.reports().pop() {
                        self.on_report(report);
                    }
                }
                ready = interfaces.readable() => {
                    let mut ready = ready.map_err(system("listen for new interfaces"))?;
                    let news = ready.get_inner().news();
                    ready.clear_ready();
                    self.on_link_news(news);
                    self.surveyor.cover();
                }
                ready = removals.readable() => {
                    let listening = system("listen for addresses that are removed");
                    let mut ready = ready.map_err(&listening)?;
                    let removed = ready.get_inner().take().map_err(&listening)?;
                    ready.clear_ready();
                    self.on_addresses_removed(&removed);
                }
                ready = routes.readable(), if self.routes.listens(clock::now()) => {
                    let listening = system("listen for routes that change");
                    let mut ready = ready.map_err(&listening)?;
                    ready.get_inner().hush().map_err(&listening)?;
                    ready.clear_ready();
                    self.look_at_routes();
                }
                _ = ticks.tick() => self.on_tick(),
                Some(done) = self.results.recv() => self.on_done(done),
                done = next_cleaned(&mut self.cleaner) => self.on_cleaned(done),
                written = self.disk.next() => self.on_written(written),
                word = self.fences.next() => self.on_fence(word),
                found = self.surveyor.next() => self.on_found(found),
                () = until(timeout) => self.steer(|controller, hands| controller.on_timeout(hands)),
                Some(command) = commands.recv() => self.on_request(command),
                asked = signals.next() => if self.on_signal(asked) { return Ok(()) },
                () = flush(&mut log) => {}
            }
        }
    }

    /// Leaves in order at the first signal that asks for it; returns whether it is the second.
    fn on_signal(&mut self, asked: Asked) -> bool {
        let signal = match asked {
            Asked::Leave(signal) => signal,
            Asked::Reload => {
                self.begin_reload(None);
                return false;
            }
            Asked::Nothing(signal) => {
                signals::log_ignored(signal);
                return false;
            }
        };
        if self.controller.is_stopping() {
            tracing::warn!(signal, "asked a second time: leaving at once");
            return true;
        }
        tracing::info!(signal, "leaving in order");
        self.stop();
        false
    }

    fn stop(&mut self) {
        self.controller.stop();
        self.relink_no_more();
    }

    /// Removes what is ours: addresses, connections to them, programs, pins.
    fn leave(self) -> Result<(), RemovalError> {
        let Self { config, local, fast, kernel, leases, disk, surveyor, cleaner, .. } = self;
        let pins = pins(&config, &local);
        drop((fast, cleaner));
        surveyor.end();
        let terms = config.terms(local.me.id)?;
        let records = Records::Reached(Box::new(leases), terms);
        let mut addresses = prepare::addresses(&config);
        addresses.extend(gated_addresses(&pins)?);
        let node = Some((config.cluster_id(), local.me.id));
        let removal = Removal::new(&pins, node, records, addresses, terms.policy())?;
        let mut parting = Departure { removal: Some((removal, kernel)), leases: None, disk };
        if let Left::Unnoted(error) = controller::leave(&mut parting)? {
            tracing::warn!(error, "no note was left");
        }
        tracing::info!("left");
        Ok(())
    }
}

/// What a daemon has in its hands while it leaves.
struct Departure {
    removal: Option<(Removal, Kernel)>,
    leases: Option<Leases>,
    disk: disk::Disk,
}

impl Parting for Departure {
    type Error = RemovalError;

    fn take_away(&mut self) -> Result<bool, RemovalError> {
        if let Some((removal, kernel)) = self.removal.take() {
            (_, self.leases) = removal.run(Some(kernel))?;
        }
        Ok(self.leases.is_some())
    }

    fn order(&mut self, order: Order) -> Result<Order, String> {
        let Some(leases) = &self.leases else { return Err("there are no records".to_owned()) };
        leases.order(order).map_err(|error| resources::describe(&error))
    }

    fn note(&mut self, end: BootTime) -> Result<(), String> {
        self.disk.part(end)
    }
}

/// What the main loop needs so that its stamp is in time, whatever else the machine does. Resources
/// and the threads it starts are scheduled as usual.
fn demand(tick: Duration) -> Demand {
    Demand { runtime: tick / 8, deadline: tick, period: tick, fifo_priority: MAIN_PRIORITY }
}

/// Registers a source whose descriptor stays the same for as long as it lives.
fn listen<T: AsRawFd>(source: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: both kinds of source own their descriptor, return the same one always, and close it
    // only when they are dropped, after `AsyncFd` has deregistered it.
    unsafe { AsyncFd::register_with_interest(source, Interest::READABLE) }.map_err(io::Error::from)
}

async fn until(at: Option<BootTime>) {
    match at {
        Some(at) => clock::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn next_cleaned(cleaner: &mut Option<clean::Cleaner>) -> clean::Cleaned {
    match cleaner {
        Some(cleaner) => cleaner.next().await,
        None => std::future::pending().await,
    }
}

async fn flush(log: &mut Option<AsyncFd<KernelLog>>) {
    let Some(log) = log else { return std::future::pending().await };
    if let Ok(mut guard) = log.readable_mut().await {
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}

/// The bell of the fast path's reports.
struct Ears(Arc<Queue<Report>>);

impl AsRawFd for Ears {
    fn as_raw_fd(&self) -> RawFd {
        self.0.bell().as_raw_fd()
    }
}

fn log_attachment(attachment: &Attachment) {
    let Attachment { interface, mode, reason, .. } = attachment;
    match (mode, reason) {
        (Mode::Native, _) => {
            tracing::info!(interface, mode = mode.as_str(), "attached to the interface");
        }
        (Mode::Generic, reason) => tracing::warn!(
            interface,
            mode = mode.as_str(),
            reason = reason.as_deref().unwrap_or("unknown"),
            "attached in generic mode: slower, native mode does not work"
        ),
        (Mode::Tcx, reason) => tracing::warn!(
            interface,
            mode = mode.as_str(),
            reason = reason.as_deref().unwrap_or("unknown"),
            "attached at TCX: slower, the hook of XDP is not free"
        ),
    }
}
