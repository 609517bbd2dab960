//! Words of a line, as a shell and systemd part them.

/// A quote that is not closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unclosed(pub(super) char);

/// Parts `line` at blanks. Quotes keep blanks, and a backslash keeps what follows it.
pub(super) fn split(line: &str) -> Result<Vec<String>, Unclosed> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some('"') | None, '\\') => {
                word.get_or_insert_default().extend(chars.next());
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(open) = quote {
        return Err(Unclosed(open));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_keep_blanks() {
        for (line, words) in [
            ("", vec![]),
            ("  a  b ", vec!["a", "b"]),
            ("a 'b c' \"d \\\" e\" f\\ g", vec!["a", "b c", "d \" e", "f g"]),
            ("--x='1 2'y", vec!["--x=1 2y"]),
            ("''", vec![""]),
        ] {
            assert_eq!(
                split(line).as_deref(),
                Ok(&words.into_iter().map(String::from).collect::<Vec<_>>()[..]),
                "{line}"
            );
        }
        assert_eq!(split("a 'b"), Err(Unclosed('\'')));
    }
}
