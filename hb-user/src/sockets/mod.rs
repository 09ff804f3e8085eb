//! The end of what clients had open at a service address that this node no longer serves.
//!
//! Work that was accepted in epoch e must not answer in e+2, when this node holds the group again.
//! So, before it may, three things are done, in this order, after the gate closed:
//!
//! 1. The address is removed.
//! 2. [`Sweeper::destroy`] destroys every connection whose own address is the service address: TCP
//!    in each state, accepted by a program or still in a listener's queue, and connected UDP; IPv4,
//!    IPv6, and IPv4 spoken by an IPv6 socket. Clients that still ask get a reset from the new
//!    holder, and programs an error (`ECONNABORTED`).
//! 3. [`discard_unread`] empties the queues of UDP sockets that are *not* connected: those bound to the
//!    service address, and those bound to no address, in which datagrams to the service address
//!    wait beside others. `SOCK_DESTROY` leaves what waits in such a socket where it is: the program
//!    gets one error, and then the datagram.
//!
//! What only waits for clients stays: listeners and unconnected UDP sockets hold no work once they
//! are empty, and a program that serves on both nodes (`ip_nonlocal_bind`) needs its listener again
//! after the next takeover.
//!
//! Netlink has a second user besides `address/` here because this is another protocol of it,
//! `NETLINK_SOCK_DIAG`, whose messages share nothing with those of routes.
//!
//! # What is left
//!
//! A datagram that a program has *read* and not answered is in its memory, where nobody can take it
//! away; stop the program with the group if that matters. A program whose descriptors this daemon
//! may not see or copy keeps its queue, which is reported. SCTP, UDP-Lite and raw sockets are not
//! looked at. Discarding empties a queue whole: datagrams to other addresses of this node that wait
//! in the same unbound socket at that instant are lost with the rest.

mod diag;
mod unread;

use std::{io, net::IpAddr, os::fd::AsRawFd as _, time::Duration};

use hb_ebpf::time::BootTime;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use crate::clock;
use diag::{DESTROY_LEN, Found, KINDS, Kind, LISTEN, Part, TCP, UDP};

pub use unread::{Discarded, discard_unread};

/// The kernel answers before `send` returns, so waiting this long means that answers were lost.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(100);
/// The kernel fills at most this much per read of a listing.
const BUFFER_BYTES: usize = 32 * 1024;
/// Sockets that are remembered of one read of a listing, more than the kernel fills in; what is beyond
/// the next pass finds.
const FOUND: usize = 512;
/// Connections that are destroyed by one system call. The kernel answers for those that it does not
/// find, and answers have to fit the socket's receive buffer.
const BATCH: usize = 64;
/// Service addresses of one sweeper: so many conditions the kernel's filter has room for.
const ADDRESSES: usize = 1024;
/// Listings of one kind: destroying changes the list, so that a listing may skip some.
const PASSES: usize = 64;

/// Why no sweeper could be made, or sockets not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// A system call failed.
    #[error("cannot {action} on the socket diagnosis netlink socket; see the kernel's log")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// This kernel does not list sockets.
    #[error(
        "this kernel does not list {protocol} sockets ({}), so connections to a service address \
         cannot be ended when it moves away: it needs CONFIG_INET_DIAG and CONFIG_INET_{protocol}_DIAG \
         (modules inet_diag, tcp_diag, udp_diag)",
        io::Error::from_raw_os_error(*errno)
    )]
    NoListing {
        /// `TCP` or `UDP`.
        protocol: &'static str,
        /// The kernel's error number.
        errno: i32,
    },
    /// This kernel does not destroy sockets.
    #[error(
        "this kernel does not destroy {protocol} sockets ({}), so connections to a service address \
         cannot be ended when it moves away: it needs CONFIG_INET_DIAG_DESTROY",
        io::Error::from_raw_os_error(*errno)
    )]
    NoDestroying {
        /// `TCP` or `UDP`.
        protocol: &'static str,
        /// The kernel's error number.
        errno: i32,
    },
    /// Too many service addresses.
    #[error("{count} service addresses in a group; {ADDRESSES} are the most")]
    Addresses {
        /// How many there are.
        count: usize,
    },
}

/// What a sweep did. Plain numbers, so that making one does not allocate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// TCP connections destroyed.
    pub tcp: u32,
    /// UDP connections destroyed.
    pub udp: u32,
    /// Why some may be left.
    pub left: Option<Left>,
}

/// Why connections may be left after a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Left {
    /// The kernel refused to destroy one.
    #[error(
        "the kernel refused to destroy a connection: {}; it needs CAP_NET_ADMIN",
        io::Error::from_raw_os_error(*errno)
    )]
    Refused {
        /// The kernel's error number.
        errno: i32,
    },
    /// The list could not be read.
    #[error("the kernel refused to list sockets: {}", io::Error::from_raw_os_error(*errno))]
    Unlisted {
        /// The kernel's error number.
        errno: i32,
    },
    /// The time was over: there may be more.
    #[error("more connections than could be destroyed in the time given: try again")]
    Late,
}

/// Destroys the connections to some service addresses, in the network namespace it was opened in.
#[derive(Debug)]
pub struct Sweeper {
    lists: Socket,
    destroys: Socket,
    /// One request for each of [`KINDS`], unless no address could be found with it.
    requests: Vec<(Kind, Vec<u8>)>,
    buffer: Box<[u8]>,
    /// Room for one request after the other.
    batch: Box<[u8]>,
    found: Vec<Found>,
    sequence: u32,
    /// Index of the request whose listing was not read to its end when the time was over: the socket
    /// lists nothing else before.
    under_way: Option<usize>,
}

/// How a listing of one kind goes on.
enum Listing {
    /// There is more to read.
    More,
    /// That was all.
    Done,
}

impl Sweeper {
    /// Makes a sweeper for `addresses` in the network namespace of the calling thread, and finds
    /// out whether the kernel can do what it is for. What it needs later is allocated now.
    ///
    /// # Errors
    /// [`SweepError`].
    pub fn open(addresses: &[IpAddr]) -> Result<Self, SweepError> {
        if addresses.len() > ADDRESSES {
            return Err(SweepError::Addresses { count: addresses.len() });
        }
        let any_v4 = addresses.iter().any(IpAddr::is_ipv4);
        let wanted = KINDS.iter().filter(|kind| any_v4 || i32::from(kind.family) == libc::AF_INET6);
        let requests = match addresses {
            // An empty filter means all sockets there are.
            [] => Vec::new(),
            _ => wanted.map(|kind| (*kind, diag::list(*kind, addresses))).collect(),
        };
        let mut sweeper = Self {
            lists: open()?,
            destroys: open()?,
            requests,
            buffer: vec![0; BUFFER_BYTES].into(),
            batch: vec![0; BATCH * DESTROY_LEN].into(),
            found: Vec::with_capacity(FOUND),
            sequence: 0,
            under_way: None,
        };
        sweeper.check_kernel()?;
        Ok(sweeper)
    }

    fn check_kernel(&mut self) -> Result<(), SweepError> {
        for (protocol, name) in [(TCP, "TCP"), (UDP, "UDP")] {
            let nobody = IpAddr::from([0, 0, 0, 1]);
            let kind = Kind { family: libc::AF_INET as u8, protocol };
            let request = diag::list(kind, &[nobody]);
            if let Err(errno) = list(&self.lists, &request, &mut self.buffer, |_| {}) {
                return Err(SweepError::NoListing { protocol: name, errno });
            }
            let answer = send(&self.destroys, &diag::trial(protocol))
                .and_then(|()| answer(&self.destroys, &mut self.buffer, 1));
            // There is no such socket, which only a kernel that looked for it can say.
            if !matches!(answer, Ok(libc::ENOENT)) {
                let errno = answer.unwrap_or_else(|errno| errno);
                return Err(SweepError::NoDestroying { protocol: name, errno });
            }
        }
        Ok(())
    }

    /// Destroys every connection whose own address is one of the sweeper's. Returns within `within`
    /// and the time of a few system calls. Does not allocate.
    ///
    /// To be called when no new connection can come any more: the gate closed, the address gone.
    pub fn destroy(&mut self, within: Duration) -> Swept {
        let deadline = clock::now().after(within);
        let mut swept = Swept::default();
        if let Some(index) = self.under_way {
            // What it finds counts, and that it finds nothing says nothing: it is no whole listing.
            if let Err(Left::Late) = self.pass(index, deadline, &mut swept) {
                swept.left = Some(Left::Late);
                return swept;
            }
        }
        for index in 0..self.requests.len() {
            self.destroy_kind(index, deadline, &mut swept);
            if swept.left == Some(Left::Late) {
                break;
            }
        }
        swept
    }

    fn destroy_kind(&mut self, index: usize, deadline: BootTime, swept: &mut Swept) {
        let before = *swept;
        for _ in 0..PASSES {
            match self.pass(index, deadline, swept) {
                // Nothing was found, or something is left.
                Ok(false) => return,
                Ok(true) => {}
                Err(left) => {
                    swept.left = Some(left);
                    return;
                }
            }
        }
        let stuck = (before.tcp, before.udp) == (swept.tcp, swept.udp);
        // It is listed again and again, and never found.
        swept.left = Some(if stuck { Left::Refused { errno: libc::ENOENT } } else { Left::Late });
    }

    /// Lists the sockets of one kind and destroys what it finds, piece by piece: where the kernel goes
    /// on in its table it skips some of those that move up, which the next pass finds. Returns whether
    /// there were any.
    fn pass(&mut self, index: usize, deadline: BootTime, swept: &mut Swept) -> Result<bool, Left> {
        let unlisted = |errno| Left::Unlisted { errno };
        let Some((kind, request)) = self.requests.get(index) else { return Ok(false) };
        let kind = *kind;
        if self.under_way.take() != Some(index) {
            begin_list(&self.lists, request, &mut self.buffer).map_err(unlisted)?;
        }
        let (mut any, mut refused) = (false, None);
        loop {
            self.found.clear();
            let found = &mut self.found;
            let read = read_list(&self.lists, &mut self.buffer, |socket| {
                // No more than there is room for: growing would allocate.
                if holds_work(kind.protocol, &socket) && found.len() < FOUND {
                    found.push(socket);
                }
            });
            let listing = read.map_err(unlisted)?;
            any |= !self.found.is_empty();
            for first in (0..self.found.len()).step_by(BATCH) {
                if clock::now() >= deadline {
                    self.under_way = matches!(listing, Listing::More).then_some(index);
                    return Err(Left::Late);
                }
                let (destroyed, errno) = self.destroy_some(kind.protocol, first);
                refused = refused.or(errno);
                match kind.protocol {
                    TCP => swept.tcp = swept.tcp.saturating_add(destroyed),
                    _ => swept.udp = swept.udp.saturating_add(destroyed),
                }
            }
            if let Listing::Done = listing {
                break;
            }
        }
        match refused {
            Some(errno) => Err(Left::Refused { errno }),
            None => Ok(any),
        }
    }

    /// Destroys up to [`BATCH`] of the sockets that were found, from `first` on. Returns how many were
    /// there to be destroyed, and why one was not.
    fn destroy_some(&mut self, protocol: u8, first: usize) -> (u32, Option<i32>) {
        let some = self.found.get(first..).unwrap_or_default();
        let some = some.get(..BATCH).unwrap_or(some);
        // From 1: the kernel uses 0 for what nobody asked for.
        let mut last = if self.sequence > u32::MAX - BATCH as u32 { 0 } else { self.sequence };
        for (place, found) in self.batch.chunks_exact_mut(DESTROY_LEN).zip(some) {
            last += 1;
            let Ok(place) = place.try_into() else { continue };
            diag::destroy(place, last, protocol, found);
        }
        self.sequence = last;
        let length = some.len() * DESTROY_LEN;
        let Some(requests) = self.batch.get_mut(..length) else { return (0, Some(libc::EMSGSIZE)) };
        // The others are answered for only where they fail.
        diag::ask_for_answer_to_last(requests);
        let asked = some.len() as u32;
        let mut failed = 0;
        let mut refused = None;
        if let Err(errno) = send(&self.destroys, requests) {
            return (0, Some(errno));
        }
        loop {
            let bytes = match receive(&self.destroys, &mut self.buffer) {
                Ok(bytes) => bytes,
                Err(errno) => return (0, Some(errno)),
            };
            for part in diag::parts(bytes) {
                // Others are late answers to requests that were given up.
                let Part::Answer { sequence, errno } = part else { continue };
                let age = last.wrapping_sub(sequence);
                if age >= asked {
                    continue;
                }
                match errno {
                    0 => {}
                    // It ended by itself meanwhile.
                    libc::ENOENT => failed += 1,
                    errno => {
                        failed += 1;
                        refused = Some(errno);
                    }
                }
                if age == 0 {
                    return (asked.saturating_sub(failed), refused);
                }
            }
        }
    }
}

/// Whether a socket is a connection, and not one that only waits for clients.
fn holds_work(protocol: u8, socket: &Found) -> bool {
    match protocol {
        TCP => socket.state != LISTEN && socket.connected(),
        _ => socket.connected(),
    }
}

fn open() -> Result<Socket, SweepError> {
    let failed = |action| move |source| SweepError::Socket { action, source };
    let mut socket = Socket::new(NETLINK_SOCK_DIAG).map_err(failed("open"))?;
    socket.bind_auto().map_err(failed("bind"))?;
    // Answers without a copy of the question.
    socket.set_cap_ack(true).map_err(failed("ask for short answers"))?;
    let timeout =
        libc::timeval { tv_sec: 0, tv_usec: ANSWER_TIMEOUT.as_micros() as libc::suseconds_t };
    crate::socket::set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, &timeout)
        .map_err(failed("set the receive timeout"))?;
    // Connected to the kernel: no other process can answer in its place.
    socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect"))?;
    Ok(socket)
}

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn send(socket: &Socket, bytes: &[u8]) -> Result<(), i32> {
    socket.send(bytes, 0).map(drop).map_err(|error| number(&error))
}

fn receive<'b>(socket: &Socket, buffer: &'b mut [u8]) -> Result<&'b [u8], i32> {
    let length = loop {
        match socket.recv(&mut &mut buffer[..], 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(number(&error)),
            Ok(length) => break length,
        }
    };
    buffer.get(..length).ok_or(libc::EMSGSIZE)
}

/// Waits for the answer to request `sequence` and returns its error number, 0 for success.
fn answer(socket: &Socket, buffer: &mut [u8], sequence: u32) -> Result<i32, i32> {
    loop {
        for part in diag::parts(receive(socket, buffer)?) {
            match part {
                Part::Answer { sequence: of, errno } if of == sequence => return Ok(errno),
                // A late answer to a request that was given up.
                _ => {}
            }
        }
    }
}

/// Lists sockets into `each`.
fn list(
    socket: &Socket,
    request: &[u8],
    buffer: &mut [u8],
    mut each: impl FnMut(Found),
) -> Result<(), i32> {
    begin_list(socket, request, buffer)?;
    while let Listing::More = read_list(socket, buffer, &mut each)? {}
    Ok(())
}

/// Asks for a listing.
fn begin_list(socket: &Socket, request: &[u8], buffer: &mut [u8]) -> Result<(), i32> {
    // What an earlier listing that failed left behind.
    while socket.recv(&mut &mut buffer[..], libc::MSG_DONTWAIT).is_ok() {}
    send(socket, request)
}

/// Reads as much of a listing as the kernel fills in at once.
fn read_list(
    socket: &Socket,
    buffer: &mut [u8],
    mut each: impl FnMut(Found),
) -> Result<Listing, i32> {
    for part in diag::parts(receive(socket, buffer)?) {
        match part {
            Part::Socket(found) => each(found),
            Part::Done => return Ok(Listing::Done),
            Part::Answer { errno, .. } if errno != 0 => return Err(errno),
            Part::Answer { .. } | Part::Other => {}
        }
    }
    Ok(Listing::More)
}
