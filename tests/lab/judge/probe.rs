//! Asking each node for the service by its own MAC address, so that both are asked at every
//! instant, whichever the client's neighbour table names.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::Result;
use zerocopy::IntoBytes;

use super::INTERVAL;
use crate::{
    addresses::{Link, Machine, NODES, SERVICE_PORT},
    clock,
    responder::Datagram,
    socket::Socket,
};

/// Where the judge's questions come from; the answers are watched on their way and dropped here.
const PORT: u16 = 7778;

/// What asks.
#[derive(Debug)]
pub(super) struct Prober {
    packets: Socket,
    index: u32,
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
    /// Never read: only has the kernel not complain of a closed port.
    _sinks: [Socket; 2],
}

impl Prober {
    /// Opens it, to ask for these addresses; to be called inside the client's namespace.
    pub(super) fn open(addresses: &[IpAddr]) -> io::Result<Self> {
        let sinks = [
            Socket::udp((Ipv4Addr::UNSPECIFIED, PORT).into())?,
            Socket::udp((Ipv6Addr::UNSPECIFIED, PORT).into())?,
        ];
        // Of protocol 0, it only sends.
        let packets = Socket::packet(0)?;
        Ok(Self {
            packets,
            index: crate::socket::interface_index(Link::Client.interface())?,
            v4: addresses.iter().copied().filter_map(v4).collect(),
            v6: addresses.iter().copied().filter_map(v6).collect(),
            _sinks: sinks,
        })
    }

    /// Asks until told to stop.
    pub(super) fn run(&self, stop: &AtomicBool) -> Result<()> {
        let mut sequence: u64 = 0;
        let mut due = clock::now();
        let (mut v4, mut v6) = (self.v4.iter().cycle(), self.v6.iter().cycle());
        while !stop.load(Ordering::Acquire) {
            due = due.after(INTERVAL).max(clock::now());
            clock::sleep_until(due);
            let (next4, next6) = (v4.next(), v6.next());
            for node in NODES {
                let question = Datagram {
                    sequence: sequence.into(),
                    sent_ns: clock::now().ns().into(),
                    ..Datagram::default()
                };
                // A full queue loses a question, as a network may.
                if let Some(&to) = next4 {
                    let _ = self.packets.send_frame_to(self.index, &frame4(node, to, &question));
                }
                if let Some(&to) = next6 {
                    let _ = self.packets.send_frame_to(self.index, &frame6(node, to, &question));
                }
            }
            sequence += 1;
        }
        Ok(())
    }
}

const fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

const fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    }
}

const LENGTH: u16 = size_of::<Datagram>() as u16;
const UDP: u8 = libc::IPPROTO_UDP as u8;

fn frame4(node: Machine, to: Ipv4Addr, question: &Datagram) -> Vec<u8> {
    let mut ip = vec![0x45, 0];
    ip.extend((20 + 8 + LENGTH).to_be_bytes());
    // No identification, may not be fragmented, 64 hops, checksum to come.
    ip.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
    ip.extend(Machine::Client.v4(Link::Client).octets());
    ip.extend(to.octets());
    let checksum = !sum(&ip, 0);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let pseudo = sum(&ip[12..20], u32::from(UDP) + u32::from(8 + LENGTH));
    frame(node, 0x0800, &ip, pseudo, question)
}

fn frame6(node: Machine, to: Ipv6Addr, question: &Datagram) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend((8 + LENGTH).to_be_bytes());
    ip.extend([UDP, 64]);
    ip.extend(Machine::Client.v6().octets());
    ip.extend(to.octets());
    let pseudo = sum(&ip[8..40], u32::from(UDP) + u32::from(8 + LENGTH));
    frame(node, 0x86dd, &ip, pseudo, question)
}

fn frame(node: Machine, ethertype: u16, ip: &[u8], pseudo: u16, question: &Datagram) -> Vec<u8> {
    let mut udp = Vec::with_capacity(8 + usize::from(LENGTH));
    udp.extend(PORT.to_be_bytes());
    udp.extend(SERVICE_PORT.to_be_bytes());
    udp.extend((8 + LENGTH).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(question.as_bytes());
    // Zero would mean that there is no checksum (RFC 768).
    let checksum = match !sum(&udp, u32::from(pseudo)) {
        0 => 0xffff,
        checksum => checksum,
    };
    udp[6..8].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = Vec::with_capacity(14 + ip.len() + udp.len());
    frame.extend(node.mac(Link::Client).0);
    frame.extend(Machine::Client.mac(Link::Client).0);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(ip);
    frame.extend(udp);
    frame
}

/// Adds up an even number of bytes in ones' complement (RFC 1071).
fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks_exact(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
