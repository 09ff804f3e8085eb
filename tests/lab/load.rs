//! Load for the lab's machine and wires: processes that work against a cluster for a bounded time.
//!
//! Each ends by itself at its deadline, so that the machine comes back whatever happens to the
//! process that started it.

use std::{
    fmt,
    io::{Read, Write},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
    process::Stdio,
    str::FromStr,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use hb_ebpf::time::BootTime;

use crate::{
    addresses::{Link, Machine, NODES},
    clock,
    netns::Netns,
    node::Process,
    socket::{Socket, interface_index},
    switch::port_name,
};

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Eight busy loops under ordinary scheduling.
    Hogs,
    /// Four pairs of threads that wake each other through pipes.
    Switches,
    /// Two hundred timers of 1 ms and who reads them.
    Timers,
    /// A busy loop under `SCHED_FIFO` at a low priority on every core.
    Fifo,
    /// Frames to the nodes on every link: foreign datagrams, junk with the heartbeat's EtherType,
    /// genuine heartbeats with a wrong tag, where the nodes send any.
    Flood,
}

/// Above every ordinary thread, below the lab's client and responders, which are to go on
/// measuring.
const FIFO: i32 = 10;

/// All kinds with their words.
const KINDS: [(Kind, &str); 5] = [
    (Kind::Hogs, "hogs"),
    (Kind::Switches, "switches"),
    (Kind::Timers, "timers"),
    (Kind::Fifo, "fifo"),
    (Kind::Flood, "flood"),
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = KINDS.iter().find(|(kind, _)| kind == self).map_or("", |(_, word)| word);
        f.write_str(word)
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        let found = KINDS.iter().find(|(_, name)| *name == word).map(|&(kind, _)| kind);
        found.with_context(|| format!("no load is called {word:?}"))
    }
}

/// Starts a load in a namespace; for [`Kind::Flood`] that of the switch. It ends after `limit`, or
/// when the process is dropped.
///
/// # Errors
///
/// If it cannot be run.
pub fn start(
    agent: &Path,
    kind: Kind,
    netns: &Netns,
    limit: Duration,
    log: &Path,
) -> Result<Process> {
    let mut command = netns.command(agent)?;
    command
        .args(["lab-load", &kind.to_string(), &limit.as_secs().max(1).to_string()])
        .stdin(Stdio::null());
    Process::spawn(command, format!("load {kind}"), log)
}

/// The load's own side.
///
/// # Errors
///
/// If the arguments name none, or a thread, timer, pipe or socket cannot be made.
pub fn agent(arguments: &[String]) -> Result<()> {
    let [kind, seconds] = arguments else {
        bail!("needs a kind and a number of seconds, got {arguments:?}");
    };
    let seconds: u64 = seconds.parse().with_context(|| format!("{seconds:?} is no time"))?;
    let end = clock::now().after(Duration::from_secs(seconds));
    match kind.parse()? {
        Kind::Hogs => threads((0..8).map(|_| move || spin(end))),
        Kind::Switches => switches(end),
        Kind::Timers => timers(end),
        Kind::Fifo => {
            let cores = thread::available_parallelism().context("cannot count cores")?.get();
            threads((0..cores).map(|core| {
                move || {
                    pin(core)?;
                    clock::real_time(FIFO).context("cannot have SCHED_FIFO")?;
                    spin(end)
                }
            }))
        }
        Kind::Flood => flood(end),
    }
}

/// Runs one thread per piece of work and waits for all.
fn threads<W>(work: impl Iterator<Item = W>) -> Result<()>
where
    W: FnOnce() -> Result<()> + Send + 'static,
{
    let running: Vec<_> = work.map(thread::spawn).collect();
    for thread in running {
        thread.join().map_err(|_| anyhow::anyhow!("a thread of the load panicked"))??;
    }
    Ok(())
}

fn spin(end: BootTime) -> Result<()> {
    while clock::now() < end {
        for _ in 0..1000 {
            std::hint::spin_loop();
        }
    }
    Ok(())
}

/// Binds the calling thread to a core.
///
/// # Errors
///
/// Whatever the kernel says, as of a core that is not there.
pub fn pin(core: usize) -> Result<()> {
    // SAFETY: all-zero is an empty set; the set lives until the call returns.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error()).with_context(|| format!("cannot bind to core {core}"))
    }
}

fn switches(end: BootTime) -> Result<()> {
    let mut work: Vec<Box<dyn FnOnce() -> Result<()> + Send>> = Vec::new();
    for _ in 0..4 {
        let (mut from_left, mut to_right) = std::io::pipe().context("cannot make a pipe")?;
        let (mut from_right, mut to_left) = std::io::pipe().context("cannot make a pipe")?;
        work.push(Box::new(move || {
            let mut byte = [0];
            while clock::now() < end {
                to_right.write_all(&byte).context("the other end is gone")?;
                from_right.read_exact(&mut byte).context("the other end is gone")?;
            }
            Ok(())
        }));
        work.push(Box::new(move || {
            let mut byte = [0];
            // Ends when the first has, which closes its ends.
            while from_left.read_exact(&mut byte).is_ok() && to_left.write_all(&byte).is_ok() {}
            Ok(())
        }));
    }
    threads(work.into_iter())
}

fn timers(end: BootTime) -> Result<()> {
    const TIMERS: usize = 200;
    const PERIOD_NS: i64 = 1_000_000;
    let period = libc::timespec { tv_sec: 0, tv_nsec: PERIOD_NS };
    let setting = libc::itimerspec { it_interval: period, it_value: period };
    let mut timers = Vec::with_capacity(TIMERS);
    for _ in 0..TIMERS {
        // SAFETY: the first call takes no memory; its descriptor is fresh and nobody else's. The
        // second reads a setting that lives until it returns.
        let timer = unsafe {
            let fd = libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK);
            if fd < 0 {
                return Err(std::io::Error::last_os_error()).context("cannot make a timer");
            }
            let timer = OwnedFd::from_raw_fd(fd);
            if libc::timerfd_settime(fd, 0, &raw const setting, std::ptr::null_mut()) < 0 {
                return Err(std::io::Error::last_os_error()).context("cannot set a timer");
            }
            timer
        };
        timers.push(timer);
    }
    let fds: Vec<RawFd> = timers.iter().map(AsRawFd::as_raw_fd).collect();
    while clock::now() < end {
        let mut waits: Vec<_> =
            fds.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
        // SAFETY: `waits` is valid for the call and as long as said.
        unsafe { libc::poll(waits.as_mut_ptr(), waits.len() as libc::nfds_t, 100) };
        let mut count = [0_u8; 8];
        for wait in waits.iter().filter(|wait| wait.revents != 0) {
            // SAFETY: the buffer has the eight bytes a timer gives. That another read was first,
            // or none is due, is no matter.
            unsafe { libc::read(wait.fd, count.as_mut_ptr().cast(), count.len()) };
        }
    }
    Ok(())
}

fn flood(end: BootTime) -> Result<()> {
    let sender = Socket::packet(0).context("cannot open a packet socket")?;
    let genuine = genuine()?;
    let mut frames = Vec::new();
    for node in NODES {
        for &link in node.links() {
            let index = interface_index(&port_name(node, link))
                .with_context(|| format!("no port of {node} on {}", link.name()))?;
            for frame in [foreign(node, link), junk(node, link)] {
                frames.push((index, frame));
            }
        }
        let index = interface_index(&port_name(node, Link::Direct))?;
        match genuine.iter().find(|(from, _)| *from == node.peer()) {
            Some((_, heartbeat)) => frames.push((index, forged(heartbeat))),
            None => println!("flood: {} sends no heartbeat that could be forged", node.peer()),
        }
    }
    let mut sent = 0_u64;
    let mut lost = 0_u64;
    while clock::now() < end {
        for (index, frame) in &frames {
            match sender.send_frame_to(*index, frame) {
                Ok(()) => sent += 1,
                // A full queue loses a frame, as a wire would.
                Err(_) => lost += 1,
            }
        }
    }
    println!("flood: {sent} frames sent, {lost} refused");
    Ok(())
}

/// Returns a heartbeat with another tag, which are its last bytes.
fn forged(heartbeat: &[u8]) -> Vec<u8> {
    let mut forged = heartbeat.to_vec();
    if let Some(last) = forged.last_mut() {
        *last ^= 1;
    }
    forged
}

/// Catches one heartbeat of each node, of those that send any, as it leaves its port of the direct
/// link.
fn genuine() -> Result<Vec<(Machine, Vec<u8>)>> {
    let mut caught = Vec::new();
    for node in NODES {
        let port = port_name(node, Link::Direct);
        let tap = Socket::packet_on(&port).with_context(|| format!("cannot listen on {port}"))?;
        let end = clock::now().after(Duration::from_millis(500));
        let mut buffer = [0; 2048];
        while clock::now() < end {
            match tap.receive(&mut buffer, clock::RealTime::sample())? {
                Some(received) if buffer[12..14] == HEARTBEAT => {
                    caught.push((node, buffer[..received.length].to_vec()));
                    break;
                }
                Some(_) => {}
                None => thread::sleep(Duration::from_millis(1)),
            }
        }
    }
    Ok(caught)
}

/// EtherType of heartbeats on a cable.
const HEARTBEAT: [u8; 2] = [0x88, 0xb5];

fn header(node: Machine, link: Link, ethertype: [u8; 2]) -> Vec<u8> {
    let mut frame = node.mac(link).0.to_vec();
    frame.extend(node.peer().mac(link).0);
    frame.extend(ethertype);
    frame
}

/// A datagram to a port nobody has open.
fn foreign(node: Machine, link: Link) -> Vec<u8> {
    let mut frame = header(node, link, [8, 0]);
    let mut ip = vec![0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, libc::IPPROTO_UDP as u8, 0, 0];
    ip.extend(node.peer().v4(link).octets());
    ip.extend(node.v4(link).octets());
    let sum: u32 =
        ip.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    frame.extend(ip);
    // From port 9 to port 9, without a checksum.
    frame.extend([0, 9, 0, 9, 0, 40, 0, 0]);
    frame.extend([0; 32]);
    frame
}

/// Bytes behind the heartbeat's EtherType that are none.
fn junk(node: Machine, link: Link) -> Vec<u8> {
    let mut frame = header(node, link, HEARTBEAT);
    frame.extend((0..200_u8).map(|number| number.wrapping_mul(167)));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_have_words_and_ends() {
        for (kind, word) in KINDS {
            assert_eq!(word.parse::<Kind>().unwrap(), kind);
            assert_eq!(kind.to_string(), word);
        }
        assert!("storm".parse::<Kind>().is_err());
        let begin = clock::now();
        for kind in ["hogs", "switches", "timers"] {
            agent(&[kind.into(), "0".into()]).unwrap();
        }
        assert!(clock::now().since(begin) < Duration::from_secs(5));
    }

    #[test]
    fn a_foreign_datagram_has_a_right_checksum() {
        let frame = foreign(Machine::A, Link::Client);
        let sum: u32 = frame[14..34]
            .chunks_exact(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
