//! A service address with so many connections that ending them takes long.

use std::{net::IpAddr, time::Duration};

use lab::{
    addresses::{Link, Machine, VIP4, VIP6},
    config::Settings,
    crowd::Crowd,
};

use super::support::{Cluster, slow, wait_for};

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
