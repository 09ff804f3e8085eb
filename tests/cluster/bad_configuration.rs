//! Configurations that must not start: what is said, and that nothing is begun.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Output,
};

use lab::addresses::Machine;

use super::support::{Cluster, slow};

/// One bad file: `from` in the good one is replaced by `to`.
struct Case {
    from: &'static str,
    to: &'static str,
    /// Text of the line that is to blame; empty for no line in particular.
    on: &'static str,
    /// What the message says.
    say: &'static [&'static str],
}

const CASES: [Case; 11] = [
    Case {
        from: "misses = 40",
        to: "misess = 40",
        on: "misess",
        say: &["unknown key \"misess\" in [timers]", "did you mean \"misses\"?"],
    },
    Case {
        from: "interval = \"5ms\"",
        to: "interval = \"5 lightyears\"",
        on: "interval",
        say: &["interval", "5 lightyears", "ms"],
    },
    Case { from: "interval = \"5ms\"", to: "interval = 5", on: "interval", say: &["5", "unit"] },
    Case {
        from: "misses = 40",
        to: "deadtime = \"6ms\"",
        on: "deadtime",
        say: &["deadtime 6ms is less than 2 x interval", "raise deadtime or lower interval"],
    },
    Case {
        from: "misses = 40",
        to: "misses = 40\nwarntime = \"1s\"",
        on: "warntime",
        say: &["warntime", "deadtime"],
    },
    Case {
        from: "192.0.2.100/24",
        to: "198.18.0.1/24",
        on: "198.18.0.1",
        say: &["198.18.0.1 is outside every subnet of its interface eth0", "192.0.2.0/24"],
    },
    Case {
        from: "address = \"192.0.2.1\"",
        to: "address = \"192.0.2.77\"",
        on: "192.0.2.77",
        say: &["192.0.2.77", "eth0"],
    },
    Case {
        from: "policy = \"available\"",
        to: "policy = \"witness\"",
        on: "policy",
        say: &["policy = \"witness\" needs a third machine", "add [witness]"],
    },
    Case {
        from: "preferred = \"a\"",
        to: "preferred = \"c\"",
        on: "preferred",
        say: &["\"c\"", "a, b"],
    },
    Case { from: "[timers]", to: "[timers", on: "[timers", say: &["not valid TOML"] },
    Case {
        from: "type = \"script\"",
        to: "type = \"systemd\"",
        on: "systemd",
        say: &["systemd", "script"],
    },
];

/// What `check` and `run` say of a file; asserts that both refuse it and begin nothing.
fn refused(cluster: &Cluster, config: &Path, node: &str) -> String {
    let before = cluster.lab.netns(Machine::A).ip_json(&["address"]).unwrap();
    let state = cluster.lab.files().directory.join("state");
    let config = config.to_str().unwrap();
    let outputs: [Output; 2] = [
        cluster.hb(Machine::A, &["check", config, "--node", node]),
        cluster.hb(Machine::A, &["run", "--config", config, "--node", node]),
    ];
    let [check, run] = outputs.map(|output| {
        assert!(!output.status.success(), "{output:?}");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(output.stdout, b"", "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    });
    assert_eq!(check, run);
    cluster.assert_nothing_left(Machine::A);
    assert!(!state.exists(), "{}", state.display());
    assert_eq!(cluster.lab.netns(Machine::A).ip_json(&["address"]).unwrap(), before);
    run
}

#[test]
fn bad_files_are_refused_with_their_line() {
    let cluster = Cluster::new(slow());
    let good = fs::read_to_string(&cluster.lab.files().config).unwrap();
    let path = cluster.lab.files().directory.join("bad.toml");
    for Case { from, to, on, say } in CASES {
        assert!(good.contains(from), "{from}");
        let text = good.replacen(from, to, 1);
        fs::write(&path, &text).unwrap();
        let said = refused(&cluster, &path, "a");
        let line = text.lines().position(|line| line.contains(on)).unwrap() + 1;
        let place = format!("{}:{line}:", path.display());
        assert!(said.contains(&place), "{place} is not in {said}");
        for part in say {
            assert!(said.contains(part), "{to}: {part:?} is not in {said:?}");
        }
    }
    // The fence of all these: the file itself is good.
    let config = cluster.lab.files().config.to_str().unwrap();
    let output = cluster.hb(Machine::A, &["check", config, "--node", "a"]);
    assert!(output.status.success(), "{output:?}");
    cluster.assert_nothing_left(Machine::A);
}

#[test]
fn all_errors_are_reported_at_once() {
    let cluster = Cluster::new(slow());
    cluster.edit("misses = 40", "misses = 1");
    cluster.edit("policy = \"available\"", "policy = \"any\"");
    cluster.edit("preferred = \"a\"", "preferred = \"z\"");
    let said = refused(&cluster, &cluster.lab.files().config, "a");
    for part in ["misses = 1 ", "policy", "no node \"z\""] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}

#[test]
fn a_missing_file_and_an_unknown_node_are_named() {
    let cluster = Cluster::new(slow());
    let said = refused(&cluster, Path::new("/nowhere/hb.toml"), "a");
    assert!(said.contains("/nowhere/hb.toml"), "{said}");
    let said = refused(&cluster, &cluster.lab.files().config, "c");
    assert!(said.contains("\"c\"") && said.contains("a, b"), "{said}");
}

#[test]
fn keys_that_are_no_secret_are_refused() {
    let cluster = Cluster::new(slow());
    let config = cluster.lab.files().config.clone();
    let key = cluster.lab.files().directory.join("key");
    let good = fs::read(&key).unwrap();

    for mode in [0o644, 0o640, 0o604] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let said = refused(&cluster, &config, "a");
        assert!(said.contains(&format!("chmod 600 {}", key.display())), "{mode:o}: {said}");
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    for (content, say) in [
        (format!("1 {}\n", "00".repeat(32)), "hb key generate"),
        (format!("1 {}\n", "ab".repeat(31)), "64"),
        ("secret\n".to_owned(), "hb key generate"),
        (String::new(), "hb key generate"),
    ] {
        fs::write(&key, &content).unwrap();
        let said = refused(&cluster, &config, "a");
        assert!(said.contains(key.to_str().unwrap()), "{content:?}: {said}");
        assert!(said.contains(say), "{content:?}: {say:?} is not in {said:?}");
        let secret = content.split_whitespace().nth(1).unwrap_or("no secret");
        assert!(!said.contains(secret), "the key is in {said}");
    }
    fs::remove_file(&key).unwrap();
    let said = refused(&cluster, &config, "a");
    assert!(said.contains("hb key generate"), "{said}");
    fs::write(&key, good).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let output = cluster.hb(Machine::A, &["check", config.to_str().unwrap(), "--node", "a"]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn programs_and_configurations_that_others_may_change_are_refused() {
    let mut cluster = Cluster::new(slow());
    let files = cluster.lab.files();
    let (config, directory) = (files.config.clone(), files.directory.clone());
    let text = fs::read_to_string(&config).unwrap();
    let program = text.lines().find_map(|line| line.strip_prefix("program = ")).unwrap();
    let program = PathBuf::from(program.trim_matches('"'));
    let set = |path: &Path, mode| {
        let before = fs::metadata(path).unwrap().permissions();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        before
    };
    for (path, mode) in [(&config, 0o666), (&program, 0o775), (&directory, 0o777)] {
        let before = set(path, mode);
        let said = refused(&cluster, &config, "a");
        for part in [path.to_str().unwrap(), &format!("{mode:04o}"), "chmod go-w"] {
            assert!(said.contains(part), "{part:?} is not in {said:?}");
        }
        fs::set_permissions(path, before).unwrap();
    }
    let nobody = Some(65_534);
    chown(&program, nobody, None).unwrap();
    let said = refused(&cluster, &config, "a");
    for part in [program.to_str().unwrap(), "user 65534", "chown 0"] {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
    chown(&program, Some(0), None).unwrap();
    let output = cluster.hb(Machine::A, &["check", config.to_str().unwrap(), "--node", "a"]);
    assert!(output.status.success(), "{output:?}");

    // And right before it runs, by a daemon that started when all was well.
    cluster.start_both();
    let before = set(&program, 0o777);
    cluster.kill(Machine::A);
    let said = cluster
        .wait_for(Machine::B, "it fails", |status| status["groups"][0]["health"] == "failed");
    assert!(said.to_string().contains("has mode 0777"), "{said:#}");
    fs::set_permissions(&program, before).unwrap();
    assert!(cluster.ask(Machine::B, &["clear", "web"]).status.success());
    cluster.wait_until_alone(Machine::B);
}

#[test]
fn a_service_address_of_the_operating_system_is_refused() {
    let cluster = Cluster::new(slow());
    cluster.lab.add_vip(Machine::A).unwrap();
    let config = cluster.lab.files().config.to_str().unwrap();
    for arguments in [["check", config, "--node", "a"], ["run", "--config", config, "--node=a"]] {
        let output = cluster.hb(Machine::A, &arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{said}");
        for part in ["192.0.2.100", "was not put there by hb", "ip address del"] {
            assert!(said.contains(part), "{part:?} is not in {said:?}");
        }
    }
    assert!(!cluster.lab.pins(Machine::A).exists());
    // It is somebody else's, and stays.
    assert_eq!(cluster.vips(Machine::A).len(), 2);
}

#[test]
fn keys_in_which_another_file_differs_are_named() {
    let cluster = Cluster::new(slow());
    let path = &cluster.lab.files().config;
    let other = path.with_file_name("other.toml");
    let text = fs::read_to_string(path).unwrap();
    let compare = |text: &str| {
        fs::write(&other, text).unwrap();
        let [config, other] = [path, &other].map(|path| path.to_str().unwrap());
        let output = cluster.hb(Machine::A, &["check", config, "--node", "a", "--against", other]);
        (output.status.success(), [output.stdout, output.stderr].concat())
    };
    let said = |(done, said): (bool, Vec<u8>)| (done, String::from_utf8(said).unwrap());
    let (done, same) = said(compare(&text));
    assert!(done && same.contains("no key differs"), "{same}");
    let changed = text.replacen("preferred = \"a\"", "preferred = \"b\"", 1);
    let changed = changed.replacen("misses = 40", "misses = 41", 1);
    let (done, differs) = said(compare(&changed));
    assert!(done && differs.contains("group.web.preferred"), "{differs}");
    assert!(differs.contains("timers.deadtime"), "{differs}");
    let (done, wrong) = said(compare("no TOML"));
    assert!(!done && wrong.contains("other.toml"), "{wrong}");
}
