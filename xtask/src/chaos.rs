//! `cargo xtask chaos`: random faults under the eyes of the judge, until one breaks the promise or
//! none has.

use std::{fs, path::PathBuf, time::Duration};

use ::lab::{
    Lab, Options,
    chaos::{self, Lengths, RunReport},
    faults::{Kind, NETWORK},
};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{policy::Policy, prepare, run, timeline::Distribution};

/// Breaks the lab at random, run after run, and judges what leaves the nodes.
///
/// Ends with 1 on the first run that had two servers, or no service in time, and prints its seed
/// and what happened in which order; `--runs 1 --seed` with that seed chooses the same faults.
#[derive(Debug, Args)]
pub(crate) struct Chaos {
    /// How often.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    runs: u32,
    /// Seed of the first run; each later run has the next number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Who may serve when the nodes do not hear each other.
    #[arg(long, value_enum, default_value = "witness")]
    policy: Policy,
    /// Whether the kernel checks each packet. With `bypass` the judge must find violations.
    #[arg(long, value_enum, default_value = "on")]
    gate: Gate,
    /// Have the service addresses on both nodes, so that nothing but the gate tells them apart.
    #[arg(long)]
    warm: bool,
    /// Choose only among these kinds of faults, separated by commas. `network` stands for those of a
    /// cable, a port or an interface that lasts for seconds: each run has one then, and is also judged
    /// by whether the service is where it can be reached, soon enough, and moved no more than once.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = kinds)]
    faults: Vec<Kinds>,
    /// Go on after a run that failed.
    #[arg(long)]
    keep_going: bool,
    /// Length of a lease.
    #[arg(long, value_name = "DURATION", value_parser = crate::policy::duration)]
    lease: Option<Duration>,
    /// Longest time from the gate to the wire that the cluster reckons with.
    #[arg(long, value_name = "DURATION", value_parser = crate::policy::duration)]
    margin: Option<Duration>,
    /// Time between two heartbeats.
    #[arg(long, value_name = "DURATION", value_parser = crate::policy::duration)]
    interval: Option<Duration>,
    /// Write all runs and their summary to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Use this hb binary instead of building one.
    #[arg(long, value_name = "FILE")]
    hb: Option<PathBuf>,
}

/// What the gate does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Gate {
    /// It drops what has no lease.
    On,
    /// It looks at nothing.
    Bypass,
}

impl Gate {
    const fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Bypass => "bypass",
        }
    }
}

/// Kinds of faults that one word stands for.
#[derive(Clone, Debug)]
struct Kinds(Vec<Kind>);

fn kinds(word: &str) -> Result<Kinds> {
    if word == "network" { Ok(Kinds(NETWORK.to_vec())) } else { Ok(Kinds(vec![word.parse()?])) }
}

/// What a series found, as it is written to a file.
#[derive(Debug, Serialize)]
struct Report {
    policy: &'static str,
    gate: &'static str,
    runs: Vec<RunReport>,
    summary: Summary,
}

#[derive(Debug, Serialize)]
struct Summary {
    runs: usize,
    /// Runs with anything wrong.
    failed: usize,
    /// Runs with two servers where there may be one.
    with_violations: usize,
    /// Answers that were judged.
    answers: usize,
    /// The longest silence of each run.
    silence_us: Distribution,
    /// From the end of the mending to the next answer.
    back_us: Distribution,
    /// How long two nodes served in each partition in which they did; only `available` may.
    dual_us: Distribution,
}

impl Summary {
    fn of(runs: &[RunReport]) -> Self {
        let distribution = |ns: Vec<u64>| Distribution::of(ns.iter().map(|&n| n as i64).collect());
        Self {
            runs: runs.len(),
            failed: runs.iter().filter(|run| !run.failures.is_empty()).count(),
            with_violations: runs.iter().filter(|run| run.violations > 0).count(),
            answers: runs.iter().map(|run| run.answers).sum(),
            silence_us: distribution(runs.iter().map(|run| run.silence_ns).collect()),
            back_us: distribution(runs.iter().filter_map(|run| run.back_ns).collect()),
            dual_us: distribution(
                runs.iter().flat_map(|run| &run.duals).map(|dual| dual.dual_ns).collect(),
            ),
        }
    }
}

impl Chaos {
    /// Runs all; fails if any run did.
    pub(crate) fn run(&self) -> Result<()> {
        prepare::machine()?;
        let mut lengths = Lengths::of(self.policy.name());
        lengths.lease = self.lease.unwrap_or(lengths.lease);
        lengths.margin = self.margin.unwrap_or(lengths.margin);
        lengths.interval = self.interval.unwrap_or(lengths.interval);
        let gate = (self.gate == Gate::Bypass).then_some(self.gate.name());
        let mut settings = lengths.settings(self.policy.name(), gate);
        settings.warm = self.warm;
        let possible = chaos::Chaos::all_kinds(&settings);
        let asked: Vec<_> = self.faults.iter().flat_map(|kinds| &kinds.0).copied().collect();
        for kind in asked.iter().filter(|kind| kind.needs_witness()) {
            ensure!(possible.contains(kind), "policy {} has no {kind}", self.policy.name());
        }
        let kinds = if asked.is_empty() { possible } else { asked };
        let chaos = chaos::Chaos { lengths, kinds };

        let mut options = Options::new()?;
        options.hb = Some(::lab::binary::hb(self.hb.as_deref())?);
        options.settings = settings;
        options.disks = true;
        options.limit = Duration::from_secs(24 * 3600);
        let mut lab = chaos::Chaos::start(options)?;
        println!(
            "lab {}: policy {}, gate {}{}, {} x {:?}, lease {:?}, margin {:?}; runs {}, seed {}",
            lab.name(),
            self.policy.name(),
            self.gate.name(),
            if self.warm { ", warm addresses" } else { "" },
            lengths.misses,
            lengths.interval,
            lengths.lease,
            lengths.margin,
            self.runs,
            self.seed
        );
        let (runs, broken) = self.series(&chaos, &mut lab);
        let failed = runs.iter().find(|run| !run.failures.is_empty());
        let logs =
            if failed.is_some() || broken.is_some() { Some(lab.keep_files()?) } else { None };
        drop(lab);
        self.show(failed, &runs)?;
        if let Some(logs) = &logs {
            println!("logs are kept in {}", logs.display());
        }
        if let Some(error) = broken {
            return Err(error);
        }
        if let Some(run) = failed {
            bail!("seed {}: {}", run.seed, run.failures.join("; "));
        }
        Ok(())
    }

    /// Does the runs; returns them, and why the series could not go on, if it could not.
    fn series(
        &self,
        chaos: &chaos::Chaos,
        lab: &mut Lab,
    ) -> (Vec<RunReport>, Option<anyhow::Error>) {
        let mut runs = Vec::new();
        let begin = run::now();
        for number in 1..=self.runs {
            let seed = self.seed.wrapping_add(u64::from(number) - 1);
            let report = match chaos.run(lab, seed) {
                Ok(report) => report,
                Err(error) => return (runs, Some(error.context(format!("seed {seed}")))),
            };
            let elapsed = begin.elapsed().as_secs_f64();
            println!("run {number}/{} at {elapsed:.0} s: {}", self.runs, report.line());
            let failed = !report.failures.is_empty();
            runs.push(report);
            if failed && !self.keep_going {
                break;
            }
        }
        (runs, None)
    }

    fn show(&self, failed: Option<&RunReport>, runs: &[RunReport]) -> Result<()> {
        if let Some(run) = failed {
            println!("\nseed {}, {}:", run.seed, run.faults.join(", "));
            for line in &run.timeline {
                println!("{line}");
            }
        }
        let summary = Summary::of(runs);
        let ms = |us: Option<f64>| us.map_or_else(|| "-".into(), |us| format!("{:.1}", us / 1e3));
        println!(
            "\nruns {}, failed {}, with two servers {}; {} answers judged; longest silence of a \
             run p50 {} ms, max {} ms; back after mending p50 {} ms, max {} ms",
            summary.runs,
            summary.failed,
            summary.with_violations,
            summary.answers,
            ms(summary.silence_us.p50),
            ms(summary.silence_us.max),
            ms(summary.back_us.p50),
            ms(summary.back_us.max),
        );
        if summary.dual_us.max.is_some() {
            println!(
                "two servers within partitions, as policy {} accepts: p50 {} ms, max {} ms",
                self.policy.name(),
                ms(summary.dual_us.p50),
                ms(summary.dual_us.max)
            );
        }
        let Some(path) = &self.json else { return Ok(()) };
        let report = Report {
            policy: self.policy.name(),
            gate: self.gate.name(),
            runs: runs.to_vec(),
            summary,
        };
        let text = serde_json::to_string_pretty(&report)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("numbers are in {}", path.display());
        Ok(())
    }
}
