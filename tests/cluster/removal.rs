//! However a gate is taken away, nothing of a service address leaves the node once another one serves:
//! connections of both families go on sending from it for as long as they can.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::PermissionsExt,
    process::Output,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use hb_ebpf::time::BootTime;
use lab::{
    addresses::{Link, Machine, NODES, VIP4, VIP6, is_vip},
    clock::{self, RealTime},
    config::Settings,
    socket::Socket,
    switch::port_name,
};

use super::{
    gate::{assert_closed, ip},
    support::{Cluster, PATIENCE, both_vips, slow, wait_for, when_free},
};

const PORT: u16 = 7790;
/// Where the datagram goes that ends the watch.
const LAST: u16 = 7791;
/// A connection whose packets are dropped sends again within this, more than once.
const WHILE: Duration = Duration::from_millis(2500);

/// A packet from a service address that left a node.
type Left = (BootTime, Machine, IpAddr);

/// What leaves the nodes from service addresses, seen at their ports of the switch.
pub(super) struct Wire {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Left>>>,
    thread: JoinHandle<()>,
}

impl Wire {
    pub(super) fn watch(cluster: &Cluster) -> Self {
        let open = |node| {
            let socket = Socket::packet_on(&port_name(node, Link::Client)).unwrap();
            socket.keep_times(16 << 20).unwrap();
            (node, socket)
        };
        let taps = cluster.lab.switch().netns().enter(|| NODES.map(open)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (stopping, seeing) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = thread::spawn(move || {
            let mut buffer = [0; 256];
            while !stopping.load(Ordering::Relaxed) {
                let clock = RealTime::sample();
                for (node, socket) in &taps {
                    while let Some(found) = socket.receive(&mut buffer, clock).unwrap() {
                        let Some(from) = source(&buffer[..found.length]) else { continue };
                        let at = found.at.unwrap_or_else(clock::now);
                        seeing.lock().unwrap().push((at, *node, from));
                    }
                    assert_eq!(socket.lost().unwrap(), 0, "frames of {node} were not seen");
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self { stop, seen, thread }
    }

    /// Waits for a packet of a service address from `node`, later than `since`.
    pub(super) fn wait_for(&self, node: Machine, since: BootTime) -> BootTime {
        wait_for(&format!("a packet of a service address from {node}"), || {
            let seen = self.seen.lock().unwrap();
            let found = seen.iter().find(|(at, from, _)| *from == node && *at > since);
            found.map(|(at, ..)| *at)
        })
    }

    /// Looks on until a packet of the node's own arrives, and returns what left before it.
    pub(super) fn finish(self, cluster: &Cluster, node: Machine) -> Vec<Left> {
        let own = IpAddr::from(node.v4(Link::Client));
        let to = (Machine::Client.v4(Link::Client), LAST);
        let send = || UdpSocket::bind((own, 0)).unwrap().send_to(b"last", to).unwrap();
        let sent = clock::now();
        cluster.lab.netns(node).enter(send).unwrap();
        wait_for("the last packet", || {
            let seen = self.seen.lock().unwrap();
            seen.iter()
                .any(|(at, from, ip)| (*from, *ip) == (node, own) && *at > sent)
                .then_some(())
        });
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        let mut seen = std::mem::take(&mut *self.seen.lock().unwrap());
        seen.retain(|(_, _, from)| is_vip(*from));
        seen.sort_by_key(|(at, ..)| *at);
        seen
    }
}

/// Returns the source address of an IP packet.
fn source(frame: &[u8]) -> Option<IpAddr> {
    let ip = frame.get(14..)?;
    match frame.get(12..14)? {
        [0x08, 0x00] => <[u8; 4]>::try_from(ip.get(12..16)?).ok().map(IpAddr::from),
        [0x86, 0xdd] => <[u8; 16]>::try_from(ip.get(8..24)?).ok().map(IpAddr::from),
        _ => None,
    }
}

/// A connection of a client to each service address, at which a program of the node goes on sending.
pub(super) struct Talk {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Error>>,
}

impl Talk {
    pub(super) fn begin(cluster: &Cluster, node: Machine) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for vip in both_vips() {
            let any = if vip.is_ipv4() { "0.0.0.0" } else { "::" };
            let any: IpAddr = any.parse().unwrap();
            let netns = cluster.lab.netns(node);
            let listener = when_free(|| netns.enter(|| TcpListener::bind((any, PORT))).unwrap());
            let client = cluster.lab.netns(Machine::Client);
            let mut asked = client.enter(|| TcpStream::connect((vip, PORT)).unwrap()).unwrap();
            let (mut accepted, _) = listener.accept().unwrap();
            accepted.set_nodelay(true).unwrap();
            let told = Arc::clone(&stop);
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while asked.read(&mut bytes).is_ok_and(|length| length > 0) {}
            });
            threads.push(thread::spawn(move || {
                while !told.load(Ordering::Relaxed) {
                    if let Err(error) = accepted.write_all(b"work") {
                        return error;
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                panic!("a connection to {vip} was never ended");
            }));
        }
        Self { stop, threads }
    }

    /// Sees to it that each connection was ended here, and not by the client.
    pub(super) fn assert_ended(self) {
        for thread in &self.threads {
            wait_for("the end of a connection", || thread.is_finished().then_some(()));
        }
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let error = thread.join().unwrap();
            assert_eq!(error.raw_os_error(), Some(libc::ECONNABORTED), "{error}");
        }
    }
}

/// Asserts that nothing of a service address left `from` after anything had left `to`.
pub(super) fn assert_order(seen: &[Left], from: Machine, to: Machine) {
    for vip in both_vips() {
        let of = |node| move |left: &&Left| left.1 == node && left.2 == vip;
        assert!(seen.iter().any(|left| of(from)(&left)), "{vip} never left {from}");
        let first = seen.iter().find(of(to)).unwrap_or_else(|| panic!("{vip} never left {to}"));
        let late: Vec<_> = seen.iter().filter(of(from)).filter(|left| left.0 > first.0).collect();
        let after = |left: &&Left| left.0.since(first.0);
        let late: Vec<_> = late.iter().map(after).collect();
        assert!(late.is_empty(), "{vip} left {from} after it had left {to}, by {late:?}");
    }
}

/// Talks to each address of the node that serves, so that something leaves it.
pub(super) fn speak(cluster: &Cluster) {
    for vip in both_vips() {
        assert!(cluster.lab.who_serves(vip, PATIENCE).unwrap().is_some());
        // An answer of that address, whatever listens.
        let client = cluster.lab.netns(Machine::Client);
        let refused = client
            .enter(|| TcpStream::connect_timeout(&(vip, PORT + 10).into(), PATIENCE).map(drop));
        assert_eq!(refused.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}

/// Neighbours that come up later, one of each family.
const LATE: [(IpAddr, IpAddr, u8); 2] = [
    (IpAddr::V4(VIP4), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77)), 32),
    (IpAddr::V6(VIP6), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77)), 128),
];

/// Sends from the service addresses of `node` to neighbours that are not there: the kernel keeps the packets
/// while it looks for them.
pub(super) fn send_to_nobody(cluster: &Cluster, node: Machine) {
    let netns = cluster.lab.netns(node);
    for family in ["ipv4", "ipv6"] {
        let patience = format!("/proc/sys/net/{family}/neigh/eth0/mcast_solicit");
        netns.enter(|| fs::write(patience, "60").unwrap()).unwrap();
    }
    for (vip, target, _) in LATE {
        let send = || UdpSocket::bind((vip, 0)).unwrap().send_to(b"waits", (target, PORT)).unwrap();
        netns.enter(send).unwrap();
    }
}

/// Where the packets go that [`send_to_nobody`] sends, once [those neighbours are up](bring_up_late).
pub(super) fn late_targets() -> [(IpAddr, SocketAddr); 2] {
    LATE.map(|(vip, target, _)| (vip, SocketAddr::from((target, PORT))))
}

/// Brings them up.
pub(super) fn bring_up_late() -> String {
    let line = |(_, target, bits)| {
        format!("address add {target}/{bits} dev eth0{}", if bits == 128 { " nodad" } else { "" })
    };
    LATE.map(line).join("\n") + "\n"
}

fn settings(policy: &str) -> Settings {
    Settings { policy: policy.into(), resource: false, ..slow() }
}

/// Adds a resource that takes long to stop once a file `slow` is there.
fn add_slow_resource(cluster: &Cluster) {
    let files = cluster.lab.files();
    let program = files.directory.join("slow.sh");
    let place = files.directory.display();
    let script =
        format!("#!/bin/sh\n[ \"$1\" = stop ] && [ -e {place}/slow ] && sleep 5\nexit 0\n");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut text = fs::read_to_string(&files.config).unwrap();
    let program = program.display();
    text.push_str(&format!(
        "[[group.resource]]\nname = \"slow\"\ntype = \"script\"\nprogram = \"{program}\"\n"
    ));
    fs::write(&files.config, text).unwrap();
    if cluster.lab.has_witness() {
        // It goes by the same file.
        cluster.lab.start_witness().unwrap();
    }
}

fn which(cluster: &Cluster, verb: &str, node: Machine) -> Vec<String> {
    let config = cluster.lab.files().config.to_str().unwrap().to_owned();
    [verb, "--config", &config, "--node", node.name()].map(str::to_owned).to_vec()
}

fn detach(cluster: &Cluster, node: Machine) -> Output {
    let arguments = which(cluster, "detach", node);
    cluster.hb(node, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Asserts that nothing in the kernel is left; a control socket of a killed daemon may be.
fn assert_detached(cluster: &Cluster, node: Machine) {
    assert_eq!(cluster.vips(node), BTreeSet::new());
    assert!(!cluster.lab.pins(node).exists());
    for interface in ["eth0", "eth1"] {
        assert_eq!(cluster.xdp_mode(node, interface), None, "{interface}");
    }
}

/// Has `a` serve, with connections open, and `leave` take its gate away; then judges.
fn taken_away(mut cluster: Cluster, leave: impl FnOnce(&mut Cluster, &Wire)) {
    cluster.start_both();
    let wire = Wire::watch(&cluster);
    let talk = Talk::begin(&cluster, Machine::A);
    wire.wait_for(Machine::A, clock::now());
    send_to_nobody(&cluster, Machine::A);
    leave(&mut cluster, &wire);
    cluster.wait_until_alone(Machine::B);
    speak(&cluster);
    assert_detached(&cluster, Machine::A);
    talk.assert_ended();
    cluster.lab.netns(Machine::Client).ip_batch(&bring_up_late()).unwrap();
    // Whatever is left of them sends again within this.
    thread::sleep(WHILE);
    assert_order(&wire.finish(&cluster, Machine::A), Machine::A, Machine::B);
}

#[test]
fn a_daemon_that_leaves_in_order_ends_connections_first() {
    for policy in ["witness", "available"] {
        taken_away(Cluster::new(settings(policy)), |cluster, _| {
            cluster.lab.signal(Machine::A, libc::SIGTERM).unwrap();
            cluster.wait_for_end(Machine::A);
        });
    }
}

#[test]
fn a_second_signal_ends_connections_before_the_gate_goes() {
    for policy in ["witness", "available"] {
        let cluster = Cluster::new(settings(policy));
        add_slow_resource(&cluster);
        taken_away(cluster, |cluster, _| {
            fs::write(cluster.lab.files().directory.join("slow"), "").unwrap();
            cluster.lab.signal(Machine::A, libc::SIGTERM).unwrap();
            cluster.wait_for(Machine::A, "the resource stops", |status| {
                status["groups"][0]["resources"][0]["state"] == "stopping"
            });
            cluster.lab.signal(Machine::A, libc::SIGTERM).unwrap();
            cluster.wait_for_end(Machine::A);
            let lines = cluster.logged(Machine::A, "asked a second time: leaving at once");
            assert_eq!(lines.len(), 1);
        });
    }
}

/// Has the daemon of `a` killed, `b` serve, and packets of the connections be stopped for a while.
fn killed(cluster: &mut Cluster, wire: &Wire) {
    let killed = cluster.kill(Machine::A);
    cluster.wait_until_alone(Machine::B);
    speak(cluster);
    wire.wait_for(Machine::B, killed);
    assert_closed(cluster, Machine::A);
}

#[test]
fn hb_detach_ends_connections_before_the_gate_goes() {
    for policy in ["witness", "available"] {
        taken_away(Cluster::new(settings(policy)), |cluster, wire| {
            killed(cluster, wire);
            let output = detach(cluster, Machine::A);
            assert!(output.status.success(), "{output:?}");
            assert_eq!(output.stdout, b"detached\n");
        });
    }
}

/// The record of a killed holder holds until a frame tells it that its daemon is dead, or its lease runs out.
#[test]
fn hb_detach_of_a_node_that_holds_gives_the_group_away_first() {
    taken_away(Cluster::new(settings("witness")), |cluster, _| {
        cluster.kill(Machine::A);
        let output = detach(cluster, Machine::A);
        assert!(output.status.success(), "{output:?}");
    });
}

#[test]
fn hb_gate_ends_connections_before_it_removes_the_gate() {
    taken_away(Cluster::new(settings("witness")), |cluster, wire| {
        killed(cluster, wire);
        let pins = cluster.lab.pins(Machine::A);
        let output =
            cluster.hb(Machine::A, &["gate", "--remove", "--pins", pins.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
    });
}

#[test]
fn a_gate_stays_closed_while_somebody_else_has_the_address_there() {
    let mut cluster = Cluster::up(settings("witness"));
    cluster.kill(Machine::A);
    cluster.wait_until_alone(Machine::B);
    for (vip, long) in [(IpAddr::from(VIP4), 32), (IpAddr::from(VIP6), 128)] {
        ip(&cluster, Machine::A, &format!("address add {vip}/{long} dev lo"));
        let pins = cluster.lab.pins(Machine::A);
        let by_pins = ["gate", "--remove", "--pins", pins.to_str().unwrap()];
        for output in [detach(&cluster, Machine::A), cluster.hb(Machine::A, &by_pins)] {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{text}");
            assert!(text.contains("the gate stays, closed"), "{text}");
            assert!(text.contains(&vip.to_string()) && text.contains("hb detach"), "{text}");
        }
        assert!(pins.exists());
        assert_closed(&cluster, Machine::A);
        ip(&cluster, Machine::A, &format!("address del {vip}/{long} dev lo"));
    }
    let output = detach(&cluster, Machine::A);
    assert!(output.status.success(), "{output:?}");
    assert_detached(&cluster, Machine::A);
}

/// Which other state directory a file names says nothing of who uses what is pinned.
#[test]
fn hb_detach_with_another_state_directory_leaves_a_living_daemon_alone() {
    let mut cluster = Cluster::up(slow());
    let path = cluster.lab.files().config.clone();
    let text = fs::read_to_string(&path).unwrap();
    let other = cluster.lab.files().directory.join("elsewhere");
    let mut edited = String::new();
    for line in text.lines() {
        if line.starts_with("state_dir") {
            edited.push_str(&format!("state_dir = \"{}\"\n", other.display()));
        } else {
            edited.push_str(&format!("{line}\n"));
        }
    }
    assert_ne!(text, edited, "no state_dir in {text}");
    fs::write(&path, &edited).unwrap();
    for node in NODES {
        let output = detach(&cluster, node);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{text}");
        assert!(text.contains("a daemon runs and needs what is pinned"), "{text}");
        assert!(cluster.lab.pins(node).exists());
    }
    fs::write(&path, text).unwrap();
    cluster.wait_until_serving(Machine::A);
    assert_closed(&cluster, Machine::B);
}
