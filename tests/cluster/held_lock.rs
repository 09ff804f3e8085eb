//! The kernel changes interfaces and addresses under one lock for the whole machine, whatever the
//! namespace (`RTNL`), and may hold it for a second where many interfaces go at once. That is no
//! fault of a node's.

use std::{
    thread::{self, JoinHandle},
    time::Duration,
};

use hb_lease::{LeaseView, State, now_ns};
use lab::{
    addresses::{Machine, NODES},
    clock,
    config::Settings,
    netns,
};

use super::support::{Cluster, slow};

/// Bridges of this group are deleted at once.
const TOGETHER: &str = "77";

/// The kernel holds its lock, on a thread that waits for it.
pub(super) struct Hold(JoinHandle<Duration>);

impl Hold {
    /// Begins, for about `length`, right after `before`: deleting bridges that nobody uses takes that
    /// long.
    pub(super) fn begin(cluster: &Cluster, length: Duration, before: impl FnOnce()) -> Self {
        let few = 10;
        // The shortest of several: others hold the lock as well.
        let time = |_| {
            make_bridges(cluster, few);
            delete_bridges(cluster).join().unwrap()
        };
        let took = (0..5).map(time).min().unwrap();
        let count = (length.as_secs_f64() / took.as_secs_f64() * f64::from(few)).ceil();
        assert!(count < 10_000.0, "{few} bridges took {took:?}");
        make_bridges(cluster, count as u32);
        before();
        let deleting = delete_bridges(cluster);
        // It has begun by then, with so much to do.
        thread::sleep(Duration::from_millis(100));
        assert!(!deleting.is_finished());
        Self(deleting)
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for the end; returns how long it was held.
    pub(super) fn end(self) -> Duration {
        self.0.join().unwrap()
    }
}

fn make_bridges(cluster: &Cluster, count: u32) {
    let add = |number| format!("link add hold{number} group {TOGETHER} type bridge\n");
    let lines: String = (0..count).map(add).collect();
    cluster.lab.netns(Machine::Client).ip_batch(&lines).unwrap();
}

/// Returns how long it took.
fn delete_bridges(cluster: &Cluster) -> JoinHandle<Duration> {
    let name = cluster.lab.netns(Machine::Client).name().to_owned();
    thread::spawn(move || {
        let start = clock::now();
        netns::run("ip", &["-n", &name, "link", "delete", "group", TOGETHER]).unwrap();
        clock::now().since(start)
    })
}

#[test]
fn no_daemon_waits_for_the_kernels_lock_with_what_it_does_beside() {
    let mut cluster = Cluster::up(slow());
    let epoch = cluster.epoch(Machine::A);
    let said = "interface is new: gated";
    for round in 0..3 {
        let [new, end] = ["new", "end"].map(|name| format!("{name}{round}"));
        // Each node gets an interface, which is to be gated.
        let hold = Hold::begin(&cluster, Duration::from_millis(1500), || {
            let line = format!("link add {new} type veth peer name {end}\n");
            for node in NODES {
                cluster.lab.netns(node).ip_batch(&line).unwrap();
            }
        });
        let asked = NODES.map(|node| cluster.ask(node, &["status"]));
        let held = hold.end();
        assert!(held > Duration::from_millis(600), "held for {held:?}, which is too short");
        for output in asked {
            assert!(output.status.code().is_some_and(|code| code < 3), "{output:?}");
        }
        for node in NODES {
            cluster.wait_for_log(node, said, |fields| fields["interface"] == new.as_str());
        }
    }
    // What a node says of the other one's daemon it has said by now.
    for node in NODES {
        let said = "peer's controller is dead, its kernel half answers";
        assert!(cluster.logged(node, said).is_empty(), "{node}");
    }
    assert_eq!(cluster.epoch(Machine::A), epoch);
}

#[test]
fn an_address_that_waits_for_the_kernels_lock_costs_no_other_group_its_lease() {
    let other = "[[group]]\nname = \"other\"\npreferred = \"a\"\n\
                 [[group.address]]\naddress = \"192.0.2.101/24\"\ninterface = \"eth0\"\n";
    let mut cluster = Cluster::up(Settings {
        policy: "witness".into(),
        lease: Some("160ms".into()),
        resource: false,
        extra: other.into(),
        ..slow()
    });
    let moved = cluster.ask(Machine::A, &["move", "web", "b"]);
    assert!(moved.status.success(), "{moved:?}");
    cluster.wait_until_serving(Machine::B);

    let leases = LeaseView::open(&cluster.lab.leases(Machine::B)).unwrap();
    let hold = Hold::begin(&cluster, Duration::from_millis(1300), || {});
    // Node b has to put up an address meanwhile.
    let mut moving = cluster.lab.hb(Machine::A).unwrap();
    let socket = cluster.lab.socket(Machine::A);
    let moving = moving.args(["move", "other", "b", "--socket"]).arg(socket).spawn().unwrap();
    let (mut looks, mut others) = (0, 0);
    while !hold.is_over() {
        let web = leases.read(0).unwrap();
        let left = web.left_ns(now_ns().unwrap());
        assert_eq!(web.state, State::Holding);
        assert!(left > 0, "the lease ran out after {looks} looks");
        looks += 1;
        others += u32::from(leases.read(1).unwrap().state == State::Holding);
        thread::sleep(Duration::from_millis(1));
    }
    let held = hold.end();
    let moved = moving.wait_with_output().unwrap();
    assert!(moved.status.success(), "{moved:?}");
    assert!(held > Duration::from_millis(600), "held for {held:?}, which is too short");
    // It was won soon, and waited for its address most of the time.
    assert!(others > looks / 2, "{others} of {looks} looks saw it held");
    let said = "lease ran out: the gate is closed until a majority of the voters answers";
    assert!(cluster.logged(Machine::B, said).is_empty());
    // Nor is a daemon given up whose fast path waits for the kernel.
    let said = "peer's controller is dead, its kernel half answers";
    assert!(cluster.logged(Machine::A, said).is_empty(), "held for {held:?}");
}
