//! Attached to real interfaces, in namespaces.

use std::{net::Ipv4Addr, thread, time::Duration};

use aya::programs::links::{FdLink, PinnedLink};
use hb_ebpf::{
    answer::{self, Stamp},
    maps::{EventKind, Path, Transport},
    wire::{FRAME_LEN, Frame, Kind},
};
use hb_user::{
    clock,
    id::NodeId,
    kernel::{Identity, Kernel, Mode, OBJECT, Shared},
    link::{Ends, LinkSocket},
};
use zerocopy::transmute_ref;

use super::{
    namespace::Namespace,
    rig::{LINK, LINK_IS, Pins, identity, keys},
};

/// The program on an interface, as the kernel tells.
fn attached(namespace: &Namespace, name: &str) -> Option<(u64, u64)> {
    let links = namespace.list(&format!("-d link show dev {name}"));
    let xdp = links[0].get("xdp")?;
    let mode = xdp["mode"].as_u64().unwrap();
    Some((mode, xdp["prog"]["id"].as_u64().unwrap()))
}

/// Modes in `linux/if_link.h`.
const NATIVE: u64 = 1;
const GENERIC: u64 = 2;

fn link_id(pins: &Pins, pin: &str) -> u32 {
    let link = FdLink::from(PinnedLink::from_pin(pins.path().join(pin)).unwrap());
    link.info().unwrap().id()
}

#[test]
fn a_second_daemon_takes_over_the_attachment_without_a_gap() {
    let (left, _right) = Namespace::pair();
    let (index, _) = left.end("left");
    left.inside(|| {
        let pins = Pins::new();
        let mut first = Kernel::open(OBJECT, pins.path()).unwrap();
        let attachment = first.attach("left", index, None).unwrap();
        assert_eq!((attachment.mode, &attachment.reason), (Mode::Native, &None));
        let pin = format!("xdp-{index}-native");
        let (mode, program) = attached(&left, "left").unwrap();
        assert_eq!(mode, NATIVE);
        let id = link_id(&pins, &pin);
        drop(first);
        assert_eq!(attached(&left, "left"), Some((NATIVE, program)), "answers without a daemon");
        let mut second = Kernel::open(OBJECT, pins.path()).unwrap();
        assert_eq!(second.attach("left", index, None).unwrap().mode, Mode::Native);
        assert_eq!(link_id(&pins, &pin), id, "the same link");
        let (mode, newer) = attached(&left, "left").unwrap();
        assert_eq!(mode, NATIVE);
        assert_ne!(newer, program, "another program");
        second.remove().unwrap();
        assert_eq!(attached(&left, "left"), None, "taken off before the removal returns");
    });
}

#[test]
fn what_the_driver_refuses_is_attached_generically_and_said() {
    let namespace = Namespace::new();
    namespace.inside(|| {
        let pins = Pins::new();
        let mut kernel = Kernel::open(OBJECT, pins.path()).unwrap();
        let attachment = kernel.attach("lo", 1, None).unwrap();
        assert_eq!(attachment.mode, Mode::Generic);
        assert!(!attachment.reason.as_deref().unwrap().is_empty());
        assert_eq!(attached(&namespace, "lo").unwrap().0, GENERIC);
        drop(kernel);
        let mut second = Kernel::open(OBJECT, pins.path()).unwrap();
        let attachment = second.attach("lo", 1, None).unwrap();
        assert_eq!(attachment.mode, Mode::Generic);
        assert!(attachment.reason.is_some());
    });
}

#[test]
fn the_mode_that_is_asked_for_is_the_only_one() {
    let (left, _right) = Namespace::pair();
    let (index, _) = left.end("left");
    left.inside(|| {
        let pins = Pins::new();
        // Over what an earlier daemon left as well.
        for (only, mode, xdp) in [
            (Mode::Generic, Mode::Generic, GENERIC),
            (Mode::Native, Mode::Native, NATIVE),
            (Mode::Generic, Mode::Generic, GENERIC),
        ] {
            let mut kernel = Kernel::open(OBJECT, pins.path()).unwrap();
            assert_eq!(kernel.attach("left", index, Some(only)).unwrap().mode, mode);
            assert_eq!(attached(&left, "left").unwrap().0, xdp);
            assert_eq!(kernel.attachments().len(), 1);
        }
        let mut kernel = Kernel::open(OBJECT, pins.path()).unwrap();
        let error = kernel.attach("lo", 1, Some(Mode::Native)).unwrap_err().to_string();
        assert!(error.contains("lo in native mode") && error.contains("attach = "), "{error}");
        assert_eq!(attached(&left, "lo"), None, "not in another mode");
    });
}

#[test]
fn an_interface_made_anew_is_attached_anew() {
    let (left, right) = Namespace::pair();
    let (index, _) = left.end("left");
    left.inside(|| {
        let pins = Pins::new();
        let mut kernel = Kernel::open(OBJECT, pins.path()).unwrap();
        kernel.attach("left", index, None).unwrap();
        let before = link_id(&pins, &format!("xdp-{index}-native"));
        drop(kernel);
        left.ip("link del left");
        // The same index, so that the old pin is found.
        left.ip(&format!("link add left index {index} type veth peer name spare"));
        let mut kernel = Kernel::open(OBJECT, pins.path()).unwrap();
        assert_eq!(kernel.attach("left", index, None).unwrap().mode, Mode::Native);
        assert_ne!(link_id(&pins, &format!("xdp-{index}-native")), before);
        assert_eq!(attached(&left, "left").unwrap().0, NATIVE);
    });
    drop(right);
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    let namespace = Namespace::new();
    namespace.inside(|| {
        let pins = Pins::new();
        let mut kernel = Kernel::open(OBJECT, pins.path()).unwrap();
        let error = kernel.attach("gone", 4_000, None).unwrap_err().to_string();
        assert!(error.contains("cannot attach to gone"), "{error}");
    });
}

/// One of two nodes on a cable.
struct Node {
    kernel: Kernel,
    shared: Shared,
    socket: LinkSocket,
    index: u32,
    me: NodeId,
    peer: NodeId,
    sequence: u64,
    _pins: Pins,
}

impl Node {
    /// Opens a node on the calling thread, which has entered its namespace.
    fn open(interface: &str, index: u32, ends: Ends, me: NodeId, peer: NodeId) -> Self {
        let pins = Pins::new();
        let mut kernel = Kernel::open(OBJECT, pins.path()).unwrap();
        let shared = kernel.share().unwrap();
        let nonce = 100 + u64::from(me.0);
        shared.introduce(&Identity { id: me, nonce, ..identity() });
        shared.stamp_controller(clock::now());
        let mut keys = keys();
        if me > peer {
            std::mem::swap(&mut keys.receive, &mut keys.transmit);
        }
        kernel.set_keys(peer, &keys).unwrap();
        let mut path =
            Path { interface: index, min_hops: 255, fingerprint: LINK_IS, ..Path::default() };
        path.transport = ends.transport() as u8;
        match ends {
            Ends::Ethernet { own, peer } => (path.own_mac, path.mac) = (own, peer),
            Ends::Udp4 { own, peer } => {
                path.own_address[..4].copy_from_slice(&own.octets());
                path.address[..4].copy_from_slice(&peer.octets());
            }
            Ends::Udp6 { own, peer } => {
                (path.own_address, path.address) = (own.octets(), peer.octets());
            }
        }
        kernel.set_path(peer, LINK, &path).unwrap();
        kernel.attach(interface, index, None).unwrap();
        let socket = LinkSocket::open(index, ends).unwrap();
        Self { kernel, shared, socket, index, me, peer, sequence: 0, _pins: pins }
    }

    fn probe(&mut self) {
        let (known, heard) = self.shared.link(self.peer, LINK).unwrap();
        let now = clock::now().ns();
        self.sequence += 1;
        let stamp = Stamp {
            sequence: self.sequence,
            receiver_nonce: known.nonce,
            echo_ns: heard.transmit_ns,
            echo_age_ns: now.saturating_sub(heard.transmit_arrival_ns) as u32,
            last_answer_ns: heard.last_answer_ns,
            now,
            refused: 0,
        };
        let mut keys = keys();
        if self.me > self.peer {
            std::mem::swap(&mut keys.receive, &mut keys.transmit);
        }
        let mut frame = Frame::default();
        answer::address(
            &mut frame,
            &self.shared.node(),
            self.peer.0,
            (LINK.0, LINK_IS),
            keys.ids[0],
        );
        answer::fill(&mut frame, Kind::Probe, &self.shared.node(), &stamp);
        frame.sign(&keys.transmit[0]);
        let bytes: &[u8; FRAME_LEN] = transmute_ref!(&frame);
        self.socket.send(bytes).unwrap();
    }

    fn answers(&self) -> u64 {
        self.shared.link(self.peer, LINK).unwrap().1.rtts.total()
    }

    /// Probes until `count` more answers have come.
    fn exchange(&mut self, count: u64) {
        let wanted = self.answers() + count;
        for _ in 0..5_000 {
            if self.answers() >= wanted {
                return;
            }
            self.probe();
            thread::sleep(Duration::from_millis(2));
        }
        panic!("{} of {wanted} answers; {:?}", self.answers(), self.kernel.refused(None));
    }
}

/// Two kernel halves on a cable, without a daemon: each answers the other's probes, natively and
/// in generic mode.
fn two_nodes(transport: Transport) {
    let (left, right) = Namespace::pair();
    let ((left_index, left_mac), (right_index, right_mac)) = (left.end("left"), right.end("right"));
    let ends = |swap: bool| {
        let pick = |a, b| if swap { (b, a) } else { (a, b) };
        match transport {
            Transport::Ethernet => {
                let (own, peer) = if swap { (right_mac, left_mac) } else { (left_mac, right_mac) };
                Ends::Ethernet { own, peer }
            }
            Transport::Udp4 => {
                let (own, peer) = pick(Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2));
                Ends::Udp4 { own, peer }
            }
            Transport::Udp6 => {
                let addresses = ["fd09::1", "fd09::2"].map(|text| text.parse().unwrap());
                let [own, peer] = if swap { [addresses[1], addresses[0]] } else { addresses };
                Ends::Udp6 { own, peer }
            }
        }
    };
    let [one, two] = [NodeId(1), NodeId(2)];
    let mut a = left.inside(|| Node::open("left", left_index, ends(false), one, two));
    let mut b = right.inside(|| Node::open("right", right_index, ends(true), two, one));
    a.exchange(5);
    b.exchange(5);
    let peer = a.shared.peer(two).unwrap();
    assert_eq!((peer.life, peer.nonce, peer.links_up), (1, 102, 1), "{transport:?}");
    let mut events = a.kernel.events().unwrap();
    assert_eq!(events.take().unwrap().kind, EventKind::Up as u8);

    // A veth takes what a native program sends only while the other end has one too.
    for (node, namespace, name) in [(&mut a, &left, "left"), (&mut b, &right, "right")] {
        let index = node.index;
        namespace.inside(|| {
            let held = node.kernel.lend(index).unwrap();
            let reason = "nobody hears its answers".to_owned();
            let attachment = node.kernel.generic().unwrap().replace(held, reason).unwrap();
            assert_eq!(attachment.mode, Mode::Generic);
            assert_eq!(attachment.reason.as_deref(), Some("nobody hears its answers"));
            node.kernel.hold(attachment);
        });
        assert_eq!(attached(namespace, name).unwrap().0, GENERIC);
        assert_eq!(node.kernel.attachments().len(), 1);
    }
    b.exchange(5);
    a.exchange(5);
}

#[test]
fn two_nodes_on_ethernet() {
    two_nodes(Transport::Ethernet);
}

#[test]
fn two_nodes_on_udp4() {
    two_nodes(Transport::Udp4);
}

#[test]
fn two_nodes_on_udp6() {
    two_nodes(Transport::Udp6);
}
