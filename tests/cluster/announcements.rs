//! Neighbours and routers hear where a service address is, and hear it again when that may have been lost.

use std::{thread, time::Duration};

use lab::{
    addresses::{Link, Machine, VIP4, VIP6},
    clock::{self, RealTime},
    config::Settings,
    socket::Socket,
    switch::{Direction, port_name},
};

use super::support::{Cluster, link, slow, wait_for};

fn quick(policy: &str) -> Settings {
    Settings { policy: policy.into(), resource: false, ..slow() }
}

/// What is heard on the clients' wire of one kind of frame.
struct Ears(Socket);

/// Frames of a kind that came in.
type Frames = Vec<Vec<u8>>;

impl Ears {
    fn open(cluster: &Cluster, ethertype: i32) -> Self {
        let open = || Socket::packet(ethertype as u16).unwrap();
        Self(cluster.lab.netns(Machine::Client).enter(open).unwrap())
    }

    /// Forgets what came so far.
    fn forget(&self) {
        drop(self.next());
    }

    fn next(&self) -> Frames {
        let clock = RealTime::sample();
        let mut buffer = [0; 256];
        let mut frames = Vec::new();
        while let Some(received) = self.0.receive(&mut buffer, clock).unwrap() {
            frames.push(buffer[..received.length].to_vec());
        }
        frames
    }

    /// Waits for a frame that `wanted` tells; returns all that came until then.
    fn wait(&self, what: &str, wanted: impl Fn(&[u8]) -> bool) -> Frames {
        let mut frames = Vec::new();
        wait_for(what, || {
            frames.extend(self.next());
            frames.iter().any(|frame| wanted(frame)).then_some(())
        });
        frames
    }
}

/// Tells whether `frame` asks the client, as a router, for its MAC address, from the IPv4 service address
/// at `node`.
fn asks_v4(frame: &[u8], node: Machine) -> bool {
    let router = Machine::Client.v4(Link::Client).octets();
    frame.len() >= 42
        && frame[20..22] == [0, 1]
        && frame[22..28] == node.mac(Link::Client).0
        && frame[28..32] == VIP4.octets()
        && frame[38..42] == router
}

/// The same of IPv6.
fn asks_v6(frame: &[u8], node: Machine) -> bool {
    let router = Machine::Client.v6().octets();
    frame.len() >= 86
        && (frame[20], frame[54]) == (58, 135)
        && frame[22..38] == VIP6.octets()
        && frame[62..78] == router
        && frame[80..86] == node.mac(Link::Client).0
}

/// Tells whether `frame` says by ARP that the service address is at `node`, to everybody.
fn tells_v4(frame: &[u8], node: Machine) -> bool {
    frame.len() >= 42
        && frame[..6] == [0xff; 6]
        && frame[22..28] == node.mac(Link::Client).0
        && frame[28..32] == VIP4.octets()
        && frame[38..42] == VIP4.octets()
}

/// Makes the client the router of a node.
fn route_by_client(cluster: &Cluster, node: Machine) {
    let (v4, v6) = (Machine::Client.v4(Link::Client), Machine::Client.v6());
    let lines =
        format!("route add default via {v4} dev eth0\nroute add default via {v6} dev eth0\n");
    cluster.lab.netns(node).ip_batch(&lines).unwrap();
}

#[test]
fn the_router_is_asked_by_who_holds_the_addresses_and_by_nobody_else() {
    for policy in ["available", "witness"] {
        let mut cluster = Cluster::up(quick(policy));
        let arp = Ears::open(&cluster, libc::ETH_P_ARP);
        let ipv6 = Ears::open(&cluster, libc::ETH_P_IPV6);
        route_by_client(&cluster, Machine::B);
        route_by_client(&cluster, Machine::A);
        // Who holds them asks as soon as it has a router.
        let seen = arp.wait("a's question", |frame| asks_v4(frame, Machine::A));
        assert!(!seen.iter().any(|frame| asks_v4(frame, Machine::B)));
        let seen = ipv6.wait("a's solicitation", |frame| asks_v6(frame, Machine::A));
        assert!(!seen.iter().any(|frame| asks_v6(frame, Machine::B)));
        // B has looked since, and knows its router.
        thread::sleep(Duration::from_millis(1500));
        let moved = cluster.ask(Machine::A, &["move", "web", "b", "--wait", "5s"]);
        assert!(moved.status.success(), "{moved:?}");
        cluster.wait_until_alone(Machine::B);
        arp.wait("b's question", |frame| asks_v4(frame, Machine::B));
        ipv6.wait("b's solicitation", |frame| asks_v6(frame, Machine::B));
        arp.forget();
        ipv6.forget();
        let until = clock::now().after(Duration::from_millis(2500));
        let (mut four, mut six) = (Vec::new(), Vec::new());
        while clock::now() < until {
            four.extend(arp.next());
            six.extend(ipv6.next());
            thread::sleep(Duration::from_millis(20));
        }
        assert!(!four.iter().any(|frame| asks_v4(frame, Machine::A)), "{policy}");
        assert!(!six.iter().any(|frame| asks_v6(frame, Machine::A)), "{policy}");
    }
}

#[test]
fn neighbours_hear_again_when_an_interface_or_a_link_carries_again() {
    let mut cluster = Cluster::up(quick("available"));
    let arp = Ears::open(&cluster, libc::ETH_P_ARP);
    let heard = |cluster: &mut Cluster, up: bool| {
        cluster.wait_for(Machine::A, "its peer's link", |status| {
            link(status, Link::Client.name())["up"] == up
        });
    };
    // The burst of the start is over, and the next one is seconds away.
    thread::sleep(Duration::from_millis(4500));
    let quiet = |arp: &Ears| {
        arp.forget();
        thread::sleep(Duration::from_millis(1000));
        arp.next().iter().filter(|frame| tells_v4(frame, Machine::A)).count()
    };
    assert_eq!(quiet(&arp), 0);
    // Beyond the switch, and no carrier is gone.
    cluster.lab.switch().cut_link(Machine::B, Link::Client, Direction::Both);
    heard(&mut cluster, false);
    arp.forget();
    cluster.lab.switch().heal_link(Machine::B, Link::Client, Direction::Both);
    heard(&mut cluster, true);
    thread::sleep(Duration::from_millis(700));
    let told = arp.next().iter().filter(|frame| tells_v4(frame, Machine::A)).count();
    assert!(told >= 4, "{told}");
    // And the cable of who holds the addresses, with nobody to give them to.
    let plug = |cluster: &Cluster, node: Machine, state: &str| {
        let port = port_name(node, Link::Client);
        cluster.lab.switch().netns().ip_batch(&format!("link set {port} {state}\n")).unwrap();
    };
    plug(&cluster, Machine::B, "down");
    cluster.wait_for(Machine::B, "no path", |status| status["groups"][0]["health"] == "no-path");
    thread::sleep(Duration::from_millis(200));
    plug(&cluster, Machine::A, "down");
    cluster.wait_for(Machine::A, "no path", |status| status["groups"][0]["health"] == "no-path");
    arp.forget();
    plug(&cluster, Machine::A, "up");
    cluster.wait_for(Machine::A, "healthy", |status| status["groups"][0]["health"] == "healthy");
    thread::sleep(Duration::from_millis(700));
    let told = arp.next().iter().filter(|frame| tells_v4(frame, Machine::A)).count();
    assert!(told >= 4, "{told}");
}
