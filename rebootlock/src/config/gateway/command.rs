//! A command with places for names, as a line or as a list.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// A program and its arguments. No shell reads it.
///
/// Written as a list, or as one line: then the program ends at the first blank, and quotes and
/// backslashes keep the rest together as they do for a Bourne shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    text: String,
    argv: Vec<String>,
}

impl CommandLine {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(line: &str) -> Result<Self, String> {
        let line = line.trim_matches(BLANKS);
        let (program, rest) = line.split_once(BLANKS).unwrap_or((line, ""));
        let mut argv = vec![program.to_owned()];
        argv.extend(words(rest).map_err(|quote| format!("{line:?}: {quote} is not closed"))?);
        Self::of(line.to_owned(), argv)
    }

    fn of(text: String, argv: Vec<String>) -> Result<Self, String> {
        let program = argv.first().map_or("", String::as_str);
        if program.is_empty() {
            return Err("a command needs a program".to_owned());
        }
        if program.contains('/') && !program.starts_with('/') {
            return Err(format!(
                "{program:?} is not a full path; expected one that begins with /, or a name that is \
                 looked up in PATH"
            ));
        }
        if argv.iter().any(|word| word.contains('\0')) {
            return Err("a command has no NUL in it".to_owned());
        }
        Ok(Self { text, argv })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The program, and each argument by itself.
    pub fn argv(&self) -> &[String] {
        &self.argv
    }
}

const BLANKS: [char; 3] = [' ', '\t', '\n'];

/// Parts a line as a Bourne shell would, without expanding anything.
///
/// # Errors
/// The quote that is not closed, or the backslash with nothing behind it.
fn words(line: &str) -> Result<Vec<String>, char> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '\\') => match chars.next() {
                // A line goes on behind it.
                Some('\n') => {}
                Some(kept) => word.get_or_insert_default().push(kept),
                None => return Err('\\'),
            },
            (Some('"'), '\\') => {
                let word = word.get_or_insert_default();
                match chars.next_if(|next| "$`\"\\\n".contains(*next)) {
                    Some('\n') => {}
                    Some(kept) => word.push(kept),
                    None => word.push('\\'),
                }
            }
            (None, c) if BLANKS.contains(&c) => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    match quote {
        Some(open) => Err(open),
        None => {
            words.extend(word);
            Ok(words)
        }
    }
}

impl<'de> Deserialize<'de> for CommandLine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = CommandLine;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a command, as a line or as a list of its words")
            }

            fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<CommandLine, E> {
                CommandLine::parse(line).map_err(E::custom)
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> Result<CommandLine, A::Error> {
                let mut argv = Vec::<String>::new();
                while let Some(word) = list.next_element()? {
                    argv.push(word);
                }
                CommandLine::of(argv.join(" "), argv).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_is_parted_as_a_shell_does() {
        for (line, argv) in [
            ("true", vec!["true"]),
            ("  /bin/x  a\tb ", vec!["/bin/x", "a", "b"]),
            ("x 'a b' \"c \\\" \\$ \\d\" e\\ f", vec!["x", "a b", "c \" $ \\d", "e f"]),
            ("x '' \"\"", vec!["x", "", ""]),
            ("x $(id) ; | * # y", vec!["x", "$(id)", ";", "|", "*", "#", "y"]),
            ("x a'b'\"c\"", vec!["x", "abc"]),
        ] {
            assert_eq!(CommandLine::parse(line).unwrap().argv(), argv, "{line}");
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        for (line, said) in [
            ("", "needs a program"),
            ("x 'a", "' is not closed"),
            ("x \"a", "\" is not closed"),
            ("x \\", "\\ is not closed"),
            ("bin/x", "is not a full path"),
        ] {
            let error = CommandLine::parse(line).unwrap_err();
            assert!(error.contains(said), "{line}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in ".*") {
            let _ = CommandLine::parse(&line);
        }

        #[test]
        fn a_quoted_word_stays_one(word in "[^']{0,30}") {
            prop_assume!(!word.contains('\0'));
            let command = CommandLine::parse(&format!("x '{word}'")).unwrap();
            prop_assert_eq!(&command.argv()[1..], &[word][..]);
        }
    }
}
