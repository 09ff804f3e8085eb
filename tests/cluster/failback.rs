//! A node comes back.

use std::{thread, time::Duration};

use lab::{
    addresses::{Machine, VIP4},
    clock,
    config::Settings,
    takeover::{takeovers, told},
};

use super::{
    holders::Watch,
    support::{Cluster, PATIENCE, slow},
};

#[test]
fn a_node_that_returns_stands_by() {
    let mut cluster = Cluster::up(slow());
    let before = cluster.epoch(Machine::A);
    cluster.lab.crash(Machine::A).unwrap();
    cluster.wait_until_alone(Machine::B);
    let taken = cluster.epoch(Machine::B);
    assert!(taken > before, "{taken} after {before}");
    cluster.lab.reboot(Machine::A).unwrap();
    let client = cluster.client(VIP4.into());
    let watch = Watch::start(&cluster);

    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.wait_until_serving(Machine::B);
    // Longer than it waits for anything before it takes a group.
    thread::sleep(Duration::from_millis(1300));
    cluster.wait_until_serving(Machine::B);

    let seen = watch.finish();
    seen.assert_never(Machine::A);
    let seen = client.finish().unwrap();
    assert!(seen.last_answer(Machine::A).is_none());
    // Under leases it takes a higher number, above the floor of the node that is back.
    let held = cluster.epoch(Machine::B);
    assert_eq!(cluster.epoch(Machine::A), held);
    assert!(held >= taken && held & 0xff == taken & 0xff, "{held} after {taken}");
    let status = cluster.status(Machine::A);
    assert_eq!(status["groups"][0]["reason"], "b holds it");
}

#[test]
fn with_failback_the_group_returns_without_a_gap_between_its_holders() {
    let mut cluster = Cluster::up(Settings { auto_failback: true, ..slow() });
    cluster.lab.crash(Machine::A).unwrap();
    cluster.wait_until_alone(Machine::B);
    let taken = cluster.epoch(Machine::B);
    cluster.lab.reboot(Machine::A).unwrap();
    let client = cluster.client(VIP4.into());
    let watch = Watch::start(&cluster);

    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.wait_until_serving(Machine::A);
    assert!(client.wait_for_answer(Machine::A, clock::now(), PATIENCE));

    watch.finish().assert_never_both();
    let seen = client.finish().unwrap();
    let last = seen.last_answer(Machine::B).unwrap();
    let first = seen.first_answer(Machine::A, last.received).unwrap();
    let outage = first.received.since(last.received);
    assert!(outage < Duration::from_millis(1000), "{outage:?}");
    let returned = cluster.epoch(Machine::A);
    assert!(returned > taken, "{returned} after {taken}");
    // Stopped there before it was started here.
    let told = told(&cluster.lab.files().resource_log).unwrap();
    let stopped = told.iter().rev().find(|t| t.node == "b" && t.verb == "stop").unwrap();
    let started = told.iter().rev().find(|t| t.node == "a" && t.verb == "start").unwrap();
    assert!(stopped.at < started.at, "{told:?}");
    assert!(stopped.reason.contains("failback"), "{stopped:?}");
}

#[test]
fn with_a_delay_the_group_returns_once_the_preferred_node_stood_by_for_so_long() {
    let mut cluster = Cluster::new(Settings { auto_failback: true, resource: false, ..slow() });
    cluster.edit("auto_failback = true", "auto_failback = \"after 4s\"");
    cluster.start_both();
    cluster.lab.crash(Machine::A).unwrap();
    cluster.wait_until_alone(Machine::B);
    cluster.lab.reboot(Machine::A).unwrap();
    let started = clock::now();
    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.wait_for(Machine::B, "it moves back", |status| {
        let reason = status["groups"][0]["reason"].as_str().unwrap_or_default();
        reason.starts_with("moves back to a in ")
    });
    // The delay begins anew.
    cluster.kill(Machine::A);
    cluster.wait_for(Machine::B, "it moves back no more", |status| {
        status["groups"][0]["reason"].is_null()
    });
    let again = clock::now();
    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.wait_until_serving(Machine::A);
    let took = clock::now().since(again);
    assert!(took >= Duration::from_secs(4), "{took:?} after {:?}", again.since(started));
}

#[test]
fn epochs_grow_over_a_restart_of_everything() {
    let mut cluster = Cluster::up(slow());
    let mut before = cluster.epoch(Machine::A);
    for _ in 0..2 {
        for node in [Machine::B, Machine::A] {
            cluster.lab.signal(node, libc::SIGTERM).unwrap();
            cluster.wait_for_end(node);
            cluster.assert_nothing_left(node);
        }
        cluster.start_both();
        let after = cluster.epoch(Machine::A);
        assert!(after > before, "{after} after {before}");
        before = after;
    }
}

/// The preferred node was restarted in order: it is given the group back at the first try.
#[test]
fn with_failback_a_node_that_was_restarted_takes_the_group_at_once() {
    for policy in ["available", "witness", "safe"] {
        let settings = Settings { auto_failback: true, resource: false, ..slow() };
        let mut cluster = Cluster::up(Settings { policy: policy.into(), ..settings });
        cluster.lab.signal(Machine::A, libc::SIGTERM).unwrap();
        cluster.wait_for_end(Machine::A);
        cluster.wait_until_alone(Machine::B);
        let watch = Watch::start(&cluster);
        cluster.lab.start_daemon(Machine::A).unwrap();
        cluster.wait_until_serving(Machine::A);
        let seen = watch.finish();
        seen.assert_never_both();
        // From b, perhaps over nobody, to a: b took nothing back.
        let holders: Vec<_> = seen
            .holders
            .iter()
            .map(|(_, holders)| holders.as_slice())
            .filter(|h| !h.is_empty())
            .collect();
        assert_eq!(holders, [&[Machine::B][..], &[Machine::A][..]], "{policy}");
        // At b's word, not after a look round.
        let log = cluster.lab.daemon(Machine::A).unwrap().log();
        let taken = takeovers(log).unwrap();
        let cause = taken.last().map(|takeover| takeover.cause.as_str());
        assert_eq!(cause, Some("handed-over"), "{policy}: {taken:?}");
    }
}
