//! Programs that are told what changes.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
};

use lab::{
    addresses::{Link, Machine, NODES},
    config::Settings,
    switch::Direction,
};
use serde_json::Value;

use super::{
    reload::reload,
    support::{Cluster, brisk, slow, wait_for},
};

/// A cluster whose nodes tell a program, which keeps what it reads in a file for each node, and each call of
/// another one, as keepalived would make it.
fn told(settings: Settings) -> Cluster {
    let cluster = Cluster::new(settings);
    let directory = cluster.lab.files().directory.clone();
    let out = directory.display();
    let scripts = [
        ("hb", format!("cat >> {out}/$HB_NODE.json")),
        ("keepalived", format!("echo \"$*\" >> {out}/$HB_NODE.keepalived")),
    ];
    let mut sections = String::new();
    for (form, script) in scripts {
        let path = directory.join(format!("notify-{form}"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let path = path.display();
        sections += &format!(
            "\n[[notify]]\nname = \"{form}\"\ncommand = [\"{path}\"]\nform = \"{form}\"\n"
        );
    }
    cluster.edit("\n[[group]]", &format!("{sections}\n[[group]]"));
    cluster
}

fn file(cluster: &Cluster, node: Machine, form: &str) -> PathBuf {
    cluster.lab.files().directory.join(format!("{node}.{form}"))
}

/// What a node has told so far.
fn events(cluster: &Cluster, node: Machine) -> Vec<Value> {
    let text = fs::read_to_string(file(cluster, node, "json")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn states(cluster: &Cluster, node: Machine) -> Vec<String> {
    let text = fs::read_to_string(file(cluster, node, "keepalived")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Waits until a node has told of a code and a state.
fn wait_until_told(cluster: &Cluster, node: Machine, code: &str, to: &str) -> Value {
    wait_for(&format!("{node} tells of {code} {to}"), || {
        let is_it = |event: &Value| event["code"] == code && (to.is_empty() || event["to"] == to);
        events(cluster, node).into_iter().find(is_it)
    })
}

#[test]
fn a_death_is_told_with_its_cause_and_in_order() {
    let mut cluster = told(brisk());
    cluster.start_both();
    cluster.wait_until_serving(Machine::A);
    let served = wait_until_told(&cluster, Machine::A, "state", "serving");
    assert_eq!((&served["group"], &served["node"]), (&"web".into(), &"a".into()));
    assert!(served["epoch"].as_u64().unwrap() > 0);
    cluster.lab.crash(Machine::A).unwrap();
    wait_until_told(&cluster, Machine::B, "state", "serving");
    let taken = wait_until_told(&cluster, Machine::B, "state", "starting");
    assert!(["holder_died", "fast_path"].contains(&taken["cause"].as_str().unwrap()), "{taken}");
    let all = events(&cluster, Machine::B);
    let instants: Vec<_> = all.iter().map(|event| event["boot_ns"].as_u64().unwrap()).collect();
    assert!(instants.is_sorted(), "{all:?}");
    // Each begins where the one before it ended.
    let ways: Vec<_> = all.iter().filter(|event| event["code"] == "state").collect();
    for pair in ways.windows(2) {
        assert_eq!(pair[0]["to"], pair[1]["from"], "{ways:?}");
    }
    assert!(all.iter().all(|event| event["lost"] == 0), "{all:?}");
    wait_for("keepalived's script is told", || {
        (states(&cluster, Machine::B).last()? == "INSTANCE web MASTER 90").then_some(())
    });
}

#[test]
fn a_move_a_silent_link_and_a_farewell_are_told() {
    let mut cluster = told(Settings { auto_failback: false, ..slow() });
    cluster.start_both();
    cluster.wait_until_serving(Machine::A);
    assert!(cluster.ask(Machine::A, &["move", "web", "b", "--wait", "10s"]).status.success());
    let given = wait_until_told(&cluster, Machine::A, "state", "released");
    assert_eq!(given["cause"], "moved", "{given}");
    wait_until_told(&cluster, Machine::B, "state", "serving");
    let taken = wait_until_told(&cluster, Machine::B, "state", "starting");
    assert!(["handed_over", "fast_path"].contains(&taken["cause"].as_str().unwrap()), "{taken}");

    cluster.lab.switch().cut_link(Machine::A, Link::Direct, Direction::Both);
    for node in NODES {
        let silent = wait_until_told(&cluster, node, "silent", "");
        assert_eq!((&silent["event"], &silent["link"]), (&"link".into(), &"direct".into()));
        assert_eq!(silent["peer"], node.peer().name());
    }
    cluster.lab.switch().heal_link(Machine::A, Link::Direct, Direction::Both);
    wait_until_told(&cluster, Machine::A, "heard", "");

    // Other programs by a reload; what leaves is told before the end.
    let before = states(&cluster, Machine::B).len();
    cluster.edit("form = \"keepalived\"\n", "form = \"keepalived\"\non = [\"group\"]\n");
    for node in NODES {
        let (done, said) = reload(&cluster, node);
        assert!(done && said.contains("taken: notify"), "{said}");
    }
    assert!(cluster.ask(Machine::B, &["stop"]).status.success());
    cluster.wait_for_end(Machine::B);
    let left = events(&cluster, Machine::B);
    assert!(
        left.iter().any(|event| event["event"] == "node" && event["code"] == "leaving"),
        "{left:?}"
    );
    let after = states(&cluster, Machine::B);
    assert!(after.len() > before, "{after:?}");
    wait_until_told(&cluster, Machine::A, "left", "");
}

/// A program that hangs is in nobody's way.
#[test]
fn a_takeover_waits_for_no_program() {
    let mut cluster = told(brisk());
    let path = cluster.lab.files().directory.join("notify-hb");
    fs::write(&path, "#!/bin/sh\nsleep 600\n").unwrap();
    cluster.start_both();
    cluster.wait_until_serving(Machine::A);
    cluster.lab.crash(Machine::A).unwrap();
    cluster.wait_for(Machine::B, "it serves", |status| {
        status["groups"][0]["state"] == "holding" && status["groups"][0]["health"] == "healthy"
    });
    assert!(events(&cluster, Machine::B).is_empty());
    wait_for("the other program was told all the same", || {
        (states(&cluster, Machine::B).last()? == "INSTANCE web MASTER 90").then_some(())
    });
    cluster.wait_for_log(Machine::B, "a program was not told of an event", |line| {
        line["notify"] == "hb" && line["error"].as_str().unwrap().contains("timeout")
    });
}
