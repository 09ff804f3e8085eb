//! Links of a file that is read again while the daemons run, and links that two files have in another order.

use std::{fmt::Write as _, fs, thread, time::Duration};

use lab::{
    addresses::{Link, Machine, NODES},
    config::Settings,
    switch::Direction,
    tcx::Occupant,
};
use serde_json::Value;

use super::{
    files::restart_in_place,
    reload::reload,
    support::{Cluster, link, slow, wait_for},
    witness,
};

/// For longer than a silent link needs to be held against anybody.
const HELD_AGAINST: Duration = Duration::from_millis(3500);

/// A link of the file: its name, its place, how frames travel.
type Line = (&'static str, Link, &'static str);

const CLIENT: Line = ("client", Link::Client, "udp4");
const DIRECT: Line = ("direct", Link::Direct, "ethernet");

fn settings(policy: &'static str) -> Settings {
    let links = vec![(Link::Client, "udp4")];
    Settings { policy: policy.into(), links, auto_failback: false, ..slow() }
}

fn write(cluster: &Cluster, links: &[Line]) {
    let path = &cluster.lab.files().config;
    let text = fs::read_to_string(path).unwrap();
    let (head, rest) = text.split_once("\n[[link]]").unwrap();
    let (_, groups) = rest.split_once("\n[[group]]").unwrap();
    let witness = Some(Machine::Witness).filter(|_| text.contains("\n[witness]"));
    let mut all = String::new();
    for (name, at, transport) in links {
        write!(all, "\n[[link]]\nname = \"{name}\"\ntransport = \"{transport}\"\n").unwrap();
        for node in NODES.into_iter().chain(witness).filter(|node| node.links().contains(at)) {
            let interface = at.interface();
            write!(all, "[link.node.{node}]\ninterface = \"{interface}\"\n").unwrap();
            match *transport {
                "ethernet" => writeln!(all, "mac = \"{}\"", node.mac(*at)).unwrap(),
                _ => writeln!(all, "address = \"{}\"", node.v4(*at)).unwrap(),
            }
        }
    }
    fs::write(path, format!("{head}{all}\n[[group]]{groups}")).unwrap();
}

fn names(status: &Value) -> Vec<&str> {
    let links = status["peers"][0]["links"].as_array().unwrap();
    links.iter().map(|link| link["link"].as_str().unwrap()).collect()
}

/// Waits until either node hears the other on these links, and has no others to it.
fn wait_for_links(cluster: &mut Cluster, wanted: &[Line]) {
    for node in NODES {
        cluster.wait_for(node, &format!("it hears the other on {wanted:?}"), |status| {
            let wanted: Vec<_> = wanted.iter().map(|(name, ..)| *name).collect();
            names(status) == wanted
                && wanted.iter().all(|name| {
                    let link = link(status, name);
                    link["up"] == true && link["answers_heard_by_peer"] == true
                })
        });
    }
}

/// Deaths of every machine that a node saw, of each node.
fn deaths(cluster: &mut Cluster) -> Vec<Vec<Value>> {
    let of = |status: Value| {
        let peers = status["peers"].as_array().unwrap();
        peers.iter().map(|peer| peer["deaths_total"].clone()).collect()
    };
    NODES.map(|node| of(cluster.status(node))).to_vec()
}

fn succeed(cluster: &Cluster, node: Machine) -> String {
    let (done, said) = reload(cluster, node);
    assert!(done, "{node}: {said}");
    said
}

/// A link is added, gets other ends, another place and another name, and carries the cluster alone. Nobody dies
/// of it and nothing moves, however long the other node takes to read the file.
fn links_come_change_and_go(policy: &'static str) {
    let mut cluster = Cluster::up(settings(policy));
    let (epoch, died) = (cluster.epoch(Machine::A), deaths(&mut cluster));
    let [a, b] = NODES;

    write(&cluster, &[CLIENT, DIRECT]);
    assert!(succeed(&cluster, a).contains("taken: link.direct"));
    thread::sleep(HELD_AGAINST);
    succeed(&cluster, b);
    wait_for_links(&mut cluster, &[CLIENT, DIRECT]);

    // Other ends: a link that the other one has not.
    let by_udp = ("direct", Link::Direct, "udp4");
    write(&cluster, &[CLIENT, by_udp]);
    assert!(succeed(&cluster, b).contains("link.direct.transport"));
    thread::sleep(HELD_AGAINST);
    succeed(&cluster, a);
    wait_for_links(&mut cluster, &[CLIENT, by_udp]);

    // Another order and another name, which are no matter of the wire.
    let turned = [("cable", Link::Direct, "udp4"), CLIENT];
    write(&cluster, &turned);
    let before = cluster.status(b)["peers"][0]["links"][1]["received"].as_u64().unwrap();
    succeed(&cluster, a);
    thread::sleep(HELD_AGAINST);
    let after = cluster.status(b)["peers"][0]["links"][1]["received"].as_u64().unwrap();
    assert!(after > before + 100, "b hears a go on: {before}, {after}");
    succeed(&cluster, b);
    wait_for_links(&mut cluster, &turned);

    if policy == "witness" {
        // It is heard on the other link only.
        write(&cluster, &[turned[0], ("client", Link::Client, "udp4")]);
        write(&cluster, &[("cable", Link::Direct, "udp4")]);
        let (done, said) = reload(&cluster, a);
        assert!(!done && said.contains("the witness w is on no link"), "{said}");
        write(&cluster, &turned);
    } else {
        write(&cluster, &turned[..1]);
        // The one that serves has it longest.
        succeed(&cluster, b);
        thread::sleep(HELD_AGAINST);
        succeed(&cluster, a);
        wait_for_links(&mut cluster, &turned[..1]);
        // The last one that is heard stays.
        write(&cluster, &[CLIENT]);
        let (done, said) = reload(&cluster, b);
        assert!(!done && said.contains("is heard on no link that stays as it is"), "{said}");
        assert!(said.contains("nothing was changed"), "{said}");
        // Without the cable they are alone: nobody else carries a frame.
        wait_for_links(&mut cluster, &turned[..1]);
    }
    assert_eq!(deaths(&mut cluster), died);
    assert_eq!((cluster.holder(), cluster.epoch(a)), (a, epoch));
    // They are as a start would make them.
    write(&cluster, &turned);
    for node in [b, a] {
        succeed(&cluster, node);
    }
    wait_for_links(&mut cluster, &turned);
    restart_in_place(&mut cluster, b);
    wait_for_links(&mut cluster, &turned);
    cluster.wait_until_serving(a);
    assert_eq!(cluster.epoch(a), epoch);
}

#[test]
fn links_come_change_and_go_without_promises() {
    links_come_change_and_go("available");
}

#[test]
fn links_come_change_and_go_with_a_fence() {
    links_come_change_and_go("safe");
}

#[test]
fn links_come_change_and_go_beside_a_witness() {
    links_come_change_and_go("witness");
}

/// What a takeover needs goes by the links as they are: the one that came later carries the cluster, and a death
/// is found on it.
#[test]
fn a_death_is_found_on_a_link_that_came_later() {
    let mut cluster = Cluster::up(settings("available"));
    write(&cluster, &[CLIENT, DIRECT]);
    for node in NODES {
        succeed(&cluster, node);
    }
    wait_for_links(&mut cluster, &[CLIENT, DIRECT]);
    write(&cluster, &[DIRECT]);
    for node in NODES {
        succeed(&cluster, node);
    }
    wait_for_links(&mut cluster, &[DIRECT]);
    let died = deaths(&mut cluster);
    cluster.lab.switch().cut_link(Machine::A, Link::Client, Direction::Both);
    thread::sleep(HELD_AGAINST);
    assert_eq!(deaths(&mut cluster), died, "nothing of the cluster is on that link any more");
    cluster.lab.switch().heal_link(Machine::A, Link::Client, Direction::Both);
    cluster.kill(Machine::A);
    cluster.wait_for(Machine::B, "it serves", |status| {
        status["groups"][0]["state"] == "holding" && status["groups"][0]["health"] == "healthy"
    });
}

/// One node is restarted with the same links in another order; the other one goes on with what it has.
#[test]
fn links_in_another_order_are_the_same_links() {
    for policy in ["available", "witness", "safe"] {
        let links = vec![(Link::Client, "udp4"), (Link::Direct, "ethernet")];
        let mut cluster = Cluster::up(Settings { links, ..settings(policy) });
        let (epoch, died) = (cluster.epoch(Machine::A), deaths(&mut cluster));
        write(&cluster, &[DIRECT, CLIENT]);
        cluster.restart(Machine::B);
        for node in NODES {
            cluster.wait_for(node, "it hears the other on both", |status| {
                ["client", "direct"].iter().all(|name| {
                    let link = link(status, name);
                    link["up"] == true && link["answers_heard_by_peer"] == true
                })
            });
        }
        cluster.wait_for(Machine::B, "it stands by", |status| {
            status["groups"][0]["health"] == "standby"
        });
        // As many as the restart itself costs.
        let after = deaths(&mut cluster)[0][0].as_u64().unwrap();
        thread::sleep(HELD_AGAINST);
        assert!(after <= died[0][0].as_u64().unwrap() + 1);
        assert_eq!(deaths(&mut cluster)[0][0], after, "{policy}: a hears b all the time");
        assert_eq!(cluster.holder(), Machine::A, "{policy}");
        if policy == "available" {
            // Under promises a holder counts on when a voter restarts.
            assert_eq!(cluster.epoch(Machine::A), epoch);
        }
        let refused = &cluster.status(Machine::A)["peers"][0]["links"];
        for link in refused.as_array().unwrap() {
            assert_eq!(link["refused"]["link"], Value::Null, "{policy}: {link}");
        }
        if policy == "witness" {
            witness::succeed(&cluster, &[]);
            cluster.wait_for(Machine::B, "it hears the witness", |status| {
                status["peers"][1]["life"] == "alive"
            });
        }
    }
}

/// Where the program cannot be put on an interface, nothing is taken.
#[test]
fn a_link_whose_interface_is_not_to_be_had_is_not_taken() {
    let mut cluster = Cluster::up(settings("available"));
    let hash = cluster.status(Machine::A)["config_hash"].clone();
    let occupant =
        Occupant::put(cluster.lab.netns(Machine::A), Link::Direct.interface(), true).unwrap();
    write(&cluster, &[CLIENT, DIRECT]);
    cluster.edit("transport = \"ethernet\"\n", "transport = \"ethernet\"\nattach = \"native\"\n");
    cluster.edit("[log]\n", "[log]\nlevel = \"debug\"\n");
    let (done, said) = reload(&cluster, Machine::A);
    assert!(!done && said.contains("nothing was changed") && said.contains("native"), "{said}");
    let status = cluster.status(Machine::A);
    assert_eq!((&status["config_hash"], names(&status)), (&hash, vec!["client"]));
    drop(occupant);
    wait_for("it is taken once the hook is free", || reload(&cluster, Machine::A).0.then_some(()));
    assert_eq!(names(&cluster.status(Machine::A)), ["client", "direct"]);
}
