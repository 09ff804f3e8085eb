//! VIPs on interfaces, by rtnetlink. No other module names netlink.
//!
//! The fast path puts VIPs up with a [`Batch`], whose messages were laid out in advance: one
//! [`AddressSocket::execute`] sends it and reads one answer per change, without allocating.
//! Everything that asks first ([`AddressSocket::addresses`], [`AddressSocket::interfaces`],
//! [`Vip::standing`]) belongs to start-up and to the side that has time.
//!
//! A VIP is put up such that the kernel does not pick it as the source of ordinary traffic and
//! makes no route but the ones that lead to the address itself:
//! - IPv4: always `/32`, so that it is never the first address of a subnet: removing that one would
//!   remove the host's own addresses of the subnet with it. Scope `host`, which source selection
//!   passes over (`inet_select_addr` in `net/ipv4/devinet.c`) even where the VIP comes before the
//!   interface's own address. With `arp_ignore` 3 or 8 an interface does not answer for it, and with
//!   2 for no `/32` at all.
//! - IPv6: preferred lifetime 0 (deprecated, RFC 6724 rule 3), never tentative. Scope comes before
//!   that (rule 2): a machine with no other global address picks it for global destinations.

mod batch;
mod list;
mod notice;
mod queue;
mod removal;
mod route;
mod socket;

use std::net::IpAddr;

pub use batch::{Batch, BatchFull, Change, MAX_CHANGES};
pub use list::{Interface, LinkNews, Present, link_news};
pub use notice::{AddressNotices, Removals};
pub use removal::RemoveError;
pub use route::{RouteNotices, network_of};
pub use socket::{AddressError, AddressSocket, ChangeError, Done};

/// Who put an address up, as the kernel keeps it beside the address (`IFA_PROTO`, Linux 5.18).
/// Numbers below 4 are the kernel's own (`linux/if_addr.h`).
pub const PROTOCOL: u8 = 0x68;

/// A VIP with its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vip {
    interface: u32,
    ip: IpAddr,
    prefix: u8,
}

/// Why something is no [`Vip`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVip {
    /// The prefix is zero or longer than the address.
    #[error("prefix {prefix} does not fit {ip}: use 1 to {longest}, best {longest}")]
    Prefix {
        /// The address.
        ip: IpAddr,
        /// The prefix asked for, in bits.
        prefix: u8,
        /// Bits of the address.
        longest: u8,
    },
    /// Not an address that one host can own on a network.
    #[error("{ip} cannot be a VIP: use a unicast address that is neither unspecified nor loopback")]
    NotUnicast {
        /// The address.
        ip: IpAddr,
    },
    /// Interfaces are numbered from 1.
    #[error("interface index {interface} of VIP {ip} does not exist: look it up by its name")]
    Interface {
        /// The address.
        ip: IpAddr,
        /// The index asked for.
        interface: u32,
    },
}

impl Vip {
    /// Takes the VIP `ip`, whose subnet has a prefix of `prefix` bits, on the interface of index
    /// `interface`. An IPv4 one is put up as `/32`, whatever its subnet.
    ///
    /// # Errors
    /// [`InvalidVip`] where the kernel would refuse it or it could not serve.
    pub fn new(interface: u32, ip: IpAddr, prefix: u8) -> Result<Self, InvalidVip> {
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        if prefix == 0 || prefix > longest {
            return Err(InvalidVip::Prefix { ip, prefix, longest });
        }
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        let mapped = matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || broadcast || mapped {
            return Err(InvalidVip::NotUnicast { ip });
        }
        if interface == 0 || i32::try_from(interface).is_err() {
            return Err(InvalidVip::Interface { ip, interface });
        }
        let prefix = if ip.is_ipv4() { longest } else { prefix };
        Ok(Self { interface, ip, prefix })
    }

    /// Returns the same address on the interface of another index.
    #[must_use]
    pub const fn on(self, interface: u32) -> Self {
        Self { interface, ..self }
    }

    /// Takes an address that is there, in its place and as it is.
    pub(super) fn found(present: &Present) -> Self {
        let Present { interface, ip, prefix, .. } = *present;
        Self { interface, ip, prefix }
    }

    /// Index of the interface.
    #[must_use]
    pub fn interface(&self) -> u32 {
        self.interface
    }

    /// The address.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Prefix length in bits that it is put up with.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Tells whether `present` is this one, as it is put up. Of an IPv6 address there is never a
    /// second one on an interface, whatever its prefix.
    #[must_use]
    pub fn is(&self, present: &Present) -> bool {
        let alike = self.ip.is_ipv6() || present.prefix == self.prefix;
        alike && (present.ip, present.interface) == (self.ip, self.interface)
    }

    /// Tells how this VIP stands among all addresses of the namespace, `present`.
    ///
    /// The kernel takes an address twice (on two interfaces, or for IPv4 with two prefixes), so
    /// this is asked before a node may serve; a takeover does not ask again.
    ///
    /// # Errors
    /// [`Conflict`] if putting it up would make it a second one.
    pub fn standing(&self, present: &[Present]) -> Result<Standing, Conflict> {
        let mut standing = Standing::Absent;
        for other in present.iter().filter(|other| other.ip == self.ip) {
            let Present { interface, prefix, protocol, .. } = *other;
            if interface != self.interface {
                return Err(Conflict::OtherInterface { vip: *self, interface, prefix });
            }
            if protocol != Some(PROTOCOL) {
                return Ok(Standing::Foreign { prefix, protocol });
            }
            if prefix != self.prefix {
                return Err(Conflict::OtherPrefix { vip: *self, prefix });
            }
            standing = Standing::Ours;
        }
        Ok(standing)
    }
}

impl std::fmt::Display for Vip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} on interface {}", self.ip, self.prefix, self.interface)
    }
}

/// How a VIP stands on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nowhere.
    Absent,
    /// In its place, put up by `hb`.
    Ours,
    /// On its interface, put up by something else or by a kernel too old to tell; [`Change::Adopt`]
    /// makes it ours if its prefix is the same, and it has to leave the operating system's network
    /// configuration.
    Foreign {
        /// Its prefix there, in bits.
        prefix: u8,
        /// The mark of who did, if the kernel has one.
        protocol: Option<u8>,
    },
}

/// Why a VIP cannot go where it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// It is on another interface.
    #[error(
        "VIP {vip} is already on interface {interface} as /{prefix}: remove it there, or configure \
         that interface"
    )]
    OtherInterface {
        /// The VIP wanted.
        vip: Vip,
        /// Index of the interface it is on.
        interface: u32,
        /// Its prefix there, in bits.
        prefix: u8,
    },
    /// An earlier file or version put it up on the interface with another prefix.
    #[error("VIP {vip} is still there as /{prefix}: remove that one")]
    OtherPrefix {
        /// The VIP wanted.
        vip: Vip,
        /// The prefix it has, in bits.
        prefix: u8,
    },
}

#[cfg(test)]
mod mutated;
#[cfg(test)]
mod tests;
