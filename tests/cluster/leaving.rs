//! A daemon that is told to end hands over first.

use std::time::Duration;

use lab::{
    addresses::{Machine, VIP4},
    clock,
    config::Settings,
    takeover::told,
};
use serde_json::Value;

use super::{
    holders::Watch,
    support::{Cluster, PATIENCE, slow},
};

/// A deadtime that would show: two seconds.
fn patient() -> Settings {
    Settings {
        interval: "2ms".into(),
        misses: 1000,
        initdead: "4s".into(),
        controller_deadtime: "1s".into(),
        ..slow()
    }
}

/// Has `a` leave as `leave` tells it, and asserts that `b` took over without detecting anything.
fn hand_over(leave: impl FnOnce(&Cluster)) {
    let mut cluster = Cluster::up(patient());
    let epoch = cluster.epoch(Machine::B);
    let client = cluster.client(VIP4.into());
    let watch = Watch::start(&cluster);

    let asked = clock::now();
    leave(&cluster);
    assert!(client.wait_for_answer(Machine::B, asked, PATIENCE));
    cluster.wait_for_end(Machine::A);
    cluster.assert_nothing_left(Machine::A);
    cluster.wait_until_alone(Machine::B);

    watch.finish().assert_never_both();
    let seen = client.finish().unwrap();
    let last = seen.last_answer(Machine::A).unwrap();
    let first = seen.first_answer(Machine::B, asked).unwrap();
    let outage = first.received.since(last.received);
    assert!(outage < Duration::from_millis(500), "{outage:?}");
    assert!(cluster.epoch(Machine::B) > epoch);
    // Seen out to the end of its silence: a node that left does not die.
    cluster.wait_for(Machine::B, "a has left", |status| status["peers"][0]["life"] == "left");
    cluster.wait_for_log(Machine::B, "peer left in order", |line| line["peer"] == "a");
    assert_eq!(cluster.logged(Machine::B, "peer died"), Vec::<Value>::new());
    let told = told(&cluster.lab.files().resource_log).unwrap();
    let stopped = told.iter().rev().find(|t| t.node == "a" && t.verb == "stop").unwrap();
    let started = told.iter().find(|t| t.node == "b" && t.verb == "start").unwrap();
    assert!(stopped.at < started.at, "{told:?}");
    assert_eq!(stopped.reason, "leaving in order");
    assert!(started.reason.contains("handed it over"), "{started:?}");
    let log = cluster.logged(Machine::A, "left");
    assert_eq!(log.len(), 1);
}

#[test]
fn sigterm_hands_over() {
    hand_over(|cluster| {
        cluster.lab.signal(Machine::A, libc::SIGTERM).unwrap();
    });
}

#[test]
fn sigint_hands_over() {
    hand_over(|cluster| {
        cluster.lab.signal(Machine::A, libc::SIGINT).unwrap();
    });
}

#[test]
fn hb_stop_hands_over() {
    hand_over(|cluster| {
        let output = cluster.ask(Machine::A, &["stop"]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stdout, b"leaving in order\n");
    });
}

#[test]
fn the_only_node_leaves_nothing_behind() {
    let mut cluster = Cluster::new(slow());
    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.wait_until_alone(Machine::A);
    cluster.lab.signal(Machine::A, libc::SIGTERM).unwrap();
    cluster.wait_for_end(Machine::A);
    cluster.assert_nothing_left(Machine::A);
    let told = told(&cluster.lab.files().resource_log).unwrap();
    assert_eq!(told.last().unwrap().verb, "stop");
}

#[test]
fn the_standby_leaves_without_a_trace_at_the_client() {
    let mut cluster = Cluster::up(slow());
    let client = cluster.client(VIP4.into());
    cluster.lab.signal(Machine::B, libc::SIGTERM).unwrap();
    cluster.wait_for_end(Machine::B);
    cluster.assert_nothing_left(Machine::B);
    cluster.wait_for(Machine::A, "b has left", |status| status["peers"][0]["life"] == "left");
    cluster.wait_until_alone(Machine::A);
    let seen = client.finish().unwrap();
    let gap = seen.longest_gap().unwrap();
    assert!(gap < Duration::from_millis(200), "{gap:?}");
    assert!(seen.last_answer(Machine::B).is_none());
}

/// How long the newest daemon of a node took no part at its start, in milliseconds.
fn waited(cluster: &Cluster, node: Machine) -> u64 {
    let lines = cluster.logged(node, "taking no part yet: what an earlier life promised may bind");
    lines.first().map_or(0, |line| line["for_ms"].as_u64().unwrap())
}

#[test]
fn nodes_that_left_in_order_need_not_wait_for_what_they_promised_and_others_do() {
    let mut cluster = Cluster::up(Settings { policy: "witness".into(), ..slow() });
    for node in [Machine::A, Machine::B] {
        cluster.lab.signal(node, libc::SIGTERM).unwrap();
        cluster.wait_for_end(node);
        cluster.assert_nothing_left(node);
    }
    for node in [Machine::A, Machine::B] {
        cluster.lab.start_daemon(node).unwrap();
    }
    cluster.wait_until_alone(Machine::A);
    for node in [Machine::A, Machine::B] {
        assert!(waited(&cluster, node) < 1000, "{node}: {} ms", waited(&cluster, node));
    }

    // The note is believed once: after a loss of power the whole wait applies again.
    cluster.kill(Machine::B);
    let config = cluster.lab.files().config.clone();
    let detach = ["detach", "--config", config.to_str().unwrap(), "--node", "b"];
    let output = cluster.hb(Machine::B, &detach);
    assert!(output.status.success(), "{output:?}");
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_for_log(Machine::B, "started", |_| true);
    cluster.wait_for(Machine::B, "b hears a", |status| status["peers"][0]["life"] == "alive");
    assert!(waited(&cluster, Machine::B) > 1500, "{} ms", waited(&cluster, Machine::B));
}
