//! Cut cables.

use std::{thread, time::Duration};

use lab::{
    addresses::{LINKS, Link, Machine, NODES, VIP4},
    capture::ClaimKind,
    clock,
    switch::Direction,
};
use serde_json::Value;

use super::{
    holders::Watch,
    support::{Cluster, PATIENCE, link, slow},
};

const CONFLICT: &str = "two nodes hold the group: the higher epoch keeps it";

#[test]
fn one_cut_link_is_reported_and_moves_nothing() {
    let mut cluster = Cluster::up(slow());
    let epoch = cluster.epoch(Machine::A);
    let watch = Watch::start(&cluster);
    for cut in LINKS {
        cluster.lab.switch().cut_link(Machine::A, cut, Direction::Both);
        for node in NODES {
            let status = cluster.wait_for(node, "the link is down", |status| {
                link(status, cut.name())["up"] == false
            });
            assert_eq!(status["peers"][0]["life"], "alive", "{status:#}");
            let other = LINKS.into_iter().find(|link| *link != cut).unwrap();
            assert_eq!(link(&status, other.name())["up"], true, "{status:#}");
            cluster.wait_for_log(node, "link is silent, the peer lives on another", |line| {
                line["link"] == cut.name() && line["peer"] == node.peer().name()
            });
        }
        // Another deadtime, and then some.
        thread::sleep(Duration::from_millis(400));

        cluster.lab.switch().heal_link(Machine::A, cut, Direction::Both);
        for node in NODES {
            cluster
                .wait_for(node, "the link is up", |status| link(status, cut.name())["up"] == true);
            cluster.wait_for_log(node, "link is heard", |line| line["link"] == cut.name());
        }
    }
    cluster.wait_until_serving(Machine::A);
    watch.finish().assert_never(Machine::B);
    assert_eq!(cluster.epoch(Machine::B), epoch);
    assert_eq!(cluster.logged(Machine::B, "takeover"), Vec::<Value>::new());
    assert_eq!(cluster.logged(Machine::B, "peer died"), Vec::<Value>::new());
}

#[test]
fn a_holder_that_is_not_heard_any_more_gives_way() {
    let mut cluster = Cluster::up(slow());
    let client = cluster.client(VIP4.into());
    for link in LINKS {
        cluster.lab.switch().cut_link(Machine::A, link, Direction::FromMachine);
    }
    assert!(client.wait_for_answer(Machine::B, clock::now(), PATIENCE));
    // It hears that b holds the group at a higher epoch.
    cluster.wait_for(Machine::A, "it gave the group up", |status| {
        status["groups"][0]["state"] == "idle" && status["groups"][0]["holder"] == "b"
    });
    assert_eq!(cluster.vips(Machine::A), [].into());
    cluster.lab.heal(Machine::A);
    cluster.wait_until_serving(Machine::B);
    client.finish().unwrap();
}

#[test]
fn a_partition_ends_with_the_higher_epoch() {
    let mut cluster = Cluster::up(slow());
    let before = cluster.epoch(Machine::A);
    let client = cluster.client(VIP4.into());

    let cut = cluster.lab.cut(Machine::A);
    assert!(client.wait_for_answer(Machine::B, cut, PATIENCE));
    cluster.wait_until_alone(Machine::B);
    cluster.wait_for(Machine::A, "it holds the group on its side", |status| {
        status["peers"][0]["life"] == "dead" && status["groups"][0]["state"] == "holding"
    });
    let taken = cluster.epoch(Machine::B);
    assert!(taken > before);

    let healed = cluster.lab.heal(Machine::A);
    cluster.wait_until_serving(Machine::B);
    assert_eq!(cluster.epoch(Machine::A), taken);
    assert_eq!(cluster.epoch(Machine::B), taken);
    let conflict = cluster.wait_for_log(Machine::A, CONFLICT, |_| true);
    assert_eq!(conflict["won"], false, "{conflict}");
    // b may have looked too late to see that a held it as well; if it saw, it saw the end of it.
    for conflict in cluster.logged(Machine::B, CONFLICT) {
        assert_eq!(conflict["won"], true, "{conflict}");
        cluster.wait_for_log(Machine::B, "the other node gave the group up", |_| true);
    }
    // Whatever a said meanwhile, b has the last word.
    let end = clock::now();
    assert!(client.wait_for_answer(Machine::B, end, PATIENCE));
    thread::sleep(Duration::from_millis(300));
    let seen = client.finish().unwrap();
    let mac = Machine::B.mac(Link::Client);
    let again = |kind| {
        seen.claims.iter().any(|claim| claim.at >= healed && claim.mac == mac && claim.kind == kind)
    };
    assert!(again(ClaimKind::ArpRequest) && again(ClaimKind::ArpReply(mac)), "{:?}", seen.claims);
    let last = seen.last_answer(Machine::A).map(|answer| answer.received);
    assert!(last.is_none_or(|last| last < end), "a answers after it gave up");
}
