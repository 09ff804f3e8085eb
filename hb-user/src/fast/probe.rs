//! Probes: one per peer and link and interval, one system call each.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hb_ebpf::{
    answer::{self, Stamp},
    lease::Terms,
    maps::PeerKeys,
    time::BootTime,
    wire::{FRAME_LEN, Frame, Kind},
};
use zerocopy::IntoBytes;

use crate::{
    clock,
    id::{GroupId, LinkId, NodeId},
    kernel::Shared,
    link::LinkSocket,
    realtime::{Guard, Mutex},
};

/// Where probes go.
#[derive(Debug)]
pub struct Target {
    /// The peer.
    pub peer: NodeId,
    /// The number that the link has here.
    pub link: LinkId,
    /// How frames leave to there; `None` while there is no such link.
    pub outlet: Option<Outlet>,
    /// The keys shared with the peer.
    pub keys: PeerKeys,
}

/// How frames leave by a link.
#[derive(Debug)]
pub struct Outlet {
    /// The socket.
    pub socket: LinkSocket,
    /// Which link it is, as frames say it.
    pub fingerprint: u32,
}

/// What became of the probes to one target.
#[derive(Debug)]
pub struct TargetCounters {
    /// The peer.
    pub peer: NodeId,
    /// The link.
    pub link: LinkId,
    /// Probes that left.
    pub sent: AtomicU64,
    /// Probes the kernel refused to send.
    pub errors: AtomicU64,
    /// The error number of the last refusal.
    pub last_errno: AtomicU64,
}

impl TargetCounters {
    /// Counters of a target, all zero.
    #[must_use]
    pub fn new(target: &Target) -> Self {
        Self {
            peer: target.peer,
            link: target.link,
            sent: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            last_errno: AtomicU64::new(0),
        }
    }
}

/// The streams to all targets, for whichever thread probes; the two are of different priority.
pub(super) struct Streams {
    streams: Mutex<Vec<Stream>>,
    shared: Arc<Shared>,
    terms: Terms,
    counters: Arc<[TargetCounters]>,
}

impl Streams {
    /// Makes them.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(super) fn new(
        targets: Vec<Target>,
        shared: Arc<Shared>,
        terms: Terms,
        counters: Arc<[TargetCounters]>,
    ) -> io::Result<Self> {
        let streams = Mutex::new(targets.into_iter().map(Stream::new).collect())?;
        Ok(Self { streams, shared, terms, counters })
    }

    /// Probes every target.
    pub(super) fn probe(&self) {
        self.probe_those(|_| true);
    }

    /// Probes the targets of those peers.
    pub(super) fn probe_those(&self, mut wanted: impl FnMut(NodeId) -> bool) {
        for (stream, counters) in self.lock().iter_mut().zip(self.counters.iter()) {
            if wanted(stream.target.peer) {
                stream.send(&self.shared, &self.terms, counters, clock::now());
            }
        }
    }

    /// Goes by other keys from now on in probes to `peer`.
    pub(super) fn set_keys(&self, peer: NodeId, keys: &PeerKeys, slot: usize, trial: bool) {
        for stream in self.lock().iter_mut().filter(|stream| stream.target.peer == peer) {
            stream.target.keys = *keys;
            stream.slot = slot & 1;
            stream.trial = trial;
        }
    }

    /// Sends by these from now on, and leaves what it had in their place. A stream goes on where it was.
    pub(super) fn rebind(&self, outlets: &mut [(NodeId, LinkId, Option<Outlet>)]) {
        let mut streams = self.lock();
        for (peer, link, outlet) in outlets {
            let its =
                |stream: &&mut Stream| stream.target.peer == *peer && stream.target.link == *link;
            if let Some(stream) = streams.iter_mut().find(its) {
                std::mem::swap(&mut stream.target.outlet, outlet);
            }
        }
    }

    fn lock(&self) -> Guard<'_, Vec<Stream>> {
        self.streams.lock()
    }
}

/// The stream of probes to one target.
struct Stream {
    target: Target,
    /// Which of the target's keys is sent with.
    slot: usize,
    /// Whether each probe is preceded by one under the other key, to see whether that is answered.
    trial: bool,
    sequence: u64,
    frame: Frame,
}

impl Stream {
    fn new(target: Target) -> Self {
        Self { target, slot: 0, trial: false, sequence: 0, frame: Frame::default() }
    }

    /// Sends a probe that leaves at `now`.
    fn send(&mut self, shared: &Shared, terms: &Terms, counters: &TargetCounters, now: BootTime) {
        // The trial goes first, so that the newest probe the peer knows is under the key we use.
        if self.trial {
            self.send_with(self.slot ^ 1, shared, terms, counters, now);
        }
        self.send_with(self.slot, shared, terms, counters, now);
    }

    fn send_with(
        &mut self,
        slot: usize,
        shared: &Shared,
        terms: &Terms,
        counters: &TargetCounters,
        now: BootTime,
    ) {
        let Target { peer, link, outlet, keys } = &self.target;
        let Some(Outlet { socket, fingerprint }) = outlet else { return };
        let Some((known, heard)) = shared.link(*peer, *link) else { return };
        let node = shared.node();
        self.sequence += 1;
        let arrived = BootTime(heard.transmit_arrival_ns);
        let stamp = Stamp {
            sequence: self.sequence,
            receiver_nonce: known.nonce,
            echo_ns: heard.transmit_ns,
            echo_age_ns: u32::try_from(now.since(arrived).as_nanos()).unwrap_or(u32::MAX),
            last_answer_ns: heard.last_answer_ns,
            now: now.ns(),
            refused: 0,
        };
        answer::address(&mut self.frame, &node, peer.0, (link.0, *fingerprint), keys.ids[slot]);
        answer::fill(&mut self.frame, Kind::Probe, &node, &stamp);
        for group in 0..node.groups {
            if let Some(record) = shared.record(GroupId(group)) {
                let group = usize::from(group);
                answer::speak_of(&mut self.frame, group, &record, terms, &node, now.ns());
            }
        }
        self.frame.sign(&keys.transmit[slot]);
        let bytes: &[u8; FRAME_LEN] = zerocopy::transmute_ref!(&self.frame);
        debug_assert_eq!(bytes, self.frame.as_bytes());
        match socket.send(bytes) {
            Ok(()) => {
                counters.sent.fetch_add(1, Ordering::Relaxed);
                shared.stamp_probe(*peer, now);
            }
            Err(error) => {
                counters.errors.fetch_add(1, Ordering::Relaxed);
                let errno = error.raw_os_error().unwrap_or(0);
                counters.last_errno.store(errno.unsigned_abs().into(), Ordering::Relaxed);
            }
        }
    }
}
