//! The public holidays of all of Germany, which SysEleven's rebootmgr knows and we are told.

use jiff::ToSpan as _;
use jiff::civil::{Date, date};

/// Those of `year`, in their order.
pub(super) fn of(year: i16) -> Vec<Date> {
    let easter = easter(year);
    let mut days = vec![
        date(year, 1, 1),
        easter.saturating_sub(2.days()),
        easter.saturating_add(1.day()),
        date(year, 5, 1),
        easter.saturating_add(39.days()),
        easter.saturating_add(50.days()),
        date(year, 10, 3),
        date(year, 12, 25),
        date(year, 12, 26),
    ];
    days.sort();
    days.dedup();
    days
}

/// Easter Sunday, by the rule of Meeus, Jones and Butcher.
fn easter(year: i16) -> Date {
    let year_number = i32::from(year);
    let (a, b, c) = (year_number % 19, year_number / 100, year_number % 100);
    let leap = (b - (b + 8) / 25 + 1) / 3;
    let h = (19 * a + b - b / 4 - leap + 15) % 30;
    let l = (32 + 2 * (b % 4) + 2 * (c / 4) - h - c % 4) % 7;
    let m = (a + 11 * h + 22 * l) / 451;
    let days = h + l - 7 * m + 114;
    let part = |number: i32| i8::try_from(number).unwrap_or(1);
    date(year, part(days / 31), part(days % 31 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn easter_is_when_it_was_and_will_be() {
        for (year, month, day) in [
            (2024, 3, 31),
            (2025, 4, 20),
            (2026, 4, 5),
            (2027, 3, 28),
            (2038, 4, 25),
            (2049, 4, 18),
        ] {
            assert_eq!(easter(year), date(year, month, day));
        }
        let days = of(2026);
        assert!(days.contains(&date(2026, 5, 14)) && days.contains(&date(2026, 5, 25)));
        assert_eq!(days.len(), 9);
    }
}
