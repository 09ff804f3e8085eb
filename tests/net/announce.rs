use std::{net::IpAddr, thread, time::Duration};

use hb_user::announce::{AnnounceSocket, Announcement, Gateways};

use super::{
    allocations::allocations,
    capture::Capture,
    namespace::{Namespace, PATIENCE},
};

/// MAC address that the neighbour believes in before an announcement.
const FORMER: &str = "02:00:00:00:00:aa";

/// Waits until the neighbour cache of `namespace` has another MAC address for `ip`.
fn changed_mac(namespace: &Namespace, ip: &str) -> String {
    const STEP: Duration = Duration::from_millis(10);
    for _ in 0..PATIENCE.as_millis() / STEP.as_millis() {
        let entries = namespace.list(&format!("neigh show {ip} dev right"));
        match entries.first().and_then(|entry| entry["lladdr"].as_str()) {
            Some(mac) if mac != FORMER => return mac.to_owned(),
            _ => thread::sleep(STEP),
        }
    }
    panic!("the neighbour still has {FORMER} for {ip}");
}

#[test]
fn every_frame_moves_a_neighbours_cache_by_itself() {
    let (left, right) = Namespace::pair();
    let (index, mac) = left.end("left");
    let socket = left.inside(|| AnnounceSocket::open(index).unwrap());
    let expected = mac.map(|byte| format!("{byte:02x}")).join(":");
    let gateways =
        Gateways { v4: Some([10, 9, 0, 2].into()), v6: Some("fd09::2".parse().unwrap()) };
    for ip in ["10.9.0.100", "fd09::100"] {
        let announcement = Announcement::new(ip.parse().unwrap(), mac, gateways);
        for frame in announcement.frames() {
            for state in ["reachable", "stale"] {
                right.ip(&format!("neigh replace {ip} lladdr {FORMER} dev right nud {state}"));
                socket.send(frame).unwrap();
                assert_eq!(changed_mac(&right, ip), expected, "{ip} {state}");
            }
        }
    }
}

#[test]
fn frames_arrive_as_they_were_built() {
    let (left, right) = Namespace::pair();
    let (index, mac) = left.end("left");
    let (right_index, _) = right.end("right");
    let socket = left.inside(|| AnnounceSocket::open(index).unwrap());
    let capture = right.inside(|| Capture::open(right_index));
    let gateways =
        Gateways { v4: Some([10, 9, 0, 2].into()), v6: Some("fd09::2".parse().unwrap()) };
    for ip in ["10.9.0.100", "fd09::100"] {
        let ip: IpAddr = ip.parse().unwrap();
        let announcement = Announcement::new(ip, mac, gateways);
        for frame in announcement.frames() {
            assert_eq!(allocations(|| socket.send(frame).unwrap()), 0);
            capture.next(|seen| seen == frame);
        }
    }
}

#[test]
fn a_socket_of_no_interface_says_so() {
    let namespace = Namespace::new();
    let error = namespace.inside(|| AnnounceSocket::open(4000).unwrap_err());
    let text = error.to_string();
    assert!(text.contains("interface 4000") && text.contains("look it up"), "{text}");
}
