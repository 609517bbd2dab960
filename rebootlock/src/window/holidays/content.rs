//! The lines of an iCalendar file: `NAME;PARAMETER=VALUE:VALUE`, folded where they are long.

use super::super::InvalidWindow;

/// One of them, unfolded.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// Where it begins, from 1.
    pub(super) number: usize,
    /// In capitals.
    pub(super) name: String,
    pub(super) parameters: Vec<(String, String)>,
    pub(super) value: String,
}

impl Line {
    /// The value of a parameter, named in capitals.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// All of them that are not empty.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Result<Line, InvalidWindow>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut physical = text.lines().enumerate().peekable();
    std::iter::from_fn(move || {
        let (before, first) = physical.find(|(_, line)| !line.trim().is_empty())?;
        let mut whole = first.to_owned();
        while let Some((_, more)) = physical.next_if(|(_, line)| line.starts_with([' ', '\t'])) {
            whole.push_str(&more[1..]);
        }
        let number = before + 1;
        let wrong = || InvalidWindow::Line {
            line: number,
            problem: "expected NAME:VALUE of an iCalendar file".to_owned(),
        };
        Some(parse(number, &whole).ok_or_else(wrong))
    })
}

fn parse(number: usize, text: &str) -> Option<Line> {
    // Quotes keep colons and semicolons in a parameter from ending it.
    let mut quoted = false;
    let mut fields = vec![String::new()];
    let mut value = None;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            ':' if !quoted => {
                value = Some(text[at + 1..].to_owned());
                break;
            }
            ';' if !quoted => fields.push(String::new()),
            _ => fields.last_mut()?.push(c),
        }
    }
    let mut fields = fields.into_iter();
    let name = fields.next()?.to_ascii_uppercase();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || !name.chars().all(plain) {
        return None;
    }
    let parameter = |field: String| {
        let (name, value) = field.split_once('=')?;
        Some((name.to_ascii_uppercase(), value.to_owned()))
    };
    Some(Line {
        number,
        name,
        parameters: fields.map(parameter).collect::<Option<_>>()?,
        value: value?,
    })
}
