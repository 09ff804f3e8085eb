//! What happened in a run, as numbers, as text for a person and as JSON.

use std::fmt::Write as _;

use ::lab::addresses::Machine;
use hb_ebpf::time::BootTime;
use serde::Serialize;

use crate::fault::Fault;

/// Instants of a run in nanoseconds after the fault; `None` for what did not happen or was not
/// noted.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Instants {
    /// Last answer of the old node arrived at the client.
    pub(crate) last_answer_old_ns: Option<i64>,
    /// Silence was deadtime.
    pub(crate) due_ns: Option<i64>,
    /// The kernel of b wrote its verdict.
    pub(crate) verdict_ns: Option<i64>,
    /// The fast path of b saw it.
    pub(crate) seen_ns: Option<i64>,
    /// b sought the group first.
    pub(crate) sought_ns: Option<i64>,
    /// A majority had promised, and the gate of b opened.
    pub(crate) won_ns: Option<i64>,
    /// The new epoch was in the kernel of b.
    pub(crate) published_ns: Option<i64>,
    /// The last service address was up on b.
    pub(crate) address_ns: Option<i64>,
    /// The first announcement had left b.
    pub(crate) announced_ns: Option<i64>,
    /// The first announcement of b arrived at the client.
    pub(crate) announcement_on_wire_ns: Option<i64>,
    /// The resource was started on b.
    pub(crate) resource_started_ns: Option<i64>,
    /// First answer of b arrived at the client.
    pub(crate) first_answer_new_ns: Option<i64>,
    /// The daemon of a was started or continued.
    pub(crate) repaired_ns: Option<i64>,
    /// b reported the controller of a as alive again.
    pub(crate) controller_alive_ns: Option<i64>,
}

/// Name of an instant and when it was.
pub(crate) type Mark = (&'static str, i64);

impl Instants {
    /// Returns what happened in order of time.
    pub(crate) fn marks(&self) -> Vec<Mark> {
        let mut marks: Vec<Mark> = [
            ("last answer of a", self.last_answer_old_ns),
            ("silence is deadtime", self.due_ns),
            ("verdict in the kernel of b", self.verdict_ns),
            ("verdict seen by the fast path of b", self.seen_ns),
            ("group sought by b", self.sought_ns),
            ("lease won by b", self.won_ns),
            ("new epoch published by b", self.published_ns),
            ("addresses up on b", self.address_ns),
            ("first announcement has left b", self.announced_ns),
            ("first announcement on the client's wire", self.announcement_on_wire_ns),
            ("resource started on b", self.resource_started_ns),
            ("first answer of b", self.first_answer_new_ns),
            ("daemon of a started or continued", self.repaired_ns),
            ("controller of a alive, says b", self.controller_alive_ns),
        ]
        .into_iter()
        .filter_map(|(name, at)| Some((name, at?)))
        .collect();
        marks.sort_by_key(|&(_, at)| at);
        marks
    }
}

/// Returns how long after `fault` an instant lies, in nanoseconds.
pub(crate) fn after(fault: BootTime, at: BootTime) -> i64 {
    at.ns() as i64 - fault.ns() as i64
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    /// Its number, from 1.
    pub(crate) run: u32,
    /// The fault's word.
    pub(crate) fault: &'static str,
    /// Boot time of the fault, in nanoseconds; `None` if it did not come to it.
    pub(crate) fault_ns: Option<u64>,
    /// What happened when.
    #[serde(flatten)]
    pub(crate) instants: Instants,
    /// When the first question was due that the old node did not answer, after the fault: a client
    /// that was to ask then has waited since.
    pub(crate) unanswered_ns: Option<i64>,
    /// From the last answer of the old node to the first of the new.
    pub(crate) outage_ns: Option<i64>,
    /// Why b took over, in its words.
    pub(crate) cause: Option<String>,
    /// The epoch it took.
    pub(crate) epoch: Option<u64>,
    /// The longest the client itself was late with a question.
    pub(crate) client_lateness_ns: Option<u64>,
    /// Whether the fault led to what it must.
    pub(crate) ok: bool,
    /// If not, why not.
    pub(crate) error: Option<String>,
}

impl Run {
    /// A run about which nothing is known yet.
    pub(crate) fn new(run: u32, fault: Fault) -> Self {
        Self {
            run,
            fault: fault.name(),
            fault_ns: None,
            instants: Instants::default(),
            unanswered_ns: None,
            outage_ns: None,
            cause: None,
            epoch: None,
            client_lateness_ns: None,
            ok: false,
            error: None,
        }
    }

    /// Describes the run on one line.
    pub(crate) fn line(&self) -> String {
        if let Some(error) = &self.error {
            return format!("FAILED: {error}");
        }
        let mut line = String::new();
        let parts = [
            ("outage", self.outage_ns),
            ("verdict", self.instants.verdict_ns),
            ("addresses", self.instants.address_ns),
            ("on the wire", self.instants.announcement_on_wire_ns),
            ("first answer", self.instants.first_answer_new_ns),
            ("repaired", self.instants.controller_alive_ns),
        ];
        for (name, ns) in parts {
            let Some(ns) = ns else { continue };
            let comma = if line.is_empty() { "" } else { ", " };
            let sign = if name == "outage" { "" } else { "+" };
            // Writing to a string cannot fail.
            let _ = write!(line, "{comma}{name} {sign}{} us", us(ns));
        }
        line
    }

    /// Draws the run for a person, one event per line.
    pub(crate) fn text(&self, deed: &str) -> String {
        let mut events = self.instants.marks();
        events.push((deed, 0));
        events.sort_by_key(|&(_, at)| at);
        let mut text = format!("run {}, {} of {}:\n", self.run, self.fault, Machine::A);
        for (name, at) in events {
            let _ = writeln!(text, "  {:>12} us  {name}", format!("{:+.1}", at as f64 / 1e3));
        }
        if let Some(cause) = &self.cause {
            let _ = writeln!(text, "  cause: {cause}");
        }
        if let Some(ns) = self.outage_ns {
            let _ = writeln!(text, "  outage at the client: {} us", us(ns));
        }
        text
    }
}

/// Returns microseconds, rounded.
fn us(ns: i64) -> i64 {
    (ns + 500).div_euclid(1000)
}

/// A distribution in microseconds; all `None` when nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Distribution {
    pub(crate) min: Option<f64>,
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) max: Option<f64>,
}

impl Distribution {
    /// Sums up nanoseconds by nearest rank: each figure is one that was measured.
    pub(crate) fn of(mut ns: Vec<i64>) -> Self {
        ns.sort_unstable();
        let rank = |percent: usize| {
            let rank = (ns.len() * percent).div_ceil(100).max(1);
            ns.get(rank - 1).map(|&ns| ns as f64 / 1e3)
        };
        Self { min: rank(0), p50: rank(50), p99: rank(99), max: rank(100) }
    }
}

/// All runs in a few numbers.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) runs: usize,
    pub(crate) failed: usize,
    pub(crate) outage_us: Distribution,
}

/// What a demonstration found, as it is written to a file.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) runs: Vec<Run>,
    pub(crate) summary: Summary,
}

impl Report {
    /// Sums up `runs`.
    pub(crate) fn new(runs: Vec<Run>) -> Self {
        let summary = Summary {
            runs: runs.len(),
            failed: runs.iter().filter(|run| !run.ok).count(),
            outage_us: Distribution::of(runs.iter().filter_map(|run| run.outage_ns).collect()),
        };
        Self { runs, summary }
    }

    /// Draws the distributions of all instants for a person.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{:<42}{:>6}{:>11}{:>11}{:>11}{:>11}\n",
            "us after the fault", "count", "min", "p50", "p99", "max"
        );
        let mut names: Vec<&'static str> = Vec::new();
        for run in &self.runs {
            for (name, _) in run.instants.marks() {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        let times = |wanted: &str| -> Vec<i64> {
            let marks = self.runs.iter().flat_map(|run| run.instants.marks());
            marks.filter(|&(name, _)| name == wanted).map(|(_, at)| at).collect()
        };
        let mut rows: Vec<_> = names.into_iter().map(|name| (name, times(name))).collect();
        rows.push(("outage", self.runs.iter().filter_map(|run| run.outage_ns).collect()));
        for (name, ns) in rows {
            if ns.is_empty() {
                continue;
            }
            let count = ns.len();
            let Distribution { min, p50, p99, max } = Distribution::of(ns);
            let figure = |us: Option<f64>| us.map_or_else(|| "-".into(), |us| format!("{us:.1}"));
            let _ = writeln!(
                text,
                "{name:<42}{count:>6}{:>11}{:>11}{:>11}{:>11}",
                figure(min),
                figure(p50),
                figure(p99),
                figure(max)
            );
        }
        let _ = write!(text, "runs {}, failed {}", self.summary.runs, self.summary.failed);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let all = Distribution::of((1..=200).rev().map(|n| n * 1000).collect());
        let expected =
            Distribution { min: Some(1.0), p50: Some(100.0), p99: Some(198.0), max: Some(200.0) };
        assert_eq!(all, expected);
        assert_eq!(Distribution::of(vec![7000]).p99, Some(7.0));
        assert_eq!(Distribution::of(Vec::new()), Distribution::default());
    }

    #[test]
    fn reports_have_the_promised_shape() {
        let mut good = Run::new(1, Fault::Crash);
        good.ok = true;
        good.outage_ns = Some(800_000);
        good.instants.verdict_ns = Some(640_000);
        let mut bad = Run::new(2, Fault::Crash);
        bad.error = Some("no answer".into());
        let json = serde_json::to_value(Report::new(vec![good, bad])).unwrap();
        assert_eq!(
            json["summary"],
            serde_json::json!({
                "runs": 2, "failed": 1,
                "outage_us": {"min": 800.0, "p50": 800.0, "p99": 800.0, "max": 800.0}
            })
        );
        assert_eq!(json["runs"][0]["verdict_ns"], 640_000);
        assert!(json["runs"][0]["due_ns"].is_null());
        assert_eq!(json["runs"][1]["ok"], false);
        assert_eq!(json["runs"][1]["error"], "no answer");
    }

    #[test]
    fn a_person_reads_events_in_order() {
        let mut run = Run::new(1, Fault::Crash);
        run.instants.last_answer_old_ns = Some(-43_000);
        run.instants.verdict_ns = Some(640_000);
        run.instants.first_answer_new_ns = Some(812_300);
        let text = run.text("it falls");
        let order = ["last answer of a", "it falls", "verdict", "first answer of b"]
            .map(|word| text.find(word).unwrap());
        assert!(order.is_sorted(), "{text}");
        assert!(text.contains("-43.0 us"), "{text}");
    }
}
