//! The gate in a node's namespace: nothing from a service address leaves a node without a lease, by
//! whatever interface, whoever sends it, and whether or not a daemon runs.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use lab::{
    addresses::{Link, Machine, VIP4, VIP6},
    clock,
    config::Settings,
    socket::Socket,
    tcx::{self, Way},
};
use serde_json::Value;

use super::support::{Cluster, PATIENCE, both_vips, slow, wait_for, when_free};

const PORT: u16 = 9999;

/// Takes what is sent to it.
struct Ear(UdpSocket);

impl Ear {
    fn new(cluster: &Cluster, to: IpAddr) -> Self {
        Self::on(cluster, Machine::Client, to)
    }

    fn on(cluster: &Cluster, machine: Machine, to: IpAddr) -> Self {
        let netns = cluster.lab.netns(machine);
        let socket = when_free(|| netns.enter(|| UdpSocket::bind((to, PORT))).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// Receives until `last` comes, and returns what came before it and where from.
    fn until(&self, last: &[u8]) -> Vec<(Vec<u8>, IpAddr)> {
        let mut seen = Vec::new();
        let mut buffer = [0; 64];
        loop {
            let (length, from) = self.0.recv_from(&mut buffer).expect("a datagram");
            if buffer[..length] == *last {
                return seen;
            }
            seen.push((buffer[..length].to_vec(), from.ip()));
        }
    }
}

fn address(machine: Machine, family_of: IpAddr) -> IpAddr {
    if family_of.is_ipv4() { machine.v4(Link::Client).into() } else { machine.v6().into() }
}

/// Opens a socket bound to `from`, an address of this node or not.
fn bound(from: IpAddr) -> io::Result<Socket> {
    /// `IPV6_TRANSPARENT` of `linux/in6.h`.
    const TRANSPARENT6: libc::c_int = 75;
    let socket = Socket::udp_beside((from, 0).into())?;
    let (level, name) = match from {
        IpAddr::V4(_) => (libc::SOL_IP, libc::IP_TRANSPARENT),
        IpAddr::V6(_) => (libc::SOL_IPV6, TRANSPARENT6),
    };
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the option is an integer, which outlives the call.
    let set =
        unsafe { libc::setsockopt(socket.raw(), level, name, (&raw const on).cast(), length) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

/// Sends from such a socket.
fn send_udp(cluster: &Cluster, node: Machine, from: IpAddr, to: SocketAddr, text: &[u8]) {
    let sent = cluster.lab.netns(node).enter(|| bound(from)?.send_to(text, to));
    match sent.unwrap() {
        // The kernel tells the sender what the gate dropped.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
        sent => sent.unwrap(),
    }
}

/// Sends the same from a packet socket: a whole frame, past the IP stack.
fn send_frame(cluster: &Cluster, node: Machine, from: Ipv4Addr, text: &[u8]) {
    let to = Machine::Client.v4(Link::Client);
    let mut frame = [Machine::Client, node].map(|machine| machine.mac(Link::Client).0).concat();
    frame.extend([0x08, 0x00]);
    let mut ip = vec![0x45, 0, 0, 28 + text.len() as u8, 0, 1, 0, 0, 64, 17, 0, 0];
    ip.extend([from.octets(), to.octets()].concat());
    let sum = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = sum.sum::<u32>();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    // No checksum: allowed over IPv4.
    frame.extend([[0x12, 0x34], PORT.to_be_bytes()].concat());
    frame.extend([0, 8 + text.len() as u8, 0, 0]);
    frame.extend(text);
    let sent = cluster
        .lab
        .netns(node)
        .enter(|| Socket::packet(libc::ETH_P_IP as u16)?.send_frame("eth0", &frame));
    match sent.unwrap() {
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
        sent => sent.unwrap(),
    }
}

/// Sends from `vip` on `node` in every way, then from the node's own address, and returns which
/// of the former arrived before the latter.
pub(super) fn what_leaves(cluster: &Cluster, node: Machine, vip: IpAddr) -> BTreeSet<String> {
    let to = address(Machine::Client, vip);
    let ear = Ear::new(cluster, to);
    send_udp(cluster, node, vip, (to, PORT).into(), b"udp");
    if let IpAddr::V4(vip) = vip {
        send_frame(cluster, node, vip, b"frame");
    }
    send_udp(cluster, node, address(node, vip), (to, PORT).into(), b"last");
    let seen = ear.until(b"last");
    assert!(seen.iter().all(|(_, from)| *from == vip), "{seen:?}");
    seen.into_iter().map(|(text, _)| String::from_utf8(text).unwrap()).collect()
}

pub(super) fn assert_closed(cluster: &Cluster, node: Machine) {
    for vip in both_vips() {
        assert_eq!(what_leaves(cluster, node, vip), BTreeSet::new(), "{vip} from {node}");
    }
}

pub(super) fn assert_open(cluster: &Cluster, node: Machine) {
    let all = |words: &[&str]| words.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert_eq!(what_leaves(cluster, node, VIP4.into()), all(&["frame", "udp"]), "from {node}");
    assert_eq!(what_leaves(cluster, node, VIP6.into()), all(&["udp"]), "from {node}");
}

/// Runs `hb gate` for a node.
pub(super) fn gate(cluster: &Cluster, node: Machine, arguments: &[&str]) -> Output {
    let config = cluster.lab.files().config.to_str().unwrap().to_owned();
    let which = ["gate", "--config", &config, "--node", node.name()];
    cluster.hb(node, &[&which, arguments].concat())
}

/// Returns what `hb gate` says; it fails if not every interface is gated.
pub(super) fn report(cluster: &Cluster, node: Machine) -> Value {
    let output = gate(cluster, node, &["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(output.status.success(), report["not_gated"] == nothing(), "{output:?}");
    report
}

/// Sum of a counter over the addresses of a report.
fn count(report: &Value, what: &str) -> u64 {
    let addresses = report["addresses"].as_array().unwrap().iter();
    addresses.map(|address| address["counts"][what].as_u64().unwrap()).sum()
}

/// Waits until an interface of a node is gated both ways.
fn wait_until_gated(cluster: &Cluster, node: Machine, interface: &str) {
    let mut seen = Value::Null;
    let end = clock::now().after(PATIENCE);
    while clock::now() < end {
        seen = report(cluster, node);
        let found = seen["interfaces"].as_array().unwrap().iter();
        let gated = serde_json::json!({
            "interface": interface, "arriving": "tcx", "leaving": "tcx"
        });
        if found.into_iter().any(|found| *found == gated) && seen["not_gated"] == nothing() {
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
    panic!("{interface} of {node} is not gated: {seen:#}");
}

fn nothing() -> Value {
    Value::Array(Vec::new())
}

pub(super) fn ip(cluster: &Cluster, node: Machine, arguments: &str) {
    cluster.lab.netns(node).ip(&arguments.split(' ').collect::<Vec<_>>()).unwrap();
}

#[test]
fn a_killed_holder_keeps_its_addresses_and_sends_nothing_from_them() {
    let mut cluster = Cluster::up(slow());
    assert_open(&cluster, Machine::A);
    assert_closed(&cluster, Machine::B);
    let before = report(&cluster, Machine::A);
    assert_eq!((&before["mode"], &before["daemon_alive"]), (&"on".into(), &true.into()));
    assert_eq!(before["not_gated"], nothing());

    cluster.kill(Machine::A);
    cluster.wait_until_alone(Machine::B);
    assert_eq!(cluster.vips(Machine::A), both_vips(), "nobody took them away");
    assert_closed(&cluster, Machine::A);
    let after = report(&cluster, Machine::A);
    assert_eq!(after["daemon_alive"], false);
    for address in after["addresses"].as_array().unwrap() {
        assert_eq!(address["open"], false, "{after:#}");
    }
    let stopped = |report: &Value| {
        ["not-holding-out", "controller-dead-out"]
            .map(|what| count(report, what))
            .iter()
            .sum::<u64>()
    };
    assert!(stopped(&after) >= stopped(&before) + 3, "{after:#}");
    let text = gate(&cluster, Machine::A, &[]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("DAEMON DEAD for"), "{text}");

    // Not even while the next daemon finds what is there, and puts its own programs in its place.
    let stop = Arc::new(AtomicBool::new(false));
    let ear = Ear::new(&cluster, Machine::Client.v4(Link::Client).into());
    let sender = {
        let stop = Arc::clone(&stop);
        let socket = cluster.lab.netns(Machine::A).enter(|| bound(VIP4.into()));
        let socket = socket.unwrap().unwrap();
        thread::spawn(move || {
            let to = (Machine::Client.v4(Link::Client), PORT).into();
            let mut sent = 0u64;
            while !stop.load(Ordering::Relaxed) {
                // Refused by the gate, or bound to an address that is gone: never sent.
                let _ = socket.send_to(b"old", to);
                sent += 1;
                thread::sleep(Duration::from_micros(200));
            }
            sent
        })
    };
    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.wait_until_serving(Machine::B);
    stop.store(true, Ordering::Relaxed);
    assert!(sender.join().unwrap() > 100);
    let to = (Machine::Client.v4(Link::Client), PORT).into();
    send_udp(&cluster, Machine::A, Machine::A.v4(Link::Client).into(), to, b"last");
    assert_eq!(ear.until(b"last"), []);
    drop(ear);
    assert_eq!(report(&cluster, Machine::A)["not_gated"], nothing());
    assert_closed(&cluster, Machine::A);
    assert_open(&cluster, Machine::B);
}

/// Sends on `node` itself, from and to what it has of the address's family, and returns what of it
/// arrived there.
pub(super) fn what_stays(cluster: &Cluster, node: Machine, vip: IpAddr) -> BTreeSet<String> {
    let own = address(node, vip);
    let any: IpAddr =
        if vip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let ear = Ear::on(cluster, node, any);
    send_udp(cluster, node, own, (vip, PORT).into(), b"to it");
    send_udp(cluster, node, vip, (own, PORT).into(), b"from it");
    send_udp(cluster, node, vip, (vip, PORT).into(), b"both");
    send_udp(cluster, node, own, (own, PORT).into(), b"last");
    let seen = ear.until(b"last");
    seen.into_iter().map(|(text, _)| String::from_utf8(text).unwrap()).collect()
}

/// Has the client send to `vip` at the MAC address of `node`, and returns what of it the programs there got.
pub(super) fn what_arrives(cluster: &Cluster, node: Machine, vip: IpAddr) -> BTreeSet<String> {
    let (client, own) = (Machine::Client, address(node, vip));
    let any: IpAddr =
        if vip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let ear = Ear::on(cluster, node, any);
    let links = cluster.lab.netns(node).ip_json(&["link", "show", "dev", "eth0"]).unwrap();
    let mac = links[0]["address"].as_str().unwrap();
    ip(cluster, client, &format!("neigh replace {vip} lladdr {mac} dev eth0 nud permanent"));
    send_udp(cluster, client, address(client, vip), (vip, PORT).into(), b"to it");
    send_udp(cluster, client, address(client, vip), (own, PORT).into(), b"last");
    let seen = ear.until(b"last");
    ip(cluster, client, &format!("neigh del {vip} dev eth0"));
    seen.into_iter().map(|(text, _)| String::from_utf8(text).unwrap()).collect()
}

/// A program beside the service would otherwise go on writing to the node that lost the group.
#[test]
fn a_frozen_holder_serves_not_even_the_programs_of_its_own_node() {
    let mut cluster = Cluster::up(slow());
    for vip in both_vips() {
        let all = ["both", "from it", "to it"].map(String::from);
        assert_eq!(what_stays(&cluster, Machine::A, vip), BTreeSet::from(all), "{vip}");
    }
    cluster.lab.signal(Machine::A, libc::SIGSTOP).unwrap();
    cluster.wait_until_alone(Machine::B);
    assert_eq!(cluster.vips(Machine::A), both_vips(), "nobody took them away");
    for vip in both_vips() {
        assert_eq!(what_stays(&cluster, Machine::A, vip), BTreeSet::new(), "{vip}");
    }
    let text = gate(&cluster, Machine::A, &[]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("lo         tcx       tcx"), "{text}");
    cluster.lab.signal(Machine::A, libc::SIGCONT).unwrap();
    cluster.wait_until_serving(Machine::B);
}

#[test]
fn an_interface_that_is_new_is_gated_and_one_that_goes_is_forgotten() {
    let cluster = Cluster::up(slow());
    let (node, client) = (Machine::B, Machine::Client);
    let far = cluster.lab.netns(client).name().to_owned();
    let gates = || {
        let chain = |way| tcx::chain(cluster.lab.netns(node), "fresh", way).unwrap_or_default();
        chain(Way::In).len() + chain(Way::Out).len()
    };
    // From a moment before it is there.
    let begun = clock::now();
    ip(&cluster, node, &format!("link add fresh type veth peer name far netns {far}"));
    let made = clock::now();
    while gates() < 2 {
        assert!(clock::now() < begun.after(PATIENCE), "no gate at fresh");
        thread::sleep(Duration::from_micros(100));
    }
    let gated = clock::now();
    println!(
        "gated {:?} after `ip` began, {:?} after it ended",
        gated.since(begun),
        gated.since(made)
    );
    ip(&cluster, node, "link add link eth0 name upper type macvlan mode bridge");
    wait_until_gated(&cluster, node, "fresh");
    wait_until_gated(&cluster, node, "upper");
    ip(&cluster, node, "address add 203.0.113.1/24 dev fresh");
    ip(&cluster, node, "link set fresh up");
    ip(&cluster, client, "address add 203.0.113.2/24 dev far");
    ip(&cluster, client, "link set far up");
    let ear = Ear::new(&cluster, [203, 0, 113, 2].into());
    // The client would answer to the service address by its own network; only the way there counts.
    for which in ["all", "far"] {
        cluster.lab.netns(client).sysctl(&format!("ipv4/conf/{which}/rp_filter"), "0").unwrap();
    }
    let to = ([203, 0, 113, 2], PORT).into();
    send_udp(&cluster, node, VIP4.into(), to, b"udp");
    send_udp(&cluster, node, [203, 0, 113, 1].into(), to, b"last");
    assert_eq!(ear.until(b"last"), []);

    // By the same way from the holder it would arrive.
    ip(&cluster, node, "link del fresh");
    ip(&cluster, node, "link del upper");
    wait_for("interfaces that are gone are forgotten", || {
        let seen = report(&cluster, node);
        let names = seen["interfaces"].as_array().unwrap().iter();
        let all = names.map(|found| found["interface"].as_str().unwrap()).collect::<BTreeSet<_>>();
        (all == BTreeSet::from(["eth0", "eth1", "lo"])).then_some(())
    });
}

/// A tunnel has no Ethernet header: its packets begin with IP.
#[test]
fn what_leaves_by_a_device_without_link_layer_is_gated_too() {
    let cluster = Cluster::up(slow());
    for (node, open) in [(Machine::A, true), (Machine::B, false)] {
        let mut tunnel = cluster.lab.netns(node).enter(|| tunnel("tunnel").unwrap()).unwrap();
        wait_until_gated(&cluster, node, "tunnel");
        ip(&cluster, node, "link set tunnel up");
        ip(&cluster, node, "route add 203.0.113.0/24 dev tunnel");
        let to = ([203, 0, 113, 2], PORT).into();
        send_udp(&cluster, node, VIP4.into(), to, b"udp");
        send_udp(&cluster, node, node.v4(Link::Client).into(), to, b"last");
        let mut sources = Vec::new();
        let mut packet = [0; 256];
        loop {
            let length = tunnel.read(&mut packet).unwrap();
            // The kernel sends router solicitations of its own.
            if packet[..length][0] >> 4 == 4 {
                sources.push(Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]));
                if packet[..length].ends_with(b"last") {
                    break;
                }
            }
        }
        let expected =
            if open { vec![VIP4, node.v4(Link::Client)] } else { vec![node.v4(Link::Client)] };
        assert_eq!(sources, expected, "{node}");
    }
}

/// Makes a tunnel in the namespace of the calling thread; it goes with the file.
fn tunnel(name: &str) -> io::Result<File> {
    /// `TUNSETIFF` of `linux/if_tun.h`, and the flags for bare IP packets.
    const SET: libc::c_ulong = 0x4004_54ca;
    const TUN: i16 = 1;
    const NO_HEADER: i16 = 0x1000;
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // `struct ifreq`: 16 bytes of name, then the flags.
    let mut request = [0u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&(TUN | NO_HEADER).to_ne_bytes());
    // SAFETY: the request is as long as `struct ifreq` and outlives the call.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), SET, request.as_mut_ptr()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}

#[test]
fn dry_run_lets_pass_and_says_so_loudly() {
    let cluster = Cluster::up(Settings { gate: Some("dry-run".into()), ..slow() });
    assert_open(&cluster, Machine::B);
    let counted = report(&cluster, Machine::B);
    assert!(count(&counted, "not-holding-out") >= 3, "{counted:#}");
    for arguments in [&["status"][..], &["gate"]] {
        let output = match arguments {
            ["gate"] => gate(&cluster, Machine::B, &[]),
            _ => cluster.ask(Machine::B, arguments),
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("GATE IS DRY-RUN"), "{text}");
    }
}

/// What `ip` knows of a node's interfaces, addresses and routes, without what counts up by itself.
fn network(cluster: &Cluster, node: Machine) -> Vec<Value> {
    let netns = cluster.lab.netns(node);
    let mut all = vec![
        netns.ip_json(&["address"]).unwrap(),
        netns.ip_json(&["link"]).unwrap(),
        netns.ip_json(&["route", "show", "table", "all"]).unwrap(),
        netns.ip_json(&["-6", "route", "show", "table", "all"]).unwrap(),
    ];
    for list in &mut all {
        for interface in list.as_array_mut().into_iter().flatten() {
            for info in interface["addr_info"].as_array_mut().into_iter().flatten() {
                if let Some(info) = info.as_object_mut() {
                    info.retain(|key, _| !key.ends_with("life_time"));
                }
            }
            if let Some(interface) = interface.as_object_mut() {
                interface.retain(|key, value| key != "addr_info" || !value.is_null());
            }
        }
    }
    all
}

#[test]
fn hb_gate_removes_what_a_daemon_left_and_nothing_else() {
    let mut cluster = Cluster::new(slow());
    let before = network(&cluster, Machine::A);
    cluster.start_both();
    let refusal = |output: Output| {
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let pins = cluster.lab.pins(Machine::A);
    let by_pins = ["gate", "--remove", "--pins", pins.to_str().unwrap()];
    for frozen in [false, true] {
        if frozen {
            cluster.lab.signal(Machine::A, libc::SIGSTOP).unwrap();
        }
        for output in [gate(&cluster, Machine::A, &["--remove"]), cluster.hb(Machine::A, &by_pins)]
        {
            let text = refusal(output);
            assert!(text.contains("a daemon runs and needs what is pinned"), "{text}");
        }
    }
    cluster.lab.signal(Machine::A, libc::SIGCONT).unwrap();
    cluster.kill(Machine::A);
    cluster.wait_until_alone(Machine::B);
    assert_closed(&cluster, Machine::A);

    // As after an uninstall: no configuration, and the addresses are still there.
    assert_eq!(cluster.vips(Machine::A), both_vips());
    let output = cluster.hb(Machine::A, &by_pins);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "removed 2 service addresses, and the gate of 3 interfaces\n");
    assert!(!pins.exists());
    assert_eq!(network(&cluster, Machine::A), before);
    let leaves = what_leaves(&cluster, Machine::A, VIP4.into());
    assert_eq!(leaves.len(), 2, "{leaves:?}: nothing stops it any more");
    let text = refusal(cluster.hb(Machine::A, &by_pins));
    assert!(text.contains("there is no gate at"), "{text}");
}
