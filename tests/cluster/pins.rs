//! What is pinned, and what somebody else does to it: removes it, locks it, or was there first.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Output},
    thread,
    time::Duration,
};

use lab::{
    addresses::{Machine, NODES},
    config::Settings,
    tcx::{self, Way},
};

use super::{
    gate::{assert_closed, assert_open, gate, report, what_stays},
    support::{Cluster, both_vips, slow, wait_for},
};

/// An ordinary user.
const NOBODY: u32 = 65534;

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn pins_that_somebody_removes_are_made_anew() {
    let mut cluster = Cluster::up(slow());
    for node in NODES {
        let pins = cluster.lab.pins(node);
        let before = names(&pins);
        assert!(before.len() > 20, "{before:?}");
        // All of them, with the directory; then one alone, another one in its place.
        fs::remove_dir_all(&pins).unwrap();
        cluster.wait_for_log(node, "somebody removed pins: made anew", |line| {
            line["pins"].as_u64() == Some(before.len() as u64)
        });
        assert_eq!(names(&pins), before);
        fs::remove_file(pins.join("VIPS4")).unwrap();
        fs::hard_link(pins.join("PATHS"), pins.join("VIPS4"))
            .or_else(|_| fs::rename(pins.join("PATHS"), pins.join("VIPS4")))
            .unwrap();
        cluster.wait_for_log(node, "somebody removed pins: made anew", |line| {
            line["pins"].as_u64().is_some_and(|pins| pins <= 2)
        });
        assert_eq!(names(&pins), before);
        assert_eq!(report(&cluster, node)["not_gated"].as_array().unwrap().len(), 0);
        let mode = fs::metadata(&pins).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        // The directory is another one, and is the daemon's as the first one was.
        let output = gate(&cluster, node, &["--remove"]);
        assert!(!output.status.success(), "{output:?}");
    }
    assert_open(&cluster, Machine::A);
    assert_closed(&cluster, Machine::B);

    // They are what the next daemon finds.
    cluster.kill(Machine::A);
    cluster.wait_until_alone(Machine::B);
    assert_closed(&cluster, Machine::A);
    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.wait_until_serving(Machine::B);
    assert_closed(&cluster, Machine::A);
}

#[test]
fn a_start_outlasts_somebody_who_removes_its_pins() {
    let mut cluster = Cluster::up(slow());
    cluster.kill(Machine::B);
    let pins = cluster.lab.pins(Machine::B);
    fs::remove_dir_all(&pins).unwrap();
    cluster.lab.start_daemon(Machine::B).unwrap();
    // The maps are there, and the programs, which take long, are being loaded.
    let whole = names(&cluster.lab.pins(Machine::A));
    let maps: BTreeSet<_> =
        whole.iter().filter(|name| name.to_uppercase() == **name).cloned().collect();
    wait_for("the maps of b", || (pins.exists() && names(&pins).is_superset(&maps)).then_some(()));
    thread::sleep(Duration::from_millis(20));
    fs::remove_dir_all(&pins).unwrap();
    cluster.wait_for_log(Machine::B, "somebody removed pins: made anew", |_| true);
    cluster.wait_for(Machine::B, "stands by", |status| status["groups"][0]["state"] == "idle");
    assert_eq!(names(&pins), whole);
    assert_closed(&cluster, Machine::B);
}

/// Kills the daemon of a node whose pins were removed when it could not make them anew any more.
fn wipe_and_kill(cluster: &mut Cluster, node: Machine) {
    cluster.lab.signal(node, libc::SIGSTOP).unwrap();
    fs::remove_dir_all(cluster.lab.pins(node)).unwrap();
    cluster.kill(node);
}

fn assert_one_gate(cluster: &Cluster, node: Machine) {
    let netns = cluster.lab.netns(node);
    for (interface, way, gate) in [
        ("eth0", Way::Out, "gate_egress"),
        ("eth1", Way::Out, "gate_egress"),
        ("lo", Way::Out, "gate_egress"),
        ("lo", Way::In, "gate_ingress"),
    ] {
        let chain = tcx::chain(netns, interface, way).unwrap();
        assert!(matches!(&*chain, [(_, name)] if name == gate), "{interface}: {chain:?}");
    }
}

#[test]
fn without_pins_and_without_a_daemon_the_gate_is_there_and_closed() {
    for (policy, warm) in [("available", false), ("available", true), ("witness", false)] {
        let mut cluster = Cluster::new(Settings { policy: policy.into(), warm, ..slow() });
        cluster.start_both();
        wipe_and_kill(&mut cluster, Machine::A);
        // By what the client asks and by ARP it is b alone.
        cluster.wait_until_alone(Machine::B);
        assert_eq!(cluster.vips(Machine::A), both_vips(), "nobody took them away");
        assert_one_gate(&cluster, Machine::A);
        assert_closed(&cluster, Machine::A);
        for vip in both_vips() {
            assert!(what_stays(&cluster, Machine::A, vip).is_empty());
        }
        let output = gate(&cluster, Machine::A, &[]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.contains("NOTHING IS PINNED") && text.contains("NOT GATED: eth0, eth1"),
            "{text}"
        );

        // The next daemon takes the place of what it finds, and takes part again.
        cluster.lab.start_daemon(Machine::A).unwrap();
        cluster.wait_until_serving(Machine::B);
        assert_one_gate(&cluster, Machine::A);
        assert_closed(&cluster, Machine::A);
        assert_eq!(report(&cluster, Machine::A)["not_gated"].as_array().unwrap().len(), 0);
        cluster.kill(Machine::B);
        cluster.wait_until_alone(Machine::A);
        assert_open(&cluster, Machine::A);
        assert_closed(&cluster, Machine::B);
    }
}

#[test]
fn a_gate_whose_pins_are_gone_is_removed_as_any_other() {
    let mut cluster = Cluster::up(slow());
    wipe_and_kill(&mut cluster, Machine::A);
    cluster.wait_until_alone(Machine::B);
    let output = gate(&cluster, Machine::A, &["--remove"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "removed 2 service addresses, and the gate of 3 interfaces\n");
    assert_gone(&cluster, Machine::A);

    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.wait_until_serving(Machine::B);
    wipe_and_kill(&mut cluster, Machine::B);
    cluster.wait_until_alone(Machine::A);
    let output = of_node(&cluster, Machine::B, "detach");
    assert!(output.status.success(), "{output:?}");
    assert_gone(&cluster, Machine::B);
}

fn assert_gone(cluster: &Cluster, node: Machine) {
    assert_eq!(cluster.vips(node), BTreeSet::new());
    for interface in ["eth0", "eth1", "lo"] {
        for way in [Way::In, Way::Out] {
            let chain = tcx::chain(cluster.lab.netns(node), interface, way).unwrap();
            assert_eq!(chain, [], "{interface} of {node}, {way:?}");
        }
        assert_eq!(cluster.xdp_mode(node, interface), None, "{interface} of {node}");
    }
}

fn of_node(cluster: &Cluster, node: Machine, verb: &str) -> Output {
    let config = cluster.lab.files().config.to_str().unwrap().to_owned();
    cluster.hb(node, &[verb, "--config", &config, "--node", node.name()])
}

/// Asserts that a start is refused, and what it says.
fn assert_refused(cluster: &Cluster, verb: &str, words: &[&str]) {
    let output = of_node(cluster, Machine::A, verb);
    assert!(!output.status.success(), "{verb}: {output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(words.iter().all(|word| text.contains(word)), "{verb}: {text}");
}

#[test]
fn a_directory_that_was_there_first_is_refused_if_others_can_change_it() {
    let mut cluster = Cluster::new(slow());
    let pins = cluster.lab.pins(Machine::A);
    let parent = pins.parent().unwrap().to_owned();
    fs::create_dir_all(&pins).unwrap();
    for part in [&parent, &pins] {
        let shown = part.to_str().unwrap();
        chown(part, Some(NOBODY), Some(NOBODY)).unwrap();
        assert_refused(&cluster, "run", &[shown, "belongs to user 65534"]);
        chown(part, Some(0), Some(0)).unwrap();
        fs::set_permissions(part, fs::Permissions::from_mode(0o777)).unwrap();
        assert_refused(&cluster, "run", &[shown, "mode 0777", "chmod go-w"]);
        fs::set_permissions(part, fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert_eq!(names(&pins), BTreeSet::new(), "nothing was pinned meanwhile");
    cluster.start_both();

    // Whoever reads what is pinned believes it no more than who starts.
    cluster.kill(Machine::A);
    chown(&parent, Some(NOBODY), Some(NOBODY)).unwrap();
    for verb in ["gate", "detach"] {
        assert_refused(&cluster, verb, &["belongs to user 65534"]);
    }
    chown(&parent, Some(0), Some(0)).unwrap();
    let output = of_node(&cluster, Machine::A, "detach");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_state_directory_of_somebody_else_is_refused() {
    let cluster = Cluster::new(slow());
    let text = fs::read_to_string(&cluster.lab.files().config).unwrap();
    let line = text.lines().find(|line| line.starts_with("state_dir")).unwrap();
    let state = Path::new(line.split('"').nth(1).unwrap());
    fs::create_dir_all(state).unwrap();
    chown(state, Some(NOBODY), Some(NOBODY)).unwrap();
    let shown = state.to_str().unwrap();
    assert_refused(&cluster, "run", &["state directory", shown, "belongs to user 65534"]);
    chown(state, Some(0), Some(0)).unwrap();
}

/// As an ordinary user.
fn as_nobody(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).uid(NOBODY).gid(NOBODY).output().unwrap()
}

#[test]
fn an_ordinary_user_can_neither_lock_nor_list_what_a_start_needs() {
    let mut cluster = Cluster::new(slow());
    // As an earlier version or an operator made it.
    let pins = cluster.lab.pins(Machine::A);
    fs::create_dir_all(&pins).unwrap();
    for part in [pins.parent().unwrap(), &pins] {
        fs::set_permissions(part, fs::Permissions::from_mode(0o755)).unwrap();
    }
    cluster.start_both();
    cluster.kill(Machine::A);
    let shown = pins.to_str().unwrap();
    for (program, arguments) in
        [("flock", &["-n", shown, "true"][..]), ("ls", &[shown]), ("rm", &["-r", shown])]
    {
        let output = as_nobody(program, arguments);
        assert!(!output.status.success(), "{program}: {output:?}");
    }
    // Neither was it the command that failed for want of itself.
    wait_for("flock works", || {
        as_nobody("flock", &["-n", "/", "true"]).status.success().then_some(())
    });
    cluster.wait_until_alone(Machine::B);
    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.wait_until_serving(Machine::B);
}
