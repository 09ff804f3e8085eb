//! `cargo xtask bench heartbeat`: who sends at the steadiest pace, on an idle machine and under
//! real-time load.

mod source;
mod wire;

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use ::lab::load::{self, Kind};
use anyhow::{Context, Result, ensure};
use benches::{
    bpf::{Hook, Program},
    cable::Cable,
};
use clap::{Args, ValueEnum};
use serde::Serialize;

use self::source::Source;
use super::{
    facts,
    figures::{Figures, write_json},
    tail::{self, Line},
};
use crate::prepare;

/// Measures how late senders of different kinds are, and the gaps that a receiver sees.
#[derive(Debug, Args)]
pub(crate) struct Heartbeat {
    /// Only this sender; may be repeated. All if not given.
    #[arg(long = "source", value_enum)]
    sources: Vec<Source>,
    /// Time between two frames in microseconds; may be repeated.
    #[arg(long = "interval-us", default_values_t = [200, 1000], value_parser = clap::value_parser!(u64).range(100..=100_000))]
    intervals_us: Vec<u64>,
    /// What else the machine does; may be repeated. All if not given.
    #[arg(long = "load", value_enum)]
    loads: Vec<Load>,
    /// How long each is watched, in seconds.
    #[arg(long = "for", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw how often a gap is longer than what into this SVG file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Only see whether it works, within seconds.
    #[arg(long)]
    smoke: bool,
}

/// What works against a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Load {
    /// Nothing of ours.
    None,
    /// A SCHED_FIFO busy loop on every core.
    Fifo,
}

impl Load {
    const fn name(self) -> &'static str {
        match self {
            Self::None => "no load",
            Self::Fifo => "SCHED_FIFO hogs",
        }
    }
}

/// What was measured of one sender.
#[derive(Clone, Debug, Serialize)]
struct Measured {
    /// The sender's word.
    source: &'static str,
    /// What the kernel gave it instead of what it asked for, if it did.
    note: Option<String>,
    /// The load's word.
    load: &'static str,
    interval_us: u64,
    /// Frames that arrived.
    arrived: usize,
    /// Frames that were due.
    due: u64,
    /// How late each frame was sent, those that were due during a stall included, in microseconds.
    /// None for a sender without a clock of its own.
    late_us: Option<Figures>,
    /// Time between two arrivals, in microseconds.
    gap_us: Option<Figures>,
    /// Gaps longer than two, three and five intervals.
    long_gaps: [usize; 3],
    #[serde(skip)]
    gaps: Vec<f64>,
}

/// The multiples of an interval that are counted.
const LONG: [f64; 3] = [2.0, 3.0, 5.0];

#[derive(Serialize)]
struct Report {
    machine: BTreeMap<String, String>,
    heartbeat: Vec<Measured>,
}

impl Heartbeat {
    /// Tells whether its figures are not meant to be read.
    pub(crate) fn is_smoke(&self) -> bool {
        self.smoke
    }

    /// Measures, shows, writes and draws.
    pub(crate) fn run(&self) -> Result<()> {
        prepare::machine()?;
        let time = Duration::from_secs(if self.smoke { 1 } else { self.seconds });
        let all = |given: &[Source]| match given {
            [] => Source::value_variants().to_vec(),
            some => some.to_vec(),
        };
        let loads = match &self.loads[..] {
            [] => Load::value_variants().to_vec(),
            some => some.to_vec(),
        };
        let intervals = if self.smoke { &self.intervals_us[..1] } else { &self.intervals_us[..] };
        let mut measured = Vec::new();
        for &interval_us in intervals {
            for &load in &loads {
                for source in all(&self.sources) {
                    let result = measure(source, load, interval_us, time)
                        .with_context(|| format!("{} at {interval_us} us", source.name()));
                    let result = result?;
                    println!("{}", result.line());
                    measured.push(result);
                }
            }
        }
        let report = Report { machine: facts::machine(), heartbeat: measured };
        println!("\n{}", report.text());
        if let Some(path) = &self.json {
            write_json(path, &report)?;
        }
        if let Some(path) = &self.plot {
            let caption = "time between two arrivals: how often longer than";
            tail::draw(path, caption, "microseconds", &report.lines())?;
            println!("gaps are drawn in {}", path.display());
        }
        Ok(())
    }
}

/// Watches one sender on a cable of its own.
fn measure(source: Source, load: Load, interval_us: u64, time: Duration) -> Result<Measured> {
    let cable = Cable::lay()?;
    // As at a node: frames are handed over by NAPI, and one end takes those of XDP from the other.
    let empty = Program::empty(Hook::Xdp)?;
    let _held = cable.node.enter(|| empty.attach(Hook::Xdp, cable.node_index))??;
    let agent = std::env::current_exe().context("cannot tell which executable this is")?;
    let log = std::env::temp_dir().join(format!("hb-heartbeat-{}.log", std::process::id()));
    let hogs = match load {
        Load::None => None,
        Load::Fifo => {
            let limit = time + Duration::from_secs(3);
            Some(load::start(&agent, Kind::Fifo, &cable.peers, limit, &log)?)
        }
    };
    let receiver = wire::Receiver::start(&cable)?;
    let interval = Duration::from_micros(interval_us);
    let sent = source.send(&cable, interval, time)?;
    let arrivals = receiver.finish()?;
    drop(hogs);
    // There is one only where a load ran.
    let _ = fs::remove_file(&log);

    let due = (time.as_nanos() / interval.as_nanos().max(1)) as u64;
    ensure!(arrivals.len() > 1, "{} frames arrived, {due} were due", arrivals.len());
    let gaps: Vec<f64> =
        arrivals.windows(2).map(|pair| pair[1].since(pair[0]).as_nanos() as f64 / 1e3).collect();
    let long_gaps =
        LONG.map(|times| gaps.iter().filter(|&&gap| gap > times * interval_us as f64).count());
    Ok(Measured {
        source: source.name(),
        note: sent.note,
        load: load.name(),
        interval_us,
        arrived: arrivals.len(),
        due,
        late_us: sent.late_us.as_deref().and_then(Figures::of),
        gap_us: Figures::of(&gaps),
        long_gaps,
        gaps,
    })
}

impl Measured {
    fn title(&self) -> String {
        format!("{}, {} us, {}", self.source, self.interval_us, self.load)
    }

    fn line(&self) -> String {
        let note = self.note.as_ref().map_or_else(String::new, |note| format!(" ({note})"));
        let longest = self.gap_us.map_or(f64::NAN, |gap| gap.max);
        format!(
            "{}{note}: {} of {} arrived, longest gap {longest:.0} us",
            self.title(),
            self.arrived,
            self.due
        )
    }
}

impl Report {
    fn text(&self) -> String {
        const WIDTH: usize = 44;
        let mut text = facts::lines(&self.machine);
        for (what, figures) in [
            ("lateness of the sender, us", (|m: &Measured| m.late_us) as fn(&Measured) -> _),
            ("time between arrivals, us", |m: &Measured| m.gap_us),
        ] {
            text.push_str(&format!("\n{}\n", Figures::head(what, WIDTH)));
            for measured in &self.heartbeat {
                let figures: Option<Figures> = figures(measured);
                if let Some(figures) = figures {
                    text.push_str(&figures.row(&measured.title(), WIDTH));
                    text.push('\n');
                }
            }
        }
        text.push_str(&format!(
            "\n{:<WIDTH$}{:>9}{:>9}{:>9}{:>9}\n",
            "gaps longer than", "of", "2 x", "3 x", "5 x"
        ));
        for measured in &self.heartbeat {
            let [two, three, five] = measured.long_gaps;
            text.push_str(&format!(
                "{:<WIDTH$}{:>9}{two:>9}{three:>9}{five:>9}\n",
                measured.title(),
                measured.gaps.len()
            ));
        }
        text
    }

    fn lines(&self) -> Vec<Line> {
        let line = |measured: &Measured| Line {
            name: measured.title(),
            colour: Source::value_variants()
                .iter()
                .position(|source| source.name() == measured.source)
                .unwrap_or(0),
            dashed: measured.load != Load::None.name(),
            values: measured.gaps.clone(),
        };
        self.heartbeat.iter().map(line).collect()
    }
}
