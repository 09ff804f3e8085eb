//! Measured times as a picture: one row of dots for each thing measured, one dot per run, time to
//! the right in powers of ten.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use plotters::prelude::*;

/// Height of a row in pixels.
const ROW: u32 = 46;
/// Width of the words beside the rows, in pixels.
const WORDS: u32 = 340;
const GREY: RGBColor = RGBColor(120, 120, 120);

/// Whose row it is, which decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Of hb.
    Ours,
    /// Of another.
    Theirs,
    /// Of one that only detects.
    Detector,
}

/// A row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// What was measured.
    pub(super) title: String,
    /// How.
    pub(super) subtitle: String,
    /// Of whom.
    pub(super) whose: Whose,
    /// Each run, in milliseconds.
    pub(super) ms: Vec<f64>,
}

impl Row {
    /// Returns the median by nearest rank.
    pub(super) fn median(&self) -> Option<f64> {
        let mut sorted = self.ms.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len().div_ceil(2).max(1) - 1).copied()
    }

    /// What is not above zero has no place on the axis.
    fn shown(&self) -> impl Iterator<Item = f64> {
        self.ms.iter().map(|ms| ms.max(0.01))
    }
}

/// Draws rows into an SVG file.
///
/// # Errors
///
/// If there is nothing to draw or the file cannot be written.
pub(super) fn draw(path: &Path, caption: &str, rows: &[Row]) -> Result<()> {
    ensure!(rows.iter().any(|row| !row.ms.is_empty()), "nothing was measured: nothing to draw");
    let height = 120 + ROW * rows.len() as u32;
    let area = SVGBackend::new(path, (1100, height)).into_drawing_area();
    paint(&area, caption, rows)
        .map_err(|error| anyhow!("{error}"))
        .and_then(|()| area.present().map_err(|error| anyhow!("{error}")))
        .with_context(|| format!("cannot draw {}", path.display()))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn paint(area: &Area<'_>, caption: &str, rows: &[Row]) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let all = rows.iter().flat_map(Row::shown);
    let (low, high) = all.fold((f64::MAX, 0.0_f64), |(l, h), dot| (l.min(dot), h.max(dot)));
    let left = 10_f64.powf(low.log10().floor());
    let right = 10_f64.powf(high.log10().ceil().max(low.log10().floor() + 1.0));
    let bottom = rows.len() as f64;
    // The words of each row stand to the left of the plot, where no dot can be.
    let (words, plot) = area.split_horizontally(WORDS);
    let mut chart = ChartBuilder::on(&plot)
        .caption(caption, ("sans-serif", 18))
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
    for (number, row) in rows.iter().enumerate() {
        let middle = number as f64 + 0.5;
        let colour = match row.whose {
            Whose::Ours => RGBColor(31, 119, 180),
            Whose::Theirs => RGBColor(150, 90, 40),
            Whose::Detector => GREY,
        };
        chart.draw_series(row.shown().enumerate().map(|(run, ms)| {
            // Apart from each other, so that equal ones show as many.
            let offset = ((run * 7) % 11) as f64 / 11.0 - 0.5;
            Circle::new((ms, middle + offset * 0.5), 3, colour.mix(0.55).filled())
        }))?;
        if let Some(median) = row.median() {
            let median = median.max(0.01);
            chart.draw_series(std::iter::once(PathElement::new(
                [(median, middle - 0.38), (median, middle + 0.38)],
                BLACK.stroke_width(2),
            )))?;
        }
        let y = chart.backend_coord(&(left, middle)).1;
        let bold = ("sans-serif", 15).into_font().style(FontStyle::Bold);
        let small = ("sans-serif", 12).into_font();
        words.draw(&Text::new(row.title.clone(), (14, y - 15), bold.color(&BLACK)))?;
        words.draw(&Text::new(row.subtitle.clone(), (14, y + 2), small.color(&GREY)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_measured_one() {
        let row = |ms: &[f64]| Row {
            title: String::new(),
            subtitle: String::new(),
            whose: Whose::Ours,
            ms: ms.to_vec(),
        };
        assert_eq!(row(&[]).median(), None);
        assert_eq!(row(&[3.0, 1.0]).median(), Some(1.0));
        assert_eq!(row(&[3.0, 1.0, 2.0]).median(), Some(2.0));
    }

    #[test]
    fn nothing_measured_is_no_picture() {
        let path = std::env::temp_dir().join(format!("hb-dots-{}.svg", std::process::id()));
        assert!(draw(&path, "nothing", &[]).is_err());
        assert!(!path.exists());
    }
}
