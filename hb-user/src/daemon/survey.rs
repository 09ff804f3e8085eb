//! A look round this host once a second: are the addresses there, and is the gate the first thing at
//! every interface, is all that was pinned pinned still?
//! What of this host a status has. And the gate on interfaces that are new.
//!
//! The kernel answers, and puts the gate on an interface, under a lock that whoever changes interfaces
//! holds for milliseconds (`RTNL`), so the main loop has other threads do it. What is new it hears of
//! at once by itself.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc as sync,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use hb_ebpf::time::BootTime;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use super::{
    Daemon, MAIN_PRIORITY,
    gate::{Covered, cover, log_displaced},
    gate_report::{self, GateError, GatePlace},
    prepare::{PrepareError, Prepared},
    resources::describe,
    routes::Ways,
    strays::{self, Cleared},
};
use crate::{
    address::{AddressError, AddressSocket, Interface, Present},
    clock,
    config::{Config, ConfigErrors, HostView, PingGroup},
    control::Reply,
    id::NodeId,
    kernel::{Attachment, Gates, Generic, KernelError, Mode, NotReplaced, Pinnings, Unpinned},
    key::{ClusterKeys, KeyError},
    ping::{Pings, ask_around},
    realtime,
    status::GateReport,
};

/// Of the time, a part like this goes into listing all addresses at most: one of so many.
const REST: u32 = 50;

/// What another thread found or did.
pub(super) enum Found {
    /// All that is looked at once a second.
    Survey(Survey),
    /// The interfaces.
    Interfaces(HostView),
    /// Addresses that no group names were taken down, or not.
    Cleared(Cleared),
    /// Which routes service addresses have.
    Routes(Result<Ways, AddressError>),
    /// Every interface is gated, or not.
    Covered(io::Result<Covered>),
    /// What a client that asked for a status is to see of this host.
    Status(Box<Host>, oneshot::Sender<Reply>),
    /// An interface that is new is attached to, or not.
    Attached(String, Result<Attachment, KernelError>),
    /// An interface is attached to in generic mode instead, or not.
    Replaced(Result<Attachment, Box<NotReplaced>>),
    /// The configuration as its file is now, for who had it read.
    Reread(Result<Box<Prepared>, PrepareError>, Option<oneshot::Sender<Reply>>),
    /// The keys in the file, for who had it read.
    Keys(Result<ClusterKeys, KeyError>, oneshot::Sender<Reply>),
}

/// What is looked at once a second.
pub(super) struct Survey {
    began: BootTime,
    /// Addresses on the interfaces that service addresses go to.
    served: Result<Vec<Present>, AddressError>,
    /// How long it took to list all addresses.
    took: Duration,
    /// All addresses, if it is time to look at them.
    present: Option<Result<Vec<Present>, AddressError>>,
    interfaces: Result<Vec<Interface>, AddressError>,
    /// `net.ipv4.conf.all.arp_ignore`, 0 if it cannot be read.
    arp_ignore: i32,
    /// Addresses that nodes of other clusters on this host look after.
    others: Result<BTreeSet<IpAddr>, KernelError>,
    unpinned: Option<Unpinned>,
}

/// What of a status is asked of the kernel, but for the kernel half's own maps.
pub(super) struct Host {
    /// Its addresses.
    pub(super) present: Result<Vec<Present>, AddressError>,
    /// The gate as it is pinned.
    pub(super) gate: Result<GateReport, GateError>,
    /// The configuration as its file is now.
    pub(super) file: Result<Config, ConfigErrors>,
}

/// Who looks.
pub(super) struct Surveyor {
    background: Handle,
    place: Arc<GatePlace>,
    sender: mpsc::UnboundedSender<Found>,
    receiver: mpsc::UnboundedReceiver<Found>,
    under_way: bool,
    /// Not to list all addresses before.
    all_due: BootTime,
    coverer: Coverer,
}

/// What the thread is asked for that changes what interfaces have.
enum Ask {
    /// Gate every interface.
    Cover,
    /// Attach to an interface that is new.
    Attach(String, u32, Option<Mode>),
    /// Attach in generic mode instead, because of this.
    Replace(Attachment, String),
}

/// Who keeps every interface gated, on a thread of its own.
struct Coverer {
    asks: sync::Sender<Ask>,
    thread: JoinHandle<()>,
    under_way: bool,
    /// Something has changed since what is under way began, perhaps.
    again: bool,
}

impl Coverer {
    fn start(
        mut gates: Gates,
        mut generic: Generic,
        found: mpsc::UnboundedSender<Found>,
    ) -> io::Result<Self> {
        let (asks, asked) = sync::channel::<Ask>();
        let thread = thread::Builder::new().name("hb-cover".to_owned()).spawn(move || {
            // Not put off while it has the kernel's lock, as by `SCHED_DEADLINE`: the fast path may
            // be waiting for it.
            for refusal in &realtime::prefer_fifo(MAIN_PRIORITY).refused {
                tracing::debug!(%refusal, "scheduling of the thread that gates interfaces");
            }
            for ask in asked {
                let done = match ask {
                    Ask::Cover => Found::Covered(HostView::read().map(|host| {
                        let covered = cover(&mut gates, &host);
                        // A daemon that is gone needs none.
                        drop(found.send(Found::Interfaces(host)));
                        covered
                    })),
                    Ask::Attach(interface, index, only) => {
                        let attached = generic.attach_anew(&interface, index, only);
                        Found::Attached(interface, attached)
                    }
                    Ask::Replace(held, reason) => {
                        Found::Replaced(replace(&mut gates, &mut generic, held, reason))
                    }
                };
                // A daemon that is gone needs none.
                drop(found.send(done));
            }
        })?;
        Ok(Self { asks, thread, under_way: false, again: false })
    }

    /// Has it look at what is there now, once more if it is looking.
    fn ask(&mut self) {
        self.again = self.under_way;
        if !self.under_way {
            // The thread ends with this only, and a panic there ends the process.
            self.under_way = self.asks.send(Ask::Cover).is_ok();
        }
    }

    fn done(&mut self) {
        self.under_way = false;
        if self.again {
            self.ask();
        }
    }
}

/// Replaces a native attachment; before it goes, the gate looks at what arrives by itself.
fn replace(
    gates: &mut Gates,
    generic: &mut Generic,
    held: Attachment,
    reason: String,
) -> Result<Attachment, Box<NotReplaced>> {
    match gates.gate_alone(&held.interface, held.index) {
        Ok(displaced) => {
            let displaced: Vec<_> =
                displaced.into_iter().map(|program| (held.interface.clone(), program)).collect();
            log_displaced(&displaced);
            generic.replace(held, reason)
        }
        Err(error) => {
            let interface = held.interface.clone();
            Err(Box::new(NotReplaced { interface, kept: Some(held), error }))
        }
    }
}

impl Surveyor {
    /// Starts the thread that keeps every interface gated by `gates`, and attaches in `generic` mode
    /// what does not work natively.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn start(
        background: Handle,
        place: GatePlace,
        gates: Gates,
        generic: Generic,
    ) -> io::Result<Self> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let coverer = Coverer::start(gates, generic, sender.clone())?;
        let place = Arc::new(place);
        let all_due = BootTime::NEVER;
        Ok(Self { background, place, sender, receiver, under_way: false, all_due, coverer })
    }

    /// Begins a survey, unless one is under way; `served` are the interfaces of service addresses, by index.
    pub(super) fn begin(&mut self, pinnings: Pinnings, served: BTreeSet<u32>) {
        if self.under_way {
            return;
        }
        self.under_way = true;
        let all = clock::now() >= self.all_due;
        let (sender, place) = (self.sender.clone(), Arc::clone(&self.place));
        self.background.spawn_blocking(move || {
            let began = clock::now();
            let on_served = addresses_on(&served);
            let listing = clock::now();
            let present = all.then(addresses);
            let took = clock::now().since(listing);
            let others = match (&present, place.node) {
                (Some(Ok(present)), Some(node)) => strays::others(present, node.cluster),
                _ => Ok(BTreeSet::new()),
            };
            let interfaces = AddressSocket::open().and_then(|mut socket| socket.interfaces());
            let (arp_ignore, unpinned) = (arp_ignore(), pinnings.look());
            let served = on_served;
            let survey =
                Survey { began, served, present, took, interfaces, arp_ignore, others, unpinned };
            // A daemon that is gone needs none.
            drop(sender.send(Found::Survey(survey)));
        });
    }

    /// Has all addresses listed again not before a multiple of how long that `took`: there may be tens of
    /// thousands.
    fn rest(&mut self, took: Duration) {
        self.all_due = clock::now().after(took * REST);
    }

    /// Begins something that takes a while.
    pub(super) fn begin_blocking(&self, work: impl FnOnce() -> Found + Send + 'static) {
        let sender = self.sender.clone();
        self.background.spawn_blocking(move || drop(sender.send(work())));
    }

    /// Begins to ask ping groups, as the node `me`.
    pub(super) fn ask(&self, groups: &[PingGroup], me: NodeId) -> Pings {
        Pings::start(groups, me, &self.background)
    }

    /// Has the neighbourhood of an interface asked; `answered` becomes when it last answered, if it does
    /// within `patience`.
    pub(super) fn ask_around(
        &self,
        interface: String,
        sequence: u16,
        patience: Duration,
        answered: Arc<AtomicU64>,
    ) {
        self.background.spawn(async move {
            let asked = ask_around(&interface, sequence);
            match tokio::time::timeout(patience, asked).await {
                Ok(Ok(())) => answered.store(clock::now().0, Ordering::Relaxed),
                Ok(Err(error)) => tracing::debug!(interface, %error, "neighbourhood not asked"),
                Err(_) => tracing::debug!(interface, "the neighbourhood does not answer"),
            }
        });
    }

    /// Returns where what takes a while runs.
    pub(super) const fn background(&self) -> &Handle {
        &self.background
    }

    /// Goes by groups with these fingerprints and names from now on.
    pub(super) fn set_groups(&mut self, groups: Vec<(u32, String)>) {
        self.place = Arc::new(GatePlace { groups, ..(*self.place).clone() });
    }

    /// Has every interface gated that is there now, and those forgotten that are gone.
    pub(super) fn cover(&mut self) {
        self.coverer.ask();
    }

    /// Has an interface attached to that was made anew.
    pub(super) fn attach(&self, interface: String, index: u32, only: Option<Mode>) {
        // The thread ends with this only, and a panic there ends the process.
        drop(self.coverer.asks.send(Ask::Attach(interface, index, only)));
    }

    /// Has a native attachment replaced by one in generic mode.
    pub(super) fn replace(&self, held: Attachment, reason: String) {
        // The thread ends with this only, and a panic there ends the process.
        drop(self.coverer.asks.send(Ask::Replace(held, reason)));
    }

    /// Begins to read the keys in `file`, for who asked.
    pub(super) fn begin_keys(&self, file: PathBuf, reply: oneshot::Sender<Reply>) {
        let sender = self.sender.clone();
        self.background.spawn_blocking(move || {
            drop(sender.send(Found::Keys(ClusterKeys::load(&file), reply)));
        });
    }

    /// Begins to answer who asked for a status.
    pub(super) fn begin_status(&self, file: PathBuf, reply: oneshot::Sender<Reply>) {
        let (sender, place) = (self.sender.clone(), Arc::clone(&self.place));
        self.background.spawn_blocking(move || {
            let gate = gate_report::gate(&place);
            let host = Host { present: addresses(), gate, file: Config::load(&file) };
            drop(sender.send(Found::Status(Box::new(host), reply)));
        });
    }

    /// Returns what was found next; waits for ever if nothing is looked for.
    pub(super) async fn next(&mut self) -> Found {
        // It is never `None` while this holds a sender of its own.
        let Some(found) = self.receiver.recv().await else { return std::future::pending().await };
        match &found {
            Found::Survey(_) => self.under_way = false,
            Found::Covered(_) => self.coverer.done(),
            Found::Interfaces(_)
            | Found::Cleared(_)
            | Found::Routes(_)
            | Found::Attached(..)
            | Found::Status(..)
            | Found::Replaced(_)
            | Found::Reread(..)
            | Found::Keys(..) => {}
        }
        found
    }

    /// Ends the thread: no interface is gated any more from now on.
    pub(super) fn end(self) {
        let Coverer { asks, thread, .. } = self.coverer;
        drop(asks);
        // A panic there has ended the process already.
        drop(thread.join());
    }

    /// Lets go of what takes a while.
    fn let_go<T: Send + 'static>(&self, things: Vec<T>) {
        if !things.is_empty() {
            self.background.spawn_blocking(move || drop(things));
        }
    }
}

fn addresses() -> Result<Vec<Present>, AddressError> {
    AddressSocket::open().and_then(|mut socket| socket.addresses(None))
}

/// Returns what is on these interfaces.
fn addresses_on(interfaces: &BTreeSet<u32>) -> Result<Vec<Present>, AddressError> {
    let mut socket = AddressSocket::open()?;
    let mut found = Vec::new();
    for index in interfaces {
        found.extend(socket.addresses_seen(*index)?);
    }
    Ok(found)
}

fn arp_ignore() -> i32 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/arp_ignore");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

impl Daemon {
    pub(super) fn on_found(&mut self, found: Found) {
        match found {
            Found::Survey(survey) => self.on_survey(survey),
            Found::Interfaces(host) => {
                self.look_at_macs(&host);
                self.look_at_anew(&host);
                self.look_at_links(&host);
                self.look_at_paths(&host);
                self.look_at_ears(&host);
            }
            Found::Routes(ways) => self.on_routes(ways),
            Found::Covered(covered) => self.on_covered(covered),
            Found::Cleared(cleared) => self.on_strays_cleared(cleared),
            Found::Status(host, reply) => self.on_status(*host, reply),
            Found::Attached(interface, attached) => self.on_attached(&interface, attached),
            Found::Replaced(replaced) => self.on_replaced(replaced),
            Found::Reread(read, reply) => self.on_reread(read, reply),
            // Who asked may have gone.
            Found::Keys(read, reply) => drop(reply.send(self.take_keys(read).into())),
        }
    }

    fn on_survey(&mut self, survey: Survey) {
        let Survey { began, served, present, took, interfaces, arp_ignore, others, unpinned } =
            survey;
        if present.is_some() {
            self.surveyor.rest(took);
        }
        match interfaces {
            Ok(interfaces) => self.look_for_obstacles(&interfaces, arp_ignore),
            Err(error) => tracing::error!(error = describe(&error), "interfaces not looked at"),
        }
        match served {
            Ok(served) => {
                self.restore_addresses(&served, began);
                self.warm_again(&served, began);
            }
            Err(error) => tracing::error!(error = describe(&error), "addresses not looked at"),
        }
        match present {
            None => {}
            Some(Ok(present)) => match others {
                Ok(others) => self.go_on_with_strays(&present, &others),
                Err(error) => {
                    tracing::error!(
                        error = describe(&error),
                        "gates of other clusters not looked at"
                    );
                }
            },
            Some(Err(error)) => {
                tracing::error!(error = describe(&error), "addresses not looked at");
            }
        }
        self.pin_again(unpinned);
        // Nobody tells of a program that was put before the gate, or of a gate that was taken off.
        self.surveyor.cover();
    }

    fn on_covered(&mut self, covered: io::Result<Covered>) {
        let Covered { present, new, displaced, refused } = match covered {
            Ok(covered) => covered,
            Err(error) => {
                tracing::error!(error = describe(&error), "interfaces not looked at");
                return;
            }
        };
        log_displaced(&displaced);
        self.on_gated(&refused);
        for (interface, error) in refused {
            tracing::error!(interface, error = describe(&error), "interface is not gated");
        }
        for interface in new {
            tracing::info!(interface, "interface is new: gated");
        }
        let gone = self.kernel.forget_attachments(&present);
        self.surveyor.let_go(gone);
    }

    /// Pins anew what somebody unpinned. The file system is one of memory: nothing is waited for.
    fn pin_again(&mut self, unpinned: Option<Unpinned>) {
        let Some(missing) = unpinned else {
            self.unpinned = None;
            return;
        };
        match self.kernel.pin_again(&missing) {
            Ok((pins, lock)) => {
                if let Some(lock) = lock {
                    self.pins_lock = lock;
                }
                if pins > 0 {
                    tracing::warn!(pins, "somebody removed pins: made anew");
                }
                self.unpinned = None;
            }
            Err(error) => {
                let error = describe(&error);
                if self.unpinned.as_ref() != Some(&error) {
                    tracing::error!(error, "pins are gone");
                    self.unpinned = Some(error);
                }
            }
        }
    }
}
