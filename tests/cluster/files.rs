//! Machines with different files: a group is what it is, whatever stands where in a file. Judged by who
//! answers ARP requests for each address, asked at both nodes at once, all the time.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use lab::{
    addresses::{Link, Machine, NODES, VIP4},
    clock::RealTime,
    config::Settings,
    netns::Netns,
    socket::{Socket, interface_index},
};

use super::{
    support::{Cluster, slow, wait_for},
    turn::Turn,
    witness,
};

/// The address of the second group.
pub(super) const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);
const VIPS: [Ipv4Addr; 2] = [VIP4, OTHER];
/// Between two questions at both nodes for both addresses.
const ROUND: Duration = Duration::from_millis(20);
/// An address may pass from one node to the other within a round, or two on a busy machine.
const PASSES: usize = 2;

/// Both groups, and their addresses on `eth0`.
fn settings(policy: &str) -> Settings {
    Settings {
        policy: policy.into(),
        resource: false,
        // A start in place has to be over before anybody takes what the killed daemon held.
        controller_deadtime: "1900ms".into(),
        extra: group("db", &[OTHER]),
        ..slow()
    }
}

fn group(name: &str, addresses: &[Ipv4Addr]) -> String {
    let mut text = format!("\n[[group]]\nname = \"{name}\"\npreferred = \"a\"\n");
    for address in addresses {
        text += &format!("[[group.address]]\naddress = \"{address}/24\"\ninterface = \"eth0\"\n");
    }
    text
}

/// Gives the lab's file other groups: those, in that order.
pub(super) fn write(cluster: &Cluster, groups: &[(&str, &[Ipv4Addr])]) {
    let path: &Path = &cluster.lab.files().config;
    let text = fs::read_to_string(path).unwrap();
    let (head, _) = text.split_once("\n[[group]]").unwrap();
    let groups: String = groups.iter().map(|(name, addresses)| group(name, addresses)).collect();
    fs::write(path, format!("{head}{groups}")).unwrap();
}

/// Who answered for which address in each round.
pub(super) struct Arp {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<[Vec<Machine>; 2]>>,
}

impl Arp {
    pub(super) fn start(cluster: &Cluster) -> Self {
        let client: &Netns = cluster.lab.netns(Machine::Client);
        let (socket, index) = client
            .enter(|| {
                let socket = Socket::packet(libc::ETH_P_ARP as u16).unwrap();
                (socket, interface_index(Link::Client.interface()).unwrap())
            })
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut rounds = Vec::new();
            while !stopping.load(Ordering::Acquire) {
                for node in NODES {
                    for vip in VIPS {
                        // A full queue loses a question.
                        let _ = socket.send_frame_to(index, &question(node, vip));
                    }
                }
                thread::sleep(ROUND);
                rounds.push(answers(&socket));
            }
            rounds
        });
        Self { stop, thread }
    }

    /// Asserts that no address was answered for by both nodes for longer than it takes to pass from one
    /// to the other, and that each was answered for at all. Returns who answered in each round.
    pub(super) fn finish(self) -> Vec<[Vec<Machine>; 2]> {
        self.stop.store(true, Ordering::Release);
        let rounds = self.thread.join().unwrap();
        for (place, vip) in VIPS.into_iter().enumerate() {
            let mut both = 0;
            for round in &rounds {
                both = if round[place].len() > 1 { both + 1 } else { 0 };
                assert!(both <= PASSES, "{vip} was answered for by both nodes: {rounds:?}");
            }
            assert!(rounds.iter().any(|round| !round[place].is_empty()), "{vip}: nobody answered");
        }
        rounds
    }
}

fn question(node: Machine, vip: Ipv4Addr) -> Vec<u8> {
    let (to, own) = (node.mac(Link::Client).0, Machine::Client.mac(Link::Client).0);
    let mut frame = Vec::new();
    frame.extend(to);
    frame.extend(own);
    // ARP (RFC 826) for IPv4 over Ethernet: a request.
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(own);
    frame.extend(Machine::Client.v4(Link::Client).octets());
    frame.extend([0; 6]);
    frame.extend(vip.octets());
    frame
}

/// Takes what came in since, and says who answered for which address.
fn answers(socket: &Socket) -> [Vec<Machine>; 2] {
    let mut seen: [Vec<Machine>; 2] = Default::default();
    let mut buffer = [0; 128];
    while let Some(received) = socket.receive(&mut buffer, RealTime::sample()).unwrap() {
        let frame = &buffer[..received.length.min(buffer.len())];
        let is_reply = frame.len() >= 42 && frame[20..22] == [0, 2];
        let from =
            NODES.into_iter().find(|node| is_reply && frame[22..28] == node.mac(Link::Client).0);
        let vip = VIPS.iter().position(|vip| is_reply && frame[28..32] == vip.octets());
        if let (Some(from), Some(vip)) = (from, vip)
            && !seen[vip].contains(&from)
        {
            seen[vip].push(from);
        }
    }
    seen
}

/// Waits until that node alone answers for an address.
pub(super) fn wait_for_answers(cluster: &Cluster, node: Machine, vip: Ipv4Addr) {
    let place = VIPS.iter().position(|known| *known == vip).unwrap();
    wait_for(&format!("{node} answers for {vip}"), || {
        let arp = Arp::start(cluster);
        thread::sleep(3 * ROUND);
        arp.stop.store(true, Ordering::Release);
        let rounds = arp.thread.join().unwrap();
        rounds.last().is_some_and(|round| round[place] == [node]).then_some(())
    });
}

/// Waits until `node` holds a group, and serves it.
pub(super) fn wait_until_held(cluster: &mut Cluster, node: Machine, name: &str) {
    cluster.wait_for(node, &format!("it serves {name}"), |status| {
        let group = find(status, name);
        group["state"] == "holding"
            && group["health"] == "healthy"
            && group["lease"]["open"] == true
    });
}

pub(super) fn find<'a>(status: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let groups = status["groups"].as_array().unwrap();
    groups.iter().find(|group| group["group"] == name).unwrap_or(&serde_json::Value::Null)
}

pub(super) fn epoch(cluster: &mut Cluster, node: Machine, name: &str) -> u64 {
    find(&cluster.status(node), name)["epoch"].as_u64().unwrap()
}

/// Both nodes run, and `a` serves both groups.
pub(super) fn up(policy: &str) -> Cluster {
    let _turn = Turn::alone();
    let mut cluster = Cluster::new(settings(policy));
    write(&cluster, &[("web", &[VIP4]), ("db", &[OTHER])]);
    if policy == "witness" {
        witness::succeed(&cluster, &[]);
    }
    for node in NODES {
        cluster.lab.start_daemon(node).unwrap();
    }
    for name in ["web", "db"] {
        wait_until_held(&mut cluster, Machine::A, name);
        stands_by(&mut cluster, Machine::B, name);
    }
    cluster
}

pub(super) fn stands_by(cluster: &mut Cluster, node: Machine, name: &str) {
    cluster.wait_for(node, &format!("it stands by for {name}"), |status| {
        find(status, name)["health"] == "standby"
    });
}

fn restart(cluster: &mut Cluster, node: Machine) {
    assert!(cluster.ask(node, &["stop"]).status.success());
    cluster.wait_for_end(node);
    cluster.lab.start_daemon(node).unwrap();
}

pub(super) fn restart_in_place(cluster: &mut Cluster, node: Machine) {
    cluster.kill(node);
    cluster.lab.start_daemon(node).unwrap();
}

/// Has `from`, which serves a group, move it to the other node.
fn hand_over(cluster: &mut Cluster, from: Machine, name: &str) {
    let to = from.peer().name();
    let mut moved = cluster.ask(from, &["move", name, to, "--wait", "5s"]);
    if !moved.status.success() {
        // A busy machine may have been late.
        moved = cluster.ask(from, &["move", name, to, "--wait", "10s"]);
    }
    assert!(moved.status.success(), "{moved:?}");
}

/// What was wrong where a group was an index: the standby with the groups in the other order, then a move.
fn another_order(policy: &str) {
    let mut cluster = up(policy);
    let arp = Arp::start(&cluster);
    write(&cluster, &[("db", &[OTHER]), ("web", &[VIP4])]);
    restart(&mut cluster, Machine::B);
    stands_by(&mut cluster, Machine::B, "web");
    stands_by(&mut cluster, Machine::B, "db");
    hand_over(&mut cluster, Machine::A, "web");
    wait_until_held(&mut cluster, Machine::B, "web");
    wait_for_answers(&cluster, Machine::B, VIP4);
    wait_for_answers(&cluster, Machine::A, OTHER);

    // In place: the record stays where it is, and the group with it.
    let before = epoch(&mut cluster, Machine::A, "db");
    restart_in_place(&mut cluster, Machine::A);
    wait_until_held(&mut cluster, Machine::A, "db");
    if policy == "witness" {
        assert_eq!(epoch(&mut cluster, Machine::A, "db"), before, "it went on");
        let text = witness::succeed(&cluster, &[]);
        assert!(text.contains("votes, its records were kept"), "{text}");
    }
    hand_over(&mut cluster, Machine::A, "db");
    wait_for_answers(&cluster, Machine::B, OTHER);
    wait_for_answers(&cluster, Machine::B, VIP4);
    for node in NODES {
        let status = cluster.status(node);
        assert_eq!(find(&status, "web")["lacking"], serde_json::json!([]), "{status:#}");
    }
    arp.finish();
}

#[test]
fn groups_in_another_order_are_the_same_groups() {
    another_order("witness");
}

#[test]
fn groups_in_another_order_are_the_same_groups_without_promises() {
    another_order("available");
}

/// An address goes from one group to the other, and a third group comes first.
fn another_address(policy: &str, restarts: [fn(&mut Cluster, Machine); 2]) {
    let mut cluster = up(policy);
    let arp = Arp::start(&cluster);
    let new: [(&str, &[Ipv4Addr]); 2] = [("first", &[VIP4]), ("db", &[OTHER])];
    write(&cluster, &new);
    restarts[0](&mut cluster, Machine::B);
    stands_by(&mut cluster, Machine::B, "db");
    // Both say what differs.
    let status = cluster.wait_for(Machine::A, "what differs", |status| {
        find(status, "web")["lacking"] == serde_json::json!(["b"])
    });
    assert_eq!(status["peers"][0]["config_differs"], serde_json::json!(["group"]));
    let warnings = status["warnings"].to_string();
    assert!(warnings.contains("b has no group web with these addresses"), "{status:#}");
    assert!(warnings.contains("b has a group that this node does not have"), "{status:#}");
    let status = cluster.wait_for(Machine::B, "what differs", |status| {
        let lacking = find(status, "first")["lacking"].as_array();
        lacking.is_some_and(|lacking| lacking.contains(&"a".into()))
    });
    let warnings = status["warnings"].to_string();
    let serves = "a has a group that this node does not have, and serves there";
    assert!(warnings.contains(serves), "{status:#}");
    let refused = cluster.ask(Machine::A, &["move", "web", "b"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("with these addresses"), "{refused:?}");
    // What both have moves as ever, and nothing else moved.
    wait_for_answers(&cluster, Machine::A, VIP4);
    hand_over(&mut cluster, Machine::A, "db");
    wait_for_answers(&cluster, Machine::B, OTHER);
    wait_for_answers(&cluster, Machine::A, VIP4);

    restarts[1](&mut cluster, Machine::A);
    wait_for("the address is served again, by the new group", || {
        NODES.into_iter().find(|node| {
            let status = cluster.lab.status(*node).ok();
            status.is_some_and(|status| find(&status, "first")["health"] == "healthy")
        })
    });
    if policy == "witness" {
        let text = witness::succeed(&cluster, &[]);
        assert!(text.contains("groups were changed"), "{text}");
    }
    let status = cluster.wait_for(Machine::A, "nothing differs", |status| {
        let lacking = &find(status, "first")["lacking"];
        *lacking == serde_json::json!([])
    });
    assert!(!status["warnings"].to_string().contains("does not have"), "{status:#}");
    arp.finish();
}

#[test]
fn an_address_that_changes_its_group_is_served_once() {
    another_address("witness", [restart, restart]);
}

#[test]
fn an_address_that_changes_its_group_is_served_once_after_crashes() {
    another_address("witness", [restart_in_place, restart_in_place]);
}

#[test]
fn an_address_that_changes_its_group_is_served_once_without_promises() {
    another_address("available", [restart, restart_in_place]);
}

/// The first of two groups goes away, and the other one stays where it is.
#[test]
fn a_group_that_is_gone_leaves_the_others_as_they_are() {
    let mut cluster = up("witness");
    let before = epoch(&mut cluster, Machine::A, "db");
    write(&cluster, &[("db", &[OTHER])]);
    restart_in_place(&mut cluster, Machine::B);
    stands_by(&mut cluster, Machine::B, "db");
    restart_in_place(&mut cluster, Machine::A);
    wait_until_held(&mut cluster, Machine::A, "db");
    assert_eq!(epoch(&mut cluster, Machine::A, "db"), before, "it went on");
    wait_for_answers(&cluster, Machine::A, OTHER);
    let text = witness::succeed(&cluster, &[]);
    assert!(text.contains("its records were kept"), "{text}");
    // All three vote for it: with either other one gone it is served.
    cluster.lab.crash(Machine::A).unwrap();
    wait_until_held(&mut cluster, Machine::B, "db");
    wait_for_answers(&cluster, Machine::B, OTHER);
    let arp = Arp::start(&cluster);
    thread::sleep(5 * ROUND);
    arp.stop.store(true, Ordering::Release);
    let rounds = arp.thread.join().unwrap();
    assert!(rounds.iter().all(|round| round[0].is_empty()), "{VIP4} is nobody's: {rounds:?}");
}
