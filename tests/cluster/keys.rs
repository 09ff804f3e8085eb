//! A new key in the place of an old one, while heartbeats go on.

use std::{fs, process::Output};

use lab::{
    addresses::{Machine, NODES, VIP4},
    config::Settings,
};
use serde_json::{Value, json};

use super::{
    support::{Cluster, slow, wait_for},
    witness,
};

/// Intervals so long that no stall of a machine is a miss.
fn settings() -> Settings {
    Settings {
        policy: "witness".into(),
        interval: "200ms".into(),
        misses: 3,
        initdead: "2s".into(),
        ..slow()
    }
}

fn rotate(cluster: &Cluster, node: Machine, step: &str) -> Output {
    let config = cluster.lab.files().config.to_str().unwrap().to_owned();
    cluster.ask(node, &["key", "rotate", "--step", step, "--config", &config])
}

/// Does a step, which has to succeed and to say so.
fn done(cluster: &Cluster, node: Machine, step: &str, says: &str) {
    let output = rotate(cluster, node, step);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains(says), "{step} on {node}: {output:?}");
}

/// Tries a step, which has to be refused for that reason.
fn refused(cluster: &Cluster, node: Machine, step: &str, reason: &str) {
    let output = rotate(cluster, node, step);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains(reason), "{step} on {node}: {output:?}");
}

/// The keys that `a` and `b` send with, as the witness hears them.
fn heard(cluster: &Cluster) -> [u64; 2] {
    let report = witness::report(cluster);
    NODES.map(|node| {
        let nodes = report["clusters"][0]["nodes"].as_array().unwrap();
        let found = nodes.iter().find(|found| found["id"] == node.id()).unwrap();
        found["links"][0]["key"].as_u64().unwrap()
    })
}

fn ids_in_the_file(cluster: &Cluster) -> Vec<String> {
    let text = fs::read_to_string(cluster.lab.files().directory.join("key")).unwrap();
    let keys = text.lines().filter(|line| !line.starts_with('#'));
    keys.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

/// Misses and deaths of every peer of both nodes, ever.
fn lost(cluster: &mut Cluster) -> Vec<(u64, u64)> {
    let mut lost = Vec::new();
    for node in NODES {
        let status = cluster.status(node);
        for peer in status["peers"].as_array().unwrap() {
            let count = |value: &Value| value.as_u64().unwrap();
            lost.push((count(&peer["misses"]["total"]), count(&peer["deaths_total"])));
        }
    }
    lost
}

/// The machines of the lab share one key file, so copying it is not part of this.
#[test]
fn a_key_is_changed_on_every_machine_without_a_missed_heartbeat() {
    let mut cluster = Cluster::up(settings());
    let epoch = cluster.epoch(Machine::A);
    let client = cluster.client(VIP4.into());
    let before = lost(&mut cluster);

    done(&cluster, Machine::A, "drop", "takes no key but 1 already");
    done(&cluster, Machine::A, "add", "takes key 1 and 2, sends with 1");
    assert_eq!(ids_in_the_file(&cluster), ["1", "2"]);
    // Nobody else knows it yet, then the witness alone does not.
    refused(&cluster, Machine::A, "use", "node b did not answer under key 2");
    done(&cluster, Machine::B, "accept", "takes key 1 and 2, sends with 1");
    refused(&cluster, Machine::A, "use", "node w did not answer under key 2");
    assert_eq!(heard(&cluster), [1, 1]);
    assert_eq!(ids_in_the_file(&cluster), ["1", "2"]);
    let text = witness::succeed(&cluster, &[]);
    assert!(text.contains("votes, its records were kept"), "{text}");

    refused(&cluster, Machine::A, "drop", "this node sends with key 1");
    done(&cluster, Machine::A, "use", "sends with key 2");
    assert_eq!(ids_in_the_file(&cluster), ["2", "1"]);
    refused(&cluster, Machine::A, "drop", "node b still sends with another key than 2");
    cluster.wait_for(Machine::A, "its keys", |status| {
        status["keys"] == json!({"accepted": [1, 2], "sends_with": 2})
    });
    done(&cluster, Machine::B, "use", "sends with key 2");
    done(&cluster, Machine::B, "use", "sends with key 2 already");
    wait_for("probes under the new key", || (heard(&cluster) == [2, 2]).then_some(()));
    for node in NODES {
        done(&cluster, node, "drop", "takes no key but 2 any more");
    }
    assert_eq!(ids_in_the_file(&cluster), ["2"]);
    let text = witness::succeed(&cluster, &[]);
    assert!(text.contains("votes, its records were kept"), "{text}");

    // All that while the client was served, and nobody missed anybody.
    cluster.wait_until_serving(Machine::A);
    assert_eq!(lost(&mut cluster), before);
    assert_eq!(cluster.epoch(Machine::A), epoch);
    let seen = client.finish().unwrap();
    assert!(seen.answers.iter().all(|answer| answer.node == Machine::A));

    // The new key is that of every later start, and of a takeover.
    cluster.kill(Machine::B);
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_until_serving(Machine::A);
    cluster.lab.crash(Machine::A).unwrap();
    cluster.wait_until_alone(Machine::B);
    assert_eq!(cluster.status(Machine::B)["keys"], json!({"accepted": [2], "sends_with": 2}));
}

#[test]
fn a_machine_that_is_not_heard_is_not_cut_off_unless_the_operator_insists() {
    let mut cluster = Cluster::up(Settings { policy: "available".into(), ..settings() });
    done(&cluster, Machine::A, "add", "takes key 1 and 2");
    cluster.lab.crash(Machine::B).unwrap();
    cluster.wait_for(Machine::A, "b is dead", |status| status["peers"][0]["life"] == "dead");
    refused(&cluster, Machine::A, "use", "node b is not heard");
    let config = cluster.lab.files().config.to_str().unwrap().to_owned();
    for step in ["use", "drop"] {
        let arguments = ["key", "rotate", "--step", step, "--force", "--config", &config];
        let output = cluster.ask(Machine::A, &arguments);
        assert!(output.status.success(), "{step}: {output:?}");
    }
    assert_eq!(ids_in_the_file(&cluster), ["2"]);
    // It starts with the file that has the new key alone.
    cluster.lab.reboot(Machine::B).unwrap();
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_until_serving(Machine::A);
}

#[test]
fn a_key_file_that_lacks_the_key_in_use_is_refused() {
    let mut cluster = Cluster::up(slow());
    let path = cluster.lab.files().directory.join("key");
    let good = fs::read_to_string(&path).unwrap();
    let own = good.lines().find(|line| line.starts_with("1 ")).unwrap();
    let other = own.replacen("1 ", "7 ", 1);
    // Another id; the same id with another secret.
    let (turned, secret) = (own.split_at(2).1.chars().rev().collect::<String>(), "1 ");
    for (text, reason) in [
        (format!("{other}\n"), "key 1 is in use and not in"),
        (format!("{secret}{turned}\n"), "is not the one of that id in use"),
    ] {
        fs::write(&path, text).unwrap();
        refused(&cluster, Machine::A, "accept", reason);
    }
    fs::write(&path, good).unwrap();
    cluster.wait_until_serving(Machine::A);
    assert_eq!(cluster.status(Machine::A)["keys"], json!({"accepted": [1], "sends_with": 1}));
}
