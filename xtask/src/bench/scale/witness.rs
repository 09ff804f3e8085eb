//! A witness of many clusters.

use std::{fmt::Write as _, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use benches::{
    bpf::{Hook, Program, Statistics},
    cable::Cable,
    crowd::Crowd,
    votes,
};
use hb_ebpf::wire::GROUPS;
use hb_user::clock;
use serde::Serialize;

use super::maps;

/// What was measured of one size.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Votes {
    pub(super) clusters: u32,
    pub(super) groups: usize,
    /// Of them, those promised at the end to the node that seeks them.
    pub(super) promised: usize,
    /// Time between two probes of a node.
    pub(super) interval_us: u64,
    /// Probes answered in a second.
    pub(super) answers_per_s: f64,
    /// Part of all probes.
    pub(super) answered: f64,
    /// Mean time of a frame in the program, in nanoseconds.
    pub(super) frame_ns: f64,
    /// Part of one core that the program took.
    pub(super) core: f64,
    pub(super) map_bytes: u64,
}

/// One sender stands in for all nodes, so it is the sender that limits how often each may ask.
const INTERVAL: Duration = Duration::from_millis(10);
const SETTLE: Duration = Duration::from_millis(200);

impl Votes {
    pub(super) fn measure(clusters: u32, time: Duration) -> Result<Self> {
        let cable = Cable::lay()?;
        let empty = Program::empty(Hook::Xdp)?;
        let _held = cable.peers.enter(|| empty.attach(Hook::Xdp, cable.peers_index))??;
        let witness = votes::Votes::open(&cable, clusters)?;
        let (nodes, who) = witness.nodes()?;
        let crowd = Crowd::start(&cable, nodes, INTERVAL, who)?;
        thread::sleep(SETTLE);
        let _statistics = Statistics::hold().context("BPF_ENABLE_STATS")?;
        let take = || -> Result<_> { Ok((witness.program().counted()?, witness.heard()?)) };
        let (before, first) = take()?;
        let begin = clock::now();
        thread::sleep(time);
        let (after, last) = take()?;
        let seconds = clock::now().since(begin).as_secs_f64();
        let promised = witness.promised()?;
        let map_bytes = maps::bytes()?;
        let done = crowd.finish()?;

        let counted = after.since(before);
        let groups = clusters as usize * GROUPS;
        ensure!(last > first, "the witness heard nobody");
        ensure!(promised == groups, "{promised} of {groups} groups are promised");
        Ok(Self {
            clusters,
            groups,
            promised,
            interval_us: INTERVAL.as_micros() as u64,
            answers_per_s: (last - first) as f64 / seconds,
            answered: done.answered as f64 / done.probes.max(1) as f64,
            frame_ns: counted.mean_ns().context("the program did not run")?,
            core: counted.run_time_ns as f64 / seconds / 1e9,
            map_bytes,
        })
    }
}

/// Returns the table for a person.
pub(super) fn table(all: &[Votes]) -> String {
    let mut table = format!(
        "{:>9}{:>8}{:>10}{:>10}{:>11}{:>10}{:>10}{:>8}{:>10}\n",
        "clusters",
        "groups",
        "promised",
        "interval",
        "answers/s",
        "answered",
        "ns/frame",
        "core",
        "maps"
    );
    for votes in all {
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "{:>9}{:>8}{:>10}{:>10}{:>11.0}{:>10}{:>10.0}{:>8}{:>10}",
            votes.clusters,
            votes.groups,
            votes.promised,
            format!("{} us", votes.interval_us),
            votes.answers_per_s,
            format!("{:.1}%", votes.answered * 100.0),
            votes.frame_ns,
            format!("{:.1}%", votes.core * 100.0),
            format!("{} KiB", votes.map_bytes / 1024)
        );
    }
    table
}
