//! `cargo xtask bench kernel`: what a packet costs in the programs.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context, Result};
use benches::cost::{Cases, Class, Live};
use clap::Args;
use hb_ebpf::wire::{FRAME_LEN, Kind};
use serde::{Deserialize, Serialize};

use super::{
    facts,
    figures::{Figures, write_json},
};
use crate::prepare;

/// Measures nanoseconds per packet in the kernel half, beside programs that do nothing.
#[derive(Debug, Args)]
pub(crate) struct Kernel {
    /// Samples of each kind of packet, taken in turns.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    samples: u32,
    /// Runs of the program in each sample; the kernel tells their mean.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    repeat: u32,
    /// Only packets whose name has this in it, and what they are compared with; real frames are not
    /// sent then.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Write what was measured to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only see whether it works, within seconds.
    #[arg(long)]
    smoke: bool,
}

/// Frames in each sample of what cannot be repeated.
const BATCH: u64 = 500;

/// What was measured of one kind of packet, in nanoseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// What it is.
    pub(crate) name: String,
    /// Its distribution over the samples, each a mean.
    pub(crate) ns: Figures,
    /// How much its median is above that of a program that does nothing.
    pub(crate) over_empty_ns: f64,
    /// What that is not to be above.
    pub(crate) aim_ns: Option<f64>,
}

/// All of it, with the machine it is from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// See [`facts::machine`].
    pub(crate) machine: BTreeMap<String, String>,
    /// In the order of measurement.
    pub(crate) kernel: Vec<Cost>,
}

impl Kernel {
    /// Tells whether its figures are not meant to be read.
    pub(crate) fn is_smoke(&self) -> bool {
        self.smoke
    }

    /// Measures, shows, and writes the file if one is asked for.
    pub(crate) fn run(&self) -> Result<()> {
        prepare::machine()?;
        let (samples, repeat) =
            if self.smoke { (5, 2_000) } else { (self.samples as usize, self.repeat) };
        let mut costs = repeated(samples, repeat, self.only.as_deref().unwrap_or_default())?;
        if self.only.is_none() {
            costs.extend(live(samples)?);
        }
        let report = Report { machine: facts::machine(), kernel: costs };
        println!("{}", report.text());
        match &self.json {
            Some(path) => write_json(path, &report),
            None => Ok(()),
        }
    }
}

fn repeated(samples: usize, repeat: u32, only: &str) -> Result<Vec<Cost>> {
    let mut cases = Cases::new()?;
    cases.all.retain(|case| case.class == Class::Empty || case.name.contains(only));
    let mut taken = vec![Vec::with_capacity(samples); cases.all.len()];
    for _ in 0..samples {
        for (case, taken) in cases.all.iter().zip(&mut taken) {
            taken.push(case.run(repeat)?.as_nanos() as f64);
        }
    }
    let mut costs = Vec::new();
    let mut medians = Vec::new();
    for (case, taken) in cases.all.iter().zip(&taken) {
        let ns = Figures::of(taken).context("no sample")?;
        medians.push((case.class, case.hook, ns.p50));
        let empty = medians
            .iter()
            .find(|(class, hook, _)| *class == Class::Empty && *hook == case.hook)
            .map_or(0.0, |(_, _, median)| *median);
        costs.push(Cost {
            name: case.name.clone(),
            ns,
            over_empty_ns: ns.p50 - empty,
            aim_ns: match case.class {
                Class::Empty | Class::Refused => None,
                Class::Foreign => Some(20.0),
                Class::Gated => Some(40.0),
            },
        });
    }
    Ok(costs)
}

/// What is allowed for a heartbeat checked, answered and signed: 350 ns at 96 bytes, and 2 ns for
/// each further one.
const HEARTBEAT_AIM_NS: f64 = 350.0 + 2.0 * (FRAME_LEN as f64 - 96.0);

fn live(samples: usize) -> Result<Vec<Cost>> {
    let mut costs = Vec::new();
    for groups in [0, 1, 8] {
        let mut live = Live::new(groups)?;
        let kinds = [(Kind::Probe, "answered: probe"), (Kind::Answer, "taken: answer")];
        let mut taken = [Vec::new(), Vec::new()];
        let mut empty = Vec::new();
        for _ in 0..samples {
            for ((kind, _), taken) in kinds.iter().zip(&mut taken) {
                let batch = live.batch(*kind, BATCH)?;
                taken.push(batch.frame_ns);
                empty.extend(batch.empty_ns);
            }
        }
        let empty = Figures::of(&empty).context("no answer was counted")?;
        let width = if groups == 1 { "group" } else { "groups" };
        for ((kind, name), taken) in kinds.iter().zip(&taken) {
            let ns = Figures::of(taken).context("no sample")?;
            costs.push(Cost {
                name: format!("{name}, {groups} {width}"),
                ns,
                over_empty_ns: ns.p50 - empty.p50,
                aim_ns: (*kind == Kind::Probe).then_some(HEARTBEAT_AIM_NS),
            });
        }
        if groups == 0 {
            costs.push(Cost {
                name: "empty, XDP, real frames".into(),
                ns: empty,
                over_empty_ns: 0.0,
                aim_ns: None,
            });
        }
    }
    Ok(costs)
}

impl Report {
    fn text(&self) -> String {
        const WIDTH: usize = 34;
        let mut text = facts::lines(&self.machine);
        text.push('\n');
        text.push_str(&Figures::head("nanoseconds", WIDTH));
        text.push_str(&format!("{:>12}{:>8}\n", "over empty", "aim"));
        for cost in &self.kernel {
            text.push_str(&cost.ns.row(&cost.name, WIDTH));
            let aim = cost.aim_ns.map_or_else(String::new, |aim| {
                let missed = if cost.over_empty_ns > aim { " missed" } else { "" };
                format!("{aim:>8.0}{missed}")
            });
            text.push_str(&format!("{:>12.1}{aim}\n", cost.over_empty_ns));
        }
        text
    }
}
