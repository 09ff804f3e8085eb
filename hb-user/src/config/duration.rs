//! Durations as they are written: a number and a unit, such as `1.5ms`.

use std::{fmt, time::Duration};

/// Units and their nanoseconds, longest first.
const UNITS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// It does not begin with a number.
    #[error("{0:?} is no duration; write a number and a unit, such as \"1ms\" or \"2.5s\"")]
    NoNumber(String),
    /// The number stands alone.
    #[error("{0:?} has no unit; add one of ns, us, ms, s, m, h, such as \"{0}ms\"")]
    NoUnit(String),
    /// What follows the number is no unit.
    #[error("{text:?} has the unknown unit {unit:?}; use one of ns, us, ms, s, m, h")]
    UnknownUnit {
        /// The whole text.
        text: String,
        /// What stands for the unit.
        unit: String,
    },
    /// It has a part smaller than a nanosecond.
    #[error("{0:?} is finer than a nanosecond; leave out the last digits")]
    TooFine(String),
    /// It does not fit into 64 bits of nanoseconds.
    #[error("{0:?} is longer than 584 years; write a shorter time")]
    TooLong(String),
}

/// Reads a duration: decimal digits, optionally a point and more digits, and one of the units
/// `ns us ms s m h`, without spaces. The result is exact and fits into 64 bits of nanoseconds.
///
/// # Errors
///
/// [`DurationError`] names the text and what to write instead.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let number_len = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(number_len);
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (number, None),
    };
    if whole.is_empty() || fraction.is_some_and(|digits| digits.is_empty() || digits.contains('.'))
    {
        return Err(DurationError::NoNumber(text.into()));
    }
    if unit.is_empty() {
        return Err(DurationError::NoUnit(text.into()));
    }
    let Some((_, unit_ns)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(DurationError::UnknownUnit { text: text.into(), unit: unit.into() });
    };
    let unit_ns = u128::from(*unit_ns);

    let too_long = || DurationError::TooLong(text.into());
    let whole = whole.parse::<u64>().map_err(|_| too_long())?;
    let fraction = fraction.unwrap_or("").trim_end_matches('0');
    // No unit has more than 13 digits of nanoseconds, so a longer fraction cannot come out whole.
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 18);
    let Some(digits) = digits else { return Err(DurationError::TooFine(text.into())) };
    let scaled =
        fraction.bytes().fold(0, |sum, digit| sum * 10 + u128::from(digit - b'0')) * unit_ns;
    let scale = 10_u128.pow(digits);
    if scaled % scale != 0 {
        return Err(DurationError::TooFine(text.into()));
    }
    let ns = u128::from(whole) * unit_ns + scaled / scale;
    u64::try_from(ns).map(Duration::from_nanos).map_err(|_| too_long())
}

/// Shows a duration so that [`parse`] reads back the same one: `1.5ms`, `2s`, `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readable(pub Duration);

impl fmt::Display for Readable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.as_nanos();
        for (unit, unit_ns) in UNITS {
            let unit_ns = u128::from(unit_ns);
            // Minutes and hours only where they come out whole: 1.6 recurring is no way to say 100 s.
            let fits =
                if unit_ns > 1_000_000_000 { ns.is_multiple_of(unit_ns) } else { ns >= unit_ns };
            if ns == 0 || !fits {
                continue;
            }
            write!(f, "{}", ns / unit_ns)?;
            let rest = ns % unit_ns;
            if rest > 0 {
                let digits = unit_ns.ilog10() as usize;
                let fraction = format!("{rest:0digits$}");
                write!(f, ".{}", fraction.trim_end_matches('0'))?;
            }
            return f.write_str(unit);
        }
        f.write_str("0s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_every_unit() {
        for (text, ns) in [
            ("7ns", 7),
            ("50us", 50_000),
            ("1ms", 1_000_000),
            ("1.5ms", 1_500_000),
            ("0.25us", 250),
            ("1.50ms", 1_500_000),
            ("1.000000000000000000000000s", 1_000_000_000),
            ("2s", 2_000_000_000),
            ("3m", 180_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(ns)), "{text}");
        }
    }

    #[test]
    fn refuses_with_a_reason() {
        for (text, fragment) in [
            ("", "no duration"),
            ("ms", "no duration"),
            (".5ms", "no duration"),
            ("1.ms", "no duration"),
            ("1.2.3ms", "no duration"),
            ("-1ms", "no duration"),
            ("5", "no unit"),
            ("5 ms", "unknown unit \" ms\""),
            ("5sec", "unknown unit \"sec\""),
            ("5µs", "unknown unit"),
            ("1e3ms", "unknown unit"),
            ("0.5ns", "finer"),
            ("0.0000000000000000000000001s", "finer"),
            ("99999999999999999999h", "longer"),
            ("18446744073709551615h", "longer"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(fragment), "{text}: {error}");
        }
    }

    #[test]
    fn shown_as_people_write_it() {
        for text in ["1.5ms", "50us", "100ms", "2s", "3m", "1h", "90s", "999ns", "0s"] {
            let shown = Readable(parse(text).unwrap()).to_string();
            assert_eq!(shown, text);
        }
    }

    proptest! {
        #[test]
        fn round_trip(ns: u64) {
            let duration = Duration::from_nanos(ns);
            prop_assert_eq!(parse(&Readable(duration).to_string()), Ok(duration));
        }

        #[test]
        fn never_panics(text in ".*") {
            let _ = parse(&text);
        }

        #[test]
        fn near_misses_never_panic(text in "[0-9.]{0,40}(ns|us|ms|s|m|h)?") {
            let _ = parse(&text);
        }
    }
}
