//! How the program gets onto an interface, and what happens where it cannot.

use std::fmt::Write as _;

use lab::{
    addresses::{LINKS, Link, Machine, NODES, VIP4},
    config::Settings,
};

use super::{
    crash::crash_and_take_over,
    support::{Cluster, PATIENCE, brisk, link, slow},
};

/// `mode` of a program in the driver, as `ip` prints it.
const NATIVE: u64 = 1;
/// `mode` of a program in the network stack.
const GENERIC: u64 = 2;

const WARNING: &str = "attached in generic mode: slower, native mode does not work";

#[test]
fn veth_runs_the_program_in_the_driver() {
    let mut cluster = Cluster::up(slow());
    for node in NODES {
        let status = cluster.status(node);
        for at in LINKS {
            let link = link(&status, at.name());
            assert_eq!(link["attach_mode"], "native");
            assert_eq!(link["attach_reason"], serde_json::Value::Null);
            assert_eq!(cluster.xdp_mode(node, at.interface()), Some(NATIVE));
            let attached = cluster.wait_for_log(node, "attached to the interface", |line| {
                line["interface"] == at.interface()
            });
            assert_eq!(attached["mode"], "native");
        }
        assert!(cluster.logged(node, WARNING).is_empty());
    }
}

/// The direct link runs over a device of `kind` upon the cable, which has no XDP in its driver.
fn refused(kind: &str, mut lay: impl FnMut(&Cluster, Machine)) {
    let mut cluster = Cluster::new(Settings { links: vec![(Link::Client, "udp4")], ..brisk() });
    let mut section = String::from("[[link]]\nname = \"direct\"\ntransport = \"udp4\"\n");
    for node in NODES {
        lay(&cluster, node);
        let address = format!("203.0.113.{}", node.id());
        let netns = cluster.lab.netns(node);
        netns.ip(&["link", "set", "hb1", "up"]).unwrap();
        netns.ip(&["address", "add", &format!("{address}/24"), "dev", "hb1"]).unwrap();
        writeln!(section, "[link.node.{node}]\ninterface = \"hb1\"\naddress = \"{address}\"")
            .unwrap();
    }
    cluster.edit("[[group]]", &format!("{section}\n[[group]]"));
    cluster.start_both();
    for node in NODES {
        let status = cluster.wait_for(node, "answers on both links", |status| {
            ["client", "direct"].iter().all(|name| {
                let link = link(status, name);
                link["up"] == true && link["answers_heard_by_peer"] == true
            })
        });
        let direct = link(&status, "direct");
        assert_eq!(direct["attach_mode"], "generic", "{kind}: {status:#}");
        let reason = direct["attach_reason"].as_str().unwrap();
        assert!(reason.contains("not supported"), "{kind}: {reason}");
        assert_eq!(cluster.xdp_mode(node, "hb1"), Some(GENERIC));
        let warned = cluster.wait_for_log(node, WARNING, |line| line["interface"] == "hb1");
        assert_eq!(warned["reason"], reason);
        assert_eq!(link(&status, "client")["attach_mode"], "native");
    }
    // The generic one carries the cluster alone.
    for node in NODES {
        cluster.lab.switch().cut_link(node, Link::Client, lab::switch::Direction::Both);
    }
    for node in NODES {
        let status = cluster
            .wait_for(node, "one link is down", |status| link(status, "client")["up"] == false);
        assert_eq!(status["peers"][0]["life"], "alive");
    }
    for node in NODES {
        cluster.lab.heal(node);
    }
    cluster.wait_until_serving(Machine::A);
    crash_and_take_over(&mut cluster, std::time::Duration::from_millis(30));
}

#[test]
fn a_bridge_that_refuses_native_mode_gets_the_generic_one() {
    refused("bridge", |cluster, node| {
        let netns = cluster.lab.netns(node);
        netns.ip(&["link", "add", "hb1", "type", "bridge", "forward_delay", "0"]).unwrap();
        netns.ip(&["link", "set", "eth1", "master", "hb1"]).unwrap();
    });
}

#[test]
fn a_macvlan_that_refuses_native_mode_gets_the_generic_one() {
    refused("macvlan", |cluster, node| {
        let netns = cluster.lab.netns(node);
        netns
            .ip(&[
                "link", "add", "link", "eth1", "name", "hb1", "type", "macvlan", "mode", "bridge",
            ])
            .unwrap();
    });
}

#[test]
fn native_answers_that_get_lost_are_noticed_and_mended() {
    let mut cluster = Cluster::new(slow());
    for at in LINKS {
        cluster.lab.switch_mut().lose_native_answers(Machine::A, at).unwrap();
    }
    cluster.start_both();
    for at in LINKS {
        let status = cluster.wait_for(Machine::A, "the generic program", |status| {
            link(status, at.name())["attach_mode"] == "generic"
        });
        let reason = link(&status, at.name())["attach_reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("self-test failed") && reason.contains('b'), "{reason}");
        assert_eq!(cluster.xdp_mode(Machine::A, at.interface()), Some(GENERIC));
        let warned =
            cluster.wait_for_log(Machine::A, WARNING, |line| line["interface"] == at.interface());
        assert_eq!(warned["reason"], reason.as_str());
        cluster.wait_for(Machine::A, "b hears the answers", |status| {
            link(status, at.name())["answers_heard_by_peer"] == true
        });
        // The other end has nothing to complain of.
        let status = cluster.status(Machine::B);
        assert_eq!(link(&status, at.name())["attach_mode"], "native");
    }
    cluster.wait_until_serving(Machine::A);
    assert!(cluster.logged(Machine::B, "peer died").is_empty());

    // A daemon that starts anew takes over what it finds; its group was taken meanwhile.
    cluster.kill(Machine::A);
    cluster.wait_until_alone(Machine::B);
    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.wait_until_serving(Machine::B);
    let status = cluster.status(Machine::A);
    assert_eq!(link(&status, "client")["attach_mode"], "generic");

    let client = cluster.client(VIP4.into());
    let crash = cluster.lab.crash(Machine::B).unwrap();
    assert!(client.wait_for_answer(Machine::A, crash, PATIENCE));
    cluster.wait_until_alone(Machine::A);
    client.finish().unwrap();
}
