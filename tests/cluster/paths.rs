//! A cable, a port, an interface or its own address fails, and no machine.

use std::{fs, net::IpAddr, thread, time::Duration};

use hb_ebpf::time::BootTime;
use lab::{
    addresses::{Link, Machine, VIP4},
    clock,
    config::Settings,
    switch::{Direction, port_name},
};

use super::{
    holders::Watch,
    support::{Cluster, PATIENCE, both_vips, slow, wait_for},
};

fn quick(policy: &str) -> Settings {
    Settings { policy: policy.into(), resource: false, ..slow() }
}

/// Pulls the cable of a node's service interface out of the switch, or puts it back.
fn plug(cluster: &Cluster, node: Machine, in_place: bool) {
    let state = if in_place { "up" } else { "down" };
    let port = port_name(node, Link::Client);
    cluster.lab.switch().netns().ip_batch(&format!("link set {port} {state}\n")).unwrap();
}

/// Waits until a node says that it has no path, and why.
fn wait_for_no_path(cluster: &mut Cluster, node: Machine, why: &str) {
    let status =
        cluster.wait_for(node, "has no path", |status| status["groups"][0]["health"] == "no-path");
    let reason = status["groups"][0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains(why), "{reason}");
}

fn hands_over(policy: &str, break_it: fn(&Cluster), mend: fn(&Cluster), why: &str) {
    let mut cluster = Cluster::up(quick(policy));
    let watch = Watch::start(&cluster);
    let client = cluster.client(VIP4.into());
    assert!(client.wait_for_answer(Machine::A, clock::now(), PATIENCE));
    break_it(&cluster);
    cluster.wait_until_alone(Machine::B);
    wait_for_no_path(&mut cluster, Machine::A, why);
    let refused = cluster.ask(Machine::B, &["move", "web", "a"]);
    assert!(!refused.status.success(), "{policy}: {refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("no path"), "{policy}: {said}");
    mend(&cluster);
    // It stands by again, and takes nothing back.
    cluster.wait_until_serving(Machine::B);
    watch.finish().assert_never_both();
    let seen = client.finish().unwrap();
    let first = seen.first_answer(Machine::B, BootTime::NEVER).unwrap().received;
    let late = seen.answers.iter().find(|a| a.node == Machine::A && a.received > first);
    assert_eq!(late, None, "{policy}: an answer of the old holder after the new one's");
}

#[test]
fn a_holder_whose_service_cable_is_out_hands_over_under_every_policy() {
    for policy in ["available", "witness", "safe"] {
        let out = |cluster: &Cluster| plug(cluster, Machine::A, false);
        let back = |cluster: &Cluster| plug(cluster, Machine::A, true);
        hands_over(policy, out, back, "interface eth0 has no carrier");
    }
}

#[test]
fn a_holder_whose_service_interface_is_set_down_hands_over() {
    fn down(cluster: &Cluster) {
        cluster.lab.netns(Machine::A).ip_batch("link set eth0 down\n").unwrap();
    }
    fn up(cluster: &Cluster) {
        // What the kernel took with the interface, a network manager puts back.
        let lines = "link set eth0 up\naddress replace 2001:db8::1/64 dev eth0 nodad\n";
        cluster.lab.netns(Machine::A).ip_batch(lines).unwrap();
    }
    hands_over("available", down, up, "interface eth0 is down");
}

/// What a port of the switch loses, and what the node behind it says then.
const SILENT: [(Direction, &str); 3] = [
    (Direction::Both, "nothing arrives on eth0"),
    (Direction::ToMachine, "nothing arrives on eth0"),
    (Direction::FromMachine, "nobody answers this node on eth0"),
];

#[test]
fn a_holder_behind_a_silent_port_hands_over_under_every_policy() {
    for policy in ["available", "witness", "safe"] {
        let silent = |cluster: &Cluster| {
            cluster.lab.switch().cut_link(Machine::A, Link::Client, Direction::Both);
        };
        hands_over(policy, silent, heal, SILENT[0].1);
    }
}

#[test]
fn a_holder_behind_a_port_that_is_silent_one_way_hands_over() {
    fn in_only(cluster: &Cluster) {
        cluster.lab.switch().cut_link(Machine::A, Link::Client, Direction::ToMachine);
    }
    fn out_only(cluster: &Cluster) {
        cluster.lab.switch().cut_link(Machine::A, Link::Client, Direction::FromMachine);
    }
    hands_over("available", in_only, heal, SILENT[1].1);
    hands_over("available", out_only, heal, SILENT[2].1);
}

/// The kernel learned where the service address was while the other node served, and now that it is here it
/// answers from here.
#[test]
fn a_service_address_that_is_known_as_a_neighbours_is_no_sign_of_life() {
    fn silent(cluster: &Cluster) {
        let address = VIP4.to_string();
        let netns = cluster.lab.netns(Machine::A);
        let entry = ["neigh", "replace", &address, "lladdr", "02:00:00:00:00:99", "dev", "eth0"];
        netns.ip(&[&entry[..], &["nud", "permanent"]].concat()).unwrap();
        cluster.lab.switch().cut_link(Machine::A, Link::Client, Direction::FromMachine);
    }
    hands_over("available", silent, heal, SILENT[2].1);
}

fn heal(cluster: &Cluster) {
    cluster.lab.switch().heal_link(Machine::A, Link::Client, Direction::Both);
}

#[test]
fn a_holder_stays_where_the_silent_port_is_the_others_or_both_are() {
    for (direction, _) in SILENT {
        let mut cluster = Cluster::up(quick("available"));
        let watch = Watch::start(&cluster);
        cluster.lab.switch().cut_link(Machine::B, Link::Client, direction);
        // That nobody answers may be seen before that nothing arrives.
        wait_for_no_path(&mut cluster, Machine::B, "eth0");
        let status = cluster.status(Machine::A);
        assert_eq!(status["groups"][0]["health"], "healthy", "{status:#}");
        // The other one is not worse off then, and nobody is moved to it.
        cluster.lab.switch().cut_link(Machine::A, Link::Client, direction);
        cluster.wait_for(Machine::A, "asks the neighbourhood", |status| {
            let links = status["peers"][0]["links"].as_array().unwrap();
            links.iter().any(|link| link["up"] == false)
        });
        thread::sleep(Duration::from_secs(4));
        let status = cluster.status(Machine::A);
        assert_eq!(status["groups"][0]["state"], "holding", "{direction:?}: {status:#}");
        cluster.lab.switch().heal_link(Machine::A, Link::Client, Direction::Both);
        cluster.wait_until_alone(Machine::A);
        watch.finish().assert_never(Machine::B);
    }
}

/// A ping group of one target, the client.
fn pinging(policy: &str) -> Settings {
    let client = Machine::Client.v4(Link::Client);
    let extra = format!(
        "[[ping]]\nname = \"gateway\"\ninterface = \"eth0\"\ntargets = [\"{client}\"]\n\
         interval = \"100ms\"\ndeadping = \"500ms\"\n"
    );
    Settings { extra, ..quick(policy) }
}

/// Has what a node sends to the client go astray, or no more.
fn lead_astray(cluster: &Cluster, node: Machine, astray: bool) {
    let client = Machine::Client.v4(Link::Client);
    let line = if astray {
        format!("neigh replace {client} lladdr 02:00:00:00:00:99 nud permanent dev eth0\n")
    } else {
        format!("neigh del {client} dev eth0\n")
    };
    cluster.lab.netns(node).ip_batch(&line).unwrap();
}

/// Takes a node's own IPv4 address off its service interface, or puts it back.
fn own_address(cluster: &Cluster, node: Machine, there: bool) {
    let verb = if there { "add" } else { "del" };
    let line = format!("address {verb} {}/24 dev eth0\n", node.v4(Link::Client));
    cluster.lab.netns(node).ip_batch(&line).unwrap();
}

/// Takes the IPv6 route to the clients off a node's service interface, or puts it back. With the own address
/// alone it does not go: any other of the subnet keeps it.
fn route(cluster: &Cluster, node: Machine, there: bool) {
    let verb = if there { "add" } else { "del" };
    let line = format!("route {verb} 2001:db8::/64 dev eth0 metric 256\n");
    cluster.lab.netns(node).ip_batch(&line).unwrap();
}

#[test]
fn a_holder_whose_ping_targets_do_not_answer_hands_over_to_one_whose_do() {
    for policy in ["available", "witness"] {
        let mut cluster = Cluster::up(pinging(policy));
        let watch = Watch::start(&cluster);
        lead_astray(&cluster, Machine::A, true);
        cluster.wait_until_alone(Machine::B);
        let why = "no target of ping group gateway answers on eth0";
        wait_for_no_path(&mut cluster, Machine::A, why);
        // The other one's do not answer either: it is as good as this one.
        lead_astray(&cluster, Machine::B, true);
        thread::sleep(Duration::from_secs(4));
        let status = cluster.status(Machine::B);
        assert_eq!(status["groups"][0]["state"], "holding", "{status:#}");
        lead_astray(&cluster, Machine::A, false);
        cluster.wait_until_alone(Machine::A);
        watch.finish().assert_never_both();
    }
}

/// Gives a machine the address of a ping target, which another one had. No machine answers its own
/// question.
fn place_target(cluster: &Cluster, target: IpAddr, from: Option<Machine>, to: Machine) {
    let (bits, nodad) = if target.is_ipv4() { (32, "") } else { (128, " nodad") };
    if let Some(from) = from {
        let line = format!("address del {target}/{bits} dev eth0\n");
        cluster.lab.netns(from).ip_batch(&line).unwrap();
    }
    let line = format!("address add {target}/{bits} dev eth0{nodad}\n");
    cluster.lab.netns(to).ip_batch(&line).unwrap();
}

#[test]
fn ping_targets_that_answer_no_echo_are_asked_by_arp() {
    for target in ["192.0.2.77", "2001:db8::77"] {
        let extra = format!(
            "[[ping]]\nname = \"gateway\"\ninterface = \"eth0\"\ntargets = [\"{target}\"]\n\
             method = \"arp\"\ninterval = \"100ms\"\ndeadping = \"500ms\"\n"
        );
        let target: IpAddr = target.parse().unwrap();
        let mut cluster = Cluster::new(Settings { extra, ..quick("available") });
        place_target(&cluster, target, None, Machine::Client);
        let client = cluster.lab.netns(Machine::Client);
        for ignore in ["ipv4/icmp_echo_ignore_all", "ipv6/icmp/echo_ignore_all"] {
            client.enter(|| fs::write(format!("/proc/sys/net/{ignore}"), "1")).unwrap().unwrap();
        }
        cluster.start_both();
        let watch = Watch::start(&cluster);
        // With one that is asked in vain, the group would have moved meanwhile, or never.
        thread::sleep(Duration::from_secs(4));
        assert_eq!(cluster.status(Machine::A)["groups"][0]["health"], "healthy");
        place_target(&cluster, target, Some(Machine::Client), Machine::A);
        cluster.wait_until_alone(Machine::B);
        let why = "no target of ping group gateway answers on eth0";
        wait_for_no_path(&mut cluster, Machine::A, why);
        place_target(&cluster, target, Some(Machine::A), Machine::B);
        cluster.wait_until_alone(Machine::A);
        watch.finish().assert_never_both();
    }
}

#[test]
fn a_holder_that_loses_its_route_to_the_clients_hands_over() {
    for policy in ["available", "witness"] {
        let gone = |cluster: &Cluster| own_address(cluster, Machine::A, false);
        let back = |cluster: &Cluster| own_address(cluster, Machine::A, true);
        hands_over(policy, gone, back, "no route to 192.0.2.0/24 on eth0");
    }
    let gone = |cluster: &Cluster| route(cluster, Machine::A, false);
    let back = |cluster: &Cluster| route(cluster, Machine::A, true);
    hands_over("available", gone, back, "no route to 2001:db8::/64 on eth0");
}

#[test]
fn a_standby_without_a_route_to_the_clients_is_given_nothing() {
    let mut cluster = Cluster::up(quick("available"));
    own_address(&cluster, Machine::B, false);
    wait_for_no_path(&mut cluster, Machine::B, "no route to 192.0.2.0/24 on eth0");
    // Said to the other one with the next frame.
    thread::sleep(Duration::from_millis(200));
    let refused = cluster.ask(Machine::A, &["move", "web", "b"]);
    assert!(!refused.status.success(), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("no path"), "{said}");
    // With none on either node, who holds it goes on.
    let watch = Watch::start(&cluster);
    own_address(&cluster, Machine::A, false);
    thread::sleep(Duration::from_secs(4));
    assert_eq!(cluster.status(Machine::A)["groups"][0]["state"], "holding");
    watch.finish().assert_never(Machine::B);
    // And gives it to the one that has it back first.
    own_address(&cluster, Machine::B, true);
    cluster.wait_until_alone(Machine::B);
}

#[test]
fn a_route_that_is_back_soon_moves_nothing() {
    let mut cluster = Cluster::up(quick("available"));
    let held = cluster.epoch(Machine::A);
    let watch = Watch::start(&cluster);
    for _ in 0..3 {
        own_address(&cluster, Machine::A, false);
        thread::sleep(Duration::from_millis(1200));
        own_address(&cluster, Machine::A, true);
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(cluster.epoch(Machine::A), held);
    cluster.wait_until_alone(Machine::A);
    watch.finish().assert_never(Machine::B);
}

#[test]
fn a_standby_whose_service_cable_is_out_takes_nothing_until_it_is_back() {
    for policy in ["available", "witness"] {
        let mut cluster = Cluster::up(quick(policy));
        plug(&cluster, Machine::B, false);
        wait_for_no_path(&mut cluster, Machine::B, "interface eth0 has no carrier");
        let watch = Watch::start(&cluster);
        cluster.lab.crash(Machine::A).unwrap();
        // Heard on the direct cable until now.
        cluster.wait_for(Machine::B, "its peer is dead", |status| {
            status["peers"][0]["life"] == "dead"
        });
        let status = cluster.status(Machine::B);
        assert_ne!(status["groups"][0]["state"], "holding", "{policy}: {status:#}");
        watch.finish().assert_never(Machine::B);
        plug(&cluster, Machine::B, true);
        cluster.wait_until_alone(Machine::B);
    }
}

#[test]
fn failback_does_not_go_to_a_node_whose_service_cable_is_out() {
    let mut cluster = Cluster::up(Settings { auto_failback: true, ..quick("available") });
    cluster.lab.crash(Machine::A).unwrap();
    cluster.wait_until_alone(Machine::B);
    plug(&cluster, Machine::A, false);
    cluster.lab.reboot(Machine::A).unwrap();
    let watch = Watch::start(&cluster);
    cluster.lab.start_daemon(Machine::A).unwrap();
    wait_for_no_path(&mut cluster, Machine::A, "interface eth0 has no carrier");
    cluster.wait_for(Machine::B, "its peer is alive", |status| {
        status["peers"][0]["controller"]["alive"] == true
    });
    cluster.wait_until_alone(Machine::B);
    watch.finish().assert_never(Machine::A);
    // It does once there is a cable.
    plug(&cluster, Machine::A, true);
    cluster.wait_until_serving(Machine::A);
}

#[test]
fn a_node_that_starts_behind_a_port_that_forwards_late_takes_nothing_from_the_one_that_serves() {
    let mut cluster = Cluster::up(quick("available"));
    cluster.lab.crash(Machine::A).unwrap();
    cluster.wait_until_alone(Machine::B);
    cluster.lab.reboot(Machine::A).unwrap();
    cluster.lab.cut(Machine::A);
    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.wait_for(Machine::A, "serves", |status| status["groups"][0]["state"] == "holding");
    cluster.wait_for_log(
        Machine::A,
        "nothing arrives on any interface: look at cables and switch ports",
        |_| true,
    );
    let client = cluster.client(VIP4.into());
    let held = cluster.epoch(Machine::B);
    cluster.lab.heal(Machine::A);
    cluster.wait_until_serving(Machine::B);
    let settled = clock::now();
    assert!(client.wait_for_answer(Machine::B, settled, PATIENCE));
    let seen = client.finish().unwrap();
    // Both hold until they have heard each other.
    let last = seen.last_answer(Machine::A).map(|answer| answer.received);
    assert!(last.is_none_or(|last| last < settled), "{last:?}, settled at {settled:?}");
    // Under a number above what the other one took.
    assert!(cluster.epoch(Machine::B) > held);
}

/// Deletes the service interface of a node and makes it anew, as the reload of a driver does.
pub(super) fn make_anew(cluster: &Cluster, node: Machine) {
    let port = port_name(node, Link::Client);
    let (switch, inside) = (cluster.lab.switch().netns(), cluster.lab.netns(node));
    inside.ip_batch("link del eth0\n").unwrap();
    let mac = node.mac(Link::Client);
    let pair = format!("link add {port} type veth peer name eth0 netns {}\n", inside.name());
    switch.ip_batch(&format!("{pair}link set {port} master br0 up\n")).unwrap();
    inside
        .ip_batch(&format!(
            "link set eth0 address {mac}\nlink set eth0 up\naddr add {}/24 dev eth0\n\
             addr add {}/64 dev eth0 nodad\n",
            node.v4(Link::Client),
            node.v6(),
        ))
        .unwrap();
}

#[test]
fn an_interface_that_is_made_anew_is_used_again_without_a_restart() {
    for policy in ["available", "witness"] {
        let mut cluster = Cluster::up(quick(policy));
        // On the node that stands by: it is ready for the death of the other one.
        make_anew(&cluster, Machine::B);
        cluster.wait_for_log(Machine::B, "interface was made anew: in use again", |_| true);
        cluster.wait_until_serving(Machine::A);
        cluster.wait_for(Machine::B, "hears its peer on every link", |status| {
            let links = status["peers"][0]["links"].as_array().unwrap().clone();
            !links.is_empty() && links.iter().all(|link| link["up"] == true)
        });
        cluster.lab.crash(Machine::A).unwrap();
        cluster.wait_until_alone(Machine::B);
        // On the one that serves, and that nobody can take over from.
        make_anew(&cluster, Machine::B);
        wait_for("addresses on the interface made anew", || {
            (cluster.vips(Machine::B) == both_vips()).then_some(())
        });
        cluster.wait_until_alone(Machine::B);
    }
}
