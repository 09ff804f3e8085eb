//! Policy `safe`: two nodes that do not hear each other have each other fenced, and a fence that
//! failed lets nobody serve.

use std::{thread, time::Duration};

use hb_ebpf::time::BootTime;
use lab::{
    addresses::{LINKS, Machine},
    clock,
    config::Settings,
    fence::Fenced,
    judge::{Departure, verdict},
    switch::Direction,
};

use super::support::{Cluster, brisk, wait_for};

/// The lease has run out by then, on a busy machine too.
const LAPSED: Duration = Duration::from_millis(500);
/// How long it is seen that nobody serves.
const WHILE: Duration = Duration::from_millis(500);
/// What the node of higher id waits before it fences: long enough to see what a failed fence did.
const DELAY: Duration = Duration::from_secs(3);

/// Longer, for a node that restarts meanwhile, on a machine with other work too.
const LONG_DELAY: Duration = Duration::from_secs(5);

/// A cluster whose nodes are about to have each other fenced, which fails for some of them.
fn cluster(broken: &[Machine], delay: Duration) -> Cluster {
    let cluster = Cluster::up(Settings {
        policy: "safe".into(),
        fence_delay: format!("{}ms", delay.as_millis()),
        resource: false,
        ..brisk()
    });
    let switch = cluster.lab.power_switch().unwrap();
    switch.set_broken(broken);
    drop(switch.take_requests());
    cluster
}

/// Waits for a request to switch a node off; returns it.
fn wait_for_request(cluster: &Cluster, node: Machine) -> Fenced {
    wait_for(&format!("a request to fence {node}"), || {
        let requests = cluster.lab.power_switch().unwrap().take_requests();
        requests.into_iter().find(|request| request.node == node)
    })
}

fn between(answers: &[Departure], from: BootTime, to: BootTime) -> Vec<Departure> {
    answers.iter().copied().filter(|answer| answer.at > from && answer.at < to).collect()
}

#[test]
fn of_two_fences_the_one_that_fails_lets_nobody_serve() {
    let cluster = cluster(&[Machine::B], DELAY);
    let judge = cluster.lab.judge().unwrap();
    let parted = cluster.lab.switch().part(Machine::A, &[Machine::B]);
    let refused = wait_for_request(&cluster, Machine::B);
    assert!(!refused.done && refused.at < parted.after(DELAY), "{refused:?}");
    let fenced = wait_for_request(&cluster, Machine::A);
    assert!(fenced.done, "{fenced:?}");
    wait_for("b serves", || judge.newest(Machine::B));
    let seen = judge.finish().unwrap();
    assert_eq!(between(&seen.answers, parted.after(LAPSED), fenced.at), []);
    assert_eq!(verdict::violations(&seen), []);
}

#[test]
fn two_fences_that_fail_let_nobody_serve_until_the_nodes_hear_each_other() {
    let mut cluster = cluster(&[Machine::A, Machine::B], DELAY);
    let judge = cluster.lab.judge().unwrap();
    let parted = cluster.lab.switch().part(Machine::A, &[Machine::B]);
    // Both have been told that it failed; the node of lower id more than once.
    for node in [Machine::B, Machine::A, Machine::B] {
        let refused = wait_for_request(&cluster, node);
        assert!(!refused.done, "{refused:?}");
    }
    thread::sleep(WHILE);
    let healed = clock::now();
    cluster.lab.switch().part(Machine::A, &[]);
    let back = wait_for("a node serves", || {
        [Machine::A, Machine::B]
            .into_iter()
            .filter_map(|node| judge.newest(node))
            .find(|answer| answer.at > healed)
    });
    cluster.wait_until_serving(back.node);
    let seen = judge.finish().unwrap();
    assert_eq!(between(&seen.answers, parted.after(LAPSED), healed), []);
    assert_eq!(verdict::violations(&seen), []);
}

/// It lost its power for a moment, and takes no part for a while: its promise is waited for.
#[test]
fn a_node_that_is_back_before_its_fence_is_not_fenced() {
    let mut cluster = cluster(&[], LONG_DELAY);
    let crashed = cluster.lab.crash(Machine::A).unwrap();
    let message = "seeking: the other node is silent or hears nothing, and is to be fenced";
    cluster.wait_for_log(Machine::B, message, |_| true);
    cluster.lab.reboot(Machine::A).unwrap();
    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.wait_for(Machine::B, "a is back", |status| status["peers"][0]["life"] == "alive");
    assert!(clock::now() < crashed.after(LONG_DELAY), "this machine is too slow for the test");
    wait_for("a node serves", || {
        [Machine::A, Machine::B]
            .into_iter()
            .find(|&node| cluster.status(node)["groups"][0]["state"] == "holding")
    });
    // On a quick machine it promises before the delay is over, else after that.
    let over = crashed.after(LONG_DELAY + WHILE);
    wait_for("the end of the delay", || (clock::now() > over).then_some(()));
    assert_eq!(cluster.lab.power_switch().unwrap().take_requests(), []);
}

/// Longer than the lab's agent takes.
const SHORT_DELAY: Duration = Duration::from_millis(500);
const STANDS_BACK: &str = "nobody answers this node, which may be the one that is cut off: \
                           the other one may fence it first";

/// Without the wait the node of lower id goes first, cut off or not.
#[test]
fn a_node_that_is_cut_off_is_fenced_by_the_healthy_one() {
    let mut cluster = cluster(&[], SHORT_DELAY);
    for link in LINKS {
        cluster.lab.switch().cut_link(Machine::A, link, Direction::Both);
    }
    let fenced = wait_for("a request to fence", || {
        cluster.lab.power_switch().unwrap().take_requests().into_iter().next()
    });
    assert_eq!((fenced.node, fenced.done), (Machine::A, true), "{fenced:?}");
    cluster.wait_until_alone(Machine::B);
    assert_eq!(cluster.logged(Machine::A, STANDS_BACK)[0]["node"], "b");
    assert_eq!(cluster.logged(Machine::B, STANDS_BACK), Vec::<serde_json::Value>::new());
    assert_eq!(cluster.lab.power_switch().unwrap().take_requests(), []);
}

#[test]
fn a_node_that_nobody_answers_fences_a_dead_one_all_the_same() {
    let mut cluster = cluster(&[], SHORT_DELAY);
    for link in LINKS {
        cluster.lab.switch().cut_link(Machine::A, link, Direction::Both);
    }
    let crashed = cluster.lab.crash(Machine::B).unwrap();
    let fenced = wait_for_request(&cluster, Machine::B);
    assert!(fenced.done && fenced.at > crashed.after(2 * SHORT_DELAY), "{fenced:?}");
    cluster.wait_for_log(Machine::A, STANDS_BACK, |_| true);
}

/// It says that the healthy one is dead, and it is heard saying so. Whether it held the group or stood by, it is the one that is off.
#[test]
fn a_node_to_which_nothing_comes_is_fenced_by_the_healthy_one_that_hears_it() {
    for deaf in [Machine::A, Machine::B] {
        let healthy = if deaf == Machine::A { Machine::B } else { Machine::A };
        let mut cluster = cluster(&[], SHORT_DELAY);
        let judge = cluster.lab.judge().unwrap();
        for link in LINKS {
            cluster.lab.switch().cut_link(deaf, link, Direction::ToMachine);
        }
        let fenced = wait_for("a request to fence", || {
            cluster.lab.power_switch().unwrap().take_requests().into_iter().next()
        });
        assert_eq!((fenced.node, fenced.done), (deaf, true), "{fenced:?}");
        cluster.wait_until_alone(healthy);
        assert_eq!(cluster.logged(healthy, STANDS_BACK), Vec::<serde_json::Value>::new());
        assert_eq!(verdict::violations(&judge.finish().unwrap()), []);
        assert_eq!(cluster.lab.power_switch().unwrap().take_requests(), []);
    }
}
