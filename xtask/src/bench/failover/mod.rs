//! `cargo xtask bench failover`: how long nobody is served, and where that time goes.

mod parts;
mod stack;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use ::lab::{Lab, Options, addresses::NODES, config::Settings};
use anyhow::{Result, anyhow, ensure};
use clap::Args;
use serde::Serialize;

use self::parts::Part;
use super::{
    dots::{self, Row, Whose},
    facts,
    figures::{Figures, write_json},
};
use crate::{demo, fault::Fault, policy::Policy, prepare, steady, timeline::Run};

/// Measures takeovers: every fault with every interval, number of misses, policy and lease, in turns.
#[derive(Debug, Args)]
pub(crate) struct Failover {
    /// What happens to node a; may be repeated.
    #[arg(long = "fault", value_enum, default_values = ["crash", "cut", "kill", "freeze", "stop", "move", "move-restarted"])]
    faults: Vec<Fault>,
    /// Time between two heartbeats; may be repeated.
    #[arg(long = "interval", default_values = ["100us", "200us"])]
    intervals: Vec<String>,
    /// Missed heartbeats that mean dead; may be repeated.
    #[arg(long, default_values_t = [3])]
    misses: Vec<u32>,
    /// Who may serve when the nodes do not hear each other; may be repeated.
    #[arg(long = "policy", value_enum, default_values = ["available", "witness"])]
    policies: Vec<Policy>,
    /// Length of a lease and its margin, as in 5ms/1ms; may be repeated. hb's own if not given.
    #[arg(long = "lease", value_name = "DURATION[/DURATION]")]
    leases: Vec<String>,
    /// Age at which a controller is dead.
    #[arg(long, default_value = "20ms")]
    controller_deadtime: String,
    /// Whether the group has a script besides its addresses, which a planned move has to wait for.
    #[arg(long)]
    resource: bool,
    /// Measure each also with the service addresses on both nodes all the time (`warm_addresses`).
    #[arg(long)]
    warm: bool,
    /// Runs of each.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// Write all runs and their figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the outage of each run into this SVG file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Draw where the time goes into this SVG file.
    #[arg(long, value_name = "FILE.svg")]
    timeline: Option<PathBuf>,
    /// Use this hb binary instead of building one.
    #[arg(long, value_name = "FILE")]
    hb: Option<PathBuf>,
    /// Only see whether it works, within seconds.
    #[arg(long)]
    smoke: bool,
}

/// A lab with one set of timers, and what was measured in it.
struct Setting {
    lab: Lab,
    words: String,
    series: Vec<(Fault, Vec<Run>)>,
}

/// What was measured of one fault in one setting.
#[derive(Clone, Debug, Serialize)]
struct Series {
    /// The timers, and the lease if the policy has one.
    setting: String,
    /// The fault's word.
    fault: &'static str,
    /// Runs, those that failed among them.
    runs: usize,
    /// Runs that did not do what the fault must lead to.
    failed: usize,
    /// Time between the last answer of a and the first of b, in microseconds.
    outage_us: Option<Figures>,
    /// What everybody waited who was to ask between these two, on a schedule of one question each
    /// 100 us that no stall of the client or the service excuses, in microseconds.
    waited_us: Option<Figures>,
    /// From the fault to the first answer of b, in microseconds; the old node may have served for a part
    /// of it.
    fault_to_answer_us: Option<Figures>,
    /// Where the time of the outage goes.
    parts: Vec<Part>,
    /// Each run.
    each: Vec<Run>,
}

#[derive(Serialize)]
struct Report {
    machine: BTreeMap<String, String>,
    series: Vec<Series>,
}

impl Failover {
    /// Measures, shows, writes and draws.
    pub(crate) fn run(&self) -> Result<()> {
        ensure!(
            !self.faults.contains(&Fault::ServiceKill),
            "only the demonstration has such a service: `demo --fault service-kill`"
        );
        prepare::machine()?;
        let hb = ::lab::binary::hb(self.hb.as_deref())?;
        let mut settings = self.settings(&hb)?;
        let runs = if self.smoke { 1 } else { self.runs };
        for number in 1..=runs {
            for setting in &mut settings {
                setting.round(number, self.smoke)?;
            }
            // What is known survives whatever happens in a later round.
            if let Some(path) = &self.json {
                write_json(path, &Report::new(&settings))?;
            }
        }
        let report = Report::new(&settings);
        drop(settings);
        println!("\n{}", report.text());
        if let Some(path) = &self.plot {
            dots::draw(path, "time without service, each run", &report.rows())?;
            println!("outages are drawn in {}", path.display());
        }
        if let Some(path) = &self.timeline {
            stack::draw(path, &report.bars())?;
            println!("where the time goes is drawn in {}", path.display());
        }
        let failed: usize = report.series.iter().map(|series| series.failed).sum();
        ensure!(failed == 0, "{failed} runs did not do what their fault must lead to");
        Ok(())
    }

    fn settings(&self, hb: &Path) -> Result<Vec<Setting>> {
        let mut settings = Vec::new();
        let intervals = if self.smoke { &self.intervals[..1] } else { &self.intervals[..] };
        for &policy in &self.policies {
            // Nobody promises anything under `available`.
            let leases: Vec<Option<&str>> = match policy {
                Policy::Available => vec![None],
                _ if self.leases.is_empty() => vec![None],
                _ => self.leases.iter().map(|lease| Some(lease.as_str())).collect(),
            };
            for interval in intervals {
                for &misses in &self.misses {
                    for &lease in &leases {
                        settings.push(self.setting(hb, policy, interval, misses, lease, false)?);
                        if self.warm {
                            settings.push(self.setting(hb, policy, interval, misses, lease, true)?);
                        }
                    }
                }
            }
        }
        Ok(settings)
    }

    fn setting(
        &self,
        hb: &Path,
        policy: Policy,
        interval: &str,
        misses: u32,
        lease: Option<&str>,
        warm: bool,
    ) -> Result<Setting> {
        let (length, margin) = match lease.map(|lease| lease.split_once('/').unwrap_or((lease, "")))
        {
            Some((length, margin)) => (Some(length), Some(margin).filter(|text| !text.is_empty())),
            None => (None, None),
        };
        let mut options = Options::new()?;
        options.hb = Some(hb.into());
        options.settings = Settings {
            interval: interval.into(),
            misses,
            policy: policy.name().into(),
            controller_deadtime: self.controller_deadtime.clone(),
            lease: length.map(Into::into),
            margin: margin.map(Into::into),
            resource: self.resource,
            warm,
            ..Settings::default()
        };
        let mut words = match (policy, lease) {
            (Policy::Available, _) => format!("available, {misses} x {interval}"),
            (_, Some(lease)) => format!("{}, {misses} x {interval}, lease {lease}", policy.name()),
            (_, None) => format!("{}, {misses} x {interval}, default lease", policy.name()),
        };
        if warm {
            words.push_str(", warm addresses");
        }
        let lab = Lab::up(options)?;
        println!("lab {}: {words}", lab.name());
        // Of a daemon stopped on a machine that is busy otherwise nothing would be learnt.
        let smoke = &[Fault::Crash, Fault::Move, Fault::MoveRestarted];
        let faults = if self.smoke { &smoke[..] } else { &self.faults[..] };
        let series = faults.iter().map(|&fault| (fault, Vec::new())).collect();
        Ok(Setting { lab, words, series })
    }
}

impl Setting {
    /// One run of each fault; then nothing runs in this lab until the next round. Without `smoke`
    /// nobody looks at the cores' stalls: a figure is of hb alone, and a run that failed is told.
    fn round(&mut self, number: u32, smoke: bool) -> Result<()> {
        for (fault, runs) in &mut self.series {
            let run = if smoke {
                steady::run(&mut self.lab, *fault, number)?
            } else {
                demo::run_once(&mut self.lab, *fault, number)
            };
            if !run.ok {
                let logs = demo::keep_logs(&mut self.lab, number)?;
                println!("logs of what follows are kept in {}", logs.display());
            }
            println!("{number}: {}, {}: {}", self.words, fault.name(), run.line());
            runs.push(run);
        }
        for node in NODES {
            self.lab.netns(node).kill_processes()?;
        }
        Ok(())
    }

    fn series(&self) -> impl Iterator<Item = Series> {
        let series = self.series.iter();
        series.map(|(fault, runs)| Series::new(self.words.clone(), *fault, runs.clone()))
    }
}

impl Series {
    fn new(setting: String, fault: Fault, each: Vec<Run>) -> Self {
        let good: Vec<&Run> = each.iter().filter(|run| run.ok).collect();
        let outages: Vec<f64> =
            good.iter().filter_map(|run| Some(run.outage_ns? as f64 / 1e3)).collect();
        let answers: Vec<f64> = good
            .iter()
            .filter_map(|run| Some(run.instants.first_answer_new_ns? as f64 / 1e3))
            .collect();
        let waits: Vec<f64> = good.iter().flat_map(|run| waits_us(run)).collect();
        Self {
            setting,
            fault: fault.name(),
            runs: each.len(),
            failed: each.len() - good.len(),
            outage_us: Figures::of(&outages),
            waited_us: Figures::of(&waits),
            fault_to_answer_us: Figures::of(&answers),
            parts: parts::of(&good),
            each,
        }
    }

    fn outages_ms(&self) -> Vec<f64> {
        self.each
            .iter()
            .filter(|run| run.ok)
            .filter_map(|run| Some(run.outage_ns? as f64 / 1e6))
            .collect()
    }
}

/// Returns what each question waited that was due while nobody answered, the first of them the
/// longest: correction for coordinated omission, since questions are due whether or not the earlier
/// ones were answered.
fn waits_us(run: &Run) -> Vec<f64> {
    let (Some(due), Some(answered)) = (run.unanswered_ns, run.instants.first_answer_new_ns) else {
        return Vec::new();
    };
    let pace = demo::PACE.as_nanos().max(1) as usize;
    (due..answered).step_by(pace).map(|due| (answered - due) as f64 / 1e3).collect()
}

impl Report {
    fn new(settings: &[Setting]) -> Self {
        let series = settings.iter().flat_map(Setting::series).collect();
        Self { machine: facts::machine(), series }
    }

    fn text(&self) -> String {
        const WIDTH: usize = 44;
        let mut text = facts::lines(&self.machine);
        for series in &self.series {
            text.push_str(&format!(
                "\n{}, {}: {} runs, {} failed\n{}\n",
                series.setting,
                series.fault,
                series.runs,
                series.failed,
                Figures::head("us", WIDTH)
            ));
            for part in &series.parts {
                text.push_str(&part.us.row(part.name, WIDTH));
                text.push('\n');
            }
            for (name, figures) in [
                ("outage", series.outage_us),
                ("wait of each question", series.waited_us),
                ("from the fault to the first answer of b", series.fault_to_answer_us),
            ] {
                if let Some(figures) = figures {
                    text.push_str(&figures.row(name, WIDTH));
                    text.push('\n');
                }
            }
        }
        text
    }

    fn rows(&self) -> Vec<Row> {
        let row = |series: &Series| Row {
            title: format!("{}: {}", series.fault, series.setting),
            subtitle: series.outage_us.map_or_else(
                || "no run succeeded".into(),
                |us| {
                    format!(
                        "{} runs; p50 {:.0} us, p99 {:.0} us, max {:.0} us",
                        us.count, us.p50, us.p99, us.max
                    )
                },
            ),
            whose: Whose::Ours,
            ms: series.outages_ms(),
        };
        self.series.iter().map(row).collect()
    }

    fn bars(&self) -> Vec<stack::Bar> {
        let bar = |series: &Series| stack::Bar {
            title: format!("{}: {}", series.fault, series.setting),
            parts: series.parts.iter().map(|part| (part.name, part.us.p50)).collect(),
            total: series.outage_us.map(|us| (us.p50, us.p99)),
        };
        self.series.iter().map(bar).collect()
    }
}

/// When a peer is dead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timers {
    /// Time between two heartbeats.
    pub(crate) interval: &'static str,
    /// Missed heartbeats.
    pub(crate) misses: u32,
}

impl Timers {
    /// Those of the published figures.
    pub(crate) const FAST: Self = Self { interval: "200us", misses: 3 };
}

impl Failover {
    /// Makes the lab in which `bench --against` has one binary take over.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub(crate) fn lab_for_comparison(hb: &Path, timers: Timers) -> Result<Lab> {
        let mut options = Options::new()?;
        options.hb = Some(hb.into());
        options.settings = Settings {
            interval: timers.interval.into(),
            misses: timers.misses,
            controller_deadtime: "100ms".into(),
            policy: Policy::Available.name().into(),
            resource: false,
            ..Settings::default()
        };
        Lab::up(options)
    }

    /// One crash in such a lab: the outage in microseconds, or what happened instead of a takeover.
    ///
    /// # Errors
    ///
    /// If the daemons do not go away, or their logs cannot be kept.
    pub(crate) fn crash(lab: &mut Lab, number: u32, smoke: bool) -> Result<Result<f64>> {
        let run = if smoke {
            steady::run(lab, Fault::Crash, number)?
        } else {
            demo::run_once(lab, Fault::Crash, number)
        };
        let taken = match (run.error, run.outage_ns) {
            (Some(error), _) => Err(anyhow!(error)),
            (None, Some(ns)) => Ok(ns as f64 / 1e3),
            (None, None) => Err(anyhow!("no outage was measured")),
        };
        if taken.is_err() {
            let logs = demo::keep_logs(lab, number)?;
            println!("logs of what follows are kept in {}", logs.display());
        }
        for node in NODES {
            lab.netns(node).kill_processes()?;
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_to_ask_has_waited_since() {
        let mut run = Run::new(1, Fault::Crash);
        assert!(waits_us(&run).is_empty());
        run.unanswered_ns = Some(50_000);
        run.instants.first_answer_new_ns = Some(400_000);
        assert_eq!(waits_us(&run), [350.0, 250.0, 150.0, 50.0]);
    }

    #[test]
    fn failed_runs_are_counted_and_not_measured() {
        let mut good = Run::new(1, Fault::Crash);
        (good.ok, good.outage_ns) = (true, Some(700_000));
        let bad = Run { outage_ns: Some(9), ..Run::new(2, Fault::Crash) };
        let series = Series::new("s".into(), Fault::Crash, vec![good, bad]);
        assert_eq!((series.runs, series.failed), (2, 1));
        assert_eq!(series.outage_us.unwrap().max, 700.0);
    }
}
