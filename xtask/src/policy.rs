//! Words of the command line that several verbs share.

use std::time::Duration;

use clap::ValueEnum;

/// Who may serve when the nodes do not hear each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policy {
    /// Whoever has the promise of a third machine.
    Witness,
    /// Whoever has fenced the other.
    Safe,
    /// Each on its own.
    Available,
}

impl Policy {
    /// Returns its word in the configuration.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Witness => "witness",
            Self::Safe => "safe",
            Self::Available => "available",
        }
    }
}

/// Reads a duration as the configuration has it: a whole number and `us`, `ms` or `s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let units = [("us", 1), ("ms", 1_000), ("s", 1_000_000)];
    let read = |&(unit, us): &(&str, u64)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(us).map(Duration::from_micros)
    };
    units.iter().find_map(read).ok_or_else(|| {
        format!("{text:?} is no duration: write a whole number and us, ms or s, as in 20ms")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        assert_eq!(duration("200us"), Ok(Duration::from_micros(200)));
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        for wrong in ["", "20", "ms", "1.5ms", "20 ms", "-1ms", "18446744073709551615s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
