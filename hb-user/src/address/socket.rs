//! The socket that changes and lists addresses.

use std::{io, os::fd::AsRawFd, time::Duration};

use netlink_packet_core::{ErrorBuffer, NetlinkBuffer, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{Batch, Change, Vip};

/// `NLMSG_ERROR` of `linux/netlink.h`: an answer, also to what succeeded.
const NLMSG_ERROR: u16 = 2;
/// The kernel answers before `send` returns, so waiting this long means that answers were lost.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(100);
/// The kernel fills at most this much per read of a listing (`NLMSG_GOODSIZE`, 32 KiB with
/// `netlink_dump`'s growth).
const BUFFER_BYTES: usize = 32 * 1024;

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The VIP was not there and is now, or ([`Change::Adopt`]) is there as we want it.
    Added,
    /// It was there already and is as it was.
    AlreadyThere,
    /// It was there and is no more.
    Removed,
    /// There was none to remove.
    Missing,
}

/// A change the kernel refused or did not answer. Plain numbers, so that making one does not
/// allocate; the text is made when it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The kernel refused.
    #[error(
        "cannot {} VIP {vip}: {}; {}",
        change.as_str(), io::Error::from_raw_os_error(*errno), hint(*errno)
    )]
    Refused {
        /// What was asked.
        change: Change,
        /// For which VIP.
        vip: Vip,
        /// The kernel's error number.
        errno: i32,
    },
    /// No answer arrived: whether it was done has to be looked up.
    #[error(
        "cannot tell whether VIP {vip} could be changed ({}): no answer from the kernel; list the \
         addresses and try again", change.as_str()
    )]
    Unanswered {
        /// What was asked.
        change: Change,
        /// For which VIP.
        vip: Vip,
    },
}

fn hint(errno: i32) -> &'static str {
    match errno {
        libc::EPERM => "run it with CAP_NET_ADMIN in the namespace of the interface",
        libc::ENODEV => {
            "the interface is gone, or its index now belongs to nobody: look it up again"
        }
        libc::EACCES => {
            "IPv6 is disabled on the interface: set net.ipv6.conf.<name>.disable_ipv6 to 0"
        }
        libc::EINVAL => {
            "the kernel takes no such address there: is the interface's MTU below 1280 (IPv6), or \
             an address of its subnet there with another scope (IPv4)?"
        }
        libc::ENOBUFS | libc::ENOMEM => "the kernel is out of memory: free some and try again",
        _ => "see the kernel's log",
    }
}

/// What can go wrong with the socket itself.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// A system call failed.
    #[error("cannot {action} on the route netlink socket; try again, and see the kernel's log")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The kernel refused to list.
    #[error("cannot list {what}: see the kernel's log")]
    Refused {
        /// What was to be listed.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The kernel said something that is no message.
    #[error(
        "cannot read the kernel's list of {what}: {reason}; report this with the kernel version"
    )]
    Malformed {
        /// What was to be listed.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The list changed under every attempt to read it.
    #[error("the list of {what} changed {attempts} times while it was read: try again later")]
    Unsteady {
        /// What was to be listed.
        what: &'static str,
        /// How often it was tried.
        attempts: u32,
    },
}

/// An rtnetlink socket of the namespace it was opened in.
#[derive(Debug)]
pub struct AddressSocket {
    socket: Socket,
    buffer: Box<[u8]>,
    /// Answers to an earlier request may still arrive and have to be thrown away first.
    stale: bool,
}

impl AddressSocket {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`AddressError::Socket`].
    pub fn open() -> Result<Self, AddressError> {
        let failed = |action| move |source| AddressError::Socket { action, source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed("open"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        // Answers without a copy of the question: all of a batch's fit the receive buffer.
        socket.set_cap_ack(true).map_err(failed("ask for short answers"))?;
        let timeout =
            libc::timeval { tv_sec: 0, tv_usec: ANSWER_TIMEOUT.as_micros() as libc::suseconds_t };
        crate::socket::set_option(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            &timeout,
        )
        .map_err(failed("set the receive timeout"))?;
        // Connected to the kernel: no other process can answer in its place.
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect"))?;
        Ok(Self { socket, buffer: vec![0; BUFFER_BYTES].into(), stale: false })
    }

    /// Makes the changes of `batch`: one system call, and one more per answer. `results` gets one
    /// entry per change, in order; further entries are left as they are. Does not allocate.
    ///
    /// # Errors
    /// [`AddressError::Socket`] if nothing could be sent; whatever was sent is in `results`, where
    /// a change without an answer is [`ChangeError::Unanswered`].
    ///
    /// # Panics
    /// Never; a `results` shorter than the batch is an error before anything is sent.
    pub fn execute(
        &mut self,
        batch: &Batch,
        results: &mut [Result<Done, ChangeError>],
    ) -> Result<(), AddressError> {
        let changes = batch.changes();
        let Some(results) = results.get_mut(..changes.len()) else {
            let source = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(AddressError::Socket { action: "answer into too few results", source });
        };
        if changes.is_empty() {
            return Ok(());
        }
        for (result, &(change, vip)) in results.iter_mut().zip(changes) {
            *result = Err(ChangeError::Unanswered { change, vip });
        }
        self.discard_stale();
        self.send(batch.bytes())?;
        let mut waiting = changes.len();
        while waiting > 0 {
            let length = match self.receive() {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Every change without an answer says so in its result.
                Err(_) => {
                    self.stale = true;
                    return Ok(());
                }
            };
            let Some((sequence, errno)) = self.buffer.get(..length).and_then(answer) else {
                continue;
            };
            let index = (sequence as usize).wrapping_sub(1);
            let (Some(result), Some(&(change, vip))) = (results.get_mut(index), changes.get(index))
            else {
                continue;
            };
            *result = outcome(change, vip, errno);
            waiting -= 1;
        }
        Ok(())
    }

    /// Has the kernel list what is asked for only, or all again (`NETLINK_GET_STRICT_CHK`, Linux 4.20).
    pub(super) fn set_strict(&self, strict: bool) -> io::Result<()> {
        self.socket.set_netlink_get_strict_chk(strict)
    }

    pub(super) fn send(&self, bytes: &[u8]) -> Result<(), AddressError> {
        let sent = self.socket.send(bytes, 0);
        sent.map(drop).map_err(|source| AddressError::Socket { action: "send", source })
    }

    /// Reads one datagram into the buffer and returns its length.
    pub(super) fn receive(&mut self) -> io::Result<usize> {
        self.socket.recv(&mut &mut self.buffer[..], 0)
    }

    pub(super) fn buffer(&self, length: usize) -> &[u8] {
        self.buffer.get(..length).unwrap_or(&self.buffer)
    }

    /// Sends a message, after which only answers to it are read.
    pub(super) fn request(
        &mut self,
        request: &mut NetlinkMessage<RouteNetlinkMessage>,
    ) -> Result<(), AddressError> {
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.discard_stale();
        self.send(&bytes)
    }

    /// Reads the next answer into the buffer and returns its length.
    pub(super) fn answer(&mut self) -> io::Result<usize> {
        loop {
            match self.receive() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.abandon();
                    return Err(error);
                }
                Ok(length) => return Ok(length),
            }
        }
    }

    /// Says that answers may be left over.
    pub(super) fn abandon(&mut self) {
        self.stale = true;
    }

    pub(super) fn discard_stale(&mut self) {
        if std::mem::take(&mut self.stale) {
            // Ends with EAGAIN; after ENOBUFS, which reports what was lost, there may be more.
            loop {
                match self.socket.recv(&mut &mut self.buffer[..], libc::MSG_DONTWAIT) {
                    Ok(_) => {}
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                    Err(_) => break,
                }
            }
        }
    }
}

/// Reads an answer: the number of the message it answers and the error number, 0 for success.
pub(super) fn answer(bytes: &[u8]) -> Option<(u32, i32)> {
    let message = NetlinkBuffer::new_checked(bytes).ok()?;
    if message.message_type() != NLMSG_ERROR {
        return None;
    }
    let error = ErrorBuffer::new_checked(message.payload()).ok()?;
    let errno = error.code().map_or(0, |code| code.get().saturating_neg());
    Some((message.sequence_number(), errno))
}

fn outcome(change: Change, vip: Vip, errno: i32) -> Result<Done, ChangeError> {
    match (change, errno) {
        (Change::Add | Change::Adopt, 0) => Ok(Done::Added),
        (Change::Add | Change::Adopt, libc::EEXIST) => Ok(Done::AlreadyThere),
        (Change::Remove, 0) => Ok(Done::Removed),
        // An interface that is gone (ENODEV) or has no IPv6 any more (ENXIO) took its addresses along.
        (Change::Remove, libc::EADDRNOTAVAIL | libc::ENODEV | libc::ENXIO) => Ok(Done::Missing),
        _ => Err(ChangeError::Refused { change, vip, errno }),
    }
}
