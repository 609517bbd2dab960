//! Durations as people write and read them: `1h30m`.

use std::time::Duration;

const UNITS: [(char, u64); 5] = [('w', 604_800), ('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

/// Reads `30s`, `5m`, `1h30m` or `2d`; `0` needs no unit.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; write it as 30s, 5m, 1h30m or 7d");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut total, mut number, mut largest) = (0_u64, None::<u64>, u64::MAX);
    for c in text.chars() {
        if let Some(digit) = c.to_digit(10) {
            let grown = number.unwrap_or(0).checked_mul(10);
            number = Some(grown.and_then(|n| n.checked_add(digit.into())).ok_or_else(wrong)?);
            continue;
        }
        let (_, secs) = UNITS.into_iter().find(|(unit, _)| *unit == c).ok_or_else(wrong)?;
        // Each unit once, the larger first: "5m1h" is more likely a slip than a wish.
        if secs >= largest {
            return Err(wrong());
        }
        largest = secs;
        let part = number.take().ok_or_else(wrong)?.checked_mul(secs).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
    }
    if number.is_some() || largest == u64::MAX {
        return Err(wrong());
    }
    // Longer than any clock here can count is a slip too.
    if total > 100 * 365 * 86_400 { Err(wrong()) } else { Ok(Duration::from_secs(total)) }
}

/// Shows seconds by their two largest units: `42s`, `4m12s`, `2h5m`, `3d`.
pub fn show(secs: u64) -> String {
    let shown = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];
    let first = shown.iter().position(|(_, size)| secs >= *size).unwrap_or(3);
    let (unit, size) = shown[first];
    let mut text = format!("{}{unit}", secs / size);
    if let Some((unit, smaller)) = shown.get(first + 1)
        && secs % size / smaller > 0
    {
        text += &format!("{}{unit}", secs % size / smaller);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, secs) in [
            ("30s", 30),
            ("5m", 300),
            ("1h30m", 5400),
            ("2d", 172_800),
            ("0", 0),
            ("0s", 0),
            ("1w", 604_800),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(secs)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused() {
        for text in [
            "",
            "5",
            "m",
            "5x",
            "-5m",
            "5m1h",
            "5m5m",
            "1h30",
            "web-3",
            "99999999999999999999s",
            "9999999w",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_shown_by_their_two_largest_units() {
        for (secs, text) in [
            (0, "0s"),
            (42, "42s"),
            (60, "1m"),
            (252, "4m12s"),
            (7500, "2h5m"),
            (7205, "2h"),
            (3 * 86_400 + 4 * 3600 + 59, "3d4h"),
        ] {
            assert_eq!(show(secs), text);
        }
    }
}
