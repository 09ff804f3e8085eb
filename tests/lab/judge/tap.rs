//! Watching what comes out of the nodes' ports of the client network.

use std::{
    io,
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

use super::verdict::{Departure, Departures, NodeClaim};
use crate::{
    addresses::{Link, Machine, NODES, SERVICE_PORT, VIP4, VIP6, is_vip},
    capture::{self, ETHERNET},
    clock::{self, RealTime},
    responder::Datagram,
    socket::Socket,
    switch::port_name,
};

/// How often the sockets are read; the times are the kernel's, so this costs no accuracy.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// Room for what arrives while the judge's thread is not run.
const BUFFER: i32 = 16 << 20;

/// One socket per node, on the switch's side of its cable: behind the program that cuts, before
/// the bridge.
#[derive(Debug)]
pub(super) struct Taps(Vec<(Machine, Socket)>);

impl Taps {
    /// Opens them; to be called inside the switch's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let open = |node: Machine| {
            let socket = Socket::packet_on(&port_name(node, Link::Client))?;
            socket.filter(&FILTER)?;
            socket.keep_times(BUFFER)?;
            Ok((node, socket))
        };
        NODES.into_iter().map(open).collect::<io::Result<_>>().map(Self)
    }
}

/// Reads until told to stop, and a little longer.
pub(super) fn watch(taps: &Taps, stop: &AtomicBool, seen: &Mutex<Departures>) -> Result<()> {
    let mut buffer = [0; 256];
    let mut last_round = false;
    loop {
        let clock = RealTime::sample();
        for (node, socket) in &taps.0 {
            while let Some(received) =
                socket.receive(&mut buffer, clock).context("the judge's tap broke")?
            {
                let at = received.at.unwrap_or_else(clock::now);
                let frame = &buffer[..received.length];
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(answer) = answer(frame) {
                    seen.answers.push(Departure {
                        at,
                        node: *node,
                        epoch: answer.epoch.get(),
                        asked: BootTime(answer.sent_ns.get()),
                    });
                } else if let Some((_, address, _)) = capture::parse(frame)
                    && is_vip(address)
                {
                    seen.claims.push(NodeClaim { at, node: *node });
                }
            }
            let lost = socket.lost().context("cannot ask the judge's tap for its losses")?;
            anyhow::ensure!(lost == 0, "the judge's tap of {node} lost {lost} frames: no verdict");
        }
        if last_round {
            return Ok(());
        }
        last_round = stop.load(Ordering::Acquire);
        thread::sleep(LOOK_INTERVAL);
    }
}

/// Reads an answer from a service address, or `None` for any other frame.
fn answer(frame: &[u8]) -> Option<Datagram> {
    let ip = frame.get(ETHERNET..)?;
    let udp = match frame.get(12..ETHERNET)? {
        [0x08, 0x00] if ip.get(12..16)? == VIP4.octets() => ip.get(20..)?,
        [0x86, 0xdd] if ip.get(8..24)? == VIP6.octets() => ip.get(40..)?,
        _ => return None,
    };
    if udp.get(..2)? != SERVICE_PORT.to_be_bytes() {
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

const HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// ARP, Neighbor Advertisements, and UDP from the service's port: all else stays with the kernel,
/// heartbeats above all. Frames to the machine have another source port.
const FILTER: [libc::sock_filter; 15] = [
    statement(HALF, 12),
    jump(0x0806, 11, 0),
    jump(0x0800, 0, 4),
    // IPv4 without options.
    statement(BYTE, 23),
    jump(libc::IPPROTO_UDP as u32, 0, 9),
    statement(HALF, 34),
    jump(SERVICE_PORT as u32, 6, 7),
    jump(0x86dd, 0, 6),
    statement(BYTE, 20),
    jump(libc::IPPROTO_UDP as u32, 0, 2),
    statement(HALF, 54),
    jump(SERVICE_PORT as u32, 1, 2),
    // ICMPv6, of which few pass.
    jump(libc::IPPROTO_ICMPV6 as u32, 0, 1),
    statement(RETURN, 0xffff),
    statement(RETURN, 0),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel would.
    fn passes(frame: &[u8]) -> bool {
        let mut accumulator = 0;
        let mut place = 0;
        loop {
            let step = FILTER[place];
            place += 1;
            let at = step.k as usize;
            match u32::from(step.code) {
                HALF => match frame.get(at..at + 2) {
                    Some(bytes) => accumulator = u32::from(bytes[0]) << 8 | u32::from(bytes[1]),
                    None => return false,
                },
                BYTE => match frame.get(at) {
                    Some(&byte) => accumulator = u32::from(byte),
                    None => return false,
                },
                RETURN => return step.k != 0,
                _ => place += usize::from(if accumulator == step.k { step.jt } else { step.jf }),
            }
        }
    }

    fn frame(ethertype: u16, protocol: (usize, u8), source_port: Option<(usize, u16)>) -> Vec<u8> {
        let mut frame = vec![0; 120];
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        frame[protocol.0] = protocol.1;
        if let Some((at, port)) = source_port {
            frame[at..at + 2].copy_from_slice(&port.to_be_bytes());
        }
        frame
    }

    #[test]
    fn the_filter_passes_what_is_judged_and_nothing_else() {
        assert!(passes(&frame(0x0806, (0, 0), None)));
        assert!(passes(&frame(0x0800, (23, 17), Some((34, SERVICE_PORT)))));
        assert!(passes(&frame(0x86dd, (20, 17), Some((54, SERVICE_PORT)))));
        assert!(passes(&frame(0x86dd, (20, 58), None)));
        assert!(!passes(&frame(0x0800, (23, 17), Some((34, 694)))));
        assert!(!passes(&frame(0x0800, (23, 6), Some((34, SERVICE_PORT)))));
        assert!(!passes(&frame(0x86dd, (20, 17), Some((54, 694)))));
        assert!(!passes(&frame(0x88b5, (0, 0), None)));
        assert!(!passes(&[0; 10]));
    }

    #[test]
    fn answers_of_a_service_address_are_read_and_others_are_not() {
        let mut whole = frame(0x0800, (23, 17), Some((34, SERVICE_PORT)));
        whole[26..30].copy_from_slice(&VIP4.octets());
        whole[42 + 24] = 7;
        assert_eq!(answer(&whole).map(|datagram| datagram.epoch.get()), Some(7));
        whole[29] ^= 1;
        assert!(answer(&whole).is_none());
        assert!(answer(&whole[..60]).is_none());
    }
}
