//! `hb standby`: a node hands over in order, and takes nothing until `hb unstandby`.

use std::{fs, path::PathBuf, thread, time::Duration};

use lab::{
    addresses::{Machine, VIP4},
    clock,
    config::Settings,
};
use serde_json::Value;

use super::{
    holders::Watch,
    moves::{Caller, RETRIED, done, quick, refused},
    support::{Cluster, PATIENCE, slow},
};

/// Several times what a node waits for before it takes a group that nobody serves.
const LONG: Duration = Duration::from_millis(1500);

/// Where a node keeps of which groups it stands aside.
fn file(cluster: &Cluster, node: Machine) -> PathBuf {
    let state = cluster.lab.files().directory.join("state");
    let suffix = format!("-{}", node.name());
    let mut directories = fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path());
    let own = directories.find(|path| path.to_str().unwrap().ends_with(&suffix)).unwrap();
    own.join("aside")
}

fn stands_aside(status: &Value) -> bool {
    let group = &status["groups"][0];
    group["health"] == "aside" && group["aside"] == true
}

/// Node `a` hands over under a client's eyes.
fn hands_over(policy: &str) {
    let mut cluster = Cluster::up(quick(policy));
    let client = cluster.client(VIP4.into());
    let watch = Watch::start(&cluster);
    let caller = Caller::start(&cluster);
    caller.wait_for(20);
    let asked = clock::now();
    let text = done(&cluster.ask(Machine::A, &["standby"]));
    assert!(text.starts_with("this node stands aside of all groups: "), "{policy}: {text}");
    let epoch = cluster.epoch(Machine::B);
    assert!(text.ends_with(&format!("web: served by b, epoch {epoch}\n")), "{policy}: {text}");
    caller.wait_for(20);
    cluster.wait_until_alone(Machine::B);
    caller.assert_never_failed();
    let seen = watch.finish();
    seen.assert_never_both();
    let back = seen.holders.iter().filter(|(_, holders)| *holders == [Machine::A]).count();
    assert!(back <= 1, "{policy}: {:?}", seen.holders);
    let seen = client.finish().unwrap();
    assert!(seen.first_answer(Machine::B, asked).is_some(), "{policy}");
    let gap = seen.longest_gap().unwrap();
    assert!(gap < RETRIED, "{policy}: {gap:?}");
    let released = cluster.logged(Machine::A, "group changes state");
    assert!(released.iter().any(|line| line["cause"] == "this node stands aside"), "{released:?}");

    // The other one cannot give it away, and says why.
    let status = cluster.wait_for(Machine::A, "stands aside", stands_aside);
    let warnings = status["warnings"].as_array().unwrap().iter();
    let mut warnings = warnings.filter_map(Value::as_str);
    assert!(warnings.any(|warning| warning.starts_with("this node stands aside of all groups")));
    let reason = status["groups"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("stands aside") && reason.contains("hb unstandby"), "{reason}");
    assert_eq!(cluster.ask(Machine::A, &["status"]).status.code(), Some(1), "{policy}");
    cluster.wait_for(Machine::B, "a stands aside", |status| {
        let warnings = status["warnings"].as_array().unwrap().iter();
        let mut warnings = warnings.filter_map(Value::as_str);
        warnings.any(|warning| warning.starts_with("a stands aside of web, and does not take it"))
    });
    let text = refused(&cluster.ask(Machine::B, &["move", "web", "a"]));
    assert!(text.contains("a cannot take web: it stands aside"), "{text}");
    let text = refused(&cluster.ask(Machine::B, &["standby"]));
    let why = "nobody would serve web: a cannot take web: it stands aside";
    assert!(text.contains(why) && text.contains("`hb stop`"), "{text}");
    cluster.wait_until_alone(Machine::B);
    assert!(!file(&cluster, Machine::B).exists(), "what is refused changes nothing");

    let text = done(&cluster.ask(Machine::A, &["unstandby"]));
    assert_eq!(text, "this node takes every group again\n");
    cluster.wait_until_serving(Machine::B);
    assert_eq!(cluster.epoch(Machine::B), epoch, "without auto_failback it stays");
    done(&cluster.ask(Machine::B, &["move", "web", "a"]));
    cluster.wait_until_serving(Machine::A);
}

#[test]
fn with_available_a_node_that_stands_aside_hands_over_without_a_lost_request() {
    hands_over("available");
}

#[test]
fn with_witness_a_node_that_stands_aside_hands_over_without_a_lost_request() {
    hands_over("witness");
}

/// Also after a restart in order, in place, and of the machine.
#[test]
fn a_node_that_stands_aside_takes_nothing_from_the_dead_until_it_is_told_to() {
    for policy in ["available", "witness"] {
        let mut cluster = Cluster::up(Settings { policy: policy.into(), ..slow() });
        let text = done(&cluster.ask(Machine::B, &["standby", "--all"]));
        assert!(text.contains("not even when their holder dies"), "{text}");
        assert_eq!(fs::read_to_string(file(&cluster, Machine::B)).unwrap(), "all\n");
        cluster.wait_for(Machine::B, "stands aside", stands_aside);
        cluster.lab.signal(Machine::B, libc::SIGTERM).unwrap();
        cluster.wait_for_end(Machine::B);
        cluster.lab.start_daemon(Machine::B).unwrap();
        cluster.wait_for(Machine::B, "stands aside", stands_aside);
        cluster.kill(Machine::B);
        cluster.lab.start_daemon(Machine::B).unwrap();
        cluster.wait_for(Machine::B, "stands aside", stands_aside);
        cluster.lab.crash(Machine::B).unwrap();
        cluster.lab.reboot(Machine::B).unwrap();
        cluster.lab.start_daemon(Machine::B).unwrap();
        cluster.wait_for(Machine::B, "stands aside", |status| {
            stands_aside(status) && status["groups"][0]["holder"] == "a"
        });
        let watch = Watch::start(&cluster);

        cluster.lab.crash(Machine::A).unwrap();
        cluster.wait_for(Machine::B, "a is dead", |status| status["peers"][0]["life"] == "dead");
        thread::sleep(LONG);
        let status = cluster.status(Machine::B);
        assert!(stands_aside(&status), "{policy}: {status:#}");
        assert_eq!(status["groups"][0]["holder"], Value::Null, "{policy}");
        watch.finish().assert_never(Machine::B);
        let shown = cluster.ask(Machine::B, &["status"]);
        assert_eq!(shown.status.code(), Some(2), "{policy}");
        let text = String::from_utf8(shown.stdout).unwrap();
        assert!(text.contains("SERVED BY NOBODY"), "{policy}: {text}");

        done(&cluster.ask(Machine::B, &["unstandby"]));
        cluster.wait_until_alone(Machine::B);
        assert_eq!(fs::read_to_string(file(&cluster, Machine::B)).unwrap(), "nothing\n");
        // And it takes over again by itself.
        cluster.lab.reboot(Machine::A).unwrap();
        cluster.lab.start_daemon(Machine::A).unwrap();
        cluster.wait_until_serving(Machine::B);
        done(&cluster.ask(Machine::B, &["move", "web", "a"]));
        cluster.wait_until_serving(Machine::A);
        cluster.lab.crash(Machine::A).unwrap();
        cluster.wait_until_alone(Machine::B);
    }
}

/// The group prefers `a`.
#[test]
fn a_node_stands_aside_of_local_or_of_foreign_groups_alone() {
    let mut cluster = Cluster::up(Settings { auto_failback: true, ..quick("available") });
    let epoch = cluster.epoch(Machine::A);
    done(&cluster.ask(Machine::A, &["standby", "--foreign"]));
    done(&cluster.ask(Machine::B, &["standby", "--local"]));
    cluster.wait_until_serving(Machine::A);
    assert_eq!(cluster.epoch(Machine::A), epoch);
    done(&cluster.ask(Machine::A, &["standby", "--local"]));
    cluster.wait_until_alone(Machine::B);
    cluster.wait_for(Machine::A, "stands aside", stands_aside);
    // No failback, until another word counts.
    thread::sleep(LONG);
    cluster.wait_until_alone(Machine::B);
    done(&cluster.ask(Machine::A, &["standby", "--foreign"]));
    cluster.wait_until_serving(Machine::A);
    done(&cluster.ask(Machine::B, &["standby", "--foreign"]));
    cluster.wait_for(Machine::B, "stands aside", stands_aside);
    let both = cluster.ask(Machine::B, &["standby", "--foreign", "--local"]);
    assert_eq!(both.status.code(), Some(64), "{both:?}");
}

#[test]
fn nothing_changes_where_nobody_else_could_serve_and_a_damaged_word_is_no_start() {
    let mut cluster = Cluster::up(quick("available"));
    cluster.lab.crash(Machine::B).unwrap();
    cluster.wait_for(Machine::A, "b is dead", |status| status["peers"][0]["life"] == "dead");
    let text = refused(&cluster.ask(Machine::A, &["standby"]));
    let why = "nobody would serve web: b cannot take web: it is not up";
    assert!(text.contains(why), "{text}");
    cluster.wait_until_alone(Machine::A);
    assert!(!file(&cluster, Machine::A).exists());
    // It is not done later, when it could be.
    cluster.lab.reboot(Machine::B).unwrap();
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_until_serving(Machine::A);

    cluster.lab.signal(Machine::B, libc::SIGTERM).unwrap();
    cluster.wait_for_end(Machine::B);
    fs::write(file(&cluster, Machine::B), "al").unwrap();
    cluster.lab.start_daemon(Machine::B).unwrap();
    let ended = cluster.lab.daemon_mut(Machine::B).unwrap().wait(PATIENCE).unwrap();
    assert!(!ended.success(), "{ended}");
    let log = fs::read_to_string(cluster.log_file(Machine::B)).unwrap();
    assert!(log.contains("/aside holds"), "{log}");
    assert_eq!(fs::read_to_string(file(&cluster, Machine::B)).unwrap(), "al");
    cluster.wait_until_alone(Machine::A);
    fs::remove_file(file(&cluster, Machine::B)).unwrap();
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_until_serving(Machine::A);
}
