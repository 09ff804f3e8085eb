//! Two values of one round, and what many rounds say.

use std::fmt::Write as _;

use serde::Serialize;

/// What one round gave for one figure; smaller is better.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Pair {
    /// Of the other revision.
    pub(super) then: f64,
    /// Of this tree.
    pub(super) now: f64,
}

impl Pair {
    /// A time of nothing says nothing of the other.
    fn ratio(self) -> Option<f64> {
        (self.then > 0.0).then(|| self.now / self.then)
    }
}

/// A figure in all rounds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Compared {
    /// What it is, with its unit.
    pub(super) name: String,
    /// Each round.
    pub(super) rounds: Vec<Pair>,
    /// Smallest, median and largest ratio of this tree to the other revision within a round.
    pub(super) ratio: Option<[f64; 3]>,
}

/// A median ratio up to this is no difference.
const TOLERANCE: f64 = 1.05;
/// This tree has to be the slower one in all rounds but one in so many: of ten rounds without a
/// difference, nine or ten would agree once in a hundred times.
const DISSENT: usize = 10;

impl Compared {
    pub(super) fn new(name: String, rounds: Vec<Pair>) -> Self {
        let mut ratios: Vec<f64> = rounds.iter().filter_map(|pair| pair.ratio()).collect();
        ratios.sort_by(f64::total_cmp);
        let ratio = match (ratios.first(), ratios.get(ratios.len() / 2), ratios.last()) {
            (Some(&low), Some(&middle), Some(&high)) => Some([low, middle, high]),
            _ => None,
        };
        Self { name, rounds, ratio }
    }

    /// Tells whether this tree is slower, beyond what rounds differ by.
    pub(super) fn is_slower(&self) -> bool {
        let worse = self.rounds.iter().filter(|pair| pair.now > pair.then).count();
        let enough = self.rounds.len() >= 5;
        let agreed = worse + self.rounds.len() / DISSENT >= self.rounds.len();
        enough && agreed && self.ratio.is_some_and(|[_, middle, _]| middle > TOLERANCE)
    }

    fn median(&self, side: impl Fn(&Pair) -> f64) -> f64 {
        let mut values: Vec<f64> = self.rounds.iter().map(side).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// Returns the table for a person.
pub(super) fn table(revision: &str, compared: &[Compared]) -> String {
    let mut table = format!(
        "\nmedians; ratio of this tree to {revision} within a round\n{:<46}{:>8}{:>11}{:>11}{:>9}{:>17}\n",
        "", "rounds", "then", "now", "ratio", "min..max"
    );
    for figure in compared {
        let ratio = figure.ratio.map_or_else(
            || format!("{:>9}", "-"),
            |[low, middle, high]| format!("{middle:>9.2}{:>17}", format!("{low:.2}..{high:.2}")),
        );
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "{:<46}{:>8}{:>11.1}{:>11.1}{ratio}{}",
            figure.name,
            figure.rounds.len(),
            figure.median(|pair| pair.then),
            figure.median(|pair| pair.now),
            if figure.is_slower() { "  SLOWER" } else { "" }
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(pairs: &[(f64, f64)]) -> Compared {
        let pairs = pairs.iter().map(|&(then, now)| Pair { then, now }).collect();
        Compared::new("f".into(), pairs)
    }

    #[test]
    fn slower_in_every_round_is_slower() {
        assert!(compared(&[(100.0, 120.0); 10]).is_slower());
        assert!(!compared(&[(100.0, 102.0); 10]).is_slower(), "within the tolerance");
        assert!(!compared(&[(120.0, 100.0); 10]).is_slower());
    }

    #[test]
    fn what_rounds_disagree_about_is_noise() {
        let mut rounds = vec![(100.0, 150.0); 6];
        rounds.extend([(100.0, 90.0); 4]);
        assert!(!compared(&rounds).is_slower());
        assert!(!compared(&[(100.0, 200.0); 2]).is_slower(), "too few");
    }

    #[test]
    fn the_ratio_is_that_of_the_rounds() {
        let figure = compared(&[(100.0, 100.0), (200.0, 220.0), (50.0, 60.0)]);
        assert_eq!(figure.ratio, Some([1.0, 1.1, 1.2]));
        assert_eq!(compared(&[(0.0, 1.0)]).ratio, None);
        assert!(table("v1", &[figure]).contains("1.00..1.20"));
    }
}
