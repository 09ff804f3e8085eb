//! Two scripts that start in order, fail, and take their time.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, thread, time::Duration};

use lab::{
    addresses::{Machine, VIP4},
    clock,
    config::Settings,
};

use super::{
    holders::Watch,
    support::{Cluster, PATIENCE, slow, wait_for},
};

/// A cluster whose group has the resources `first` and `second`.
///
/// Both are one script, which notes what it is told and does as files beside it say: `fail-NODE-
/// RESOURCE-VERB` has it fail, `slow-NODE-RESOURCE-VERB` has it take 600 ms.
struct Scripts {
    cluster: Cluster,
    directory: PathBuf,
}

impl Scripts {
    fn new(extra: &str) -> Self {
        let cluster = Cluster::new(Settings { resource: false, ..slow() });
        let directory = cluster.lab.files().directory.clone();
        let program = directory.join("two.sh");
        let place = directory.display();
        fs::write(
            &program,
            format!(
                "#!/bin/sh\n\
                 what=$HB_NODE-$HB_RESOURCE-$1\n\
                 echo \"$HB_NODE $HB_RESOURCE $1 begins\" >> {place}/told\n\
                 if [ -e {place}/slow-$what ]; then sleep 0.6; fi\n\
                 if [ -e {place}/fail-$what ]; then echo \"the disk is full\" >&2; exit 1; fi\n\
                 echo \"$HB_NODE $HB_RESOURCE $1 ends\" >> {place}/told\n\
                 echo \"did $1\"\n"
            ),
        )
        .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let config = &cluster.lab.files().config;
        let mut text = fs::read_to_string(config).unwrap();
        for name in ["first", "second"] {
            text.push_str(&format!(
                "[[group.resource]]\nname = \"{name}\"\ntype = \"script\"\nprogram = \"{}\"\n{extra}",
                program.display()
            ));
        }
        fs::write(config, text).unwrap();
        Self { cluster, directory }
    }

    fn set(&self, flag: &str) {
        fs::write(self.directory.join(flag), "").unwrap();
    }

    fn unset(&self, flag: &str) {
        fs::remove_file(self.directory.join(flag)).unwrap();
    }

    /// What the scripts of a node noted of starts and stops.
    fn told(&self, node: Machine) -> Vec<String> {
        let text = fs::read_to_string(self.directory.join("told")).unwrap_or_default();
        let prefix = format!("{node} ");
        let lines = text.lines().filter_map(|line| line.strip_prefix(&prefix));
        lines.filter(|line| !line.contains(" status ")).map(str::to_owned).collect()
    }

    fn forget(&self) {
        fs::write(self.directory.join("told"), "").unwrap();
    }
}

const STARTS: [&str; 4] =
    ["first start begins", "first start ends", "second start begins", "second start ends"];
const STOPS: [&str; 4] =
    ["second stop begins", "second stop ends", "first stop begins", "first stop ends"];

#[test]
fn resources_start_in_order_and_stop_in_reverse() {
    let mut scripts = Scripts::new("");
    scripts.cluster.start_both();
    assert_eq!(scripts.told(Machine::A)[scripts.told(Machine::A).len() - 4..], STARTS);
    let status = scripts.cluster.status(Machine::A);
    for (index, name) in ["first", "second"].iter().enumerate() {
        let resource = &status["groups"][0]["resources"][index];
        assert_eq!(resource["name"], *name);
        assert_eq!(resource["state"], "running");
        let line =
            scripts.cluster.wait_for_log(Machine::A, "did start", |line| line["resource"] == *name);
        assert_eq!((&line["group"], &line["stream"]), (&"web".into(), &"stdout".into()));
    }

    scripts.forget();
    scripts.cluster.lab.signal(Machine::A, libc::SIGTERM).unwrap();
    scripts.cluster.wait_for_end(Machine::A);
    scripts.cluster.wait_until_alone(Machine::B);
    assert_eq!(scripts.told(Machine::A), STOPS);
    assert_eq!(scripts.told(Machine::B), STARTS);
}

#[test]
fn a_start_that_fails_moves_the_group_until_it_is_cleared() {
    let mut scripts = Scripts::new("");
    scripts.cluster.edit("auto_failback = false", "auto_failback = true");
    scripts.set("fail-a-second-start");
    let cluster = &mut scripts.cluster;
    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_until_alone(Machine::B);

    let status = cluster.wait_for(Machine::A, "it failed here", |status| {
        status["groups"][0]["health"] == "failed" && status["groups"][0]["state"] != "holding"
    });
    let reason = status["groups"][0]["reason"].as_str().unwrap();
    for part in ["failed here", "second", "start failed", "the disk is full", "hb clear web"] {
        assert!(reason.contains(part), "{part:?} is not in {reason:?}");
    }
    let failed = cluster.wait_for_log(Machine::A, "failed", |line| line["group"] == "web");
    assert!(failed["error"].as_str().unwrap().contains("the disk is full"), "{failed}");
    cluster.wait_for_log(Machine::A, "the disk is full", |line| line["stream"] == "stderr");
    // What had been started was stopped.
    let told = scripts.told(Machine::A);
    assert!(told.ends_with(&["first stop begins".into(), "first stop ends".into()]), "{told:?}");

    // It stays away, though it is preferred, until it is cleared.
    thread::sleep(Duration::from_millis(500));
    scripts.unset("fail-a-second-start");
    let cluster = &mut scripts.cluster;
    cluster.wait_until_alone(Machine::B);
    let output = cluster.ask(Machine::A, &["clear", "wbe"]);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("no group \"wbe\"") && text.contains("web"), "{text}");
    let watch = Watch::start(cluster);
    let output = cluster.ask(Machine::A, &["clear", "web"]);
    assert!(output.status.success(), "{output:?}");
    cluster.wait_until_serving(Machine::A);
    watch.finish().assert_never_both();
    cluster.wait_for_log(Machine::A, "failure cleared", |line| line["group"] == "web");
}

#[test]
fn a_group_is_not_moved_to_where_it_failed() {
    let mut scripts = Scripts::new("");
    scripts.set("fail-a-second-start");
    let cluster = &mut scripts.cluster;
    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_until_alone(Machine::B);
    let (epoch, watch) = (cluster.epoch(Machine::B), Watch::start(cluster));
    let output = cluster.ask(Machine::B, &["move", "web", "a"]);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in ["a cannot take web: it failed with web", "`hb clear web` on a"] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    assert_eq!(cluster.epoch(Machine::B), epoch);

    // Mended, but not cleared yet.
    scripts.unset("fail-a-second-start");
    let cluster = &mut scripts.cluster;
    assert!(!cluster.ask(Machine::B, &["move", "web", "a"]).status.success());
    assert!(cluster.ask(Machine::A, &["clear", "web"]).status.success());
    cluster.wait_until_serving(Machine::B);
    let output = cluster.ask(Machine::B, &["move", "web", "a"]);
    assert!(output.status.success(), "{output:?}");
    cluster.wait_until_serving(Machine::A);
    watch.finish().assert_never_both();
}

#[test]
fn a_stop_that_takes_its_time_is_waited_for() {
    let mut scripts = Scripts::new("");
    scripts.cluster.start_both();
    scripts.set("slow-a-first-stop");
    scripts.forget();
    let client = scripts.cluster.client(VIP4.into());
    let watch = Watch::start(&scripts.cluster);
    let asked = clock::now();
    scripts.cluster.lab.signal(Machine::A, libc::SIGTERM).unwrap();
    // Meanwhile it answers questions, and says what it does.
    scripts.cluster.wait_for(Machine::A, "it stops", |status| {
        let group = &status["groups"][0];
        group["health"] == "stopping" && group["resources"][0]["state"] == "stopping"
    });
    scripts.cluster.wait_for_end(Machine::A);
    assert!(clock::now().since(asked) >= Duration::from_millis(600));
    scripts.cluster.wait_until_alone(Machine::B);
    assert_eq!(scripts.told(Machine::A), STOPS);
    watch.finish().assert_never_both();
    assert!(client.wait_for_answer(Machine::B, asked, PATIENCE));
    let seen = client.finish().unwrap();
    // The addresses go last: the client is served while the resources stop.
    let last = seen.last_answer(Machine::A).unwrap();
    assert!(last.received.since(asked) >= Duration::from_millis(590), "{last:?}");
    assert!(scripts.cluster.logged(Machine::B, "peer died").is_empty());
}

#[test]
fn a_stop_that_hangs_is_ended() {
    let mut scripts = Scripts::new("stop_timeout = \"200ms\"\n");
    scripts.cluster.edit("name = \"web\"", "name = \"web\"\non_stop_failure = \"ignore\"");
    scripts.cluster.start_both();
    scripts.set("slow-a-first-stop");
    scripts.cluster.lab.signal(Machine::A, libc::SIGTERM).unwrap();
    scripts.cluster.wait_for_end(Machine::A);
    scripts.cluster.wait_until_alone(Machine::B);
    scripts.cluster.assert_nothing_left(Machine::A);
    let log = scripts.cluster.log_file(Machine::A);
    let text = fs::read_to_string(log).unwrap();
    assert!(text.contains("stop timed out after 200ms"), "{text}");
}

#[test]
fn a_crash_while_a_resource_starts_moves_the_group() {
    let mut scripts = Scripts::new("");
    scripts.set("slow-a-second-start");
    let cluster = &mut scripts.cluster;
    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_for(Machine::A, "it starts", |status| {
        let group = &status["groups"][0];
        group["state"] == "holding" && group["resources"][0]["state"] == "starting"
    });
    cluster.wait_for(Machine::B, "a holds it", |status| status["groups"][0]["holder"] == "a");
    cluster.lab.crash(Machine::A).unwrap();
    cluster.wait_until_alone(Machine::B);
    wait_for("both resources on b", || {
        (scripts.told(Machine::B).ends_with(&STARTS.map(str::to_owned))).then_some(())
    });
}

/// A pair whose two resources are asked every 100 ms and restarted here, twice at most.
fn restarting() -> Scripts {
    let mut scripts = Scripts::new("status_interval = \"100ms\"\n");
    scripts
        .cluster
        .edit("name = \"web\"", "name = \"web\"\non_failure = \"restart\"\nmax_restarts = 2");
    scripts.cluster.start_both();
    scripts.forget();
    scripts
}

#[test]
fn resources_that_fail_are_restarted_here_and_then_elsewhere() {
    let mut scripts = restarting();
    let watch = Watch::start(&scripts.cluster);
    let message = "a resource failed: all of the group are started again here";
    for times in 1..=2 {
        scripts.set("fail-a-second-status");
        scripts.cluster.wait_for_log(Machine::A, message, |line| line["times"] == times);
        scripts.unset("fail-a-second-status");
        let status = scripts.cluster.wait_for(Machine::A, "it serves here again", |status| {
            let group = &status["groups"][0];
            group["restarts"] == times && group["health"] == "healthy"
        });
        let reason = status["groups"][0]["reason"].as_str().unwrap_or_default().to_owned();
        assert!(reason.contains(&format!("{times} of at most 2 times within 10m")), "{reason}");
    }
    assert_eq!(scripts.told(Machine::A), [STOPS, STARTS, STOPS, STARTS].concat());
    assert_eq!(scripts.told(Machine::B), Vec::<String>::new());
    watch.finish().assert_always_at(Machine::A);

    scripts.forget();
    scripts.set("fail-a-second-status");
    scripts.cluster.wait_until_alone(Machine::B);
    assert_eq!(scripts.told(Machine::A), STOPS);
}

#[test]
fn what_does_not_start_again_here_moves() {
    let mut scripts = restarting();
    scripts.set("fail-a-second-start");
    scripts.set("fail-a-second-status");
    scripts.cluster.wait_until_alone(Machine::B);
    let status = scripts.cluster.status(Machine::A);
    let reason = status["groups"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("starting resources") && reason.contains("second"), "{reason}");
}

#[test]
fn an_operator_restarts_the_resources_of_a_group_where_it_is_served() {
    let mut scripts = restarting();
    // Long enough to be watched.
    scripts.set("slow-a-second-start");
    let watch = Watch::start(&scripts.cluster);
    let said = |output: &std::process::Output| {
        let text = [&output.stdout[..], &output.stderr[..]].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let restart = ["resource", "restart", "web"];
    let (done, text) = said(&scripts.cluster.ask(Machine::A, &restart));
    assert!(done && text.contains("web: served, epoch "), "{text}");
    assert_eq!(scripts.told(Machine::A), [STOPS, STARTS].concat());
    assert_eq!(scripts.cluster.status(Machine::A)["groups"][0]["restarts"], 0);
    watch.finish().assert_always_at(Machine::A);

    let (done, text) = said(&scripts.cluster.ask(Machine::B, &restart));
    assert!(!done && text.contains("a holds web: ask there"), "{text}");
    let (done, text) = said(&scripts.cluster.ask(Machine::A, &["resource", "restart", "wbe"]));
    assert!(!done && text.contains("no group \"wbe\""), "{text}");
    scripts.set("fail-a-first-start");
    let (done, text) = said(&scripts.cluster.ask(Machine::A, &restart));
    assert!(!done && text.contains("do not run here again") && text.contains("first"), "{text}");
    scripts.cluster.wait_until_alone(Machine::B);
}

#[test]
fn a_group_in_maintenance_is_left_alone_and_looked_after_again_afterwards() {
    let mut scripts = Scripts::new("status_interval = \"100ms\"\n");
    scripts.cluster.start_both();
    scripts.forget();
    let watch = Watch::start(&scripts.cluster);
    let ask = |scripts: &Scripts, node, words: &[&str]| {
        let output = scripts.cluster.ask(node, words);
        let text = [&output.stdout[..], &output.stderr[..]].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    for node in [Machine::A, Machine::B] {
        let (code, text) = ask(&scripts, node, &["maintenance", "on", "web"]);
        assert!(code == Some(0) && text.contains("web is in maintenance on this node"), "{text}");
    }
    scripts.set("fail-a-second-status");
    let message = "failed in maintenance: nothing is done about it";
    scripts.cluster.wait_for_log(Machine::A, message, |line| {
        line["group"] == "web" && line["error"].as_str().unwrap().contains("second")
    });
    let (code, text) = ask(&scripts, Machine::A, &["status"]);
    assert!(code == Some(1) && text.contains("in maintenance, and failed: "), "{code:?} {text}");
    for (words, why) in [
        (&["move", "web", "b"][..], "`hb maintenance off web` first"),
        (&["resource", "restart", "web"][..], "`hb maintenance off web` first"),
        (&["standby"][..], "web is in maintenance on this node, and stays"),
        (&["maintenance", "on", "wbe"][..], "no group \"wbe\""),
    ] {
        let (code, text) = ask(&scripts, Machine::A, words);
        assert!(code != Some(0) && text.contains(why), "{words:?}: {text}");
    }
    assert_eq!(scripts.cluster.status(Machine::B)["groups"][0]["health"], "aside");
    assert_eq!(scripts.told(Machine::A), Vec::<String>::new());

    // What an operator mended meanwhile is looked at, and what does not run is started.
    scripts.unset("fail-a-second-status");
    for node in [Machine::A, Machine::B] {
        let (code, text) = ask(&scripts, node, &["maintenance", "off"]);
        assert_eq!(code, Some(0), "{text}");
    }
    scripts.cluster.wait_for(Machine::A, "served", |status| {
        let group = &status["groups"][0];
        group["health"] == "healthy" && group["maintenance"] == false
    });
    assert_eq!(scripts.told(Machine::A), Vec::<String>::new(), "both ran");
    assert_eq!(scripts.told(Machine::B), Vec::<String>::new());
    watch.finish().assert_always_at(Machine::A);
    scripts.set("fail-a-second-status");
    scripts.cluster.wait_until_alone(Machine::B);
}
