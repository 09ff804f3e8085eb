//! Who is where: the lab's names, interfaces, MAC and IP addresses. The same in every lab, since
//! each has its own namespaces; the prefixes are those for documentation (RFC 5737, RFC 3849).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A machine of the lab, which is a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Machine {
    /// Node `a`, preferred by every group.
    A,
    /// Node `b`.
    B,
    /// Who asks the service.
    Client,
    /// Who only votes.
    Witness,
}

/// All machines, in the order they are shown in.
pub const MACHINES: [Machine; 4] = [Machine::A, Machine::B, Machine::Client, Machine::Witness];

/// The two machines that run `hb`.
pub const NODES: [Machine; 2] = [Machine::A, Machine::B];

impl Machine {
    /// Returns its name, which is the name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::Client => "client",
            Self::Witness => "w",
        }
    }

    /// Returns the last octet of its addresses, for a node and the witness its id.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::A => 1,
            Self::B => 2,
            Self::Witness => 3,
            Self::Client => 10,
        }
    }

    /// Returns the node with that id.
    #[must_use]
    pub fn node(id: u8) -> Option<Self> {
        NODES.into_iter().find(|node| node.id() == id)
    }

    /// Returns the other node; for a machine that is no node, itself.
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
            other => other,
        }
    }

    /// Returns the links it has a port on.
    #[must_use]
    pub const fn links(self) -> &'static [Link] {
        match self {
            Self::A | Self::B => &[Link::Client, Link::Direct],
            Self::Client | Self::Witness => &[Link::Client],
        }
    }

    /// Returns its address on `link`.
    #[must_use]
    pub const fn v4(self, link: Link) -> Ipv4Addr {
        match link {
            Link::Client => Ipv4Addr::new(192, 0, 2, self.id()),
            Link::Direct => Ipv4Addr::new(198, 51, 100, self.id()),
        }
    }

    /// Returns its address on the client network.
    #[must_use]
    pub const fn v6(self) -> Ipv6Addr {
        // Written as the decimal reads: the client is ::10.
        let host = if self.id() == 10 { 0x10 } else { self.id() as u16 };
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host)
    }

    /// Returns the MAC address of its interface on `link`.
    #[must_use]
    pub const fn mac(self, link: Link) -> Mac {
        Mac([0x02, 0x68, 0x62, 0, link as u8, self.id()])
    }

    /// Returns the machine that owns `mac`.
    #[must_use]
    pub fn of_mac(mac: Mac) -> Option<Self> {
        MACHINES
            .into_iter()
            .find(|machine| machine.links().iter().any(|&link| machine.mac(link) == mac))
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Machine {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        MACHINES.into_iter().find(|machine| machine.name() == name).ok_or_else(|| {
            anyhow::anyhow!("no machine {name:?} in the lab: it has a, b, client and perhaps w")
        })
    }
}

/// A network of the lab, which is a bridge in the switch's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// Where the client and the service addresses are.
    Client = 0,
    /// The cable between the nodes.
    Direct = 1,
}

/// Both networks.
pub const LINKS: [Link; 2] = [Link::Client, Link::Direct];

impl Link {
    /// Returns its name, which is the link name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Direct => "direct",
        }
    }

    /// Returns the interface on it, within a machine.
    #[must_use]
    pub const fn interface(self) -> &'static str {
        match self {
            Self::Client => "eth0",
            Self::Direct => "eth1",
        }
    }

    /// Returns its bridge, within the switch.
    #[must_use]
    pub const fn bridge(self) -> &'static str {
        match self {
            Self::Client => "br0",
            Self::Direct => "br1",
        }
    }
}

/// Service addresses that a lab may have: whoever asks and whoever watches knows them all.
pub const VIPS: [IpAddr; 2 * VIP_COUNT as usize] = {
    let mut all = [IpAddr::V4(VIP4); 2 * VIP_COUNT as usize];
    let mut number = 0;
    while number < VIP_COUNT {
        all[2 * number as usize] = IpAddr::V4(vip4(number));
        all[2 * number as usize + 1] = IpAddr::V6(vip6(number));
        number += 1;
    }
    all
};
/// How many of either family there are, a power of two.
pub const VIP_COUNT: u8 = 4;
/// The service address.
pub const VIP4: Ipv4Addr = vip4(0);
/// The service address of IPv6.
pub const VIP6: Ipv6Addr = vip6(0);

/// Returns a service address by its number, below [`VIP_COUNT`].
#[must_use]
pub const fn vip4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 100 + number)
}

/// Returns a service address of IPv6 by its number, below [`VIP_COUNT`].
#[must_use]
pub const fn vip6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100 + number as u16)
}

/// Prefix length of the client network.
pub const PREFIX4: u8 = 24;
/// Prefix length of the client network.
pub const PREFIX6: u8 = 64;
/// UDP and TCP port of the responders.
pub const SERVICE_PORT: u16 = 7777;
/// TCP port at which a responder sends on and on, unasked.
pub const STREAM_PORT: u16 = 7779;

/// Returns whether `address` is a service address.
#[must_use]
pub fn is_vip(address: IpAddr) -> bool {
    VIPS.contains(&address)
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
