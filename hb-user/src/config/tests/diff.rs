//! Which keys differ, and what of that a running daemon takes.

use super::*;

fn differs(from: &str, to: &str) -> (Vec<String>, Vec<String>) {
    let (old, new) = (good(), parse(&with(from, to)).unwrap());
    let (live, restart): (Vec<_>, Vec<_>) =
        old.differences(&new).into_iter().partition(|difference| difference.live);
    let keys = |found: Vec<Difference>| found.into_iter().map(|found| found.key).collect();
    (keys(live), keys(restart))
}

#[test]
fn the_same_does_not_differ_wherever_its_record_lies() {
    assert_eq!(good().differences(&good()), []);
    let mut placed = good();
    placed.groups[0].id = GroupId(5);
    assert_eq!(placed.differences(&good()), []);
    let comment = format!("# another line\n{GOOD}");
    assert_eq!(good().differences(&parse(&comment).unwrap()), []);
}

#[test]
fn what_a_running_daemon_takes_is_told_from_what_needs_a_restart() {
    let none: [&str; 0] = [];
    for (from, to, live, restart) in [
        ("192.0.2.100/24", "192.0.2.101/24", &none[..], &["group.web.address"][..]),
        ("\"udp4\"", "\"udp4\"\nmultihop = 1", &none, &["link.client.multihop"]),
        ("\"192.0.2.2\"", "\"192.0.2.3\"", &none, &["link.client.node"]),
        ("preferred = \"b\"", "preferred = \"a\"", &["group.db.preferred"], &none),
        ("auto_failback = false", "auto_failback = true", &["group.db.auto_failback"], &none),
        ("auto_failback = true", "auto_failback = false", &["group.web.auto_failback"], &none),
        (
            "auto_failback = false",
            "auto_failback = false\nfailure_timeout = \"1m\"",
            &["group.db.failure_timeout"],
            &none,
        ),
        (
            "auto_failback = false",
            "auto_failback = false\non_stop_failure = \"ignore\"",
            &["group.db.on_stop_failure"],
            &none,
        ),
        (
            "stop_timeout = \"1m\"",
            "stop_timeout = \"2m\"",
            &["group.web.resource.svc.stop_timeout"],
            &none,
        ),
        ("bin/db", "bin/db2", &none, &["group.db.resource.svc.program"]),
        ("name = \"db\"", "name = \"sql\"", &none, &["group.db, group.sql"]),
        ("name = \"pair\"", "name = \"couple\"", &none, &["cluster.name"]),
    ] {
        let (found, others) = differs(from, to);
        assert_eq!((found, others), (texts(live), texts(restart)), "{to}");
    }
}

fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn what_was_adopted_does_not_differ_any_more() {
    let mut running = good();
    running.groups[0].id = GroupId(5);
    let text =
        format!("{}\n[log]\nlevel = \"debug\"\n", with("preferred = \"b\"", "preferred = \"a\""));
    let new = parse(&text).unwrap();
    let keys: Vec<_> = running.differences(&new).into_iter().map(|found| found.key).collect();
    assert_eq!(keys, ["group.db.preferred", "log.level"]);
    running.adopt(&new);
    assert_eq!(running.differences(&new), []);
    assert_eq!(running.fingerprint(), new.fingerprint());
    assert_eq!(running.groups[0].id, GroupId(5), "its record stays where it is");
}
