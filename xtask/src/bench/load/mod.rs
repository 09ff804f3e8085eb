//! `cargo xtask bench load`: what is taken for dead that lives, and how fast the dead are noticed,
//! while the machine is busy.

mod level;
mod mistakes;
mod row;

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use ::lab::{
    Lab,
    addresses::{Machine, NODES},
    client::{Client, Pace},
    clock,
    peers::Keepalived,
    stalls::Recorder,
};
use anyhow::{Context, Result, ensure};
use clap::Args;
use hb_ebpf::time::BootTime;
use serde_json::Value;

use self::{
    level::{LEVELS, Level},
    mistakes::{Mistake, Notices},
    row::{Row, Watch},
};
use super::{
    compare::{self, Hb, Other, Outcome, System, Variant, measure_booted},
    dots, facts,
};
use crate::{fault::Fault, prepare};

/// Puts hb, twice, and keepalived under the same load at the same time, and counts.
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// Only this rung; may be repeated. All if not given.
    #[arg(long = "level", value_enum)]
    levels: Vec<Level>,
    /// How long each rung is watched.
    #[arg(long = "for", value_name = "DURATION", value_parser = crate::policy::duration, default_value = "60s")]
    time: Duration,
    /// Crashes of each system on each rung, for the time of detection.
    #[arg(long, default_value_t = 3)]
    crashes: u32,
    /// A few seconds and no crash on each rung: whether it works at all.
    #[arg(long)]
    smoke: bool,
    /// Append each result to this file, a line of JSON each, and show all it has.
    #[arg(long, value_name = "FILE")]
    append: Option<PathBuf>,
    /// Draw the times of detection of all that is shown into this SVG file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Only show and draw what the file of `--append` has.
    #[arg(long, requires = "append")]
    show: bool,
    /// Use this hb binary instead of building one.
    #[arg(long, value_name = "FILE")]
    hb: Option<PathBuf>,
}

const VARIANTS: [Variant; 2] = [
    Variant {
        name: "hb-1ms-deadtime",
        interval_us: 200,
        misses: 5,
        policy: "available",
        lease: None,
    },
    Variant {
        name: "hb-5ms-deadtime",
        interval_us: 1000,
        misses: 5,
        policy: "available",
        lease: None,
    },
];
/// Silence after which each takes its peer for dead, in the order they run in.
const DEADTIMES: [Duration; 3] =
    [Duration::from_millis(1), Duration::from_millis(5), Duration::from_millis(30)];
/// Age at which hb takes a daemon for dead, its default.
const CONTROLLER_DEADTIME: Duration = Duration::from_millis(100);
/// The loads end by themselves this much after their time.
const SPARE: Duration = Duration::from_secs(120);
/// Time a smoke watches.
const SMOKE: Duration = Duration::from_secs(3);

impl Load {
    /// Runs the rungs; fails if one could not be watched.
    pub(crate) fn run(&self) -> Result<()> {
        let mut rows = match &self.append {
            Some(path) if path.exists() => read(path)?,
            _ => Vec::new(),
        };
        if !self.show {
            self.measure(&mut rows)?;
        }
        // Whatever the order in which they were done.
        rows.sort_by(|a, b| a.level.cmp(&b.level));
        println!("\n{}", row::text(&rows));
        if let Some(path) = &self.plot {
            dots::draw(path, "from a crash under load to the first word of it", &drawn(&rows))?;
            println!("a picture is in {}", path.display());
        }
        Ok(())
    }

    fn measure(&self, rows: &mut Vec<Row>) -> Result<()> {
        prepare::machine()?;
        let keepalived = Keepalived { real_time: false };
        compare::ready(&keepalived)?;
        let hb = ::lab::binary::hb(self.hb.as_deref())?;
        let mut systems: Vec<Box<dyn System>> = Vec::new();
        for variant in VARIANTS {
            systems.push(Box::new(Hb::up(variant, &hb, compare::options()?)?));
        }
        systems.push(Box::new(Other::up(Box::new(keepalived), compare::options()?)?));

        let levels = if self.levels.is_empty() { LEVELS.to_vec() } else { self.levels.clone() };
        for level in levels {
            println!("{} {}:", level.name(), level.what());
            let found = self.climb(level, &mut systems)?;
            for row in &found {
                let dead = row.false_takeovers + row.explained_takeovers;
                println!(
                    "  {}: {dead} takeovers of a living node in {:.0} s, {} of them false",
                    row.system, row.seconds, row.false_takeovers
                );
            }
            if let Some(path) = &self.append {
                append(path, &found)?;
            }
            rows.extend(found);
        }
        Ok(())
    }

    /// Watches one rung, then crashes each system on it.
    fn climb(&self, level: Level, systems: &mut [Box<dyn System>]) -> Result<Vec<Row>> {
        let time = if self.smoke { SMOKE } else { self.time };
        // What freezes daemons puts no load on the machine.
        let crashes = if self.smoke || level == Level::Freeze { 0 } else { self.crashes };
        let mut holders = Vec::new();
        for system in systems.iter_mut() {
            let holder =
                system.boot().with_context(|| format!("{} did not start", system.name()))?;
            holders.push(holder);
        }
        let before = counts(systems)?;
        let recorder = Recorder::start()?;
        let mut load = level.start(systems, time + SPARE)?;
        let attentive = Attentive::begin()?;
        let clients = systems
            .iter()
            .map(|system| {
                let interval = Duration::from_millis(1);
                let pace = Pace { interval, limit: time + SPARE, ..Pace::default() };
                system.lab().client(pace)
            })
            .collect::<Result<Vec<Client>>>()?;
        let notices = notices(systems, &holders)?;
        let begin = clock::now();
        let frozen = level.pass(systems, &holders, &mut load, begin.after(time))?;
        let end = clock::now();
        drop(load);
        drop(attentive);
        let record = recorder.finish()?;
        let after = counts(systems)?;

        let mut notices = notices.into_iter();
        let mut rows = Vec::new();
        for (place, client) in clients.into_iter().enumerate() {
            let system = systems[place].as_ref();
            let mistakes = match notices.next().flatten() {
                Some(notices) => mistakes::of_keepalived(&notices.finish()?),
                None => of_hb(system, begin)?,
            };
            let seen = client.finish()?;
            let mut row = Row {
                level: level.name().into(),
                what: level.what().into(),
                system: system.name().into(),
                config: system.config().into(),
                longest_service_gap_us: us(seen.longest_gap().unwrap_or(time)),
                client_lateness_us: us(seen.worst_lateness),
                machine: facts::machine(),
                ..Row::default()
            };
            if let (Some(before), Some(after)) = (before[place], after[place]) {
                row.misses = Some(after.misses.saturating_sub(before.misses));
                row.doubts = Some(after.doubts.saturating_sub(before.doubts));
                row.longest_heartbeat_gap_us = after.longest_gap_us;
            }
            let deadtime = DEADTIMES[place];
            let watch = Watch {
                begin,
                end,
                deadtime,
                controller_deadtime: CONTROLLER_DEADTIME,
                frozen: &frozen,
                record: &record,
            };
            row.judge(&mistakes, &watch);
            rows.push(row);
        }
        for system in systems.iter_mut() {
            system.rest()?;
        }
        for _ in 0..crashes {
            for (system, row) in systems.iter_mut().zip(&mut rows) {
                match crash(level, system) {
                    Ok(outcome) => row.detection_us.extend(outcome.detection_us),
                    Err(error) => row.failed_crashes.push(format!("{error:#}")),
                }
                system.rest()?;
            }
        }
        Ok(rows)
    }
}

/// Returns what is drawn of each result that has crashes.
fn drawn(rows: &[Row]) -> Vec<dots::Row> {
    let crashed = rows.iter().filter(|row| !row.detection_us.is_empty());
    crashed
        .map(|row| {
            let hb = row.system.starts_with("hb-");
            dots::Row {
                title: format!("{} {}: {}", row.level, row.what, row.system),
                subtitle: format!(
                    "{} false takeovers in {:.0} s; {} crashes",
                    row.false_takeovers,
                    row.seconds,
                    row.detection_us.len()
                ),
                whose: if hb { dots::Whose::Ours } else { dots::Whose::Theirs },
                ms: row.detection_us.iter().map(|us| us / 1e3).collect(),
            }
        })
        .collect()
}

/// Boots a system, then puts the load on and crashes its holder.
fn crash(level: Level, system: &mut Box<dyn System>) -> Result<Outcome> {
    let holder = system.boot()?;
    let _load = level.start(std::slice::from_ref(system), SPARE)?;
    let _attentive = Attentive::begin()?;
    measure_booted(system.as_mut(), Fault::Crash, holder)
}

/// While it lives, the calling thread, and each thread it starts, runs before any load: what
/// measures is not to be what is measured. No process may be started meanwhile, as it would inherit
/// that.
struct Attentive;

impl Attentive {
    fn begin() -> Result<Self> {
        clock::real_time(60).context("cannot have SCHED_FIFO for the measurement")?;
        Ok(Self)
    }
}

impl Drop for Attentive {
    fn drop(&mut self) {
        if let Err(error) = clock::ordinary() {
            eprintln!("cannot go back to ordinary scheduling: {error}");
        }
    }
}

/// Begins to read what the standby of keepalived says, `None` for hb.
fn notices(systems: &[Box<dyn System>], holders: &[Machine]) -> Result<Vec<Option<Notices>>> {
    let read = |system: &dyn System, holder: Machine| {
        if system.counts_misses() {
            return Ok(None);
        }
        let home = ::lab::peers::cage::home(&system.lab().files().directory, holder.peer());
        Notices::read(&home.join(::lab::peers::NOTIFY)).map(Some)
    };
    systems.iter().zip(holders).map(|(system, &holder)| read(system.as_ref(), holder)).collect()
}

/// Returns the mistakes of both nodes of hb.
fn of_hb(system: &dyn System, since: BootTime) -> Result<Vec<Mistake>> {
    let mut all = Vec::new();
    for node in NODES {
        let daemon = system.lab().daemon(node).with_context(|| format!("{node} has no daemon"))?;
        all.extend(mistakes::of_hb(daemon.log(), since)?);
    }
    Ok(all)
}

/// What both nodes of hb have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    misses: u64,
    doubts: u64,
    longest_gap_us: Option<f64>,
}

fn counts(systems: &[Box<dyn System>]) -> Result<Vec<Option<Counts>>> {
    let count =
        |system: &dyn System| system.counts_misses().then(|| counts_of(system.lab())).transpose();
    systems.iter().map(|system| count(system.as_ref())).collect()
}

fn counts_of(lab: &Lab) -> Result<Counts> {
    let mut counts = Counts::default();
    for node in NODES {
        counts.add(&lab.status(node)?);
    }
    Ok(counts)
}

impl Counts {
    /// Adds what the status of a node says.
    fn add(&mut self, status: &Value) {
        for peer in status["peers"].as_array().into_iter().flatten() {
            self.misses += peer["misses"]["total"].as_u64().unwrap_or(0);
            self.doubts += peer["doubts_total"].as_u64().unwrap_or(0);
            for link in peer["links"].as_array().into_iter().flatten() {
                let gap = link["gap_us"]["max"].as_f64();
                // Whatever compares with what is not there.
                self.longest_gap_us = self.longest_gap_us.into_iter().chain(gap).reduce(f64::max);
            }
        }
    }
}

fn us(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

fn append(path: &Path, rows: &[Row]) -> Result<()> {
    let mut text = String::new();
    for row in rows {
        text += &serde_json::to_string(row)?;
        text.push('\n');
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot append to {}", path.display()))
}

fn read(path: &Path) -> Result<Vec<Row>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let rows = text
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("{line:?} is no result")))
        .collect::<Result<Vec<Row>>>()?;
    ensure!(rows.iter().all(|row| !row.system.is_empty()), "{} is another file", path.display());
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_over_peers_and_take_the_longest_gap() {
        let status = serde_json::json!({"peers": [{
            "misses": {"total": 3}, "doubts_total": 2,
            "links": [{"gap_us": {"max": 512.0}}, {"gap_us": {"max": 1024.0}}, {"gap_us": null}]
        }]});
        let mut counts = Counts::default();
        counts.add(&status);
        counts.add(&status);
        assert_eq!(counts, Counts { misses: 6, doubts: 4, longest_gap_us: Some(1024.0) });
    }

    #[test]
    fn results_are_read_back() {
        let path = std::env::temp_dir().join(format!("hb-load-{}.jsonl", std::process::id()));
        let row = Row { system: "hb".into(), detection_us: vec![1.5], ..Row::default() };
        append(&path, std::slice::from_ref(&row)).unwrap();
        append(&path, std::slice::from_ref(&row)).unwrap();
        let rows = read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(rows, [row.clone(), row]);
    }
}
