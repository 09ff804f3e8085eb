//! The client: asks the service address at a steady pace, on absolute deadlines, and keeps who
//! answered what and when, and what its wire said of the address meanwhile.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use hb_ebpf::time::BootTime;
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    addresses::{Machine, NODES, SERVICE_PORT, VIP4},
    capture::{Capture, Claim},
    clock::{self, RealTime},
    netns::{Entry, Netns},
    responder::Datagram,
    socket::Socket,
};

/// How a client asks.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The service address, or any other with a responder behind it.
    pub target: SocketAddr,
    /// Time between two questions.
    pub interval: Duration,
    /// The client stops by itself after this long.
    pub limit: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            target: (VIP4, SERVICE_PORT).into(),
            interval: Duration::from_micros(100),
            limit: Duration::from_secs(10),
        }
    }
}

/// One question answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Number of the question, from 0.
    pub sequence: u64,
    /// Who answered.
    pub node: Machine,
    /// Newest epoch that node had held by then.
    pub epoch: u64,
    /// When the question was sent.
    pub sent: BootTime,
    /// When the answer arrived at the client's interface.
    pub received: BootTime,
}

/// All a client saw.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    /// When each question was sent, by its number.
    pub sent: Vec<BootTime>,
    /// What was answered, in order of arrival.
    pub answers: Vec<Answer>,
    /// Claims of a service address on the client's wire, in order of arrival.
    pub claims: Vec<Claim>,
    /// Questions the client's own kernel refused to send.
    pub send_errors: u64,
    /// The longest that a question left after its time: how far to trust a single figure.
    pub worst_lateness: Duration,
    /// Why the client ran with ordinary scheduling, if it did.
    pub scheduling: Option<String>,
}

impl Observations {
    /// Returns the first answer of `node` at or after `from`.
    #[must_use]
    pub fn first_answer(&self, node: Machine, from: BootTime) -> Option<Answer> {
        self.answers.iter().copied().find(|a| a.node == node && a.received >= from)
    }

    /// Returns the last answer of `node`.
    #[must_use]
    pub fn last_answer(&self, node: Machine) -> Option<Answer> {
        self.answers.iter().rev().copied().find(|a| a.node == node)
    }

    /// Returns the longest time between two consecutive answers.
    #[must_use]
    pub fn longest_gap(&self) -> Option<Duration> {
        self.answers.windows(2).map(|pair| pair[1].received.since(pair[0].received)).max()
    }
}

/// A client at work.
#[derive(Debug)]
pub struct Client {
    stop: Arc<AtomicBool>,
    newest: Arc<[AtomicU64; NODES.len()]>,
    sender: Option<JoinHandle<Result<Sent>>>,
    receiver: Option<JoinHandle<Result<Heard>>>,
}

/// What the receiving thread knows.
#[derive(Debug)]
struct Heard {
    answers: Vec<Answer>,
    claims: Vec<Claim>,
}

/// What the sending thread knows.
#[derive(Debug)]
struct Sent {
    times: Vec<BootTime>,
    errors: u64,
    worst_lateness: Duration,
    scheduling: Option<String>,
}

/// Claims kept at most.
const MAX_CLAIMS: usize = 10_000;
/// How often the receiver looks; the times are the kernel's, so this costs no accuracy.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// After the last question, answers may still be on their way.
const LINGER: Duration = Duration::from_millis(50);

impl Client {
    /// Begins to ask from within `netns`.
    ///
    /// # Errors
    ///
    /// If a socket or a thread cannot be made.
    pub fn start(netns: &Netns, pace: Pace) -> Result<Self> {
        let (socket, capture) = netns.enter(|| -> Result<_> {
            let local: SocketAddr = if pace.target.is_ipv4() {
                (Ipv4Addr::UNSPECIFIED, 0).into()
            } else {
                (Ipv6Addr::UNSPECIFIED, 0).into()
            };
            let socket = Socket::udp(local).context("cannot open the client's socket")?;
            socket.keep_times(8 << 20).context("cannot ask for times of arrival")?;
            let capture = Capture::open().context("cannot watch the client's wire")?;
            Ok((Arc::new(socket), capture))
        })??;
        let stop = Arc::new(AtomicBool::new(false));
        let newest = Arc::new([const { AtomicU64::new(0) }; NODES.len()]);
        let receiver = {
            let (socket, stop, newest) = (socket.clone(), stop.clone(), newest.clone());
            thread::Builder::new()
                .name("client-receive".into())
                .spawn(move || receive(&socket, &capture, pace, &stop, &newest))
                .context("cannot start the client's receiver")?
        };
        let sender = {
            let (stop, entry) = (stop.clone(), netns.entry()?);
            thread::Builder::new()
                .name("client-send".into())
                .spawn(move || send(&entry, &socket, pace, &stop))
                .context("cannot start the client's sender")?
        };
        Ok(Self { stop, newest, sender: Some(sender), receiver: Some(receiver) })
    }

    /// Returns when the newest answer of `node` arrived, [`BootTime::NEVER`] before the first.
    #[must_use]
    pub fn newest_answer(&self, node: Machine) -> BootTime {
        NODES
            .iter()
            .position(|&n| n == node)
            .map_or(BootTime::NEVER, |i| BootTime(self.newest[i].load(Ordering::Acquire)))
    }

    /// Waits until `node` has answered after `since`; returns whether that was within `limit`.
    #[must_use]
    pub fn wait_for_answer(&self, node: Machine, since: BootTime, limit: Duration) -> bool {
        let end = clock::now().after(limit);
        while self.newest_answer(node) <= since {
            if clock::now() > end {
                return false;
            }
            thread::sleep(LOOK_INTERVAL);
        }
        true
    }

    /// Stops asking and returns all that was seen.
    ///
    /// # Errors
    ///
    /// If a socket broke meanwhile.
    pub fn finish(mut self) -> Result<Observations> {
        self.stop.store(true, Ordering::Release);
        let sent = join(self.sender.take())?;
        let heard = join(self.receiver.take())?;
        Ok(Observations {
            sent: sent.times,
            answers: heard.answers,
            claims: heard.claims,
            send_errors: sent.errors,
            worst_lateness: sent.worst_lateness,
            scheduling: sent.scheduling,
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn join<T>(thread: Option<JoinHandle<Result<T>>>) -> Result<T> {
    thread
        .context("the client was finished twice")?
        .join()
        .map_err(|_| anyhow!("a thread of the client panicked"))?
}

fn send(entry: &Entry, socket: &Socket, pace: Pace, stop: &AtomicBool) -> Result<Sent> {
    entry.enter().context("cannot enter the client's namespace")?;
    let scheduling = clock::real_time(20).err().map(|error| error.to_string());
    let interval_ns = pace.interval.as_nanos().max(1) as u64;
    let count = pace.limit.as_nanos() as u64 / interval_ns;
    let mut sent = Sent {
        times: Vec::with_capacity(count as usize),
        errors: 0,
        worst_lateness: Duration::ZERO,
        scheduling,
    };
    let start = clock::now().after(pace.interval);
    let mut due = start;
    for sequence in 0..count {
        if stop.load(Ordering::Acquire) {
            break;
        }
        clock::sleep_until(due);
        let now = clock::now();
        sent.worst_lateness = sent.worst_lateness.max(now.since(due));
        let question =
            Datagram { sequence: sequence.into(), sent_ns: now.ns().into(), ..Datagram::default() };
        sent.times.push(now);
        if socket.send_to(question.as_bytes(), pace.target).is_err() {
            sent.errors += 1;
        }
        // After a stall the pace goes on; the questions that were due meanwhile are not made up
        // for, which would only measure the stall.
        due = due.after(pace.interval).max(clock::now());
    }
    Ok(sent)
}

fn receive(
    socket: &Socket,
    capture: &Capture,
    pace: Pace,
    stop: &AtomicBool,
    newest: &[AtomicU64; NODES.len()],
) -> Result<Heard> {
    let room = (pace.limit.as_nanos() / pace.interval.as_nanos().max(1)) as usize;
    let mut answers = Vec::with_capacity(room);
    let mut claims = Vec::with_capacity(MAX_CLAIMS);
    let mut end = clock::now().after(pace.limit + LINGER);
    let mut stopping = false;
    let mut buffer = [0; 64];
    let mut clock = RealTime::sample();
    loop {
        let now = clock::now();
        if !stopping && stop.load(Ordering::Acquire) {
            stopping = true;
            end = end.min(now.after(LINGER));
        }
        clock = clock.again();
        // A pending error belongs to a question, such as one to a port nobody has open; it is
        // seen as an answer that is missing.
        while let Some(received) = socket.receive(&mut buffer, clock).unwrap_or(None) {
            let Ok(datagram) = Datagram::read_from_bytes(&buffer[..received.length]) else {
                continue;
            };
            let Some(index) = NODES.iter().position(|node| node.id() == datagram.node) else {
                continue;
            };
            let at = received.at.unwrap_or_else(clock::now);
            newest[index].store(at.ns(), Ordering::Release);
            if answers.len() < room {
                answers.push(Answer {
                    sequence: datagram.sequence.get(),
                    node: NODES[index],
                    epoch: datagram.epoch.get(),
                    sent: BootTime(datagram.sent_ns.get()),
                    received: at,
                });
            }
        }
        capture.drain(clock, &mut claims, MAX_CLAIMS).context("the client's capture broke")?;
        if now > end {
            return Ok(Heard { answers, claims });
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

/// Asks `address` every two milliseconds until a node answers; `None` if none did within `limit`.
///
/// # Errors
///
/// If the socket cannot be made.
pub fn who_serves(netns: &Netns, address: IpAddr, limit: Duration) -> Result<Option<Machine>> {
    let pace =
        Pace { target: (address, SERVICE_PORT).into(), interval: Duration::from_millis(2), limit };
    let client = Client::start(netns, pace)?;
    let end = clock::now().after(limit);
    while clock::now() < end {
        thread::sleep(LOOK_INTERVAL);
        for node in NODES {
            if client.newest_answer(node) != BootTime::NEVER {
                client.finish()?;
                return Ok(Some(node));
            }
        }
    }
    client.finish()?;
    Ok(None)
}
