use std::net::{IpAddr, SocketAddr, UdpSocket};

use hb_user::address::{
    AddressNotices, AddressSocket, Batch, Change, ChangeError, Conflict, Done, PROTOCOL, Removals,
    RouteNotices, Standing, Vip,
};
use serde_json::Value;

use super::{
    allocations::allocations,
    namespace::{Namespace, PATIENCE},
};

fn vip(interface: u32, text: &str) -> Vip {
    let (ip, prefix) = text.split_once('/').unwrap();
    Vip::new(interface, ip.parse().unwrap(), prefix.parse().unwrap()).unwrap()
}

/// Makes the same change of all `vips` in one batch.
fn change(
    socket: &mut AddressSocket,
    change: Change,
    vips: &[Vip],
) -> Vec<Result<Done, ChangeError>> {
    let mut batch = Batch::new();
    vips.iter().for_each(|&vip| batch.push(change, vip).unwrap());
    let unanswered = |&vip| Err(ChangeError::Unanswered { change, vip });
    let mut results: Vec<_> = vips.iter().map(unanswered).collect();
    socket.execute(&batch, &mut results).unwrap();
    results
}

/// All addresses and routes of a namespace, one per line, sorted.
fn everything(namespace: &Namespace) -> Vec<String> {
    let mut lines = Vec::new();
    for link in namespace.list("addr") {
        for address in link["addr_info"].as_array().unwrap() {
            lines.push(format!("address {} {address}", link["ifname"]));
        }
    }
    for family in ["-4", "-6"] {
        let routes = namespace.list(&format!("{family} route show table all"));
        lines.extend(routes.iter().map(|route| format!("route {route}")));
    }
    lines.sort();
    lines
}

/// The address the kernel picks for traffic to `to`.
fn source(to: &str) -> IpAddr {
    let to: IpAddr = to.parse().unwrap();
    let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect((to, 9)).unwrap();
    socket.local_addr().unwrap().ip()
}

const DESTINATIONS: [(&str, &str); 4] = [
    ("10.9.0.77", "10.9.0.1"),
    ("192.0.2.1", "10.9.0.1"),
    ("fd09::77", "fd09::1"),
    ("2001:db8::1", "fd09::1"),
];

fn route_out(namespace: &Namespace) {
    namespace.ip("route add default via 10.9.0.254 dev left");
    namespace.ip("-6 route add default via fd09::fe dev left");
}

fn assert_sources(namespace: &Namespace) {
    for (to, expected) in DESTINATIONS {
        let picked = namespace.inside(|| source(to));
        assert_eq!(picked.to_string(), expected, "to {to}");
    }
}

#[test]
fn vips_come_and_go_without_a_trace() {
    let (left, right) = Namespace::pair();
    left.cable("spare", &right, "spare");
    left.ip("addr add 10.9.0.3/24 dev left");
    left.ip("addr add 10.8.0.1/24 dev spare");
    route_out(&left);
    let (index, _) = left.end("left");
    let vips = ["10.9.0.100/32", "10.9.0.101/24", "fd09::100/128", "fd09::101/64"]
        .map(|text| vip(index, text));
    let before = everything(&left);

    let mut socket = left.inside(|| AddressSocket::open().unwrap());
    let present = socket.addresses(None).unwrap();
    for vip in vips {
        assert_eq!(vip.standing(&present), Ok(Standing::Absent));
    }
    assert_eq!(change(&mut socket, Change::Add, &vips), [Ok(Done::Added); 4]);
    let with_vips = everything(&left);
    assert_eq!(change(&mut socket, Change::Add, &vips), [Ok(Done::AlreadyThere); 4]);
    assert_eq!(everything(&left), with_vips);

    let present = socket.addresses(Some(index)).unwrap();
    for vip in vips {
        assert_eq!(vip.standing(&present), Ok(Standing::Ours), "{vip}");
        let found = present.iter().find(|address| address.ip == vip.ip()).unwrap();
        assert!(!found.is_tentative());
        assert_eq!(found.is_deprecated(), vip.ip().is_ipv6());
    }

    // What was there is there still; what came is about the VIPs alone.
    assert!(before.iter().all(|line| with_vips.contains(line)));
    for line in with_vips.iter().filter(|line| !before.contains(line)) {
        let about_a_vip = |vip: &Vip| line.contains(&format!("\"{}\"", vip.ip()));
        assert!(vips.iter().any(about_a_vip), "{line}");
    }
    assert_sources(&left);

    assert_eq!(change(&mut socket, Change::Remove, &vips), [Ok(Done::Removed); 4]);
    assert_eq!(everything(&left), before);
    assert_eq!(change(&mut socket, Change::Remove, &vips), [Ok(Done::Missing); 4]);
    assert_eq!(everything(&left), before);
}

/// As an earlier version may have left it.
#[test]
fn the_first_address_of_a_subnet_goes_alone() {
    let (left, right) = (Namespace::new(), Namespace::new());
    left.cable("left", &right, "right");
    let (index, _) = left.end("left");
    for promotes in ["0", "1"] {
        for interface in ["all", "left"] {
            let setting = format!("/proc/sys/net/ipv4/conf/{interface}/promote_secondaries");
            left.inside(|| std::fs::write(setting, promotes).unwrap());
        }
        left.ip("addr add 10.9.0.100/24 dev left noprefixroute");
        left.ip("addr add 10.9.0.1/24 dev left");
        left.ip("addr add 10.9.0.2/24 dev left");
        let mut socket = left.inside(|| AddressSocket::open().unwrap());
        let v4 = |socket: &mut AddressSocket| {
            let mut present = socket.addresses(Some(index)).unwrap();
            present.retain(|found| found.ip.is_ipv4());
            present
        };
        let present = v4(&mut socket);
        assert!(!present[0].is_secondary() && present[1].is_secondary());
        assert!(socket.remove(&present[0]).unwrap());
        assert!(!socket.remove(&present[0]).unwrap());
        let left_over: Vec<_> = v4(&mut socket).iter().map(|found| found.ip.to_string()).collect();
        assert_eq!(left_over, ["10.9.0.1", "10.9.0.2"]);
        assert_eq!(left.inside(|| source("10.9.0.77")).to_string(), "10.9.0.1");
        let setting = "/proc/sys/net/ipv4/conf/left/promote_secondaries";
        let is = left.inside(|| std::fs::read_to_string(setting).unwrap());
        assert_eq!(is.trim(), promotes);
        left.ip("addr flush dev left");
    }
}

#[test]
fn a_vip_before_the_interfaces_own_address_is_no_source_either() {
    let (left, right) = (Namespace::new(), Namespace::new());
    left.cable("left", &right, "right");
    let (index, _) = left.end("left");
    let mut socket = left.inside(|| AddressSocket::open().unwrap());
    let vips = ["10.9.0.100/32", "fd09::100/128"].map(|text| vip(index, text));
    assert_eq!(change(&mut socket, Change::Add, &vips), [Ok(Done::Added); 2]);
    left.ip("addr add 10.9.0.1/24 dev left");
    left.ip("addr add fd09::1/64 dev left nodad");
    route_out(&left);
    assert_sources(&left);
}

#[test]
fn a_vip_is_served_to_neighbours() {
    let (left, right) = Namespace::pair();
    let (index, _) = left.end("left");
    // What machines with several interfaces are commonly set to.
    left.inside(|| std::fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "1").unwrap());
    let mut socket = left.inside(|| AddressSocket::open().unwrap());
    let vips = ["10.9.0.100/32", "fd09::100/128"].map(|text| vip(index, text));
    assert_eq!(change(&mut socket, Change::Add, &vips), [Ok(Done::Added); 2]);
    for (vip, client_ip) in vips.iter().zip(["10.9.0.2", "fd09::2"]) {
        let server = left.inside(|| UdpSocket::bind((vip.ip(), 5000)).unwrap());
        let client_ip: IpAddr = client_ip.parse().unwrap();
        let client = right.inside(|| UdpSocket::bind((client_ip, 0)).unwrap());
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let mut bytes = [0; 16];
        client.send_to(b"question", (vip.ip(), 5000)).unwrap();
        let (_, from) = server.recv_from(&mut bytes).unwrap();
        server.send_to(b"answer", from).unwrap();
        let (length, from) = client.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..length], from.ip()), (&b"answer"[..], vip.ip()));
    }
}

#[test]
fn a_foreign_vip_is_seen_and_adopted_on_demand() {
    let (left, _right) = Namespace::pair();
    let (index, _) = left.end("left");
    left.ip("addr add 10.9.0.100/32 dev left");
    left.ip("addr add fd09::100/128 dev left nodad");
    let vips = ["10.9.0.100/32", "fd09::100/128"].map(|text| vip(index, text));
    let mut socket = left.inside(|| AddressSocket::open().unwrap());
    let standing = |socket: &mut AddressSocket| {
        let present = socket.addresses(None).unwrap();
        vips.map(|vip| vip.standing(&present))
    };
    let foreign = [32, 128].map(|prefix| Ok(Standing::Foreign { prefix, protocol: None }));
    assert_eq!(standing(&mut socket), foreign);
    assert_eq!(change(&mut socket, Change::Add, &vips), [Ok(Done::AlreadyThere); 2]);
    assert_eq!(standing(&mut socket), foreign);
    assert_eq!(change(&mut socket, Change::Adopt, &vips), [Ok(Done::Added); 2]);
    assert_eq!(standing(&mut socket), [Ok(Standing::Ours); 2]);
    let present = socket.addresses(None).unwrap();
    let adopted = present.iter().find(|address| address.ip == vips[1].ip()).unwrap();
    assert_eq!(adopted.protocol, Some(PROTOCOL));
    assert!(adopted.is_deprecated());
    assert_eq!(change(&mut socket, Change::Remove, &vips), [Ok(Done::Removed); 2]);
}

#[test]
fn a_vip_elsewhere_is_a_conflict() {
    let (left, right) = Namespace::pair();
    left.cable("spare", &right, "spare");
    let (index, _) = left.end("left");
    let (spare, _) = left.end("spare");
    left.ip("addr add 10.9.0.100/24 dev left");
    left.ip("addr add fd09::100/64 dev spare nodad");
    let present = left.inside(|| AddressSocket::open().unwrap().addresses(None).unwrap());
    let v4 = vip(index, "10.9.0.100/32");
    let foreign = Standing::Foreign { prefix: 24, protocol: None };
    assert_eq!(v4.standing(&present), Ok(foreign));
    let v6 = vip(index, "fd09::100/128");
    let conflict = Conflict::OtherInterface { vip: v6, interface: spare, prefix: 64 };
    assert_eq!(v6.standing(&present), Err(conflict));
}

#[test]
fn a_refused_change_is_named_and_stops_no_other() {
    let (left, _right) = Namespace::pair();
    let (index, _) = left.end("left");
    let nowhere = vip(4000, "10.9.0.100/32");
    let vips = [vip(index, "10.9.0.101/32"), nowhere, vip(index, "fd09::102/128")];
    let mut socket = left.inside(|| AddressSocket::open().unwrap());
    let refused = ChangeError::Refused { change: Change::Add, vip: nowhere, errno: libc::ENODEV };
    let results = change(&mut socket, Change::Add, &vips);
    assert_eq!(results, [Ok(Done::Added), Err(refused), Ok(Done::Added)]);
    let text = refused.to_string();
    assert!(text.contains("10.9.0.100/32 on interface 4000") && text.contains("look it up"));
    let results = change(&mut socket, Change::Remove, &vips);
    assert_eq!(results, [Ok(Done::Removed), Ok(Done::Missing), Ok(Done::Removed)]);
}

#[test]
fn addresses_that_go_are_heard_of() {
    let (left, _right) = Namespace::pair();
    let (index, _) = left.end("left");
    let notices = left.inside(|| AddressNotices::listen().unwrap());
    assert_eq!(notices.take().unwrap(), Removals::default());
    left.ip("addr add 10.9.0.100/32 dev left");
    left.ip("addr add fd09::100/128 dev left nodad");
    assert_eq!(notices.take().unwrap(), Removals::default());
    left.ip("addr del 10.9.0.100/32 dev left");
    left.ip("addr del fd09::100/128 dev left");
    let Removals { removed, overrun } = notices.take().unwrap();
    let removed: Vec<_> = removed.iter().map(|it| (it.interface, it.ip.to_string())).collect();
    assert_eq!(removed, ["10.9.0.100", "fd09::100"].map(|ip| (index, ip.to_owned())));
    assert!(!overrun);

    // More than a socket keeps: what is left is told, and that there was more.
    let many: Vec<_> = (1..=100).map(|last| vip(index, &format!("10.8.1.{last}/32"))).collect();
    let mut socket = left.inside(|| AddressSocket::open().unwrap());
    for _ in 0..10 {
        change(&mut socket, Change::Add, &many);
        change(&mut socket, Change::Remove, &many);
    }
    assert!(notices.take().unwrap().overrun);
    assert_eq!(notices.take().unwrap(), Removals::default());
}

#[test]
fn a_route_to_the_neighbours_is_found_whether_the_vip_is_up_or_not() {
    let (left, right) = Namespace::pair();
    left.cable("spare", &right, "spare");
    let (index, _) = left.end("left");
    let (vip4, vip6) = (vip(index, "10.9.0.100/24"), vip(index, "fd09::100/64"));
    let mut socket = left.inside(|| AddressSocket::open().unwrap());
    let mut found = |subnets: [u8; 2]| {
        [(vip4, subnets[0]), (vip6, subnets[1])]
            .map(|(vip, subnet)| socket.leads_out(&vip, subnet).unwrap())
    };
    let up = |change: Change| {
        let mut socket = left.inside(|| AddressSocket::open().unwrap());
        for done in super::address::change(&mut socket, change, &[vip4, vip6]) {
            done.unwrap();
        }
    };
    for change in [Change::Add, Change::Remove] {
        up(change);
        assert_eq!(found([24, 64]), [true, true], "{change:?}");
        // The file may name another subnet than the host has, and hosts alone.
        assert_eq!(found([16, 56]), [true, true]);
        assert_eq!(found([26, 96]), [true, true]);
        assert_eq!(found([32, 128]), [true, true]);
        // Own addresses beside it say nothing.
        left.ip("addr add 10.9.0.101/32 dev left");
        left.ip("addr del 10.9.0.1/24 dev left");
        left.ip("addr del fd09::1/64 dev left");
        if change == Change::Add {
            // Any address of the subnet keeps its route, one without a route of its own as well.
            assert_eq!(found([24, 64]), [false, true], "{change:?}");
            left.ip("-6 route del fd09::/64 dev left");
        }
        assert_eq!(found([24, 64]), [false, false], "{change:?}");
        assert_eq!(found([32, 128]), [false, false]);
        // Through another interface is not this way.
        left.ip("link set spare up");
        left.ip("route add 10.9.0.0/24 dev spare");
        left.ip("-6 route add fd09::/64 dev spare");
        assert_eq!(found([24, 64]), [false, false]);
        left.ip("-6 route add fd09::/64 dev left metric 2048");
        left.ip("route add 10.9.0.0/24 dev left metric 2048");
        assert_eq!(found([24, 64]), [true, true], "beside the other one");
        for route in ["10.9.0.0/24", "fd09::/64"] {
            left.ip(&format!("route del {route} dev left"));
            left.ip(&format!("route del {route} dev spare"));
        }
        assert_eq!(found([24, 64]), [false, false]);
        left.ip("-6 route add default dev left");
        left.ip("route add default dev left");
        assert_eq!(found([24, 64]), [true, true]);
        left.ip("-6 route del default dev left");
        left.ip("route del default dev left");
        // In a table that only rules for some sources lead to.
        left.ip("route add 10.9.0.0/24 dev spare table 100");
        left.ip("-6 route add fd09::/64 dev spare table 100");
        assert_eq!(found([24, 64]), [false, false]);
        left.ip("route add 10.9.0.0/24 dev left table 101");
        left.ip("-6 route add fd09::/64 dev left table 101");
        assert_eq!(found([24, 64]), [true, true]);
        for table in [100, 101] {
            left.ip(&format!("route flush table {table}"));
            left.ip(&format!("-6 route flush table {table}"));
        }
        left.ip("route add blackhole 10.9.0.0/24");
        left.ip("-6 route add prohibit fd09::/64");
        assert_eq!(found([24, 64]), [false, false]);
        left.ip("route del blackhole 10.9.0.0/24");
        left.ip("-6 route del prohibit fd09::/64");
        left.ip("addr del 10.9.0.101/32 dev left");
        left.ip("addr add 10.9.0.1/24 dev left");
        left.ip("addr add fd09::1/64 dev left nodad");
    }
    let none = vip(9999, "10.9.0.100/24");
    assert!(!socket_of(&left).leads_out(&none, 24).unwrap(), "an interface that is gone");
}

fn socket_of(namespace: &Namespace) -> AddressSocket {
    namespace.inside(|| AddressSocket::open().unwrap())
}

#[test]
fn routes_that_change_are_heard_of_however_many() {
    use std::os::fd::AsRawFd;
    let (left, _right) = Namespace::pair();
    let notices = left.inside(|| RouteNotices::listen().unwrap());
    let told = || {
        let mut poll = libc::pollfd { fd: notices.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, writable, and no wait.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        notices.hush().unwrap();
        ready == 1
    };
    told();
    assert!(!told());
    for change in [
        "route add 198.51.100.0/24 dev left",
        "route del 198.51.100.0/24 dev left",
        "-6 route add 2001:db8::/64 dev left",
        "addr del 10.9.0.1/24 dev left",
        "addr del fd09::1/64 dev left",
    ] {
        left.ip(change);
        assert!(told(), "{change}");
        assert!(!told());
    }
    for host in 1..=100 {
        left.ip(&format!("route add 203.0.113.{host} dev left"));
    }
    assert!(told());
    assert!(!told());
}

#[test]
fn addresses_are_seen_while_thousands_of_others_come_and_go() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let (left, right) = Namespace::pair();
    left.cable("spare", &right, "spare");
    let (index, _) = left.end("left");
    let (spare, _) = left.end("spare");
    let many = |third: u8| -> Vec<Vip> {
        (1..=100).map(|last| vip(spare, &format!("10.8.{third}.{last}/32"))).collect()
    };
    let mut socket = socket_of(&left);
    for third in 0..20 {
        change(&mut socket, Change::Add, &many(third));
    }
    let here = |found: &[hb_user::address::Present]| {
        found.iter().any(|it| it.ip.to_string() == "10.9.0.1" && it.interface == index)
    };
    let ended = AtomicBool::new(false);
    let churn = || {
        let mut socket = socket_of(&left);
        while !ended.load(Ordering::Relaxed) {
            change(&mut socket, Change::Remove, &many(7));
            change(&mut socket, Change::Add, &many(7));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(churn);
        for _ in 0..200 {
            let found = socket.addresses_seen(index).unwrap();
            assert!(here(&found));
            assert!(found.len() < 10, "only those of that interface: {}", found.len());
            let found = socket.addresses_seen(spare).unwrap();
            let still = |it: &&hb_user::address::Present| it.ip.to_string().starts_with("10.8.3.");
            let mut still: Vec<_> = found.iter().filter(still).map(|it| it.ip).collect();
            still.sort_unstable();
            still.dedup();
            assert_eq!(still.len(), 100, "what nobody touches is seen");
        }
        ended.store(true, Ordering::Relaxed);
    });
    // The whole list is whole again.
    assert!(here(&socket.addresses(None).unwrap()));
}

#[test]
fn too_few_results_change_nothing() {
    let (left, _right) = Namespace::pair();
    let (index, _) = left.end("left");
    let mut socket = left.inside(|| AddressSocket::open().unwrap());
    let mut batch = Batch::new();
    batch.push(Change::Add, vip(index, "10.9.0.100/32")).unwrap();
    assert!(socket.execute(&batch, &mut []).is_err());
    assert!(socket.addresses(None).unwrap().iter().all(|a| a.protocol != Some(PROTOCOL)));
}

#[test]
fn a_full_batch_is_executed_without_allocating() {
    let (left, _right) = Namespace::pair();
    let (index, _) = left.end("left");
    let mut socket = left.inside(|| AddressSocket::open().unwrap());
    let (mut add, mut remove) = (Batch::new(), Batch::new());
    for last in 0..hb_user::address::MAX_CHANGES {
        let vip = vip(index, &format!("10.10.0.{last}/32"));
        add.push(Change::Add, vip).unwrap();
        remove.push(Change::Remove, vip).unwrap();
    }
    let mut results = vec![Ok(Done::Missing); add.changes().len()];
    let count = allocations(|| socket.execute(&add, &mut results).unwrap());
    assert!(results.iter().all(|result| *result == Ok(Done::Added)), "{results:?}");
    assert_eq!(count, 0);
    assert_eq!(socket.addresses(Some(index)).unwrap().len(), add.changes().len() + 3);
    let count = allocations(|| socket.execute(&remove, &mut results).unwrap());
    assert!(results.iter().all(|result| *result == Ok(Done::Removed)), "{results:?}");
    assert_eq!(count, 0);
}

#[test]
fn interfaces_are_listed_as_ip_lists_them() {
    let (left, right) = Namespace::pair();
    left.cable("spare", &right, "spare");
    left.ip("link set left mtu 1400");
    right.ip("link set spare down");
    left.inside(|| {
        std::fs::write("/proc/sys/net/ipv6/conf/spare/disable_ipv6", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/left/arp_ignore", "3").unwrap();
    });
    let listed = left.inside(|| AddressSocket::open().unwrap().interfaces().unwrap());
    let expected = left.list("link");
    assert_eq!(listed.len(), expected.len());
    for (interface, link) in listed.iter().zip(&expected) {
        let flags = link["flags"].as_array().unwrap();
        let flag = |name: &str| flags.contains(&Value::from(name));
        assert_eq!(interface.index, link["ifindex"]);
        assert_eq!(interface.name, link["ifname"].as_str().unwrap());
        assert_eq!(interface.mtu, link["mtu"]);
        assert_eq!(interface.up, flag("UP"), "{}", interface.name);
        assert_eq!(interface.carrier, flag("LOWER_UP"), "{}", interface.name);
        assert_eq!(interface.loopback, flag("LOOPBACK"));
        assert_eq!(interface.ipv6, interface.name != "spare", "{}", interface.name);
        assert_eq!(interface.arp_ignore, if interface.name == "left" { 3 } else { 0 });
        let mac = interface.mac.unwrap().map(|byte| format!("{byte:02x}")).join(":");
        assert_eq!(mac, link["address"].as_str().unwrap());
    }
}
