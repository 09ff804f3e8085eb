//! How many looks in a row make a verdict.

/// Counts looks in a row that say otherwise than the verdict.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tally {
    /// `None` before the first look.
    well: Option<bool>,
    rise: u32,
    fall: u32,
    row: u32,
}

impl Tally {
    pub(super) const fn new(well: bool, rise: u32, fall: u32) -> Self {
        Self { well: Some(well), rise, fall, row: 0 }
    }

    /// The first look decides.
    pub(super) const fn unknown(rise: u32, fall: u32) -> Self {
        Self { well: None, rise, fall, row: 0 }
    }

    /// Takes note of a look; tells whether the verdict is another one since.
    pub(super) fn note(&mut self, well: bool) -> bool {
        if self.well == Some(well) {
            self.row = 0;
            return false;
        }
        self.row = self.row.saturating_add(1);
        let needed = match self.well {
            None => 1,
            Some(true) => self.fall,
            Some(false) => self.rise,
        };
        if self.row < needed {
            return false;
        }
        (self.well, self.row) = (Some(well), 0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(mut tally: Tally, looks: &str) -> String {
        let say = |look: char| if tally.note(look == '+') { look } else { '.' };
        looks.chars().map(say).collect()
    }

    #[test]
    fn as_many_in_a_row_as_it_takes_make_a_verdict() {
        assert_eq!(verdicts(Tally::new(true, 2, 3), "++--+---+-++"), ".......-...+");
        assert_eq!(verdicts(Tally::new(true, 1, 1), "+-+"), ".-+");
        assert_eq!(verdicts(Tally::unknown(5, 5), "-----+++++"), "-........+");
        assert_eq!(verdicts(Tally::unknown(5, 5), "+----+-----"), "+.........-");
    }
}
