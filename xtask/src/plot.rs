//! The runs as a picture: time to the right, one row per run, the outage as a bar and what
//! happened in it as marks.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;

use crate::timeline::Run;

/// Rows drawn at most; more would not be readable.
const MAX_ROWS: usize = 200;

/// Starting the resource takes many times the outage; it is drawn only where it comes in view.
const RESOURCE: &str = "resource started on b";

/// The marks drawn, in order of the legend.
const MARKS: [(&str, RGBColor); 8] = [
    ("silence is deadtime", RGBColor(150, 150, 150)),
    ("verdict in the kernel of b", RGBColor(214, 39, 40)),
    ("addresses up on b", RGBColor(31, 119, 180)),
    ("first announcement on the client's wire", RGBColor(148, 103, 189)),
    (RESOURCE, RGBColor(140, 86, 75)),
    ("first answer of b", RGBColor(44, 160, 44)),
    ("lease won by b", RGBColor(255, 127, 14)),
    ("controller of a alive, says b", RGBColor(23, 190, 207)),
];

/// Draws `runs` into an SVG file.
///
/// # Errors
///
/// If the file cannot be written.
pub(crate) fn draw(path: &Path, title: &str, runs: &[Run]) -> Result<()> {
    let shown = &runs[..runs.len().min(MAX_ROWS)];
    let rows = shown.len().max(1);
    let height = (260 + 18 * rows) as u32;
    let area = SVGBackend::new(path, (1100, height)).into_drawing_area();
    paint(&area, title, shown, runs.len())
        .map_err(|error| anyhow!("{error}"))
        .and_then(|()| area.present().map_err(|error| anyhow!("{error}")))
        .with_context(|| format!("cannot draw {}", path.display()))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn paint(
    area: &Area<'_>,
    title: &str,
    shown: &[Run],
    all: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let title = if shown.len() < all {
        format!("{title}; the first {} of {all} runs", shown.len())
    } else {
        format!("{title}; {all} runs")
    };
    let (left, right) = span(shown);
    let rows = shown.len().max(1) as f64;
    // Room below the rows for the legend, which would hide them else.
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(52)
        .build_cartesian_2d(left..right, (rows + 0.5 + 140.0 / 18.0)..0.5)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_desc("microseconds after the fault")
        .y_desc("run")
        .y_labels(shown.len().min(20))
        .y_label_formatter(&|row| {
            if *row <= rows + 0.5 { format!("{row:.0}") } else { String::new() }
        })
        .draw()?;
    chart
        .draw_series(std::iter::once(PathElement::new(
            [(0.0, 0.5), (0.0, rows + 0.5)],
            BLACK.stroke_width(2),
        )))?
        .label("fault")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 14, y)], BLACK.stroke_width(2)));
    let outages = shown.iter().enumerate().filter_map(|(row, run)| {
        let from = run.instants.last_answer_old_ns? as f64 / 1e3;
        let to = run.instants.first_answer_new_ns? as f64 / 1e3;
        let y = row as f64 + 1.0;
        Some(Rectangle::new([(from, y - 0.3), (to, y + 0.3)], RGBColor(255, 220, 200).filled()))
    });
    chart.draw_series(outages)?.label("outage: last answer of a to first answer of b").legend(
        |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], RGBColor(255, 220, 200).filled()),
    );
    for (name, colour) in MARKS {
        let points: Vec<_> = shown
            .iter()
            .enumerate()
            .flat_map(|(row, run)| {
                run.instants
                    .marks()
                    .into_iter()
                    .filter(|&(mark, _)| mark == name)
                    .map(move |(_, at)| (at as f64 / 1e3, row as f64 + 1.0))
                    .filter(|&(at, _)| at <= right)
            })
            .collect();
        if points.is_empty() {
            continue;
        }
        chart
            .draw_series(points.into_iter().map(|point| Circle::new(point, 4, colour.filled())))?
            .label(name)
            .legend(move |(x, y)| Circle::new((x + 7, y), 4, colour.filled()));
    }
    let failed = shown.iter().enumerate().filter(|(_, run)| !run.ok).map(|(row, _)| {
        Text::new("failed", (left, row as f64 + 0.7), ("sans-serif", 13).into_font().color(&RED))
    });
    chart.draw_series(failed)?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE)
        .border_style(RGBColor(200, 200, 200))
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}

/// Returns the time axis: everything drawn but [`RESOURCE`], and a little room.
fn span(runs: &[Run]) -> (f64, f64) {
    let drawn = runs.iter().flat_map(|run| {
        run.instants
            .marks()
            .into_iter()
            .filter(|(name, _)| *name != RESOURCE && MARKS.iter().any(|(mark, _)| mark == name))
            .map(|(_, at)| at)
            .chain(run.instants.first_answer_new_ns.and(run.instants.last_answer_old_ns))
    });
    let (low, high) = drawn.fold((0, 100_000), |(low, high), at| (at.min(low), at.max(high)));
    let room = (high - low) as f64 / 1e3 * 0.03;
    (low as f64 / 1e3 - room, high as f64 / 1e3 + room)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;

    #[test]
    fn pictures_name_what_they_show() {
        let path = std::env::temp_dir().join(format!("hb-plot-{}.svg", std::process::id()));
        let mut run = Run::new(1, Fault::Crash);
        run.ok = true;
        run.instants.last_answer_old_ns = Some(-40_000);
        run.instants.verdict_ns = Some(640_000);
        run.instants.first_answer_new_ns = Some(800_000);
        draw(&path, "crash of node a", &[run, Run::new(2, Fault::Crash)]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for word in ["crash of node a; 2 runs", "verdict in the kernel of b", "failed", "outage"] {
            assert!(text.contains(word), "{word} is missing");
        }
    }

    #[test]
    fn no_runs_are_no_reason_to_panic() {
        let path = std::env::temp_dir().join(format!("hb-plot-none-{}.svg", std::process::id()));
        draw(&path, "nothing", &[]).unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
