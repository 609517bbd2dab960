//! The end of what a command printed.

use std::collections::VecDeque;
use std::fmt;

/// So much of it is kept.
const KEPT: usize = 64 * 1024;

/// The last 64 KiB of what a command printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Output {
    kept: VecDeque<u8>,
    dropped: u64,
}

impl Output {
    /// Adds what came.
    pub fn push(&mut self, part: &[u8]) {
        let all = self.kept.len() + part.len();
        let too_many = all.saturating_sub(KEPT);
        self.dropped += too_many as u64;
        let of_kept = too_many.min(self.kept.len());
        self.kept.drain(..of_kept);
        self.kept.extend(&part[too_many - of_kept..]);
    }

    /// Bytes that came before those that were kept.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether nothing was printed.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The bytes that were kept.
    pub fn bytes(&self) -> Vec<u8> {
        self.kept.iter().copied().collect()
    }

    /// Its last `length` characters or fewer, for a message; the whole is for the log.
    pub fn tail(&self, length: usize) -> String {
        let text = String::from_utf8_lossy(&self.bytes()).trim_end().to_owned();
        match text.char_indices().rev().take(length).last() {
            Some((start, _)) if start > 0 => format!("…{}", &text[start..]),
            _ => text,
        }
    }
}

impl From<&[u8]> for Output {
    fn from(bytes: &[u8]) -> Self {
        let mut output = Self::default();
        output.push(bytes);
        output
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes();
        // A character may have been cut in two.
        let cut = bytes.iter().take(3).take_while(|byte| **byte & 0xC0 == 0x80).count();
        let start = if self.dropped > 0 { cut } else { 0 };
        if self.dropped > 0 {
            writeln!(f, "[{} bytes before this were dropped]", self.dropped + start as u64)?;
        }
        f.write_str(String::from_utf8_lossy(&bytes[start..]).trim_end())
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("tail", &self.tail(200))
            .field("kept", &self.kept.len())
            .field("dropped", &self.dropped)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_and_the_rest_counted() {
        let mut output = Output::default();
        for _ in 0..100 {
            output.push(&[b'a'; 1000]);
        }
        output.push(b"end\n");
        assert_eq!(output.bytes().len(), KEPT);
        assert_eq!(output.dropped(), 100_004 - KEPT as u64);
        assert!(output.bytes().ends_with(b"end\n"));
        let shown = output.to_string();
        assert!(shown.starts_with("[34468 bytes before this were dropped]\naaa"), "{shown}");
    }

    #[test]
    fn one_part_larger_than_what_is_kept_leaves_its_end() {
        let mut output = Output::from(&b"before"[..]);
        let mut part = vec![b'x'; KEPT];
        part.extend(b"end");
        output.push(&part);
        assert_eq!(output.dropped(), 6 + 3);
        assert_eq!(output.bytes().len(), KEPT);
        assert!(output.bytes().ends_with(b"end"));
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_all_the_same() {
        assert_eq!(Output::from(&b"a\xFFb\n"[..]).to_string(), "a\u{FFFD}b");
        let mut output = Output::from("é".repeat(KEPT).as_bytes());
        output.push(b"x");
        assert!(!output.to_string().contains('\u{FFFD}'));
    }

    #[test]
    fn a_tail_is_cut_at_a_character() {
        assert_eq!(Output::from("naïve\n".as_bytes()).tail(3), "…ïve");
        assert_eq!(Output::from("naïve\n".as_bytes()).tail(30), "naïve");
        assert_eq!(Output::default().tail(3), "");
    }
}
