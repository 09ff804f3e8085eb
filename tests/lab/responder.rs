//! The service of the lab: a UDP responder in each node's namespace, so that what answers at the
//! service address is a process of the node that holds it, and dies with it.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U64};

use crate::{
    addresses::SERVICE_PORT,
    clock::{self, RealTime},
    socket::Socket,
};

/// A question and its answer, 32 bytes each, so that an answer is never larger than its question.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Datagram {
    /// Number of the question.
    pub sequence: U64,
    /// Boot time the question was sent.
    pub sent_ns: U64,
    /// Boot time it was answered; 0 in a question.
    pub answered_ns: U64,
    /// Id of the node that answers; 0 in a question.
    pub node: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// Answers questions at every address of the namespace, from the address that was asked, until
/// standard input ends or `limit` has passed.
///
/// # Errors
///
/// If a socket cannot be opened or breaks.
pub fn respond(node: u8, limit: Duration) -> Result<()> {
    let end = clock::now().after(limit);
    let v4 = Socket::udp((Ipv4Addr::UNSPECIFIED, SERVICE_PORT).into())
        .with_context(|| format!("cannot bind UDP port {SERVICE_PORT}"))?;
    let v6 = Socket::udp((Ipv6Addr::UNSPECIFIED, SERVICE_PORT).into())
        .with_context(|| format!("cannot bind UDP port {SERVICE_PORT} for IPv6"))?;
    v4.keep_destinations(true).context("cannot ask for IPv4 destinations")?;
    v6.keep_destinations(false).context("cannot ask for IPv6 destinations")?;
    if let Err(error) = clock::real_time(30) {
        eprintln!("responder {node}: ordinary scheduling: {error}");
    }
    println!("ready");
    let clock = RealTime::sample();
    let mut unsent = 0_u64;
    while clock::now() < end {
        let mut waits = [v4.raw(), v6.raw(), libc::STDIN_FILENO].map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });
        // SAFETY: `waits` is valid for the call and as long as said.
        let ready = unsafe { libc::poll(waits.as_mut_ptr(), waits.len() as libc::nfds_t, 1000) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            bail!("cannot wait for questions: {error}");
        }
        for (socket, wait) in [(&v4, waits[0]), (&v6, waits[1])] {
            if wait.revents != 0 {
                unsent += answer_all(socket, node, clock)?;
            }
        }
        if waits[2].revents != 0 {
            break;
        }
    }
    println!("ended; {unsent} answers could not be sent");
    Ok(())
}

/// Answers what waits on `socket`; returns how many answers could not be sent, as happens when
/// the address leaves between question and answer.
fn answer_all(socket: &Socket, node: u8, clock: RealTime) -> Result<u64> {
    let mut unsent = 0;
    let mut buffer = [0; 64];
    // No more at a time than would keep the other socket waiting for a millisecond.
    for _ in 0..64 {
        let received = match socket.receive(&mut buffer, clock) {
            Ok(Some(received)) => received,
            Ok(None) => break,
            // A pending error of an earlier answer, such as an unreachable client.
            Err(_) => {
                unsent += 1;
                continue;
            }
        };
        let (Ok(question), Some(from), Some(to)) =
            (Datagram::read_from_bytes(&buffer[..received.length]), received.from, received.to)
        else {
            continue;
        };
        let answer = Datagram { answered_ns: clock::now().ns().into(), node, ..question };
        if socket.send_from(answer.as_bytes(), to, from).is_err() {
            unsent += 1;
        }
    }
    Ok(unsent)
}
