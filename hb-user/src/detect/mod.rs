//! A detector without a cluster: is a peer alive, and from when on is it not?
//!
//! For a program that wants the verdict of the kernel half and the fast path, and decides by itself what
//! follows. There are no groups, no leases and no addresses of ours: nothing is gated, promised or put up.
//! [`attach`] loads the same kernel half as the daemon, has the same thread probe, and returns two things:
//!
//! - [`Verdicts`], a blocking iterator over what changes. It waits in the thread that calls it, on the
//!   descriptor that the fast path rings: between the kernel's verdict and the caller lie two wake-ups
//!   and no runtime. A program with a loop of its own waits for that descriptor (`AsRawFd`, readable; tokio:
//!   `AsyncFd`) and calls [`Verdicts::take`].
//! - [`Detector`], which answers for what is known now ([`Detector::peer`], [`Detector::link`]), and ends
//!   it all when dropped: programs are detached and pins removed.
//!
//! Both ends of a link run a detector, of the same cluster number and keys and with ids of their own. A node
//! that runs the daemon of the same cluster is none.
//!
//! A program that is killed leaves its kernel half behind, which goes on answering as that of a node whose
//! controller is dead ([`PeerView::controller_dead`]); the next [`attach`] with the same pins takes it over.
//!
//! Needs root, as `hb run` does. Threads: `hb-fast` and `hb-deputy`, as in the daemon, under a real-time policy
//! where the kernel lets them, and `hb-keeper`. The first locks the memory of the process as far as its
//! limits allow.
//!
//! ```no_run
//! use std::{path::Path, time::Duration};
//!
//! use hb_user::{
//!     config::{TimerValues, Timers},
//!     detect::{Link, Member, attach},
//!     id::{LinkId, NodeId},
//!     key::ClusterKeys,
//!     link::Ends,
//! };
//!
//! let keys = ClusterKeys::load(Path::new("/etc/hb/key"))?;
//! let pins = Path::new("/sys/fs/bpf/hb-detect").to_owned();
//! let me = Member { cluster: 7, id: NodeId(1), keys: &keys, pins };
//! let ends = Ends::Udp4 { own: [10, 9, 0, 1].into(), peer: [10, 9, 0, 2].into() };
//! let link = Link { id: LinkId(0), peer: NodeId(2), interface: "eth1".to_owned(), ends };
//! let timers = Timers::new(&TimerValues {
//!     interval: Duration::from_millis(1),
//!     deadtime: Duration::from_millis(3),
//!     warntime: None,
//!     initdead: None,
//!     controller_deadtime: None,
//!     doubt_max: None,
//! });
//! let (_detector, verdicts) = attach(&me, &[link], &timers.expect("timers that fit together"))?;
//! for verdict in verdicts {
//!     println!("{} is {:?}", verdict.peer, verdict.life);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod keeper;
mod verdict;

use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hb_ebpf::{
    gate,
    lease::Terms,
    maps::{Cause, LAYOUT, Life, MAX_LINKS, MAX_NODES, PeerKeys},
    time::BootTime,
};
use zerocopy::FromZeros as _;

pub use verdict::{Verdict, Verdicts};

use crate::{
    clock,
    config::{HostView, Timers},
    fast::{Fast, FastError, Outlet, Running, Setup, Target},
    id::{LinkId, NodeId},
    kernel::{Identity, Kernel, KernelError, OBJECT, PinsLock, Shared},
    key::{ClusterKeys, peer_keys},
    link::{Ends, LinkError, LinkSocket},
    nonce,
    realtime::Demand,
};
use keeper::Keeper;

/// The least TTL or hop limit taken: no router lies between (RFC 5082).
const MIN_HOPS: u8 = 255;

/// Who this is.
#[derive(Debug)]
pub struct Member<'a> {
    /// Number of the cluster; both ends have the same.
    pub cluster: u32,
    /// Number of this end, 1 to [`MAX_NODES`].
    pub id: NodeId,
    /// The keys that all ends share.
    pub keys: &'a ClusterKeys,
    /// Directory for pins on a BPF file system; nobody else's, and made if it is not there. A node of `hb` has
    /// its own below `/sys/fs/bpf/hb`.
    pub pins: PathBuf,
}

/// A link to a peer.
#[derive(Clone, Debug)]
pub struct Link {
    /// Its number, the same at both ends, below [`MAX_LINKS`].
    pub id: LinkId,
    /// The peer.
    pub peer: NodeId,
    /// The interface at this end, in the network namespace of the calling thread.
    pub interface: String,
    /// Where frames leave from and go to.
    pub ends: Ends,
}

/// Why a detector does not run. Nothing of it is left then, but where a thread could not be started: the next
/// [`attach`] takes that over.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// A number is out of range, named twice, or this end's own.
    #[error("{0} cannot be: nodes are 1 to {MAX_NODES}, links 0 to {last}, each pair once, and no peer is \
             this end itself", last = MAX_LINKS - 1)]
    Numbers(String),
    /// No such interface.
    #[error("there is no interface {0} in this network namespace")]
    Interface(String),
    /// The interfaces of this host cannot be listed.
    #[error("cannot read the interfaces of this host")]
    Host(#[source] io::Error),
    /// Another process has the pins.
    #[error("another process uses what is pinned at {}", .0.display())]
    InUse(PathBuf),
    /// What is pinned there is somebody else's.
    #[error("{} holds the kernel half of another node: choose another directory", .0.display())]
    Foreign(PathBuf),
    /// The kernel half.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A socket.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The thread that probes.
    #[error(transparent)]
    Fast(#[from] FastError),
    /// No random number, or no thread.
    #[error("cannot {action} for the detector")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// What is known of a peer, of one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// What it is held for.
    pub life: Life,
    /// Why it was last declared dead; [`Cause::None`] if it never was.
    pub cause: Cause,
    /// When it was last heard on any link; never, if it was not.
    pub last_arrival: BootTime,
    /// When it was last declared dead; never, if it was not.
    pub verdict: BootTime,
    /// Verdicts of death ever.
    pub deaths: u64,
    /// Intervals of silence ever.
    pub misses: u64,
    /// Intervals in which no probe of ours left, and verdicts that were put off, ever.
    pub doubts: u64,
    /// Its kernel half answers and says that its detector is gone or hangs.
    pub controller_dead: bool,
}

/// What is known of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkView {
    /// It was heard within deadtime.
    pub up: bool,
    /// When it was last heard; never, if it was not.
    pub last_arrival: BootTime,
    /// Fresh frames that arrived.
    pub received: u64,
    /// Round trip of the newest answer; zero without one.
    pub round_trip: Duration,
    /// Probes that left.
    pub sent: u64,
    /// Probes that the kernel refused to send.
    pub errors: u64,
}

/// What watches the peers. Dropped, it ends: programs go off their interfaces, pins are removed, and
/// [`Verdicts`] has no next one.
pub struct Detector {
    shared: Arc<Shared>,
    fast: Arc<Fast>,
    ended: Arc<AtomicBool>,
    keeper: Option<Keeper>,
}

/// Begins to watch the peers at the other ends of `links`, by `timers`.
///
/// # Errors
///
/// [`DetectError`]; what is pinned by another node, or used by a living process, is left alone.
pub fn attach(
    me: &Member<'_>,
    links: &[Link],
    timers: &Timers,
) -> Result<(Detector, Verdicts), DetectError> {
    check(me.id, links)?;
    let host = HostView::read().map_err(DetectError::Host)?;
    let missing = |link: &Link| DetectError::Interface(link.interface.clone());
    let interfaces: Vec<_> = links
        .iter()
        .map(|link| host.interface(&link.interface).map(|found| found.index).ok_or(missing(link)))
        .collect::<Result<_, _>>()?;
    let in_use = || DetectError::InUse(me.pins.clone());
    let lock = PinsLock::make(&me.pins)?.ok_or_else(in_use)?;
    let mut kernel = Kernel::open(OBJECT, &me.pins)?;
    let shared = Arc::new(kernel.share()?);
    let earlier = shared.node();
    let was_there = kernel.found() && earlier.layout == LAYOUT;
    if was_there && (earlier.cluster, earlier.id, earlier.groups) != (me.cluster, me.id.0, 0) {
        return Err(DetectError::Foreign(me.pins.clone()));
    }
    match begin(me, links, &interfaces, timers, &host, &mut kernel, &shared) {
        Ok(fast) => {
            let peers: BTreeSet<_> = links.iter().map(|link| link.peer).collect();
            let (fast, ended) = (Arc::new(fast), Arc::new(AtomicBool::new(false)));
            let reports = Arc::clone(fast.reports());
            let verdicts =
                Verdicts::new(Arc::clone(&shared), reports, Arc::clone(&ended), &peers).map_err(
                    |source| DetectError::System { action: "make an epoll descriptor", source },
                );
            let parts = (Arc::clone(&shared), Arc::clone(&fast), kernel, lock);
            let keeper = Keeper::start(parts, peers, timers.tick())
                .map_err(|source| DetectError::System { action: "start a thread", source })?;
            let detector = Detector { shared, fast, ended, keeper: Some(keeper) };
            // If there are no verdicts, dropping the detector undoes the rest.
            Ok((detector, verdicts?))
        }
        Err(error) => {
            // What was wrong is said already.
            let _ = kernel.remove();
            Err(error)
        }
    }
}

fn check(me: NodeId, links: &[Link]) -> Result<(), DetectError> {
    let node = |id: NodeId| (1..=MAX_NODES as u8).contains(&id.0);
    let wrong = |what: String| Err(DetectError::Numbers(what));
    if !node(me) {
        return wrong(me.to_string());
    }
    let mut seen = BTreeSet::new();
    for link in links {
        let fits = node(link.peer) && link.peer != me && usize::from(link.id.0) < MAX_LINKS;
        if !fits || !seen.insert((link.peer, link.id)) {
            return wrong(format!("{} to {}", link.id, link.peer));
        }
    }
    Ok(())
}

/// Sets everything up over a kernel half that is ours, as a daemon without groups would, and has the
/// peers watched.
fn begin(
    me: &Member<'_>,
    links: &[Link],
    interfaces: &[u32],
    timers: &Timers,
    host: &HostView,
    kernel: &mut Kernel,
    shared: &Arc<Shared>,
) -> Result<Fast, DetectError> {
    let earlier = shared.node();
    for (link, index) in links.iter().zip(interfaces) {
        kernel.attach(&link.interface, *index, None)?;
    }
    kernel.detach_others();
    kernel.set_gate(&gate::Settings { mode: gate::Mode::On as u8, ..Default::default() })?;
    let mut targets = Vec::new();
    for peer in (1..=MAX_NODES as u8).map(NodeId) {
        let to: Vec<_> =
            links.iter().zip(interfaces).filter(|(link, _)| link.peer == peer).collect();
        let keys = match to.is_empty() {
            true => PeerKeys::default(),
            false => peer_keys(me.keys, me.cluster, me.id, peer),
        };
        kernel.set_keys(peer, &keys)?;
        for id in (0..MAX_LINKS as u8).map(LinkId) {
            let its = to.iter().find(|(link, _)| link.id == id);
            let path =
                its.map(|(link, index)| link.ends.path(**index, host.comes_to(**index), MIN_HOPS));
            kernel.set_path(peer, id, &path.unwrap_or_default())?;
            if let Some((link, index)) = its {
                let socket = LinkSocket::open(**index, link.ends)?;
                let outlet = Some(Outlet { socket, fingerprint: link.ends.fingerprint() });
                targets.push(Target { peer, link: id, outlet, keys });
            }
        }
        shared.set_timing(peer, &timers.of_peer());
    }
    let drawn =
        || nonce::draw().map_err(|source| DetectError::System { action: "draw a number", source });
    shared.introduce(&Identity {
        cluster: me.cluster,
        id: me.id,
        incarnation: earlier.incarnation + 1,
        nonce: if earlier.nonce == 0 { drawn()? } else { earlier.nonce },
        config_hash: 0,
        groups: 0,
        controller_deadtime_ns: timers.controller_deadtime().as_nanos() as u64,
    });
    shared.stamp_controller(clock::now());
    let by_timers = kernel.timers().is_ok();
    let fast = Fast::start(Setup {
        targets,
        interval: timers.interval(),
        effects: Vec::new(),
        shared: Arc::clone(shared),
        events: kernel.events()?,
        judge: if by_timers { None } else { Some(kernel.judge()?) },
        leases: kernel.leases()?,
        // There is no group that they could be of.
        terms: Terms::new_zeroed(),
        demand: Demand::of_prober(timers.interval()),
    })?;
    for peer in links.iter().map(|link| link.peer).collect::<BTreeSet<_>>() {
        keeper::watch(kernel, peer, true)?;
    }
    Ok(fast)
}

impl Detector {
    /// Returns what is known of `peer`; `None` if it is no number of a node.
    #[must_use]
    pub fn peer(&self, peer: NodeId) -> Option<PeerView> {
        let state = self.shared.peer(peer)?;
        Some(PeerView {
            life: Life::from_code(state.life),
            cause: Cause::from_code(state.cause),
            last_arrival: BootTime(state.last_arrival_ns),
            verdict: BootTime(state.verdict_ns),
            deaths: state.deaths_total,
            misses: state.misses_total,
            doubts: state.doubts_total,
            controller_dead: state.controller_dead != 0,
        })
    }

    /// Returns what is known of `link` to `peer`; `None` if there is none.
    #[must_use]
    pub fn link(&self, peer: NodeId, link: LinkId) -> Option<LinkView> {
        let mut counters = self.fast.counters().iter();
        let counted = counters.find(|target| (target.peer, target.link) == (peer, link))?;
        let (state, known) = self.shared.link(peer, link)?;
        Some(LinkView {
            up: state.links_up & 1 << link.0 != 0,
            last_arrival: BootTime(known.last_arrival_ns),
            received: known.received,
            round_trip: Duration::from_nanos(known.rtt_ns),
            sent: counted.sent.load(Ordering::Relaxed),
            errors: counted.errors.load(Ordering::Relaxed),
        })
    }

    /// Returns how the thread that probes is scheduled, and whether its memory is locked.
    #[must_use]
    pub fn running(&self) -> &Running {
        self.fast.running()
    }
}

impl Drop for Detector {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        self.fast.reports().bell().ring();
        if let Some(keeper) = self.keeper.take() {
            keeper.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(id: u8, peer: u8) -> Link {
        let ends = Ends::Udp4 { own: [10, 9, 0, 1].into(), peer: [10, 9, 0, 2].into() };
        Link { id: LinkId(id), peer: NodeId(peer), interface: "lo".to_owned(), ends }
    }

    #[test]
    fn numbers_that_cannot_be_are_refused() {
        check(NodeId(1), &[link(0, 2), link(1, 2), link(0, 3)]).unwrap();
        check(NodeId(1), &[]).unwrap();
        for (me, links, named) in [
            (0, vec![], "node 0"),
            (65, vec![], "node 65"),
            (1, vec![link(0, 1)], "link 0 to node 1"),
            (1, vec![link(4, 2)], "link 4 to node 2"),
            (1, vec![link(0, 0)], "link 0 to node 0"),
            (1, vec![link(0, 2), link(0, 2)], "link 0 to node 2"),
        ] {
            let error = check(NodeId(me), &links).unwrap_err().to_string();
            assert!(error.starts_with(named), "{error}");
        }
    }
}
