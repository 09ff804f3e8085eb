//! Many peers at the far end of a cable, on one thread: each probes on its own schedule and answers
//! every probe to it, authentically.

use std::{
    io,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use ::lab::socket::Socket;
use anyhow::{Context, Result, anyhow};
use hb_ebpf::{
    maps::Transport,
    time::BootTime,
    wire::{ETHERTYPE, FRAME_LEN, Frame, Kind},
};
use hb_user::clock;
use zerocopy::FromBytes;

use crate::{cable::Cable, packets, stand_in::StandIn};

/// What the crowd did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Probes it sent.
    pub probes: u64,
    /// Probes to it that it answered.
    pub answers: u64,
    /// Answers to its probes.
    pub answered: u64,
    /// The longest that one of its probes was late.
    pub late: Duration,
}

/// A crowd at work.
#[derive(Debug)]
pub struct Crowd {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Done>>>,
}

/// Above everything that is measured: the peers are machines of their own, whom nobody here delays.
const PRIORITY: i32 = 80;
/// Bytes of the receive buffer.
const BUFFER: i32 = 32 << 20;
const HEADER: usize = 14;

impl Crowd {
    /// Starts it at the peers' end of the cable: each probes once per `interval`. `who` returns which
    /// member a frame is for, counted in the order of `members`.
    ///
    /// # Errors
    ///
    /// If a socket or the thread cannot be made.
    pub fn start(
        cable: &Cable,
        members: Vec<StandIn>,
        interval: Duration,
        who: impl Fn(&Frame) -> Option<usize> + Send + 'static,
    ) -> Result<Self> {
        let socket = cable.peers.enter(|| Socket::packet(ETHERTYPE))??;
        socket.keep_times(BUFFER).context("cannot have a large buffer")?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let index = cable.peers_index;
        let entry = cable.peers.entry()?;
        let thread = thread::Builder::new()
            .name("crowd".into())
            .spawn(move || {
                entry.enter().context("cannot enter the peers' namespace")?;
                ::lab::clock::real_time(PRIORITY).context("cannot have SCHED_FIFO")?;
                work(&socket, index, members, interval, who, &asked)
            })
            .context("cannot start the crowd")?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it; returns what it did.
    ///
    /// # Errors
    ///
    /// If its socket broke.
    pub fn finish(mut self) -> Result<Done> {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().context("the crowd ended before")?;
        thread.join().map_err(|_| anyhow!("the crowd panicked"))?
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn work(
    socket: &Socket,
    index: u32,
    mut members: Vec<StandIn>,
    interval: Duration,
    who: impl Fn(&Frame) -> Option<usize>,
    stop: &AtomicBool,
) -> Result<Done> {
    let mut done = Done::default();
    // Spread over the interval, as machines that started at different times.
    let step = interval / members.len().max(1) as u32;
    let start = clock::now().after(interval);
    let mut due: Vec<BootTime> = (0..members.len()).map(|n| start.after(step * n as u32)).collect();
    let mut next = 0;
    while !stop.load(Ordering::Acquire) {
        let mut idle = true;
        while let Some(frame) = receive(socket)? {
            idle = false;
            let Some(number) = who(&frame) else { continue };
            let Some(member) = members.get_mut(number) else { continue };
            let now = clock::now();
            member.hear(&frame, now);
            if frame.kind == Kind::Probe as u8 {
                let answer = member.frame(Kind::Answer, now);
                send(socket, index, &answer)?;
                done.answers += 1;
            } else {
                done.answered += 1;
            }
        }
        // In order of time: the schedule goes round.
        while let (Some(at), Some(member)) = (due.get_mut(next), members.get_mut(next)) {
            let now = clock::now();
            if now < *at {
                break;
            }
            idle = false;
            done.late = done.late.max(now.since(*at));
            let probe = member.frame(Kind::Probe, now);
            send(socket, index, &probe)?;
            done.probes += 1;
            // What a stall swallowed is not made up for.
            *at = at.after(interval).max(now);
            next = (next + 1) % members.len();
        }
        if idle {
            wait(socket);
        }
    }
    Ok(done)
}

/// Waits for a frame, not for long: probes are due meanwhile.
fn wait(socket: &Socket) {
    let mut poll = libc::pollfd { fd: socket.raw().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let time = libc::timespec { tv_sec: 0, tv_nsec: 10_000 };
    // SAFETY: one valid entry and a time, both alive for the call; no signal mask. Whatever it
    // returns, the loop goes round.
    unsafe { libc::ppoll(&raw mut poll, 1, &raw const time, std::ptr::null()) };
}

fn send(socket: &Socket, index: u32, frame: &Frame) -> Result<()> {
    let packet = packets::heartbeat(Transport::Ethernet, frame);
    socket.send_frame_to(index, &packet).context("cannot send a frame")
}

fn receive(socket: &Socket) -> io::Result<Option<Frame>> {
    let mut buffer = [0_u8; HEADER + FRAME_LEN];
    // SAFETY: the buffer is writable for its length.
    let length = unsafe {
        libc::recv(socket.raw(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT)
    };
    if length < 0 {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        };
    }
    // What is shorter is no heartbeat, and no member is found for a frame of zeros.
    Ok(Some(Frame::read_from_bytes(&buffer[HEADER..]).unwrap_or_default()))
}
