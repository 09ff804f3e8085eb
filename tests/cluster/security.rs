//! A stranger on the client's network repeats heartbeats and makes some up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use hb_ebpf::{
    time::L_MAX_NS,
    wire::{ETHERTYPE, FRAME_LEN, Kind, UDP_PORT},
};
use lab::{
    addresses::{Link, Machine, NODES, VIP4},
    clock::RealTime,
    socket::Socket,
};
use serde_json::Value;

use super::{
    holders::Watch,
    support::{Cluster, PATIENCE, brisk, link, slow, wait_for},
};

const ETHERNET: usize = 14;
/// Where the heartbeat begins in UDP over IPv4.
const UDP4: usize = ETHERNET + 20 + 8;
/// Offsets in a heartbeat.
const VERSION: usize = 4;
const KEY_ID: usize = 5;
const KIND: usize = 10;
const SOURCE: usize = 16;
const LINK: usize = 18;
const SEQUENCE: usize = 48;
/// Frames of each sort that the stranger sends.
const COUNT: u64 = 30;

/// Watches a namespace's wire for heartbeats.
struct Tap(Socket);

impl Tap {
    fn open(netns: &lab::netns::Netns) -> Self {
        let socket = netns.enter(|| Socket::packet(libc::ETH_P_ALL as u16)).unwrap().unwrap();
        socket.keep_times(8 << 20).unwrap();
        Self(socket)
    }

    /// Whole packets with heartbeats since the last call.
    fn take(&self) -> Vec<Vec<u8>> {
        let clock = RealTime::sample();
        let mut buffer = [0; 2048];
        let mut packets = Vec::new();
        while let Some(received) = self.0.receive(&mut buffer, clock).unwrap() {
            let packet = &buffer[..received.length];
            if is_heartbeat(packet) {
                packets.push(packet.to_vec());
            }
        }
        packets
    }
}

fn is_heartbeat(packet: &[u8]) -> bool {
    let port = UDP_PORT.to_be_bytes();
    match packet.get(12..ETHERNET) {
        Some(ethertype) if ethertype == ETHERTYPE.to_be_bytes() => true,
        Some([0x08, 0x00]) => packet.get(23) == Some(&17) && packet.get(36..38) == Some(&port),
        _ => false,
    }
}

/// Sends packets from the client's interface.
fn send(cluster: &Cluster, packets: &[Vec<u8>]) {
    cluster
        .lab
        .netns(Machine::Client)
        .enter(|| {
            let socket = Socket::packet(0).unwrap();
            for packet in packets {
                socket.send_frame("eth0", packet).unwrap();
            }
        })
        .unwrap();
}

/// Heartbeats of `a` to `b` over UDP, of that kind, as the stranger would repeat them: with its own
/// MAC address as the source, so that an answer would come to it.
fn overheard(cluster: &Cluster, kind: Kind) -> Vec<Vec<u8>> {
    let tap = Tap::open(cluster.lab.switch().netns());
    let mut found = Vec::new();
    wait_for("enough heartbeats to repeat", || {
        found.extend(tap.take().into_iter().filter(|packet| {
            packet.len() == UDP4 + FRAME_LEN
                && packet[..6] == Machine::B.mac(Link::Client).0
                && packet[26..30] == Machine::A.v4(Link::Client).octets()
                && packet[UDP4 + KIND] == kind as u8
        }));
        (found.len() as u64 >= COUNT).then_some(())
    });
    for packet in &mut found {
        packet[6..12].copy_from_slice(&Machine::Client.mac(Link::Client).0);
    }
    found.truncate(COUNT as usize);
    found
}

/// Sets the sequence number far ahead, so that the window does not speak first.
fn ahead(packet: &mut [u8]) {
    packet[UDP4 + SEQUENCE] = 1;
}

/// Makes the IPv4 header fit what was done to the packet: switches look at it.
fn seal(packet: &mut [u8]) {
    let length = (packet.len() - ETHERNET) as u16;
    let header = &mut packet[ETHERNET..ETHERNET + 20];
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[10..12].fill(0);
    let words = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// In place of a link's name: frames that name no link there could be.
const UNKNOWN: &str = "";

fn refused(status: &Value, name: &str, reason: &str) -> u64 {
    let counters =
        if name == UNKNOWN { &status["refused"] } else { &link(status, name)["refused"] };
    counters[reason].as_u64().unwrap_or(0)
}

#[test]
fn repeated_and_made_up_heartbeats_are_counted_and_change_nothing() {
    let mut cluster = Cluster::up(slow());
    let epoch = cluster.epoch(Machine::A);
    let watch = Watch::start(&cluster);
    let probes = overheard(&cluster, Kind::Probe);
    let answers = overheard(&cluster, Kind::Answer);
    let tap = Tap::open(cluster.lab.netns(Machine::Client));

    let with = |change: &dyn Fn(&mut Vec<u8>)| -> Vec<Vec<u8>> {
        let mut packets = probes.clone();
        for packet in &mut packets {
            ahead(packet);
            change(packet);
            if packet[12..ETHERNET] == [0x08, 0x00] {
                seal(packet);
            }
        }
        packets
    };
    let last = UDP4 + FRAME_LEN - 1;
    let ethernet = with(&|packet| {
        let frame = packet.split_off(UDP4);
        packet.truncate(ETHERNET);
        packet[12..].copy_from_slice(&ETHERTYPE.to_be_bytes());
        packet.extend(frame);
        packet[ETHERNET + LINK] = 1;
    });
    let attacks: [(&str, &str, Vec<Vec<u8>>); 13] = [
        ("client", "replay", probes.clone()),
        ("client", "replay", answers),
        ("client", "tag", with(&|_| {})),
        ("client", "tag", with(&|packet| packet[last] ^= 1)),
        ("client", "version", with(&|packet| packet[UDP4 + VERSION] = 9)),
        ("client", "kind", with(&|packet| packet[UDP4 + KIND] = 7)),
        ("client", "key id", with(&|packet| packet[UDP4 + KEY_ID] = 77)),
        ("client", "length", with(&|packet| packet.truncate(last))),
        (
            "client",
            "address",
            with(&|packet| {
                let own = Machine::Client.v4(Link::Client).octets();
                packet[26..30].copy_from_slice(&own);
            }),
        ),
        ("client", "hops", with(&|packet| packet[22] = 64)),
        // Another way than that of the link that it names.
        ("client", "link", ethernet),
        (UNKNOWN, "source", with(&|packet| packet[UDP4 + SOURCE] = 65)),
        (UNKNOWN, "link", with(&|packet| packet[UDP4 + LINK] = 200)),
    ];
    for (name, reason, packets) in attacks {
        let before = cluster.status(Machine::B);
        send(&cluster, &packets);
        let expected = refused(&before, name, reason) + COUNT;
        let status = cluster
            .wait_for(Machine::B, reason, |status| refused(status, name, reason) >= expected);
        assert_eq!(refused(&status, name, reason), expected, "{reason}: {status:#}");
        assert_eq!(status["peers"][0]["life"], "alive", "{reason}: {status:#}");
        assert_eq!(status["peers"][0]["incarnation"], before["peers"][0]["incarnation"]);
    }
    // Rubbish that does not even look like one.
    let mut rubbish = with(&|packet| packet[UDP4] ^= 0xff);
    rubbish.extend(with(&|packet| packet.truncate(UDP4)));
    rubbish.extend(with(&|packet| packet.truncate(UDP4 + 10)));
    send(&cluster, &rubbish);

    // The fence: the stranger's questions to the service are answered, so answers do reach it.
    cluster.wait_until_serving(Machine::A);
    let own = Machine::Client.mac(Link::Client).0;
    let replies: Vec<_> = tap.take().into_iter().filter(|packet| packet[..6] == own).collect();
    assert!(replies.is_empty(), "{replies:?}");
    watch.finish().assert_never(Machine::B);
    for node in NODES {
        assert_eq!(cluster.epoch(node), epoch);
        assert_eq!(cluster.logged(node, "peer died"), Vec::<Value>::new());
        assert_eq!(cluster.logged(node, "link is silent, the peer lives on another").len(), 0);
        assert_eq!(cluster.logged(node, "peer's daemon started").len(), 0);
        assert_eq!(cluster.status(node)["peers"][0]["refuses_us"], Value::Null);
    }
}

/// Probes of an earlier life of the peer are authentic, and answered. Sent to a service address they
/// would be answered from there, past the gate.
#[test]
fn old_heartbeats_sent_to_a_service_address_are_not_answered_from_there() {
    let mut cluster = Cluster::up(slow());
    let probes = overheard(&cluster, Kind::Probe);
    cluster.lab.signal(Machine::A, libc::SIGTERM).unwrap();
    cluster.wait_for_end(Machine::A);
    cluster.wait_until_alone(Machine::B);
    cluster.lab.start_daemon(Machine::A).unwrap();
    cluster.wait_until_serving(Machine::B);
    // Fresh ones of an earlier life are refused; those that are not fresh any more are answered.
    thread::sleep(Duration::from_nanos(L_MAX_NS));

    let tap = Tap::open(cluster.lab.netns(Machine::Client));
    let own = Machine::Client.mac(Link::Client).0;
    let to_stranger = || {
        let all = tap.take().into_iter().filter(|packet| packet[..6] == own);
        all.collect::<Vec<_>>()
    };
    let to = |address: [u8; 4]| {
        let mut packets = probes.clone();
        for packet in &mut packets {
            packet[30..34].copy_from_slice(&address);
            seal(packet);
        }
        packets
    };
    let before = refused(&cluster.status(Machine::B), "client", "destination");
    send(&cluster, &to(VIP4.octets()));
    let expected = before + COUNT;
    cluster.wait_for(Machine::B, "refused", |status| {
        refused(status, "client", "destination") >= expected
    });
    // Those that are sent to where they were sent to before show that the others came as far.
    send(&cluster, &to(Machine::B.v4(Link::Client).octets()));
    let mut answers = Vec::new();
    wait_for("answers to old probes", || {
        answers.extend(to_stranger());
        (answers.len() as u64 >= COUNT).then_some(())
    });
    let from = |packet: &Vec<u8>| packet[26..30] == Machine::B.v4(Link::Client).octets();
    assert!(answers.iter().all(from), "{answers:?}");
    assert_eq!(refused(&cluster.status(Machine::B), "client", "destination"), expected);
}

#[test]
fn repeating_heartbeats_of_a_dead_node_does_not_keep_it_alive() {
    let mut cluster = Cluster::up(brisk());
    let mut packets = overheard(&cluster, Kind::Probe);
    packets.extend(overheard(&cluster, Kind::Answer));
    let client = cluster.client(VIP4.into());
    let stop = Arc::new(AtomicBool::new(false));
    let stranger = {
        let (stop, entry) =
            (Arc::clone(&stop), cluster.lab.netns(Machine::Client).entry().unwrap());
        thread::spawn(move || {
            entry.enter().unwrap();
            let socket = Socket::packet(0).unwrap();
            let mut sent = 0_u64;
            while !stop.load(Ordering::Relaxed) && sent < 60_000 {
                socket.send_frame("eth0", &packets[sent as usize % packets.len()]).unwrap();
                sent += 1;
                thread::sleep(Duration::from_micros(500));
            }
            sent
        })
    };
    thread::sleep(Duration::from_millis(200));

    let crash = cluster.lab.crash(Machine::A).unwrap();
    assert!(client.wait_for_answer(Machine::B, crash, PATIENCE));
    let seen = client.finish().unwrap();
    let first = seen.first_answer(Machine::B, crash).unwrap();
    assert!(first.received.since(crash) < Duration::from_millis(730), "{first:?}");
    cluster.wait_until_alone(Machine::B);
    thread::sleep(Duration::from_millis(200));
    let status = cluster.status(Machine::B);
    assert_eq!(status["peers"][0]["life"], "dead", "{status:#}");
    stop.store(true, Ordering::Relaxed);
    assert!(stranger.join().unwrap() > 100);
}
