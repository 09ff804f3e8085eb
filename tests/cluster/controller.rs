//! A daemon dies or hangs while its kernel half lives.

use std::{thread, time::Duration};

use hb_ebpf::time::BootTime;
use lab::{
    addresses::{Machine, NODES, VIP4},
    client::Client,
    clock,
    config::Settings,
};
use serde_json::Value;

use super::{
    holders::Watch,
    support::{Cluster, PATIENCE, both_vips, slow},
    turn::Turn,
};

/// What a client may miss while a daemon is killed and started, for reasons of this machine.
const GAP: Duration = Duration::from_millis(150);

fn dead(cluster: &mut Cluster, node: Machine) -> Value {
    cluster.wait_for(node, "the peer's controller is dead", |status| {
        status["peers"][0]["controller"]["alive"] == false
    })
}

/// Asserts that `a` served the client all the time.
fn served_by_a(client: Client) {
    assert!(client.wait_for_answer(Machine::A, clock::now(), PATIENCE));
    let seen = client.finish().unwrap();
    assert!(seen.last_answer(Machine::B).is_none());
    let gap = seen.longest_gap().unwrap();
    assert!(gap < GAP, "{gap:?}, client late by {:?}", seen.worst_lateness);
}

/// Asserts that `b` took over from `a`, whose daemon stopped at `fault`: on the client's side nothing
/// came from `a` any more once `b` had answered.
fn taken_over_by_b(client: Client, fault: BootTime) {
    assert!(client.wait_for_answer(Machine::B, fault, PATIENCE));
    let seen = client.finish().unwrap();
    let first = seen.first_answer(Machine::B, fault).unwrap();
    let last = seen.last_answer(Machine::A).unwrap();
    assert!(last.received < first.received, "a: {last:?}, b: {first:?}");
}

/// What the other node says of a node whose daemon is dead while its kernel half answers.
fn told_apart_from_a_death(cluster: &mut Cluster, node: Machine) {
    let status = dead(cluster, node.peer());
    assert_eq!(status["peers"][0]["life"], "alive", "its kernel half answers: {status:#}");
    cluster.wait_for_log(
        node.peer(),
        "peer's controller is dead, its kernel half answers",
        |line| line["peer"] == node.name(),
    );
    assert_eq!(cluster.logged(node.peer(), "peer died"), Vec::<Value>::new());
}

/// The daemon of the holder is killed: the gate closes by itself, though the addresses stay, and
/// the other node serves. Started again, the daemon stands by.
fn the_holders_daemon_is_killed(policy: &str) {
    let mut cluster = Cluster::up(Settings { policy: policy.into(), ..slow() });
    let epoch = cluster.epoch(Machine::A);
    let client = cluster.client(VIP4.into());
    let fault = clock::now();
    cluster.kill(Machine::A);
    cluster.wait_until_alone(Machine::B);
    assert_eq!(cluster.vips(Machine::A), both_vips(), "nobody is there to take them down");
    told_apart_from_a_death(&mut cluster, Machine::A);
    taken_over_by_b(client, fault);

    let output = cluster.ask(Machine::A, &["status"]);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains(cluster.lab.socket(Machine::A).to_str().unwrap()), "{text}");

    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.wait_until_serving(Machine::B);
    assert!(cluster.epoch(Machine::B) > epoch);
}

#[test]
fn the_holders_daemon_killed_is_a_takeover_with_policy_available() {
    the_holders_daemon_is_killed("available");
}

#[test]
fn the_holders_daemon_killed_is_a_takeover_with_a_witness() {
    the_holders_daemon_is_killed("witness");
}

#[test]
fn the_holders_daemon_killed_needs_no_fence_as_its_kernel_half_votes() {
    the_holders_daemon_is_killed("safe");
}

/// Restarted in place: as long as the kernel half lives alone its answers go on asking for the lease,
/// so a daemon that is back before its controller counts as dead goes on where it was.
#[test]
fn the_holders_daemon_killed_and_back_in_time_moves_nothing() {
    let _turn = Turn::alone();
    for policy in ["available", "witness", "safe"] {
        let settings =
            Settings { policy: policy.into(), controller_deadtime: "1900ms".into(), ..slow() };
        let mut cluster = Cluster::up(settings);
        let epoch = cluster.epoch(Machine::A);
        let incarnation = cluster.status(Machine::A)["incarnation"].as_u64().unwrap();
        let client = cluster.client(VIP4.into());
        let watch = Watch::start(&cluster);

        cluster.kill(Machine::A);
        cluster.lab.start_daemon(Machine::A).unwrap();
        cluster.wait_for(Machine::B, "the new incarnation", |status| {
            status["peers"][0]["incarnation"].as_u64() == Some(incarnation + 1)
        });
        cluster.wait_until_serving(Machine::A);
        cluster.wait_for_log(Machine::A, "group changes state", |line| {
            line["cause"] == "held by an earlier start of this daemon"
        });

        let seen = watch.finish();
        seen.assert_never(Machine::B);
        assert_eq!(seen.holders.len(), 1, "{policy}: the addresses stayed: {:?}", seen.holders);
        served_by_a(client);
        assert_eq!(cluster.epoch(Machine::A), epoch, "{policy}");
    }
}

#[test]
fn the_standbys_daemon_killed_moves_nothing() {
    let node = Machine::B;
    let mut cluster = Cluster::up(slow());
    let epoch = cluster.epoch(Machine::A);
    let incarnation = cluster.status(node)["incarnation"].as_u64().unwrap();
    let client = cluster.client(VIP4.into());
    let watch = Watch::start(&cluster);

    cluster.kill(node);
    told_apart_from_a_death(&mut cluster, node);
    // Whatever would come of it by mistake has time to.
    thread::sleep(Duration::from_millis(700));

    cluster.lab.start_daemon(node).unwrap();
    cluster.wait_until_serving(Machine::A);
    let status = cluster.wait_for(Machine::A, "the new incarnation", |status| {
        status["peers"][0]["incarnation"].as_u64() == Some(incarnation + 1)
    });
    assert_eq!(status["peers"][0]["controller"]["alive"], true);
    assert_eq!(cluster.status(node)["incarnation"].as_u64(), Some(incarnation + 1));

    let seen = watch.finish();
    seen.assert_never(node);
    assert_eq!(seen.holders.len(), 1, "the addresses stayed: {:?}", seen.holders);
    served_by_a(client);
    assert_eq!(cluster.epoch(Machine::A), epoch);
}

#[test]
fn a_crash_after_the_daemon_was_killed_is_a_takeover() {
    let mut cluster = Cluster::up(slow());
    cluster.kill(Machine::A);
    dead(&mut cluster, Machine::B);
    let client = cluster.client(VIP4.into());
    let crash = cluster.lab.crash(Machine::A).unwrap();
    assert!(client.wait_for_answer(Machine::B, crash, PATIENCE));
    cluster.wait_until_alone(Machine::B);
    client.finish().unwrap();
}

#[test]
fn a_standby_that_was_killed_and_repaired_takes_over() {
    let mut cluster = Cluster::up(slow());
    cluster.kill(Machine::B);
    dead(&mut cluster, Machine::A);
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_until_serving(Machine::A);
    let client = cluster.client(VIP4.into());
    let crash = cluster.lab.crash(Machine::A).unwrap();
    assert!(client.wait_for_answer(Machine::B, crash, PATIENCE));
    cluster.wait_until_alone(Machine::B);
    client.finish().unwrap();
}

#[test]
fn a_frozen_standby_accuses_nobody_when_it_thaws() {
    let mut cluster = Cluster::up(slow());
    let epoch = cluster.epoch(Machine::A);
    let client = cluster.client(VIP4.into());
    let watch = Watch::start(&cluster);

    cluster.lab.signal(Machine::B, libc::SIGSTOP).unwrap();
    dead(&mut cluster, Machine::A);
    thread::sleep(Duration::from_secs(1));
    cluster.lab.signal(Machine::B, libc::SIGCONT).unwrap();

    cluster.wait_until_serving(Machine::A);
    cluster.wait_for_log(Machine::A, "peer's controller is alive", |_| true);
    // The thawed node could accuse the other one of its own silence for this long.
    thread::sleep(Duration::from_millis(500));
    cluster.wait_until_serving(Machine::A);
    let seen = watch.finish();
    seen.assert_never(Machine::B);
    assert_eq!(seen.holders.len(), 1, "{:?}", seen.holders);
    served_by_a(client);
    for node in NODES {
        assert_eq!(cluster.logged(node, "peer died"), Vec::<Value>::new(), "{node}");
        assert_eq!(cluster.epoch(node), epoch);
    }
}

/// A frozen holder falls silent by itself, and stays so when it thaws: the other one serves.
#[test]
fn a_frozen_holder_loses_the_group_and_stands_by_when_it_thaws() {
    for policy in ["available", "witness"] {
        let mut cluster = Cluster::up(Settings { policy: policy.into(), ..slow() });
        let epoch = cluster.epoch(Machine::A);
        let client = cluster.client(VIP4.into());
        let fault = cluster.lab.signal(Machine::A, libc::SIGSTOP).unwrap();
        cluster.wait_until_alone(Machine::B);
        told_apart_from_a_death(&mut cluster, Machine::A);
        cluster.lab.signal(Machine::A, libc::SIGCONT).unwrap();
        cluster.wait_until_serving(Machine::B);
        taken_over_by_b(client, fault);
        assert!(cluster.epoch(Machine::B) > epoch, "{policy}");
    }
}

#[test]
fn a_standby_that_thaws_after_a_crash_takes_over() {
    let mut cluster = Cluster::up(slow());
    cluster.lab.signal(Machine::B, libc::SIGSTOP).unwrap();
    dead(&mut cluster, Machine::A);
    cluster.lab.crash(Machine::A).unwrap();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(cluster.vips(Machine::B), [].into());
    let thawed = cluster.lab.signal(Machine::B, libc::SIGCONT).unwrap();
    let client = cluster.client(VIP4.into());
    assert!(client.wait_for_answer(Machine::B, thawed, PATIENCE));
    client.finish().unwrap();
    cluster.wait_until_alone(Machine::B);
}

#[test]
fn a_standby_that_starts_beside_a_holder_without_daemon_takes_over() {
    let mut cluster = Cluster::up(slow());
    cluster.kill(Machine::B);
    cluster.kill(Machine::A);
    let client = cluster.client(VIP4.into());
    let start = clock::now();
    cluster.lab.start_daemon(Machine::B).unwrap();
    dead(&mut cluster, Machine::B);
    assert!(client.wait_for_answer(Machine::B, start, PATIENCE));
    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.wait_until_serving(Machine::B);
    let seen = client.finish().unwrap();
    let first = seen.first_answer(Machine::B, start).unwrap();
    if let Some(last) = seen.last_answer(Machine::A) {
        assert!(last.received < first.received, "a: {last:?}, b: {first:?}");
    }
}

/// A thread that runs no more until this is dropped.
struct Held(libc::pid_t);

impl Held {
    /// Stops the thread of that name of a process, and no other (ptrace(2)).
    fn thread(pid: i32, name: &str) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let named = |path: &std::path::Path| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let mut paths = tasks.map(|task| task.unwrap().path());
        let path = paths.find(|path| named(path)).unwrap();
        let tid: libc::pid_t = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: plain system calls, on a thread of a child; the status outlives the wait.
        unsafe {
            assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, tid, nothing, nothing), 0, "{tid}");
            assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, tid, nothing, nothing), 0);
            let mut status = 0;
            assert_eq!(libc::waitpid(tid, &raw mut status, libc::__WALL), tid);
            assert!(libc::WIFSTOPPED(status), "{status:#x}");
        }
        Self(tid)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: plain system call. The thread may be gone.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, nothing, nothing) };
    }
}

/// A main loop that goes on stamps no more while the fast path hangs: nothing of what it decides would
/// be done.
#[test]
fn a_hung_fast_path_is_a_dead_controller() {
    for policy in ["available", "witness"] {
        let mut cluster = Cluster::up(Settings { policy: policy.into(), ..slow() });
        let client = cluster.client(VIP4.into());
        let fault = clock::now();
        let held = Held::thread(cluster.lab.daemon(Machine::A).unwrap().pid(), "hb-fast");
        cluster.wait_until_alone(Machine::B);
        told_apart_from_a_death(&mut cluster, Machine::A);
        taken_over_by_b(client, fault);
        // The daemon is there, and says how it stands.
        let code = cluster.ask(Machine::A, &["status"]).status.code();
        assert!(code.is_some_and(|code| code < 3), "{code:?}");
        drop(held);
        cluster.wait_until_serving(Machine::B);
    }
}
