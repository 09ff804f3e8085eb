//! Asks a neighbour for its link-layer address, in the name of no address of this machine where that can
//! be: an ARP probe (RFC 5227, section 1.1), and a neighbour solicitation (RFC 4861, section 4.3).

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
};

use socket2::Socket;

use super::{address, answer, open, registered};
use crate::{
    announce::{arp_question, solicited_node},
    config::index_of,
    socket::{ethernet_address, open_packet, open_packet_for},
};

const ETHERTYPE_ARP: u16 = 0x0806;
const ARP_REPLY: u16 = 2;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Option 1, the source's link-layer address, of eight bytes.
const SOURCE_ADDRESS: [u8; 2] = [1, 1];
/// Who forwards a message lowers it, so nobody beyond a router takes it (RFC 4861, section 7.1).
const HOP_LIMIT: u32 = 255;

/// Asks `target` behind an interface by ARP, and waits until it answers.
///
/// # Errors
///
/// The kernel's; [`io::ErrorKind::Unsupported`] of an interface that is no Ethernet.
pub(super) async fn ask(target: Ipv4Addr, interface: &str) -> io::Result<()> {
    let socket = open_packet_for(index_of(interface), ETHERTYPE_ARP)?;
    let mac = own_mac(&socket)?;
    let socket = registered(Socket::from(socket))?;
    // A probe: with the sender's address zero, it teaches nobody anything.
    socket.get_ref().send(&arp_question(Ipv4Addr::UNSPECIFIED, mac, target))?;
    answer(&socket, |frame| is_arp_reply(frame, target)).await
}

/// Asks `target` behind an interface by a neighbour solicitation, and waits until it answers. The kernel
/// chooses the address that asks: nobody answers the unspecified one by itself.
///
/// # Errors
///
/// As for [`ask`].
pub(super) async fn solicit(target: Ipv6Addr, interface: &str) -> io::Result<()> {
    let mac = own_mac(&open_packet(index_of(interface))?)?;
    let socket = open(target.into(), interface)?;
    socket.get_ref().set_multicast_hops_v6(HOP_LIMIT)?;
    socket.get_ref().set_multicast_loop_v6(false)?;
    let to = address(solicited_node(target).into(), interface)?;
    socket.get_ref().send_to(&solicitation(target, mac), &to.into())?;
    answer(&socket, |message| is_advertisement(message, target)).await
}

fn own_mac(socket: &OwnedFd) -> io::Result<[u8; 6]> {
    ethernet_address(socket)?.ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Returns a solicitation for `target`. The kernel puts its checksum (RFC 3542, section 3.1).
fn solicitation(target: Ipv6Addr, mac: [u8; 6]) -> [u8; 32] {
    let mut message = [0; 32];
    message[0] = SOLICITATION;
    message[8..24].copy_from_slice(&target.octets());
    message[24..26].copy_from_slice(&SOURCE_ADDRESS);
    message[26..].copy_from_slice(&mac);
    message
}

/// Tells whether an Ethernet frame is an ARP reply of `target` (RFC 826).
fn is_arp_reply(frame: &[u8], target: Ipv4Addr) -> bool {
    frame.get(12..14) == Some(&ETHERTYPE_ARP.to_be_bytes())
        && frame.get(20..22) == Some(&ARP_REPLY.to_be_bytes())
        && frame.get(28..32) == Some(&target.octets())
}

/// Tells whether a message of ICMPv6 is an advertisement of `target` (RFC 4861, section 4.4).
fn is_advertisement(message: &[u8], target: Ipv6Addr) -> bool {
    message.starts_with(&[ADVERTISEMENT, 0]) && message.get(8..24) == Some(&target.octets())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    #[test]
    fn a_reply_is_one_of_that_target() {
        let target = Ipv4Addr::new(192, 0, 2, 254);
        let question = arp_question(target, MAC, target);
        assert!(!is_arp_reply(&question, target), "a request");
        let mut reply = question;
        reply[21] = 2;
        assert!(is_arp_reply(&reply, target));
        assert!(!is_arp_reply(&reply, Ipv4Addr::new(192, 0, 2, 253)));
        for length in 0..32 {
            assert!(!is_arp_reply(&reply[..length], target));
        }
    }

    #[test]
    fn an_advertisement_is_one_of_that_target() {
        let target: Ipv6Addr = "2001:db8::fe".parse().unwrap();
        let mut message = solicitation(target, MAC);
        assert_eq!(message[..8], [135, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(message[24..], [1, 1, 2, 0, 0, 0, 0, 1]);
        assert!(!is_advertisement(&message, target), "the solicitation itself");
        message[0] = 136;
        assert!(is_advertisement(&message, target));
        assert!(!is_advertisement(&message, Ipv6Addr::LOCALHOST));
        for length in 0..24 {
            assert!(!is_advertisement(&message[..length], target));
        }
    }
}
