//! Two detectors, without a daemon, at the ends of a cable between two namespaces.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, sync::mpsc, thread, time::Duration};

use hb_ebpf::maps::{Cause, Life};
use hb_user::{
    config::{TimerValues, Timers},
    detect::{DetectError, Detector, Link, Member, Verdict, Verdicts, attach},
    id::{LinkId, NodeId},
    key::{self, ClusterKeys},
    link::Ends,
};

use super::{
    namespace::{Namespace, PATIENCE},
    rig::{Pins, Rig, identity},
};

const CLUSTER: u32 = 0xde7e_c702;
const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const LINKS: [LinkId; 2] = [LinkId(0), LinkId(1)];

/// For a machine whose cores stand still now and then: to them that is no death.
fn timers() -> Timers {
    Timers::new(&TimerValues {
        interval: Duration::from_millis(5),
        deadtime: Duration::from_millis(150),
        warntime: None,
        initdead: None,
        controller_deadtime: Some(Duration::from_secs(1)),
        doubt_max: None,
    })
    .unwrap()
}

fn keys(directory: &Path) -> ClusterKeys {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    let path = directory.join("key");
    key::generate(&path).unwrap();
    ClusterKeys::load(&path).unwrap()
}

/// The two ends of a cable, each with what it calls it.
struct Cable {
    left: Namespace,
    right: Namespace,
    keys: ClusterKeys,
    pins: [Pins; 2],
    _directory: tempfile::TempDir,
}

impl Cable {
    fn new() -> Self {
        let (left, right) = Namespace::pair();
        let directory = tempfile::tempdir().unwrap();
        let keys = keys(directory.path());
        Self { left, right, keys, pins: [Pins::new(), Pins::new()], _directory: directory }
    }

    /// One link by UDP and one of raw frames.
    fn attach(&self, me: NodeId) -> Result<(Detector, Verdicts), DetectError> {
        let macs = [self.left.end("left").1, self.right.end("right").1];
        let ips = [[10, 9, 0, 1].into(), [10, 9, 0, 2].into()];
        let (at, namespace, interface) =
            if me == ONE { (0, &self.left, "left") } else { (1, &self.right, "right") };
        let ends = [
            Ends::Udp4 { own: ips[at], peer: ips[1 - at] },
            Ends::Ethernet { own: macs[at], peer: macs[1 - at] },
        ];
        let peer = if me == ONE { TWO } else { ONE };
        let links = LINKS.into_iter().zip(ends).map(|(id, ends)| {
            let interface = interface.to_owned();
            Link { id, peer, interface, ends }
        });
        let links: Vec<_> = links.collect();
        let pins = self.pins[at].path().to_owned();
        let member = Member { cluster: CLUSTER, id: me, keys: &self.keys, pins };
        namespace.inside(|| attach(&member, &links, &timers()))
    }
}

/// The verdicts of one end, taken in a thread of their own.
struct Watch(mpsc::Receiver<Verdict>);

impl Watch {
    fn new(verdicts: Verdicts) -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for verdict in verdicts {
                if sender.send(verdict).is_err() {
                    return;
                }
            }
        });
        Self(receiver)
    }

    /// Waits for that verdict. What comes before it is a silence that did not last.
    fn expect(&self, life: Life) -> Verdict {
        let mut was_late = false;
        loop {
            let verdict = self.0.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("not {life:?}"));
            if verdict.life == life {
                return verdict;
            }
            let passes = verdict.life == Life::Late || was_late && verdict.life == Life::Alive;
            assert!(passes, "{verdict:?} instead of {life:?}");
            was_late = verdict.life == Life::Late;
        }
    }

    fn has_ended(&self) -> bool {
        let left = std::iter::repeat_with(|| self.0.recv_timeout(PATIENCE));
        left.take(100).any(|next| next == Err(mpsc::RecvTimeoutError::Disconnected))
    }
}

#[test]
fn a_peer_is_alive_then_dead_then_alive_again() {
    let cable = Cable::new();
    let (one, verdicts) = cable.attach(ONE).unwrap();
    let seen = Watch::new(verdicts);
    assert_eq!(one.peer(TWO).unwrap().life, Life::Unheard);
    let (two, others) = cable.attach(TWO).unwrap();
    let seen_there = Watch::new(others);
    assert_eq!(seen.expect(Life::Alive).peer, TWO);
    assert_eq!(seen_there.expect(Life::Alive).peer, ONE);

    // The other end goes, with all that it had, and comes again. Before the cable is cut: where programs were
    // changed right after it was mended, it was seen to carry nothing for more than a second.
    drop(two);
    assert!(seen_there.has_ended());
    assert!(!cable.pins[1].path().exists(), "pins are left");
    seen.expect(Life::Dead);
    let (_two, others) = cable.attach(TWO).unwrap();
    let seen_there = Watch::new(others);
    seen.expect(Life::Alive);
    seen_there.expect(Life::Alive);

    // The cable is cut and mended.
    cable.right.ip("link set right down");
    let dead = seen.expect(Life::Dead);
    assert_eq!((dead.peer, dead.cause), (TWO, Cause::Silence));
    let view = one.peer(TWO).unwrap();
    assert_eq!((view.life, view.verdict), (Life::Dead, dead.at));
    assert!(view.deaths >= 2 && dead.at.since(view.last_arrival) >= timers().deadtime());
    seen_there.expect(Life::Dead);
    cable.right.ip("link set right up");
    seen.expect(Life::Alive);
    seen_there.expect(Life::Alive);

    // Both links carry it. An answer comes after the first frame of the peer.
    for id in LINKS {
        let answered = || one.link(TWO, id).filter(|link| link.up && !link.round_trip.is_zero());
        let tries = PATIENCE.as_millis() / 5;
        let found = (0..tries).find_map(|_| {
            thread::sleep(Duration::from_millis(5));
            answered()
        });
        let found = found.unwrap_or_else(|| panic!("{id}: {:?}", one.link(TWO, id)));
        assert!(found.sent > 0 && found.received > 0, "{found:?}");
    }
    assert_eq!(one.link(TWO, LinkId(2)), None);
    drop(one);
    assert!(seen.has_ended());
}

/// What a detector that was killed left is taken over; what is used, or of a node, is left alone.
#[test]
fn what_is_pinned_is_taken_over_or_left_alone() {
    let cable = Cable::new();
    let (one, _verdicts) = cable.attach(ONE).unwrap();
    assert!(matches!(cable.attach(ONE), Err(DetectError::InUse(_))));
    drop(one);

    let mut kernel = Rig::of(&cable.pins[0]);
    let shared = kernel.share().unwrap();
    shared.introduce(&hb_user::kernel::Identity { cluster: CLUSTER, id: ONE, ..identity() });
    kernel.events().map(drop).unwrap();
    drop((kernel, shared));
    let (one, verdicts) = cable.attach(ONE).unwrap();
    let seen = Watch::new(verdicts);
    let (_two, _others) = cable.attach(TWO).unwrap();
    seen.expect(Life::Alive);
    drop(one);

    let kernel = Rig::of(&cable.pins[0]);
    let of_groups =
        hb_user::kernel::Identity { cluster: CLUSTER, id: ONE, groups: 2, ..identity() };
    kernel.share().unwrap().introduce(&of_groups);
    drop(kernel);
    assert!(matches!(cable.attach(ONE), Err(DetectError::Foreign(_))));
    assert!(cable.pins[0].path().join("NODE").exists(), "left alone");
}
