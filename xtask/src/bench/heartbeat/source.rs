//! The senders: threads under each kind of scheduling, and two ways of the kernel's own.

use std::{thread, time::Duration};

use ::lab::{clock, netns, socket::Socket};
use anyhow::{Context, Result, anyhow, bail};
use benches::{
    bpf::{Hook, Program},
    cable::Cable,
};
use clap::ValueEnum;
use hb_ebpf::time::BootTime;
use hb_user::realtime::{self, Demand, Policy};

use super::wire::FRAME;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Source {
    /// A thread under ordinary scheduling.
    Ordinary,
    /// A thread under SCHED_FIFO.
    Fifo,
    /// A thread under SCHED_DEADLINE, as hb's prober.
    Deadline,
    /// The same thread, but the frame is the kernel's: BPF_PROG_TEST_RUN with live frames.
    LiveFrames,
    /// No thread: a frame goes round through a token bucket (tbf) between two veth ends, and a
    /// program of traffic control sends a copy out each time.
    Circle,
}

/// What a sender knows of what it did.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// How late each frame was, in microseconds; for a stall, how late each one was that was due.
    pub(super) late_us: Option<Vec<f64>>,
    /// What the kernel refused.
    pub(super) note: Option<String>,
}

/// Above the hogs of the lab.
const PRIORITY: u8 = 50;
/// Loopback, from which live frames pretend to come.
const LOOPBACK: u32 = 1;
/// The two ends between which a frame goes round.
const CIRCLE: [&str; 2] = ["hb-round0", "hb-round1"];

impl Source {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ordinary => "ordinary",
            Self::Fifo => "SCHED_FIFO",
            Self::Deadline => "SCHED_DEADLINE",
            Self::LiveFrames => "live frames",
            Self::Circle => "tbf and clone",
        }
    }

    /// Sends for `time` from the peers' end of the cable.
    pub(super) fn send(self, cable: &Cable, interval: Duration, time: Duration) -> Result<Sent> {
        let index = cable.peers_index;
        match self {
            Self::Circle => circle(cable, interval, time),
            Self::LiveFrames => {
                let program = Program::redirect(index)?;
                let send = move || program.send(&FRAME, LOOPBACK, 1, 1);
                self.thread(cable, interval, time, send)
            }
            Self::Ordinary | Self::Fifo | Self::Deadline => {
                let socket = cable.peers.enter(|| Socket::packet(0))??;
                self.thread(cable, interval, time, move || socket.send_frame_to(index, &FRAME))
            }
        }
    }

    /// Runs a thread that calls `send` at its times.
    fn thread(
        self,
        cable: &Cable,
        interval: Duration,
        time: Duration,
        send: impl Fn() -> std::io::Result<()> + Send,
    ) -> Result<Sent> {
        let entry = cable.peers.entry()?;
        thread::scope(|scope| {
            let sender = scope.spawn(move || -> Result<Sent> {
                entry.enter().context("cannot enter the peers' namespace")?;
                let note = self.schedule(interval)?;
                realtime::tighten_timers().context("cannot have exact timers")?;
                let late_us = Some(keep_pace(interval, time, send)?);
                Ok(Sent { late_us, note })
            });
            sender.join().map_err(|_| anyhow!("the sender panicked"))?
        })
    }

    /// Gives the calling thread its scheduling; returns what it got instead.
    fn schedule(self, interval: Duration) -> Result<Option<String>> {
        match self {
            Self::Fifo => clock::real_time(PRIORITY.into()).context("cannot have SCHED_FIFO")?,
            Self::Deadline | Self::LiveFrames => {
                let got = realtime::prefer_deadline(Demand {
                    runtime: interval / 4,
                    deadline: interval / 2,
                    period: interval,
                    fifo_priority: PRIORITY,
                });
                if !matches!(got.policy, Policy::Deadline { .. }) {
                    return Ok(Some(format!("got {:?}", got.policy)));
                }
            }
            Self::Ordinary | Self::Circle => {}
        }
        Ok(None)
    }
}

/// Calls `send` every `interval` on an absolute schedule. After a stall it goes on with the schedule,
/// and what was due meanwhile counts as late as it was then.
fn keep_pace(
    interval: Duration,
    time: Duration,
    send: impl Fn() -> std::io::Result<()>,
) -> Result<Vec<f64>> {
    let count = (time.as_nanos() / interval.as_nanos().max(1)) as usize;
    let mut late_us = Vec::with_capacity(count);
    let mut due = clock::now().after(interval);
    while late_us.len() < count {
        clock::sleep_until(due);
        let now = clock::now();
        send().context("cannot send a frame")?;
        while due <= now && late_us.len() < count {
            late_us.push(now.since(due).as_nanos() as f64 / 1e3);
            due = due.after(interval);
        }
    }
    Ok(late_us)
}

/// Lets a frame go round in the kernel.
fn circle(cable: &Cable, interval: Duration, time: Duration) -> Result<Sent> {
    let [first, second] = CIRCLE;
    let inside = &cable.peers;
    inside.ip_batch(&format!(
        "link add {first} type veth peer name {second}\nlink set {first} up\nlink set {second} up"
    ))?;
    let bits = FRAME.len() as u128 * 8 * 1_000_000_000 / interval.as_nanos().max(1);
    let rate = format!("{bits}bit");
    // Room for one frame, so that it is never early, whatever happened before.
    let burst = FRAME.len().to_string();
    let tbf = ["qdisc", "add", "dev", first, "root", "tbf", "rate", &rate];
    let bucket = ["burst", &burst, "limit", "10000"];
    netns::run("tc", &[&["-n", inside.name()], &tbf[..], &bucket].concat())?;
    let out = cable.peers_index;
    inside.enter(|| -> Result<()> {
        let index =
            |name| ::lab::socket::interface_index(name).with_context(|| format!("{name} is gone"));
        let (to, from) = (index(first)?, index(second)?);
        let program = Program::clone_and_return(out, to)?;
        let _held = program.attach(Hook::TcxIngress, from)?;
        let socket = Socket::packet(0)?;
        socket.send_frame_to(to, &FRAME).context("cannot send the first frame")?;
        let end: BootTime = clock::now().after(time);
        clock::sleep_until(end);
        Ok(())
    })??;
    if interval.is_zero() {
        bail!("a frame that goes round without a pause stops the machine");
    }
    Ok(Sent::default())
}
