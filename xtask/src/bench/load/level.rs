//! The ladder: what works against the cluster, from nothing to a frozen daemon.

use std::{thread, time::Duration};

use ::lab::{
    addresses::{Machine, NODES},
    clock,
    load::{self, Kind},
    node::Process,
    switch::Wires,
};
use anyhow::{Context, Result};
use clap::ValueEnum;
use hb_ebpf::time::BootTime;

use crate::bench::compare::System;

/// A rung of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Level {
    /// Nothing but the clusters and their clients.
    #[value(name = "L0")]
    Idle,
    /// Eight busy loops.
    #[value(name = "L1")]
    Hogs,
    /// Threads that wake each other all the time.
    #[value(name = "L2")]
    Switches,
    /// Two hundred timers of 1 ms.
    #[value(name = "L3")]
    Timers,
    /// A SCHED_FIFO busy loop on every core.
    #[value(name = "L4")]
    Fifo,
    /// Foreign frames, junk and forged heartbeats on every link of each cluster.
    #[value(name = "L5")]
    Flood,
    /// The holder's daemon stopped for half a second every two, and continued.
    #[value(name = "L6")]
    Freeze,
    /// One packet in five to a node lost, each by itself, on every link of each cluster.
    #[value(name = "L7")]
    Lossy,
}

/// All, from the bottom.
pub(super) const LEVELS: [Level; 8] = [
    Level::Idle,
    Level::Hogs,
    Level::Switches,
    Level::Timers,
    Level::Fifo,
    Level::Flood,
    Level::Freeze,
    Level::Lossy,
];

/// Packets to a node that are lost, in percent.
const LOSS: u32 = 20;

/// How long a daemon is stopped, and how long it then runs.
const FROZEN: Duration = Duration::from_millis(500);
const THAWED: Duration = Duration::from_millis(1500);

impl Level {
    /// Returns its word on the command line and in the file.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Idle => "L0",
            Self::Hogs => "L1",
            Self::Switches => "L2",
            Self::Timers => "L3",
            Self::Fifo => "L4",
            Self::Flood => "L5",
            Self::Freeze => "L6",
            Self::Lossy => "L7",
        }
    }

    /// Returns it in a few words.
    pub(super) const fn what(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Hogs => "8 busy loops",
            Self::Switches => "context switches",
            Self::Timers => "200 timers of 1 ms",
            Self::Fifo => "SCHED_FIFO hog per core",
            Self::Flood => "packet flood",
            Self::Freeze => "daemon stopped 0.5 s in 2 s",
            Self::Lossy => "one packet in five lost",
        }
    }

    /// Starts what it puts on the machine or on the links of one of `systems`. Processes end by
    /// themselves after `limit`, and all of it ends when what is returned is dropped.
    pub(super) fn start(self, systems: &[Box<dyn System>], limit: Duration) -> Result<Load> {
        let agent = std::env::current_exe().context("cannot tell which executable this is")?;
        let begin = |kind: Kind, system: &dyn System| {
            let lab = system.lab();
            let netns = match kind {
                Kind::Flood => lab.switch().netns(),
                _ => lab.netns(Machine::Client),
            };
            let log = lab.files().directory.join(format!("load-{kind}.log"));
            load::start(&agent, kind, netns, limit, &log)
        };
        let on_first = |kind| {
            let first = systems.first().context("no system is under load")?;
            Ok(vec![begin(kind, first.as_ref())?])
        };
        let processes = match self {
            Self::Idle | Self::Freeze | Self::Lossy => Ok(Vec::new()),
            Self::Hogs => on_first(Kind::Hogs),
            Self::Switches => on_first(Kind::Switches),
            Self::Timers => on_first(Kind::Timers),
            Self::Fifo => on_first(Kind::Fifo),
            Self::Flood => {
                systems.iter().map(|system| begin(Kind::Flood, system.as_ref())).collect()
            }
        };
        let mut load = Load { processes: processes?, lossy: Vec::new() };
        if self == Self::Lossy {
            for system in systems {
                load.lose(system.lab().switch());
            }
        }
        Ok(load)
    }

    /// Passes the time until `end`, freezing and thawing where that is what the level does;
    /// returns when what was frozen.
    pub(super) fn pass(
        self,
        systems: &mut [Box<dyn System>],
        holders: &[Machine],
        load: &mut Load,
        end: BootTime,
    ) -> Result<Vec<(BootTime, BootTime)>> {
        let mut frozen = Vec::new();
        while clock::now() < end {
            if self != Self::Freeze || clock::now().after(FROZEN + THAWED) > end {
                let rest = Duration::from_nanos(end.ns().saturating_sub(clock::now().ns()));
                thread::sleep(rest.min(Duration::from_millis(500)));
                for process in &mut load.processes {
                    process.check()?;
                }
                continue;
            }
            let from = clock::now();
            for (system, &holder) in systems.iter_mut().zip(holders) {
                system.freeze(holder, true)?;
            }
            thread::sleep(FROZEN);
            for (system, &holder) in systems.iter_mut().zip(holders) {
                system.freeze(holder, false)?;
            }
            frozen.push((from, clock::now()));
            thread::sleep(THAWED);
        }
        Ok(frozen)
    }
}

/// What a level has put on.
pub(super) struct Load {
    processes: Vec<Process>,
    /// Switches that lose packets.
    lossy: Vec<Wires>,
}

impl Load {
    fn lose(&mut self, wires: &Wires) {
        for node in NODES {
            wires.lose(node, LOSS);
        }
        self.lossy.push(wires.clone());
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for wires in &self.lossy {
            for node in NODES {
                wires.lose(node, 0);
            }
        }
    }
}
