//! `cargo xtask bench scale`: how much work many peers are, for a node and for a machine that only
//! votes, and what a thousand nodes would need.

mod engine;
mod maps;
mod plan;
mod witness;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use self::{engine::Engine, plan::Plan, witness::Votes};
use super::{facts, figures::write_json};
use crate::prepare;

/// Measures an engine with up to 63 peers and a witness with up to 1,000 groups.
#[derive(Debug, Args)]
pub(crate) struct Scale {
    /// Peers and the time between two probes, as in 63/1ms; may be repeated.
    #[arg(long = "engine", value_parser = engine_size, default_values = ["1/1ms", "8/1ms", "16/1ms", "32/1ms", "63/1ms", "8/100us"])]
    engines: Vec<(usize, Duration)>,
    /// Clusters of two nodes and eight groups that a witness votes in; may be repeated.
    #[arg(long = "clusters", default_values_t = [1, 25, 125], value_parser = clap::value_parser!(u32).range(1..=128))]
    clusters: Vec<u32>,
    /// How long each is watched, in seconds.
    #[arg(long = "for", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only see whether it works, within seconds.
    #[arg(long)]
    smoke: bool,
}

#[derive(Serialize)]
struct Report {
    machine: BTreeMap<String, String>,
    engine: Vec<Engine>,
    witness: Vec<Votes>,
    plan: Vec<Plan>,
}

fn engine_size(text: &str) -> Result<(usize, Duration), String> {
    let (peers, interval) =
        text.split_once('/').ok_or_else(|| format!("{text:?} is not like 63/1ms"))?;
    let peers = peers.parse().map_err(|_| format!("{peers:?} is no number of peers"))?;
    if !(1..=benches::half::peers().count()).contains(&peers) {
        return Err(format!("{peers} peers: a node knows 1 to {}", benches::half::peers().count()));
    }
    Ok((peers, crate::policy::duration(interval)?))
}

impl Scale {
    /// Tells whether its figures are not meant to be read.
    pub(crate) fn is_smoke(&self) -> bool {
        self.smoke
    }

    /// Measures, shows and writes.
    pub(crate) fn run(&self) -> Result<()> {
        prepare::machine()?;
        let time = Duration::from_secs(if self.smoke { 1 } else { self.seconds });
        let engines = if self.smoke { &[(8, Duration::from_millis(1))][..] } else { &self.engines };
        let clusters = if self.smoke { &[5][..] } else { &self.clusters };
        let mut engine = Vec::new();
        for &(peers, interval) in engines {
            let size = || format!("an engine with {peers} peers at {interval:?}");
            engine.push(Engine::measure(peers, interval, time).with_context(size)?);
            println!("{}", size());
        }
        let mut witness = Vec::new();
        for &clusters in clusters {
            let size = || format!("a witness of {clusters} clusters");
            witness.push(Votes::measure(clusters, time).with_context(size)?);
            println!("{}", size());
        }
        let (Some(largest), Some(voting)) = (
            engine.iter().max_by_key(|engine| engine.peers),
            witness.iter().max_by_key(|votes| votes.clusters),
        ) else {
            bail!("nothing was asked for");
        };
        let plan = plan::plan(largest, voting);
        let report = Report { machine: facts::machine(), engine, witness, plan };
        println!(
            "\n{}\n{}\n{}\n{}",
            facts::lines(&report.machine),
            engine::table(&report.engine),
            witness::table(&report.witness),
            plan::table(&report.plan)
        );
        match &self.json {
            Some(path) => write_json(path, &report),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_peers_and_an_interval() {
        assert_eq!(engine_size("8/100us"), Ok((8, Duration::from_micros(100))));
        for wrong in ["8", "0/1ms", "64/1ms", "8/1", "/1ms"] {
            assert!(engine_size(wrong).is_err(), "{wrong}");
        }
    }
}
