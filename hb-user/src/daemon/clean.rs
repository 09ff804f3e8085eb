//! The end of the work of an epoch: after the addresses of a group are gone, and before its record is
//! told so, what clients had open there is destroyed, and what waits for neighbours is dropped.
//!
//! A thread of its own does it: it looks at every process of the machine, which takes milliseconds.

use std::{collections::VecDeque, io, net::IpAddr, sync::mpsc as sync, thread, time::Duration};

use tokio::sync::mpsc;

use super::{Daemon, resources::describe};
use crate::{
    address::AddressSocket,
    engine::controller,
    id::GroupId,
    sockets::{Left, SweepError, Sweeper, discard_unread},
};

/// How long the connections of one group are ended at one go. Then it is told how far that came, and
/// other groups have their turn.
const WITHIN: Duration = Duration::from_millis(200);

/// What becomes of the sockets of a group.
pub(super) struct Cleaned {
    group: GroupId,
    /// The newest sweep that this answers.
    number: u64,
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
    /// End the work of a group: the sweep of this number.
    Sweep(GroupId, u64),
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

    /// Has the open work of a group ended.
    ///
    /// # Errors
    ///
    /// If the thread is gone.
    pub(super) fn sweep(&self, group: GroupId, number: u64) -> io::Result<()> {
        self.asks
            .send(Ask::Sweep(group, number))
            .map_err(|_| io::Error::other("its thread is gone"))
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
    // With the newest sweep that was asked for, and how many connections were ended.
    let mut waiting: VecDeque<(GroupId, u64, u32)> = VecDeque::new();
    loop {
        let more = match waiting.is_empty() {
            true => asked.recv().map_err(|_| sync::TryRecvError::Disconnected),
            false => asked.try_recv(),
        };
        match more {
            Ok(Ask::Sweep(group, number)) => {
                match waiting.iter_mut().find(|(other, ..)| *other == group) {
                    // It is asked for again while it is under way.
                    Some((_, newest, _)) => *newest = number,
                    None => waiting.push_back((group, number, 0)),
                }
                continue;
            }
            Ok(Ask::Replace(group, sweeper, addresses)) => {
                waiting.retain(|(other, ..)| *other != group);
                if let Some(slot) = sweepers.get_mut(usize::from(group.0)) {
                    *slot = (*sweeper, addresses);
                }
                continue;
            }
            Err(sync::TryRecvError::Empty) => {}
            Err(sync::TryRecvError::Disconnected) => return,
        }
        let Some((group, number, before)) = waiting.pop_front() else { continue };
        let swept = match sweepers.get_mut(usize::from(group.0)) {
            Some((sweeper, addresses)) => sweep(sweeper, addresses, WITHIN).and_then(|swept| {
                drop_waiting().map_err(Unswept::Refused)?;
                Ok(swept)
            }),
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
                waiting.push_back((group, number, ended));
                Progress::More(ended)
            }
        };
        if report.send(Cleaned { group, number, progress }).is_err() {
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

/// Has the kernel drop what waits for neighbours. It meets the gate only when it leaves, and the gate may be
/// open again by then, under another epoch.
pub(super) fn drop_waiting() -> Result<(), String> {
    let dropped = AddressSocket::open().and_then(|mut socket| socket.drop_waiting());
    dropped.map(drop).map_err(|error| describe(&error))
}

impl Daemon {
    pub(super) fn on_cleaned(&mut self, done: Cleaned) {
        let Cleaned { group, number, progress } = done;
        let swept = match progress {
            Progress::More(ended) => {
                self.ended.insert(group, ended);
                controller::Swept::More
            }
            Progress::Done(result) => {
                self.ended.remove(&group);
                let name = self.group_name(group);
                controller::Swept::Done(result.map(|swept| tell(name, &swept)).inspect_err(
                    |error| tracing::error!(group = name, error, "open work not ended"),
                ))
            }
        };
        self.steer(|controller, hands| controller.on_swept(hands, group, number, swept));
    }
}

/// Says what was ended of a group.
fn tell(group: &str, swept: &Swept) {
    let Swept { connections, datagrams, unread } = swept;
    if *connections > 0 || *datagrams > 0 {
        tracing::info!(group, connections, datagrams, "open work ended");
    }
    if let Some((address, port)) = unread.first() {
        tracing::warn!(
            group,
            sockets = unread.len(),
            first = %format_args!("{address} port {port}"),
            "datagrams wait in sockets bound to no address: some may be of this group"
        );
    }
}
