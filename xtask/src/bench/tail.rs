//! How often a value is longer than what, as a picture: one line for each series, both axes in powers
//! of ten, so that the rare and long ones are seen.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use plotters::prelude::*;

/// A series.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Its name in the legend.
    pub(crate) name: String,
    /// Lines of one number have one colour.
    pub(crate) colour: usize,
    /// Drawn with gaps.
    pub(crate) dashed: bool,
    /// What was measured.
    pub(crate) values: Vec<f64>,
}

const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(255, 127, 14),
    RGBColor(148, 103, 189),
    RGBColor(110, 110, 110),
];

/// Points of a line at most; steps between them would not be seen.
const POINTS: usize = 400;

impl Line {
    /// Returns for growing values which part of all is at least that large.
    fn tail(&self) -> Vec<(f64, f64)> {
        let mut sorted: Vec<f64> = self.values.iter().map(|value| value.max(0.1)).collect();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        // Close together where few are left.
        let mut ranks: Vec<usize> = (0..POINTS)
            .map(|point| {
                let left = (count as f64).powf(1.0 - point as f64 / (POINTS - 1) as f64);
                count - (left as usize).clamp(1, count)
            })
            .collect();
        ranks.dedup();
        ranks.into_iter().map(|rank| (sorted[rank], (count - rank) as f64 / count as f64)).collect()
    }
}

/// Draws the lines into an SVG file.
///
/// # Errors
///
/// If there is nothing to draw or the file cannot be written.
pub(crate) fn draw(path: &Path, caption: &str, unit: &str, lines: &[Line]) -> Result<()> {
    ensure!(lines.iter().any(|line| !line.values.is_empty()), "nothing was measured");
    let height = 460 + 17 * lines.len() as u32;
    let area = SVGBackend::new(path, (1100, height)).into_drawing_area();
    paint(&area, caption, unit, lines)
        .map_err(|error| anyhow!("{error}"))
        .and_then(|()| area.present().map_err(|error| anyhow!("{error}")))
        .with_context(|| format!("cannot draw {}", path.display()))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn paint(
    area: &Area<'_>,
    caption: &str,
    unit: &str,
    lines: &[Line],
) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let tails: Vec<_> =
        lines.iter().filter(|line| !line.values.is_empty()).map(Line::tail).collect();
    let points = || tails.iter().flatten();
    let low = points().map(|&(x, _)| x).fold(f64::MAX, f64::min);
    let high = points().map(|&(x, _)| x).fold(0.0, f64::max);
    let rare = points().map(|&(_, y)| y).fold(1.0, f64::min);
    let (plot, legend) = area.split_vertically(440);
    let mut chart = ChartBuilder::on(&plot)
        .caption(caption, ("sans-serif", 18))
        .margin(10)
        .margin_right(30)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d((low * 0.9..high * 1.2).log_scale(), (rare * 0.7..1.2).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(unit)
        .y_desc("part of all that is longer")
        .x_label_formatter(&|x| format!("{x}"))
        .y_label_formatter(&|y| format!("{y:e}"))
        .light_line_style(RGBColor(240, 240, 240))
        .draw()?;
    let named = lines.iter().filter(|line| !line.values.is_empty());
    for (number, (line, tail)) in named.zip(tails).enumerate() {
        let colour = COLOURS[line.colour % COLOURS.len()];
        let style = colour.stroke_width(2);
        if line.dashed {
            chart.draw_series(DashedLineSeries::new(tail, 6, 4, style))?;
        } else {
            chart.draw_series(LineSeries::new(tail, style))?;
        }
        let y = 4 + 17 * number as i32;
        let mark = if line.dashed { "- -" } else { "---" };
        let font = ("sans-serif", 14).into_font();
        legend.draw(&Text::new(mark, (80, y), font.clone().color(&colour)))?;
        legend.draw(&Text::new(line.name.clone(), (112, y), font.color(&BLACK)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_ends_with_the_longest() {
        let values = (1..=1000).map(f64::from).collect();
        let tail = Line { name: "n".into(), colour: 0, dashed: false, values }.tail();
        assert_eq!(tail.first(), Some(&(1.0, 1.0)));
        assert_eq!(tail.last(), Some(&(1000.0, 0.001)));
        assert!(tail.is_sorted_by(|a, b| a.0 <= b.0 && a.1 >= b.1));
    }
}
