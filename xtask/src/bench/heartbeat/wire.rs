//! The frame that is sent, and who notes when it arrives.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use ::lab::{
    clock::{self, RealTime},
    socket::Socket,
};
use anyhow::{Context, Result, anyhow, ensure};
use benches::{
    cable::{Cable, INTERFACE},
    packets::{MY_MAC, PEER_MAC},
};
use hb_ebpf::{time::BootTime, wire::FRAME_LEN};

/// As long as a heartbeat over Ethernet, of EtherType "Local Experimental 2", which nobody else uses.
pub(super) const FRAME: [u8; 14 + FRAME_LEN] = frame();

const ETHERTYPE: [u8; 2] = [0x88, 0xb6];

const fn frame() -> [u8; 14 + FRAME_LEN] {
    let mut frame = [0; 14 + FRAME_LEN];
    let mut n = 0;
    while n < 6 {
        frame[n] = MY_MAC[n];
        frame[n + 6] = PEER_MAC[n];
        n += 1;
    }
    frame[12] = ETHERTYPE[0];
    frame[13] = ETHERTYPE[1];
    frame
}

/// Above the hogs and the senders, so that its buffer never runs full.
const PRIORITY: i32 = 90;
/// Room for more than a second of frames at the shortest interval.
const BUFFER: i32 = 64 << 20;

/// Notes arrivals, by the time the kernel stamped on them.
pub(super) struct Receiver {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<BootTime>>>,
}

impl Receiver {
    /// Begins at the node's end of the cable.
    pub(super) fn start(cable: &Cable) -> Result<Self> {
        let socket = cable.node.enter(|| Socket::packet_on(INTERFACE))??;
        socket.keep_times(BUFFER).context("cannot ask for times of arrival")?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let thread = thread::Builder::new()
            .name("receive".into())
            .spawn(move || receive(&socket, &asked))
            .context("cannot start the receiver")?;
        Ok(Self { stop, thread })
    }

    /// Returns all arrivals in order.
    pub(super) fn finish(self) -> Result<Vec<BootTime>> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().map_err(|_| anyhow!("the receiver panicked"))?
    }
}

fn receive(socket: &Socket, stop: &AtomicBool) -> Result<Vec<BootTime>> {
    clock::real_time(PRIORITY).context("cannot have SCHED_FIFO")?;
    let mut arrivals = Vec::with_capacity(1 << 17);
    let mut buffer = [0; FRAME.len()];
    loop {
        let last = stop.load(Ordering::Acquire);
        let clock = RealTime::sample();
        while let Some(received) = socket.receive(&mut buffer, clock)? {
            if received.length == FRAME.len() && buffer[12..14] == ETHERTYPE {
                arrivals.push(received.at.context("an arrival without its time")?);
            }
        }
        if last {
            let lost = socket.lost()?;
            ensure!(lost == 0, "{lost} frames had no room and were not noted");
            return Ok(arrivals);
        }
        thread::sleep(Duration::from_millis(1));
    }
}
