//! Patterns: regular expressions for names, and shell patterns for units and files.

use serde::{Deserialize, Deserializer};

/// A regular expression that a whole name has to match.
#[derive(Debug, Clone)]
pub struct NamePattern {
    source: String,
    regex: regex_lite::Regex,
}

impl NamePattern {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(source: &str) -> Result<Self, String> {
        // Alone first: `a)(b` must not become right by what is put around it.
        let regex = regex_lite::Regex::new(source)
            .and_then(|_| regex_lite::Regex::new(&format!("^(?:{source})$")))
            .map_err(|error| format!("{source:?} is not a regular expression: {error}"))?;
        Ok(Self { source: source.to_owned(), regex })
    }

    /// Whether the whole of `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        self.regex.is_match(name)
    }

    /// A text that matches exactly `literal`, for use in a pattern.
    pub fn escape(literal: &str) -> String {
        regex_lite::escape(literal)
    }
}

impl PartialEq for NamePattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl<'de> Deserialize<'de> for NamePattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let source = String::deserialize(deserializer)?;
        if source.is_empty() {
            return Err(serde::de::Error::custom("a pattern must not be empty"));
        }
        Self::new(&source).map_err(serde::de::Error::custom)
    }
}

/// A shell pattern: `*`, `?`, `[abc]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(glob::Pattern);

impl Glob {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(source: &str) -> Result<Self, String> {
        if source.trim().is_empty() {
            return Err("a pattern must not be blank".to_owned());
        }
        let pattern = glob::Pattern::new(source)
            .map_err(|error| format!("{source:?} is not a shell pattern: {}", error.msg))?;
        Ok(Self(pattern))
    }

    /// Whether the whole of `name` matches. As in a shell, `*` and `?` do not stand for a dot at
    /// the beginning.
    pub fn matches(&self, name: &str) -> bool {
        if name.starts_with('.') && !self.0.as_str().starts_with('.') {
            return false;
        }
        self.0.matches(name)
    }

    /// Whether `text` stands for more than itself.
    pub fn is_one(text: &str) -> bool {
        text.contains(['*', '?', '['])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_pattern_has_to_match_the_whole_name() {
        let pattern = NamePattern::new("Reboot.*|Watchdog").unwrap();
        assert!(pattern.matches("RebootRequired") && pattern.matches("Watchdog"));
        assert!(!pattern.matches("NoRebootRequired") && !pattern.matches("Watchdogs"));
        assert!(NamePattern::new("a)(b").is_err() && NamePattern::new("(").is_err());
        let host = NamePattern::new(&NamePattern::escape("a.b+c")).unwrap();
        assert!(host.matches("a.b+c") && !host.matches("axb+c"));
    }

    #[test]
    fn a_shell_pattern_does_not_find_hidden_names_by_chance() {
        let pattern = Glob::new("*.lock").unwrap();
        assert!(pattern.matches("dpkg.lock") && !pattern.matches(".lock"));
        assert!(Glob::new("[ab").is_err() && Glob::new(" ").is_err());
    }
}
