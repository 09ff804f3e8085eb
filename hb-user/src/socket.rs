//! What the sockets of this crate share.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

/// Opens a socket that is closed on exec and never blocks.
pub(crate) fn open(domain: libc::c_int, kind: libc::c_int, protocol: u16) -> io::Result<OwnedFd> {
    let flags = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes three integers.
    let fd = unsafe { libc::socket(domain, flags, libc::c_int::from(protocol)) };
    check(fd)?;
    // SAFETY: the call succeeded, so `fd` is open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets an option to a value of the C type the option takes.
pub(crate) fn set_option<T: Copy>(
    fd: RawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is readable for `length` bytes; the kernel reads no more than that.
    check(unsafe { libc::setsockopt(fd, level, name, std::ptr::from_ref(value).cast(), length) })
}

/// Binds to an address of the C type of the socket's family.
pub(crate) fn bind<T: Copy>(fd: RawFd, address: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `address` is readable for `length` bytes.
    check(unsafe { libc::bind(fd, std::ptr::from_ref(address).cast(), length) })
}

/// Returns the address of the interface `index` for a packet socket that receives frames of the
/// protocol `ethertype`; none if that is 0.
fn link_layer(index: u32, ethertype: u16) -> io::Result<libc::sockaddr_ll> {
    let sll_ifindex = i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ethertype.to_be(),
        sll_ifindex,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    })
}

/// Turns a return value of -1 into the error it announces.
pub(crate) fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Checks that a send took all of a message.
pub(crate) fn check_sent(sent: isize, length: usize) -> io::Result<()> {
    match usize::try_from(sent) {
        Ok(sent) if sent == length => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Opens a packet socket that sends whole frames on the interface `index`, and receives nothing.
pub(crate) fn open_packet(index: u32) -> io::Result<OwnedFd> {
    open_packet_for(index, 0)
}

/// Opens one that receives the frames of the protocol `ethertype` there as well, 0 for none.
pub(crate) fn open_packet_for(index: u32, ethertype: u16) -> io::Result<OwnedFd> {
    // Until it is bound to the interface, it would receive those of every one.
    let socket = open(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    bind(socket.as_raw_fd(), &link_layer(index, ethertype)?)?;
    Ok(socket)
}

/// Returns the Ethernet address of the interface that a packet socket is bound to; `None` if that has
/// none.
///
/// # Errors
///
/// The kernel's.
pub(crate) fn ethernet_address(socket: &OwnedFd) -> io::Result<Option<[u8; 6]>> {
    let mut address = link_layer(0, 0)?;
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is writable for `length` bytes; the kernel writes no more than that.
    check(unsafe {
        libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut length)
    })?;
    let is_ethernet = address.sll_hatype == libc::ARPHRD_ETHER && address.sll_halen == 6;
    Ok(address.sll_addr.first_chunk().copied().filter(|_| is_ethernet))
}

/// Puts what the socket sends before all else that waits in a queue (`TC_PRIO_CONTROL` of
/// `linux/pkt_sched.h`; 7 asks for `CAP_NET_ADMIN`).
pub(crate) fn set_priority(socket: &OwnedFd) -> io::Result<()> {
    const CONTROL: libc::c_int = 7;
    set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PRIORITY, &CONTROL)
}
