//! The kernel changes interfaces and addresses under one lock for the whole machine, whatever the
//! namespace (`RTNL`), and may hold it for a second where many interfaces go at once. That is no
//! fault of a node's.

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use hb_user::lease_view::{LeaseView, State, now_ns};
use lab::{
    addresses::{Machine, NODES},
    config::Settings,
    netns,
};

use super::support::{Cluster, slow};

/// Bridges of this group are deleted at once.
const TOGETHER: &str = "77";

/// The kernel holds its lock, on a thread that waits for it.
struct Hold(JoinHandle<Duration>);

impl Hold {
    /// Begins, for about `length`: deleting bridges that nobody uses takes that long.
    fn begin(cluster: &Cluster, length: Duration) -> Self {
        let few = 10;
        let took = Self::delete(cluster, few).join().unwrap();
        let count = (length.as_secs_f64() / took.as_secs_f64() * f64::from(few)).ceil();
        assert!(count < 10_000.0, "{few} bridges took {took:?}");
        let deleting = Self::delete(cluster, count as u32);
        // It has begun by then, with so much to do.
        thread::sleep(Duration::from_millis(100));
        assert!(!deleting.is_finished());
        Self(deleting)
    }

    fn delete(cluster: &Cluster, count: u32) -> JoinHandle<Duration> {
        let client = cluster.lab.netns(Machine::Client);
        let lines: String = (0..count)
            .map(|number| format!("link add hold{number} group {TOGETHER} type bridge\n"))
            .collect();
        client.ip_batch(&lines).unwrap();
        let name = client.name().to_owned();
        thread::spawn(move || {
            let start = Instant::now();
            netns::run("ip", &["-n", &name, "link", "delete", "group", TOGETHER]).unwrap();
            start.elapsed()
        })
    }

    fn is_over(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for the end; returns how long it was held.
    fn end(self) -> Duration {
        self.0.join().unwrap()
    }
}

#[test]
fn a_status_does_not_make_a_daemon_wait_for_the_kernels_lock() {
    let settings = slow();
    let mut cluster = Cluster::up(settings);
    let epoch = cluster.epoch(Machine::A);
    let hold = Hold::begin(&cluster, Duration::from_millis(1500));
    // It needs a list of addresses and links, so it is answered at the end.
    let asked: Vec<_> = NODES.map(|node| cluster.ask(node, &["status"])).into();
    let held = hold.end();
    for output in asked {
        assert!(output.status.success(), "{output:?}");
    }
    assert!(held > Duration::from_millis(600), "held for {held:?}, which is too short");
    // Whoever had been given up would have been said to be alive again by now, for a status is
    // answered by what gives signs of life.
    for node in NODES {
        let said = "peer's controller is dead, its kernel half answers";
        assert!(cluster.logged(node, said).is_empty(), "{node}, held for {held:?}");
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
        controller_deadtime: "1900ms".into(),
        resource: false,
        extra: other.into(),
        ..slow()
    });
    let moved = cluster.ask(Machine::A, &["move", "web", "b"]);
    assert!(moved.status.success(), "{moved:?}");
    cluster.wait_until_serving(Machine::B);

    let leases = LeaseView::open(&cluster.lab.leases(Machine::B)).unwrap();
    let hold = Hold::begin(&cluster, Duration::from_millis(1300));
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
    for said in ["lease ran out: the gate is closed until a majority of the voters answers"] {
        assert!(cluster.logged(Machine::B, said).is_empty());
    }
}
