//! Packets as they arrive at a node: heartbeats in their headers, and what others send.

use hb_ebpf::{
    maps::Transport,
    wire::{FRAME_LEN, Frame, UDP_PORT},
};
use zerocopy::IntoBytes;

/// MAC address of the node.
pub const MY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// MAC address of its peer.
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// IPv4 addresses of node and peer, and a service address.
pub const MY_V4: [u8; 4] = [192, 0, 2, 2];
/// See [`MY_V4`].
pub const PEER_V4: [u8; 4] = [192, 0, 2, 1];
/// See [`MY_V4`].
pub const VIP_V4: [u8; 4] = [192, 0, 2, 100];
/// IPv6 addresses of node and peer, and a service address.
pub const MY_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
/// See [`MY_V6`].
pub const PEER_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// See [`MY_V6`].
pub const VIP_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

const UDP: u8 = 17;
const TCP: u8 = 6;

/// Returns the packet in which `frame` comes from the peer.
#[must_use]
pub fn heartbeat(transport: Transport, frame: &Frame) -> Vec<u8> {
    let ports = [UDP_PORT.to_be_bytes(), UDP_PORT.to_be_bytes()].concat();
    let length = ((8 + FRAME_LEN) as u16).to_be_bytes();
    let datagram = [&ports[..], &length, &[0; 2], frame.as_bytes()].concat();
    match transport {
        Transport::Ethernet => ethernet([0x88, 0xb5], frame.as_bytes()),
        Transport::Udp4 => v4(PEER_V4, MY_V4, UDP, &datagram),
        Transport::Udp6 => v6(PEER_V6, MY_V6, UDP, &datagram),
    }
}

/// Returns an IPv4 packet with a TCP segment's header and `payload` bytes.
#[must_use]
pub fn tcp4(source: [u8; 4], destination: [u8; 4], payload: usize) -> Vec<u8> {
    v4(source, destination, TCP, &vec![0; 20 + payload])
}

/// Returns an IPv6 packet with a TCP segment's header and `payload` bytes.
#[must_use]
pub fn tcp6(source: [u8; 16], destination: [u8; 16], payload: usize) -> Vec<u8> {
    v6(source, destination, TCP, &vec![0; 20 + payload])
}

/// Returns an IPv4 datagram to a port that is not ours.
#[must_use]
pub fn udp4(source: [u8; 4], destination: [u8; 4], payload: usize) -> Vec<u8> {
    let length = ((8 + payload) as u16).to_be_bytes();
    let header = [0x13, 0x88, 0x1e, 0x61, length[0], length[1], 0, 0];
    v4(source, destination, UDP, &[&header[..], &vec![0; payload]].concat())
}

/// Returns an ARP request of the peer for `target` (RFC 826).
#[must_use]
pub fn arp(target: [u8; 4]) -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4, 0, 1];
    ethernet([0x08, 0x06], &[&fixed[..], &PEER_MAC, &PEER_V4, &[0; 6], &target].concat())
}

/// Puts a VLAN tag into a packet (IEEE 802.1Q).
#[must_use]
pub fn tagged(packet: &[u8]) -> Vec<u8> {
    [&packet[..12], &[0x81, 0, 0, 5], &packet[12..]].concat()
}

fn ethernet(ethertype: [u8; 2], payload: &[u8]) -> Vec<u8> {
    [&MY_MAC[..], &PEER_MAC, &ethertype, payload].concat()
}

fn v4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = ((20 + payload.len()) as u16).to_be_bytes();
    let header = [0x45, 0, length[0], length[1], 0, 7, 0x40, 0, 255, protocol, 0, 0];
    ethernet([0x08, 0x00], &[&header[..], &source, &destination, payload].concat())
}

fn v6(source: [u8; 16], destination: [u8; 16], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    let header = [0x60, 0, 0, 0, length[0], length[1], protocol, 255];
    ethernet([0x86, 0xdd], &[&header[..], &source, &destination, payload].concat())
}
