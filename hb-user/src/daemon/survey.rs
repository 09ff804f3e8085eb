//! A look round this host, once a second and whenever an interface comes or goes: are the addresses
//! there, and is every interface gated? And what of this host a status has.
//!
//! The kernel answers, and puts the gate on an interface, under a lock that whoever changes interfaces
//! holds for milliseconds (`RTNL`), so the main loop has other threads ask.

use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    sync::{Arc, mpsc as sync},
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
    gate::{Covered, cover},
    gate_report::{self, GateError},
    resources::describe,
};
use crate::{
    address::{AddressError, AddressSocket, Present},
    clock,
    config::HostView,
    control::Reply,
    core::Phase,
    fast,
    kernel::Gates,
    realtime::{self, Demand},
    status::GateReport,
};

/// What a look needs so that a new interface is gated soon, whatever else the machine does.
const DEMAND: Demand = Demand {
    runtime: Duration::from_micros(500),
    deadline: Duration::from_millis(10),
    period: Duration::from_millis(10),
    fifo_priority: MAIN_PRIORITY - 10,
};

/// What another thread found.
pub(super) enum Found {
    /// All that is looked at.
    Survey(Survey),
    /// What a client that asked for a status is to see of this host.
    Status(Host, oneshot::Sender<Reply>),
}

/// What is looked at.
pub(super) struct Survey {
    began: BootTime,
    present: Result<Vec<Present>, AddressError>,
    covered: io::Result<Covered>,
}

/// What of a status is asked of the kernel, but for the kernel half's own maps.
pub(super) struct Host {
    /// Its addresses.
    pub(super) present: Result<Vec<Present>, AddressError>,
    /// The gate as it is pinned.
    pub(super) gate: Result<GateReport, GateError>,
}

/// Where the gate is pinned, and the names of the groups, by index.
pub(super) struct Place {
    /// Where.
    pub(super) pins: PathBuf,
    /// The names.
    pub(super) groups: Vec<String>,
}

/// Who looks.
pub(super) struct Surveyor {
    background: Handle,
    place: Arc<Place>,
    asks: sync::Sender<()>,
    thread: JoinHandle<()>,
    sender: mpsc::UnboundedSender<Found>,
    receiver: mpsc::UnboundedReceiver<Found>,
    under_way: bool,
    /// Something has changed since the look under way began, perhaps.
    again: bool,
}

impl Surveyor {
    /// Starts the thread that looks, and that keeps every interface gated by `gates`.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn start(background: Handle, place: Place, mut gates: Gates) -> io::Result<Self> {
        let (asks, asked) = sync::channel::<()>();
        let (sender, receiver) = mpsc::unbounded_channel();
        let found = sender.clone();
        let thread = thread::Builder::new().name("hb-survey".to_owned()).spawn(move || {
            for refusal in &realtime::prefer_deadline(DEMAND).refused {
                tracing::debug!(%refusal, "scheduling of the look round this host");
            }
            for () in asked {
                let began = clock::now();
                let present = addresses();
                let covered = HostView::read().map(|host| cover(&mut gates, &host));
                // A daemon that is gone needs none.
                drop(found.send(Found::Survey(Survey { began, present, covered })));
            }
        })?;
        let place = Arc::new(place);
        let (under_way, again) = (false, false);
        Ok(Self { background, place, asks, thread, sender, receiver, under_way, again })
    }

    /// Begins a survey, unless one is under way.
    pub(super) fn begin(&mut self) {
        if !self.under_way {
            // Without its thread nothing is ever found, and a panic there ends the process.
            self.under_way = self.asks.send(()).is_ok();
        }
    }

    /// Begins a survey that sees what is there now: another one, if one is under way.
    pub(super) fn begin_anew(&mut self) {
        self.again = self.under_way;
        self.begin();
    }

    /// Begins to answer who asked for a status.
    pub(super) fn begin_status(&self, reply: oneshot::Sender<Reply>) {
        let (sender, place) = (self.sender.clone(), Arc::clone(&self.place));
        self.background.spawn_blocking(move || {
            let gate = gate_report::gate(&place.pins, &place.groups);
            let host = Host { present: addresses(), gate };
            drop(sender.send(Found::Status(host, reply)));
        });
    }

    /// Returns what was found next; waits for ever if nothing is looked for.
    pub(super) async fn next(&mut self) -> Found {
        match self.receiver.recv().await {
            Some(found) => {
                if let Found::Survey(_) = found {
                    self.under_way = false;
                    if std::mem::take(&mut self.again) {
                        self.begin();
                    }
                }
                found
            }
            // Not reached while this holds a sender of its own.
            None => std::future::pending().await,
        }
    }

    /// Ends the thread: no interface is gated any more from now on.
    pub(super) fn end(self) {
        drop(self.asks);
        // A panic there has ended the process already.
        drop(self.thread.join());
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

impl Daemon {
    pub(super) fn on_found(&mut self, found: Found) {
        match found {
            Found::Survey(survey) => self.on_survey(survey),
            Found::Status(host, reply) => self.on_status(host, reply),
        }
    }

    fn on_survey(&mut self, survey: Survey) {
        let Survey { began, present, covered } = survey;
        match present {
            Ok(present) => self.restore_addresses(&present, began),
            Err(error) => tracing::error!(error = describe(&error), "addresses not looked at"),
        }
        match covered {
            Ok(Covered { present, new, refused }) => {
                for (interface, error) in refused {
                    tracing::error!(interface, error = describe(&error), "interface is not gated");
                }
                for interface in new {
                    tracing::info!(interface, "interface is new: gated");
                }
                self.forget_interfaces(&present);
            }
            Err(error) => tracing::error!(error = describe(&error), "interfaces not looked at"),
        }
    }

    fn forget_interfaces(&mut self, present: &BTreeSet<u32>) {
        let gone = self.kernel.forget_attachments(present);
        self.surveyor.let_go(gone);
    }

    /// Puts back addresses of the groups that have served here since before the look, if somebody
    /// took them away.
    fn restore_addresses(&mut self, present: &[Present], began: BootTime) {
        for view in self.core.view().groups {
            if !matches!(view.phase, Phase::Serving { .. }) || view.since >= began {
                continue;
            }
            let vips = self.vips.get(view.group.0 as usize).map_or(&[][..], Vec::as_slice);
            let missing = vips.iter().find(|local| {
                !present.iter().any(|found| {
                    found.ip == local.vip.ip() && found.interface == local.vip.interface()
                })
            });
            if let Some(missing) = missing {
                let group = self.group_name(view.group);
                tracing::warn!(group, vip = %missing.vip, "address is gone: putting it back");
                self.command(fast::Command::Restore { group: view.group });
            }
        }
    }
}
