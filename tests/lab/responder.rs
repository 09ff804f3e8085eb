//! The service of the lab: a responder in each node's namespace, so that what answers at the
//! service address is a process of the node that holds it, and dies with it.
//!
//! It behaves as a service should: it listens at the service addresses themselves, beside the
//! node's own, and a socket that the node destroyed with its lease it closes, with all that waits
//! in it. Told to, it leaves requests unread for a while.
//!
//! To whoever connects to [`STREAM_PORT`] it sends on and on.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, RawFd},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use hb_ebpf::time::BootTime;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U64};

use crate::{
    addresses::{SERVICE_PORT, STREAM_PORT, VIPS},
    clock::{self, RealTime},
    lease::Source,
    socket::{self, Socket},
};

/// A question and its answer, 40 bytes each, so that an answer is never larger than its question.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Datagram {
    /// Number of the question.
    pub sequence: U64,
    /// Boot time the question was sent.
    pub sent_ns: U64,
    /// Boot time it was answered; 0 in a question.
    pub answered_ns: U64,
    /// Newest epoch the node that answers has held, read after the question was; 0 in a question
    /// and from a node that never held.
    pub epoch: U64,
    /// Id of the node that answers; 0 in a question.
    pub node: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// What a responder is told on its standard input, a byte each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// Leave everything unread from now on.
    Hold = b'h',
    /// Read and answer again.
    Read = b'r',
}

/// Answers questions at every address of the namespace, from the address that was asked, until
/// standard input ends or `limit` has passed. `leases` is where the node's kernel half publishes
/// its leases.
///
/// # Errors
///
/// If a socket cannot be opened or breaks.
pub fn respond(node: u8, limit: Duration, leases: &Path) -> Result<()> {
    let end = clock::now().after(limit);
    let mut responder = Responder::open(node, leases)?;
    if let Err(error) = clock::real_time(30) {
        eprintln!("responder {node}: ordinary scheduling: {error}");
    }
    // The first answer shall not wait for code to be read: that would count as the takeover's.
    // SAFETY: takes no memory of ours.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } != 0 {
        eprintln!("responder {node}: memory not locked: {}", io::Error::last_os_error());
    }
    say("ready")?;
    let mut held = false;
    while clock::now() < end {
        responder.look();
        let sockets = if held { Vec::new() } else { responder.waits() };
        let mut waits: Vec<_> = std::iter::once(libc::STDIN_FILENO)
            .chain(sockets)
            .map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
            .collect();
        // SAFETY: `waits` is valid for the call and as long as said.
        let ready = unsafe {
            libc::poll(waits.as_mut_ptr(), waits.len() as libc::nfds_t, responder.patience_ms())
        };
        if ready < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            bail!("cannot wait for questions: {error}");
        }
        if waits[0].revents != 0 {
            let mut byte = [0];
            match io::stdin().read(&mut byte).context("cannot read orders")? {
                0 => break,
                _ if byte[0] == Order::Hold as u8 => held = true,
                _ if byte[0] == Order::Read as u8 => held = false,
                _ => bail!("byte {:#x} is no order", byte[0]),
            }
            // Whoever gave the order goes on when it is carried out.
            say(if held { "held" } else { "reads" })?;
        } else if !held {
            responder.serve()?;
        }
        responder.send_on();
    }
    say(&format!(
        "ended; {} answers could not be sent, {} sockets were destroyed",
        responder.unsent, responder.destroyed
    ))
}

fn say(line: &str) -> Result<()> {
    println!("{line}");
    io::stdout().flush().context("cannot write to standard output")
}

/// The leases are looked for this often, in milliseconds.
const LOOK_MS: i32 = 100;
/// Whoever is connected to [`STREAM_PORT`] is sent something this often, in milliseconds.
const SEND_MS: i32 = 5;

/// A stream and what of a question has arrived on it.
struct Stream {
    stream: TcpStream,
    arrived: Vec<u8>,
}

struct Responder {
    node: u8,
    source: Source,
    clock: RealTime,
    /// Local addresses and their sockets: those of the service before the wildcards.
    sockets: Vec<(IpAddr, Socket)>,
    listeners: [TcpListener; 2],
    streams: Vec<Stream>,
    /// For those who are sent something unasked, and they.
    senders: [TcpListener; 2],
    sent_to: Vec<TcpStream>,
    /// When to send again.
    due: BootTime,
    unsent: u64,
    destroyed: u64,
}

impl Responder {
    fn open(node: u8, leases: &Path) -> Result<Self> {
        let sockets = VIPS
            .into_iter()
            .chain([Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()])
            .map(|local| Ok((local, listen(local)?)))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            node,
            source: Source::new(leases.into()),
            clock: RealTime::sample(),
            sockets,
            listeners: accept_at(SERVICE_PORT)?,
            streams: Vec::new(),
            senders: accept_at(STREAM_PORT)?,
            sent_to: Vec::new(),
            due: clock::now(),
            unsent: 0,
            destroyed: 0,
        })
    }

    fn waits(&self) -> Vec<RawFd> {
        let streams = self.streams.iter().map(|stream| stream.stream.as_raw_fd());
        let sockets = self.sockets.iter().map(|(_, socket)| socket.raw());
        let listeners = self.listeners.iter().chain(&self.senders).map(AsRawFd::as_raw_fd);
        sockets.chain(listeners).chain(streams).collect()
    }

    /// Returns how long there may be nothing to do, in milliseconds.
    fn patience_ms(&self) -> i32 {
        if self.sent_to.is_empty() {
            return LOOK_MS;
        }
        let left_ns = self.due.ns().saturating_sub(clock::now().ns());
        left_ns.div_ceil(1_000_000).min(SEND_MS as u64) as i32
    }

    /// Answers what waits.
    fn serve(&mut self) -> Result<()> {
        for place in 0..self.sockets.len() {
            if !self.answer_datagrams(place) {
                let local = self.sockets[place].0;
                self.destroyed += 1;
                self.sockets[place].1 = listen(local)?;
            }
        }
        for stream in accept(&self.listeners)? {
            self.streams.push(Stream { stream, arrived: Vec::new() });
        }
        self.sent_to.extend(accept(&self.senders)?);
        let mut streams = std::mem::take(&mut self.streams);
        streams.retain_mut(|stream| self.answer_stream(stream));
        self.streams = streams;
        Ok(())
    }

    /// Sends something to whoever wants it, if it is time.
    fn send_on(&mut self) {
        let now = clock::now();
        if now < self.due {
            return;
        }
        self.due = now.after(Duration::from_millis(SEND_MS as u64));
        // What nobody acknowledges fills the kernel's buffer, and is sent again from there.
        self.sent_to.retain_mut(|stream| match stream.write(&[0; 64]) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        });
    }

    /// Finds the leases before the first question does: the time to open the map would count as the
    /// takeover's.
    fn look(&mut self) {
        for address in VIPS {
            self.source.own_epoch(address);
        }
    }

    fn answer(&mut self, question: Datagram, at: IpAddr) -> Datagram {
        Datagram {
            epoch: self.source.own_epoch(at).into(),
            answered_ns: clock::now().ns().into(),
            node: self.node,
            ..question
        }
    }

    /// Answers what waits on a socket; returns `false` if the socket was destroyed, and what still
    /// waits in it must never be answered.
    fn answer_datagrams(&mut self, place: usize) -> bool {
        let mut buffer = [0; 64];
        // No more at a time than would keep the other sockets waiting for a millisecond.
        for _ in 0..64 {
            let received = match self.sockets[place].1.receive(&mut buffer, self.clock) {
                Ok(Some(received)) => received,
                Ok(None) => break,
                Err(error) if is_destroyed(&error) => return false,
                // A pending error of an earlier answer, such as an unreachable client.
                Err(_) => {
                    self.unsent += 1;
                    continue;
                }
            };
            let (Ok(question), Some(from), Some(to)) =
                (Datagram::read_from_bytes(&buffer[..received.length]), received.from, received.to)
            else {
                continue;
            };
            let answer = self.answer(question, to);
            match self.sockets[place].1.send_from(answer.as_bytes(), to, from) {
                Ok(()) => {}
                // Told once, to whoever asks the socket first.
                Err(error) if is_destroyed(&error) => return false,
                // As when the address leaves between question and answer.
                Err(_) => self.unsent += 1,
            }
        }
        true
    }

    /// Answers what arrived on a stream; returns `false` when it has ended.
    fn answer_stream(&mut self, stream: &mut Stream) -> bool {
        let mut buffer = [0; 256];
        let Ok(local) = stream.stream.local_addr() else { return false };
        loop {
            match stream.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => stream.arrived.extend(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) => {
                    self.destroyed += u64::from(is_destroyed(&error));
                    return false;
                }
            }
            while let Ok((question, _)) = Datagram::read_from_prefix(&stream.arrived) {
                stream.arrived.drain(..size_of::<Datagram>());
                let answer = self.answer(question, local.ip());
                if stream.stream.write_all(answer.as_bytes()).is_err() {
                    self.unsent += 1;
                    return false;
                }
            }
        }
    }
}

/// Takes connections at a port, of either family.
fn accept_at(port: u16) -> Result<[TcpListener; 2]> {
    let listen = |local: IpAddr| -> Result<TcpListener> {
        let listener = socket::tcp_listener(SocketAddr::new(local, port))
            .with_context(|| format!("cannot bind TCP port {port} of {local}"))?;
        listener.set_nonblocking(true).context("cannot make a listener non-blocking")?;
        Ok(listener)
    };
    Ok([listen(Ipv4Addr::UNSPECIFIED.into())?, listen(Ipv6Addr::UNSPECIFIED.into())?])
}

fn accept(listeners: &[TcpListener]) -> Result<Vec<TcpStream>> {
    let mut accepted = Vec::new();
    for listener in listeners {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true).context("cannot make a stream non-blocking")?;
            accepted.push(stream);
        }
    }
    Ok(accepted)
}

/// What the kernel says of a socket that `SOCK_DESTROY` ended.
fn is_destroyed(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECONNABORTED)
}

/// Opens the socket for one local address, which need not be configured yet.
fn listen(local: IpAddr) -> Result<Socket> {
    let socket = Socket::udp_beside(SocketAddr::new(local, SERVICE_PORT))
        .with_context(|| format!("cannot bind UDP port {SERVICE_PORT} of {local}"))?;
    socket
        .keep_destinations(local.is_ipv4())
        .with_context(|| format!("cannot ask for destinations at {local}"))?;
    Ok(socket)
}
