//! The tap's filter and what is read of a frame.

use super::*;

/// Runs the filter as the kernel would.
fn passes(frame: &[u8]) -> bool {
    let mut accumulator = 0;
    let mut place = 0;
    loop {
        let step = FILTER[place];
        place += 1;
        let at = step.k as usize;
        let load = |length: usize| {
            let bytes = frame.get(at..at + length)?;
            Some(bytes.iter().fold(0, |word, &byte| word << 8 | u32::from(byte)))
        };
        let loaded = match u32::from(step.code) {
            WORD => load(4),
            HALF => load(2),
            BYTE => load(1),
            AND => Some(accumulator & step.k),
            RETURN => return step.k != 0,
            _ => {
                place += usize::from(if accumulator == step.k { step.jt } else { step.jf });
                continue;
            }
        };
        match loaded {
            Some(loaded) => accumulator = loaded,
            None => return false,
        }
    }
}

/// A packet of a protocol from an address and a port.
fn frame(source: IpAddr, protocol: u8, port: u16) -> Vec<u8> {
    let mut frame = vec![0; 120];
    let at = match source {
        IpAddr::V4(address) => {
            frame[12..14].copy_from_slice(&[0x08, 0x00]);
            frame[23] = protocol;
            frame[26..30].copy_from_slice(&address.octets());
            34
        }
        IpAddr::V6(address) => {
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            frame[20] = protocol;
            frame[22..38].copy_from_slice(&address.octets());
            54
        }
    };
    frame[at..at + 2].copy_from_slice(&port.to_be_bytes());
    frame
}

const UDP: u8 = libc::IPPROTO_UDP as u8;
const TCP: u8 = libc::IPPROTO_TCP as u8;
const ICMP6: u8 = libc::IPPROTO_ICMPV6 as u8;

#[test]
fn the_filter_passes_what_is_judged_and_nothing_else() {
    for vip in crate::addresses::VIPS {
        assert!(passes(&frame(vip, UDP, SERVICE_PORT)), "{vip}");
        assert!(passes(&frame(vip, TCP, 1)), "{vip}");
    }
    let mut arp = vec![0; 42];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    assert!(passes(&arp));
    assert!(passes(&frame(Machine::A.v6().into(), ICMP6, 0)));
    for own in [Machine::A.v4(Link::Client).into(), IpAddr::from(Machine::A.v6())] {
        assert!(!passes(&frame(own, UDP, 694)), "{own}");
        assert!(!passes(&frame(own, TCP, SERVICE_PORT)), "{own}");
    }
    for near in ["192.0.2.99", "192.0.2.104", "2001:db8::99", "2001:db8::104", "2001:db8:0:1::100"]
    {
        assert!(!passes(&frame(near.parse().unwrap(), UDP, SERVICE_PORT)), "{near}");
    }
    let mut heartbeat = vec![0; 120];
    heartbeat[12..14].copy_from_slice(&[0x88, 0xb5]);
    assert!(!passes(&heartbeat));
    assert!(!passes(&[0; 10]));
}

fn noted(frame: &[u8]) -> Departures {
    let mut seen = Departures::default();
    note(&mut seen, Machine::B, BootTime(9), frame);
    seen
}

#[test]
fn what_leaves_a_service_address_is_noted_as_what_it_is() {
    for vip in [IpAddr::from(VIP4), VIP6.into()] {
        let mut whole = frame(vip, UDP, SERVICE_PORT);
        let epoch = if vip.is_ipv4() { 42 } else { 62 } + 24;
        whole[epoch] = 7;
        let answers = noted(&whole).answers;
        assert_eq!(answers.len(), 1);
        assert_eq!((answers[0].address, answers[0].epoch, answers[0].node), (vip, 7, Machine::B));
        for other in [frame(vip, UDP, 53), frame(vip, TCP, SERVICE_PORT), whole[..60].to_vec()] {
            let packet =
                Packet { at: BootTime(9), node: Machine::B, address: vip, what: What::Data };
            assert_eq!(noted(&other).packets, [packet]);
        }
    }
    let own = noted(&frame(Machine::A.v6().into(), ICMP6, 0));
    assert!(own.answers.is_empty() && own.packets.is_empty());
}
