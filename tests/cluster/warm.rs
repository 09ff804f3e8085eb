//! Addresses that are up on both nodes: only the gate tells who serves.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use lab::{
    addresses::{Link, Machine, VIP4, VIP6},
    capture::ClaimKind,
    clock,
    config::Settings,
};

use super::{
    gate::{assert_closed, assert_open, ip, what_stays},
    held_lock::Hold,
    support::{Cluster, PATIENCE, both_vips, slow, wait_for},
};

fn warm() -> Settings {
    Settings { warm: true, ..slow() }
}

fn address_of(cluster: &mut Cluster, node: Machine) -> Vec<(bool, bool)> {
    let status = cluster.status(node);
    let addresses = status["groups"][0]["addresses"].as_array().unwrap().clone();
    let told = |what: &str, address: &serde_json::Value| address[what].as_bool().unwrap();
    addresses.iter().map(|address| (told("present", address), told("warm", address))).collect()
}

#[test]
fn a_standby_with_the_addresses_speaks_for_none_of_them() {
    let mut cluster = Cluster::up(warm());
    assert_eq!(cluster.vips(Machine::B), both_vips());
    assert_eq!(address_of(&mut cluster, Machine::B), [(true, true); 2]);
    let text = cluster.ask(Machine::B, &["status"]).stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.contains("present, closed"), "{text}");

    // Whoever asks for the address hears the holder and nobody else.
    let client = cluster.client(VIP4.into());
    let begun = clock::now();
    for vip in both_vips() {
        let machine = cluster.lab.netns(Machine::Client);
        for _ in 0..3 {
            machine.ip(&["neigh", "flush", "to", &vip.to_string()]).unwrap();
            assert_eq!(cluster.lab.who_serves(vip, PATIENCE).unwrap(), Some(Machine::A));
        }
    }
    assert!(client.wait_for_answer(Machine::A, clock::now(), PATIENCE));
    let seen = client.finish().unwrap();
    let answers: Vec<_> = seen
        .claims
        .iter()
        .filter(|claim| claim.at >= begun && both_vips().contains(&claim.address))
        .collect();
    let solicited = |kind| matches!(kind, ClaimKind::NeighborAdvertisement { solicited: true, .. });
    assert!(answers.iter().any(|claim| solicited(claim.kind)), "{answers:?}");
    assert!(answers.iter().any(|claim| matches!(claim.kind, ClaimKind::ArpReply(_))));
    let holder = Machine::A.mac(Link::Client);
    assert!(answers.iter().all(|claim| claim.mac == holder), "{answers:?}");

    assert_open(&cluster, Machine::A);
    assert_closed(&cluster, Machine::B);
    for vip in both_vips() {
        assert_eq!(what_stays(&cluster, Machine::B, vip), BTreeSet::new(), "{vip}");
    }
    // It leaves as it came.
    cluster.lab.signal(Machine::B, libc::SIGTERM).unwrap();
    cluster.wait_for_end(Machine::B);
    cluster.assert_nothing_left(Machine::B);
}

#[test]
fn an_address_that_somebody_takes_from_a_warm_standby_is_put_back() {
    let mut cluster = Cluster::up(warm());
    ip(&cluster, Machine::B, &format!("address del {VIP4}/32 dev eth0"));
    cluster.wait_for_log(Machine::B, "address is gone: putting it back", |line| {
        line["vip"].as_str().is_some_and(|vip| vip.contains(&VIP4.to_string()))
    });
    cluster.wait_until_warm(Machine::B);

    // Also one that was taken so late that the takeover did not know.
    ip(&cluster, Machine::B, &format!("address del {VIP6}/64 dev eth0"));
    let epoch = cluster.epoch(Machine::A);
    cluster.kill(Machine::A);
    wait_for("the address that was gone", || {
        (cluster.vips(Machine::B) == both_vips()).then_some(())
    });
    cluster.wait_until_alone(Machine::B);
    assert!(cluster.epoch(Machine::B) > epoch);
}

#[test]
fn a_group_that_moves_is_left_clean_and_warm_again() {
    let mut cluster = Cluster::up(Settings { policy: "witness".into(), ..warm() });
    let vip: IpAddr = VIP4.into();
    for (from, to) in [(Machine::A, Machine::B), (Machine::B, Machine::A)] {
        // Work of the epoch that is left.
        let netns = cluster.lab.netns(from);
        let listener = netns.enter(|| std::net::TcpListener::bind((vip, 7070)).unwrap()).unwrap();
        let machine = cluster.lab.netns(Machine::Client);
        let stream = machine.enter(|| std::net::TcpStream::connect((vip, 7070)).unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();

        let moved = cluster.ask(from, &["move", "web", to.name()]);
        assert!(moved.status.success(), "{moved:?}");
        cluster.wait_until_serving(to);
        let error = wait_for("the end of a connection", || accepted.take_error().unwrap());
        assert_eq!(error.raw_os_error(), Some(libc::ECONNABORTED));
        assert_open(&cluster, to);
        assert_closed(&cluster, from);
        drop((stream, listener));
    }
}

/// It asks nothing of the kernel that others might keep waiting.
#[test]
fn a_warm_takeover_does_not_wait_for_the_kernels_lock() {
    let mut cluster = Cluster::up(Settings { resource: false, ..warm() });
    let client = cluster.client(VIP4.into());
    let hold = Hold::begin(&cluster, Duration::from_millis(2000), || {});
    let crash = cluster.lab.crash(Machine::A).unwrap();
    assert!(client.wait_for_answer(Machine::B, crash, PATIENCE));
    let took = clock::now().since(crash);
    assert!(!hold.is_over(), "the lock was free before the takeover, {took:?} after the crash");
    let held = hold.end();
    assert!(held > Duration::from_millis(600), "held for {held:?}, which is too short");
    cluster.wait_until_alone(Machine::B);
    drop(client.finish().unwrap());
}

#[test]
fn the_next_daemon_after_a_killed_one_finds_warm_addresses_and_goes_on() {
    let mut cluster = Cluster::up(warm());
    cluster.kill(Machine::B);
    assert_eq!(cluster.vips(Machine::B), both_vips(), "nobody took them away");
    assert_closed(&cluster, Machine::B);
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_until_serving(Machine::A);
    assert_closed(&cluster, Machine::B);
    cluster.kill(Machine::A);
    cluster.wait_until_alone(Machine::B);
}

#[test]
fn a_gate_that_lets_pass_is_refused_beside_warm_addresses() {
    let cluster = Cluster::new(warm());
    cluster.edit("[log]", "[gate]\nmode = \"dry-run\"\n\n[log]");
    let config = cluster.lab.files().config.to_str().unwrap().to_owned();
    let output = cluster.hb(Machine::A, &["check", &config, "--node", "a"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("\"dry-run\" is in the way of warm_addresses"), "{text}");
}
