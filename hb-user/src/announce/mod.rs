//! Announcements: telling the neighbours that a VIP is now here.
//!
//! The frames are built once, when a takeover is prepared; sending one is one system call and no
//! allocation. Whether a node may announce is not decided here: frames leave through the egress
//! gate like any other packet.

mod frame;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

pub use frame::{ARP_FRAME_LEN, NEIGHBOR_FRAME_LEN};
pub(crate) use frame::{arp_question, solicited_node};
use hb_ebpf::time::BootTime;

use crate::socket;

/// When announcements leave, counted from the takeover. A switch port that has just come up may forward
/// nothing for 30 s (IEEE 802.1D, twice the forward delay), or for 50 s where the tree changes as well.
pub const BURST: [Duration; 16] = [
    Duration::ZERO,
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(7),
    Duration::from_secs(11),
    Duration::from_secs(16),
    Duration::from_secs(22),
    Duration::from_secs(29),
    Duration::from_secs(37),
    Duration::from_secs(46),
    Duration::from_secs(56),
];
/// Time between announcements after the [`BURST`].
pub const REFRESH: Duration = Duration::from_secs(60);

/// The times at which a VIP is announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedule;

impl Schedule {
    /// Returns the first instant after `now` at which to announce what was taken over at
    /// `started`, or `started` itself if that is yet to come. What was missed is not made up for:
    /// a caller that comes late announces once and asks for the next instant.
    #[must_use]
    pub fn next(started: BootTime, now: BootTime) -> BootTime {
        if now < started {
            return started;
        }
        let elapsed = now.since(started);
        if let Some(step) = BURST.into_iter().find(|&step| step > elapsed) {
            return started.after(step);
        }
        let [.., last] = BURST;
        let refresh_ns = REFRESH.as_nanos() as u64;
        let since_last_ns = elapsed.saturating_sub(last).as_nanos() as u64;
        let rounds = (since_last_ns / refresh_ns).saturating_add(1);
        started.after(last + Duration::from_nanos(rounds.saturating_mul(refresh_ns)))
    }
}

/// The ready-made frames that announce one VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    place: Place,
    frames: Frames,
}

/// What an announcement says, and whom it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    ip: IpAddr,
    mac: [u8; 6],
    gateways: Gateways,
}

/// The routers that an interface sends by what is for no subnet of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gateways {
    /// Of IPv4.
    pub v4: Option<Ipv4Addr>,
    /// Of IPv6; link-local most of the time.
    pub v6: Option<Ipv6Addr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Frames {
    Arp {
        request: [u8; ARP_FRAME_LEN],
        reply: [u8; ARP_FRAME_LEN],
        question: Option<[u8; ARP_FRAME_LEN]>,
    },
    Neighbor {
        advertisement: [u8; NEIGHBOR_FRAME_LEN],
        solicitation: Option<[u8; NEIGHBOR_FRAME_LEN]>,
    },
}

impl Announcement {
    /// Builds the frames that say "`ip` is at `mac`".
    ///
    /// IPv4: an ARP request and an ARP reply, as there are neighbours that heed only one of them
    /// (RFC 5227 section 3, RFC 5944 section 4.6). IPv6: one unsolicited neighbour advertisement
    /// (RFC 4861 section 7.2.6). And for routers that heed neither, an ordinary question from `ip` for the
    /// router itself: whoever is asked learns where the answer goes to (RFC 826, "Packet Reception"; RFC 4861
    /// section 7.2.3).
    #[must_use]
    pub fn new(ip: IpAddr, mac: [u8; 6], gateways: Gateways) -> Self {
        let frames = match ip {
            IpAddr::V4(ip) => Frames::Arp {
                request: frame::arp_request(ip, mac),
                reply: frame::arp_reply(ip, mac),
                question: gateways.v4.map(|gateway| arp_question(ip, mac, gateway)),
            },
            IpAddr::V6(ip) => Frames::Neighbor {
                advertisement: frame::neighbor_advertisement(ip, mac),
                solicitation: gateways
                    .v6
                    .map(|gateway| frame::neighbor_solicitation(ip, mac, gateway)),
            },
        };
        Self { place: Place { ip, mac, gateways }, frames }
    }

    /// Returns the announcement of the same address at another MAC address.
    #[must_use]
    pub fn at(&self, mac: [u8; 6]) -> Self {
        Self::new(self.place.ip, mac, self.place.gateways)
    }

    /// Returns the same announcement, with questions for other routers.
    #[must_use]
    pub fn asking(&self, gateways: Gateways) -> Self {
        Self::new(self.place.ip, self.place.mac, gateways)
    }

    /// The frames, one to three, each to be sent as it is. On an interface without a MAC address, such as
    /// loopback, there is nobody to tell, and none.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let told = self.place.mac != [0; 6];
        let frames: [Option<&[u8]>; 3] = match &self.frames {
            Frames::Arp { request, reply, question } => {
                [Some(request), Some(reply), question.as_ref().map(<[u8; _]>::as_slice)]
            }
            Frames::Neighbor { advertisement, solicitation } => {
                [Some(advertisement), solicitation.as_ref().map(<[u8; _]>::as_slice), None]
            }
        };
        frames.into_iter().flatten().filter(move |_| told)
    }
}

/// A socket could not be opened to announce on an interface.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} to announce VIPs on interface {interface}: {}", hint(source))]
pub struct AnnounceError {
    /// Index of the interface.
    pub interface: u32,
    /// What was tried.
    pub action: &'static str,
    /// Why not.
    #[source]
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "run it with CAP_NET_RAW and CAP_NET_ADMIN",
        Some(libc::ENODEV | libc::ENXIO) => "the interface is gone, look it up again",
        Some(libc::EAFNOSUPPORT) => "the kernel has no packet sockets (CONFIG_PACKET)",
        _ => "see the kernel's log",
    }
}

/// A packet socket that sends on one interface and receives nothing.
///
/// It keeps to the ordinary transmit path, through queueing discipline and egress gate: with
/// `PACKET_QDISC_BYPASS` frames would leave past the gate.
#[derive(Debug)]
pub struct AnnounceSocket {
    socket: OwnedFd,
}

impl AnnounceSocket {
    /// Opens the socket for the interface of index `interface` in the namespace of the calling
    /// thread.
    ///
    /// # Errors
    /// [`AnnounceError`].
    pub fn open(interface: u32) -> Result<Self, AnnounceError> {
        let failed = |action| move |source| AnnounceError { interface, action, source };
        let socket = socket::open_packet(interface).map_err(failed("open a packet socket"))?;
        socket::set_priority(&socket).map_err(failed("set the priority of packets"))?;
        Ok(Self { socket })
    }

    /// Sends a whole Ethernet frame: one system call, no allocation, no waiting.
    ///
    /// # Errors
    /// The kernel's own: `ENETDOWN`, `ENXIO` (the interface is gone, open anew), `ENOBUFS`,
    /// `EAGAIN` (queue full).
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let fd = self.socket.as_raw_fd();
        // SAFETY: `frame` is readable for its length.
        let sent = unsafe { libc::send(fd, frame.as_ptr().cast(), frame.len(), 0) };
        socket::check_sent(sent, frame.len())
    }
}

#[cfg(test)]
mod tests;
