//! Where the time goes, as a picture: one bar for each series, its parts side by side.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use plotters::prelude::*;

use super::parts;

/// A bar: medians of its parts in microseconds, and median and 99th percentile of the outage.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    pub(super) title: String,
    pub(super) parts: Vec<(&'static str, f64)>,
    pub(super) total: Option<(f64, f64)>,
}

const ROW: u32 = 40;
const WORDS: u32 = 330;
const COLOURS: [RGBColor; 7] = [
    RGBColor(199, 199, 199),
    RGBColor(214, 39, 40),
    RGBColor(255, 127, 14),
    RGBColor(148, 103, 189),
    RGBColor(23, 190, 207),
    RGBColor(31, 119, 180),
    RGBColor(44, 160, 44),
];

/// Draws the bars into an SVG file. Bars that are longer than most are cut off at the right, with
/// their length in words.
///
/// # Errors
///
/// If there is nothing to draw or the file cannot be written.
pub(super) fn draw(path: &Path, bars: &[Bar]) -> Result<()> {
    ensure!(bars.iter().any(|bar| !bar.parts.is_empty()), "nothing was measured: nothing to draw");
    let area = SVGBackend::new(path, (1100, 150 + ROW * bars.len() as u32)).into_drawing_area();
    paint(&area, bars)
        .map_err(|error| anyhow!("{error}"))
        .and_then(|()| area.present().map_err(|error| anyhow!("{error}")))
        .with_context(|| format!("cannot draw {}", path.display()))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Returns the right end of the axis: room for all bars and the words beside them, but for those
/// several times as long as the median one.
fn right_end(bars: &[Bar]) -> f64 {
    let mut lengths: Vec<f64> = bars.iter().map(Bar::length).collect();
    lengths.sort_by(f64::total_cmp);
    let middle = lengths.get(lengths.len() / 2).copied().unwrap_or(1.0);
    let fits = lengths.iter().rfind(|&&length| length <= 4.0 * middle);
    fits.copied().unwrap_or(middle).max(1.0) * 1.5
}

impl Bar {
    fn length(&self) -> f64 {
        self.parts.iter().map(|(_, us)| us).sum()
    }
}

fn paint(area: &Area<'_>, bars: &[Bar]) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let small = |size: u32| ("sans-serif", size).into_font();
    let (words, plot) = area.split_horizontally(WORDS);
    let (legend, plot) = plot.split_vertically(64);
    let right = right_end(bars);
    let caption = "from the last packet served by a to the first by b: medians of the parts";
    legend.draw(&Text::new(caption, (10, 8), small(18).color(&BLACK)))?;
    let mut x = 10;
    for (name, colour) in parts::names().zip(COLOURS) {
        legend.draw(&Rectangle::new([(x, 40), (x + 10, 50)], colour.filled()))?;
        legend.draw(&Text::new(name, (x + 13, 39), small(10).color(&BLACK)))?;
        x += 22 + 53 * name.len() as i32 / 10;
    }
    let mut chart = ChartBuilder::on(&plot)
        .margin(10)
        .margin_right(30)
        .x_label_area_size(44)
        .build_cartesian_2d(0.0..right, bars.len() as f64..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_desc("microseconds after the last packet served by a")
        .light_line_style(RGBColor(235, 235, 235))
        .draw()?;
    for (number, bar) in bars.iter().enumerate() {
        let top = number as f64 + 0.22;
        let mut from = 0.0;
        for (name, colour) in parts::names().zip(COLOURS) {
            let Some((_, us)) = bar.parts.iter().find(|(part, _)| *part == name) else { continue };
            let to: f64 = (from + us).min(right);
            chart.draw_series(std::iter::once(Rectangle::new(
                [(from, top), (to, top + 0.56)],
                colour.filled(),
            )))?;
            from = to;
        }
        let (_, y) = chart.backend_coord(&(0.0, number as f64 + 0.5));
        words.draw(&Text::new(bar.title.clone(), (12, y - 7), small(14).color(&BLACK)))?;
        let Some((p50, p99)) = bar.total else { continue };
        let text = format!("outage p50 {p50:.0} us, p99 {p99:.0} us");
        // A bar that fills the row has its words on it.
        let inside = from > right * 0.75;
        let at = if inside { right * 0.70 } else { from + right * 0.01 };
        chart.draw_series(std::iter::once(Text::new(
            text,
            (at, number as f64 + 0.36),
            small(12).color(&BLACK),
        )))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(us: f64) -> Bar {
        Bar { title: "crash".into(), parts: vec![("promise", us)], total: Some((us, us)) }
    }

    #[test]
    fn a_bar_out_of_proportion_does_not_flatten_the_others() {
        let right = right_end(&[bar(500.0), bar(700.0), bar(20_000.0)]);
        assert!((700.0..2_000.0).contains(&right), "{right}");
    }

    #[test]
    fn bars_are_drawn_with_their_words() {
        let path = std::env::temp_dir().join(format!("hb-stack-{}.svg", std::process::id()));
        draw(&path, &[bar(500.0), bar(20_000.0)]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(text.contains("outage p50 500 us") && text.contains("p50 20000 us"), "{text}");
        assert!(draw(&path, &[]).is_err());
    }
}
