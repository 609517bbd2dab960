//! Patterns that Go and we read differently. What only one of them reads at all is found by reading it.

/// What is in `pattern` that would mean something else here.
pub(super) fn differs(pattern: &str) -> Option<String> {
    let mut chars = pattern.chars().peekable();
    let mut class = None;
    while let Some(c) = chars.next() {
        let next = chars.peek().copied();
        match (c, class) {
            ('\\', _) => {
                chars.next();
                let what = match next {
                    Some('<' | '>') => "a plain character in Go and an end of a word here",
                    Some('Q' | 'E') => "quotes what follows in Go, and nothing here",
                    Some('0'..='7') => "an octal number in Go",
                    _ => continue,
                };
                let what = format!("{pattern:?}: \\{} is {what}", next.unwrap_or_default());
                return Some(what);
            }
            ('[', None) => {
                // A bracket that comes first, after the hat if there is one, ends nothing.
                chars.next_if_eq(&'^');
                chars.next_if_eq(&']');
                class = Some(());
            }
            (']', Some(())) => class = None,
            ('[', Some(())) if next != Some(':') => {
                return Some(format!("{pattern:?}: write \\[ for a bracket between brackets"));
            }
            ('[', Some(())) => {
                // A named class, up to its own end.
                while let Some(c) = chars.next() {
                    if c == ':' && chars.next_if_eq(&']').is_some() {
                        break;
                    }
                }
            }
            ('&' | '~' | '-', Some(())) if next == Some(c) => {
                return Some(format!(
                    "{pattern:?}: {c}{c} between brackets is not plain text here"
                ));
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::differs;

    #[test]
    fn what_both_read_alike_is_left_alone() {
        for pattern in [
            "^web-[0-9]+$",
            "[[:digit:]]x",
            "[]a]",
            "[^]a-]",
            "\\d\\.\\-",
            "a&&b",
            "[a-z]--",
            "(?i)x",
            "",
        ] {
            assert_eq!(differs(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn what_would_mean_something_else_is_found() {
        for pattern in ["[[]", "[a&&b]", "[a~~b]", "[a--b]", "\\<web", "\\Qa.b\\E", "\\07", "[a[b]"]
        {
            assert!(differs(pattern).is_some_and(|text| text.contains(':')), "{pattern}");
        }
    }
}
