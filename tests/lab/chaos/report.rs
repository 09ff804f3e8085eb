//! What a run found, as numbers and as a timeline for a person.

use std::{fmt::Write as _, fs};

use anyhow::{Context, Result};
use hb_ebpf::time::BootTime;
use serde::Serialize;

use super::Evidence;
use crate::{Lab, judge::verdict, takeover};

/// Two nodes that served during a partition, as policy `available` accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Dual {
    /// From the cut to the end of what is allowed, ten intervals after the heal.
    pub partition_ns: u64,
    /// From the first answer out of order to the last.
    pub dual_ns: u64,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// What chose its faults.
    pub seed: u64,
    /// They.
    pub faults: Vec<String>,
    /// Whether the power switch failed.
    pub fence_broken: bool,
    /// Answers the judge saw.
    pub answers: usize,
    /// The longest time without an answer of any node.
    pub silence_ns: u64,
    /// From the end of the mending to the next answer; `None` if there was none in time.
    pub back_ns: Option<u64>,
    /// How long that may take.
    pub bound_ns: u64,
    /// Two servers in partitions.
    pub duals: Vec<Dual>,
    /// Answers and claims that break the invariant.
    pub violations: usize,
    /// What was wrong, the first of each kind; empty for a good run.
    pub failures: Vec<String>,
    /// With a failure, what happened in which order.
    pub timeline: Vec<String>,
}

impl RunReport {
    /// Describes the run on one line.
    #[must_use]
    pub fn line(&self) -> String {
        let ms = |ns: u64| format!("{:.1} ms", ns as f64 / 1e6);
        let mut line = format!("seed {}: {}", self.seed, self.faults.join(", "));
        if self.fence_broken {
            line.push_str(" (fence fails)");
        }
        // Writing to a string cannot fail.
        let _ = write!(line, "; longest silence {}", ms(self.silence_ns));
        if let Some(back) = self.back_ns {
            let _ = write!(line, ", back after {}", ms(back));
        }
        for dual in &self.duals {
            let _ = write!(
                line,
                ", two servers for {} of a partition of {}",
                ms(dual.dual_ns),
                ms(dual.partition_ns)
            );
        }
        for failure in &self.failures {
            let _ = write!(line, "; FAILED: {failure}");
        }
        if self.violations > 1 {
            let _ = write!(line, " (and {} more)", self.violations - 1);
        }
        line
    }
}

/// Stretches shown at most: two nodes that take turns make one of each answer.
const STRETCHES: usize = 40;

/// Puts in order of time what was done, what left the nodes and what the daemons logged.
pub(super) fn timeline(lab: &Lab, began: BootTime, evidence: &Evidence<'_>) -> Result<Vec<String>> {
    let mut events: Vec<(BootTime, String)> = Vec::new();
    for deed in evidence.deeds {
        let connected = if deed.connected { "" } else { " (the nodes are parted)" };
        events.push((deed.began, format!("{}{connected}", deed.what)));
    }
    for request in evidence.fenced {
        let result = if request.done { "is switched off" } else { "is not switched off: broken" };
        events.push((request.at, format!("fence: {} {result}", request.node)));
    }
    let first = evidence.violations.first();
    let stretches = verdict::stretches(&evidence.seen.answers);
    let from = first.map_or(0, |violation| {
        let place = stretches.iter().position(|stretch| stretch.first.at >= violation.at);
        place.unwrap_or(0).saturating_sub(STRETCHES / 2)
    });
    for stretch in stretches.iter().skip(from).take(STRETCHES) {
        let lasts = stretch.last.ns().saturating_sub(stretch.first.at.ns()) as f64 / 1e6;
        events.push((
            stretch.first.at,
            format!(
                "{} answers under epoch {:#x}: {} times, for {lasts:.3} ms",
                stretch.first.node, stretch.first.epoch, stretch.count
            ),
        ));
    }
    if let Some(first) = first {
        events.push((first.at, format!("VIOLATION: {first}")));
    }
    events.extend(takeovers(lab)?);
    events.retain(|&(at, _)| at >= began);
    events.sort_by_key(|&(at, _)| at);
    let line = |(at, text): (BootTime, String)| {
        format!("{:>+12.3} ms  {text}", at.ns().saturating_sub(began.ns()) as f64 / 1e6)
    };
    Ok(events.into_iter().map(line).collect())
}

/// Returns what the daemons logged of their takeovers.
fn takeovers(lab: &Lab) -> Result<Vec<(BootTime, String)>> {
    let mut events = Vec::new();
    let directory = &lab.files().directory;
    for entry in fs::read_dir(directory).context("cannot list the lab's files")? {
        let path = entry.context("cannot list the lab's files")?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.ends_with("-daemon.log") {
            continue;
        }
        // 0007-a-daemon.log
        let node = name.split('-').nth(1).unwrap_or("?");
        for takeover in takeover::takeovers(&path)? {
            let epoch = takeover.epoch.unwrap_or_default();
            for (what, at) in takeover.steps() {
                events.push((at, format!("{node}, takeover to epoch {epoch:#x}: {what}")));
            }
        }
    }
    Ok(events)
}
