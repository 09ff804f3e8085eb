//! One system on one rung: counts and quality of service as numbers, as a line of JSON and as a row.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use ::lab::stalls::Record;
use hb_ebpf::time::BootTime;
use serde::{Deserialize, Serialize};

use super::mistakes::Mistake;

/// What was found. Failure detector's figures as Chen, Toueg and Aguilera have them ("On the
/// quality of service of failure detectors", IEEE Transactions on Computers 51(5), 2002).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Row {
    pub(super) level: String,
    pub(super) what: String,
    pub(super) system: String,
    pub(super) config: String,
    /// How long both nodes lived and were watched.
    pub(super) seconds: f64,
    /// Takeovers from a node that lived, without a stall of a core that explains them.
    pub(super) false_takeovers: usize,
    /// Takeovers that a recorded stall explains.
    pub(super) explained_takeovers: usize,
    /// Takeovers from a node whose daemon was stopped at that moment.
    pub(super) takeovers_of_frozen: usize,
    /// Those of the false ones that took a daemon for dead, by `controller_deadtime`, while the
    /// kernel half of its node answered; only hb tells them apart.
    pub(super) false_of_controller: usize,
    /// Times a node took the other for dead, with or without a takeover.
    pub(super) mistakes: usize,
    /// Those of them that took a daemon for dead.
    pub(super) mistakes_of_controller: usize,
    /// Those without a stall that explains them.
    pub(super) unexplained_mistakes: usize,
    /// Intervals without an arrival, on both nodes; only hb counts them.
    pub(super) misses: Option<u64>,
    /// Times a node blamed itself; only hb does.
    pub(super) doubts: Option<u64>,
    /// The longest time between two arrivals of heartbeats, in microseconds, rounded up to a power
    /// of two; only hb keeps it.
    pub(super) longest_heartbeat_gap_us: Option<f64>,
    /// The longest time between two answers at the client, which asks every millisecond.
    pub(super) longest_service_gap_us: f64,
    /// The client's worst lateness: trust no service gap further than that.
    pub(super) client_lateness_us: f64,
    /// T_D, from a crash to the first word of it on the wire, of each crash under the load.
    pub(super) detection_us: Vec<f64>,
    /// Crashes that did not lead to a takeover in time, and why.
    pub(super) failed_crashes: Vec<String>,
    /// T_MR, mean time between the begins of two mistakes; `None` with fewer than two.
    pub(super) mistake_recurrence_s: Option<f64>,
    /// T_M, mean duration of a mistake; `None` without one.
    pub(super) mistake_duration_us: Option<f64>,
    /// P_A, part of the time at which no node took the other for dead.
    pub(super) query_accuracy: f64,
    /// Stalls recorded, and the longest.
    pub(super) stalls: usize,
    pub(super) longest_stall_us: f64,
    /// The machine, at that moment.
    pub(super) machine: BTreeMap<String, String>,
}

/// When both nodes lived and were watched, and what happened to them meanwhile.
pub(super) struct Watch<'a> {
    pub(super) begin: BootTime,
    pub(super) end: BootTime,
    pub(super) deadtime: Duration,
    /// Age at which a daemon counts as dead.
    pub(super) controller_deadtime: Duration,
    pub(super) frozen: &'a [(BootTime, BootTime)],
    pub(super) record: &'a Record,
}

/// A takeover this long after a daemon was continued may still be for its being stopped.
const AFTER_THAW: Duration = Duration::from_millis(50);

impl Row {
    /// Counts and judges mistakes.
    pub(super) fn judge(&mut self, mistakes: &[Mistake], watch: &Watch<'_>) {
        let explained = |mistake: &Mistake| {
            let deadtime =
                if mistake.of_controller { watch.controller_deadtime } else { watch.deadtime };
            watch.record.stalls.iter().any(|stall| stall.explains(mistake.began, deadtime))
        };
        let frozen = |mistake: &Mistake| {
            watch.frozen.iter().any(|&(from, until)| {
                from <= mistake.began && mistake.began <= until.after(AFTER_THAW)
            })
        };
        let whole = watch.end.since(watch.begin);
        let mut mistakes: Vec<Mistake> = mistakes.to_vec();
        mistakes.sort_by_key(|mistake| mistake.began);
        self.takeovers_of_frozen = mistakes.iter().filter(|m| m.took_over && frozen(m)).count();
        // A stopped daemon is not taken for dead by mistake.
        mistakes.retain(|mistake| !frozen(mistake));
        let took = |m: &&Mistake| m.took_over;
        self.explained_takeovers = mistakes.iter().filter(took).filter(|m| explained(m)).count();
        self.false_takeovers = mistakes.iter().filter(took).filter(|m| !explained(m)).count();
        let of_controller = mistakes.iter().filter(|m| m.took_over && m.of_controller);
        self.false_of_controller = of_controller.filter(|m| !explained(m)).count();
        self.mistakes = mistakes.len();
        self.mistakes_of_controller = mistakes.iter().filter(|m| m.of_controller).count();
        self.unexplained_mistakes = mistakes.iter().filter(|m| !explained(m)).count();
        let spans: Vec<(BootTime, BootTime)> = mistakes
            .iter()
            .map(|m| (m.began, m.ended.unwrap_or(watch.end).min(watch.end)))
            .collect();
        let wrong = covered(&spans);
        self.seconds = whole.as_secs_f64();
        self.query_accuracy = 1.0 - wrong.as_secs_f64() / whole.as_secs_f64().max(1e-9);
        let lengths: Vec<f64> =
            spans.iter().map(|&(a, b)| b.since(a).as_nanos() as f64 / 1e3).collect();
        self.mistake_duration_us =
            (!lengths.is_empty()).then(|| lengths.iter().sum::<f64>() / lengths.len() as f64);
        self.mistake_recurrence_s = match spans[..] {
            [(first, _), .., (last, _)] => {
                Some(last.since(first).as_secs_f64() / (spans.len() - 1) as f64)
            }
            _ => None,
        };
        self.stalls = watch.record.stalls.len();
        self.longest_stall_us = watch.record.longest().as_nanos() as f64 / 1e3;
    }
}

/// Returns how much time spans cover together; they are in order of their begins.
fn covered(spans: &[(BootTime, BootTime)]) -> Duration {
    let mut sum = Duration::ZERO;
    let mut until = BootTime(0);
    for &(from, to) in spans {
        let from = from.max(until);
        if to > from {
            sum += to.since(from);
            until = to;
        }
    }
    sum
}

/// Draws rows for a person.
pub(super) fn text(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<33}{:<16}{:>7}{:>7}{:>9}{:>10}{:>7}{:>9}{:>8}{:>12}{:>12}{:>12}{:>10}{:>10}{:>10}{:>10}\n",
        "level",
        "system",
        "s",
        "false",
        "(daemon)",
        "explained",
        "frozen",
        "mistakes",
        "doubts",
        "T_D p50 ms",
        "T_D max ms",
        "service ms",
        "T_MR s",
        "T_M ms",
        "P_A",
        "stall ms"
    );
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    for row in rows {
        let mut detection = row.detection_us.clone();
        detection.sort_by(f64::total_cmp);
        let ms = |us: f64| format!("{:.2}", us / 1e3);
        let median = detection.len().checked_sub(1).map(|last| ms(detection[last / 2]));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<33}{:<16}{:>7.0}{:>7}{:>9}{:>10}{:>7}{:>9}{:>8}{:>12}{:>12}{:>12}{:>10}{:>10}{:>10.6}{:>10}{}",
            format!("{} {}", row.level, row.what),
            row.system,
            row.seconds,
            row.false_takeovers,
            row.false_of_controller,
            row.explained_takeovers,
            row.takeovers_of_frozen,
            row.mistakes,
            or_dash(row.doubts.map(|doubts| doubts.to_string())),
            or_dash(median),
            or_dash(detection.last().map(|&us| ms(us))),
            ms(row.longest_service_gap_us),
            or_dash(row.mistake_recurrence_s.map(|s| format!("{s:.1}"))),
            or_dash(row.mistake_duration_us.map(ms)),
            row.query_accuracy,
            ms(row.longest_stall_us),
            if row.failed_crashes.is_empty() {
                String::new()
            } else {
                format!("  {} crashes failed", row.failed_crashes.len())
            }
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use ::lab::stalls::Stall;

    use super::*;

    fn at(ms: u64) -> BootTime {
        BootTime(ms * 1_000_000)
    }

    fn mistake(began: u64, ended: u64) -> Mistake {
        Mistake { began: at(began), ended: Some(at(ended)), took_over: true, of_controller: false }
    }

    #[test]
    fn takeovers_are_explained_false_or_of_a_frozen_daemon() {
        let stall = Stall { core: 1, began: at(998), length: Duration::from_millis(2) };
        let record = Record { stalls: vec![stall], looks: 1 };
        let watch = Watch {
            begin: at(0),
            end: at(10_000),
            deadtime: Duration::from_millis(1),
            controller_deadtime: Duration::from_millis(100),
            frozen: &[(at(5000), at(5500))],
            record: &record,
        };
        let mut row = Row::default();
        let mistakes = [mistake(3000, 3100), mistake(1000, 1100), mistake(5100, 5600)];
        row.judge(&mistakes, &watch);
        assert_eq!((row.false_takeovers, row.explained_takeovers), (1, 1));
        assert_eq!((row.takeovers_of_frozen, row.mistakes), (1, 2));
        assert!((row.query_accuracy - 0.98).abs() < 1e-9, "{}", row.query_accuracy);
        assert_eq!(row.mistake_recurrence_s, Some(2.0));
        assert_eq!(row.mistake_duration_us, Some(100_000.0));
    }

    #[test]
    fn no_mistake_is_full_accuracy() {
        let record = Record::default();
        let (begin, end) = (at(0), at(1000));
        let deadtime = Duration::from_millis(1);
        let controller_deadtime = Duration::from_millis(100);
        let mut row = Row::default();
        let watch =
            Watch { begin, end, deadtime, controller_deadtime, frozen: &[], record: &record };
        row.judge(&[], &watch);
        assert_eq!((row.query_accuracy, row.mistake_duration_us), (1.0, None));
    }

    #[test]
    fn overlapping_mistakes_count_once_for_the_time() {
        let spans = [(at(0), at(10)), (at(5), at(8)), (at(9), at(20))];
        assert_eq!(covered(&spans), Duration::from_millis(20));
    }
}
