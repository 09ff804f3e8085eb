//! Which packets are to or from a service address: what the gate looks at.
//!
//! Only the fixed IP header is matched, so options, fragments and extension headers make no
//! difference. ARP (RFC 826) and Neighbour Discovery (RFC 4861) are matched by the address they ask
//! for or claim. Everything behind up to [`MAX_TAGS`](crate::packet::MAX_TAGS) VLAN tags; what lies deeper, and would
//! be found by the stack, may not pass.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::packet::{Bytes, Ethernet, Ipv4, Ipv6, Network, network};

/// Service addresses of a node.
pub const MAX_VIPS: usize = 64;
/// MAC addresses of a node's own that are known. A node has more interfaces at times, but few that announce.
pub const MAX_MACS: usize = 256;
/// Counters of a service address, by [`Count`].
pub const COUNTS: usize = 10;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_ARP: u16 = 0x0806;
const ICMP6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// An address of either family, in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// IPv4.
    V4([u8; 4]),
    /// IPv6.
    V6([u8; 16]),
}

/// Returns a number below 32 that depends on every bit of the address.
#[inline(always)]
#[must_use]
pub const fn fold_v4(address: [u8; 4]) -> u32 {
    spread(u32::from_ne_bytes(address))
}

/// Returns a number below 32 that depends on every bit of the address.
#[inline(always)]
#[must_use]
pub const fn fold_v6(address: [u8; 16]) -> u32 {
    let [a, b, c, d]: [u32; 4] = zerocopy::transmute!(address);
    spread(a ^ b ^ c ^ d)
}

#[inline(always)]
const fn spread(word: u32) -> u32 {
    /// 2^32 divided by the golden ratio, odd (Knuth, TAOCP 3, 6.4): spreads neighbours.
    const GOLDEN: u32 = 0x9e37_79b1;
    word.wrapping_mul(GOLDEN) >> 27
}

/// What a packet has to do with addresses. There are two at most: the one of the packet, and the
/// one that Neighbour Discovery in it is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// The address it is to (arriving) or from (leaving), or asks for, or speaks for.
    pub address: Option<Address>,
    /// The target of Neighbour Discovery.
    pub target: Option<Address>,
    /// An address that its sender claims for itself, and from which MAC address.
    pub claimed: Option<(Address, [u8; 6])>,
    /// It is behind more tags than are looked behind ([`Network::buried`]), whatever it is.
    pub buried: bool,
}

impl Touched {
    const BURIED: Self = Self { address: None, target: None, claimed: None, buried: true };
}

/// ARP for IPv4 over Ethernet, 28 bytes (RFC 826).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Arp {
    hardware: [u8; 2],
    protocol: [u8; 2],
    lengths: [u8; 2],
    operation: [u8; 2],
    sender_mac: [u8; 6],
    sender_ip: [u8; 4],
    target_mac: [u8; 6],
    target_ip: [u8; 4],
}

/// The start of a Neighbour Solicitation or Advertisement, 24 bytes (RFC 4861, 4.3 and 4.4).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Neighbour {
    kind: u8,
    code: u8,
    checksum: [u8; 2],
    flags: [u8; 4],
    target: [u8; 16],
}

/// Looks at a packet that arrives: whom is it for, whom does it ask for, what does it claim?
#[inline(always)]
pub fn arriving<B: Bytes + ?Sized>(packet: &B) -> Touched {
    match network(packet) {
        Some(Network { buried: true, .. }) => Touched::BURIED,
        Some(Network { ethertype, offset, .. }) => arriving_at(packet, ethertype, offset),
        None => Touched::default(),
    }
}

/// Returns the EtherType of a packet that begins with its IP header, as on a device without link
/// layer (a tunnel, say): `protocol` is what the kernel takes it for. An Ethernet frame may look the
/// same. Whoever asks looks at the packet both ways, and the wrong way finds no service address in it.
#[inline(always)]
pub fn bare<B: Bytes + ?Sized>(packet: &B, protocol: u16) -> Option<u16> {
    // Both families have as much of a header as IPv4 at least.
    let version = packet.at::<Ipv4>(0)?.version_length >> 4;
    match (protocol, version) {
        (ETHERTYPE_IPV4, 4) | (ETHERTYPE_IPV6, 6) => Some(protocol),
        _ => None,
    }
}

/// Does the same for a packet whose network header, of that EtherType, is at `offset`.
#[inline(always)]
pub fn arriving_at<B: Bytes + ?Sized>(packet: &B, ethertype: u16, offset: usize) -> Touched {
    let mut touched = Touched::default();
    match ethertype {
        ETHERTYPE_IPV4 => {
            if let Some(ip) = packet.at::<Ipv4>(offset) {
                touched.address = Some(Address::V4(ip.destination));
            }
        }
        ETHERTYPE_IPV6 => {
            let Some(ip) = packet.at::<Ipv6>(offset) else { return touched };
            touched.address = Some(Address::V6(ip.destination));
            if ip.next_header == ICMP6
                && let Some(neighbour) = packet.at::<Neighbour>(offset + size_of::<Ipv6>())
            {
                match neighbour.kind {
                    SOLICITATION => touched.target = Some(Address::V6(neighbour.target)),
                    ADVERTISEMENT => {
                        let from = packet.at::<Ethernet>(0).map_or([0; 6], |found| found.source);
                        touched.claimed = Some((Address::V6(neighbour.target), from));
                    }
                    _ => {}
                }
            }
        }
        ETHERTYPE_ARP => {
            if let Some(arp) = packet.at::<Arp>(offset) {
                // A claim tells others where the address is: it has to be heard.
                if arp.sender_ip != arp.target_ip {
                    touched.address = Some(Address::V4(arp.target_ip));
                }
                touched.claimed = Some((Address::V4(arp.sender_ip), arp.sender_mac));
            }
        }
        _ => {}
    }
    touched
}

/// Looks at a packet that leaves: whom is it from, for whom does it speak?
#[inline(always)]
pub fn leaving<B: Bytes + ?Sized>(packet: &B) -> Touched {
    match network(packet) {
        Some(Network { buried: true, .. }) => Touched::BURIED,
        Some(Network { ethertype, offset, .. }) => leaving_at(packet, ethertype, offset),
        None => Touched::default(),
    }
}

/// Does the same for a packet whose network header, of that EtherType, is at `offset`.
#[inline(always)]
pub fn leaving_at<B: Bytes + ?Sized>(packet: &B, ethertype: u16, offset: usize) -> Touched {
    let mut touched = Touched::default();
    match ethertype {
        ETHERTYPE_IPV4 => {
            if let Some(ip) = packet.at::<Ipv4>(offset) {
                touched.address = Some(Address::V4(ip.source));
            }
        }
        ETHERTYPE_IPV6 => {
            let Some(ip) = packet.at::<Ipv6>(offset) else { return touched };
            touched.address = Some(Address::V6(ip.source));
            if ip.next_header == ICMP6
                && let Some(neighbour) = packet.at::<Neighbour>(offset + size_of::<Ipv6>())
                && neighbour.kind == ADVERTISEMENT
            {
                touched.target = Some(Address::V6(neighbour.target));
            }
        }
        ETHERTYPE_ARP => {
            if let Some(arp) = packet.at::<Arp>(offset) {
                touched.address = Some(Address::V4(arp.sender_ip));
            }
        }
        _ => {}
    }
    touched
}

/// What the gate does to packets that may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Drops them.
    On = 0,
    /// Counts them and lets them pass.
    DryRun = 1,
    /// Does not look.
    Bypass = 2,
}

/// The gate's settings. Map `GATE`, one entry.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Settings {
    /// A [`Mode`].
    pub mode: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// Bit `n` says that no service address has the fold `n` ([`fold_v4`], [`fold_v6`]): most packets are told from
    /// those of service addresses by this alone. Zero says nothing, and each address is looked up.
    pub absent: u32,
}

const _: () = assert!(size_of::<Settings>() == 8);

impl Settings {
    /// Tells whether it is certain that no service address has this fold.
    #[inline(always)]
    #[must_use]
    pub const fn excludes(&self, fold: u32) -> bool {
        self.absent & (1 << (fold & 31)) != 0
    }
}

/// Returns [`Settings::absent`] of service addresses with these folds.
pub fn absent(folds: impl IntoIterator<Item = u32>) -> u32 {
    folds.into_iter().fold(u32::MAX, |absent, fold| absent & !(1 << (fold & 31)))
}

/// A service address. Maps `VIPS4` and `VIPS6`, by the address in network byte order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Vip {
    /// Its group.
    pub group: u8,
    /// Its number: index of its counters, its bounce and the claims on it; below [`MAX_VIPS`].
    pub number: u8,
    /// Not zero if the address is on this node also while it does not hold the group. Then the stack
    /// would take the advertisements (RFC 4861, 4.4) of the node that does for a conflict, and log each.
    pub warm: u8,
    /// Zero.
    pub reserved: u8,
}

/// Where packets for a service address are sent on to after it was handed over. Map `BOUNCES`, by
/// the number of the address.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Bounce {
    /// Until when.
    pub until_ns: u64,
    /// The interface they arrive on, and are sent on by.
    pub interface: u32,
    /// MAC address of the node it was handed to.
    pub to: [u8; 6],
    /// MAC address of this interface.
    pub own: [u8; 6],
}

/// The newest claim of a service address by somebody else while this node served it. Map `CLAIMS`,
/// by the number of the address.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Claims {
    /// When the daemon was last told.
    pub told_ns: u64,
    /// MAC address that claimed it last.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}

/// What is counted of packets of a service address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Count {
    /// Arrived and passed.
    PassedIn = 0,
    /// Left.
    PassedOut = 1,
    /// Stopped on arrival: this node does not hold the group.
    NotHoldingIn = 2,
    /// Stopped on the way out: this node does not hold the group.
    NotHoldingOut = 3,
    /// Stopped on arrival: the lease ran out.
    ExpiredIn = 4,
    /// Stopped on the way out: the lease ran out.
    ExpiredOut = 5,
    /// Stopped on arrival: the controller is dead.
    ControllerIn = 6,
    /// Stopped on the way out: the controller is dead.
    ControllerOut = 7,
    /// Sent on to the node it was handed to.
    Bounced = 8,
    /// Claims by others while this node served it.
    Claims = 9,
}

impl Count {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; COUNTS] = [
        Self::PassedIn,
        Self::PassedOut,
        Self::NotHoldingIn,
        Self::NotHoldingOut,
        Self::ExpiredIn,
        Self::ExpiredOut,
        Self::ControllerIn,
        Self::ControllerOut,
        Self::Bounced,
        Self::Claims,
    ];

    /// Returns the name of the counter.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PassedIn => "passed-in",
            Self::PassedOut => "passed-out",
            Self::NotHoldingIn => "not-holding-in",
            Self::NotHoldingOut => "not-holding-out",
            Self::ExpiredIn => "expired-in",
            Self::ExpiredOut => "expired-out",
            Self::ControllerIn => "controller-dead-in",
            Self::ControllerOut => "controller-dead-out",
            Self::Bounced => "bounced",
            Self::Claims => "foreign-claims",
        }
    }

    /// Returns what to count of a packet of an address whose lease is published as `expires_ns`.
    #[inline(always)]
    #[must_use]
    pub const fn of(expires_ns: u64, passes: bool, out: bool) -> Self {
        match (passes, expires_ns, out) {
            (true, _, false) => Self::PassedIn,
            (true, _, true) => Self::PassedOut,
            (false, 0, false) => Self::NotHoldingIn,
            (false, 0, true) => Self::NotHoldingOut,
            (false, crate::lease::ENDLESS, false) => Self::ControllerIn,
            (false, crate::lease::ENDLESS, true) => Self::ControllerOut,
            (false, _, false) => Self::ExpiredIn,
            (false, _, true) => Self::ExpiredOut,
        }
    }
}

/// Tells whether a packet that may not pass is to be sent on: it is a client's, not one that a node
/// sent on already.
#[inline(always)]
#[must_use]
pub fn bounces(bounce: &Bounce, ethernet: &Ethernet, interface: u32, now: u64) -> bool {
    let multicast = ethernet.destination[0] & 1 != 0;
    now < bounce.until_ns
        && bounce.interface == interface
        && !multicast
        && ethernet.source != bounce.to
        && ethernet.source != bounce.own
}

#[cfg(test)]
mod tests;
