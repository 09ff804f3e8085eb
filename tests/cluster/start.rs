//! Nodes that start do not fight.

use std::{thread, time::Duration};

use lab::{
    addresses::{Machine, NODES, VIP4},
    config::Settings,
};

use super::{
    holders::Watch,
    support::{Cluster, slow, to_its_end},
};

/// Starts the nodes in that order, `apart` from each other, and asserts that `a` comes to serve and
/// nobody else ever had an address.
fn start(cluster: &mut Cluster, order: [Machine; 2], apart: Duration) {
    for node in NODES {
        cluster.lab.reboot(node).unwrap();
    }
    let watch = Watch::start(cluster);
    cluster.lab.start_daemon(order[0]).unwrap();
    thread::sleep(apart);
    cluster.lab.start_daemon(order[1]).unwrap();
    cluster.wait_until_serving(Machine::A);
    let seen = watch.finish();
    seen.assert_never_both();
    seen.assert_never(Machine::B);
    for node in NODES {
        for message in
            ["two nodes hold the group: the one that is worse placed gives it up", "takeover"]
        {
            assert_eq!(cluster.logged(node, message), Vec::<serde_json::Value>::new());
        }
    }
}

#[test]
fn the_preferred_node_serves_whoever_starts_first() {
    let mut cluster = Cluster::new(slow());
    for (order, apart_ms) in [
        ([Machine::A, Machine::B], 0),
        ([Machine::B, Machine::A], 0),
        ([Machine::A, Machine::B], 15),
        ([Machine::B, Machine::A], 15),
        ([Machine::B, Machine::A], 60),
        ([Machine::A, Machine::B], 400),
        ([Machine::B, Machine::A], 400),
    ] {
        start(&mut cluster, order, Duration::from_millis(apart_ms));
    }
}

#[test]
fn a_node_alone_waits_and_then_serves() {
    let mut cluster = Cluster::new(slow());
    let watch = Watch::start(&cluster);
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_for(Machine::B, "it is joining", |status| {
        let reason = &status["groups"][0]["reason"];
        reason.as_str().is_some_and(|reason| reason.contains("joining"))
    });
    cluster.wait_until_alone(Machine::B);
    let first = watch.finish().holders;
    let died = cluster.wait_for_log(Machine::B, "peer died", |line| line["peer"] == "a");
    assert_eq!(died["peer"], "a", "{died}");
    assert_eq!(first.last().unwrap().1, [Machine::B]);
    assert_eq!(
        cluster.lab.who_serves(VIP4.into(), Duration::from_secs(5)).unwrap(),
        Some(Machine::B)
    );
}

/// What was promised by terms that bind for 4.7 s binds on when the next ones ask for 2.4.
#[test]
fn a_restart_with_shorter_terms_ends_no_promise_sooner() {
    let settings = Settings {
        policy: "witness".into(),
        lease: Some("1900ms".into()),
        margin: Some("1900ms".into()),
        drain: Some("2300ms".into()),
        ..slow()
    };
    let mut cluster = Cluster::up(settings);
    cluster.kill(Machine::B);
    cluster.edit("margin = \"1900ms\"", "margin = \"1ms\"");
    cluster.edit("drain = \"2300ms\"", "drain = \"2ms\"");
    cluster.lab.start_daemon(Machine::B).unwrap();
    let message = "taking no part yet: what an earlier life promised may bind";
    let line = cluster.wait_for_log(Machine::B, message, |line| line["for_ms"].is_u64());
    let left = line["for_ms"].as_u64().unwrap();
    assert!(left > 3_000, "{left} ms");
}

/// Leases and stamps run by the kernel's clock, which a time namespace sets off for a process.
#[test]
fn a_daemon_with_another_clock_is_refused() {
    let mut cluster = Cluster::up(slow());
    cluster.kill(Machine::B);
    let hb = cluster.lab.hb(Machine::B).unwrap().get_program().to_owned();
    for boottime in ["100000", "-1"] {
        let mut command = cluster.lab.netns(Machine::B).command("unshare").unwrap();
        command.args(["--time", "--boottime", boottime]).arg(&hb).arg("run");
        command.arg("--config").arg(&cluster.lab.files().config).args(["--node", "b"]);
        let output = to_its_end(command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{boottime}: {said}");
        assert!(said.contains("time namespace"), "{boottime}: {said}");
    }
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_until_serving(Machine::A);
}
