//! What a run found, as numbers and as a timeline for a person.

use std::{fmt::Write as _, fs};

use anyhow::{Context, Result};
use hb_ebpf::time::BootTime;
use serde::Serialize;

use super::Evidence;
use crate::{
    Lab,
    addresses::VIPS,
    judge::{
        Departure,
        verdict::{self, Stretch},
    },
    takeover,
};

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
    /// Nodes that the power switch could not switch off.
    pub not_fenced: Vec<String>,
    /// Answers the judge saw.
    pub answers: usize,
    /// Bytes that came to the client on connections it keeps open.
    pub streamed: u64,
    /// The longest time without an answer of any node for one of the addresses.
    pub silence_ns: u64,
    /// From the end of the mending until each address was answered for; `None` if one was not in time.
    pub back_ns: Option<u64>,
    /// How long that may take.
    pub bound_ns: u64,
    /// Two servers in partitions.
    pub duals: Vec<Dual>,
    /// Answers and other packets that break the invariant.
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
        // Writing to a string cannot fail.
        if !self.not_fenced.is_empty() {
            let _ = write!(line, " (fence of {} fails)", self.not_fenced.join(" and "));
        }
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

/// Two nodes that take turns make a stretch of each answer: so many in a row become one line.
const TURNS: usize = 6;
/// A stretch of at most so many answers is a turn.
const TURN: usize = 5;

/// Says who answered when, a line for each stretch, and one where nodes take turns.
fn lines(stretches: &[Stretch]) -> Vec<(BootTime, String)> {
    let ms = |from: BootTime, to: BootTime| to.ns().saturating_sub(from.ns()) as f64 / 1e6;
    let mut lines = Vec::new();
    let mut rest = stretches;
    while let Some(first) = rest.first() {
        let turns = rest.iter().take_while(|stretch| stretch.count <= TURN).count();
        let taken = if turns >= TURNS { turns } else { 1 };
        let (shown, others) = rest.split_at(taken);
        rest = others;
        let last = shown.last().map_or(first.last, |stretch| stretch.last);
        let lasts = ms(first.first.at, last);
        let Departure { node, epoch, address, .. } = first.first;
        let text = if taken == 1 {
            format!(
                "{node} answers for {address} under epoch {epoch:#x}: {} times, for {lasts:.3} ms",
                first.count
            )
        } else {
            format!(
                "{node} under epoch {epoch:#x} and others take {taken} turns for {address}, for \
                 {lasts:.3} ms"
            )
        };
        lines.push((first.first.at, text));
    }
    lines
}

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
    for address in VIPS {
        events.extend(lines(&verdict::stretches(&evidence.seen.answers, address)));
    }
    if let Some(first) = evidence.violations.first() {
        events.push((first.at, format!("VIOLATION: {first}")));
    }
    if let [_, .., last] = evidence.violations {
        let count = evidence.violations.len();
        events.push((last.at, format!("the last of {count} violations: {last}")));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::Machine;

    fn stretch(at: u64, node: Machine, count: usize) -> Stretch {
        let first =
            Departure { at: BootTime(at), node, address: VIPS[0], epoch: 7, asked: BootTime(0) };
        Stretch { first, last: BootTime(at + 1_000_000), count }
    }

    #[test]
    fn turns_become_one_line_and_long_stretches_stay() {
        let mut all = vec![stretch(0, Machine::A, 100)];
        for turn in 0..10 {
            let node = if turn % 2 == 0 { Machine::B } else { Machine::A };
            all.push(stretch(10_000_000 + turn * 1_000_000, node, 1));
        }
        all.push(stretch(90_000_000, Machine::B, 50));
        let said: Vec<_> = lines(&all).into_iter().map(|(_, text)| text).collect();
        assert_eq!(
            said,
            [
                "a answers for 192.0.2.100 under epoch 0x7: 100 times, for 1.000 ms",
                "b under epoch 0x7 and others take 10 turns for 192.0.2.100, for 10.000 ms",
                "b answers for 192.0.2.100 under epoch 0x7: 50 times, for 1.000 ms"
            ]
        );
    }
}
