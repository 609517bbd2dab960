//! Days of the week.

use jiff::civil::Weekday;

/// A set of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Days(u8);

impl Days {
    pub(super) const NONE: Self = Self(0);
    pub(super) const ALL: Self = Self(0x7f);

    pub(super) fn with(self, day: Weekday) -> Self {
        Self(self.0 | 1 << day.to_monday_zero_offset())
    }

    /// All from one to another, past Sunday if need be, and those that were there.
    pub(super) fn with_all(mut self, from: Weekday, to: Weekday) -> Self {
        let mut day = from;
        loop {
            self = self.with(day);
            if day == to {
                return self;
            }
            day = day.next();
        }
    }

    pub(super) fn contains(self, day: Weekday) -> bool {
        self.0 & 1 << day.to_monday_zero_offset() != 0
    }

    /// The only one there is.
    pub(super) fn single(self) -> Option<Weekday> {
        let mut days = Weekday::Monday.cycle_forward().take(7).filter(|day| self.contains(*day));
        days.next().filter(|_| days.next().is_none())
    }
}

/// `mon` or `Monday`.
pub(super) fn named(name: &str) -> Option<Weekday> {
    let name = name.to_ascii_lowercase();
    let full = [
        ("monday", Weekday::Monday),
        ("tuesday", Weekday::Tuesday),
        ("wednesday", Weekday::Wednesday),
        ("thursday", Weekday::Thursday),
        ("friday", Weekday::Friday),
        ("saturday", Weekday::Saturday),
        ("sunday", Weekday::Sunday),
    ];
    full.into_iter().find(|(day, _)| *day == name || day[..3] == name).map(|(_, day)| day)
}

/// `mon`, and nothing longer.
pub(super) fn short(name: &str) -> Option<Weekday> {
    named(name).filter(|_| name.len() == 3)
}
