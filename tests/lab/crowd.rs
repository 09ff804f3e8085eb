//! Many connections to a service address, at little cost: nobody accepts them, and the client forgets
//! its end without a word, as one whose power was cut.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};

use crate::netns::Netns;

/// Connections of one listener: each has a port of the client's of its own.
const EACH: u32 = 40_000;
const FIRST_PORT: u16 = 20_000;

/// The server's ends, in the queues of listeners. They end with it.
#[derive(Debug)]
pub struct Crowd(#[expect(dead_code, reason = "they keep the connections")] Vec<TcpListener>);

impl Crowd {
    /// Opens `count` connections from `own`, an address of `client`, to `vip`, which leads to `server`;
    /// the listeners have ports from `port` on.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn gather(
        server: &Netns,
        client: &Netns,
        (own, vip): (IpAddr, IpAddr),
        port: u16,
        count: u32,
    ) -> Result<Self> {
        for queue in ["core/somaxconn", "ipv4/tcp_max_syn_backlog"] {
            server.sysctl(queue, &(EACH + 1).to_string())?;
        }
        let any: IpAddr =
            if vip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let mut listeners = Vec::new();
        let mut left = count;
        while left > 0 {
            let some = left.min(EACH);
            let port = port + listeners.len() as u16;
            listeners.push(server.enter(|| listen((any, port).into()))?.context("cannot listen")?);
            client
                .enter(|| {
                    for number in 0..some as u16 {
                        forget(&connect((own, FIRST_PORT + number).into(), (vip, port).into())?)?;
                    }
                    Ok::<_, io::Error>(())
                })?
                .with_context(|| format!("cannot connect to {vip}"))?;
            left -= some;
        }
        Ok(Self(listeners))
    }
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(at)?;
    // SAFETY: plain system call on a descriptor that is open: the queue gets longer.
    done(unsafe { libc::listen(listener.as_raw_fd(), EACH as libc::c_int + 1) })?;
    Ok(listener)
}

fn connect(from: SocketAddr, to: SocketAddr) -> io::Result<OwnedFd> {
    let family = if from.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: plain system call.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    done(fd)?;
    // SAFETY: the descriptor was just made and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    with(from, |address, length| {
        // SAFETY: the address outlives the call, and its length is given.
        unsafe { libc::bind(fd, address, length) }
    })?;
    with(to, |address, length| {
        // SAFETY: as above.
        unsafe { libc::connect(fd, address, length) }
    })?;
    Ok(socket)
}

/// Has the end of a connection go without a word to the other one when it is closed.
fn forget(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    let (level, name) = (libc::SOL_TCP, libc::TCP_REPAIR);
    // SAFETY: the option is an integer, which outlives the call.
    done(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const on).cast(), length)
    })
}

/// Calls with `at` as the kernel wants it.
fn with(
    at: SocketAddr,
    call: impl Fn(*const libc::sockaddr, libc::socklen_t) -> libc::c_int,
) -> io::Result<()> {
    done(match at {
        SocketAddr::V4(v4) => {
            let address = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            call((&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
        }
        SocketAddr::V6(v6) => {
            let address = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: 0,
            };
            call((&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
        }
    })
}

fn done(code: libc::c_int) -> io::Result<()> {
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
