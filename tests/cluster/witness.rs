//! The command `hb witness`, as an operator uses it, and what it means for the nodes.

use std::{fs, path::Path, process::Output, thread, time::Duration};

use hb_lease::{LeaseView, State};
use lab::{
    addresses::{Link, Machine, VIP4},
    config::Settings,
};
use serde_json::Value;

use super::support::{Cluster, slow, wait_for};

fn settings() -> Settings {
    Settings { policy: "witness".into(), ..slow() }
}

/// Runs `hb witness` on the third machine, for the lab's pins.
pub(crate) fn witness(cluster: &Cluster, arguments: &[&str]) -> Output {
    let pins = cluster.lab.pins(Machine::Witness);
    let mut command = cluster.lab.hb(Machine::Witness).unwrap();
    command.arg("witness").arg("--pins").arg(pins).args(arguments);
    command.output().unwrap()
}

/// Runs it with the lab's configuration; it has to succeed.
pub(crate) fn succeed(cluster: &Cluster, arguments: &[&str]) -> String {
    let config = cluster.lab.files().config.to_str().unwrap().to_owned();
    let output = witness(cluster, &[&["--config", &config], arguments].concat());
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
    out.into_owned()
}

/// Runs it; it has to fail, and what it says is returned.
fn fail(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = witness(cluster, arguments);
    assert!(!output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn report(cluster: &Cluster) -> Value {
    serde_json::from_str(&succeed(cluster, &["--status", "--json"])).unwrap()
}

/// A copy of the lab's configuration, changed.
fn changed(cluster: &Cluster, name: &str, changes: &[(&str, &str)]) -> String {
    let files = cluster.lab.files();
    let mut text = fs::read_to_string(&files.config).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from:?} is not in {text}");
        text = text.replacen(from, to, 1);
    }
    let path = files.directory.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn stored(cluster: &Cluster, cluster_name: &str) -> u32 {
    let state = cluster.lab.files().directory.join("state");
    let path = state.join(format!("{cluster_name}-w")).join("generation");
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

fn name(cluster: &Cluster) -> String {
    report(cluster)["clusters"][0]["name"].as_str().unwrap().to_owned()
}

#[test]
fn it_votes_without_a_process_and_says_what_it_promised() {
    let mut cluster = Cluster::up(settings());
    let epoch = cluster.epoch(Machine::A);
    let text = succeed(&cluster, &["--status"]);
    assert!(text.contains("votes as node 3"), "{text}");
    let said = report(&cluster);
    let [known] = said["clusters"].as_array().unwrap().as_slice() else { panic!("{said:#}") };
    let promise = &known["groups"][0];
    assert_eq!((&promise["name"], promise["epoch"].as_u64()), (&"web".into(), Some(epoch)));
    assert_eq!(promise["promised_to"], Machine::A.id(), "{said:#}");
    assert_eq!(known["learner"], false);
    assert_eq!(known["warnings"], Value::Array(Vec::new()), "{said:#}");
    for node in known["nodes"].as_array().unwrap() {
        assert!(node["heard_us_ago"].as_u64().unwrap() < 10_000_000, "{said:#}");
        assert_eq!(node["config_matches"], true);
        assert_eq!(node["links"][0]["answers_heard"], true);
    }
    assert_eq!(said["interfaces"][0]["name"], "eth0");

    // Its vote is what lets b serve without a.
    cluster.lab.crash(Machine::A).unwrap();
    cluster.wait_until_alone(Machine::B);
    assert_eq!(report(&cluster)["clusters"][0]["groups"][0]["promised_to"], Machine::B.id());
}

#[test]
fn run_again_it_keeps_its_records_and_takes_what_changed() {
    let mut cluster = Cluster::up(settings());
    let name = name(&cluster);
    let before = report(&cluster);
    let generation = stored(&cluster, &name);
    let again = succeed(&cluster, &[]);
    assert!(again.contains(&format!("{name}: votes, its records were kept")), "{again}");
    let after = report(&cluster);
    let of = |report: &Value, key: &str| report["clusters"][0][key].clone();
    for key in ["incarnation", "generation", "learner", "id"] {
        assert_eq!(of(&after, key), of(&before, key), "{key}");
    }
    assert_eq!(of(&after, "blocked_us"), Value::Null);
    assert_eq!(stored(&cluster, &name), generation);

    // A second cluster comes beside it; the first does not notice.
    let other = changed(&cluster, "other.toml", &[(&format!("\"{name}\""), "\"other\"")]);
    let output = witness(&cluster, &["--config", &other, "--wait", "0"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("other: does not vote"), "{text}");
    assert!(text.contains("not heard: a, b"), "{text}");
    assert!(text.contains("hb witness --confirm"), "{text}");
    let both = report(&cluster);
    assert_eq!(both["clusters"].as_array().unwrap().len(), 2, "{both:#}");
    assert_eq!(both["clusters"][1]["learner"], true);
    cluster.wait_until_serving(Machine::A);
    let output = witness(&cluster, &["--config", &other, "--confirm"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("other: "), "{output:?}");
    assert_eq!(report(&cluster)["clusters"][1]["learner"], false);

    // Other lengths of leases: what was promised by the old ones binds.
    let longer = [("\n[[node]]", "\n[lease]\nlength = \"1500ms\"\n\n[[node]]")];
    let longer = changed(&cluster, "longer.toml", &longer);
    let output = witness(&cluster, &["--config", &longer]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("voters or leases were changed"), "{text}");
    let now = report(&cluster);
    assert!(now["clusters"][0]["blocked_us"].as_u64().unwrap() > 0, "{now:#}");
    assert_eq!(now["clusters"][0]["config_matches"], false, "of the lab's own file");
    assert_eq!(now["clusters"][1]["config_matches"], Value::Null);

    // One is taken away, the other stays; then everything.
    let output = witness(&cluster, &["--detach", "--config", &other]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("votes no more in: other"), "{text}");
    assert_eq!(report(&cluster)["clusters"].as_array().unwrap().len(), 1);
    assert_eq!(cluster.xdp_mode(Machine::Witness, "eth0"), Some(1));
    let text = succeed(&cluster, &["--detach"]);
    assert!(text.contains("votes in no cluster any more"), "{text}");
    assert_eq!(cluster.xdp_mode(Machine::Witness, "eth0"), None);
    assert!(!cluster.lab.pins(Machine::Witness).exists());
    assert!(fail(&cluster, &["--status"]).contains("no witness is attached here"));
    let output = witness(&cluster, &["--detach"]);
    assert_eq!(output.stdout, b"nothing was attached\n", "{output:?}");
    // Two nodes are a majority without it.
    cluster.wait_until_serving(Machine::A);
}

#[test]
fn a_machine_without_numbers_votes_once_it_has_heard_every_node() {
    let mut cluster = Cluster::up(settings());
    let name = name(&cluster);
    succeed(&cluster, &["--detach"]);
    // Its disk is a new one.
    let state = cluster.lab.files().directory.join("state").join(format!("{name}-w"));
    fs::remove_dir_all(&state).unwrap();
    cluster.lab.cut(Machine::B);
    // Its incarnations begin anew as well, so its answers count once it was silent for L_max.
    let text = succeed(&cluster, &["--wait", "4s"]);
    assert!(text.contains("does not vote") && text.contains("not heard: b;"), "{text}");
    assert!(succeed(&cluster, &["--status"]).contains("DOES NOT VOTE, it is a learner"));
    cluster.lab.heal(Machine::B);
    let text = succeed(&cluster, &[]);
    assert!(text.contains("every node was heard, votes in"), "{text}");
    let known = report(&cluster)["clusters"][0].clone();
    assert_eq!(known["learner"], false, "{known:#}");
    assert!(known["generation_heard"].as_u64() <= known["generation"].as_u64(), "{known:#}");
    let epoch = cluster.epoch(Machine::A);
    assert!(
        u64::from(stored(&cluster, &name)) > epoch >> 32,
        "above all that it may have promised"
    );
    // Both ask for its vote, and one of them has it first.
    let holder = cluster.holder();
    cluster.wait_until_serving(holder);
}

#[test]
fn what_is_wrong_is_refused_and_nothing_is_begun() {
    let cluster = Cluster::new(settings());
    succeed(&cluster, &["--detach"]);
    let refused = |arguments: &[&str], say: &[&str]| {
        let text = fail(&cluster, arguments);
        for part in say {
            assert!(text.contains(part), "{arguments:?} does not say {part:?}: {text}");
        }
        assert!(!cluster.lab.pins(Machine::Witness).exists(), "{arguments:?}");
        assert_eq!(cluster.xdp_mode(Machine::Witness, "eth0"), None, "{arguments:?}");
    };
    let good = cluster.lab.files().config.to_str().unwrap().to_owned();
    let bad = changed(&cluster, "bad.toml", &[("misses", "misess")]);
    refused(&["--config", &bad], &["unknown key \"misess\""]);
    let elsewhere = changed(&cluster, "elsewhere.toml", &[("192.0.2.3", "192.0.2.33")]);
    refused(&["--config", &elsewhere], &["192.0.2.33", "is not on eth0"]);
    refused(&["--config", &good, "--config", &good], &["are of one cluster"]);
    refused(&["--config", "/nonexistent.toml"], &["/nonexistent.toml", "cannot read"]);
    refused(&["--config", &good, "--status"], &["no witness is attached here"]);
    let keyless = changed(&cluster, "keyless.toml", &[("/key\"", "/no-key\"")]);
    refused(&["--config", &good, "--config", &keyless], &["no key file"]);
    let empty = cluster.lab.files().directory.join("empty");
    fs::create_dir(&empty).unwrap();
    refused(&["--config", empty.to_str().unwrap()], &["there is no configuration in"]);
    let available = Cluster::new(slow());
    let other = available.lab.files().config.to_str().unwrap().to_owned();
    refused(&["--config", &other], &["has no [witness]", "available"]);
}

#[test]
fn native_answers_that_get_lost_are_noticed_and_mended() {
    let mut cluster = Cluster::up(settings());
    succeed(&cluster, &["--detach"]);
    cluster.lab.switch_mut().lose_native_answers(Machine::Witness, Link::Client).unwrap();
    let text = succeed(&cluster, &["--wait", "0"]);
    assert!(text.contains("eth0: attached in generic mode"), "{text}");
    assert_eq!(cluster.xdp_mode(Machine::Witness, "eth0"), Some(2), "as the kernel says");
    // Its answers are heard, so its vote decides once it has one again.
    wait_for("the witness votes", || {
        (report(&cluster)["clusters"][0]["blocked_us"] == Value::Null).then_some(())
    });
    cluster.lab.crash(Machine::A).unwrap();
    cluster.wait_until_alone(Machine::B);
    // The mode stays; one that is asked for does as well.
    let text = succeed(&cluster, &["--wait", "0"]);
    assert!(text.contains("eth0: attached in generic mode"), "{text}");
}

#[test]
fn it_votes_in_generic_mode_where_that_is_asked_for() {
    let mut cluster = Cluster::up(settings());
    succeed(&cluster, &["--detach"]);
    let output = witness(
        &cluster,
        &["--config", cluster.lab.files().config.to_str().unwrap(), "--generic", "--wait", "0"],
    );
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains("eth0: attached in generic mode"), "{out}");
    assert!(err.contains("eth0 is attached in generic mode, slower:"), "{err}");
    assert_eq!(cluster.xdp_mode(Machine::Witness, "eth0"), Some(2), "as the kernel says");
    assert_eq!(report(&cluster)["interfaces"][0]["mode"], "generic");
    // It was restarted, so it votes for nobody for a while; then its vote decides.
    wait_for("the witness votes", || {
        (report(&cluster)["clusters"][0]["blocked_us"] == Value::Null).then_some(())
    });
    cluster.lab.crash(Machine::A).unwrap();
    cluster.wait_until_alone(Machine::B);
}

/// There is room for 128 clusters, and the one too many is named before anything is touched.
#[test]
fn one_cluster_too_many_is_refused_and_nothing_is_begun() {
    let cluster = Cluster::up(settings());
    let own = name(&cluster);
    let directory = cluster.lab.files().directory.join("many");
    fs::create_dir(&directory).unwrap();
    let text = fs::read_to_string(&cluster.lab.files().config).unwrap();
    let file = |number: usize| directory.join(format!("{number:03}.toml"));
    for number in 0..128 {
        let text = text.replacen(&format!("\"{own}\""), &format!("\"many-{number:03}\""), 1);
        fs::write(file(number), text).unwrap();
    }
    let many = directory.to_str().unwrap();
    let refused = fail(&cluster, &["--config", many, "--confirm"]);
    assert!(refused.contains("many-127") && refused.contains("128"), "{refused}");
    assert_eq!(report(&cluster)["clusters"].as_array().unwrap().len(), 1);
    let state = cluster.lab.files().directory.join("state").join("many-000-w");
    assert!(!state.join("generation").exists(), "a number was taken for {}", state.display());

    fs::remove_file(file(127)).unwrap();
    let output = witness(&cluster, &["--config", many, "--confirm"]);
    assert!(output.status.success(), "{output:?}");
    let all = report(&cluster);
    assert_eq!(all["clusters"].as_array().unwrap().len(), 128);
    assert!(all["clusters"].as_array().unwrap().iter().all(|known| known["learner"] == false));
}

#[test]
fn maps_of_another_version_are_left_alone_until_they_are_detached() {
    let cluster = Cluster::new(settings());
    let pins = cluster.lab.pins(Machine::Witness);
    assert!(Path::new(&pins).join("CLUSTERS").exists());
    // What a map of another size would be: none of ours has the name and another shape.
    fs::remove_file(pins.join("TERMS")).unwrap();
    fs::rename(pins.join("NODE"), pins.join("TERMS")).unwrap();
    let config = cluster.lab.files().config.to_str().unwrap().to_owned();
    for arguments in [&["--config", &config][..], &["--status"]] {
        let text = fail(&cluster, arguments);
        assert!(text.contains("another version of hb"), "{text}");
        assert!(text.contains("hb witness --detach"), "{text}");
    }
    let output = witness(&cluster, &["--detach"]);
    assert!(output.status.success(), "{output:?}");
    assert!(!pins.exists());
    assert_eq!(cluster.xdp_mode(Machine::Witness, "eth0"), None);
}

/// While one machine goes by the old voters, a node with new ones takes no part.
#[test]
fn new_voters_take_part_once_every_machine_knows_them() {
    let mut cluster = Cluster::up(settings());
    cluster.edit("name = \"w\"\nid = 3\n", "name = \"w\"\nid = 4\n");
    cluster.lab.signal(Machine::B, libc::SIGTERM).unwrap();
    cluster.wait_for_end(Machine::B);
    cluster.lab.start_daemon(Machine::B).unwrap();
    let learns = |status: &Value| {
        let warnings = status["warnings"].as_array().unwrap();
        warnings
            .iter()
            .any(|warning| warning.as_str().unwrap().contains("the voters are new to this node"))
    };
    cluster.wait_for(Machine::B, "b learns", learns);

    // Restarted in place it still does, though it finds its record.
    cluster.kill(Machine::B);
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_for(Machine::B, "b learns again", learns);

    // The old holder is gone, and the witness knows the new voters: that is no reason to serve.
    cluster.lab.crash(Machine::A).unwrap();
    cluster.lab.restart_witness().unwrap();
    cluster.wait_for(Machine::B, "a is dead", |status| status["peers"][0]["life"] == "dead");
    cluster.wait_for(Machine::B, "b hears the witness", |status| {
        let witness = &status["peers"][1];
        witness["life"] == "alive" && witness["config_matches"] == true
    });
    let status = cluster.status(Machine::B);
    assert!(learns(&status), "{status:#}");
    assert_eq!(status["groups"][0]["state"], "idle", "{status:#}");

    // And then the last machine.
    cluster.lab.reboot(Machine::A).unwrap();
    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.wait_until_serving(Machine::A);
    let lines = cluster.logged(Machine::B, "no learner any more");
    assert_eq!(lines.len(), 1, "{lines:?}");
}

/// The standby's vote counts again after its restart: without the witness nothing changes.
#[test]
fn after_a_restart_of_the_standby_the_witness_may_be_lost() {
    let mut cluster = Cluster::up(Settings { resource: false, ..settings() });
    cluster.restart(Machine::B);
    // Its generation is on a's disk, and the higher epoch is promised.
    let floor = wait_for("b votes", || {
        let view = LeaseView::open(&cluster.lab.leases(Machine::A)).unwrap();
        let lease = view.read(0).unwrap();
        (lease.epoch >> 32 > 1 && lease.state == State::Holding).then_some(lease.epoch)
    });
    let client = cluster.client(VIP4.into());
    cluster.lab.cut(Machine::Witness);
    // Many leases.
    thread::sleep(Duration::from_secs(2));
    cluster.wait_until_serving(Machine::A);
    let seen = client.finish().unwrap();
    assert!(seen.last_answer(Machine::B).is_none());
    let gap = seen.longest_gap().unwrap();
    assert!(gap < Duration::from_millis(100), "{gap:?}");
    assert_eq!(cluster.epoch(Machine::A), floor);
    assert_eq!(cluster.logged(Machine::A, "lease ran out").len(), 0);
}

/// The witness's own restart closes no gate, and its vote counts again as well: without the standby
/// nothing changes.
#[test]
fn after_a_restart_of_the_witness_the_standby_may_be_lost() {
    let mut cluster = Cluster::up(Settings { resource: false, ..settings() });
    let before = cluster.epoch(Machine::A);
    let client = cluster.client(VIP4.into());
    cluster.lab.restart_witness().unwrap();
    wait_for("the witness votes", || (cluster.epoch(Machine::A) > before).then_some(()));
    // Until it takes part.
    wait_for("the witness promises", || {
        let promised = &report(&cluster)["clusters"][0]["groups"][0]["promised_to"];
        (promised.as_u64() == Some(Machine::A.id().into())).then_some(())
    });
    cluster.lab.crash(Machine::B).unwrap();
    thread::sleep(Duration::from_secs(2));
    cluster.wait_until_alone(Machine::A);
    let seen = client.finish().unwrap();
    let gap = seen.longest_gap().unwrap();
    assert!(gap < Duration::from_millis(100), "{gap:?}");
}
