//! One component of a calendar expression: `*`, `1,5`, `1..7`, `0/15`.

/// The numbers that one component allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    lowest: u16,
    highest: u16,
    /// Any if there is none.
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    from: u16,
    to: Option<u16>,
    step: Option<u16>,
}

impl Part {
    /// Whether `number` is among `from`, the ones a step further, and so on to the last.
    fn contains(from: i32, last: i32, step: Option<u16>, number: i32) -> bool {
        (from..=last).contains(&number) && (number - from) % i32::from(step.unwrap_or(1)) == 0
    }
}

impl Field {
    /// Reads one component, called `what` in messages.
    pub(super) fn parse(what: &str, text: &str, lowest: u16, highest: u16) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self { lowest, highest, parts: Vec::new() });
        }
        let number = |text: &str| {
            let plain = text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
            let number: Option<u16> = plain.then(|| text.parse().ok()).flatten();
            let number = number.ok_or_else(|| format!("{text:?} is not a number; a {what} is"))?;
            if (lowest..=highest).contains(&number) {
                Ok(number)
            } else {
                Err(format!("{what} {number} is not from {lowest} to {highest}"))
            }
        };
        let part = |text: &str| {
            let (range, step) = match text.split_once('/') {
                None => (text, None),
                Some((range, step)) => {
                    let count = step.parse::<u16>().ok().filter(|step| *step > 0);
                    let wrong = || format!("step {step:?} of a {what} is not a number from 1");
                    (range, Some(count.ok_or_else(wrong)?))
                }
            };
            let (from, to) = match range.split_once("..") {
                None if range == "*" && step.is_some() => (lowest, None),
                None => (number(range)?, None),
                Some((from, to)) => (number(from)?, Some(number(to)?)),
            };
            if to.is_some_and(|to| to < from) {
                return Err(format!("{what} {range} goes backwards"));
            }
            if step.is_some_and(|step| step > highest - from) {
                return Err(format!("the step of {what} {text} leads nowhere"));
            }
            Ok(Part { from, to, step })
        };
        Ok(Self { lowest, highest, parts: text.split(',').map(part).collect::<Result<_, _>>()? })
    }

    pub(super) fn contains(&self, number: u16) -> bool {
        self.parts.is_empty()
            || self.parts.iter().any(|part| {
                let last = match (part.to, part.step) {
                    (Some(to), _) => to,
                    (None, Some(_)) => self.highest,
                    (None, None) => part.from,
                };
                Part::contains(part.from.into(), last.into(), part.step, number.into())
            })
    }

    /// Whether `day` is meant when days are counted from the end of a month with `days` days. Steps
    /// go forward all the same.
    pub(super) fn contains_from_end(&self, day: u16, days: u16) -> bool {
        self.parts.iter().any(|part| {
            let from_end = |number: u16| i32::from(days) + 1 - i32::from(number);
            let (first, last) = match (part.to, part.step) {
                (Some(to), _) => (from_end(to), from_end(part.from)),
                (None, Some(_)) => (from_end(part.from), i32::from(days)),
                (None, None) => (from_end(part.from), from_end(part.from)),
            };
            Part::contains(first, last, part.step, day.into())
        })
    }

    /// All of them.
    pub(super) fn values(&self) -> Vec<u16> {
        (self.lowest..=self.highest).filter(|number| self.contains(*number)).collect()
    }
}
