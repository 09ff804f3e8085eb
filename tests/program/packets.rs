//! Packets around frames, built and read without the code under test.

use std::hash::Hasher;

use hb_ebpf::{
    maps::Transport,
    siphash::Key,
    wire::{FRAME_LEN, Frame},
};
use siphasher::sip::SipHasher24;
use zerocopy::{FromBytes, IntoBytes};

pub(crate) const MY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const PEER_V4: [u8; 4] = [192, 0, 2, 1];
pub(crate) const MY_V4: [u8; 4] = [192, 0, 2, 2];
pub(crate) const PEER_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub(crate) const MY_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// How a frame travels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) transport: Transport,
    /// VLAN tags.
    pub(crate) tags: usize,
}

impl Shape {
    /// Offset of the IP header, or of the frame on raw Ethernet.
    pub(crate) fn network(self) -> usize {
        14 + 4 * self.tags
    }

    pub(crate) fn frame(self) -> usize {
        self.network()
            + match self.transport {
                Transport::Ethernet => 0,
                Transport::Udp4 => 28,
                Transport::Udp6 => 48,
            }
    }

    /// Every shape a heartbeat may have.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        [Transport::Ethernet, Transport::Udp4, Transport::Udp6]
            .into_iter()
            .flat_map(|transport| (0..3).map(move |tags| Self { transport, tags }))
    }
}

/// The packet in which `frame` comes from the peer.
pub(crate) fn wrap(shape: Shape, frame: &Frame) -> Vec<u8> {
    let mut packet = [MY_MAC, PEER_MAC].concat();
    for tag in 0..shape.tags {
        // The outer of two is a service tag (IEEE 802.1ad).
        let kind = if shape.tags == 2 && tag == 0 { [0x88, 0xa8] } else { [0x81, 0x00] };
        packet.extend(kind);
        packet.extend([0x20, 5 + tag as u8]);
    }
    match shape.transport {
        Transport::Ethernet => packet.extend([0x88, 0xb5]),
        Transport::Udp4 => {
            packet.extend([0x08, 0x00]);
            let mut header = [0x45, 0, 0x01, 0xc4, 0, 7, 0x40, 0, 255, 17, 0, 0].to_vec();
            header.extend([PEER_V4, MY_V4].concat());
            let sum = checksum(&[&header]).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            packet.extend(header);
        }
        Transport::Udp6 => {
            packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0x01, 0xb0, 17, 255]);
            packet.extend([PEER_V6, MY_V6].concat());
        }
    }
    if shape.transport != Transport::Ethernet {
        // The checksum as offloads leave it: unfinished.
        packet.extend([0x02, 0xb6, 0x02, 0xb6, 0x01, 0xb0, 0xbe, 0xef]);
    }
    packet.extend(frame.as_bytes());
    packet
}

/// Completes the checksum of a packet of [`wrap`].
pub(crate) fn complete(shape: Shape, packet: &mut [u8]) {
    let (network, frame) = (shape.network(), shape.frame());
    if shape.transport == Transport::Ethernet {
        return;
    }
    let length = (packet.len() - frame + 8) as u16;
    let (headers, udp) = packet.split_at_mut(frame - 8);
    udp[6..8].fill(0);
    let addresses = if shape.transport == Transport::Udp4 { network + 12 } else { network + 8 };
    let [high, low] = length.to_be_bytes();
    let sum = checksum(&[&headers[addresses..], &[0, 17, high, low], udp]);
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
}

/// Reads an answer to a packet of [`wrap`]: checks every header, returns the frame.
pub(crate) fn unwrap(shape: Shape, probe: &[u8], answer: &[u8]) -> Frame {
    assert_eq!(answer.len(), probe.len(), "{shape:?}: an answer is as long as its probe");
    assert_eq!(answer[..6], PEER_MAC, "{shape:?}");
    assert_eq!(answer[6..12], MY_MAC, "{shape:?}");
    let (network, frame) = (shape.network(), shape.frame());
    assert_eq!(answer[12..network], probe[12..network], "{shape:?}: tags and type stay");
    let ip = &answer[network..frame.saturating_sub(8).max(network)];
    match shape.transport {
        Transport::Ethernet => {}
        Transport::Udp4 => {
            assert_eq!(ip[..8], probe[network..network + 8], "{shape:?}");
            assert_eq!((ip[8], ip[9]), (255, 17), "{shape:?}");
            assert_eq!(checksum(&[ip]), 0, "{shape:?}: header checksum");
            assert_eq!(ip[12..], [MY_V4, PEER_V4].concat(), "{shape:?}");
        }
        Transport::Udp6 => {
            assert_eq!(ip[..7], probe[network..network + 7], "{shape:?}");
            assert_eq!(ip[7], 255, "{shape:?}");
            assert_eq!(ip[8..], [MY_V6, PEER_V6].concat(), "{shape:?}");
        }
    }
    if shape.transport != Transport::Ethernet {
        let udp = &answer[frame - 8..];
        assert_eq!(udp[..6], [0x02, 0xb6, 0x02, 0xb6, 0x01, 0xb0], "{shape:?}");
        assert_ne!(udp[6..8], [0, 0], "{shape:?}: a checksum is present");
        let addresses = if shape.transport == Transport::Udp4 { &ip[12..] } else { &ip[8..] };
        assert_eq!(
            checksum(&[addresses, &[0, 17, udp[4], udp[5]], udp]),
            0,
            "{shape:?}: UDP checksum"
        );
    }
    assert_eq!(answer.len() - frame, FRAME_LEN);
    Frame::read_from_bytes(&answer[frame..]).unwrap()
}

/// Tells whether `key` signed `frame`, by another implementation of SipHash.
pub(crate) fn is_signed(frame: &Frame, key: &Key) -> bool {
    let [low, high] = key.words;
    let mut hasher = SipHasher24::new_with_keys(low, high);
    hasher.write(&frame.as_bytes()[..FRAME_LEN - 8]);
    frame.tag == hasher.finish().to_le_bytes()
}

/// RFC 1071, the slow way; 0 over data that holds its checksum.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for pair in parts.concat().chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
