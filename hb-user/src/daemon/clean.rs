//! The end of the work of an epoch: after the addresses of a group are gone, and before its record is
//! told so, what clients had open there is destroyed.
//!
//! A thread of its own does it: it looks at every process of the machine, which takes milliseconds.

use std::{io, net::IpAddr, sync::mpsc as sync, thread, time::Duration};

use hb_ebpf::lease::op::Op;
use tokio::sync::mpsc;

use super::{Daemon, resources::describe};
use crate::{
    core::Input,
    id::GroupId,
    sockets::{SweepError, Sweeper, discard_unread},
};

/// How long the connections of one group may take; what is left is tried again.
const WITHIN: Duration = Duration::from_millis(500);

/// What became of the sockets of a group.
pub(super) struct Cleaned {
    group: GroupId,
    result: Result<Swept, String>,
}

/// What was found and ended.
#[derive(Debug, Default)]
struct Swept {
    connections: u32,
    datagrams: usize,
    /// Sockets without an address of their own whose queues could not be emptied.
    unread: Vec<(IpAddr, u16)>,
}

/// The thread, by its channels.
pub(super) struct Cleaner {
    groups: sync::Sender<GroupId>,
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
        let (groups, asked) = sync::channel::<GroupId>();
        let (report, done) = mpsc::unbounded_channel();
        let system = |source| SweepError::Socket { action: "start a thread that works", source };
        thread::Builder::new()
            .name("hb-clean".to_owned())
            .spawn(move || {
                for group in asked {
                    let result = match sweepers.get_mut(usize::from(group.0)) {
                        Some((sweeper, addresses)) => sweep(sweeper, addresses),
                        None => Ok(Swept::default()),
                    };
                    if report.send(Cleaned { group, result }).is_err() {
                        return;
                    }
                }
            })
            .map_err(system)?;
        Ok(Self { groups, done })
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

fn sweep(sweeper: &mut Sweeper, addresses: &[IpAddr]) -> Result<Swept, String> {
    let swept = sweeper.destroy(WITHIN);
    if let Some(left) = swept.left {
        return Err(left.to_string());
    }
    let discarded = discard_unread(addresses).map_err(|error| describe(&error))?;
    let (own, unread): (Vec<_>, Vec<_>) =
        discarded.left.into_iter().partition(|(address, _)| addresses.contains(address));
    if let Some((address, port)) = own.first() {
        return Err(format!(
            "datagrams wait in the UDP socket {address} port {port}, which this daemon may not \
             empty: give it CAP_SYS_PTRACE, or stop the program"
        ));
    }
    let connections = swept.tcp + swept.udp;
    Ok(Swept { connections, datagrams: discarded.datagrams, unread })
}

impl Daemon {
    /// Ends the work of an epoch that was left, once its addresses are gone.
    pub(super) fn clean(&mut self, group: GroupId, removed: Result<(), String>) {
        let asked = match (removed, &self.cleaner) {
            (Err(error), _) => return self.feed(Input::Dropped { group, result: Err(error) }),
            (Ok(()), Some(cleaner)) => {
                cleaner.groups.send(group).map_err(|_| io::Error::other("its thread is gone"))
            }
            // Policy available, on a kernel that cannot: said at the start.
            (Ok(()), None) => return self.cleaned(group),
        };
        if let Err(error) = asked {
            let result = Err(format!("cannot end connections: {error}"));
            self.feed(Input::Dropped { group, result });
        }
    }

    pub(super) fn on_cleaned(&mut self, done: Cleaned) {
        let Cleaned { group, result } = done;
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
