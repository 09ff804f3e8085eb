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

const CONFLICT: &str = "two nodes hold the group: the one that is worse placed gives it up";

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
    // It hears that b holds the group at a higher epoch, and goes on for a while.
    cluster.wait_for(Machine::A, "it gave the group up", |status| {
        status["groups"][0]["state"] == "idle" && status["groups"][0]["holder"] == "b"
    });
    assert_eq!(cluster.vips(Machine::A), [].into());
    cluster.lab.heal(Machine::A);
    cluster.wait_until_serving(Machine::B);
    client.finish().unwrap();
}

#[test]
fn a_partition_ends_with_the_longer_service() {
    let mut cluster = Cluster::up(slow());
    let client = cluster.client(VIP4.into());

    let cut = cluster.lab.cut(Machine::A);
    assert!(client.wait_for_answer(Machine::B, cut, PATIENCE));
    cluster.wait_until_alone(Machine::B);
    cluster.wait_for(Machine::A, "it holds the group on its side", |status| {
        status["peers"][0]["life"] == "dead" && status["groups"][0]["state"] == "holding"
    });
    let taken = cluster.epoch(Machine::B);

    let healed = cluster.lab.heal(Machine::A);
    cluster.wait_until_serving(Machine::A);
    // Under a number above what the other one took.
    let held = cluster.epoch(Machine::A);
    assert!(held > taken, "{held} after {taken}");
    // b has the higher epoch, and is told of a before its record gives way.
    cluster.wait_for_log(Machine::B, CONFLICT, |line| line["won"] == false);
    let conflicts = cluster.logged(Machine::B, CONFLICT);
    assert_eq!(conflicts.last().unwrap()["won"], false, "its last word: {conflicts:?}");
    assert!(conflicts.len() <= 2, "{conflicts:?}");
    // a may have looked too late to see that b held it as well; if it saw, it saw the end of it.
    for conflict in cluster.logged(Machine::A, CONFLICT) {
        assert_eq!(conflict["won"], true, "{conflict}");
        cluster.wait_for_log(Machine::A, "the other node gave the group up", |_| true);
    }
    // Whatever b said meanwhile, a has the last word.
    let end = clock::now();
    assert!(client.wait_for_answer(Machine::A, end, PATIENCE));
    thread::sleep(Duration::from_millis(300));
    let seen = client.finish().unwrap();
    let mac = Machine::A.mac(Link::Client);
    let again = |kind| {
        seen.claims.iter().any(|claim| claim.at >= healed && claim.mac == mac && claim.kind == kind)
    };
    assert!(again(ClaimKind::ArpRequest) && again(ClaimKind::ArpReply(mac)), "{:?}", seen.claims);
    let last = seen.last_answer(Machine::B).map(|answer| answer.received);
    assert!(last.is_none_or(|last| last < end), "b answers after it gave up");
}
