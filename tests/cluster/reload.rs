//! The configuration read again while daemons run, and signals that mean something else elsewhere.

use std::{fs, thread, time::Duration};

use lab::{
    addresses::{Machine, NODES},
    clock,
    config::Settings,
};
use serde_json::Value;

use super::support::{Cluster, slow, wait_for};

fn settings() -> Settings {
    Settings { auto_failback: false, ..slow() }
}

/// Deaths that each node saw so far: a reload costs none.
fn deaths(cluster: &mut Cluster) -> Vec<Value> {
    NODES.map(|node| cluster.status(node)["peers"][0]["deaths_total"].clone()).to_vec()
}

/// Has a node read its file again; returns what it says, and whether that was yes.
pub(super) fn reload(cluster: &Cluster, node: Machine) -> (bool, String) {
    let output = cluster.ask(node, &["reload"]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn what_can_be_taken_is_taken_without_a_gap() {
    let mut cluster = Cluster::up(settings());
    let before = deaths(&mut cluster);
    let (done, said) = reload(&cluster, Machine::A);
    assert!(done && said.contains("nothing in the file differs"), "{said}");

    // The level, by SIGHUP.
    let config = cluster.lab.files().config.clone();
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.contains("[log]\n"), "{text}");
    fs::write(&config, text.replacen("[log]\n", "[log]\nlevel = \"debug\"\n", 1)).unwrap();
    let warned = cluster.status(Machine::A)["warnings"].to_string();
    assert!(warned.contains("reload hb to apply: log.level"), "{warned}");
    assert_eq!(cluster.ask(Machine::A, &["status"]).status.code(), Some(1));
    cluster.lab.signal(Machine::A, libc::SIGHUP).unwrap();
    wait_for("it is taken", || {
        let lines = cluster.logged(Machine::A, "configuration read again");
        lines.iter().any(|line| line.to_string().contains("log.level")).then_some(())
    });
    let warned = cluster.status(Machine::A)["warnings"].to_string();
    assert!(!warned.contains("log.level"), "{warned}");

    // Preferences: the group moves once both nodes have them, and not before.
    cluster.edit("preferred = \"a\"", "preferred = \"b\"");
    cluster.edit("auto_failback = false", "auto_failback = true");
    let (done, said) = reload(&cluster, Machine::A);
    assert!(done && said.contains("preferred") && said.contains("auto_failback"), "{said}");
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(cluster.holder(), Machine::A);
    assert!(reload(&cluster, Machine::B).0);
    cluster.wait_until_serving(Machine::B);
    thread::sleep(Duration::from_millis(1000));
    assert_eq!(cluster.holder(), Machine::B);
    assert_eq!(deaths(&mut cluster), before);
    for node in NODES {
        assert_eq!(cluster.ask(node, &["status"]).status.code(), Some(0), "{node}");
    }
}

#[test]
fn what_cannot_be_taken_is_named_and_nothing_is() {
    let mut cluster = Cluster::up(settings());
    let hash = cluster.status(Machine::A)["config_hash"].clone();
    let config = cluster.lab.files().config.clone();
    let good = fs::read_to_string(&config).unwrap();
    let changed = good.replacen("preferred = \"a\"", "preferred = \"b\"", 1);
    for (text, says) in [
        (
            changed.replacen("\"300ms\"", "\"301ms\"", 1),
            "restart hb on this node to apply: timers.controller_deadtime",
        ),
        (
            changed.replacen("192.0.2.100/24", "192.0.2.101/24", 1).replacen(
                "\"300ms\"",
                "\"301ms\"",
                1,
            ),
            "it takes group.web.preferred, group.web.address as well then",
        ),
        (changed.replacen("misses = 40", "misess = 40", 1), "unknown key \"misess\""),
        (changed.replacen("192.0.2.100/24", "198.18.0.1/24", 1), "outside every subnet"),
        ("no TOML".to_owned(), "not valid TOML"),
    ] {
        fs::write(&config, text).unwrap();
        let (done, said) = reload(&cluster, Machine::A);
        assert!(!done && said.contains(says) && said.contains("nothing was changed"), "{said}");
        assert_eq!(cluster.status(Machine::A)["config_hash"], hash);
        assert_eq!(cluster.ask(Machine::A, &["status"]).status.code(), Some(1));
    }
    fs::write(&config, good).unwrap();
    cluster.wait_until_serving(Machine::A);
}

/// Probes that a node sends on a link in a second.
fn probes_in_a_second(cluster: &mut Cluster, node: Machine) -> u64 {
    let mut sent = || cluster.status(node)["peers"][0]["links"][0]["sent"].as_u64().unwrap();
    let (before, began) = (sent(), clock::now());
    thread::sleep(Duration::from_secs(1));
    (sent() - before) * 1_000 / clock::now().since(began).as_millis() as u64
}

/// Slower, then faster: whoever read the file first, nobody is taken for dead.
fn timers_change(settings: Settings) {
    let mut cluster = Cluster::up(settings);
    let before = deaths(&mut cluster);
    let changes = [
        ("\"5ms\"", "\"100ms\"", "= 40", "= 4", [Machine::A, Machine::B], 10),
        ("\"100ms\"", "\"4ms\"", "= 4", "= 50", [Machine::B, Machine::A], 250),
    ];
    for (round, (interval, other, misses, others, [first, last], rate)) in (1..).zip(changes) {
        cluster.edit(&format!("interval = {interval}"), &format!("interval = {other}"));
        cluster.edit(&format!("misses {misses}"), &format!("misses {others}"));
        let was = probes_in_a_second(&mut cluster, first);
        let (done, said) = reload(&cluster, first);
        assert!(done && said.contains("once every node goes by this file"), "{said}");
        let warned = cluster.status(first)["warnings"].to_string();
        assert!(warned.contains("are used once") && warned.contains(last.name()), "{warned}");
        thread::sleep(Duration::from_millis(1500));
        let is = probes_in_a_second(&mut cluster, first);
        assert!(is > was / 2 && is < was * 2 + 2, "nothing changed yet: {was}, {is}");
        assert!(reload(&cluster, last).0);
        for node in NODES {
            wait_for("the timers are changed", || {
                let lines = cluster.logged(node, "timers changed");
                let done = lines.iter().filter(|line| line["done"] == true).count();
                (done == round).then_some(())
            });
            let now = probes_in_a_second(&mut cluster, node);
            assert!(now > rate / 2 && now < rate * 2, "{node} sends {now} instead of {rate}");
        }
    }
    assert_eq!(deaths(&mut cluster), before, "nobody died");
    cluster.wait_until_serving(Machine::A);
    for node in NODES {
        assert_eq!(cluster.ask(node, &["status"]).status.code(), Some(0), "{node}");
    }
    // A crash is found.
    cluster.lab.crash(Machine::A).unwrap();
    cluster.wait_for(Machine::B, "it serves", |status| status["groups"][0]["state"] == "holding");
    assert_eq!(cluster.logged(Machine::B, "peer died").len(), 1);
}

#[test]
fn timers_change_once_both_nodes_have_read_them() {
    timers_change(settings());
}

#[test]
fn timers_change_where_this_daemon_counts_the_misses() {
    timers_change(Settings { engine: "user".into(), ..settings() });
}

/// Lengths of leases follow from timers if the file does not say them, and what a promise binds cannot change
/// while it binds.
#[test]
fn timers_that_change_leases_are_refused_by_name() {
    let witness = Settings { policy: "witness".into(), ..settings() };
    let cluster = Cluster::new(witness);
    super::witness::succeed(&cluster, &[]);
    let mut cluster = cluster;
    cluster.start_both();
    cluster.wait_until_serving(Machine::A);
    cluster.edit("misses = 40", "misses = 80");
    let (done, said) = reload(&cluster, Machine::A);
    assert!(!done && said.contains("apply: lease.length"), "{said}");
    assert!(said.contains("timers.deadtime"), "{said}");
    cluster.wait_until_serving(Machine::A);
}

#[test]
fn signals_that_mean_nothing_end_nothing() {
    let mut cluster = Cluster::up(settings());
    for node in NODES {
        for signal in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGHUP] {
            cluster.lab.signal(node, signal).unwrap();
        }
        wait_for("both are logged", || {
            let said = cluster.logged(node, "signal ignored: it means nothing to hb");
            (said.len() == 2).then_some(())
        });
    }
    cluster.wait_until_serving(Machine::A);
}

#[test]
fn a_control_socket_that_is_removed_comes_back() {
    let mut cluster = Cluster::up(settings());
    let socket = cluster.lab.socket(Machine::A);
    fs::remove_file(&socket).unwrap();
    assert_eq!(cluster.ask(Machine::A, &["status"]).status.code(), Some(3));
    wait_for("it answers again", || {
        cluster.ask(Machine::A, &["status"]).status.code().filter(|code| *code == 0)
    });
    cluster.wait_until_serving(Machine::A);
}

#[test]
fn a_status_tells_a_monitor_how_it_stands() {
    let mut cluster = Cluster::new(settings());
    let code = |cluster: &Cluster, node| cluster.ask(node, &["status"]).status.code();
    assert_eq!(code(&cluster, Machine::A), Some(3));
    cluster.start_both();
    wait_for("all is well", || (code(&cluster, Machine::A) == Some(0)).then_some(()));
    assert_eq!(code(&cluster, Machine::B), Some(0));
    cluster.kill(Machine::B);
    wait_for("it is degraded", || (code(&cluster, Machine::A) == Some(1)).then_some(()));
}
