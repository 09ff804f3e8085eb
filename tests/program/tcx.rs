//! Heartbeats heard in traffic control, where the hook of XDP is somebody else's.

use std::{
    cell::RefCell,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use hb_ebpf::{
    maps::Transport,
    refusal::Refusal,
    wire::{FRAME_LEN, Frame, Kind},
};
use hb_user::{
    clock,
    kernel::{Mode, WITNESS_OBJECT, Witness},
};
use lab::tcx;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use zerocopy::{FromBytes, IntoBytes};

use super::{
    namespace::Namespace,
    packets::{self, Shape},
    rig::{INTERFACE, LINK, ME, PEER, Pins, Rig, Sender, keys, path},
};

/// Verdicts of `linux/pkt_cls.h`, and `TCX_NEXT` of `linux/bpf.h`.
const NEXT: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;
/// Bytes of an Ethernet header and an IPv4 header.
const V4: usize = 14 + 20;
/// Of an Ethernet header and an IPv6 header.
const V6: usize = 14 + 40;

const UDP4: Shape = Shape { transport: Transport::Udp4, tags: 0 };

fn run(rig: &mut Rig, packet: &[u8]) -> (i32, Vec<u8>) {
    rig.kernel.run_late(packet, INTERFACE).unwrap()
}

fn whole(shape: Shape, frame: &Frame) -> Vec<u8> {
    let mut packet = packets::wrap(shape, frame);
    packets::complete(shape, &mut packet);
    packet
}

#[test]
fn every_shape_is_answered_with_sums_that_are_right() {
    for shape in Shape::all() {
        let mut rig = Rig::with(shape);
        let mut sender = Sender::new();
        for round in 1..=100 {
            let probe = sender.probe();
            let packet = whole(shape, &probe);
            let (verdict, left) = run(&mut rig, &packet);
            assert_eq!(verdict, REDIRECT, "{shape:?}");
            let answer = packets::unwrap(shape, &packet, &left);
            assert!(packets::is_signed(&answer, &keys().transmit[0]), "{shape:?}");
            assert_eq!((answer.kind, answer.source), (Kind::Answer as u8, ME.0), "{shape:?}");
            assert_eq!(answer.receiver_nonce, probe.sender_nonce, "{shape:?}");
            assert_eq!(rig.link().answered, round, "{shape:?}");
        }
        let (verdict, _) = run(&mut rig, &whole(shape, &sender.answer()));
        assert_eq!(verdict, SHOT, "{shape:?}: an answer is taken");
        // But for its freshness, on which a busy machine has a say.
        assert_eq!(rig.counters()[0][1..].iter().sum::<u64>(), 0, "{shape:?}");
    }
}

#[test]
fn without_a_checksum_there_is_none_in_the_answer() {
    let mut rig = Rig::new();
    let mut packet = packets::wrap(UDP4, &Sender::new().probe());
    packet[V4 + 6..V4 + 8].fill(0);
    let (verdict, left) = run(&mut rig, &packet);
    assert_eq!((verdict, &left[V4 + 6..V4 + 8]), (REDIRECT, &[0, 0][..]));
}

/// A length that the checksum does not hold makes no answer of a wrong one.
#[test]
fn a_udp_header_of_another_length_is_not_answered() {
    let mut rig = Rig::new();
    let mut packet = whole(UDP4, &Sender::new().probe());
    packet[V4 + 5] ^= 1;
    assert_eq!(run(&mut rig, &packet).0, SHOT);
}

#[test]
fn a_frame_changed_on_its_way_is_refused_and_counted() {
    let (mut rig, mut sender) = Rig::acquainted();
    let frame = sender.probe();
    // Its own words, no claim: magic, cluster and destination are whole.
    for at in 20..FRAME_LEN {
        let mut changed = frame;
        changed.as_mut_bytes()[at] ^= 1;
        let packet = whole(UDP4, &changed);
        let (peer, link) = (rig.peer(), rig.link());
        let before = rig.counters()[0];
        let (verdict, left) = run(&mut rig, &packet);
        assert_eq!((verdict, left == packet), (SHOT, true), "byte {at}");
        assert_eq!((rig.peer(), rig.link()), (peer, link), "byte {at}");
        let counted = rig.counters()[0].iter().sum::<u64>() - before.iter().sum::<u64>();
        assert_eq!(counted, 1, "byte {at}");
    }
    assert_eq!(run(&mut rig, &whole(UDP4, &frame)).0, REDIRECT, "unchanged, it counts");
    let before = rig.counters()[0][Refusal::Length as usize];
    let mut long = whole(UDP4, &sender.probe());
    long.push(0);
    assert_eq!(run(&mut rig, &long).0, SHOT, "the whole length is compared");
    assert_eq!(rig.counters()[0][Refusal::Length as usize], before + 1);
}

#[test]
fn what_is_not_ours_goes_on_to_the_next_program_as_it_is() {
    let (rig, mut sender) = Rig::acquainted();
    let counters = rig.counters();
    let frame = sender.probe();
    let rig = RefCell::new(rig);
    let shapes = prop::sample::select(Shape::all().collect::<Vec<_>>());
    let random = (prop::collection::vec(any::<u8>(), 14..1_500), any::<bool>());
    let config = Config { cases: 2_000, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&(shapes, 0usize..9, 1u8.., random), |(shape, at, flip, (mut random, udp))| {
            // Magic, cluster or destination of a heartbeat is another.
            let mut packet = whole(shape, &frame);
            packet[shape.frame() + [0, 1, 2, 3, 12, 13, 14, 15, 17][at]] ^= flip;
            let (verdict, left) = run(&mut rig.borrow_mut(), &packet);
            prop_assert_eq!(verdict, NEXT);
            prop_assert_eq!(left, packet);
            if udp && random.len() >= 42 {
                random[12..15].copy_from_slice(&[8, 0, 0x45]);
                random[20..22].fill(0);
                random[23] = 17;
                random[36..38].copy_from_slice(&694u16.to_be_bytes());
            }
            let (verdict, left) = run(&mut rig.borrow_mut(), &random);
            prop_assert_eq!(verdict, NEXT);
            prop_assert_eq!(left, random);
            Ok(())
        })
        .unwrap();
    let mut rig = rig.into_inner();
    assert_eq!(rig.counters(), counters, "not even counted");
    assert_eq!(run(&mut rig, &whole(UDP4, &frame)).0, REDIRECT, "unchanged, it is ours");
}

/// `ETHTOOL_STXCSUM` of `linux/ethtool.h`, behind `SIOCETHTOOL`.
const SET_TX_CHECKSUM: u32 = 0x17;
const ETHTOOL: libc::Ioctl = 0x8946;

/// Says whether an interface of this thread's namespace completes checksums, or else the stack does before
/// it has a packet.
fn offload(interface: &str, on: bool) {
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        data: *mut [u32; 2],
    }
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut value = [SET_TX_CHECKSUM, on.into()];
    let mut request = Request { name: [0; 16], data: &raw mut value };
    request.name[..interface.len()].copy_from_slice(interface.as_bytes());
    // `struct ifreq` is longer than what is used of it.
    let mut room = [0u8; 64];
    // SAFETY: a request fits into the room, which any address is good enough for.
    unsafe { std::ptr::write_unaligned(room.as_mut_ptr().cast(), request) };
    // SAFETY: the kernel reads no more than the room, and of `value` two words.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), ETHTOOL, room.as_mut_ptr()) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

/// Takes what arrives at an interface of this thread's namespace, as it arrives.
struct Capture(libc::c_int);

impl Capture {
    fn at(index: u32) -> Self {
        let all = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: plain system call.
        let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, all.into()) };
        assert!(socket >= 0, "{}", io::Error::last_os_error());
        // SAFETY: all zero is a valid address of this kind.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = index as i32;
        let length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address outlives the call, and its length is given.
        let bound = unsafe { libc::bind(socket, (&raw const address).cast(), length) };
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        Self(socket)
    }

    /// Returns the next packet that is an answer of [`ME`].
    fn answer(&self, frame: usize) -> Vec<u8> {
        let mut packet = vec![0; 2_000];
        for _ in 0..10_000 {
            let mut poll = libc::pollfd { fd: self.0, events: libc::POLLIN, revents: 0 };
            // SAFETY: one valid entry.
            assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 10_000) }, 1, "nothing comes");
            // SAFETY: the buffer is writable for its length.
            let got = unsafe { libc::recv(self.0, packet.as_mut_ptr().cast(), packet.len(), 0) };
            let got = usize::try_from(got).unwrap();
            if got == frame + FRAME_LEN {
                let found = Frame::read_from_bytes(&packet[frame..got]).unwrap();
                if found.kind == Kind::Answer as u8 && found.source == ME.0 {
                    packet.truncate(got);
                    return packet;
                }
            }
        }
        panic!("no answer among all that came")
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // SAFETY: opened by this, and closed once.
        unsafe { libc::close(self.0) };
    }
}

/// A kernel half that hears in that mode at `right`, the far end of the cable, from [`PEER`] at `left`.
fn hearing(right: &Namespace, transport: Transport, left_mac: [u8; 6], mode: Mode) -> Rig {
    let (index, mac) = right.end("right");
    right.inside(|| {
        let mut rig = Rig::with(Shape { transport, tags: 0 });
        let mut way = path(transport);
        (way.interface, way.mac, way.own_mac, way.min_hops) = (index, left_mac, mac, 0);
        match transport {
            Transport::Ethernet => {}
            Transport::Udp4 => {
                way.address[..4].copy_from_slice(&Ipv4Addr::new(10, 9, 0, 1).octets());
                way.own_address[..4].copy_from_slice(&Ipv4Addr::new(10, 9, 0, 2).octets());
            }
            Transport::Udp6 => {
                way.address = "fd09::1".parse::<Ipv6Addr>().unwrap().octets();
                way.own_address = "fd09::2".parse::<Ipv6Addr>().unwrap().octets();
            }
        }
        rig.kernel.set_path(PEER, LINK, &way).unwrap();
        let held = rig.kernel.attach("right", index, Some(mode)).unwrap();
        let reason = (mode != Mode::Native).then_some("asked for");
        assert_eq!((held.mode, held.reason.as_deref()), (mode, reason));
        rig
    })
}

/// One end probes by an ordinary socket, which takes the answer only if its sums are right; either
/// interface completes checksums or not, so that probes come with whole sums and with unfinished ones.
#[test]
fn an_ordinary_socket_takes_the_answers() {
    let (left, right) = Namespace::pair();
    let (left_index, left_mac) = left.end("left");
    for (transport, mine, peer) in [
        (Transport::Udp4, "10.9.0.2:694", "10.9.0.1:694"),
        (Transport::Udp6, "[fd09::2]:694", "[fd09::1]:694"),
    ] {
        let (mine, peer): (SocketAddr, SocketAddr) = (mine.parse().unwrap(), peer.parse().unwrap());
        let rig = hearing(&right, transport, left_mac, Mode::Tcx);
        let socket = left.inside(|| UdpSocket::bind(peer).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let capture = left.inside(|| Capture::at(left_index));
        let mut sender = Sender::new();
        for (theirs, ours) in [(false, true), (true, false), (true, true), (false, false)] {
            left.inside(|| offload("left", theirs));
            right.inside(|| offload("right", ours));
            for _ in 0..20 {
                let probe = sender.probe();
                socket.send_to(probe.as_bytes(), mine).unwrap();
                let mut answer = Frame::default();
                let received = socket.recv_from(answer.as_mut_bytes());
                let (length, from) = received.unwrap_or_else(|error| {
                    panic!("{transport:?} {theirs} {ours}: {error}; {:?}", rig.counters())
                });
                assert_eq!((length, from), (FRAME_LEN, mine), "{transport:?} {theirs} {ours}");
                assert_eq!(answer.echo_ns, probe.transmit_ns, "{transport:?} {theirs} {ours}");
                let (udp, addresses) = match transport {
                    Transport::Udp6 => (V6, 14 + 8),
                    _ => (V4, 14 + 12),
                };
                let packet = capture.answer(udp + 8);
                let header: &[u8] = &[&packet[addresses..udp], &[0, 17, 1, 0xb0][..]].concat();
                let sum = packets::checksum(&[header, &packet[udp..]]);
                // Between two that complete sums the field holds that of the pseudo-header, to the end.
                let field = u16::from_be_bytes([packet[udp + 6], packet[udp + 7]]);
                let is_unfinished = field == !packets::checksum(&[header]);
                assert_eq!(
                    (sum == 0, is_unfinished),
                    if theirs && ours { (false, true) } else { (true, false) },
                    "{transport:?} {theirs} {ours}: {sum:#x}"
                );
                if transport == Transport::Udp4 {
                    assert_eq!(packets::checksum(&[&packet[14..V4]]), 0);
                }
            }
        }
        assert_eq!(rig.link().answered, 80, "{transport:?}");
    }
}

/// From a probe to its answer at an ordinary socket, over a veth cable, the three modes in turn.
#[test]
#[ignore = "prints figures, of use on a quiet machine"]
fn how_long_an_answer_takes() {
    const ROUNDS: usize = 5;
    const PROBES: usize = 2_000;
    let (left, right) = Namespace::pair();
    let (left_index, left_mac) = left.end("left");
    // A veth takes what a native program sends only while the other end has one too.
    let pins = Pins::new();
    let mut far = Rig::of(&pins);
    left.inside(|| far.attach("left", left_index, Some(Mode::Native)).map(drop)).unwrap();
    let socket = left.inside(|| UdpSocket::bind("10.9.0.1:694").unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let modes = [Mode::Native, Mode::Generic, Mode::Tcx];
    let mut took = modes.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for (mode, took) in modes.into_iter().zip(&mut took) {
            let rig = hearing(&right, Transport::Udp4, left_mac, mode);
            let mut sender = Sender::new();
            for _ in 0..PROBES {
                let (probe, mut answer) = (sender.probe(), [0; FRAME_LEN]);
                let before = clock::now();
                socket.send_to(probe.as_bytes(), "10.9.0.2:694").unwrap();
                socket.recv(&mut answer).unwrap();
                took.push(clock::now().since(before));
            }
            assert_eq!(rig.link().answered, PROBES as u64, "{mode:?}");
        }
    }
    for (mode, mut took) in modes.into_iter().zip(took) {
        took.sort_unstable();
        let at = |part: usize| took[took.len() * part / 1_000];
        let (least, half, most) = (at(0), at(500), at(990));
        println!("{:8} min {least:?} p50 {half:?} p99 {most:?} of {}", mode.as_str(), took.len());
    }
}

/// A tag beside the packet: of a VLAN it is on its way to another interface, with none of a VLAN it is ours.
#[test]
fn tags_that_the_kernel_took_off_are_heeded() {
    let (left, right) = Namespace::pair();
    let (left_index, left_mac) = left.end("left");
    let (_, right_mac) = right.end("right");
    let rig = hearing(&right, Transport::Ethernet, left_mac, Mode::Tcx);
    let capture = left.inside(|| Capture::at(left_index));
    let mut sender = Sender::new();
    let mut send = |tag: Option<u8>| {
        let mut packet = [right_mac, left_mac].concat();
        if let Some(vlan) = tag {
            packet.extend([0x81, 0, 0xe0, vlan]);
        }
        packet.extend([0x88, 0xb5]);
        packet.extend(sender.probe().as_bytes());
        // SAFETY: the bytes outlive the call.
        let sent = unsafe { libc::send(capture.0, packet.as_ptr().cast(), packet.len(), 0) };
        assert_eq!(sent, packet.len() as isize, "{}", io::Error::last_os_error());
    };
    let counters = rig.counters();
    send(Some(5));
    send(Some(0));
    // The tag lies beside the answer as well when it is captured.
    capture.answer(14);
    assert_eq!(rig.link().answered, 1);
    send(None);
    capture.answer(14);
    assert_eq!(rig.link().answered, 2);
    assert_eq!(rig.counters(), counters, "what is for a VLAN is not even refused");
}

#[test]
fn the_third_mode_is_for_a_hook_that_is_taken_and_outlives_its_daemon() {
    let (left, _right) = Namespace::pair();
    let (index, _) = left.end("left");
    for first in [Mode::Native, Mode::Generic] {
        left.inside(|| {
            // Somebody else's, as far as the other one can tell.
            let theirs = Pins::new();
            let mut other = Rig::of(&theirs);
            other.attach("left", index, Some(first)).unwrap();

            let pins = Pins::new();
            let pin = pins.path().join(format!("tcx-{index}-tcx"));
            let mut one = Rig::of(&pins);
            let error = one.attach("left", index, Some(Mode::Native)).unwrap_err().to_string();
            assert!(error.contains("another XDP program"), "{error}");
            assert!(one.attach("left", index, Some(Mode::Generic)).is_err());
            let held = one.attach("left", index, None).unwrap();
            assert_eq!(held.mode, Mode::Tcx);
            let reason = held.reason.clone().unwrap();
            assert!(reason.contains("native: ") && reason.contains("; generic: "), "{reason}");
            assert!(pin.exists());
            drop(one);
            assert_eq!(chain(), ["hear_ingress"], "hears without a daemon");

            let mut two = Rig::of(&pins);
            let held = two.attach("left", index, None).unwrap();
            assert_eq!(held.mode, Mode::Tcx);
            assert_eq!(held.reason.as_deref(), Some("so attached by an earlier daemon"));
            assert_eq!(chain(), ["hear_ingress"], "in the place of the earlier one");

            // The hook is free, and the file wants it.
            other.remove().unwrap();
            let mut three = Rig::of(&pins);
            drop(two);
            assert_eq!(three.attach("left", index, Some(first)).unwrap().mode, first);
            assert_eq!(chain(), ["hear_ingress"], "until the gate is where it has to be");
            three.detach_others();
            assert_eq!(chain(), [""; 0]);
            three.remove().unwrap();
        });
    }
}

#[test]
fn a_removal_takes_it_off() {
    let (left, _right) = Namespace::pair();
    let (index, _) = left.end("left");
    left.inside(|| {
        let pins = Pins::new();
        let mut kernel = Rig::of(&pins);
        kernel.attach("left", index, Some(Mode::Tcx)).unwrap();
        assert_eq!(chain(), ["hear_ingress"]);
        kernel.remove().unwrap();
        assert_eq!(chain(), [""; 0]);
    });
}

/// A program over maps that nobody else goes by would be deaf.
#[test]
fn maps_that_somebody_unpinned_are_noticed() {
    let (left, _right) = Namespace::pair();
    let (index, _) = left.end("left");
    left.inside(|| {
        let pins = Pins::new();
        let mut kernel = Rig::of(&pins);
        std::fs::remove_file(pins.path().join("PATHS")).unwrap();
        let error = kernel.attach("left", index, Some(Mode::Tcx)).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("PATHS"), "{source}");
        assert_eq!(chain(), [""; 0]);
    });
}

#[test]
fn a_witness_hears_at_a_hook_that_is_taken() {
    let (left, _right) = Namespace::pair();
    let (index, _) = left.end("left");
    left.inside(|| {
        let theirs = Pins::new();
        let mut other = Rig::of(&theirs);
        other.attach("left", index, None).unwrap();
        let pins = Pins::new();
        let mut witness = Witness::open(WITNESS_OBJECT, pins.path()).unwrap();
        assert_eq!(witness.attach("left", index, None).unwrap().mode, Mode::Tcx);
        assert_eq!(witness.maps().interfaces().unwrap(), [(index, Mode::Tcx)]);
        assert_eq!(chain(), ["hear_ingress"]);
        witness.undo().unwrap();
        assert_eq!(chain(), [""; 0]);
    });
}

/// Names of what looks at what arrives by `left` in this thread's namespace, in order.
fn chain() -> Vec<String> {
    let chain = tcx::chain_here("left", tcx::Way::In).unwrap();
    chain.into_iter().map(|(_, name)| name).collect()
}
