//! Which keys differ, and what of that a running daemon takes.

use super::*;

fn differs(from: &str, to: &str) -> Vec<(String, Way)> {
    let (old, new) = (good(), parse(&with(from, to)).unwrap());
    old.differences(&new).into_iter().map(|found| (found.key, found.way)).collect()
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
    for (from, to, key, way) in [
        ("192.0.2.100/24", "192.0.2.101/24", "group.web.address", Way::Group),
        ("\"udp4\"", "\"udp4\"\nmultihop = 1", "link.client.multihop", Way::Link),
        ("\"192.0.2.2\"", "\"192.0.2.3\"", "link.client.node", Way::Link),
        ("preferred = \"b\"", "preferred = \"a\"", "group.db.preferred", Way::Live),
        ("auto_failback = false", "auto_failback = true", "group.db.auto_failback", Way::Live),
        ("auto_failback = true", "auto_failback = false", "group.web.auto_failback", Way::Live),
        (
            "auto_failback = true",
            "auto_failback = \"after 5m\"",
            "group.web.auto_failback",
            Way::Live,
        ),
        (
            "auto_failback = false",
            "auto_failback = false\nfailure_timeout = \"1m\"",
            "group.db.failure_timeout",
            Way::Live,
        ),
        (
            "auto_failback = false",
            "auto_failback = false\non_failure = \"restart\"",
            "group.db.on_failure",
            Way::Live,
        ),
        (
            "auto_failback = false",
            "auto_failback = false\non_stop_failure = \"ignore\"",
            "group.db.on_stop_failure",
            Way::Live,
        ),
        (
            "stop_timeout = \"1m\"",
            "stop_timeout = \"2m\"",
            "group.web.resource.svc.stop_timeout",
            Way::Live,
        ),
        ("bin/db", "bin/db2", "group.db.resource.svc.program", Way::Group),
        ("name = \"db\"", "name = \"sql\"", "group.db, group.sql", Way::Group),
        ("name = \"pair\"", "name = \"couple\"", "cluster.name", Way::Restart),
        ("misses = 5", "misses = 5\ndoubt_max = \"50ms\"", "timers.doubt_max", Way::Agreed),
        ("misses = 5", "misses = 5\nwarntime = \"4ms\"", "timers.warntime", Way::Agreed),
    ] {
        assert_eq!(differs(from, to), [(key.to_owned(), way)], "{to}");
    }
}

#[test]
fn groups_that_are_not_as_they_were_are_named() {
    let unlike = |from: &str, to: &str| {
        let (old, new) = (good(), parse(&with(from, to)).unwrap());
        let names = |all: Vec<&Name>| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        (names(new.groups_unlike(&old)), names(old.groups_unlike(&new)))
    };
    for (from, to, gone, new) in [
        ("preferred = \"b\"", "preferred = \"a\"", &[][..], &[][..]),
        ("stop_timeout = \"1m\"", "stop_timeout = \"2m\"", &[], &[]),
        ("192.0.2.100/24", "192.0.2.101/24", &["web"], &["web"]),
        ("bin/db", "bin/db2", &["db"], &["db"]),
        ("name = \"db\"", "name = \"sql\"", &["db"], &["sql"]),
    ] {
        assert_eq!(unlike(from, to), (texts(gone), texts(new)), "{to}");
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
