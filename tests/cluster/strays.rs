//! A daemon that crashed, and starts again with a file that does not name what it had: nothing of that
//! address leaves the node any more, and it goes.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream},
    thread,
    time::Duration,
};

use hb_user::address::{AddressSocket, Batch, Change, Done, Vip};
use lab::{
    addresses::{Link, Machine, VIP4, VIP6},
    clock,
    config::Settings,
    socket::interface_index,
};
use serde_json::Value;

use super::{
    gate::{assert_closed, ip},
    removal::{Talk, Wire, assert_order, bring_up_late, send_to_nobody, speak},
    support::{Cluster, both_vips, slow, wait_for},
};

/// A connection whose packets are dropped sends again within this, more than once.
const WHILE: Duration = Duration::from_millis(2500);

fn settings(policy: &str) -> Settings {
    Settings { policy: policy.into(), resource: false, ..slow() }
}

/// The address beside `vip` that the new file names instead.
fn instead(vip: IpAddr) -> IpAddr {
    match vip {
        IpAddr::V4(vip) => Ipv4Addr::from_bits(vip.to_bits() + 1).into(),
        IpAddr::V6(vip) => Ipv6Addr::from_bits(vip.to_bits() + 1).into(),
    }
}

/// Writes a file that names other addresses. Daemons that run go by the old one.
fn edit(cluster: &Cluster) {
    for vip in both_vips() {
        cluster.edit(&format!("{vip}/"), &format!("{}/", instead(vip)));
    }
}

/// What `hb gate --json` says of an address, if it is at the gate.
fn at_gate(cluster: &Cluster, node: Machine, vip: IpAddr) -> Option<Value> {
    let pins = cluster.lab.pins(node);
    let output = cluster.hb(node, &["gate", "--json", "--pins", pins.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let addresses = report["addresses"].as_array().unwrap().clone();
    addresses.into_iter().find(|found| found["address"] == vip.to_string())
}

fn wait_until_forgotten(cluster: &Cluster, node: Machine) {
    wait_for("the old addresses to be gone", || {
        let at_gate = both_vips().into_iter().any(|vip| at_gate(cluster, node, vip).is_some());
        (!at_gate && cluster.vips(node).is_empty()).then_some(())
    });
}

/// Where an address is said to go.
fn said(cluster: &Cluster, node: Machine) -> BTreeSet<IpAddr> {
    const LINE: &str =
        "an address bears the mark of hb, and this configuration does not have it there: it goes";
    let lines = cluster.logged(node, LINE);
    lines.iter().map(|line| line["address"].as_str().unwrap().parse().unwrap()).collect()
}

/// A holder crashes, its file was edited, and it starts again, after `meanwhile`.
fn crash_after_an_edit(policy: &str, meanwhile: impl FnOnce(&Cluster)) {
    let mut cluster = Cluster::up(settings(policy));
    let wire = Wire::watch(&cluster);
    let talk = Talk::begin(&cluster, Machine::A);
    wire.wait_for(Machine::A, clock::now());
    send_to_nobody(&cluster, Machine::A);
    edit(&cluster);
    cluster.kill(Machine::A);
    cluster.wait_until_alone(Machine::B);
    speak(&cluster);
    meanwhile(&cluster);
    cluster.lab.start_daemon(Machine::A).unwrap();
    wait_until_forgotten(&cluster, Machine::A);
    assert_eq!(said(&cluster, Machine::A), both_vips());
    talk.assert_ended();
    cluster.lab.netns(Machine::Client).ip_batch(&bring_up_late()).unwrap();
    speak(&cluster);
    thread::sleep(WHILE);
    assert_order(&wire.finish(&cluster, Machine::A), Machine::A, Machine::B);
}

#[test]
fn a_crash_after_an_edit_leaves_no_address_of_the_old_file() {
    for policy in ["witness", "available"] {
        crash_after_an_edit(policy, |_| {});
    }
}

/// The other node has it before the first daemon of the new file is there, which finds it held still.
#[test]
fn a_crash_and_an_edit_while_the_other_node_is_away_leave_none_either() {
    let mut cluster = Cluster::up(settings("available"));
    edit(&cluster);
    cluster.kill(Machine::B);
    cluster.kill(Machine::A);
    cluster.lab.start_daemon(Machine::A).unwrap();
    wait_until_forgotten(&cluster, Machine::A);
    let new: BTreeSet<IpAddr> = both_vips().into_iter().map(instead).collect();
    for vip in new {
        wait_for("the new address", || {
            let serves = cluster.lab.who_serves(vip, Duration::from_secs(1)).ok()?;
            (serves == Some(Machine::A)).then_some(())
        });
    }
    // What the gate knows nothing of passes: the old addresses are not here to be sent from.
    assert_eq!(cluster.vips(Machine::A), BTreeSet::new());
}

#[test]
fn a_standby_with_warm_addresses_loses_those_of_the_old_file() {
    for policy in ["witness", "available"] {
        let mut cluster = Cluster::up(Settings { warm: true, ..settings(policy) });
        assert_eq!(cluster.vips(Machine::B), both_vips());
        let wire = Wire::watch(&cluster);
        edit(&cluster);
        cluster.kill(Machine::B);
        cluster.lab.start_daemon(Machine::B).unwrap();
        wait_until_forgotten(&cluster, Machine::B);
        assert_eq!(said(&cluster, Machine::B), both_vips());
        speak(&cluster);
        for (_, node, vip) in wire.finish(&cluster, Machine::B) {
            assert_eq!(node, Machine::A, "{vip} left {node}");
        }
    }
}

/// Somebody cleaned up, and nothing in the kernel says what this node had.
#[test]
fn addresses_of_a_node_that_lost_its_pins_go_all_the_same() {
    for edited in [true, false] {
        let mut cluster = Cluster::up(settings("witness"));
        if edited {
            edit(&cluster);
        }
        cluster.kill(Machine::A);
        cluster.wait_until_alone(Machine::B);
        fs::remove_dir_all(cluster.lab.pins(Machine::A)).unwrap();
        assert_eq!(cluster.vips(Machine::A), both_vips());
        cluster.lab.start_daemon(Machine::A).unwrap();
        wait_for("the old addresses to be gone", || {
            cluster.vips(Machine::A).is_empty().then_some(())
        });
        if edited {
            wait_until_forgotten(&cluster, Machine::A);
        } else {
            assert_closed(&cluster, Machine::A);
        }
        cluster.wait_until_alone(Machine::B);
    }
}

#[test]
fn an_address_that_does_not_go_stays_behind_a_closed_gate_and_is_told_of() {
    let mut cluster = Cluster::up(settings("witness"));
    edit(&cluster);
    cluster.kill(Machine::A);
    cluster.wait_until_alone(Machine::B);
    ip(&cluster, Machine::A, &format!("address add {VIP4}/32 dev lo"));
    ip(&cluster, Machine::A, &format!("address add {VIP6}/128 dev lo nodad"));
    cluster.lab.start_daemon(Machine::A).unwrap();
    for vip in both_vips() {
        let line = "an address that no group names is still here, behind a closed gate";
        cluster.wait_for_log(Machine::A, line, |line| line["address"] == vip.to_string());
        let found = at_gate(&cluster, Machine::A, vip).unwrap();
        assert_eq!((&found["open"], &found["reason"]), (&false.into(), &"no-group".into()));
        let status = cluster.status(Machine::A);
        let warnings = status["warnings"].as_array().unwrap();
        let told = |warning: &Value| warning.as_str().unwrap().starts_with(&vip.to_string());
        assert!(warnings.iter().any(told), "{warnings:?}");
    }
    assert_closed(&cluster, Machine::A);
    ip(&cluster, Machine::A, &format!("address del {VIP4}/32 dev lo"));
    ip(&cluster, Machine::A, &format!("address del {VIP6}/128 dev lo"));
    wait_until_forgotten(&cluster, Machine::A);
}

/// Puts an address up as a daemon does.
fn put_up(cluster: &Cluster, node: Machine, ip: IpAddr, interface: &str) {
    let add = || {
        let vip = Vip::new(interface_index(interface).unwrap(), ip, 128).unwrap();
        let (mut batch, mut result) = (Batch::new(), [Ok(Done::Missing)]);
        batch.push(Change::Add, vip).unwrap();
        AddressSocket::open().unwrap().execute(&batch, &mut result).unwrap();
        assert_eq!(result, [Ok(Done::Added)]);
    };
    cluster.lab.netns(node).enter(add).unwrap();
}

/// The group itself may be held at once, in the new place.
#[test]
fn an_address_that_moved_to_another_interface_leaves_the_old_one() {
    let mut cluster = Cluster::up(settings("available"));
    cluster.kill(Machine::B);
    cluster.kill(Machine::A);
    let interface = Link::Direct.interface();
    // As an earlier file had it.
    ip(&cluster, Machine::A, &format!("address del {VIP6}/64 dev eth0"));
    put_up(&cluster, Machine::A, VIP6.into(), interface);
    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.wait_until_alone(Machine::A);
    let found = cluster.lab.netns(Machine::A).ip_json(&["address", "show", "dev", interface]);
    let found = found.unwrap().to_string();
    assert!(!found.contains(&VIP6.to_string()), "{found}");
    assert_eq!(said(&cluster, Machine::A), BTreeSet::from([IpAddr::from(VIP6)]));
}

/// Returns a configuration without one of its links: each cluster needs interfaces of its own.
fn without_link(text: &str, link: Link) -> String {
    let begin = format!("[[link]]\nname = \"{}\"\n", link.name());
    let at = text.find(&begin).unwrap();
    let (before, after) = (&text[..at], &text[at + begin.len()..]);
    let end = after.find("\n[[link]]").or(after.find("\n[[group]]")).unwrap();
    format!("{before}{}", &after[end..])
}

/// A host may be a node of two clusters, and the mark is the same.
#[test]
fn addresses_of_another_cluster_on_the_same_host_are_left_alone() {
    let mut cluster = Cluster::new(settings("available"));
    let files = cluster.lab.files().clone();
    let other = files.directory.join("other.toml");
    let text = fs::read_to_string(&files.config).unwrap();
    fs::write(&files.config, without_link(&text, Link::Direct)).unwrap();
    cluster.start_both();
    let mut text = without_link(&text, Link::Client);
    let name = text.lines().find_map(|line| line.strip_prefix("name = ")).unwrap().to_owned();
    text = text.replacen(&name, "\"second\"", 1).replace("/state\"", "/second\"");
    for vip in both_vips() {
        text = text.replace(&format!("{vip}/"), &format!("{}/", instead(vip)));
    }
    fs::write(&other, text).unwrap();
    let other = other.to_str().unwrap();
    let mut second = cluster.lab.hb(Machine::A).unwrap();
    let mut second = second.args(["run", "--config", other, "--node", "a"]).spawn().unwrap();
    let theirs: BTreeSet<IpAddr> = both_vips().into_iter().map(instead).collect();
    let present = |cluster: &Cluster| {
        let found = cluster.lab.netns(Machine::A).ip_json(&["address"]).unwrap().to_string();
        theirs.iter().all(|vip| found.contains(&format!("\"{vip}\"")))
    };
    wait_for("the addresses of the second cluster", || present(&cluster).then_some(()));

    // Neither a start nor a look of the first one's takes them for strays, nor what takes away its own.
    cluster.kill(Machine::A);
    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster
        .wait_for(Machine::A, "has looked round", |status| status["uptime_s"].as_u64() > Some(2));
    assert!(said(&cluster, Machine::A).is_empty());
    cluster.kill(Machine::A);
    let config = cluster.lab.files().config.to_str().unwrap().to_owned();
    let output = cluster.hb(Machine::A, &["detach", "--config", &config, "--node", "a"]);
    assert!(output.status.success(), "{output:?}");
    assert!(cluster.vips(Machine::A).is_empty());
    assert!(present(&cluster));
    let client = cluster.lab.netns(Machine::Client);
    for vip in &theirs {
        let refused = client.enter(|| TcpStream::connect((*vip, 7800)).map(drop)).unwrap();
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused, "{vip}");
    }
    second.kill().unwrap();
    second.wait().unwrap();
    let output = cluster.hb(Machine::A, &["detach", "--config", other, "--node", "a"]);
    assert!(output.status.success(), "{output:?}");
    assert!(!present(&cluster));
}
