//! `cargo xtask simulate`: clusters under a virtual time, from one seed to the next.

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::run;

/// Runs simulated clusters, each with faults drawn from its seed, and judges what their machines send.
///
/// Needs no privilege. Ends with 1 on the first run that had two servers, or no service in time, and tells
/// everything that happened in it; the same seed happens again in the same way.
#[derive(Debug, Args)]
pub(crate) struct Simulate {
    /// How many runs of each kind of cluster.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Seed of the first run; each later run has the next number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this kind of cluster.
    #[arg(long, value_enum)]
    cluster: Option<Cluster>,
    /// Tell everything that happened in runs that pass as well.
    #[arg(long)]
    show: bool,
}

/// Which machines there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Cluster {
    /// Two nodes and a witness.
    Witness,
    /// Three nodes, of which a majority votes.
    Three,
    /// Two nodes with fences.
    Safe,
    /// Two nodes, each on its own.
    Available,
}

impl Cluster {
    /// Returns the test that runs such clusters.
    const fn test(self) -> &'static str {
        match self {
            Self::Witness => "two_nodes_and_a_witness_never_serve_twice_and_always_again",
            Self::Three => "three_nodes_never_serve_twice_and_always_again",
            Self::Safe => "two_nodes_with_fences_never_serve_twice_and_always_again",
            Self::Available => "two_nodes_alone_serve_twice_only_while_they_cannot_hear_each_other",
        }
    }
}

impl Simulate {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When a run fails, or the simulation does not build.
    pub(crate) fn run(&self) -> Result<()> {
        self.seed.checked_add(self.seeds).context("there are not so many seeds: begin lower")?;
        let clusters = match &self.cluster {
            Some(cluster) => std::slice::from_ref(cluster),
            None => Cluster::value_variants(),
        };
        let mut command = run::cargo();
        command
            .args(["test", "--quiet", "--release", "--locked", "--package", "hb-user"])
            .args(["--test", "simulation", "--", "--exact", "--nocapture"])
            .args(clusters.iter().map(|cluster| cluster.test()))
            .env("HB_SIM_RUNS", self.seeds.to_string())
            .env("HB_SIM_SEED", self.seed.to_string());
        if self.show {
            command.env("HB_SIM_SHOW", "1");
        }
        let mut ran = 0;
        let done = run::run_lines(&mut command, |line| {
            ran += usize::from(line.contains(": Stats "));
        });
        done?;
        anyhow::ensure!(
            ran == clusters.len(),
            "of {} kinds of cluster {ran} ran: a test of the simulation has another name",
            clusters.len()
        );
        println!("{} runs of each kind from seed {}: none failed", self.seeds, self.seed);
        Ok(())
    }
}
