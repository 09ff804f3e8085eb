//! `hb move`: in order, and nobody outside notices more than a pause.

use std::{
    fs,
    net::{TcpStream, UdpSocket},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use hb_lease::{LeaseView, State};
use lab::{
    addresses::{Machine, SERVICE_PORT, VIP4},
    clock,
    config::Settings,
};

use super::{
    holders::Watch,
    removal::{bring_up_late, late_targets, send_to_nobody},
    support::{Cluster, PATIENCE, slow, wait_for},
};

/// A request that is repeated for this long is answered in the end.
pub(crate) const RETRIED: Duration = Duration::from_millis(500);

pub(crate) fn quick(policy: &str) -> Settings {
    Settings { policy: policy.into(), resource: false, ..slow() }
}

pub(crate) fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A client that connects, closes, and connects again.
pub(crate) struct Caller {
    stop: Arc<AtomicBool>,
    connected: Arc<AtomicU64>,
    thread: thread::JoinHandle<Vec<String>>,
}

impl Caller {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let (stop, connected) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let entry = cluster.lab.netns(Machine::Client).entry().unwrap();
        let thread = {
            let (stop, connected) = (Arc::clone(&stop), Arc::clone(&connected));
            thread::spawn(move || {
                entry.enter().unwrap();
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match TcpStream::connect_timeout(&(VIP4, SERVICE_PORT).into(), PATIENCE) {
                        Ok(_) => drop(connected.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failures.push(error.to_string()),
                    }
                    thread::sleep(Duration::from_micros(300));
                }
                failures
            })
        };
        Self { stop, connected, thread }
    }

    /// Waits until so many more have connected.
    pub(crate) fn wait_for(&self, more: u64) {
        let before = self.connected.load(Ordering::Relaxed);
        wait_for("connections", || {
            (self.connected.load(Ordering::Relaxed) >= before + more).then_some(())
        });
    }

    pub(crate) fn assert_never_failed(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert_eq!(self.thread.join().unwrap(), Vec::<String>::new());
    }
}

/// Moves the group to `b` and back, under a client's eyes.
fn to_and_fro(policy: &str) {
    let mut cluster = Cluster::up(quick(policy));
    let client = cluster.client(VIP4.into());
    let watch = Watch::start(&cluster);
    let caller = Caller::start(&cluster);
    let mut epoch = cluster.epoch(Machine::A);
    let mut asked = Vec::new();
    for (from, to) in [(Machine::A, Machine::B), (Machine::B, Machine::A)] {
        caller.wait_for(20);
        asked.push((from, to, clock::now()));
        let text = done(&cluster.ask(from, &["move", "web", to.name()]));
        let next = cluster.epoch(to);
        assert_eq!(
            text,
            format!("moving web to {to}\nweb: served by {to}, epoch {next}\n"),
            "{policy}"
        );
        assert!(next > epoch, "{next} after {epoch}");
        epoch = next;
        // What its frames say, as the kernel has it.
        let word = LeaseView::open(&cluster.lab.leases(from)).unwrap().read(0).unwrap();
        assert_eq!(word.state, State::Released, "{policy}: {word:?}");
        caller.wait_for(20);
        cluster.wait_until_serving(to);
    }
    caller.assert_never_failed();
    watch.finish().assert_never_both();
    let seen = client.finish().unwrap();
    for (from, to, asked) in asked {
        let first = seen.first_answer(to, asked).unwrap();
        let last =
            seen.answers.iter().rev().find(|a| a.node == from && a.received < first.received);
        let outage = first.received.since(last.unwrap().received);
        println!("{policy}: {from} to {to}, silence of {outage:?}");
        let late = seen.answers.iter().find(|answer| {
            answer.node == from && answer.received > first.received && answer.epoch < first.epoch
        });
        assert_eq!(late, None, "{policy}: an answer of the old holder after the new one's");
    }
    let gap = seen.longest_gap().unwrap();
    assert!(gap < RETRIED, "{gap:?}");
    assert_eq!(cluster.logged(Machine::A, "peer died"), Vec::<serde_json::Value>::new());
}

#[test]
fn with_available_no_connection_attempt_and_no_retried_request_fails() {
    to_and_fro("available");
}

#[test]
fn with_witness_no_connection_attempt_and_no_retried_request_fails() {
    to_and_fro("witness");
}

/// Moves a group to a node that was restarted in order since it is held, `restarted` in this order:
/// at the first try, without a take-back.
fn to_a_restarted_node(policy: &str, restarted: &[Machine]) {
    let mut cluster = Cluster::up(quick(policy));
    for node in restarted {
        cluster.restart(*node);
    }
    let from = cluster.holder();
    let to = from.peer();
    let before = cluster.epoch(from);
    let taken_back = cluster.logged(from, "peer died").len();
    let watch = Watch::start(&cluster);
    let asked = clock::now();
    let text = done(&cluster.ask(from, &["move", "web", to.name()]));
    let took = clock::now().since(asked);
    let epoch = cluster.epoch(to);
    let served = format!("moving web to {to}\nweb: served by {to}, epoch {epoch}\n");
    assert_eq!(text, served, "{policy}");
    // A move that is tried twice waits for a promise, and for the command's patience.
    assert!(took < Duration::from_secs(2), "{policy}: {took:?}");
    cluster.wait_until_serving(to);
    let seen = watch.finish();
    seen.assert_never_both();
    let back = seen.holders.iter().filter(|(_, holders)| *holders == [from]).count();
    assert!(back <= 1, "{policy}: {:?}", seen.holders);
    assert!(epoch > before, "{epoch} after {before}");
    assert_eq!(cluster.logged(from, "peer died").len(), taken_back);
}

#[test]
fn a_node_that_was_restarted_takes_what_is_moved_to_it_at_once() {
    for policy in ["available", "witness", "safe"] {
        to_a_restarted_node(policy, &[Machine::B]);
    }
}

#[test]
fn after_a_restart_of_both_nodes_one_after_the_other_a_move_succeeds_at_once() {
    for policy in ["available", "witness", "safe"] {
        to_a_restarted_node(policy, &[Machine::B, Machine::A]);
    }
}

#[test]
fn after_a_restart_of_the_witness_a_move_succeeds_at_once() {
    let mut cluster = Cluster::up(quick("witness"));
    cluster.lab.restart_witness().unwrap();
    let text = done(&cluster.ask(Machine::A, &["move", "web", "b"]));
    assert!(text.contains("web: served by b"), "{text}");
    cluster.wait_until_serving(Machine::B);
}

#[test]
fn what_cannot_be_moved_is_refused_with_the_reason() {
    let mut cluster = Cluster::up(quick("available"));
    let epoch = cluster.epoch(Machine::A);
    for (node, arguments, reason) in [
        (Machine::A, ["db", "b"], "no group \"db\" in this configuration; there are: web"),
        (Machine::A, ["web", "c"], "there is no node \"c\"; nodes: a, b"),
        (Machine::B, ["web", "b"], "a holds web: ask there, `hb move web b` on a"),
    ] {
        let text = refused(&cluster.ask(node, &[&["move"], &arguments[..]].concat()));
        assert!(text.contains(reason), "{text}");
    }
    let text = done(&cluster.ask(Machine::A, &["move", "web", "a"]));
    assert!(text.starts_with("a holds web already\n"), "{text}");

    cluster.kill(Machine::B);
    cluster.wait_for(Machine::A, "the daemon of b is dead", |status| {
        status["peers"][0]["controller"]["alive"] == false
    });
    let text = refused(&cluster.ask(Machine::A, &["move", "web", "b"]));
    assert!(text.contains("b cannot take web: it answers, but its daemon is dead"), "{text}");
    cluster.lab.crash(Machine::B).unwrap();
    cluster.wait_for(Machine::A, "b is dead", |status| status["peers"][0]["life"] == "dead");
    let text = refused(&cluster.ask(Machine::A, &["move", "web", "b"]));
    assert!(text.contains("b cannot take web: it is not up"), "{text}");

    // What was refused is not done later, when it could be.
    cluster.lab.reboot(Machine::B).unwrap();
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_until_serving(Machine::A);
    assert_eq!(cluster.epoch(Machine::A), epoch);
}

#[test]
fn a_group_that_would_come_back_is_not_moved() {
    let cluster = Cluster::up(Settings { auto_failback: true, ..quick("available") });
    let text = refused(&cluster.ask(Machine::A, &["move", "web", "b"]));
    assert!(text.contains("web would come back at once: it prefers a"), "{text}");
}

#[test]
fn a_learner_takes_part_when_an_operator_answers_for_it() {
    let mut cluster = Cluster::up(quick("witness"));
    let text = refused(&cluster.ask(Machine::A, &["confirm"]));
    assert!(text.contains("nothing to confirm"), "{text}");
    for node in [Machine::B, Machine::A] {
        cluster.lab.signal(node, libc::SIGTERM).unwrap();
        cluster.wait_for_end(node);
    }
    // Its disk is lost, and the other node does not come back.
    let state = cluster.lab.files().directory.join("state");
    let own = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
    let own = own.into_iter().find(|path| path.to_str().unwrap().ends_with("-a")).unwrap();
    fs::remove_dir_all(own).unwrap();
    cluster.lab.start_daemon(Machine::A).unwrap();
    let status = cluster.wait_for(Machine::A, "it is a learner", |status| {
        let reason = status["groups"][0]["reason"].as_str().unwrap_or_default();
        reason.starts_with("learner") && reason.contains("`hb confirm`")
    });
    assert_eq!(status["groups"][0]["holder"], serde_json::Value::Null);
    let text = String::from_utf8(cluster.ask(Machine::A, &["status"]).stdout).unwrap();
    assert!(text.contains("SERVED BY NOBODY"), "{text}");

    let text = done(&cluster.ask(Machine::A, &["confirm"]));
    assert!(text.starts_with("no learner any more: takes part from generation"), "{text}");
    cluster.wait_until_alone(Machine::A);
    let text = refused(&cluster.ask(Machine::A, &["confirm"]));
    assert!(text.contains("nothing to confirm"), "{text}");
}

/// Under `safe`: it left while the other node held the group, and that one is off for good.
#[test]
fn a_node_that_left_seeks_again_when_an_operator_says_that_the_holder_is_off() {
    let mut cluster = Cluster::up(quick("safe"));
    cluster.lab.signal(Machine::B, libc::SIGTERM).unwrap();
    cluster.wait_for_end(Machine::B);
    cluster.wait_until_alone(Machine::A);
    cluster.lab.crash(Machine::A).unwrap();
    drop(cluster.lab.power_switch().unwrap().take_requests());
    cluster.lab.start_daemon(Machine::B).unwrap();
    let bound = |status: &serde_json::Value| {
        let reason = status["groups"][0]["reason"].as_str().unwrap_or_default();
        reason.contains("`hb confirm` on this node")
    };
    cluster.wait_for(Machine::B, "it is bound", bound);
    cluster.wait_for(Machine::B, "a is dead", |status| status["peers"][0]["life"] == "dead");
    // Longer than it would take to seek: it neither serves nor has anybody fenced.
    thread::sleep(Duration::from_secs(3));
    let status = cluster.status(Machine::B);
    assert!(bound(&status), "{status:#}");
    assert_eq!(status["groups"][0]["holder"], serde_json::Value::Null);
    assert_eq!(cluster.lab.power_switch().unwrap().take_requests(), []);

    let text = done(&cluster.ask(Machine::B, &["confirm"]));
    assert_eq!(text, "bound no longer: web\n");
    cluster.wait_until_alone(Machine::B);
    let fenced = cluster.lab.power_switch().unwrap().take_requests();
    assert!(fenced.iter().any(|fenced| fenced.node == Machine::A && fenced.done), "{fenced:?}");
    let text = refused(&cluster.ask(Machine::B, &["confirm"]));
    assert!(text.contains("nothing to confirm"), "{text}");
}

/// Sends from each service address of `a` to a neighbour that is not there, moves the group to `b` and back,
/// and brings the neighbours up: they hear nothing but what is sent then.
fn sent_to_nobody(settings: Settings) {
    let mut cluster = Cluster::up(settings);
    send_to_nobody(&cluster, Machine::A);
    for (from, to) in [(Machine::A, Machine::B), (Machine::B, Machine::A)] {
        done(&cluster.ask(from, &["move", "web", to.name()]));
        cluster.wait_until_serving(to);
    }
    let client = cluster.lab.netns(Machine::Client);
    client.ip_batch(&bring_up_late()).unwrap();
    for (vip, target) in late_targets() {
        let heard = client.enter(|| UdpSocket::bind(target).unwrap()).unwrap();
        heard.set_read_timeout(Some(PATIENCE)).unwrap();
        let a = cluster.lab.netns(Machine::A);
        let send = || UdpSocket::bind((vip, 0)).unwrap().send_to(b"new", target).unwrap();
        a.enter(send).unwrap();
        let mut text = [0; 16];
        let length = heard.recv(&mut text).unwrap();
        assert_eq!(String::from_utf8_lossy(&text[..length]), "new", "from {vip}");
    }
}

#[test]
fn what_was_sent_before_a_move_does_not_leave_once_the_group_is_back() {
    for policy in ["available", "witness"] {
        sent_to_nobody(quick(policy));
        sent_to_nobody(Settings { warm: true, ..quick(policy) });
    }
}
