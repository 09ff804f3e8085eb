//! The sockets heartbeats leave by.
//!
//! Nobody reads them: what a peer sends is taken off the wire by XDP, and whatever XDP passes on
//! is dropped at the socket, instead of drawing an ICMP error.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
};

use hb_ebpf::{
    maps::{Path, Transport},
    wire::{ETHERTYPE, FRAME_LEN, UDP_PORT},
};

use crate::{
    config::{self, HostView, LinkAddress, Unready},
    socket,
};

/// The one TTL or hop limit a heartbeat leaves with, so that a receiver can tell that no router
/// lies between (RFC 5082).
const HOPS: libc::c_int = 255;

/// The two ends of a link, on one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ends {
    /// Raw Ethernet frames.
    Ethernet {
        /// MAC address of the interface here.
        own: [u8; 6],
        /// MAC address of the peer.
        peer: [u8; 6],
    },
    /// UDP over IPv4.
    Udp4 {
        /// Address here.
        own: Ipv4Addr,
        /// Address of the peer.
        peer: Ipv4Addr,
    },
    /// UDP over IPv6; link-local addresses are those of the link's interface.
    Udp6 {
        /// Address here.
        own: Ipv6Addr,
        /// Address of the peer.
        peer: Ipv6Addr,
    },
}

impl Ends {
    /// How frames travel between them.
    #[must_use]
    pub fn transport(&self) -> Transport {
        match self {
            Self::Ethernet { .. } => Transport::Ethernet,
            Self::Udp4 { .. } => Transport::Udp4,
            Self::Udp6 { .. } => Transport::Udp6,
        }
    }

    /// Returns which link it is, as frames say it, never 0. Both ends say the same.
    #[must_use]
    pub fn fingerprint(&self) -> u32 {
        let [own, peer] = match *self {
            Self::Ethernet { own, peer } => [LinkAddress::Mac(own), LinkAddress::Mac(peer)],
            Self::Udp4 { own, peer } => [LinkAddress::Ip(own.into()), LinkAddress::Ip(peer.into())],
            Self::Udp6 { own, peer } => [LinkAddress::Ip(own.into()), LinkAddress::Ip(peer.into())],
        };
        config::link_fingerprint(own, peer)
    }

    /// Returns where frames of the peer have to come from, and to: `interface` is the index of this end's
    /// interface, `mac` the address that IP packets come to there, `None` if that may be any but one of a
    /// group, and `min_hops` the least TTL or hop limit taken.
    #[must_use]
    pub fn path(&self, interface: u32, mac: Option<[u8; 6]>, min_hops: u8) -> Path {
        let four = |ip: Ipv4Addr| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            bytes
        };
        let path = Path {
            interface,
            transport: self.transport() as u8,
            min_hops,
            own_mac: mac.unwrap_or_default(),
            fingerprint: self.fingerprint(),
            ..Path::default()
        };
        match *self {
            Self::Ethernet { own, peer } => Path { mac: peer, own_mac: own, ..path },
            Self::Udp4 { own, peer } => {
                Path { address: four(peer), own_address: four(own), ..path }
            }
            Self::Udp6 { own, peer } => {
                Path { address: peer.octets(), own_address: own.octets(), ..path }
            }
        }
    }
}

impl std::fmt::Display for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ethernet { own, peer } => write!(f, "{} to {}", Mac(own), Mac(peer)),
            Self::Udp4 { own, peer } => write!(f, "{own} to {peer}"),
            Self::Udp6 { own, peer } => write!(f, "{own} to {peer}"),
        }
    }
}

struct Mac<'a>(&'a [u8; 6]);

impl std::fmt::Display for Mac<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A socket for a link could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} for the link {ends} on interface {interface}: {}", hint(source))]
pub struct LinkError {
    /// The link.
    pub ends: Ends,
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
        Some(libc::EACCES) => "run it with CAP_NET_BIND_SERVICE, as ports below 1024 are guarded",
        Some(libc::EADDRNOTAVAIL) => {
            "the interface does not have the own address of this link, or (IPv6) is still checking \
             whether another machine uses it"
        }
        Some(libc::EADDRINUSE) => "another program uses UDP port 694 here: stop it",
        Some(libc::ENODEV | libc::ENXIO) => "the interface is gone, look it up again",
        Some(libc::EAFNOSUPPORT) => "the kernel lacks this address family",
        _ => "see the kernel's log",
    }
}

/// A socket that sends frames to one peer over one link.
#[derive(Debug)]
pub struct LinkSocket {
    socket: OwnedFd,
    destination: Destination,
}

#[derive(Debug)]
enum Destination {
    Ethernet { header: [u8; 14] },
    Udp4(libc::sockaddr_in),
    Udp6(libc::sockaddr_in6),
}

impl LinkSocket {
    /// Opens the socket on the interface of index `interface`, in the namespace of the calling
    /// thread.
    ///
    /// # Errors
    /// [`LinkError`], with what to do.
    pub fn open(interface: u32, ends: Ends) -> Result<Self, LinkError> {
        let failed = |action| move |source| LinkError { ends, interface, action, source };
        match ends {
            Ends::Ethernet { own, peer } => {
                let socket =
                    socket::open_packet(interface).map_err(failed("open a packet socket"))?;
                socket::set_priority(&socket).map_err(failed("set the priority of packets"))?;
                let destination = Destination::Ethernet { header: ethernet_header(own, peer) };
                Ok(Self { socket, destination })
            }
            Ends::Udp4 { own, peer } => {
                let socket = open_udp(libc::AF_INET, interface)
                    .map_err(|(action, source)| failed(action)(source))?;
                // Heartbeats are never fragmented, and a forged "fragmentation needed" changes
                // nothing: the path's MTU is not heeded.
                let never_fragment = libc::IP_PMTUDISC_PROBE;
                for (action, name, value) in [
                    ("set the TTL", libc::IP_TTL, HOPS),
                    ("forbid fragments", libc::IP_MTU_DISCOVER, never_fragment),
                ] {
                    socket::set_option(socket.as_raw_fd(), libc::IPPROTO_IP, name, &value)
                        .map_err(failed(action))?;
                }
                socket::bind(socket.as_raw_fd(), &address4(own))
                    .map_err(failed("bind UDP port 694"))?;
                Ok(Self { socket, destination: Destination::Udp4(address4(peer)) })
            }
            Ends::Udp6 { own, peer } => {
                let socket = open_udp(libc::AF_INET6, interface)
                    .map_err(|(action, source)| failed(action)(source))?;
                let never_fragment = libc::IPV6_PMTUDISC_PROBE;
                for (action, name, value) in [
                    ("keep to IPv6", libc::IPV6_V6ONLY, 1),
                    ("set the hop limit", libc::IPV6_UNICAST_HOPS, HOPS),
                    ("forbid fragments", libc::IPV6_MTU_DISCOVER, never_fragment),
                ] {
                    socket::set_option(socket.as_raw_fd(), libc::IPPROTO_IPV6, name, &value)
                        .map_err(failed(action))?;
                }
                bind6(&socket, own, interface).map_err(failed("bind UDP port 694"))?;
                Ok(Self { socket, destination: Destination::Udp6(address6(peer, interface)) })
            }
        }
    }

    /// Sends one frame: one system call, no allocation, no waiting.
    ///
    /// # Errors
    /// The kernel's own, to be counted: `EAGAIN` and `ENOBUFS` (queue full), `ENETDOWN`,
    /// `ENETUNREACH`, `EHOSTUNREACH` (no route), `EMSGSIZE` (MTU too small), `ENXIO` and `ENODEV`
    /// (the interface is gone, open anew).
    pub fn send(&self, frame: &[u8; FRAME_LEN]) -> io::Result<()> {
        match &self.destination {
            Destination::Ethernet { header } => self.send_parts(header, frame),
            Destination::Udp4(address) => self.send_to(address, frame),
            Destination::Udp6(address) => self.send_to(address, frame),
        }
    }

    /// The socket is not connected: a connected one hands the next sender any ICMP error that
    /// arrived meanwhile, instead of sending, and anyone can forge those.
    fn send_to<T: Copy>(&self, address: &T, frame: &[u8; FRAME_LEN]) -> io::Result<()> {
        let length = size_of::<T>() as libc::socklen_t;
        let address = std::ptr::from_ref(address).cast();
        let fd = self.socket.as_raw_fd();
        // SAFETY: `frame` is readable for its length and `address`, a socket address of the
        // socket's family, for its own.
        let sent =
            unsafe { libc::sendto(fd, frame.as_ptr().cast(), frame.len(), 0, address, length) };
        socket::check_sent(sent, frame.len())
    }

    fn send_parts(&self, header: &[u8; 14], frame: &[u8; FRAME_LEN]) -> io::Result<()> {
        let part = |bytes: &[u8]| libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        let mut parts = [part(header), part(frame)];
        // SAFETY: all zero is a valid `msghdr`: no address, no parts, no control data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = parts.as_mut_ptr();
        message.msg_iovlen = parts.len() as _;
        // SAFETY: `message` names two parts, each readable for its length; sending writes to none.
        let sent = unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const message, 0) };
        socket::check_sent(sent, header.len() + frame.len())
    }
}

fn open_udp(family: libc::c_int, interface: u32) -> Result<OwnedFd, (&'static str, io::Error)> {
    let socket = socket::open(family, libc::SOCK_DGRAM, 0).map_err(|e| ("open a UDP socket", e))?;
    let fd = socket.as_raw_fd();
    // First, so that nothing is ever queued.
    drop_all_received(fd).map_err(|e| ("refuse to receive", e))?;
    let index = libc::c_int::try_from(interface)
        .map_err(|_| ("bind to the interface", io::Error::from_raw_os_error(libc::ENODEV)))?;
    for (action, name, value) in [
        ("bind to the interface", libc::SO_BINDTOIFINDEX, index),
        // Links to several peers share one own address and port.
        ("share the port", libc::SO_REUSEADDR, 1),
    ] {
        socket::set_option(fd, libc::SOL_SOCKET, name, &value).map_err(|e| (action, e))?;
    }
    socket::set_priority(&socket).map_err(|e| ("set the priority of packets", e))?;
    Ok(socket)
}

/// Binds to an address of the interface, also to one that the kernel still asks other machines for: on an
/// interface without a carrier it asks for ever, and the other links must not wait for that.
fn bind6(socket: &OwnedFd, own: Ipv6Addr, interface: u32) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    match socket::bind(fd, &address6(own, interface)) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {
            let host = HostView::read()?;
            let here = host.interfaces.iter().filter(|found| found.index == interface);
            let mut unready = here.flat_map(|found| &found.unready);
            if !unready.any(|(address, why)| *address == own && *why == Unready::Tentative) {
                return Err(error);
            }
            socket::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, &1_i32)?;
            socket::bind(fd, &address6(own, interface))
        }
        bound => bound,
    }
}

/// Attaches the classic BPF program `ret #0`: keep no byte of any datagram.
fn drop_all_received(fd: libc::c_int) -> io::Result<()> {
    let mut program =
        [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    socket::set_option(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}

fn ethernet_header(own: [u8; 6], peer: [u8; 6]) -> [u8; 14] {
    let mut header = [0; 14];
    header[..6].copy_from_slice(&peer);
    header[6..12].copy_from_slice(&own);
    header[12..].copy_from_slice(&ETHERTYPE.to_be_bytes());
    header
}

fn address4(ip: Ipv4Addr) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: UDP_PORT.to_be(),
        sin_addr: libc::in_addr { s_addr: ip.to_bits().to_be() },
        sin_zero: [0; 8],
    }
}

fn address6(ip: Ipv6Addr, interface: u32) -> libc::sockaddr_in6 {
    libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as libc::sa_family_t,
        sin6_port: UDP_PORT.to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: ip.octets() },
        // The kernel reads it for link-local addresses only.
        sin6_scope_id: interface,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_frame_names_receiver_sender_and_type() {
        let header = ethernet_header([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9]);
        assert_eq!(header, [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    }

    #[test]
    fn a_failure_names_link_interface_and_remedy() {
        let ends = Ends::Udp4 { own: [10, 0, 0, 1].into(), peer: [10, 0, 0, 2].into() };
        let source = io::Error::from_raw_os_error(libc::EADDRINUSE);
        let error = LinkError { ends, interface: 4, action: "bind UDP port 694", source };
        assert_eq!(
            error.to_string(),
            "cannot bind UDP port 694 for the link 10.0.0.1 to 10.0.0.2 on interface 4: another \
             program uses UDP port 694 here: stop it"
        );
    }
}
