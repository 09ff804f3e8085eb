//! Headers around a heartbeat: finding it in a packet, and turning a probe round.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{
    maps::{Node, Path, Transport},
    refusal::Refusal,
    wire::{ETHERTYPE, FRAME_LEN, Frame, Kind, MAGIC, UDP_PORT, VERSION},
    words,
};

/// Bytes of a packet, borrowed with bounds checked.
pub trait Bytes {
    /// Returns how many bytes there are.
    fn len(&self) -> usize;

    /// Tells whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Borrows a `T` at `offset`, or `None` where the packet ends first.
    fn at<T: FromBytes + Immutable + KnownLayout + Unaligned>(&self, offset: usize) -> Option<&T>;

    /// Borrows a `T` at `offset` for writing, or `None` where the packet ends first.
    fn at_mut<T>(&mut self, offset: usize) -> Option<&mut T>
    where
        T: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned;
}

impl Bytes for [u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    fn at<T: FromBytes + Immutable + KnownLayout + Unaligned>(&self, offset: usize) -> Option<&T> {
        T::ref_from_prefix(self.get(offset..)?).ok().map(|(found, _)| found)
    }

    fn at_mut<T>(&mut self, offset: usize) -> Option<&mut T>
    where
        T: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned,
    {
        T::mut_from_prefix(self.get_mut(offset..)?).ok().map(|(found, _)| found)
    }
}

/// Ethernet header, 14 bytes (IEEE 802.3).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ethernet {
    /// Where to.
    pub destination: [u8; 6],
    /// Where from.
    pub source: [u8; 6],
    /// What follows, big-endian.
    pub ethertype: [u8; 2],
}

/// VLAN tag after the Ethernet addresses, 4 bytes (IEEE 802.1Q).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Vlan {
    control: [u8; 2],
    ethertype: [u8; 2],
}

/// IPv4 header without options, 20 bytes (RFC 791).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4 {
    /// Version 4 and length 5.
    pub version_length: u8,
    /// Differentiated services and ECN.
    pub service: u8,
    /// Header and payload, big-endian.
    pub total_length: [u8; 2],
    /// Identification.
    pub id: [u8; 2],
    /// Flags and fragment offset, big-endian.
    pub fragment: [u8; 2],
    /// Time to live.
    pub ttl: u8,
    /// Next protocol.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: [u8; 2],
    /// Sender.
    pub source: [u8; 4],
    /// Receiver.
    pub destination: [u8; 4],
}

/// IPv6 header, 40 bytes (RFC 8200).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub version_flow: [u8; 4],
    /// Bytes after this header, big-endian.
    pub payload_length: [u8; 2],
    /// Next protocol.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Sender.
    pub source: [u8; 16],
    /// Receiver.
    pub destination: [u8; 16],
}

/// UDP header, 8 bytes (RFC 768).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Udp {
    /// Sender's port, big-endian.
    pub source: [u8; 2],
    /// Receiver's port, big-endian.
    pub destination: [u8; 2],
    /// Header and payload, big-endian.
    pub length: [u8; 2],
    /// Checksum.
    pub checksum: [u8; 2],
}

/// The first 20 bytes of a frame: what is looked at before authentication.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Claim {
    magic: [u8; 4],
    version: u8,
    /// Which key it says it is signed with.
    pub key_id: u8,
    must_understand: [u8; 2],
    features: [u8; 2],
    kind: u8,
    page: u8,
    cluster: [u8; 4],
    /// Node it says it is from.
    pub source: u8,
    destination: u8,
    /// Number of the link on the machine that probed.
    pub link: u8,
    refused: u8,
}

/// Where a frame says which link it was sent on.
const LINK_FINGERPRINT: usize = core::mem::offset_of!(Frame, link_fingerprint);

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
/// VLAN tags that are looked behind.
pub const MAX_TAGS: usize = 8;
/// VLAN tags that a heartbeat may have.
const HEARTBEAT_TAGS: usize = 2;
/// The VLAN in a tag's control word.
pub const VLAN_MASK: u16 = 0x0fff;
const PROTOCOL_UDP: u8 = 17;
/// Length of a heartbeat in UDP, its header included.
pub const UDP_LEN: u16 = (size_of::<Udp>() + FRAME_LEN) as u16;
/// Bytes of the longest packet that a heartbeat can be.
pub const LONGEST: usize = size_of::<Ethernet>()
    + HEARTBEAT_TAGS * size_of::<Vlan>()
    + size_of::<Ipv6>()
    + UDP_LEN as usize;
/// More fragments, or a fragment offset.
const FRAGMENT_MASK: u16 = 0x3fff;
/// TTL and hop limit of what we send (RFC 5082).
const HOPS: u8 = 255;

/// Where in a packet a heartbeat lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// How it travelled.
    pub transport: Transport,
    /// Offset of the IP header; of the frame on raw Ethernet.
    pub network: usize,
    /// Offset of the frame.
    pub frame: usize,
}

/// What follows the Ethernet header of a packet and its VLAN tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its EtherType.
    pub ethertype: u16,
    /// Where it begins.
    pub offset: usize,
    /// Nobody looked at it: it is a VLAN tag still, behind [`MAX_TAGS`] that all name no VLAN. Those are
    /// priority tags (IEEE 802.1Q, 9.6), of which Linux takes off as many as there are.
    pub buried: bool,
}

/// Looks behind up to [`MAX_TAGS`] VLAN tags. `None` where the packet ends first.
#[inline(always)]
pub fn network<B: Bytes + ?Sized>(packet: &B) -> Option<Network> {
    let ethertype = u16::from_be_bytes(packet.at::<Ethernet>(0)?.ethertype);
    let offset = size_of::<Ethernet>();
    if !is_tag(ethertype) {
        return Some(Network { ethertype, offset, buried: false });
    }
    behind_tags(packet, ethertype)
}

#[inline(always)]
fn behind_tags<B: Bytes + ?Sized>(packet: &B, mut ethertype: u16) -> Option<Network> {
    let mut offset = size_of::<Ethernet>();
    let mut vlans = 0;
    for _ in 0..MAX_TAGS {
        if !is_tag(ethertype) {
            break;
        }
        let tag: &Vlan = packet.at(offset)?;
        vlans |= u16::from_be_bytes(tag.control) & VLAN_MASK;
        ethertype = u16::from_be_bytes(tag.ethertype);
        offset += size_of::<Vlan>();
    }
    Some(Network { ethertype, offset, buried: is_tag(ethertype) && vlans == 0 })
}

#[inline(always)]
const fn is_tag(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ
}

/// Finds what could be a heartbeat: our EtherType, or UDP to our port over IP without options,
/// extension headers or fragmentation, behind zero to two VLAN tags.
#[inline(always)]
pub fn find<B: Bytes + ?Sized>(packet: &B) -> Option<Envelope> {
    let Network { ethertype, offset, .. } = network(packet)?;
    if offset > size_of::<Ethernet>() + HEARTBEAT_TAGS * size_of::<Vlan>() {
        return None;
    }
    match ethertype {
        ETHERTYPE => {
            Some(Envelope { transport: Transport::Ethernet, network: offset, frame: offset })
        }
        ETHERTYPE_IPV4 => {
            let ip: &Ipv4 = packet.at(offset)?;
            let whole = u16::from_be_bytes(ip.fragment) & FRAGMENT_MASK == 0;
            if ip.version_length != 0x45 || ip.protocol != PROTOCOL_UDP || !whole {
                return None;
            }
            find_udp(packet, Transport::Udp4, offset, offset + size_of::<Ipv4>())
        }
        ETHERTYPE_IPV6 => {
            let ip: &Ipv6 = packet.at(offset)?;
            if ip.version_flow[0] >> 4 != 6 || ip.next_header != PROTOCOL_UDP {
                return None;
            }
            find_udp(packet, Transport::Udp6, offset, offset + size_of::<Ipv6>())
        }
        _ => None,
    }
}

#[inline(always)]
fn find_udp<B: Bytes + ?Sized>(
    packet: &B,
    transport: Transport,
    network: usize,
    udp: usize,
) -> Option<Envelope> {
    let header: &Udp = packet.at(udp)?;
    (u16::from_be_bytes(header.destination) == UDP_PORT).then_some(Envelope {
        transport,
        network,
        frame: udp + size_of::<Udp>(),
    })
}

/// Reads the claim of a heartbeat for this node: right magic, cluster and destination. Anything
/// else is not ours and passes.
#[inline(always)]
pub fn claim<B: Bytes + ?Sized>(packet: &B, envelope: Envelope, node: &Node) -> Option<Claim> {
    let claim: Claim = *packet.at(envelope.frame)?;
    let ours = claim.magic == MAGIC
        && u32::from_be_bytes(claim.cluster) == node.cluster
        && claim.destination == node.id;
    ours.then_some(claim)
}

/// Returns the cluster that a heartbeat names: of a machine that serves several, the one whose
/// [`Node`] to [`claim`] it with. `None` where the magic is another: not ours.
#[inline(always)]
pub fn cluster<B: Bytes + ?Sized>(packet: &B, envelope: Envelope) -> Option<u32> {
    let claim: &Claim = packet.at(envelope.frame)?;
    (claim.magic == MAGIC).then(|| u32::from_be_bytes(claim.cluster))
}

/// Returns which link a frame says it was sent on; 0 if it is too short for that.
#[inline(always)]
pub fn link<B: Bytes + ?Sized>(packet: &B, envelope: Envelope) -> u32 {
    packet
        .at::<[u8; 4]>(envelope.frame + LINK_FINGERPRINT)
        .map_or(0, |link| u32::from_be_bytes(*link))
}

/// Checks what costs nothing to check, in the order that tells most: length, version, kind, then
/// path, addresses and hop limit. `link` is what [`link`] returned. The answer goes from where the probe was sent to, past the gate: so that
/// has to be this end of the link, and nothing else of this machine.
///
/// # Errors
///
/// The first [`Refusal`] that applies.
#[inline(always)]
pub fn check<B: Bytes + ?Sized>(
    packet: &B,
    envelope: Envelope,
    claim: &Claim,
    link: u32,
    path: &Path,
    interface: u32,
) -> Result<Kind, Refusal> {
    if packet.len() != envelope.frame + FRAME_LEN {
        return Err(Refusal::Length);
    }
    if claim.version != VERSION {
        return Err(Refusal::Version);
    }
    let kind = Kind::from_code(claim.kind).ok_or(Refusal::Kind)?;
    if path.interface == 0
        || path.fingerprint != link
        || path.interface != interface
        || path.transport != envelope.transport as u8
    {
        return Err(Refusal::Link);
    }
    let ethernet: &Ethernet = packet.at(0).ok_or(Refusal::Length)?;
    if !path.leads_to(ethernet.destination) {
        return Err(Refusal::Destination);
    }
    match envelope.transport {
        Transport::Ethernet => {
            if ethernet.source != path.mac {
                return Err(Refusal::Address);
            }
        }
        Transport::Udp4 => {
            let ip: &Ipv4 = packet.at(envelope.network).ok_or(Refusal::Length)?;
            if u16::from_be_bytes(ip.total_length) != size_of::<Ipv4>() as u16 + UDP_LEN {
                return Err(Refusal::Length);
            }
            let [a, b, c, d, ..] = path.address;
            if ip.source != [a, b, c, d] {
                return Err(Refusal::Address);
            }
            let [a, b, c, d, ..] = path.own_address;
            if ip.destination != [a, b, c, d] {
                return Err(Refusal::Destination);
            }
            if ip.ttl < path.min_hops {
                return Err(Refusal::Hops);
            }
        }
        Transport::Udp6 => {
            let ip: &Ipv6 = packet.at(envelope.network).ok_or(Refusal::Length)?;
            if u16::from_be_bytes(ip.payload_length) != UDP_LEN {
                return Err(Refusal::Length);
            }
            if ip.source != path.address {
                return Err(Refusal::Address);
            }
            if ip.destination != path.own_address {
                return Err(Refusal::Destination);
            }
            if ip.hop_limit < path.min_hops {
                return Err(Refusal::Hops);
            }
        }
    }
    Ok(kind)
}

impl Ethernet {
    /// Turns it round.
    #[inline(always)]
    pub fn turn(&mut self) {
        let (source, destination) = (self.source, self.destination);
        words::copy_mac(&mut self.source, destination);
        words::copy_mac(&mut self.destination, source);
    }
}

impl Ipv4 {
    /// Turns it round, as a packet that begins its way.
    #[inline(always)]
    pub fn turn(&mut self) {
        (self.source, self.destination) = (self.destination, self.source);
        self.ttl = HOPS;
        self.checksum = [0; 2];
        let sum = sum_of(self.as_bytes());
        self.checksum = fold(sum);
    }
}

impl Ipv6 {
    /// Turns it round, as a packet that begins its way.
    #[inline(always)]
    pub fn turn(&mut self) {
        (self.source, self.destination) = (self.destination, self.source);
        self.hop_limit = HOPS;
    }
}

impl Udp {
    /// Turns it round; the checksum holds what it held.
    #[inline(always)]
    pub fn turn(&mut self) {
        (self.source, self.destination) = (self.destination, self.source);
    }
}

/// Turns the headers of a probe round, for `answer` to go back where the probe came from. The
/// packet keeps its length and VLAN tags. `None`, with the packet half turned, only where
/// [`find`] and [`check`] have not been passed.
#[inline(always)]
pub fn turn<B: Bytes + ?Sized>(packet: &mut B, envelope: Envelope, answer: &Frame) -> Option<()> {
    packet.at_mut::<Ethernet>(0)?.turn();
    let pseudo = match envelope.transport {
        Transport::Ethernet => return Some(()),
        Transport::Udp4 => {
            let ip: &mut Ipv4 = packet.at_mut(envelope.network)?;
            ip.turn();
            sum_of(&ip.source) + sum_of(&ip.destination)
        }
        Transport::Udp6 => {
            let ip: &mut Ipv6 = packet.at_mut(envelope.network)?;
            ip.turn();
            sum_of(&ip.source) + sum_of(&ip.destination)
        }
    };
    let udp: &mut Udp = packet.at_mut(envelope.frame - size_of::<Udp>())?;
    udp.turn();
    udp.length = UDP_LEN.to_be_bytes();
    udp.checksum = [0; 2];
    let header = sum_of(udp.as_bytes());
    let rest = sum_of(&[0, PROTOCOL_UDP]) + sum_of(&UDP_LEN.to_be_bytes());
    udp.checksum = match fold(pseudo + rest + header + sum_of_frame(answer)) {
        // Zero means "none" in UDP (RFC 768); IPv6 forbids it.
        [0, 0] => [0xff; 2],
        sum => sum,
    };
    Some(())
}

/// Sums 16-bit words in memory order (RFC 1071: the byte order of the sum is that of its words).
#[inline(always)]
fn sum_of(bytes: &[u8]) -> u64 {
    let mut sum = 0;
    for pair in bytes.chunks_exact(2) {
        if let [first, second] = pair {
            sum += u64::from(u16::from_ne_bytes([*first, *second]));
        }
    }
    sum
}

#[inline(always)]
fn sum_of_frame(frame: &Frame) -> u64 {
    let words: &[u64; FRAME_LEN / 8] = zerocopy::transmute_ref!(frame);
    let mut sum = 0;
    for word in words {
        sum += (word & 0xffff_ffff) + (word >> 32);
    }
    sum
}

#[inline(always)]
fn fold(sum: u64) -> [u8; 2] {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_ne_bytes()
}

#[cfg(test)]
mod tests;
