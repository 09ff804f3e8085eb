//! Addresses and routes of the host: ours come and go, all others stay as they are.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use hb_user::address::{AddressSocket, Batch, Change, Done, Vip};
use lab::{
    addresses::{Link, Machine, NODES, PREFIX4, PREFIX6, VIP4, VIP6},
    config::Settings,
};
use serde_json::Value;

use super::{
    holders::Watch,
    support::{Cluster, both_vips, slow},
};

/// Puts a service address up as a daemon would, with its mark.
fn put_up(cluster: &Cluster, node: Machine) {
    cluster
        .lab
        .netns(node)
        .enter(|| {
            let mut socket = AddressSocket::open().unwrap();
            let interfaces = socket.interfaces().unwrap();
            let name = Link::Client.interface();
            let index = interfaces.iter().find(|found| found.name == name).unwrap().index;
            for (ip, prefix) in [(VIP4.into(), PREFIX4), (VIP6.into(), PREFIX6)] {
                let mut batch = Batch::new();
                batch.push(Change::Add, Vip::new(index, ip, prefix).unwrap()).unwrap();
                let mut results = [Ok(Done::Missing)];
                socket.execute(&batch, &mut results).unwrap();
                results[0].unwrap();
            }
        })
        .unwrap();
}

#[test]
fn what_an_earlier_life_left_is_removed_from_a_node_that_does_not_serve() {
    let mut cluster = Cluster::new(slow());
    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.wait_until_alone(Machine::A);
    put_up(&cluster, Machine::B);
    assert_eq!(cluster.vips(Machine::B), both_vips());
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_until_serving(Machine::A);
    assert_eq!(cluster.vips(Machine::B), [].into());
    assert_eq!(cluster.vips(Machine::A), both_vips());
}

#[test]
fn what_an_earlier_life_left_does_not_disturb_a_start() {
    let mut cluster = Cluster::new(slow());
    for node in NODES {
        put_up(&cluster, node);
    }
    cluster.start_both();
}

/// Everything the host has on its interfaces and in its routing tables.
fn host(cluster: &Cluster, node: Machine) -> Vec<Value> {
    let netns = cluster.lab.netns(node);
    [
        &["address"][..],
        &["-4", "route", "show", "table", "all"],
        &["-6", "route", "show", "table", "all"],
        &["rule"],
    ]
    .map(|arguments| netns.ip_json(arguments).unwrap())
    .to_vec()
}

#[test]
fn other_addresses_and_routes_stay_as_they_were() {
    let mut cluster = Cluster::new(slow());
    for node in NODES {
        let netns = cluster.lab.netns(node);
        let id = node.id();
        netns
            .ip_batch(&format!(
                "address add 192.0.2.5{id}/24 dev eth0\n\
                 address add 203.0.113.{id}/32 dev eth0\n\
                 address add 2001:db8:0:5::{id}/64 dev eth0 nodad\n\
                 route add default via 192.0.2.10 dev eth0\n\
                 route add 203.0.113.128/25 via 192.0.2.10 src 192.0.2.5{id}\n\
                 route add default via 2001:db8::10 dev eth0\n"
            ))
            .unwrap();
    }
    let before = NODES.map(|node| host(&cluster, node));

    let watch = Watch::start(&cluster);
    cluster.start_both();
    cluster.lab.signal(Machine::A, libc::SIGTERM).unwrap();
    cluster.wait_for_end(Machine::A);
    cluster.wait_until_alone(Machine::B);
    // While it is there, nothing else goes out from it.
    let route = cluster.lab.netns(Machine::B).ip_json(&["route", "get", "192.0.2.10"]).unwrap();
    assert_eq!(route[0]["prefsrc"], "192.0.2.2", "{route}");
    let route = cluster.lab.netns(Machine::B).ip_json(&["route", "get", "2001:db8::10"]).unwrap();
    assert_eq!(route[0]["prefsrc"], "2001:db8::2", "{route}");
    cluster.lab.signal(Machine::B, libc::SIGTERM).unwrap();
    cluster.wait_for_end(Machine::B);

    let seen = watch.finish();
    assert!(seen.holders.iter().any(|(_, nodes)| nodes == &[Machine::A]), "{seen:?}");
    assert!(seen.holders.iter().any(|(_, nodes)| nodes == &[Machine::B]), "{seen:?}");
    for (node, before) in NODES.into_iter().zip(before) {
        for (before, after) in before.iter().zip(host(&cluster, node)) {
            assert_eq!(*before, after, "{node}");
        }
    }
}

/// In no subnet of the lab: on the service interface, on `lo`, and of the other family.
const HOSTED: [(&str, &str); 3] =
    [("198.51.100.7", "eth0"), ("198.51.100.8", "lo"), ("2001:db8:7::7", "eth0")];

/// Has the client send to `address` behind `node`; returns whether a machine that has it says that
/// nobody listens at that port.
fn answers_behind(cluster: &Cluster, node: Machine, address: IpAddr) -> bool {
    let client = cluster.lab.netns(Machine::Client);
    let (family, host, gateway, any) = match address {
        IpAddr::V4(_) => ("-4", format!("{address}/32"), node.v4(Link::Client).into(), "0.0.0.0:0"),
        IpAddr::V6(_) => ("-6", format!("{address}/128"), IpAddr::from(node.v6()), "[::]:0"),
    };
    client.ip(&[family, "route", "replace", &host, "via", &gateway.to_string()]).unwrap();
    let asked = client.enter(|| {
        let socket = UdpSocket::bind(any)?;
        socket.connect(SocketAddr::new(address, 9))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.send(&[0])?;
        socket.recv(&mut [0; 16])
    });
    match asked.unwrap().unwrap_err().kind() {
        ErrorKind::ConnectionRefused => true,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::HostUnreachable => false,
        other => panic!("{address} behind {node}: {other}"),
    }
}

#[test]
fn an_address_in_no_subnet_is_served_behind_its_node() {
    let mut extra = "\n[[group]]\nname = \"hosted\"\npreferred = \"a\"\n".to_owned();
    for (address, interface) in HOSTED {
        let bits = if address.contains(':') { 128 } else { 32 };
        extra += &format!(
            "[[group.address]]\naddress = \"{address}/{bits}\"\ninterface = \"{interface}\"\n\
             on_link = false\n"
        );
    }
    let mut cluster = Cluster::up(Settings { extra, ..slow() });
    let served = |status: &Value| status["groups"][1]["health"] == "healthy";
    cluster.wait_for(Machine::A, "the hosted group is served", served);
    for (address, _) in HOSTED {
        let address = address.parse().unwrap();
        assert!(!answers_behind(&cluster, Machine::B, address), "{address}");
        assert!(answers_behind(&cluster, Machine::A, address), "{address}");
    }
    cluster.lab.crash(Machine::A).unwrap();
    cluster.wait_for(Machine::B, "the hosted group is served", served);
    for (address, _) in HOSTED {
        assert!(answers_behind(&cluster, Machine::B, address.parse().unwrap()), "{address}");
    }
}
