//! Watching what comes out of the nodes' ports: whatever has a service address as its source, and
//! whatever claims one.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use hb_ebpf::time::BootTime;
use zerocopy::FromBytes;

use super::verdict::{Departure, Departures, Packet, What};
use crate::{
    addresses::{Link, Machine, NODES, SERVICE_PORT, VIP_COUNT, VIP4, VIP6, is_vip},
    capture::{self, ETHERNET},
    clock::{self, RealTime},
    responder::Datagram,
    socket::{Received, Socket},
    switch::port_name,
};

/// How often the sockets are read; the times are the kernel's, so this costs no accuracy.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// Room for what arrives while the judge's thread is not run.
const BUFFER: i32 = 16 << 20;

/// One socket per port of a node, on the switch's side of its cable: behind the program that cuts,
/// before the bridge.
#[derive(Debug)]
pub(super) struct Taps(Vec<(Machine, Link, Socket)>);

impl Taps {
    /// Opens them; to be called inside the switch's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let open = |(node, link): (Machine, Link)| {
            let socket = Socket::packet_on(&port_name(node, link))?;
            socket.filter(&FILTER)?;
            socket.keep_times(BUFFER)?;
            Ok((node, link, socket))
        };
        let ports = NODES.into_iter().flat_map(|node| node.links().iter().map(move |&l| (node, l)));
        ports.map(open).collect::<io::Result<_>>().map(Self)
    }
}

/// Reads until told to stop, and a little longer.
pub(super) fn watch(taps: &Taps, stop: &AtomicBool, seen: &Mutex<Departures>) -> Result<()> {
    let mut buffer = [0; 256];
    let mut last_round = false;
    let mut clock = RealTime::sample();
    loop {
        clock = clock.again();
        for (node, link, socket) in &taps.0 {
            while let Some(received) =
                receive(socket, &mut buffer, clock).context("the judge's tap broke")?
            {
                let at = received.at.unwrap_or_else(clock::now);
                let frame = &buffer[..received.length];
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                note(&mut seen, *node, at, frame);
            }
            let lost = socket.lost().context("cannot ask the judge's tap for its losses")?;
            let link = link.name();
            anyhow::ensure!(
                lost == 0,
                "the judge's tap of {node}, {link}, lost {lost} frames: no verdict"
            );
        }
        if last_round {
            return Ok(());
        }
        last_round = stop.load(Ordering::Acquire);
        thread::sleep(LOOK_INTERVAL);
    }
}

/// Reads the next frame, if there is one.
///
/// A port that a fault sets down says so once to a socket that is bound to it (packet(7)); the
/// socket hears the port again when it is up.
fn receive(socket: &Socket, buffer: &mut [u8], clock: RealTime) -> io::Result<Option<Received>> {
    match socket.receive(buffer, clock) {
        Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => socket.receive(buffer, clock),
        received => received,
    }
}

/// Takes down what a frame is that came out of a port of `node`.
fn note(seen: &mut Departures, node: Machine, at: BootTime, frame: &[u8]) {
    // First, since a Neighbor Advertisement may have a service address as its source as well.
    if let Some((_, address, _)) = capture::parse(frame)
        && is_vip(address)
    {
        seen.packets.push(Packet { at, node, address, what: What::Claim });
    } else if let Some(address) = source(frame).filter(|&address| is_vip(address)) {
        match answer(frame) {
            Some(answer) => seen.answers.push(Departure {
                at,
                node,
                address,
                epoch: answer.epoch.get(),
                asked: BootTime(answer.sent_ns.get()),
            }),
            None => seen.packets.push(Packet { at, node, address, what: What::Data }),
        }
    }
}

/// Returns the source address of a packet.
fn source(frame: &[u8]) -> Option<IpAddr> {
    let ip = frame.get(ETHERNET..)?;
    match frame.get(12..ETHERNET)? {
        [0x08, 0x00] => {
            let octets: [u8; 4] = ip.get(12..16)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
        }
        [0x86, 0xdd] => {
            let octets: [u8; 16] = ip.get(8..24)?.try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// Reads an answer of the service, or `None` for any other packet.
fn answer(frame: &[u8]) -> Option<Datagram> {
    let ip = frame.get(ETHERNET..)?;
    let (protocol, udp) = match frame.get(12..ETHERNET)? {
        [0x08, 0x00] => (*ip.get(9)?, ip.get(20..)?),
        _ => (*ip.get(6)?, ip.get(40..)?),
    };
    if protocol != libc::IPPROTO_UDP as u8 || udp.get(..2)? != SERVICE_PORT.to_be_bytes() {
        return None;
    }
    Datagram::read_from_prefix(udp.get(8..)?).ok().map(|(datagram, _)| datagram)
}

const fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const fn jump(k: u32, yes: u8, no: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: yes,
        jf: no,
        k,
    }
}

const WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// What all service addresses of a family have in common, in their last four octets.
const COMMON: u32 = !(VIP_COUNT as u32 - 1);
/// The service addresses of IPv6 as words.
const V6: [u32; 4] = {
    let bits = VIP6.to_bits();
    [(bits >> 96) as u32, (bits >> 64) as u32, (bits >> 32) as u32, bits as u32]
};

/// ARP, ICMPv6, of which few pass, and whatever has a service address as its source: all else stays with
/// the kernel, heartbeats above all.
const FILTER: [libc::sock_filter; 20] = [
    statement(HALF, 12),
    jump(0x0806, 16, 0),
    jump(0x0800, 0, 3),
    statement(WORD, 26),
    statement(AND, COMMON),
    jump(VIP4.to_bits() & COMMON, 12, 13),
    jump(0x86dd, 0, 12),
    statement(BYTE, 20),
    jump(libc::IPPROTO_ICMPV6 as u32, 9, 0),
    statement(WORD, 22),
    jump(V6[0], 0, 8),
    statement(WORD, 26),
    jump(V6[1], 0, 6),
    statement(WORD, 30),
    jump(V6[2], 0, 4),
    statement(WORD, 34),
    statement(AND, COMMON),
    jump(V6[3] & COMMON, 0, 1),
    statement(RETURN, 0xffff),
    statement(RETURN, 0),
];

#[cfg(test)]
#[path = "tap_tests.rs"]
mod tests;
