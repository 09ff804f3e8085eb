//! A start at boot, when the network is not all there.

use std::{fs, thread, time::Duration};

use lab::addresses::{Link, Machine};

use super::support::{Cluster, slow, to_its_end, wait_for};

const WAITS: &str = "waits for the network: this host lacks what the configuration names";

/// Starts the daemon of `a`, which waits for `missing`, and says so to who asks.
fn waits(cluster: &mut Cluster, missing: &str) {
    cluster.lab.start_daemon(Machine::A).unwrap();
    let said = wait_for("it says what it waits for", || {
        cluster.lab.daemon_mut(Machine::A).unwrap().check().unwrap();
        cluster.logged(Machine::A, WAITS).first().cloned()
    });
    assert!(said.to_string().contains(missing), "{said}");
    let output = cluster.ask(Machine::A, &["status"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains("waits for the network") && told.contains(missing), "{told}");
    // It looks again and again, and has nothing new to say.
    thread::sleep(Duration::from_millis(600));
    assert_eq!(cluster.logged(Machine::A, WAITS).len(), 1);
    assert!(!cluster.lab.pins(Machine::A).exists());
}

/// Takes something of `a`'s network away with `ip`, and brings it back once the daemon waits for it.
fn comes_late(take: &[&[&str]], missing: &str, bring: &[&[&str]]) {
    let mut cluster = Cluster::new(slow());
    let ip = |cluster: &Cluster, steps: &[&[&str]]| {
        for step in steps {
            cluster.lab.netns(Machine::A).ip(step).unwrap();
        }
    };
    ip(&cluster, take);
    waits(&mut cluster, missing);
    ip(&cluster, bring);
    cluster.wait_until_alone(Machine::A);
    let goes_on = "the network is there: the start goes on";
    assert_eq!(cluster.logged(Machine::A, goes_on).len(), 1);
}

#[test]
fn an_interface_that_comes_late_is_waited_for() {
    let v6 = format!("{}/64", Machine::A.v6());
    comes_late(
        &[&["link", "set", "eth0", "down"], &["link", "set", "eth0", "name", "late0"]],
        "no interface eth0",
        &[
            &["link", "set", "late0", "name", "eth0"],
            &["link", "set", "eth0", "up"],
            &["address", "add", &v6, "dev", "eth0", "nodad"],
        ],
    );
}

#[test]
fn an_address_that_comes_late_is_waited_for() {
    let v4 = format!("{}/24", Machine::A.v4(Link::Client));
    comes_late(
        &[&["address", "del", &v4, "dev", "eth0"]],
        "is not on eth0 of this host",
        &[&["address", "add", &v4, "dev", "eth0"]],
    );
}

#[test]
fn a_wait_is_ended_in_order_and_leaves_nothing() {
    let mut cluster = Cluster::new(slow());
    cluster.edit("interface = \"eth1\"", "interface = \"eth7\"");
    for signal in [libc::SIGTERM, libc::SIGINT] {
        waits(&mut cluster, "no interface eth7");
        for harmless in [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2] {
            cluster.lab.signal(Machine::A, harmless).unwrap();
        }
        thread::sleep(Duration::from_millis(100));
        cluster.lab.daemon_mut(Machine::A).unwrap().check().unwrap();
        cluster.lab.signal(Machine::A, signal).unwrap();
        cluster.wait_for_end(Machine::A);
        cluster.assert_nothing_left(Machine::A);
    }
    waits(&mut cluster, "no interface eth7");
    assert!(cluster.ask(Machine::A, &["stop"]).status.success());
    cluster.wait_for_end(Machine::A);
    cluster.assert_nothing_left(Machine::A);
}

#[test]
fn a_wait_that_is_bounded_ends_with_what_is_missing() {
    let cluster = Cluster::new(slow());
    cluster.edit("interface = \"eth1\"", "interface = \"eth7\"");
    let config = cluster.lab.files().config.clone();
    let text = fs::read_to_string(&config).unwrap();
    for (limit, waits) in [("0s", false), ("700ms", true)] {
        let bounded = format!("[cluster]\nnetwork_wait = \"{limit}\"\n");
        fs::write(&config, text.replacen("[cluster]\n", &bounded, 1)).unwrap();
        let mut command = cluster.lab.hb(Machine::A).unwrap();
        command.args(["run", "--node=a", "--config"]).arg(&config);
        let output = to_its_end(command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("this host has no interface eth7"), "{said}");
        assert_eq!(said.contains(WAITS), waits, "{limit}: {said}");
        cluster.assert_nothing_left(Machine::A);
    }
}

#[test]
fn an_ipv6_address_that_is_still_tentative_is_waited_for() {
    let settings = lab::config::Settings {
        links: vec![(Link::Client, "udp6"), (Link::Direct, "ethernet")],
        ..slow()
    };
    let mut cluster = Cluster::new(settings);
    let netns = cluster.lab.netns(Machine::A);
    let v6 = format!("{}/64", Machine::A.v6());
    for (key, value) in [("accept_dad", "1"), ("dad_transmits", "3")] {
        netns.sysctl(&format!("ipv6/conf/eth0/{key}"), value).unwrap();
    }
    netns.ip(&["address", "del", &v6, "dev", "eth0"]).unwrap();
    netns.ip(&["address", "add", &v6, "dev", "eth0"]).unwrap();
    cluster.lab.start_daemon(Machine::A).unwrap();
    let said = wait_for("it says what it waits for", || {
        cluster.logged(Machine::A, WAITS).first().cloned()
    });
    assert!(said.to_string().contains("no longer tentative"), "{said}");
    cluster.wait_until_alone(Machine::A);
    assert_eq!(cluster.logged(Machine::A, "started").len(), 1);
}
