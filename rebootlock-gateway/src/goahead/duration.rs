//! Lengths of time as Go writes them: `2h45m`, `1.5h`, `300ms`.

use std::fmt;
use std::str::FromStr;

/// Nanoseconds; may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct GoDuration(pub i64);

/// Text that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotADuration;

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    // The micro sign, and the Greek letter.
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
];

/// What fits, of either sign.
const MOST: u64 = 1 << 63;

impl FromStr for GoDuration {
    type Err = NotADuration;

    /// A sign if need be, then numbers with units, without blanks. A lone `0` needs no unit.
    fn from_str(text: &str) -> Result<Self, NotADuration> {
        let negative = text.starts_with('-');
        let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(NotADuration);
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (part, after) = part(rest)?;
            total = total.checked_add(part).filter(|sum| *sum <= MOST).ok_or(NotADuration)?;
            rest = after;
        }
        match (negative, i64::try_from(total)) {
            (true, Ok(total)) => Ok(Self(-total)),
            (true, Err(_)) => Ok(Self(i64::MIN)),
            (false, total) => total.map(Self).map_err(|_| NotADuration),
        }
    }
}

/// The first number with its unit, and what comes after it.
fn part(text: &str) -> Result<(u64, &str), NotADuration> {
    let digits =
        |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (whole, rest) = text.split_at(digits(text));
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(NotADuration);
    }
    let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(NotADuration)?;
    let whole: u64 = match whole {
        "" => 0,
        digits => digits.parse().map_err(|_| NotADuration)?,
    };
    let mut nanos = whole.checked_mul(*unit).filter(|n| *n <= MOST).ok_or(NotADuration)?;
    // Digits behind the last that a nanosecond can tell make no difference.
    let (mut scale, mut fractional) = (1_u64, 0_u64);
    for digit in fraction.bytes().take(15) {
        fractional = fractional * 10 + u64::from(digit - b'0');
        scale *= 10;
    }
    let of_unit = u128::from(fractional) * u128::from(*unit) / u128::from(scale);
    nanos = nanos.checked_add(u64::try_from(of_unit).unwrap_or(0)).ok_or(NotADuration)?;
    Ok((nanos, rest))
}

impl From<std::time::Duration> for GoDuration {
    fn from(duration: std::time::Duration) -> Self {
        Self(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl GoDuration {
    /// Whole ones; what is beyond them is left off.
    pub fn seconds(self) -> i64 {
        self.0 / 1_000_000_000
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let with_fraction = |f: &mut fmt::Formatter<'_>, whole: u64, rest: u64, width, unit| {
            let fraction = format!("{rest:0width$}");
            match fraction.trim_end_matches('0') {
                "" => write!(f, "{whole}{unit}"),
                fraction => write!(f, "{whole}.{fraction}{unit}"),
            }
        };
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => with_fraction(f, nanos / 1_000, nanos % 1_000, 3, "\u{b5}s"),
            1_000_000..1_000_000_000 => {
                with_fraction(f, nanos / 1_000_000, nanos % 1_000_000, 6, "ms")
            }
            _ => {
                let seconds = nanos / 1_000_000_000;
                let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
                if hours > 0 {
                    write!(f, "{hours}h")?;
                }
                if hours > 0 || minutes > 0 {
                    write!(f, "{minutes}m")?;
                }
                with_fraction(f, seconds % 60, nanos % 1_000_000_000, 9, "s")
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_go_reads_is_read_and_nothing_else() {
        for (text, nanos) in [
            ("0", 0),
            ("-0", 0),
            ("0s", 0),
            ("-5h", -18_000_000_000_000),
            ("+5h", 18_000_000_000_000),
            (".5h", 1_800_000_000_000),
            ("5.s", 5_000_000_000),
            ("1us", 1_000),
            ("1\u{b5}s", 1_000),
            ("1\u{3bc}s", 1_000),
            ("2h31m", 9_060_000_000_000),
            ("1.5ms", 1_500_000),
            ("16m51s", 1_011_000_000_000),
            ("9223372036s", 9_223_372_036_000_000_000),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
            ("0.0000000000000000000001h", 0),
        ] {
            assert_eq!(text.parse(), Ok(GoDuration(nanos)), "{text}");
        }
        for text in [
            "",
            "-",
            "5",
            "1d",
            "5 h",
            "5H",
            "1e3s",
            "1.5.5h",
            "99999999h",
            ".",
            ".s",
            "s",
            "h5",
            "9223372036854775808ns",
            "99999999999999999999h",
            " 5h",
            "5h ",
            "--5h",
            "1h-5m",
        ] {
            assert_eq!(text.parse::<GoDuration>(), Err(NotADuration), "{text}");
        }
    }

    #[test]
    fn it_is_written_as_go_does() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1\u{b5}s"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (60_000_000_000, "1m0s"),
            (90_000_000_000, "1m30s"),
            (1_800_000_000_000, "30m0s"),
            (86_400_000_000_000, "24h0m0s"),
            (-5_001_000_000, "-5.001s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(GoDuration(nanos).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(nanos in any::<i64>()) {
            prop_assert_eq!(GoDuration(nanos).to_string().parse(), Ok(GoDuration(nanos)));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[-+]?[0-9.hmsnu\u{b5}]{0,40}") {
            let _ = text.parse::<GoDuration>();
        }
    }
}
