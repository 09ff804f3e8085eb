//! A node loses its power: the other one takes over, and says so to everybody.

use std::{fs, net::IpAddr, thread, time::Duration};

use lab::{
    addresses::{Link, Machine, VIP4, VIP6},
    capture::{Claim, ClaimKind},
    takeover::{takeovers, told},
};

use super::support::{Cluster, PATIENCE, brisk, slow, wait_for};

/// What a loaded machine may add to the deadtime before the other node serves.
const SLACK: Duration = Duration::from_millis(700);

/// Crashes `a` and asserts all that must come of it. Shared with the tests of other engines and
/// transports.
pub(crate) fn crash_and_take_over(cluster: &mut Cluster, deadtime: Duration) {
    let epoch = cluster.epoch(Machine::B);
    let clients = [VIP4.into(), VIP6.into()].map(|vip: IpAddr| cluster.client(vip));

    let crash = cluster.lab.crash(Machine::A).unwrap();

    for client in &clients {
        assert!(client.wait_for_answer(Machine::B, crash, PATIENCE));
    }
    cluster.wait_until_alone(Machine::B);
    assert!(cluster.epoch(Machine::B) > epoch);
    for client in clients {
        let seen = client.finish().unwrap();
        let last = seen.last_answer(Machine::A).unwrap();
        let first = seen.first_answer(Machine::B, crash).unwrap();
        assert!(last.received < first.received, "{last:?}, {first:?}");
        let outage = first.received.since(last.received);
        assert!(outage < deadtime + SLACK, "{outage:?}");
    }
}

#[test]
fn a_crash_moves_both_addresses_the_epoch_and_the_resource() {
    let mut cluster = Cluster::up(brisk());
    crash_and_take_over(&mut cluster, Duration::from_millis(30));

    let epoch = cluster.epoch(Machine::B);
    let taken = takeovers(&cluster.log_file(Machine::B)).unwrap();
    let [takeover] = &taken[..] else { panic!("not one takeover: {taken:?}") };
    assert_eq!(takeover.epoch, Some(epoch));
    assert_eq!((takeover.group.as_str(), takeover.peer.as_str()), ("web", "a"));
    let died = cluster.wait_for_log(Machine::B, "peer died", |line| line["peer"] == "a");
    assert_eq!(died["cause"], takeover.cause.as_str());

    let resource_log = cluster.lab.files().resource_log.clone();
    let started = wait_for("the start of the resource", || {
        told(&resource_log).unwrap().into_iter().find(|t| t.verb == "start" && t.node == "b")
    });
    assert_eq!(started.epoch, epoch.to_string());
    assert_eq!(started.group, "web");
    assert!(started.reason.contains("died"), "{started:?}");
    assert!(started.at > takeover.address.unwrap(), "{started:?} before {takeover:?}");
    let status = cluster.status(Machine::B);
    assert_eq!(status["peers"][0]["life"], "dead");
    assert_eq!(status["groups"][0]["resources"][0]["state"], "running");
}

#[test]
fn the_new_holder_announces_in_all_words_and_again() {
    let mut cluster = Cluster::up(brisk());
    let client = cluster.client(VIP4.into());
    let crash = cluster.lab.crash(Machine::A).unwrap();
    assert!(client.wait_for_answer(Machine::B, crash, PATIENCE));
    // The schedule up to its step of two seconds.
    thread::sleep(Duration::from_millis(2300));
    cluster.wait_until_alone(Machine::B);
    let seen = client.finish().unwrap();

    let mac = Machine::B.mac(Link::Client);
    let claims: Vec<Claim> = seen.claims.into_iter().filter(|claim| claim.at >= crash).collect();
    assert!(claims.iter().all(|claim| claim.mac == mac), "{claims:?}");
    let neighbor = ClaimKind::NeighborAdvertisement { solicited: false, overrides: true };
    for (vip, kind) in [
        (IpAddr::from(VIP4), ClaimKind::ArpRequest),
        (VIP4.into(), ClaimKind::ArpReply(mac)),
        (VIP6.into(), neighbor),
    ] {
        let is_multicast = |claim: &Claim| claim.to.0[0] & 1 == 1;
        let times: Vec<_> = claims
            .iter()
            .filter(|claim| claim.kind == kind && claim.address == vip && is_multicast(claim))
            .map(|claim| claim.at)
            .collect();
        // 0, 1, 5, 20, 100, 500 and 2000 ms; steps that a late thread missed are not made up for,
        // and the kernel may ask for the client's address in the name of the service address.
        assert!((5..=8).contains(&times.len()), "{kind:?}: {claims:?}");
        let span = times.last().unwrap().since(times[0]);
        assert!(span > Duration::from_millis(1900), "{kind:?}: {claims:?}");
        assert!(span < Duration::from_millis(2300), "{kind:?}: {claims:?}");
    }
    // Nobody answers a question with another address than the holder's.
    let other: Vec<_> = claims
        .iter()
        .filter(|claim| claim.address == IpAddr::from(VIP4))
        .filter(|claim| !matches!(claim.kind, ClaimKind::ArpRequest | ClaimKind::ArpReply(_)))
        .collect();
    assert!(other.is_empty(), "{other:?}");
}

/// Its kernel half stays, with a nonce that the other node knows.
#[test]
fn a_node_whose_state_directory_was_lost_is_no_replay_of_itself() {
    let mut cluster = Cluster::up(slow());
    cluster.kill(Machine::B);
    let state = cluster.lab.files().directory.join("state");
    let own = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
    let own = own.into_iter().find(|path| path.to_str().unwrap().ends_with("-b")).unwrap();
    fs::remove_dir_all(own).unwrap();
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.lab.wait_for_controller(Machine::A, true, PATIENCE).unwrap();
    cluster.lab.wait_for_standby(Machine::B, PATIENCE).unwrap();
    let status = cluster.status(Machine::A);
    let peer = &status["peers"][0];
    assert_eq!(peer["incarnation"], 2, "{peer}");
    for link in peer["links"].as_array().unwrap() {
        assert_eq!(link["refused"], serde_json::json!({}), "{peer}");
    }
}
