//! Groups and addresses of a file that is read again while the daemons run.

use std::{
    fs::{self, Permissions},
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
};

use lab::{
    addresses::{Machine, NODES, VIP4},
    config::Settings,
};
use serde_json::{Value, json};

use super::{
    files::{
        Arp, OTHER, epoch, find, restart_in_place, stands_by, up, wait_for_answers,
        wait_until_held, write,
    },
    gate,
    reload::reload,
    support::{Cluster, slow, wait_for},
    witness,
};

/// A third address, which no group has at first.
const THIRD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 102);

/// Has everybody read the file again: the node that stands by, the other one, the witness.
fn reload_all(cluster: &mut Cluster, policy: &str) -> String {
    let (done, said) = reload(cluster, Machine::B);
    assert!(done, "{said}");
    let (done, said) = reload(cluster, Machine::A);
    assert!(done, "{said}");
    if policy == "witness" {
        witness::succeed(cluster, &[]);
    }
    said
}

/// A node that serves a group, once it is served.
fn server(cluster: &mut Cluster, name: &str) -> Machine {
    wait_for(&format!("{name} is served"), || {
        NODES.into_iter().find(|node| {
            let status = cluster.status(*node);
            let group = find(&status, name);
            group["state"] == "holding" && group["health"] == "healthy"
        })
    })
}

fn deaths(cluster: &mut Cluster) -> Vec<Value> {
    NODES.map(|node| cluster.status(node)["peers"][0]["deaths_total"].clone()).to_vec()
}

/// The second group gets another address, then another name, then a third group joins it and goes again. The
/// first one is as ever, and so is its record.
fn groups_change(policy: &str) {
    let mut cluster = up(policy);
    let (before, died) = (epoch(&mut cluster, Machine::A, "web"), deaths(&mut cluster));
    let arp = Arp::start(&cluster);

    write(&cluster, &[("web", &[VIP4]), ("db", &[OTHER, THIRD])]);
    let said = reload_all(&mut cluster, policy);
    assert!(said.contains("taken: group.db.address"), "{said}");
    let at = server(&mut cluster, "db");
    wait_for_answers(&cluster, at, OTHER);

    write(&cluster, &[("first", &[THIRD]), ("api", &[OTHER]), ("web", &[VIP4])]);
    let said = reload_all(&mut cluster, policy);
    assert!(said.contains("group.api, group.db, group.first"), "{said}");
    for name in ["first", "api"] {
        server(&mut cluster, name);
    }
    let at = server(&mut cluster, "api");
    wait_for_answers(&cluster, at, OTHER);

    write(&cluster, &[("web", &[VIP4]), ("api", &[OTHER])]);
    reload_all(&mut cluster, policy);
    for node in NODES {
        let status = cluster.wait_for(node, "nothing differs and all is well", |status| {
            let lacking = |name| find(status, name)["lacking"] == json!([]);
            lacking("web") && lacking("api") && status["warnings"] == json!([])
        });
        assert_eq!(status["groups"].as_array().unwrap().len(), 2, "{status:#}");
        let gate = gate::report(&cluster, node);
        assert!(!gate.to_string().contains("192.0.2.102"), "its address is gone: {gate:#}");
    }
    let rounds = arp.finish();
    assert!(rounds.iter().all(|round| !round[0].contains(&Machine::B)), "web stayed: {rounds:?}");
    let gaps = rounds.windows(3).filter(|three| three.iter().all(|round| round[0].is_empty()));
    assert_eq!(gaps.count(), 0, "web was answered for all the time: {rounds:?}");
    assert_eq!(epoch(&mut cluster, Machine::A, "web"), before);
    assert_eq!(deaths(&mut cluster), died);

    // What runs is what a start in place finds.
    restart_in_place(&mut cluster, Machine::A);
    wait_until_held(&mut cluster, Machine::A, "web");
    wait_for_answers(&cluster, Machine::A, VIP4);
    if policy == "witness" {
        assert_eq!(epoch(&mut cluster, Machine::A, "web"), before);
    }
    server(&mut cluster, "api");
}

#[test]
fn groups_come_and_go_by_a_reload() {
    groups_change("witness");
}

#[test]
fn groups_come_and_go_by_a_reload_without_promises() {
    groups_change("available");
}

/// What a group is made of is no part of what it is: its record stays, and it moves as at any planned move.
#[test]
fn a_group_that_is_made_otherwise_is_handed_over() {
    let mut cluster = up("available");
    let before = epoch(&mut cluster, Machine::A, "db");
    let arp = Arp::start(&cluster);
    cluster.edit("name = \"db\"", "name = \"db\"\nrequire = \"all\"");
    let (done, said) = reload(&cluster, Machine::B);
    assert!(done && said.contains("taken: group.db.require"), "{said}");
    wait_for_answers(&cluster, Machine::A, OTHER);
    stands_by(&mut cluster, Machine::B, "db");
    let (done, said) = reload(&cluster, Machine::A);
    assert!(done, "{said}");
    wait_until_held(&mut cluster, Machine::B, "db");
    stands_by(&mut cluster, Machine::A, "db");
    assert!(epoch(&mut cluster, Machine::B, "db") > before);
    wait_for_answers(&cluster, Machine::B, OTHER);
    let rounds = arp.finish();
    assert!(rounds.iter().all(|round| !round[0].contains(&Machine::B)), "web stayed: {rounds:?}");
}

/// A group whose resource does not stop is kept, and what would take its place waits for it: until the file is
/// again what runs.
#[test]
fn a_reload_that_waits_is_taken_back() {
    let settings = Settings { auto_failback: false, ..slow() };
    let mut cluster = Cluster::up(settings);
    let config = cluster.lab.files().config.clone();
    let before = fs::read_to_string(&config).unwrap();
    let program = cluster.lab.files().config.with_file_name("stays");
    let (runs, stuck) = (program.with_file_name("runs"), program.with_file_name("stuck"));
    let text = format!(
        "#!/bin/sh\ncase $1 in\nstart) : >{runs}-$HB_NODE;;\nstop) [ ! -e {stuck} ] || exit 1\n\
         rm -f {runs}-$HB_NODE;;\nstatus) [ -e {runs}-$HB_NODE ] || exit 3;;\nesac\n",
        runs = runs.display(),
        stuck = stuck.display()
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let resource = format!(
        "\n[[group.resource]]\nname = \"stays\"\ntype = \"script\"\nprogram = \"{}\"\n",
        program.display()
    );
    let with = format!("{before}{resource}");
    fs::write(&config, &with).unwrap();
    for node in [Machine::B, Machine::A] {
        let (done, said) = reload(&cluster, node);
        assert!(done && said.contains("taken: group.web.resource.stays"), "{said}");
    }
    // It was handed over once, at the reload of a.
    wait_until_held(&mut cluster, Machine::B, "web");
    fs::write(&stuck, "").unwrap();
    fs::write(&config, &before).unwrap();
    let (done, said) = reload(&cluster, Machine::B);
    assert!(done && said.contains("being taken: group.web.resource.stays"), "{said}");
    let warned = cluster.status(Machine::B)["warnings"].to_string();
    assert!(warned.contains("a reload is under way"), "{warned}");
    fs::write(&config, &with).unwrap();
    let (done, said) = reload(&cluster, Machine::B);
    assert!(done && said.contains("nothing in the file differs"), "{said}");
    let warned = cluster.status(Machine::B)["warnings"].to_string();
    assert!(!warned.contains("a reload is under way"), "{warned}");
    // The next try to stop it succeeds, and the group goes on.
    fs::remove_file(&stuck).unwrap();
    server(&mut cluster, "web");
}

/// Half of a reload leaves what is served as it is.
#[test]
fn one_node_alone_takes_nothing_of_what_the_other_one_serves_by_its_file() {
    let mut cluster = up("available");
    let arp = Arp::start(&cluster);
    write(&cluster, &[("web", &[VIP4]), ("api", &[OTHER])]);
    let (done, said) = reload(&cluster, Machine::B);
    assert!(done && said.contains("group.api, group.db"), "{said}");
    let status = cluster.wait_for(Machine::B, "it says who has not got it", |status| {
        find(status, "api")["lacking"] == json!(["a"])
    });
    assert_eq!(find(&status, "api")["state"], "idle");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    wait_until_held(&mut cluster, Machine::A, "db");
    let rounds = arp.finish();
    let others = |round: &[Vec<Machine>; 2]| round.iter().any(|who| who.contains(&Machine::B));
    assert!(!rounds.iter().any(others), "{rounds:?}");
}
