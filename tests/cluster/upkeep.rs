//! Service addresses stay right whatever others do to addresses and interfaces.

use std::{net::IpAddr, thread, time::Duration};

use hb_user::announce::{AnnounceSocket, Announcement, Gateways};
use lab::{
    addresses::{Link, Machine, VIP4, VIP6},
    capture::{Claim, ClaimKind},
    client::Client,
    clock,
    config::Settings,
    socket::interface_index,
};
use serde_json::Value;

use super::{
    gate::ip,
    support::{Cluster, PATIENCE, both_vips, slow, wait_for},
};

/// A burst of announcements is over after this.
const BURST: Duration = Duration::from_millis(2500);

const EDITED: &str = "[[group]]\nname = \"web\"\n";

/// Removes all addresses that a manager of the network removes, and puts the node's own back.
fn restart_the_network(cluster: &Cluster, node: Machine, down: bool) {
    ip(cluster, node, "address flush dev eth0 scope global");
    if down {
        ip(cluster, node, "link set eth0 down");
    }
    thread::sleep(Duration::from_millis(1200));
    ip(cluster, node, "link set eth0 up");
    let id = node.id();
    ip(cluster, node, &format!("address add 192.0.2.{id}/24 dev eth0"));
    ip(cluster, node, &format!("address add 2001:db8::{id}/64 dev eth0 nodad"));
}

fn has(cluster: &Cluster, node: Machine, address: &str) -> bool {
    let found = cluster.lab.netns(node).ip_json(&["address", "show", "dev", "eth0"]).unwrap();
    found.to_string().contains(&format!("\"{address}\""))
}

#[test]
fn a_restart_of_the_network_loses_neither_service_addresses_nor_own_ones() {
    for down in [false, true] {
        let mut cluster = Cluster::up(slow());
        for sysctl in ["all", "eth0"] {
            let path = format!("ipv4/conf/{sysctl}/promote_secondaries");
            cluster.lab.netns(Machine::A).sysctl(&path, "0").unwrap();
        }
        restart_the_network(&cluster, Machine::A, down);
        if !down {
            wait_for("the service addresses", || {
                (cluster.vips(Machine::A) == both_vips()).then_some(())
            });
            cluster.wait_until_alone(Machine::A);
            let moved = cluster.ask(Machine::A, &["move", "web", "b", "--wait", "5s"]);
            assert!(moved.status.success(), "{moved:?}");
        }
        // Without the interface there is no path, and the other node has one.
        cluster.wait_until_serving(Machine::B);
        for own in ["192.0.2.1", "2001:db8::1"] {
            assert!(has(&cluster, Machine::A, own), "{own} went along, down: {down}");
        }
    }
}

#[test]
fn an_address_that_somebody_removes_is_back_at_once() {
    let mut cluster = Cluster::up(slow());
    for (vip, prefix) in [(IpAddr::from(VIP4), 32), (VIP6.into(), 64)] {
        // Often, so that not every time is a look round just due.
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(1100));
            ip(&cluster, Machine::A, &format!("address del {vip}/{prefix} dev eth0"));
            let gone = clock::now();
            wait_for("the address", || has(&cluster, Machine::A, &vip.to_string()).then_some(()));
            let took = clock::now().since(gone);
            assert!(took < Duration::from_millis(500), "{vip}: {took:?}");
        }
    }
    cluster.wait_until_serving(Machine::A);
}

fn warns(status: &Value, vip: IpAddr) -> bool {
    let warnings = status["warnings"].as_array().unwrap();
    warnings.iter().any(|warning| warning.as_str().unwrap().contains(&vip.to_string()))
}

/// Keeps IPv6 addresses off an interface, and takes that back.
fn without_ipv6(cluster: &Cluster, node: Machine, way: &str, on: bool) {
    if way == "mtu" {
        let mtu = if on { 1200 } else { 1500 };
        ip(cluster, node, &format!("link set eth0 mtu {mtu}"));
    } else {
        let value = if on { "1" } else { "0" };
        let netns = cluster.lab.netns(node);
        netns.sysctl("ipv6/conf/eth0/disable_ipv6", value).unwrap();
    }
    if !on {
        // It went along, and with it the way to the client.
        ip(cluster, node, &format!("address add 2001:db8::{}/64 dev eth0 nodad", node.id()));
    }
}

#[test]
fn what_can_be_served_is_and_the_rest_is_told_of_before_and_put_up_when_it_can_be() {
    for way in ["sysctl", "mtu"] {
        let mut cluster = Cluster::up(slow());
        without_ipv6(&cluster, Machine::B, way, true);
        cluster.wait_for(Machine::B, "what it cannot serve", |status| warns(status, VIP6.into()));
        assert_eq!(cluster.logged(Machine::B, "address cannot be served on this node").len(), 1);
        cluster.kill(Machine::A);
        cluster.wait_for(Machine::B, "serves", |status| status["groups"][0]["health"] == "healthy");
        assert_eq!(cluster.vips(Machine::B), [IpAddr::from(VIP4)].into());
        let serves = cluster.lab.who_serves(VIP4.into(), PATIENCE).unwrap();
        assert_eq!(serves, Some(Machine::B));
        let refused = |line: &Value| line["vip"].as_str().unwrap().contains(&VIP6.to_string());
        let message = "address is not up: tried again every second";
        cluster.wait_for_log(Machine::B, message, refused);
        thread::sleep(Duration::from_millis(2500));
        assert_eq!(cluster.logged(Machine::B, message).len(), 1, "said once");
        without_ipv6(&cluster, Machine::B, way, false);
        cluster.wait_for_log(Machine::B, "address is up again", refused);
        cluster.wait_until_alone(Machine::B);
        let status = cluster.status(Machine::B);
        assert!(!warns(&status, VIP6.into()), "{status:#}");
    }
}

#[test]
fn a_group_that_requires_all_its_addresses_is_not_served_without_one() {
    let mut cluster = Cluster::new(slow());
    cluster.edit(EDITED, &format!("{EDITED}require = \"all\"\n"));
    cluster.start_both();
    without_ipv6(&cluster, Machine::B, "sysctl", true);
    cluster.kill(Machine::A);
    cluster.wait_for(Machine::B, "it failed", |status| status["groups"][0]["health"] == "failed");
    wait_for("no address", || cluster.vips(Machine::B).is_empty().then_some(()));
}

/// Tells everybody that the service addresses are at `mac`.
fn claim(cluster: &Cluster, mac: [u8; 6]) {
    let tell = || {
        let socket = AnnounceSocket::open(interface_index("eth0").unwrap()).unwrap();
        for vip in both_vips() {
            for frame in Announcement::new(vip, mac, Gateways::default()).frames() {
                socket.send(frame).unwrap();
            }
        }
    };
    cluster.lab.netns(Machine::Witness).enter(tell).unwrap();
}

/// The announcements in a client's capture, of both addresses.
fn announcements(client: Client, vip: IpAddr) -> Vec<Claim> {
    let multicast = |claim: &Claim| claim.to.0[0] & 1 == 1 && claim.kind != ClaimKind::ArpRequest;
    let claims = client.finish().unwrap().claims.into_iter();
    claims.filter(|claim| claim.address == vip && multicast(claim)).collect()
}

#[test]
fn a_second_foreign_claim_is_answered_as_well() {
    // The witness is the machine that speaks up: what leaves a node meets its gate.
    let cluster = Cluster::up(Settings { policy: "witness".into(), ..slow() });
    thread::sleep(BURST);
    for vip in both_vips() {
        let client = cluster.client(vip);
        let foreign = [2, 0x68, 0x62, 0, 0, 0x66];
        let mut claimed = Vec::new();
        for _ in 0..3 {
            claim(&cluster, foreign);
            claimed.push(clock::now());
            thread::sleep(Duration::from_secs(3));
        }
        let seen = announcements(client, vip);
        for at in claimed {
            let end = at.after(Duration::from_millis(1500));
            let own = Machine::A.mac(Link::Client);
            let answered = |claim: &&Claim| claim.mac == own && claim.at > at && claim.at < end;
            assert!(seen.iter().any(|claim| answered(&claim)), "{vip} at {at:?}: {seen:?}");
        }
        thread::sleep(Duration::from_secs(10));
    }
}

#[test]
fn a_new_mac_address_is_announced_by_standby_and_holder() {
    let mut cluster = Cluster::up(slow());
    let change = |cluster: &Cluster, node: Machine, last: u8| {
        ip(cluster, node, &format!("link set eth0 address 02:68:62:00:00:{last:02x}"));
        cluster.wait_for_log(node, "service addresses have another MAC address", |line| {
            line["mac"] == format!("02:68:62:00:00:{last:02x}")
        });
    };
    change(&cluster, Machine::B, 0x99);
    thread::sleep(BURST);
    let clients = both_vips().into_iter().map(|vip| (vip, cluster.client(vip)));
    let clients: Vec<_> = clients.collect();
    cluster.kill(Machine::A);
    cluster.wait_for(Machine::B, "serves", |status| status["groups"][0]["health"] == "healthy");
    thread::sleep(BURST);
    let changed = clock::now();
    change(&cluster, Machine::B, 0x98);
    thread::sleep(BURST);
    for (vip, client) in clients {
        let seen = announcements(client, vip);
        let by = |last: u8, since: bool| {
            let of = move |claim: &&Claim| claim.mac.0[5] == last && (claim.at > changed) == since;
            seen.iter().filter(of).count()
        };
        assert!(by(0x99, false) > 0 && by(0x98, true) > 0, "{vip}: {seen:?}");
        assert_eq!(by(2, false) + by(2, true), 0, "{vip}: {seen:?}");
    }
}
