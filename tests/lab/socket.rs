//! Datagram sockets with what the standard library leaves out: the kernel's time of arrival, and
//! the address a datagram was sent to.

use std::{
    ffi::CString,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use hb_ebpf::time::BootTime;

use crate::clock::RealTime;

/// A datagram or packet socket that never blocks.
#[derive(Debug)]
pub struct Socket {
    handle: OwnedFd,
}

/// What came with a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Bytes in the caller's buffer.
    pub length: usize,
    /// When the kernel took it from the interface, if the socket asks for that.
    pub at: Option<BootTime>,
    /// Who sent it; `None` on a packet socket.
    pub from: Option<SocketAddr>,
    /// Which of this machine's addresses it was sent to, if the socket asks for that.
    pub to: Option<IpAddr>,
}

/// `PACKET_IGNORE_OUTGOING` of `linux/if_packet.h`, Linux 4.20.
const PACKET_IGNORE_OUTGOING: i32 = 23;

/// Room for the control messages asked for here, aligned as they have to be.
#[repr(C, align(8))]
struct Control([u8; 256]);

impl Socket {
    /// Opens a UDP socket of the address's family, bound to `local`.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn udp(local: SocketAddr) -> io::Result<Self> {
        let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let socket = Self::open(family, libc::SOCK_DGRAM, 0)?;
        if local.is_ipv6() {
            socket.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
        }
        socket.bind(local)?;
        Ok(socket)
    }

    /// Opens a UDP socket bound to `local`, which need not be an address of this machine yet,
    /// beside others of the same port that are opened by this call too.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn udp_beside(local: SocketAddr) -> io::Result<Self> {
        let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let socket = Self::open(family, libc::SOCK_DGRAM, 0)?;
        socket.set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        if local.is_ipv4() {
            socket.set(libc::IPPROTO_IP, libc::IP_FREEBIND, 1)?;
        } else {
            socket.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
            socket.set(libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, 1)?;
        }
        socket.bind(local)?;
        Ok(socket)
    }

    /// Opens a packet socket that sees all frames of `ethertype` on all interfaces of the
    /// namespace.
    ///
    /// # Errors
    ///
    /// If the kernel refuses: no `CAP_NET_RAW`.
    pub fn packet(ethertype: u16) -> io::Result<Self> {
        Self::open(libc::AF_PACKET, libc::SOCK_RAW, i32::from(ethertype.to_be()))
    }

    /// Opens a packet socket that sees all frames that come in at one interface of the namespace
    /// the calling thread is in, before a bridge takes them.
    ///
    /// # Errors
    ///
    /// If there is no such interface, or the kernel refuses: no `CAP_NET_RAW`.
    pub fn packet_on(interface: &str) -> io::Result<Self> {
        // Of protocol 0 it sees nothing yet, so no frame of another interface gets in.
        let socket = Self::packet(0)?;
        socket.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        // SAFETY: all-zero is a valid `sockaddr_ll`.
        let mut name: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        name.sll_family = libc::AF_PACKET as u16;
        name.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        name.sll_ifindex = interface_index(interface)? as i32;
        let length = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: `name` holds an address of `length` bytes.
        check(unsafe { libc::bind(socket.raw(), (&raw const name).cast(), length) })?;
        Ok(socket)
    }

    /// Has the kernel keep only what `program` (a classic BPF program) returns nonzero for.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the program.
    pub fn filter(&self, program: &[libc::sock_filter]) -> io::Result<()> {
        let program =
            libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
        // SAFETY: the option's value names instructions that outlive the call, which copies them.
        check(unsafe {
            libc::setsockopt(
                self.raw(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size_of::<libc::sock_fprog>() as u32,
            )
        })
        .map(drop)
    }

    /// Returns how many frames a packet socket had no room for since the last call.
    ///
    /// # Errors
    ///
    /// If the kernel refuses: this is no packet socket.
    pub fn lost(&self) -> io::Result<u32> {
        let mut figures = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of::<libc::tpacket_stats>() as u32;
        // SAFETY: `figures` is as long as said and valid for the call.
        check(unsafe {
            libc::getsockopt(
                self.raw(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut figures).cast(),
                &raw mut length,
            )
        })?;
        Ok(figures.tp_drops)
    }

    /// Asks for the time of arrival and for a receive buffer of `bytes`.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn keep_times(&self, bytes: i32) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        self.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
            .or_else(|_| self.set(libc::SOL_SOCKET, libc::SO_RCVBUF, bytes))
    }

    /// Asks for the address each datagram was sent to.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn keep_destinations(&self, v4: bool) -> io::Result<()> {
        if v4 {
            self.set(libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
        } else {
            self.set(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
        }
    }

    /// Returns the descriptor, to be polled.
    #[must_use]
    pub fn raw(&self) -> RawFd {
        self.handle.as_raw_fd()
    }

    /// Sends a datagram.
    ///
    /// # Errors
    ///
    /// Whatever `sendto` says.
    pub fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        let (name, length) = to_name(to);
        // SAFETY: `bytes` and `name` are valid for the lengths given.
        let sent = unsafe {
            libc::sendto(
                self.raw(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                (&raw const name).cast(),
                length,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends a datagram from `source`, an address of this machine.
    ///
    /// # Errors
    ///
    /// Whatever `sendmsg` says; `EINVAL` or `EADDRNOTAVAIL` where the address has left.
    pub fn send_from(&self, bytes: &[u8], source: IpAddr, to: SocketAddr) -> io::Result<()> {
        let (mut name, length) = to_name(to);
        let mut part =
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut control = Control([0; 256]);
        // SAFETY: all-zero is a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = length;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        // SAFETY: the control buffer has room for one message of either kind, so the first header
        // lies in it, and is aligned; the data behind it may not be, hence unaligned writes.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            let size = match source {
                IpAddr::V4(source) => {
                    (*header).cmsg_level = libc::IPPROTO_IP;
                    (*header).cmsg_type = libc::IP_PKTINFO;
                    libc::CMSG_DATA(header).cast::<libc::in_pktinfo>().write_unaligned(
                        libc::in_pktinfo {
                            ipi_ifindex: 0,
                            ipi_spec_dst: in_addr(source),
                            ipi_addr: libc::in_addr { s_addr: 0 },
                        },
                    );
                    size_of::<libc::in_pktinfo>()
                }
                IpAddr::V6(source) => {
                    (*header).cmsg_level = libc::IPPROTO_IPV6;
                    (*header).cmsg_type = libc::IPV6_PKTINFO;
                    libc::CMSG_DATA(header).cast::<libc::in6_pktinfo>().write_unaligned(
                        libc::in6_pktinfo {
                            ipi6_addr: libc::in6_addr { s6_addr: source.octets() },
                            ipi6_ifindex: 0,
                        },
                    );
                    size_of::<libc::in6_pktinfo>()
                }
            };
            (*header).cmsg_len = libc::CMSG_LEN(size as u32) as usize;
            message.msg_controllen = libc::CMSG_SPACE(size as u32) as usize;
        }
        // SAFETY: every pointer in `message` is to a local that lives until the call returns.
        let sent = unsafe {
            libc::sendmsg(self.raw(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends a whole Ethernet frame from a packet socket through `interface` of the namespace the
    /// calling thread is in.
    ///
    /// # Errors
    ///
    /// If there is no such interface, or whatever `sendto` says.
    pub fn send_frame(&self, interface: &str, frame: &[u8]) -> io::Result<()> {
        self.send_frame_to(interface_index(interface)?, frame)
    }

    /// Sends a whole Ethernet frame from a packet socket through the interface of that index.
    ///
    /// # Errors
    ///
    /// Whatever `sendto` says.
    pub fn send_frame_to(&self, index: u32, frame: &[u8]) -> io::Result<()> {
        // SAFETY: all-zero is a valid `sockaddr_ll`.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = index as i32;
        // SAFETY: `frame` and `to` are valid for the lengths given.
        let sent = unsafe {
            libc::sendto(
                self.raw(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Takes the next datagram, or `None` when there is none now.
    ///
    /// # Errors
    ///
    /// Whatever `recvmsg` says.
    pub fn receive(&self, buffer: &mut [u8], clock: RealTime) -> io::Result<Option<Received>> {
        // SAFETY: all-zero is a valid `sockaddr_storage`.
        let mut name: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut control = Control([0; 256]);
        // SAFETY: all-zero is a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = size_of::<libc::sockaddr_storage>() as u32;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        // SAFETY: every pointer in `message` is to a local that lives until the call returns.
        let length = unsafe { libc::recvmsg(self.raw(), &raw mut message, libc::MSG_DONTWAIT) };
        if length < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            };
        }
        let mut received =
            Received { length: length as usize, at: None, from: from_name(&name), to: None };
        // SAFETY: the kernel filled the control buffer and set its length; the macros stay within
        // it, and data is read unaligned with the type that level and kind imply.
        unsafe {
            let mut header = libc::CMSG_FIRSTHDR(&raw const message);
            while !header.is_null() {
                let data = libc::CMSG_DATA(header);
                match ((*header).cmsg_level, (*header).cmsg_type) {
                    (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                        let stamp = data.cast::<libc::timespec>().read_unaligned();
                        received.at = Some(clock.boot_time(stamp));
                    }
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                        let octets = info.ipi_addr.s_addr.to_ne_bytes();
                        received.to = Some(Ipv4Addr::from(octets).into());
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                        received.to = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                    }
                    _ => {}
                }
                header = libc::CMSG_NXTHDR(&raw const message, header);
            }
        }
        Ok(Some(received))
    }

    fn open(family: i32, kind: i32, protocol: i32) -> io::Result<Self> {
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: the call takes no memory.
        let handle = check(unsafe { libc::socket(family, kind | flags, protocol) })?;
        // SAFETY: the descriptor is fresh and nobody else's.
        Ok(Self { handle: unsafe { OwnedFd::from_raw_fd(handle) } })
    }

    fn bind(&self, local: SocketAddr) -> io::Result<()> {
        let (name, length) = to_name(local);
        // SAFETY: `name` holds an address of `length` bytes.
        check(unsafe { libc::bind(self.raw(), (&raw const name).cast(), length) }).map(drop)
    }

    fn set(&self, level: i32, option: i32, value: i32) -> io::Result<()> {
        // SAFETY: the option's value is an `int`, valid for the call.
        check(unsafe {
            libc::setsockopt(
                self.raw(),
                level,
                option,
                (&raw const value).cast(),
                size_of::<i32>() as u32,
            )
        })?;
        Ok(())
    }
}

/// Takes TCP connections at an address, and at one of no more than its own family.
///
/// # Errors
///
/// If the kernel refuses.
pub fn tcp_listener(local: SocketAddr) -> io::Result<TcpListener> {
    let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let socket = Socket::open(family, libc::SOCK_STREAM, 0)?;
    socket.set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if local.is_ipv6() {
        socket.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    socket.bind(local)?;
    // SAFETY: the call takes a descriptor that is open, and no memory.
    check(unsafe { libc::listen(socket.raw(), 64) })?;
    Ok(socket.handle.into())
}

/// Returns the index of an interface of the namespace the calling thread is in.
///
/// # Errors
///
/// If there is none of that name.
pub fn interface_index(interface: &str) -> io::Result<u32> {
    let name = CString::new(interface)?;
    // SAFETY: the string ends in zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn in_addr(address: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) }
}

/// Returns `address` as the kernel wants it, and its length.
fn to_name(address: SocketAddr) -> (libc::sockaddr_storage, u32) {
    // SAFETY: all-zero is a valid `sockaddr_storage`.
    let mut name: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let place = &raw mut name;
    // SAFETY: a `sockaddr_storage` is large enough and aligned for either kind of address.
    let length = unsafe {
        match address {
            SocketAddr::V4(v4) => {
                place.cast::<libc::sockaddr_in>().write(libc::sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: v4.port().to_be(),
                    sin_addr: in_addr(*v4.ip()),
                    sin_zero: [0; 8],
                });
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                place.cast::<libc::sockaddr_in6>().write(libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                });
                size_of::<libc::sockaddr_in6>()
            }
        }
    };
    (name, length as u32)
}

fn from_name(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let place = &raw const *name;
    // SAFETY: the family says which address the kernel wrote, and the storage is aligned for it.
    unsafe {
        match i32::from(name.ss_family) {
            libc::AF_INET => {
                let v4 = place.cast::<libc::sockaddr_in>().read();
                let address = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(address, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                let v6 = place.cast::<libc::sockaddr_in6>().read();
                let address = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddrV6::new(address, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}
