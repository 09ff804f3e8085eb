//! `cargo xtask bench --against REV`: this tree and another revision in turns, in the same minutes.
//!
//! Whatever the machine does meanwhile, it does to both; so the ratio within each round is what
//! counts, and yesterday's figures never do.

mod ratio;
mod revision;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use ::lab::Lab;
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use self::{
    ratio::{Compared, Pair},
    revision::Revision,
};
use super::{
    facts,
    failover::{Failover, Timers},
    figures::write_json,
    kernel,
};
use crate::{prepare, run};

/// How to compare with another revision.
#[derive(Debug, Args)]
pub(crate) struct Against {
    /// Build this revision as well and measure both in turns; fail if this tree is slower.
    #[arg(long, value_name = "REV")]
    against: Option<String>,
    /// Rounds; each measures everything once with either.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Also the micro-benchmarks: building them takes minutes, and running them too.
    #[arg(long)]
    criterion: bool,
    /// Only see whether it works: one round, and of the daemons alone.
    #[arg(long, conflicts_with_all = ["rounds", "criterion"])]
    smoke: bool,
    /// Write every round to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Samples of each cost in one round.
const SAMPLES: &str = "20";

#[derive(Serialize)]
struct Report<'a> {
    machine: BTreeMap<String, String>,
    against: &'a str,
    figures: &'a [Compared],
}

/// What one round gave: the value of each figure.
type Values = BTreeMap<String, f64>;

impl Against {
    /// Returns the revision that is asked for.
    pub(crate) fn revision(&self) -> Option<&str> {
        self.against.as_deref()
    }

    /// Builds `revision`, measures both in turns, and shows the ratios.
    ///
    /// # Errors
    ///
    /// If one cannot be built or measured, if a crash did not end in a takeover, or if this tree is
    /// slower.
    pub(crate) fn run(&self, revision: &str) -> Result<()> {
        prepare::machine()?;
        let (rounds, costs) = if self.smoke { (1, false) } else { (self.rounds, true) };
        // On a machine that is busy otherwise, as in a check of every change, a holder that stalls for
        // a millisecond is not one that crashed.
        let timers = if self.smoke { Timers { interval: "4ms", misses: 20 } } else { Timers::FAST };
        let mut then = Side::up(Revision::build(revision, costs)?, timers, self.smoke)?;
        let mut now = Side::up(Revision::present(costs)?, timers, self.smoke)?;
        let mut pairs: BTreeMap<String, Vec<Pair>> = BTreeMap::new();
        for round in 1..=rounds {
            // Neither is always the first.
            let (first, second) =
                if round % 2 == 1 { (&mut then, &mut now) } else { (&mut now, &mut then) };
            let (first, second) =
                (first.measure(round, self.criterion)?, second.measure(round, self.criterion)?);
            let (old, new) = if round % 2 == 1 { (first, second) } else { (second, first) };
            for (name, then) in old {
                if let Some(&now) = new.get(&name) {
                    pairs.entry(name).or_default().push(Pair { then, now });
                }
            }
            println!("round {round}/{rounds}: {} figures of both", pairs.len());
        }
        let failed = [&then, &now].map(|side| (side.revision.name.clone(), side.failed));
        drop((then, now));

        ensure!(!pairs.is_empty(), "{revision} has no figure that this tree has too");
        let compared: Vec<_> =
            pairs.into_iter().map(|(name, pairs)| Compared::new(name, pairs)).collect();
        println!("\n{}{}", facts::lines(&facts::machine()), ratio::table(revision, &compared));
        if let Some(path) = &self.json {
            let machine = facts::machine();
            write_json(path, &Report { machine, against: revision, figures: &compared })?;
        }
        let slower: Vec<_> = compared.iter().filter(|c| c.is_slower()).map(|c| &*c.name).collect();
        ensure!(slower.is_empty(), "slower than {revision}: {}", slower.join(", "));
        for (name, failed) in failed {
            ensure!(
                failed == 0,
                "{failed} of {rounds} crashes with the daemon of {name} did not end as they must: what was \
                 said of each is above"
            );
        }
        Ok(())
    }
}

/// A revision, and the lab in which its daemons run.
struct Side {
    revision: Revision,
    lab: Lab,
    timers: Timers,
    /// Whether a run that a stall of the machine explains is done again.
    smoke: bool,
    /// Crashes that did not end in a takeover.
    failed: u32,
}

impl Side {
    fn up(revision: Revision, timers: Timers, smoke: bool) -> Result<Self> {
        let lab = Failover::lab_for_comparison(&revision.hb, timers)?;
        Ok(Self { revision, lab, timers, smoke, failed: 0 })
    }

    fn measure(&mut self, round: u32, criterion: bool) -> Result<Values> {
        let name = &self.revision.name;
        let mut values = Values::new();
        // A round without this figure still has the others, and the rounds before it are not lost.
        match Failover::crash(&mut self.lab, round, self.smoke)? {
            Ok(us) => {
                let Timers { interval, misses } = self.timers;
                values.insert(format!("outage after a crash, {misses} x {interval} (us)"), us);
            }
            Err(error) => {
                self.failed += 1;
                println!("round {round}: a crash with the daemon of {name}: {error:#}");
            }
        }
        if let Some(xtask) = &self.revision.xtask {
            values.extend(kernel_costs(xtask).with_context(|| format!("kernel costs of {name}"))?);
        }
        if criterion {
            let means = self.revision.criterion();
            values.extend(means.with_context(|| format!("micro-benchmarks of {name}"))?);
        }
        Ok(values)
    }
}

/// Has a revision measure its own programs.
fn kernel_costs(xtask: &Path) -> Result<Values> {
    let file = std::env::temp_dir().join(format!("hb-against-{}.json", std::process::id()));
    let mut command = std::process::Command::new(xtask);
    command.args(["bench", "kernel", "--samples", SAMPLES, "--json"]).arg(&file);
    run::output(&mut command)?;
    let text = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    let report: kernel::Report = serde_json::from_slice(&text)?;
    Ok(report.kernel.into_iter().map(|cost| (format!("{} (ns)", cost.name), cost.ns.p50)).collect())
}
