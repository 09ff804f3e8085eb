//! The end of the work of an epoch: after the addresses of a group are gone, and before its record is
//! told so, what clients had open there is destroyed.
//!
//! A thread of its own does it: it looks at every process of the machine, which takes milliseconds.

use std::{collections::VecDeque, io, net::IpAddr, sync::mpsc as sync, thread, time::Duration};

use hb_ebpf::lease::op::Op;
use tokio::sync::mpsc;

use super::{Daemon, resources::describe};
use crate::{
    core::Input,
    id::GroupId,
    sockets::{Left, SweepError, Sweeper, discard_unread},
};

/// How long the connections of one group are ended at one go. Then it is told how far that came, and
/// other groups have their turn.
const WITHIN: Duration = Duration::from_millis(200);

/// What becomes of the sockets of a group.
pub(super) struct Cleaned {
    group: GroupId,
    progress: Progress,
}

/// How far that is.
enum Progress {
    /// So many connections were ended, and there are more.
    More(u32),
    /// All is ended, or something cannot be.
    Done(Result<Swept, String>),
}

/// What was found and ended.
#[derive(Debug, Default)]
pub(super) struct Swept {
    connections: u32,
    datagrams: usize,
    /// Sockets without an address of their own whose queues could not be emptied.
    unread: Vec<(IpAddr, u16)>,
}

/// What the thread is asked for.
enum Ask {
    /// End the work of a group.
    Sweep(GroupId),
    /// A group has these addresses from now on.
    Replace(GroupId, Box<Sweeper>, Vec<IpAddr>),
}

/// The thread, by its channels.
pub(super) struct Cleaner {
    asks: sync::Sender<Ask>,
    done: mpsc::UnboundedReceiver<Cleaned>,
}

impl Cleaner {
    /// Starts the thread for the service addresses of each group. It ends when this is dropped.
    ///
    /// # Errors
    ///
    /// [`SweepError`] if this kernel cannot do it.
    pub(super) fn start(addresses: Vec<Vec<IpAddr>>) -> Result<Self, SweepError> {
        let mut sweepers = Vec::new();
        for addresses in addresses {
            sweepers.push((Sweeper::open(&addresses)?, addresses));
        }
        let (asks, asked) = sync::channel::<Ask>();
        let (report, done) = mpsc::unbounded_channel();
        let system = |source| SweepError::Socket { action: "start a thread that works", source };
        thread::Builder::new()
            .name("hb-clean".to_owned())
            .spawn(move || work(&mut sweepers, &asked, &report))
            .map_err(system)?;
        Ok(Self { asks, done })
    }

    /// Has a group mean these addresses from now on.
    ///
    /// # Errors
    ///
    /// [`SweepError`] if this kernel cannot do it.
    pub(super) fn replace(&self, group: GroupId, addresses: Vec<IpAddr>) -> Result<(), SweepError> {
        let sweeper = Box::new(Sweeper::open(&addresses)?);
        // The thread ends with this only, and a panic there ends the process.
        drop(self.asks.send(Ask::Replace(group, sweeper, addresses)));
        Ok(())
    }

    /// Returns what is done next; waits for ever if nothing is asked for.
    pub(super) async fn next(&mut self) -> Cleaned {
        match self.done.recv().await {
            Some(cleaned) => cleaned,
            // The thread ends only with this, and a panic in it ends the process.
            None => std::future::pending().await,
        }
    }
}

/// Sweeps the groups that are asked for, in turn, until nobody is there who could ask.
fn work(
    sweepers: &mut [(Sweeper, Vec<IpAddr>)],
    asked: &sync::Receiver<Ask>,
    report: &mpsc::UnboundedSender<Cleaned>,
) {
    // With how many connections of each were ended.
    let mut waiting: VecDeque<(GroupId, u32)> = VecDeque::new();
    loop {
        let more = match waiting.is_empty() {
            true => asked.recv().map_err(|_| sync::TryRecvError::Disconnected),
            false => asked.try_recv(),
        };
        match more {
            // It is asked for again while it is under way.
            Ok(Ask::Sweep(group)) if waiting.iter().any(|(other, _)| *other == group) => continue,
            Ok(Ask::Sweep(group)) => {
                waiting.push_back((group, 0));
                continue;
            }
            Ok(Ask::Replace(group, sweeper, addresses)) => {
                waiting.retain(|(other, _)| *other != group);
                if let Some(slot) = sweepers.get_mut(usize::from(group.0)) {
                    *slot = (*sweeper, addresses);
                }
                continue;
            }
            Err(sync::TryRecvError::Empty) => {}
            Err(sync::TryRecvError::Disconnected) => return,
        }
        let Some((group, before)) = waiting.pop_front() else { continue };
        let swept = match sweepers.get_mut(usize::from(group.0)) {
            Some((sweeper, addresses)) => sweep(sweeper, addresses, WITHIN),
            None => Ok(Swept::default()),
        };
        let progress = match swept {
            Ok(swept) => Progress::Done(Ok(Swept {
                connections: before.saturating_add(swept.connections),
                ..swept
            })),
            Err(Unswept::Refused(error)) => Progress::Done(Err(error)),
            Err(Unswept::More { ended }) => {
                let ended = before.saturating_add(ended);
                waiting.push_back((group, ended));
                Progress::More(ended)
            }
        };
        if report.send(Cleaned { group, progress }).is_err() {
            return;
        }
    }
}

/// Why a sweep is not the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unswept {
    /// So many connections were ended, and there are more.
    More {
        /// How many.
        ended: u32,
    },
    /// Some cannot be ended.
    Refused(String),
}

/// Ends connections to `addresses`, which are the sweeper's, for as long as `within`; when there are none any more,
/// reads away what waits unread.
pub(super) fn sweep(
    sweeper: &mut Sweeper,
    addresses: &[IpAddr],
    within: Duration,
) -> Result<Swept, Unswept> {
    let swept = sweeper.destroy(within);
    match swept.left {
        Some(Left::Late) => return Err(Unswept::More { ended: swept.tcp + swept.udp }),
        Some(left) => return Err(Unswept::Refused(left.to_string())),
        None => {}
    }
    let refused = |error| Unswept::Refused(describe(&error));
    let discarded = discard_unread(addresses).map_err(refused)?;
    let (own, unread): (Vec<_>, Vec<_>) =
        discarded.left.into_iter().partition(|(address, _)| addresses.contains(address));
    if let Some((address, port)) = own.first() {
        return Err(Unswept::Refused(format!(
            "datagrams wait in the UDP socket {address} port {port}, which hb may not empty: give it \
             CAP_SYS_PTRACE, or stop the program"
        )));
    }
    let connections = swept.tcp + swept.udp;
    Ok(Swept { connections, datagrams: discarded.datagrams, unread })
}

impl Daemon {
    /// Ends the work of an epoch that was left, once its addresses are gone.
    pub(super) fn clean(&mut self, group: GroupId, removed: Result<(), String>) {
        let asked = match (removed, &self.cleaner) {
            (Err(error), _) => return self.feed(Input::Dropped { group, result: Err(error) }),
            (Ok(()), Some(cleaner)) => cleaner
                .asks
                .send(Ask::Sweep(group))
                .map_err(|_| io::Error::other("its thread is gone")),
            // Policy available, on a kernel that cannot: said at the start.
            (Ok(()), None) => return self.cleaned(group),
        };
        if let Err(error) = asked {
            let result = Err(format!("cannot end connections: {error}"));
            self.feed(Input::Dropped { group, result });
        }
    }

    pub(super) fn on_cleaned(&mut self, done: Cleaned) {
        let Cleaned { group, progress } = done;
        let result = match progress {
            Progress::More(ended) => {
                self.ended.insert(group, ended);
                return self.feed(Input::Dropping { group });
            }
            Progress::Done(result) => result,
        };
        self.ended.remove(&group);
        match result {
            Ok(Swept { connections, datagrams, unread }) => {
                let name = self.group_name(group);
                if connections > 0 || datagrams > 0 {
                    tracing::info!(group = name, connections, datagrams, "open work ended");
                }
                if let Some((address, port)) = unread.first() {
                    tracing::warn!(
                        group = name,
                        sockets = unread.len(),
                        first = %format_args!("{address} port {port}"),
                        "datagrams wait in sockets bound to no address: some may be of this group"
                    );
                }
                self.cleaned(group);
            }
            Err(error) => {
                tracing::error!(group = self.group_name(group), error, "open work not ended");
                self.feed(Input::Dropped { group, result: Err(error) });
            }
        }
    }

    /// Tells the record and the core that nothing of the epoch that was left is there any more.
    fn cleaned(&mut self, group: GroupId) {
        self.order(group, Op::Cleaned);
        self.feed(Input::Dropped { group, result: Ok(()) });
    }
}
