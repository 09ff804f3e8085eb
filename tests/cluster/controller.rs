//! A daemon dies or hangs while its kernel half lives.

use std::{thread, time::Duration};

use lab::{
    addresses::{Machine, NODES, VIP4},
    client::Client,
    clock,
};
use serde_json::Value;

use super::{
    holders::Watch,
    support::{Cluster, PATIENCE, slow},
};

/// What a client may miss while a daemon is killed and started, for reasons of this machine.
const GAP: Duration = Duration::from_millis(150);

fn dead(cluster: &mut Cluster, node: Machine) -> Value {
    cluster.wait_for(node, "the peer's controller is dead", |status| {
        status["peers"][0]["controller"]["alive"] == false
    })
}

/// Asserts that `a` served the client all the time.
fn served_by_a(client: Client) {
    assert!(client.wait_for_answer(Machine::A, clock::now(), PATIENCE));
    let seen = client.finish().unwrap();
    assert!(seen.last_answer(Machine::B).is_none());
    let gap = seen.longest_gap().unwrap();
    assert!(gap < GAP, "{gap:?}, client late by {:?}", seen.worst_lateness);
}

/// Kills the daemon of `node`, looks on, starts it again.
fn kill_and_repair(node: Machine) {
    let mut cluster = Cluster::up(slow());
    let epoch = cluster.epoch(Machine::A);
    let incarnation = cluster.status(node)["incarnation"].as_u64().unwrap();
    let client = cluster.client(VIP4.into());
    let watch = Watch::start(&cluster);

    cluster.kill(node);
    let status = dead(&mut cluster, node.peer());
    assert_eq!(status["peers"][0]["life"], "alive", "its kernel half answers: {status:#}");
    cluster.wait_for_log(
        node.peer(),
        "peer's controller is dead, its kernel half answers",
        |line| line["peer"] == node.name(),
    );
    // Whatever would come of it by mistake has time to.
    thread::sleep(Duration::from_millis(700));
    let output = cluster.ask(node, &["status"]);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains(cluster.lab.socket(node).to_str().unwrap()), "{text}");

    cluster.lab.start_daemon(node).unwrap();
    cluster.wait_until_serving(Machine::A);
    let status = cluster.wait_for(node.peer(), "the new incarnation", |status| {
        status["peers"][0]["incarnation"].as_u64() == Some(incarnation + 1)
    });
    assert_eq!(status["peers"][0]["controller"]["alive"], true);
    assert_eq!(cluster.status(node)["incarnation"].as_u64(), Some(incarnation + 1));

    let seen = watch.finish();
    seen.assert_never(Machine::B);
    assert_eq!(seen.holders.len(), 1, "the addresses stayed: {:?}", seen.holders);
    served_by_a(client);
    assert_eq!(cluster.logged(node.peer(), "peer died"), Vec::<Value>::new());
    assert_eq!(cluster.epoch(Machine::A), epoch);
}

#[test]
fn the_holders_daemon_killed_moves_nothing() {
    kill_and_repair(Machine::A);
}

#[test]
fn the_standbys_daemon_killed_moves_nothing() {
    kill_and_repair(Machine::B);
}

#[test]
fn a_crash_after_the_daemon_was_killed_is_a_takeover() {
    let mut cluster = Cluster::up(slow());
    cluster.kill(Machine::A);
    dead(&mut cluster, Machine::B);
    let client = cluster.client(VIP4.into());
    let crash = cluster.lab.crash(Machine::A).unwrap();
    assert!(client.wait_for_answer(Machine::B, crash, PATIENCE));
    cluster.wait_until_alone(Machine::B);
    client.finish().unwrap();
}

#[test]
fn a_standby_that_was_killed_and_repaired_takes_over() {
    let mut cluster = Cluster::up(slow());
    cluster.kill(Machine::B);
    dead(&mut cluster, Machine::A);
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_until_serving(Machine::A);
    let client = cluster.client(VIP4.into());
    let crash = cluster.lab.crash(Machine::A).unwrap();
    assert!(client.wait_for_answer(Machine::B, crash, PATIENCE));
    cluster.wait_until_alone(Machine::B);
    client.finish().unwrap();
}

/// Stops the daemon of `node` for a second.
fn freeze(node: Machine) {
    let mut cluster = Cluster::up(slow());
    let epoch = cluster.epoch(Machine::A);
    let client = cluster.client(VIP4.into());
    let watch = Watch::start(&cluster);

    cluster.lab.signal(node, libc::SIGSTOP).unwrap();
    dead(&mut cluster, node.peer());
    thread::sleep(Duration::from_secs(1));
    cluster.lab.signal(node, libc::SIGCONT).unwrap();

    cluster.wait_until_serving(Machine::A);
    cluster.wait_for_log(node.peer(), "peer's controller is alive", |_| true);
    // The thawed node could accuse the other one of its own silence for this long.
    thread::sleep(Duration::from_millis(500));
    cluster.wait_until_serving(Machine::A);
    let seen = watch.finish();
    seen.assert_never(Machine::B);
    assert_eq!(seen.holders.len(), 1, "{:?}", seen.holders);
    served_by_a(client);
    for node in NODES {
        assert_eq!(cluster.logged(node, "peer died"), Vec::<Value>::new(), "{node}");
        assert_eq!(cluster.epoch(node), epoch);
    }
}

#[test]
fn a_standby_that_thaws_after_a_crash_takes_over() {
    let mut cluster = Cluster::up(slow());
    cluster.lab.signal(Machine::B, libc::SIGSTOP).unwrap();
    dead(&mut cluster, Machine::A);
    cluster.lab.crash(Machine::A).unwrap();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(cluster.vips(Machine::B), [].into());
    let thawed = cluster.lab.signal(Machine::B, libc::SIGCONT).unwrap();
    let client = cluster.client(VIP4.into());
    assert!(client.wait_for_answer(Machine::B, thawed, PATIENCE));
    client.finish().unwrap();
    cluster.wait_until_alone(Machine::B);
}

#[test]
fn a_standby_that_starts_beside_a_holder_without_daemon_lets_it_serve() {
    let mut cluster = Cluster::up(slow());
    let client = cluster.client(VIP4.into());
    let watch = Watch::start(&cluster);
    cluster.kill(Machine::B);
    cluster.kill(Machine::A);
    cluster.lab.start_daemon(Machine::B).unwrap();
    let status = dead(&mut cluster, Machine::B);
    assert_eq!(status["groups"][0]["holder"], "a", "{status:#}");
    // Longer than it waits for nodes that start.
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(cluster.status(Machine::B)["groups"][0]["reason"], "a holds it");
    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.wait_until_serving(Machine::A);
    watch.finish().assert_never(Machine::B);
    served_by_a(client);
}

#[test]
fn a_frozen_holder_moves_nothing() {
    freeze(Machine::A);
}

#[test]
fn a_frozen_standby_accuses_nobody_when_it_thaws() {
    freeze(Machine::B);
}
