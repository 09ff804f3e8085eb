//! Datagrams that nobody has read.

use std::{
    collections::BTreeSet,
    fs, io,
    net::IpAddr,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use super::{
    BUFFER_BYTES, KINDS, SweepError,
    diag::{self, Found, UDP},
    list, open,
};

/// Rounds of looking: a program that forks or passes its socket on may hide it from one.
const ROUNDS: usize = 3;
/// Datagrams that are thrown away from one socket in one round: more than any receive buffer holds.
const DATAGRAMS: usize = 1 << 20;
/// Errors a socket may have to tell before it tells what it holds.
const ERRORS: usize = 8;

/// What became of the datagrams that waited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discarded {
    /// How many were thrown away.
    pub datagrams: usize,
    /// The sockets that still hold some, by their own address and port: those of programs that
    /// this process may not look into (it needs `CAP_SYS_PTRACE`, and to see their `/proc`), or
    /// that no program has open.
    pub left: Vec<(IpAddr, u16)>,
}

/// Throws away every datagram that waits in a UDP socket bound to one of `addresses`, or to none, in
/// the network namespace of the calling thread. Sockets bound to other addresses are left alone,
/// and so are empty ones.
///
/// Takes milliseconds where something waits, since every process is looked at, and one listing where
/// nothing does. Not for the fast path.
///
/// # Errors
/// [`SweepError`] if sockets cannot be listed.
pub fn discard_unread(addresses: &[IpAddr]) -> Result<Discarded, SweepError> {
    let mut discarded = Discarded::default();
    for round in 0..=ROUNDS {
        let waiting = waiting(addresses)?;
        if waiting.is_empty() || round == ROUNDS {
            discarded.left =
                waiting.iter().map(|socket| (socket.own(), socket.own_port())).collect();
            break;
        }
        let inodes = waiting.iter().map(|socket| u64::from(socket.inode)).collect();
        discarded.datagrams += empty(&inodes);
    }
    Ok(discarded)
}

/// Returns the unconnected UDP sockets in which something waits that may be for `addresses`.
fn waiting(addresses: &[IpAddr]) -> Result<Vec<Found>, SweepError> {
    let socket = open()?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut waiting = Vec::new();
    for kind in KINDS.into_iter().filter(|kind| kind.protocol == UDP) {
        let request = diag::list(kind, &[]);
        list(&socket, &request, &mut buffer, |found| {
            let own = found.own();
            let theirs = own.is_unspecified() || addresses.contains(&own);
            if theirs && found.unread > 0 && !found.connected() {
                waiting.push(found);
            }
        })
        .map_err(|errno| SweepError::NoListing { protocol: "UDP", errno })?;
    }
    Ok(waiting)
}

/// Empties the sockets with these inode numbers, by a copy of the descriptor of whoever has them open.
fn empty(inodes: &BTreeSet<u64>) -> usize {
    let mut datagrams = 0;
    // Whoever cannot be looked into keeps its datagrams, which the next listing finds.
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let Some(pid) = pid else { continue };
        let mut handle = None;
        for entry in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // Not by asking for the file's status, which hangs with a dead file server.
            if !socket_inode(&entry.path()).is_some_and(|inode| inodes.contains(&inode)) {
                continue;
            }
            if handle.is_none() {
                handle = pidfd(pid).ok();
            }
            let copied = handle.as_ref().and_then(|handle| copy(handle, number).ok());
            // The process may have put another file there meanwhile.
            let copied = copied.filter(|copied| {
                inode(copied).is_ok_and(|inode| inodes.contains(&inode)) && is_udp(copied)
            });
            datagrams += copied.as_ref().map_or(0, drain);
        }
    }
    datagrams
}

/// Returns the number of the socket that an entry of `/proc/PID/fd` is: `socket:[NUMBER]`.
fn socket_inode(entry: &Path) -> Option<u64> {
    let target = fs::read_link(entry).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: both system calls return a new descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Copies descriptor `number` of the process behind `pidfd`.
fn copy(pidfd: &OwnedFd, number: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes three integers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) })
}

fn inode(file: &OwnedFd) -> io::Result<u64> {
    fs::File::from(file.try_clone()?).metadata().map(|metadata| metadata.ino())
}

fn is_udp(socket: &OwnedFd) -> bool {
    let mut protocol: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers are to locals of the length given.
    let code = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PROTOCOL,
            (&raw mut protocol).cast(),
            &raw mut length,
        )
    };
    code == 0 && protocol == libc::IPPROTO_UDP
}

/// Reads datagrams away until there is none, and returns how many.
fn drain(socket: &OwnedFd) -> usize {
    let (mut datagrams, mut errors) = (0, 0);
    while datagrams < DATAGRAMS && errors < ERRORS {
        let mut byte = 0_u8;
        // SAFETY: one writable byte; the kernel cuts each datagram to it.
        let got = unsafe {
            let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
            libc::recv(socket.as_raw_fd(), (&raw mut byte).cast(), 1, flags)
        };
        if got >= 0 {
            datagrams += 1;
            continue;
        }
        match io::Error::last_os_error().raw_os_error() {
            // A waiting error, from a datagram sent earlier, comes before the datagrams.
            Some(libc::EAGAIN | libc::EBADF | libc::ENOTSOCK) | None => break,
            Some(_) => errors += 1,
        }
    }
    datagrams
}
