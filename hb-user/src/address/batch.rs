//! Changes of VIPs as ready-made bytes.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{
        AddressAttribute, AddressFlags, AddressHeader, AddressHeaderFlags, AddressMessage,
        AddressProtocol, AddressScope, CacheInfo,
    },
};

use super::{PROTOCOL, Vip};

/// Changes of one [`Batch`]: their answers have to fit the receive buffer of a socket, which
/// holds 212,992 bytes where nobody changed `net.core.rmem_default`, at under 1 KiB each.
pub const MAX_CHANGES: usize = 128;

/// What to do with a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Put it up; one that is there stays as it is.
    Add,
    /// Put it up; one that is there gets our mark and, for IPv6, our flags and lifetimes.
    Adopt,
    /// Take it down.
    Remove,
}

impl Change {
    /// Returns the change in words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Adopt => "adopt",
            Self::Remove => "remove",
        }
    }
}

/// A batch holds [`MAX_CHANGES`] already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for VIP {vip}: a batch holds {MAX_CHANGES} changes, make a second one")]
pub struct BatchFull {
    /// The VIP that did not fit.
    pub vip: Vip,
}

/// Changes that leave in one system call, in order, each tried whatever became of the others.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    changes: Vec<(Change, Vip)>,
}

impl Batch {
    /// Returns a batch without changes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a change.
    ///
    /// # Errors
    /// [`BatchFull`] after [`MAX_CHANGES`].
    pub fn push(&mut self, change: Change, vip: Vip) -> Result<(), BatchFull> {
        if self.changes.len() == MAX_CHANGES {
            return Err(BatchFull { vip });
        }
        // The answer to a message carries its number: the position in the batch, from 1, since
        // the kernel uses 0 for what nobody asked for.
        let sequence = self.changes.len() as u32 + 1;
        let mut message = request(change, vip, sequence);
        message.finalize();
        let start = self.bytes.len();
        // Messages start at multiples of four bytes (netlink(7), `NLMSG_ALIGN`).
        self.bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut self.bytes[start..]);
        self.changes.push((change, vip));
        Ok(())
    }

    /// The changes in order.
    #[must_use]
    pub fn changes(&self) -> &[(Change, Vip)] {
        &self.changes
    }

    /// The messages, ready to send.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn request(change: Change, vip: Vip, sequence: u32) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.sequence_number = sequence;
    header.flags = NLM_F_REQUEST
        | NLM_F_ACK
        | match change {
            Change::Add => NLM_F_CREATE | NLM_F_EXCL,
            Change::Adopt => NLM_F_CREATE | NLM_F_REPLACE,
            Change::Remove => 0,
        };
    let message = address(change, vip);
    let message = match change {
        Change::Add | Change::Adopt => RouteNetlinkMessage::NewAddress(message),
        Change::Remove => RouteNetlinkMessage::DelAddress(message),
    };
    NetlinkMessage::new(header, NetlinkPayload::from(message))
}

fn address(change: Change, vip: Vip) -> AddressMessage {
    // The kernel takes no secondary whose scope differs from that of the address it follows. No VIP
    // is one; what an earlier version put up may be, and goes as it is.
    let host_scope = vip.ip.is_ipv4() && vip.prefix == 32;
    let mut header = AddressHeader {
        family: if vip.ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 },
        prefix_len: vip.prefix,
        flags: AddressHeaderFlags::empty(),
        scope: if host_scope { AddressScope::Host } else { AddressScope::Universe },
        index: vip.interface,
    };

    let mut attributes = vec![AddressAttribute::Local(vip.ip), AddressAttribute::Address(vip.ip)];
    if change != Change::Remove {
        let mut flags = AddressFlags::Noprefixroute;
        if vip.ip.is_ipv6() {
            flags |= AddressFlags::Nodad;
            header.flags = AddressHeaderFlags::Nodad;
            let mut lifetimes = CacheInfo::default();
            lifetimes.ifa_preferred = 0;
            lifetimes.ifa_valid = u32::MAX;
            attributes.push(AddressAttribute::CacheInfo(lifetimes));
        }
        attributes.push(AddressAttribute::Flags(flags));
        attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
    }
    let mut message = AddressMessage::default();
    message.header = header;
    message.attributes = attributes;
    message
}
