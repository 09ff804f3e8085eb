//! A distribution in the few figures that are never left out.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// How many were measured and how they are distributed, in the unit they were measured in.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// How many.
    pub(crate) count: u64,
    /// The smallest.
    pub(crate) min: f64,
    /// Half are not above it.
    pub(crate) p50: f64,
    /// 99 of 100 are not above it.
    pub(crate) p99: f64,
    /// 999 of 1000 are not above it.
    pub(crate) p999: f64,
    /// The largest.
    pub(crate) max: f64,
}

/// Values are kept in this fraction of their unit, and to four digits.
const FRACTION: f64 = 1000.0;
const DIGITS: u8 = 4;

impl Figures {
    /// Sums up values that are not below zero; `None` if there are none.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut histogram = Histogram::<u64>::new(DIGITS).ok()?;
        let (mut min, mut max) = (f64::INFINITY, 0.0_f64);
        for &value in values {
            let value = value.max(0.0);
            (min, max) = (min.min(value), max.max(value));
            histogram.record((value * FRACTION) as u64).ok()?;
        }
        // A bin is named by its upper end, which no value may have reached.
        let quantile = |q: f64| (histogram.value_at_quantile(q) as f64 / FRACTION).clamp(min, max);
        (!histogram.is_empty()).then(|| Self {
            count: histogram.len(),
            min,
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max,
        })
    }

    /// Returns the head of a table of such rows.
    pub(crate) fn head(what: &str, width: usize) -> String {
        format!(
            "{what:<width$}{:>9}{:>11}{:>11}{:>11}{:>11}{:>11}",
            "count", "min", "p50", "p99", "p99.9", "max"
        )
    }

    /// Returns a row of a table.
    pub(crate) fn row(&self, name: &str, width: usize) -> String {
        let mut row = format!("{name:<width$}{:>9}", self.count);
        for figure in [self.min, self.p50, self.p99, self.p999, self.max] {
            // Writing to a string cannot fail.
            let _ = write!(row, "{figure:>11.1}");
        }
        row
    }
}

/// Writes `value` as JSON for people and programs.
///
/// # Errors
///
/// If the file cannot be written.
pub(crate) fn write_json(path: &std::path::Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    std::fs::write(path, text + "\n")
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("numbers are in {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_ranks_of_what_was_measured() {
        let values: Vec<f64> = (1..=1000).rev().map(f64::from).collect();
        let figures = Figures::of(&values).unwrap();
        assert_eq!((figures.count, figures.min, figures.max), (1000, 1.0, 1000.0));
        for (found, expected) in [(figures.p50, 500.0), (figures.p99, 990.0), (figures.p999, 999.0)]
        {
            assert!((found - expected).abs() <= expected / 1000.0, "{found} for {expected}");
        }
    }

    #[test]
    fn of_one_value_all_figures_are_that_value() {
        let figures = Figures::of(&[7.3]).unwrap();
        let all = [figures.min, figures.p50, figures.p99, figures.p999, figures.max];
        assert_eq!(all, [7.3; 5]);
        assert_eq!(Figures::of(&[]), None);
    }
}
