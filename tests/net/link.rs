use std::{
    fs,
    net::{Ipv6Addr, UdpSocket},
    thread,
    time::Duration,
};

use hb_ebpf::{maps::Transport, wire::FRAME_LEN};
use hb_user::link::{Ends, LinkSocket};

use super::{
    allocations::allocations,
    capture::Capture,
    namespace::{Namespace, PATIENCE},
};

fn frame() -> [u8; FRAME_LEN] {
    std::array::from_fn(|at| at as u8)
}

/// Tells a frame of ours to `peer` from an ICMP error that quotes it.
fn is_ours(seen: &[u8], peer: [u8; 6]) -> bool {
    seen.starts_with(&peer) && seen.ends_with(&frame())
}

const UDP4: Ends = Ends::Udp4 {
    own: std::net::Ipv4Addr::new(10, 9, 0, 1),
    peer: std::net::Ipv4Addr::new(10, 9, 0, 2),
};
const UDP6: Ends = Ends::Udp6 {
    own: Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1),
    peer: Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2),
};

#[test]
fn frames_arrive_over_every_transport() {
    let (left, right) = Namespace::pair();
    let (index, own) = left.end("left");
    let (right_index, peer) = right.end("right");
    let local = Ends::Udp6 { own: left.link_local("left"), peer: right.link_local("right") };
    let capture = right.inside(|| Capture::open(right_index));
    for ends in [Ends::Ethernet { own, peer }, UDP4, UDP6, local] {
        let socket = left.inside(|| LinkSocket::open(index, ends).unwrap());
        // The first frame may have to wait for the neighbour's MAC address.
        socket.send(&frame()).unwrap();
        capture.next(|seen| is_ours(seen, peer));
        assert_eq!(allocations(|| socket.send(&frame()).unwrap()), 0, "{ends}");
        let seen = capture.next(|seen| is_ours(seen, peer));
        assert_eq!((&seen[..6], &seen[6..12]), (&peer[..], &own[..]));
        let headers = &seen[12..seen.len() - FRAME_LEN];
        let ports_and_length = [2, 182, 2, 182, 1, 176];
        match ends.transport() {
            Transport::Ethernet => assert_eq!(headers, [0x88, 0xb5]),
            Transport::Udp4 => {
                assert_eq!(headers[..3], [8, 0, 0x45]);
                // No fragments, and none allowed.
                assert_eq!(headers[8..10], [0x40, 0]);
                assert_eq!((headers[10], headers[11]), (255, 17));
                assert_eq!(headers[14..22], [10, 9, 0, 1, 10, 9, 0, 2]);
                assert_eq!(headers[22..28], ports_and_length);
            }
            Transport::Udp6 => {
                let Ends::Udp6 { own, peer } = ends else { panic!("{ends}") };
                assert_eq!((headers[8], headers[9]), (17, 255));
                assert_eq!(headers[10..26], own.octets());
                assert_eq!(headers[26..42], peer.octets());
                assert_eq!(headers[42..48], ports_and_length);
            }
        }
    }
}

#[test]
fn links_to_several_peers_share_an_address() {
    let (left, right) = Namespace::pair();
    right.ip("addr add 10.9.0.3/24 dev right");
    let (index, _) = left.end("left");
    let (right_index, peer) = right.end("right");
    let capture = right.inside(|| Capture::open(right_index));
    let own = [10, 9, 0, 1].into();
    let sockets = [2, 3].map(|last| {
        let ends = Ends::Udp4 { own, peer: [10, 9, 0, last].into() };
        (last, left.inside(|| LinkSocket::open(index, ends).unwrap()))
    });
    for (last, socket) in &sockets {
        socket.send(&frame()).unwrap();
        capture.next(|seen| is_ours(seen, peer) && seen[33] == *last);
    }
}

#[test]
fn an_icmp_error_costs_no_frame() {
    let (left, right) = Namespace::pair();
    let (index, _) = left.end("left");
    let (_, peer) = right.end("right");
    // Nobody is at port 694 on the right, so its kernel says "port unreachable".
    let capture = left.inside(|| Capture::open(index));
    for ends in [UDP4, UDP6] {
        let socket = left.inside(|| LinkSocket::open(index, ends).unwrap());
        socket.send(&frame()).unwrap();
        capture.next(|seen| match ends.transport() {
            Transport::Udp4 => seen[12..14] == [8, 0] && seen[23] == 1 && seen[34..36] == [3, 3],
            _ => seen[12..14] == [0x86, 0xdd] && seen[20] == 58 && seen[54..56] == [1, 4],
        });
        for _ in 0..5 {
            socket.send(&frame()).unwrap();
            capture.next(|seen| is_ours(seen, peer));
        }
    }
}

#[test]
fn what_arrives_is_dropped_at_once() {
    let (left, right) = Namespace::pair();
    let (index, _) = left.end("left");
    let _socket = left.inside(|| LinkSocket::open(index, UDP4).unwrap());
    let stranger = right.inside(|| UdpSocket::bind("10.9.0.2:694").unwrap());
    stranger.send_to(b"a stray datagram", "10.9.0.1:694").unwrap();
    const STEP: Duration = Duration::from_millis(10);
    for _ in 0..PATIENCE.as_millis() / STEP.as_millis() {
        let table = left.inside(|| fs::read_to_string("/proc/thread-self/net/udp").unwrap());
        // Port 694, in the host's order of bytes of the address and in hexadecimal.
        let line = table.lines().find(|line| line.contains(":02B6 ")).unwrap();
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (queues, drops) = (fields[4], fields.last().unwrap());
        assert_eq!(queues, "00000000:00000000", "{line}");
        if *drops == "1" {
            return;
        }
        thread::sleep(STEP);
    }
    panic!("the datagram was not counted as dropped");
}

#[test]
fn a_frame_that_cannot_leave_is_an_error_at_once() {
    let (left, right) = Namespace::pair();
    let (index, own) = left.end("left");
    let (_, peer) = right.end("right");
    let links = [Ends::Ethernet { own, peer }, UDP4, UDP6];
    let sockets = links.map(|ends| left.inside(|| LinkSocket::open(index, ends).unwrap()));
    left.ip("link set left down");
    for (ends, socket) in links.iter().zip(&sockets) {
        let error = socket.send(&frame()).unwrap_err();
        let expected = [libc::ENETDOWN, libc::ENETUNREACH, libc::EINVAL];
        assert!(expected.contains(&error.raw_os_error().unwrap()), "{ends}: {error}");
    }
    left.ip("link del left");
    for (ends, socket) in links.iter().zip(&sockets) {
        let error = socket.send(&frame()).unwrap_err();
        let expected = [libc::ENXIO, libc::ENODEV, libc::ENETDOWN, libc::ENETUNREACH, libc::EINVAL];
        assert!(expected.contains(&error.raw_os_error().unwrap()), "{ends}: {error}");
    }
}

#[test]
fn a_link_that_cannot_be_opened_says_what_to_do() {
    let (left, _right) = Namespace::pair();
    let (index, _) = left.end("left");
    let elsewhere = Ends::Udp4 { own: [10, 9, 0, 99].into(), peer: [10, 9, 0, 2].into() };
    let error = left.inside(|| LinkSocket::open(index, elsewhere).unwrap_err());
    assert!(error.to_string().contains("does not have the own address"), "{error}");
    let own = [2, 0, 0, 0, 0, 1];
    let error =
        left.inside(|| LinkSocket::open(4000, Ends::Ethernet { own, peer: own }).unwrap_err());
    assert!(error.to_string().contains("the interface is gone"), "{error}");

    let _other = left.inside(|| UdpSocket::bind("10.9.0.1:694").unwrap());
    let error = left.inside(|| LinkSocket::open(index, UDP4).unwrap_err());
    assert!(error.to_string().contains("another program uses UDP port 694"), "{error}");
}
