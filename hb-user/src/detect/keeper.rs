//! Says that the detector lives, and has a peer watched again that the kernel watches no more.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};

use hb_ebpf::maps::Life;

use crate::{
    clock,
    fast::Fast,
    id::NodeId,
    kernel::{Kernel, KernelError, PinsLock, Shared},
    realtime::{self, Demand},
};

/// What it keeps.
pub(super) type Parts = (Arc<Shared>, Arc<Fast>, Kernel, PinsLock);

/// The thread, and the way to end it.
pub(super) struct Keeper {
    end: mpsc::Sender<()>,
    thread: JoinHandle<(Kernel, PinsLock)>,
}

/// Begins to watch a peer, by a timer of the kernel or, where it lets us have none, by the fast path.
pub(super) fn watch(kernel: &mut Kernel, peer: NodeId, forget: bool) -> Result<(), KernelError> {
    match kernel.timers() {
        Ok(()) => kernel.arm(peer, forget),
        Err(_) => kernel.watch(peer, forget),
    }
}

impl Keeper {
    /// Starts the thread, which goes round each `tick`.
    ///
    /// # Errors
    ///
    /// The system's, if it gives no thread.
    pub(super) fn start(parts: Parts, peers: BTreeSet<NodeId>, tick: Duration) -> io::Result<Self> {
        let (end, ended) = mpsc::channel();
        let (shared, fast, mut kernel, lock) = parts;
        let thread = std::thread::Builder::new().name("hb-keeper".to_owned()).spawn(move || {
            // A stamp that comes late under load looks like a dead detector.
            let _ = realtime::prefer_fifo(Demand::DEFAULT_FIFO_PRIORITY);
            while ended.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
                go_round(&shared, &fast, &mut kernel, &peers);
            }
            (kernel, lock)
        })?;
        Ok(Self { end, thread })
    }

    /// Ends it, and removes the kernel half.
    pub(super) fn end(self) {
        drop(self.end);
        if let Ok((kernel, lock)) = self.thread.join() {
            // What cannot be removed answers as a detector that is gone, until the next one takes it over.
            let _ = kernel.remove();
            drop(lock);
        }
    }
}

fn go_round(shared: &Shared, fast: &Fast, kernel: &mut Kernel, peers: &BTreeSet<NodeId>) {
    let now = clock::now();
    if fast.went_round(now) {
        shared.stamp_controller(now);
    }
    let mut alive = Vec::new();
    for peer in peers {
        let Some(state) = shared.peer(*peer) else { continue };
        if matches!(Life::from_code(state.life), Life::Alive | Life::Late) {
            alive.push(*peer);
        }
        if state.watched == 0 {
            // The next round tries again.
            let _ = watch(kernel, *peer, false);
        }
    }
    for peer in peers {
        shared.set_buddy(*peer, alive.iter().find(|other| *other != peer).copied());
    }
}
