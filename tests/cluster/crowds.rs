//! Hosts with much of something: so many connections to a service address that ending them takes long,
//! more interfaces than a process may have descriptors.

use std::{fmt::Write as _, fs, net::IpAddr, os::unix::fs::PermissionsExt as _, time::Duration};

use lab::{
    Options,
    addresses::{Link, Machine, VIP4, VIP6},
    config::Settings,
    crowd::Crowd,
};

use super::{
    gate::report,
    support::{Cluster, options, slow, wait_for},
    turn::Turn,
};

/// Connections to each service address.
const EACH: u32 = 30_000;

fn gather(cluster: &Cluster, node: Machine) -> Vec<Crowd> {
    let (server, client) = (cluster.lab.netns(node), cluster.lab.netns(Machine::Client));
    let ends: [(IpAddr, IpAddr, u16); 2] = [
        (Machine::Client.v4(Link::Client).into(), VIP4.into(), 7810),
        (Machine::Client.v6().into(), VIP6.into(), 7820),
    ];
    ends.map(|(own, vip, port)| Crowd::gather(server, client, (own, vip), port, EACH).unwrap())
        .into()
}

/// They are no failure, and the node can hold again once they are ended.
#[test]
fn a_node_with_sixty_thousand_connections_gives_the_group_away_and_can_have_it_back() {
    let _turn = Turn::alone();
    let settings = Settings { policy: "witness".into(), resource: false, ..slow() };
    let mut cluster = Cluster::up(settings);
    let crowd = gather(&cluster, Machine::A);
    let moved = cluster.ask(Machine::A, &["move", "web", "b"]);
    assert!(moved.status.success(), "{moved:?}");
    let ended = wait_for("the end of the connections", || {
        let status = cluster.lab.status(Machine::A).ok()?;
        let group = &status["groups"][0];
        assert_ne!(group["health"], "failed", "{group:#}");
        cluster.logged(Machine::A, "open work ended").last().cloned()
    });
    assert!(ended["connections"].as_u64().unwrap() >= 2 * u64::from(EACH), "{ended}");
    assert!(cluster.logged(Machine::A, "open work not ended").is_empty());
    cluster.wait_until_serving(Machine::B);
    cluster.kill(Machine::B);
    cluster.wait_until_alone(Machine::A);
    drop(crowd);

    // A node that leaves ends them as well, before its gate goes.
    let crowd = gather(&cluster, Machine::A);
    cluster.lab.signal(Machine::A, libc::SIGTERM).unwrap();
    let status = cluster.lab.daemon_mut(Machine::A).unwrap().wait(Duration::from_secs(60)).unwrap();
    assert!(status.success(), "{status}");
    cluster.assert_nothing_left(Machine::A);
    drop(crowd);
}

/// Pairs of interfaces on a node, each of which has a gate both ways.
const PAIRS: u32 = 60;
/// The soft limit of descriptors that the daemons begin with.
const SOFT_LIMIT: u32 = 64;

#[test]
fn a_node_with_more_interfaces_than_its_soft_limit_of_descriptors_gates_them_all() {
    // The kernel makes and removes so many under the one lock that every other lab needs.
    let _turn = Turn::alone();
    let directory = tempfile::tempdir().unwrap();
    let limited = directory.path().join("hb");
    let options = options(slow());
    let hb = options.hb.as_ref().unwrap().display();
    let script = format!("#!/bin/sh\nulimit -Sn {SOFT_LIMIT}\nexec {hb} \"$@\"\n");
    fs::write(&limited, script).unwrap();
    fs::set_permissions(&limited, fs::Permissions::from_mode(0o755)).unwrap();
    let mut cluster = Cluster::of(Options { hb: Some(limited), ..options });
    let mut lines = String::new();
    for pair in 0..PAIRS {
        writeln!(lines, "link add more{pair} type veth peer name other{pair}").unwrap();
    }
    for node in [Machine::A, Machine::B] {
        cluster.lab.netns(node).ip_batch(&lines).unwrap();
    }
    cluster.start_both();
    for node in [Machine::A, Machine::B] {
        let report = report(&cluster, node);
        let gated = report["interfaces"].as_array().unwrap();
        assert!(gated.len() > 2 * PAIRS as usize, "{report:#}");
        assert_eq!(report["not_gated"].as_array().unwrap().len(), 0, "{report:#}");
    }
    cluster.lab.crash(Machine::A).unwrap();
    cluster.wait_until_alone(Machine::B);
}
