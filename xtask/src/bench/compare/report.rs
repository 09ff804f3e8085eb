//! What a comparison found: as a table for a person and as JSON.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::measure::Outcome;

/// The one that the others are compared with.
pub(crate) const REFERENCE: &str = "keepalived";

/// Figures in microseconds, each by nearest rank: one that was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) min: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Figures {
    /// Sums up; `None` of nothing.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let rank =
            |percent: usize| values.get((values.len() * percent).div_ceil(100).max(1) - 1).copied();
        Some(Self { min: rank(0)?, p50: rank(50)?, p99: rank(99)?, max: rank(100)? })
    }
}

/// One system under one fault.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) config: String,
    pub(crate) fault: String,
    /// Runs that gave a figure.
    pub(crate) runs: usize,
    /// From the last answer of the old node to the first of the new; absent for what only detects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) outage_us: Option<Figures>,
    /// From the fault to the first word of it on the wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) detection_us: Option<Figures>,
    /// Median of the reference over the median here, of the outage or, without one, of the
    /// detection; absent where two nodes served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) times_faster_than_keepalived: Option<f64>,
    /// Runs in which the old node still served beside the new one, until somebody looked.
    pub(crate) two_servers: usize,
    /// Runs that gave none, and why.
    pub(crate) failures: Vec<String>,
    /// Each run.
    pub(crate) outcomes: Vec<Outcome>,
}

/// A system that could not be measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NotMeasured {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// All.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) systems: Vec<Entry>,
    pub(crate) not_measured: Vec<NotMeasured>,
    pub(crate) machine: BTreeMap<String, String>,
}

impl Report {
    /// Reads one that was written before.
    ///
    /// # Errors
    ///
    /// If it cannot be read or is none.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut report: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is no report", path.display()))?;
        report.sum_up();
        Ok(report)
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Adds the result of a run; an earlier word that the system is not measured is void.
    pub(crate) fn add(&mut self, [name, config, fault]: [&str; 3], result: Result<Outcome>) {
        self.not_measured.retain(|other| other.name != name);
        let found = self
            .systems
            .iter()
            .position(|e| e.name == name && e.config == config && e.fault == fault);
        let place = found.unwrap_or_else(|| {
            self.systems.push(Entry {
                name: name.into(),
                config: config.into(),
                fault: fault.into(),
                runs: 0,
                outage_us: None,
                detection_us: None,
                times_faster_than_keepalived: None,
                two_servers: 0,
                failures: Vec::new(),
                outcomes: Vec::new(),
            });
            self.systems.len() - 1
        });
        match result {
            Ok(outcome) => self.systems[place].outcomes.push(outcome),
            Err(error) => self.systems[place].failures.push(format!("{error:#}")),
        }
        self.sum_up();
    }

    /// Brings all that follows from the outcomes up to date.
    fn sum_up(&mut self) {
        for entry in &mut self.systems {
            let outcomes = &entry.outcomes;
            entry.runs = outcomes.len();
            entry.outage_us = Figures::of(outcomes.iter().filter_map(|o| o.outage_us));
            entry.detection_us = Figures::of(outcomes.iter().filter_map(|o| o.detection_us));
            entry.two_servers = outcomes.iter().filter(|o| o.two_servers).count();
        }
        let references: Vec<Entry> =
            self.systems.iter().filter(|entry| entry.name == REFERENCE).cloned().collect();
        for entry in &mut self.systems {
            let reference = references.iter().find(|other| other.fault == entry.fault);
            entry.times_faster_than_keepalived = reference.and_then(|reference| {
                // Who leaves the old node serving has no outage, but not for being fast.
                if reference.two_servers + entry.two_servers > 0 {
                    return None;
                }
                let (theirs, own) = match (reference.outage_us, entry.outage_us) {
                    (Some(theirs), Some(own)) => (theirs, own),
                    (_, None) => (reference.detection_us?, entry.detection_us?),
                    _ => return None,
                };
                Some(theirs.p50 / own.p50)
            });
        }
    }

    /// Draws the table.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{:<16}{:<52}{:<12}{:>5}{:>11}{:>11}{:>11}{:>11}{:>11}  {}\n",
            "system",
            "configuration",
            "fault",
            "runs",
            "min ms",
            "p50",
            "p99",
            "max",
            "detection",
            "against keepalived"
        );
        let ms = |us: f64| format!("{:.2}", us / 1e3);
        for entry in &self.systems {
            let figures = entry.outage_us.map_or_else(
                || ["-", "-", "-", "-"].map(String::from),
                |f| [f.min, f.p50, f.p99, f.max].map(ms),
            );
            let detection = entry.detection_us.map_or_else(|| "-".into(), |f| ms(f.p50));
            let ratio = match entry.times_faster_than_keepalived {
                None => "-".into(),
                Some(ratio) if ratio >= 1.0 => format!("{ratio:.1} times faster"),
                Some(ratio) => format!("{:.1} times slower", 1.0 / ratio),
            };
            let [min, p50, p99, max] = figures;
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "{:<16}{:<52}{:<12}{:>5}{min:>11}{p50:>11}{p99:>11}{max:>11}{detection:>11}  {ratio}",
                entry.name, entry.config, entry.fault, entry.runs
            );
            if entry.two_servers > 0 {
                let _ = write!(text, "; two servers in {} runs", entry.two_servers);
            }
            if !entry.failures.is_empty() {
                let _ = write!(text, "; {} runs failed", entry.failures.len());
            }
            text.push('\n');
        }
        for other in &self.not_measured {
            let _ = writeln!(text, "{:<16}not measured: {}", other.name, other.reason);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(outage_us: f64) -> Outcome {
        Outcome { outage_us: Some(outage_us), ..Outcome::default() }
    }

    #[test]
    fn reports_have_the_promised_shape_and_grow() {
        let mut report = Report::default();
        report.add(["hb", "3 x 200 us", "crash"], Ok(outcome(1000.0)));
        report.add(["keepalived", "10 ms", "crash"], Ok(outcome(26000.0)));
        report.add(["hb", "3 x 200 us", "crash"], Err(anyhow::anyhow!("no answer")));
        report.add(["keepalived", "10 ms", "stop"], Ok(outcome(1.0)));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["systems"][0]["runs"], 1);
        assert_eq!(
            json["systems"][0]["outage_us"],
            serde_json::json!({"min": 1000.0, "p50": 1000.0, "p99": 1000.0, "max": 1000.0})
        );
        assert_eq!(json["systems"][0]["times_faster_than_keepalived"], 26.0);
        assert_eq!(json["systems"][0]["failures"][0], "no answer");
        let mut read: Report = serde_json::from_value(json).unwrap();
        read.add(["hb", "3 x 200 us", "crash"], Ok(outcome(3000.0)));
        assert_eq!(read.systems[0].runs, 2);
        assert_eq!(read.systems[0].outage_us.map(|f| f.max), Some(3000.0));
        assert!(read.text().contains("26.0 times faster"), "{}", read.text());
    }

    #[test]
    fn what_only_detects_is_compared_by_its_detection() {
        let mut report = Report::default();
        let both = Outcome { detection_us: Some(20.0), ..outcome(30.0) };
        report.add(["keepalived", "", "crash"], Ok(both));
        let detects = Outcome { detection_us: Some(40.0), ..Outcome::default() };
        report.add(["frr-bfdd", "", "crash"], Ok(detects));
        assert_eq!(report.systems[1].outage_us, None);
        assert_eq!(report.systems[1].times_faster_than_keepalived, Some(0.5));
    }

    #[test]
    fn two_servers_are_not_compared() {
        let mut report = Report::default();
        report.add(["keepalived", "", "kill"], Ok(Outcome { two_servers: true, ..outcome(1.0) }));
        report.add(["hb", "", "kill"], Ok(outcome(2.0)));
        assert_eq!(report.systems[1].times_faster_than_keepalived, None);
        assert!(report.text().contains("two servers in 1 runs"), "{}", report.text());
    }

    #[test]
    fn nobody_is_dropped_silently() {
        let mut report = Report::default();
        report.not_measured.push(NotMeasured { name: "ucarp".into(), reason: "gone".into() });
        assert!(report.text().contains("ucarp           not measured: gone"), "{}", report.text());
        report.add(["ucarp", "", "crash"], Ok(outcome(1.0)));
        assert_eq!(report.not_measured, []);
    }
}
