//! The comparison as a picture: one row per system, one dot per run, time to the right in powers of
//! ten.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;

use super::report::{Entry, Report};

/// Height of a row in pixels.
const ROW: u32 = 46;
const OURS: RGBColor = RGBColor(31, 119, 180);
const THEIRS: RGBColor = RGBColor(150, 90, 40);
const DETECTION: RGBColor = RGBColor(120, 120, 120);

/// Draws the outages of all systems after a crash; detections where nothing is served.
///
/// # Errors
///
/// If nothing was measured or the file cannot be written.
pub(crate) fn draw(path: &Path, report: &Report) -> Result<()> {
    let rows: Vec<(&Entry, Vec<f64>)> = report
        .systems
        .iter()
        .filter(|entry| entry.fault == "crash")
        .map(|entry| (entry, dots(entry)))
        .filter(|(_, dots)| !dots.is_empty())
        .collect();
    anyhow::ensure!(!rows.is_empty(), "no crash was measured: nothing to draw");
    let height = 120 + ROW * rows.len() as u32;
    let area = SVGBackend::new(path, (1100, height)).into_drawing_area();
    paint(&area, &rows)
        .map_err(|error| anyhow!("{error}"))
        .and_then(|()| area.present().map_err(|error| anyhow!("{error}")))
        .with_context(|| format!("cannot draw {}", path.display()))
}

/// The outage of each run in milliseconds, or its detection.
fn dots(entry: &Entry) -> Vec<f64> {
    entry
        .outcomes
        .iter()
        .filter_map(|outcome| match entry.outage_us {
            Some(_) => outcome.outage_us,
            None => outcome.detection_us,
        })
        // A logarithm of what is not above zero cannot be drawn.
        .map(|us| (us / 1e3).max(0.01))
        .collect()
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn paint(area: &Area<'_>, rows: &[(&Entry, Vec<f64>)]) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let all = rows.iter().flat_map(|(_, dots)| dots.iter().copied());
    let (low, high) = all.fold((f64::MAX, 0.0_f64), |(l, h), dot| (l.min(dot), h.max(dot)));
    let left = 10_f64.powf(low.log10().floor());
    let right = 10_f64.powf(high.log10().ceil().max(low.log10().floor() + 1.0));
    let bottom = rows.len() as f64;
    // The words of each row stand to the left of the plot, where no dot can be.
    let (words, plot) = area.split_horizontally(330);
    let mut chart = ChartBuilder::on(&plot)
        .caption("outage after a crash of the holder, one dot per run", ("sans-serif", 18))
        .margin(10)
        .margin_right(40)
        .x_label_area_size(44)
        .build_cartesian_2d((left..right).log_scale(), bottom..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_desc("milliseconds")
        .x_label_formatter(&|ms| format!("{ms}"))
        .light_line_style(RGBColor(235, 235, 235))
        .draw()?;
    for (row, (entry, dots)) in rows.iter().enumerate() {
        let middle = row as f64 + 0.5;
        let colour = match entry.outage_us {
            None => DETECTION,
            Some(_) if entry.name.starts_with("hb-") => OURS,
            Some(_) => THEIRS,
        };
        chart.draw_series(dots.iter().enumerate().map(|(number, &ms)| {
            // Apart from each other, so that equal ones show as many.
            let offset = ((number * 7) % 11) as f64 / 11.0 - 0.5;
            Circle::new((ms, middle + offset * 0.5), 3, colour.mix(0.55).filled())
        }))?;
        if let Some(figures) = entry.outage_us.or(entry.detection_us) {
            let median = (figures.p50 / 1e3).max(0.01);
            chart.draw_series(std::iter::once(PathElement::new(
                [(median, middle - 0.38), (median, middle + 0.38)],
                BLACK.stroke_width(2),
            )))?;
        }
        let pixel = chart.backend_coord(&(left, middle)).1;
        label(&words, entry, pixel)?;
    }
    Ok(())
}

/// Writes what a row is, its median and its ratio.
fn label(words: &Area<'_>, entry: &Entry, y: i32) -> Result<(), Box<dyn std::error::Error>> {
    let figures = entry.outage_us.or(entry.detection_us);
    let median = figures.map_or(0.0, |figures| figures.p50 / 1e3);
    let what = if entry.outage_us.is_some() { "" } else { " detection" };
    let ratio = match entry.times_faster_than_keepalived {
        Some(ratio) if (ratio - 1.0).abs() < f64::EPSILON => String::new(),
        Some(ratio) if ratio >= 1.0 => format!(", {ratio:.1} x faster"),
        Some(ratio) => format!(", {:.1} x slower", 1.0 / ratio),
        None => String::new(),
    };
    let first = format!("{}: {median:.2} ms{what}{ratio}", entry.name);
    let second = format!("{}; {} runs", entry.config, entry.runs);
    let bold = ("sans-serif", 15).into_font().style(FontStyle::Bold);
    words.draw(&Text::new(first, (14, y - 15), bold.color(&BLACK)))?;
    words.draw(&Text::new(
        second,
        (14, y + 2),
        ("sans-serif", 12).into_font().color(&DETECTION),
    ))?;
    Ok(())
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
