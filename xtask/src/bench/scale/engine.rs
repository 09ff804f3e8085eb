//! A node with many peers: the real thread that probes, the real programs and timers, and at the other
//! end of the cable one thread that stands in for all peers.

use std::{fmt::Write as _, fs, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use benches::{
    bpf::{Hook, Program, Statistics},
    cable::{Cable, INTERFACE},
    crowd::{Crowd, Done},
    half::{self, Half, LINK},
    packets::{MY_MAC, PEER_MAC},
};
use hb_ebpf::maps::Transport;
use hb_user::{
    clock,
    fast::{Fast, Outlet, Setup, Target},
    id::NodeId,
    link::{Ends, LinkSocket},
    realtime::Demand,
};
use serde::Serialize;

use super::maps;

/// What was measured of one size.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Engine {
    pub(super) peers: usize,
    pub(super) interval_us: u64,
    /// How the thread ran.
    pub(super) scheduling: String,
    /// Probes that left, in a second, and how many should have.
    pub(super) probes_per_s: f64,
    pub(super) due_per_s: f64,
    /// Part of these that were answered.
    pub(super) answered: f64,
    /// Frames taken by the program in a second: answers to ours, and the peers' probes.
    pub(super) frames_per_s: f64,
    /// Mean time of one of them in the program, in nanoseconds.
    pub(super) frame_ns: f64,
    /// Part of one core that the thread took.
    pub(super) thread_core: f64,
    /// Part of one core that the program took.
    pub(super) program_core: f64,
    /// Intervals without an arrival, and those that were this machine's fault.
    pub(super) misses: u64,
    pub(super) doubts: u64,
    /// Peers declared dead, though none was.
    pub(super) deaths: u64,
    /// The longest that one of the crowd was late: a crowd that falls behind is silent, and misses
    /// are then its own.
    pub(super) crowd_late_us: f64,
    /// Memory of all maps.
    pub(super) map_bytes: u64,
}

/// Until all peers have been heard and every timer has its pace.
const SETTLE: Duration = Duration::from_millis(300);
const THREAD: &str = "hb-fast";

/// As the daemon asks for it.
fn demand(interval: Duration) -> Demand {
    let period = interval.max(Duration::from_millis(1));
    Demand {
        runtime: (period / 2).min(Duration::from_millis(1)),
        deadline: period,
        period,
        fifo_priority: Demand::DEFAULT_FIFO_PRIORITY,
    }
}

impl Engine {
    pub(super) fn measure(peers: usize, interval: Duration, time: Duration) -> Result<Self> {
        let cable = Cable::lay()?;
        let empty = Program::empty(Hook::Xdp)?;
        let _held = cable.peers.enter(|| empty.attach(Hook::Xdp, cable.peers_index))??;
        let ids: Vec<NodeId> = half::peers().take(peers).collect();
        let index = cable.node_index;
        let mut half = cable.node.enter(|| -> Result<Half> {
            let mut half = Half::open(1, Transport::Ethernet, index, PEER_MAC)?;
            half.kernel.attach(INTERFACE, index, None)?;
            for &id in &ids {
                half.introduce(id)?;
            }
            Ok(half)
        })??;
        let members = ids.iter().map(|&id| half.stand_in_for(id)).collect();
        let known = ids.clone();
        let crowd = Crowd::start(&cable, members, interval, move |frame| {
            known.iter().position(|id| id.0 == frame.destination)
        })?;
        let fast = cable.node.enter(|| start(&mut half, &ids, index, interval))??;
        for &id in &ids {
            half.watch(id, interval)?;
        }
        thread::sleep(SETTLE);

        let _statistics = Statistics::hold().context("BPF_ENABLE_STATS")?;
        let program = half.program("heartbeat")?;
        let take = |half: &Half| -> Result<Reading> { Reading::take(half, &fast, &program, &ids) };
        let before = take(&half)?;
        let begin = clock::now();
        thread::sleep(time);
        let after = take(&half)?;
        let seconds = clock::now().since(begin).as_secs_f64();
        let scheduling = fast.running().scheduling.policy.to_string();
        let map_bytes = maps::bytes()?;
        drop(fast);
        let done: Done = crowd.finish()?;

        let per_second = |count: u64| count as f64 / seconds;
        let sent = after.sent - before.sent;
        let counted = after.program.since(before.program);
        ensure!(sent > 0, "no probe left");
        Ok(Self {
            peers,
            interval_us: interval.as_micros() as u64,
            scheduling,
            probes_per_s: per_second(sent),
            due_per_s: peers as f64 / interval.as_secs_f64(),
            answered: (after.answers - before.answers) as f64 / sent as f64,
            frames_per_s: per_second(counted.runs),
            frame_ns: counted.mean_ns().context("the program did not run")?,
            thread_core: per_second(after.thread_ns - before.thread_ns) / 1e9,
            program_core: per_second(counted.run_time_ns) / 1e9,
            misses: after.misses - before.misses,
            doubts: after.doubts - before.doubts,
            deaths: after.deaths - before.deaths,
            crowd_late_us: done.late.as_nanos() as f64 / 1e3,
            map_bytes,
        })
    }
}

fn start(half: &mut Half, ids: &[NodeId], index: u32, interval: Duration) -> Result<Fast> {
    let mut targets = Vec::new();
    for &peer in ids {
        let socket = LinkSocket::open(index, Ends::Ethernet { own: MY_MAC, peer: PEER_MAC })?;
        let outlet = Some(Outlet { socket, fingerprint: half::LINK_IS });
        targets.push(Target { peer, link: LINK, outlet, keys: half::keys(peer) });
    }
    Ok(Fast::start(Setup {
        targets,
        interval,
        effects: Vec::new(),
        shared: half.shared.clone(),
        events: half.kernel.events()?,
        judge: None,
        leases: half.kernel.leases()?,
        terms: half::terms()?,
        demand: demand(interval),
    })?)
}

/// All counters at one instant.
struct Reading {
    sent: u64,
    answers: u64,
    misses: u64,
    doubts: u64,
    deaths: u64,
    thread_ns: u64,
    program: benches::bpf::Counted,
}

impl Reading {
    fn take(half: &Half, fast: &Fast, program: &Program, ids: &[NodeId]) -> Result<Self> {
        let sent = fast
            .counters()
            .iter()
            .map(|counters| counters.sent.load(std::sync::atomic::Ordering::Relaxed))
            .sum();
        let mut reading = Self {
            sent,
            answers: 0,
            misses: 0,
            doubts: 0,
            deaths: 0,
            thread_ns: thread_ns()?,
            program: program.counted()?,
        };
        for &id in ids {
            let peer = half.shared.peer(id).context("no such peer")?;
            let (_, link) = half.shared.link(id, LINK).context("no such link")?;
            reading.answers += link.rtts.total();
            reading.misses += peer.misses_total;
            reading.doubts += peer.doubts_total;
            reading.deaths += peer.deaths_total;
        }
        Ok(reading)
    }
}

/// Returns the CPU time of the thread that probes, in nanoseconds: the first word of its `schedstat`
/// (`Documentation/scheduler/sched-stats.rst`).
fn thread_ns() -> Result<u64> {
    for entry in fs::read_dir("/proc/self/task").context("cannot list the threads")? {
        let path = entry?.path();
        // A thread may end meanwhile.
        let Ok(name) = fs::read_to_string(path.join("comm")) else { continue };
        if name.trim() != THREAD {
            continue;
        }
        let text = fs::read_to_string(path.join("schedstat")).context("no schedstat")?;
        return text
            .split_whitespace()
            .next()
            .and_then(|word| word.parse().ok())
            .with_context(|| format!("schedstat {text:?}"));
    }
    anyhow::bail!("no thread is called {THREAD}")
}

/// Returns the table for a person.
pub(super) fn table(engines: &[Engine]) -> String {
    let mut table = format!(
        "{:>6}{:>10}{:>11}{:>9}{:>10}{:>10}{:>10}{:>8}{:>10}{:>9}{:>8}{:>8}{:>8}{:>12}{:>9}\n",
        "peers",
        "interval",
        "probes/s",
        "of due",
        "answered",
        "frames/s",
        "ns/frame",
        "thread",
        "program",
        "together",
        "misses",
        "doubts",
        "deaths",
        "crowd late",
        "maps"
    );
    for engine in engines {
        let part = |part: f64| format!("{:.1}%", part * 100.0);
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "{:>6}{:>10}{:>11.0}{:>9}{:>10}{:>10.0}{:>10.0}{:>8}{:>10}{:>9}{:>8}{:>8}{:>8}{:>12}{:>9}  {}",
            engine.peers,
            format!("{} us", engine.interval_us),
            engine.probes_per_s,
            part(engine.probes_per_s / engine.due_per_s),
            part(engine.answered),
            engine.frames_per_s,
            engine.frame_ns,
            part(engine.thread_core),
            part(engine.program_core),
            part(engine.thread_core + engine.program_core),
            engine.misses,
            engine.doubts,
            engine.deaths,
            format!("{:.0} us", engine.crowd_late_us),
            format!("{} KiB", engine.map_bytes / 1024),
            engine.scheduling
        );
    }
    table
}
