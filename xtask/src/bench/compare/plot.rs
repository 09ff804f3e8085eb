//! The comparison as a picture.

use std::path::Path;

use anyhow::Result;

use super::report::{Entry, REFERENCE, Report};
use crate::bench::dots::{self, Row, Whose};

/// Draws the outages of all systems after a crash; detections where nothing is served.
///
/// # Errors
///
/// If nothing was measured or the file cannot be written.
pub(crate) fn draw(path: &Path, report: &Report) -> Result<()> {
    let crashes = report.systems.iter().filter(|entry| entry.fault == "crash" && entry.runs > 0);
    let rows: Vec<Row> = crashes.map(row).collect();
    dots::draw(path, "outage after a crash of the holder, one dot per run", &rows)
}

fn row(entry: &Entry) -> Row {
    let serves = entry.outage_us.is_some();
    let outcomes = entry.outcomes.iter();
    let ms: Vec<f64> = outcomes
        .filter_map(|o| if serves { o.outage_us } else { o.detection_us })
        .map(|us| us / 1e3)
        .collect();
    let whose = match (serves, entry.name.starts_with("hb-")) {
        (false, _) => Whose::Detector,
        (true, true) => Whose::Ours,
        (true, false) => Whose::Theirs,
    };
    let ratio = match entry.times_faster_than_keepalived {
        Some(_) if entry.name == REFERENCE => String::new(),
        Some(ratio) if ratio >= 1.0 => format!(", {ratio:.1} x faster"),
        Some(ratio) => format!(", {:.1} x slower", 1.0 / ratio),
        None => String::new(),
    };
    let mut row = Row {
        title: String::new(),
        subtitle: format!("{}; {} runs", entry.config, entry.runs),
        whose,
        ms,
    };
    let what = if serves { "" } else { " detection" };
    let median = row.median().map_or_else(|| "-".into(), |ms| format!("{ms:.2} ms"));
    row.title = format!("{}: {median}{what}{ratio}", entry.name);
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::compare::measure::Outcome;

    #[test]
    fn pictures_name_each_system_and_its_ratio() {
        let path = std::env::temp_dir().join(format!("hb-compare-{}.svg", std::process::id()));
        let mut report = Report::default();
        for (name, us) in [("hb-200us", 900.0), ("keepalived", 27000.0)] {
            let outcome = Outcome { outage_us: Some(us), ..Outcome::default() };
            report.add([name, "so and so", "crash"], Ok(outcome));
        }
        draw(&path, &report).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for word in ["hb-200us: 0.90 ms, 30.0 x faster", "keepalived: 27.00 ms", "milliseconds"] {
            assert!(text.contains(word), "{word} is missing");
        }
        assert!(draw(&path, &Report::default()).is_err());
    }
}
