//! `cargo xtask bench compare`: hb beside what people use today, in the same minutes.

mod measure;
mod plot;
mod report;
mod system;

use std::{fs, path::PathBuf};

use ::lab::{
    Lab, Options,
    peers::{self, Peer},
};
use anyhow::{Context, Result, bail};
use clap::Args;

use self::report::{NotMeasured, Report};
pub(crate) use self::{
    measure::{Outcome, measure, measure_booted},
    system::{Hb, Other, System, Variant},
};
use super::facts;
use crate::{fault::Fault, packages, prepare};

/// Measures hb and other failover software in turns: the same lab, faults and client.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// Only this one beside hb, by the name in the table; may be repeated. All if not given.
    #[arg(long = "peer", value_name = "NAME")]
    peers: Vec<String>,
    /// Only hb as this line of the table; may be repeated. All if not given.
    #[arg(long = "hb-as", value_name = "NAME")]
    variants: Vec<String>,
    /// Runs of each; if not given, 30 of what is quick and fewer of what takes long.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: Option<u32>,
    /// What happens to the holder; may be repeated.
    #[arg(long = "fault", value_enum, default_values = ["crash"])]
    faults: Vec<Fault>,
    /// Write all runs and their summary to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Add to what the file of `--json` has, instead of beginning anew.
    #[arg(long, requires = "json")]
    append: bool,
    /// Only show and draw what the file of `--json` has.
    #[arg(long, requires = "json")]
    show: bool,
    /// Draw the outages into this SVG file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Use this hb binary instead of building one.
    #[arg(long, value_name = "FILE")]
    hb: Option<PathBuf>,
}

/// hb as it is compared.
const VARIANTS: [Variant; 3] = [
    Variant { name: "hb-100us", interval_us: 100, misses: 3, policy: "available", lease: None },
    Variant { name: "hb-200us", interval_us: 200, misses: 3, policy: "available", lease: None },
    Variant {
        name: "hb-witness",
        interval_us: 200,
        misses: 3,
        policy: "witness",
        lease: Some(("5ms", "1ms")),
    },
];

/// Runs of what settles within seconds, and of what does not.
const RUNS: u32 = 30;
const SLOW_RUNS: u32 = 8;
/// A system that takes longer than this to settle counts as slow.
const SLOW: std::time::Duration = std::time::Duration::from_millis(1500);

/// A system and how often it is to be run.
struct Planned {
    system: Box<dyn System>,
    runs: u32,
}

impl Compare {
    /// Runs all; fails if a run of hb did, or if nothing was measured.
    pub(crate) fn run(&self) -> Result<()> {
        if let (Some(path), true) = (&self.json, self.show) {
            return self.draw(&Report::read(path)?);
        }
        prepare::machine()?;
        let wanted = self.wanted()?;
        let mut report = match &self.json {
            Some(path) if self.append && path.exists() => Report::read(path)?,
            _ => Report::default(),
        };
        report.machine = facts::machine();

        let mut planned = Vec::new();
        let hb = ::lab::binary::hb(self.hb.as_deref())?;
        for variant in VARIANTS {
            if self.variants.is_empty() || self.variants.iter().any(|name| name == variant.name) {
                let system = Hb::up(variant, &hb, options()?)?;
                planned.push(Planned { system: Box::new(system), runs: self.runs.unwrap_or(RUNS) });
            }
        }
        for peer in wanted {
            let name = peer.name().to_owned();
            let slow = peer.settle() > SLOW;
            let runs = self.runs.unwrap_or(if slow { SLOW_RUNS } else { RUNS });
            match ready(peer.as_ref()).and_then(|()| Other::up(peer, options()?)) {
                Ok(system) => planned.push(Planned { system: Box::new(system), runs }),
                Err(error) => {
                    println!("{name}: not measured: {error:#}");
                    report.not_measured.retain(|other| other.name != name);
                    let reason = format!("{error:#}");
                    report.not_measured.push(NotMeasured { name, reason });
                }
            }
        }
        self.take_turns(&mut planned, &mut report)?;
        drop(planned);
        self.show(&report)
    }

    /// Returns the others that are to be measured.
    fn wanted(&self) -> Result<Vec<Box<dyn Peer>>> {
        let all = peers::all();
        for name in &self.peers {
            if !all.iter().any(|peer| peer.name() == name) {
                let names: Vec<_> = all.iter().map(|peer| peer.name()).collect();
                bail!("no peer is called {name:?}: take some of {}", names.join(", "));
            }
        }
        for name in &self.variants {
            if !VARIANTS.iter().any(|variant| variant.name == name) {
                let names = VARIANTS.map(|variant| variant.name);
                bail!("hb is not measured as {name:?}: take some of {}", names.join(", "));
            }
        }
        if self.faults.contains(&Fault::ServiceKill) {
            bail!("only the demonstration has such a service: `demo --fault service-kill`");
        }
        if self.faults.contains(&Fault::MoveRestarted) {
            bail!(
                "only hb alone is measured after a restart: `bench failover --fault move-restarted`"
            );
        }
        let chosen =
            |name: &str| self.peers.is_empty() || self.peers.iter().any(|wanted| wanted == name);
        Ok(all.into_iter().filter(|peer| chosen(peer.name())).collect())
    }

    /// Runs each in its turn, those with fewer runs spread over all rounds.
    fn take_turns(&self, planned: &mut [Planned], report: &mut Report) -> Result<()> {
        let rounds = planned.iter().map(|planned| planned.runs).max().unwrap_or(0);
        for round in 0..rounds {
            for fault in self.faults.iter().copied() {
                for Planned { system, runs } in planned.iter_mut() {
                    if !in_turn(round, *runs, rounds) {
                        continue;
                    }
                    if fault == Fault::Stop && system.judged() == peers::Judged::BySession {
                        continue;
                    }
                    let result = measure(system.as_mut(), fault);
                    system.rest()?;
                    if result.is_err() {
                        let kept = keep_logs(system.lab_mut(), round + 1)?;
                        println!("logs are kept in {}", kept.display());
                    }
                    let (name, config) = (system.name().to_owned(), system.config().to_owned());
                    println!(
                        "round {}/{rounds}, {} of {name}: {}",
                        round + 1,
                        fault.name(),
                        line(&result)
                    );
                    report.add([&name, &config, fault.name()], result);
                }
            }
            // What is known survives whatever happens in a later round.
            if let Some(path) = &self.json {
                report.write(path)?;
            }
        }
        Ok(())
    }

    fn draw(&self, report: &Report) -> Result<()> {
        println!("\n{}", report.text());
        if let Some(path) = &self.plot {
            plot::draw(path, report)?;
            println!("a picture is in {}", path.display());
        }
        Ok(())
    }

    fn show(&self, report: &Report) -> Result<()> {
        self.draw(report)?;
        if let Some(path) = &self.json {
            report.write(path)?;
            println!("numbers are in {}", path.display());
        }
        let ours = report.systems.iter().filter(|entry| entry.name.starts_with("hb-"));
        let failures: Vec<_> = ours.flat_map(|entry| &entry.failures).cloned().collect();
        if !failures.is_empty() {
            bail!("{} runs of hb failed: {}", failures.len(), failures.join("; "));
        }
        if report.systems.iter().all(|entry| entry.runs == 0) {
            bail!("nothing was measured");
        }
        Ok(())
    }
}

/// Puts what a failed run left where the next one leaves it alone.
fn keep_logs(lab: &mut Lab, round: u32) -> Result<PathBuf> {
    let directory = lab.keep_files()?;
    let place = directory.join(format!("failed-round-{round}"));
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    for entry in fs::read_dir(&directory).context("cannot list the lab's files")? {
        let entry = entry.context("cannot list the lab's files")?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if text.starts_with("peer-") || text.ends_with(".log") {
            fs::rename(entry.path(), place.join(&name))
                .with_context(|| format!("cannot keep {text}"))?;
        }
    }
    Ok(place)
}

/// Options of a lab that stands for as long as a comparison may take.
pub(crate) fn options() -> Result<Options> {
    Ok(Options { limit: std::time::Duration::from_secs(24 * 3600), ..Options::new()? })
}

/// Returns whether a system with `runs` of `rounds` has its turn in a round.
fn in_turn(round: u32, runs: u32, rounds: u32) -> bool {
    let before = |round: u32| u64::from(round) * u64::from(runs) / u64::from(rounds);
    before(round + 1) > before(round)
}

/// Makes sure that a peer is there.
pub(crate) fn ready(peer: &dyn Peer) -> Result<()> {
    if peers::missing(peer).is_empty() {
        return Ok(());
    }
    packages::install_unstarted(peer.packages(), peer.services(), peer.name())?;
    match peers::missing(peer)[..] {
        [] => Ok(()),
        ref missing => bail!("{} not there after the packages were installed", missing.join(", ")),
    }
}

fn line(result: &Result<Outcome>) -> String {
    match result {
        Err(error) => format!("FAILED: {error:#}"),
        Ok(outcome) => {
            let ms =
                |us: Option<f64>| us.map_or_else(|| "-".into(), |us| format!("{:.2} ms", us / 1e3));
            let two = if outcome.two_servers { ", two servers" } else { "" };
            format!("outage {}, detection {}{two}", ms(outcome.outage_us), ms(outcome.detection_us))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_runs_are_spread_over_the_rounds() {
        for (runs, rounds) in [(30, 30), (8, 30), (1, 7), (29, 30)] {
            let turns: Vec<u32> = (0..rounds).filter(|&r| in_turn(r, runs, rounds)).collect();
            assert_eq!(turns.len(), runs as usize);
            let gaps = turns.windows(2).map(|pair| pair[1] - pair[0]);
            assert!(gaps.max().unwrap_or(0) <= rounds.div_ceil(runs), "{turns:?}");
        }
    }
}
