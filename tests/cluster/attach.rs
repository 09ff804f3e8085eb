//! How the program gets onto an interface, and what happens where it cannot.

use std::{collections::BTreeSet, fmt::Write as _};

use lab::{
    addresses::{LINKS, Link, Machine, NODES, VIP4},
    config::Settings,
    tcx::{Occupant, Way},
};

use super::{
    chain::names,
    crash::crash_and_take_over,
    gate::{assert_closed, assert_open, gate, report, what_arrives},
    paths::make_anew,
    support::{Cluster, PATIENCE, both_vips, brisk, link, slow, wait_for},
    witness,
};

/// `mode` of a program in the driver, as `ip` prints it.
const NATIVE: u64 = 1;
/// `mode` of a program in the network stack.
const GENERIC: u64 = 2;

const LATE: &str = "attached at TCX: slower, the hook of XDP is not free";
const DISPLACED: &str = "a program stood before the gate: put behind it";
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

/// Somebody else's program is in the hook of XDP at every interface of a node.
fn occupy(cluster: &Cluster, node: Machine, native: bool) -> Vec<Occupant> {
    let netns = cluster.lab.netns(node);
    LINKS.iter().map(|at| Occupant::put(netns, at.interface(), native).unwrap()).collect()
}

/// Asserts that a node hears at TCX, behind its gate, and says so.
fn assert_late(cluster: &mut Cluster, node: Machine) {
    let status = cluster.wait_for(node, "answers on both links", |status| {
        LINKS.iter().all(|at| {
            let link = link(status, at.name());
            link["up"] == true && link["answers_heard_by_peer"] == true
        })
    });
    for at in LINKS {
        assert_eq!(link(&status, at.name())["attach_mode"], "tcx", "{status:#}");
        wait_for(&format!("the gate first at {} of {node}", at.interface()), || {
            let chain = names(cluster, node, at.interface(), Way::In);
            (chain == ["gate_ingress", "hear_ingress"]).then_some(())
        });
    }
    assert!(gate(cluster, node, &[]).status.success());
    for interface in report(cluster, node)["interfaces"].as_array().unwrap() {
        assert_eq!(interface["arriving"], "tcx", "{interface}");
    }
}

#[test]
fn heartbeats_are_heard_beside_another_program_in_the_hook() {
    for (occupied, native, policy) in [
        (&[Machine::A][..], true, "available"),
        (&[Machine::B][..], false, "available"),
        (&NODES[..], false, "witness"),
        (&NODES[..], true, "available"),
    ] {
        let mut cluster = Cluster::new(Settings { policy: policy.into(), ..slow() });
        let theirs: Vec<_> = occupied.iter().map(|node| occupy(&cluster, *node, native)).collect();
        cluster.start_both();
        let mode = Some(if native { NATIVE } else { GENERIC });
        for &node in occupied {
            assert_late(&mut cluster, node);
            let status = cluster.status(node);
            for at in LINKS {
                let reason = link(&status, at.name())["attach_reason"].as_str().unwrap();
                assert!(reason.contains("native: ") && reason.contains("generic: "), "{reason}");
                assert_eq!(cluster.xdp_mode(node, at.interface()), mode, "theirs stays");
                let warned =
                    cluster.wait_for_log(node, LATE, |line| line["interface"] == at.interface());
                assert_eq!(warned["reason"], reason);
            }
            // Nobody takes our own program for one that was in the way.
            assert!(cluster.logged(node, DISPLACED).is_empty());
        }
        assert_open(&cluster, Machine::A);
        assert_closed(&cluster, Machine::B);
        crash_and_take_over(&mut cluster, std::time::Duration::from_millis(200));
        drop(theirs);
    }
}

#[test]
fn what_hears_at_tcx_outlives_its_daemon_and_goes_with_it_in_order() {
    let mut cluster = Cluster::new(slow());
    let _theirs = NODES.map(|node| occupy(&cluster, node, true));
    cluster.start_both();
    let chain = |cluster: &Cluster| names(cluster, Machine::B, "eth0", Way::In);

    // A killed daemon's goes on answering, and the next one takes it over.
    cluster.kill(Machine::B);
    assert_eq!(chain(&cluster), ["gate_ingress", "hear_ingress"]);
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_until_serving(Machine::A);
    assert_late(&mut cluster, Machine::B);
    let status = cluster.status(Machine::B);
    let reason = link(&status, "client")["attach_reason"].as_str().unwrap().to_owned();
    assert_eq!(reason, "so attached by an earlier daemon");
    assert!(cluster.logged(Machine::B, DISPLACED).is_empty());

    // In order nothing is left, by a signal or by a command.
    cluster.lab.signal(Machine::B, libc::SIGTERM).unwrap();
    cluster.wait_for_end(Machine::B);
    assert_eq!(chain(&cluster), [""; 0]);
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_until_serving(Machine::A);
    assert_late(&mut cluster, Machine::B);
    cluster.kill(Machine::B);
    let config = cluster.lab.files().config.to_str().unwrap().to_owned();
    let output = cluster.hb(Machine::B, &["detach", "--config", &config, "--node", "b"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(chain(&cluster), [""; 0]);
    assert!(!cluster.lab.pins(Machine::B).exists());
}

/// The program in the hook does not gate, and is not ours to rely on.
#[test]
fn what_arrives_is_gated_where_heartbeats_are_heard_at_tcx() {
    let mut cluster = Cluster::new(Settings { policy: "witness".into(), ..slow() });
    let _theirs = occupy(&cluster, Machine::A, true);
    cluster.start_both();
    for vip in both_vips() {
        let all = BTreeSet::from(["to it".to_owned()]);
        assert_eq!(what_arrives(&cluster, Machine::A, vip), all, "{vip}");
    }
    cluster.kill(Machine::A);
    cluster.wait_until_alone(Machine::B);
    assert_eq!(cluster.vips(Machine::A), both_vips(), "nobody took them away");
    for vip in both_vips() {
        assert_eq!(what_arrives(&cluster, Machine::A, vip), BTreeSet::new(), "{vip}");
    }
    assert_closed(&cluster, Machine::A);
}

/// The file asks for it, then for the driver again: the gate is there all the while.
#[test]
fn the_mode_changes_with_the_file_in_place() {
    let mut cluster = Cluster::up(slow());
    for (mode, chain) in [("tcx", true), ("native", false)] {
        for at in LINKS {
            let name = format!("name = \"{}\"\n", at.name());
            cluster.edit(&name, &format!("{name}attach = \"{mode}\"\n"));
            if !chain {
                cluster.edit("attach = \"tcx\"\n", "");
            }
        }
        for node in [Machine::B, Machine::A] {
            cluster.kill(node);
            cluster.lab.start_daemon(node).unwrap();
            let holder = cluster.holder();
            cluster.wait_until_serving(holder);
            let status = cluster.status(node);
            for at in LINKS {
                assert_eq!(link(&status, at.name())["attach_mode"], mode);
                let found = names(&cluster, node, at.interface(), Way::In);
                let wanted: &[&str] = if chain { &["gate_ingress", "hear_ingress"] } else { &[] };
                assert_eq!(found, wanted, "{node} {}", at.interface());
                assert_eq!(cluster.xdp_mode(node, at.interface()), (!chain).then_some(NATIVE));
            }
        }
    }
}

/// A new interface has neither gate nor ear until the daemon puts both there, in this order.
#[test]
fn an_interface_that_is_made_anew_is_heard_at_tcx_again() {
    let mut cluster = Cluster::new(Settings { policy: "witness".into(), ..slow() });
    for at in LINKS {
        let name = format!("name = \"{}\"\n", at.name());
        cluster.edit(&name, &format!("{name}attach = \"tcx\"\n"));
    }
    cluster.lab.restart_witness().unwrap();
    cluster.start_both();
    for node in NODES {
        assert_late(&mut cluster, node);
        make_anew(&cluster, node);
        cluster.wait_for_log(node, "interface was made anew: in use again", |_| true);
        assert_late(&mut cluster, node);
        assert_eq!(cluster.xdp_mode(node, "eth0"), None, "{node}");
    }
    let holder = cluster.holder();
    assert_open(&cluster, holder);
    assert_closed(&cluster, holder.peer());
    cluster.lab.crash(holder).unwrap();
    cluster.wait_until_alone(holder.peer());
}

#[test]
fn a_witness_votes_beside_another_program_in_the_hook() {
    for native in [true, false] {
        let mut cluster = Cluster::new(Settings { policy: "witness".into(), ..slow() });
        witness::succeed(&cluster, &["--detach"]);
        let netns = cluster.lab.netns(Machine::Witness);
        let _theirs = Occupant::put(netns, Link::Client.interface(), native).unwrap();
        cluster.lab.restart_witness().unwrap();
        let said = witness::succeed(&cluster, &["--wait", "0"]);
        assert!(said.contains("eth0: attached in tcx mode"), "{said}");
        cluster.start_both();
        // Without its vote nobody serves after a crash.
        cluster.lab.crash(Machine::A).unwrap();
        cluster.wait_until_alone(Machine::B);
    }
}
