//! Programs of others beside the gate: it stands before them, and where it cannot nobody serves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use lab::{
    addresses::{Machine, NODES},
    config::Settings,
    tcx::{self, Foreign, Place, Verdict, Way},
};

use super::{
    gate::{assert_closed, assert_open, gate, report, what_stays},
    support::{Cluster, both_vips, slow, wait_for},
};

const EVERYWHERE: [(&str, Way); 4] =
    [("eth0", Way::Out), ("eth1", Way::Out), ("lo", Way::In), ("lo", Way::Out)];

/// Puts programs that let everything pass before all others of a node, or behind them.
fn put(cluster: &Cluster, node: Machine, place: Place) -> Vec<Foreign> {
    let netns = cluster.lab.netns(node);
    let put = |(interface, way)| {
        Foreign::put(netns, interface, way, place, Verdict::Pass, "passes_all").unwrap()
    };
    EVERYWHERE.into_iter().map(put).collect()
}

/// Returns the names of the programs of a chain, in their order.
pub(super) fn names(cluster: &Cluster, node: Machine, interface: &str, way: Way) -> Vec<String> {
    let chain = tcx::chain(cluster.lab.netns(node), interface, way).unwrap();
    chain.into_iter().map(|(_, name)| name).collect()
}

/// Asserts that everywhere on a node the gate is first, once, and `passes_all` behind it.
fn wait_until_first(cluster: &Cluster, node: Machine) {
    for (interface, way) in EVERYWHERE {
        let gate = if way == Way::In { "gate_ingress" } else { "gate_egress" };
        wait_for(&format!("the gate first at {interface} of {node}, {way:?}"), || {
            (names(cluster, node, interface, way) == [gate, "passes_all"]).then_some(())
        });
    }
}

#[test]
fn a_program_that_is_there_before_the_gate_does_not_switch_it_off() {
    for policy in ["available", "witness"] {
        let mut cluster = Cluster::new(Settings { policy: policy.into(), ..slow() });
        let _there = NODES.map(|node| put(&cluster, node, Place::First));
        cluster.start_both();
        for node in NODES {
            wait_until_first(&cluster, node);
            assert!(gate(&cluster, node, &[]).status.success());
        }
        assert_open(&cluster, Machine::A);
        assert_closed(&cluster, Machine::B);

        // After a restart in order, which takes the gate off and puts another one on.
        cluster.ask(Machine::B, &["stop"]);
        cluster.wait_for_end(Machine::B);
        for (interface, way) in EVERYWHERE {
            assert_eq!(names(&cluster, Machine::B, interface, way), ["passes_all"]);
        }
        cluster.lab.start_daemon(Machine::B).unwrap();
        cluster.wait_until_serving(Machine::A);
        wait_until_first(&cluster, Machine::B);
        assert_closed(&cluster, Machine::B);

        // And of the holder, in place: it has the addresses still.
        cluster.kill(Machine::A);
        cluster.wait_until_alone(Machine::B);
        assert_eq!(cluster.vips(Machine::A), both_vips());
        assert_closed(&cluster, Machine::A);
        for vip in both_vips() {
            assert!(what_stays(&cluster, Machine::A, vip).is_empty());
        }
        cluster.lab.start_daemon(Machine::A).unwrap();
        cluster.wait_until_serving(Machine::B);
        wait_until_first(&cluster, Machine::A);
        assert_closed(&cluster, Machine::A);
    }
}

#[test]
fn a_program_that_comes_before_the_gate_later_is_put_behind_it() {
    let mut cluster = Cluster::up(slow());
    // While nobody looks after it, `hb gate` says so.
    cluster.lab.signal(Machine::B, libc::SIGSTOP).unwrap();
    let _there = NODES.map(|node| put(&cluster, node, Place::First));
    let output = gate(&cluster, Machine::B, &[]);
    assert!(!output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("NOT GATED: "), "{text}");
    for line in ["stands before the gate of what leaves by eth0", "of what arrives at lo"] {
        assert!(text.contains("passes_all (program ") && text.contains(line), "{text}");
    }
    assert_eq!(report(&cluster, Machine::B)["not_gated"].as_array().unwrap().len(), 3);

    cluster.lab.signal(Machine::B, libc::SIGCONT).unwrap();
    for node in NODES {
        wait_until_first(&cluster, node);
        let line =
            cluster.wait_for_log(node, "a program stood before the gate: put behind it", |line| {
                line["interface"] == "eth0"
            });
        assert!(line["program"].as_str().unwrap().starts_with("passes_all (program "), "{line}");
        assert_eq!(report(&cluster, node)["not_gated"].as_array().unwrap().len(), 0);
    }
    cluster.wait_until_serving(Machine::A);
    assert_open(&cluster, Machine::A);
    assert_closed(&cluster, Machine::B);
}

/// One that sends packets elsewhere ends the chain as one that lets them pass does.
#[test]
fn a_program_that_sends_packets_elsewhere_is_put_behind_the_gate() {
    let cluster = Cluster::up(slow());
    let netns = cluster.lab.netns(Machine::B);
    let index = netns.ip_json(&["link", "show", "dev", "eth0"]).unwrap()[0]["ifindex"].clone();
    // What programs of the node send to itself leaves it then.
    let verdict = Verdict::Redirect(index.as_u64().unwrap() as u32);
    let _there = Foreign::put(netns, "lo", Way::Out, Place::First, verdict, "elsewhere").unwrap();
    wait_for("the gate first at lo", || {
        (names(&cluster, Machine::B, "lo", Way::Out) == ["gate_egress", "elsewhere"]).then_some(())
    });
    assert_closed(&cluster, Machine::B);
}

/// Keeps a program first at an interface until it is dropped.
struct Stubborn(Arc<AtomicBool>, Option<thread::JoinHandle<()>>);

impl Stubborn {
    fn begin(cluster: &Cluster, node: Machine, interface: &'static str) -> Self {
        let name = cluster.lab.netns(node).name().to_owned();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let netns = lab::netns::Netns::open(&name).unwrap();
            let (way, place) = (Way::Out, Place::First);
            let program =
                Foreign::leave(&netns, interface, way, place, Verdict::Pass, "stubborn").unwrap();
            while !stopped.load(Ordering::Relaxed) {
                program.put_first_again(&netns, interface, way).unwrap();
                thread::sleep(Duration::from_millis(100));
            }
        });
        Self(stop, Some(thread))
    }
}

impl Drop for Stubborn {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.1.take() {
            thread.join().unwrap();
        }
    }
}

#[test]
fn where_the_gate_is_not_kept_first_nobody_serves() {
    for interface in ["eth0", "lo"] {
        for warm in [false, true] {
            let mut cluster = Cluster::up(Settings { warm, ..slow() });
            let stubborn = Stubborn::begin(&cluster, Machine::A, interface);
            cluster.wait_for(Machine::A, "gives the group away", |status| {
                let group = &status["groups"][0];
                group["health"] == "failed" && group["holder"] == "b"
            });
            cluster.wait_until_alone(Machine::B);
            wait_for("no address on a", || cluster.vips(Machine::A).is_empty().then_some(()));
            let line = cluster.wait_for_log(Machine::A, "interface is not gated", |_| true);
            let error = line["error"].as_str().unwrap();
            assert!(error.contains("stubborn (program ") && error.contains(interface), "{error}");

            // It does not take the group from a node that dies either.
            cluster.kill(Machine::B);
            let dead = cluster.wait_for(Machine::A, "b is dead", |status| {
                status["peers"][0]["controller"]["alive"] == false
            });
            assert_eq!(dead["groups"][0]["health"], "failed");
            thread::sleep(Duration::from_millis(1500));
            assert!(cluster.vips(Machine::A).is_empty());
            // Left alone, the gate is trusted again, and the group served.
            drop(stubborn);
            cluster.wait_until_alone(Machine::A);
            let chain = names(&cluster, Machine::A, interface, Way::Out);
            assert_eq!(chain.first().map(String::as_str), Some("gate_egress"), "{chain:?}");
        }
    }
}
