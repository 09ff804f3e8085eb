//! A resource that does not stop, and may still run: nobody else starts it.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use lab::{addresses::Machine, config::Settings};
use tempfile::TempDir;

use super::support::{Cluster, slow, wait_for};

/// A pair with a service that runs while its file is there, and does not stop while another one is.
struct Stuck {
    cluster: Cluster,
    directory: TempDir,
}

impl Stuck {
    /// `extra` are more keys of the resource.
    fn new(policy: &str, extra: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("svc.sh");
        let place = directory.path().display();
        fs::write(
            &program,
            format!(
                "#!/bin/sh\nD={place}\nR=$D/runs-$HB_NODE\n\
                 case $1 in\n\
                 start) : > $R; [ -e $D/runs-a ] && [ -e $D/runs-b ] && : > $D/both; exit 0;;\n\
                 stop) [ -e $D/busy-$HB_NODE ] && {{ echo \"target is busy\" >&2; exit 1; }}\n\
                 [ -e $D/hangs-$HB_NODE ] && sleep 60\n\
                 rm -f $R;;\n\
                 status) [ -e $R ] || exit 3;;\n\
                 esac\n"
            ),
        )
        .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let resource = format!(
            "[[group.resource]]\nname = \"svc\"\ntype = \"script\"\nprogram = \"{}\"\n{extra}",
            program.display()
        );
        let policy = policy.into();
        let settings = Settings { resource: false, policy, extra: resource, ..slow() };
        Self { cluster: Cluster::new(settings), directory }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn set(&self, name: &str) {
        fs::write(self.file(name), "").unwrap();
    }

    fn unset(&self, name: &str) {
        fs::remove_file(self.file(name)).unwrap();
    }

    fn runs(&self, node: Machine) -> bool {
        self.file(&format!("runs-{node}")).exists()
    }

    /// Has `a` asked to give the group to `b`, and waits until it says that it cannot.
    fn block(&mut self) {
        self.cluster.start_both();
        let moved = self.cluster.ask(Machine::A, &["move", "web", "b", "--wait", "0s"]);
        assert!(moved.status.success(), "{moved:?}");
        self.wait_until_blocked();
    }

    fn wait_until_blocked(&mut self) {
        let cluster = &mut self.cluster;
        let status = cluster.wait_for(Machine::A, "a keeps it", |status| {
            let group = &status["groups"][0];
            group["state"] == "holding"
                && group["health"] == "failed"
                && group["reason"]
                    .as_str()
                    .is_some_and(|reason| reason.contains("not stopped here"))
        });
        let reason = status["groups"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("svc: stop") && reason.contains("`hb clear web`"), "{reason}");
        let message =
            "not given to another node: a resource could not be stopped and may still run here";
        cluster.wait_for_log(Machine::A, message, |line| line["group"] == "web");
        cluster.wait_for(Machine::B, "b knows", |status| {
            let group = &status["groups"][0];
            group["holder"] == "a" && group["holder_health"] == "failed"
        });
        assert!(self.runs(Machine::A) && !self.runs(Machine::B));
    }

    fn assert_never_on_both(&self) {
        assert!(!self.file("both").exists(), "it was started on b while it ran on a");
    }
}

#[test]
fn a_group_whose_resource_does_not_stop_stays_until_it_does() {
    for policy in ["available", "witness", "safe"] {
        let mut stuck = Stuck::new(policy, "");
        stuck.set("busy-a");
        stuck.block();
        // It waits for longer than one try takes.
        std::thread::sleep(std::time::Duration::from_millis(1_500));
        stuck.wait_until_blocked();
        stuck.unset("busy-a");
        stuck.cluster.wait_until_alone(Machine::B);
        assert!(!stuck.runs(Machine::A) && stuck.runs(Machine::B), "{policy}");
        stuck.assert_never_on_both();
    }
}

#[test]
fn a_move_that_is_blocked_says_so() {
    let mut stuck = Stuck::new("available", "");
    stuck.set("busy-a");
    stuck.cluster.start_both();
    let moved = stuck.cluster.ask(Machine::A, &["move", "web", "b", "--wait", "1s"]);
    let text = String::from_utf8_lossy(&moved.stderr).into_owned();
    assert!(!moved.status.success());
    for part in ["a holds it and does not serve it", "not stopped here", "target is busy"] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn a_stop_that_hangs_blocks_until_the_service_is_ended_by_hand() {
    let mut stuck = Stuck::new("available", "stop_timeout = \"200ms\"\n");
    stuck.set("hangs-a");
    stuck.block();
    // Its stop hangs still, and its status says that nothing runs any more.
    stuck.unset("runs-a");
    stuck.cluster.wait_until_alone(Machine::B);
    stuck.assert_never_on_both();
}

#[test]
fn an_operator_ends_a_block() {
    let mut stuck = Stuck::new("available", "stop_timeout = \"200ms\"\n");
    stuck.set("busy-a");
    stuck.block();
    stuck.unset("runs-a");
    assert!(stuck.cluster.ask(Machine::A, &["clear", "web"]).status.success());
    stuck.cluster.wait_until_serving(Machine::B);
    stuck.assert_never_on_both();
}

#[test]
fn a_node_that_dies_blocked_is_taken_over_and_under_safe_fenced_first() {
    for policy in ["witness", "safe"] {
        let mut stuck = Stuck::new(policy, "");
        stuck.set("busy-a");
        stuck.block();
        stuck.cluster.lab.crash(Machine::A).unwrap();
        stuck.unset("runs-a");
        stuck.cluster.wait_until_alone(Machine::B);
        assert!(stuck.runs(Machine::B), "{policy}");
    }
}

#[test]
fn a_daemon_does_not_leave_what_it_could_not_stop_unless_it_is_told_twice() {
    let mut stuck = Stuck::new("available", "");
    stuck.set("busy-a");
    stuck.cluster.start_both();
    stuck.cluster.lab.signal(Machine::A, libc::SIGTERM).unwrap();
    stuck.wait_until_blocked();
    let message = "not leaving: a resource could not be stopped and may still run here";
    stuck.cluster.wait_for_log(Machine::A, message, |line| line["group"] == "web");
    stuck.unset("busy-a");
    stuck.cluster.wait_for_end(Machine::A);
    stuck.cluster.wait_until_alone(Machine::B);
    stuck.assert_never_on_both();

    stuck.set("busy-b");
    stuck.cluster.lab.signal(Machine::B, libc::SIGTERM).unwrap();
    stuck.cluster.wait_for_log(Machine::B, message, |line| line["group"] == "web");
    stuck.cluster.lab.signal(Machine::B, libc::SIGTERM).unwrap();
    stuck.cluster.wait_for_end(Machine::B);
    stuck.cluster.assert_nothing_left(Machine::B);
    assert!(stuck.runs(Machine::B));
}

#[test]
fn a_failed_stop_that_is_ignored_moves_the_group() {
    let mut stuck = Stuck::new("available", "");
    stuck.cluster.edit("name = \"web\"", "name = \"web\"\non_stop_failure = \"ignore\"");
    stuck.set("busy-a");
    stuck.cluster.start_both();
    let moved = stuck.cluster.ask(Machine::A, &["move", "web", "b"]);
    assert!(moved.status.success(), "{moved:?}");
    stuck.cluster.wait_until_alone(Machine::B);
    wait_for("on both", || stuck.file("both").exists().then_some(()));
}
