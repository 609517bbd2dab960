//! Telling kernels apart by their release: which flavour, and which is newer.

use std::cmp::Ordering;

/// Architectures as they end the releases of RPM distributions.
const ARCHITECTURES: [&str; 14] = [
    "x86_64",
    "aarch64",
    "ppc64le",
    "ppc64",
    "s390x",
    "riscv64",
    "loongarch64",
    "armv7hl",
    "armv7l",
    "i386",
    "i486",
    "i586",
    "i686",
    "noarch",
];

/// What kind of kernel a release is of: everything in it that does not change with an update.
///
/// A kernel replaces only those of its own kind: neither a debug nor a real-time kernel beside the
/// running one is a reason to reboot.
pub(super) fn flavour(release: &str) -> String {
    rpm_flavour(release).unwrap_or_else(|| dashed_flavour(release))
}

/// `5.14.0-362.8.1.el9_3.x86_64+debug`: the architecture, what follows it, and what is appended to
/// the distribution (`el8uek`). The distribution's own version changes with an upgrade.
fn rpm_flavour(release: &str) -> Option<String> {
    let parts: Vec<&str> = release.split('.').collect();
    let architecture = |part: &str| {
        let plain = part.split('+').next().unwrap_or_default();
        ARCHITECTURES.iter().find(|known| **known == plain).copied()
    };
    let (at, known) =
        parts.iter().enumerate().rev().find_map(|(at, part)| Some((at, architecture(part)?)))?;
    let mut words = vec![known.to_owned()];
    words.extend(parts[at].split('+').skip(1).map(str::to_owned));
    words.extend(parts[at + 1..].iter().map(|part| (*part).to_owned()));
    if let Some(distribution) = at.checked_sub(1).map(|before| parts[before]) {
        let appended = distribution
            .trim_start_matches(|c: char| c.is_ascii_alphabetic())
            .trim_start_matches(|c: char| c.is_ascii_digit());
        words.push(appended.chars().take_while(char::is_ascii_alphabetic).collect());
    }
    // Before RHEL 9.3 real-time kernels said so in the middle: 4.18.0-513.rt7.295.el8.x86_64.
    let real_time = |part: &&str| {
        part.strip_prefix("rt").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    if parts[..at].iter().any(real_time) {
        words.push("rt".to_owned());
    }
    words.retain(|word| !word.is_empty());
    words.dedup();
    Some(words.join(" "))
}

/// `6.1.0-13-rt-amd64`: the words at the end, without those that count (`rc5`, `r1`, `rpi7`).
fn dashed_flavour(release: &str) -> String {
    let mut words: Vec<&str> = release
        .split('-')
        .skip(1)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .take_while(|word| word.starts_with(|c: char| c.is_ascii_alphabetic()))
        .collect();
    words.reverse();
    let letters = |word: &str| word.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
    words.retain(|word| !matches!(letters(word).as_str(), "rc" | "r") || letters(word) == *word);
    let last = words.len().saturating_sub(1);
    let words = words.iter().enumerate();
    // Of the last word the digits belong to the name: amd64, v8.
    let words = words.map(|(at, word)| if at < last { letters(word) } else { (*word).to_owned() });
    words.collect::<Vec<_>>().join("-")
}

/// Which of two releases is newer, by the rules of rpm: runs of digits count as numbers, runs of
/// letters as words, a number is newer than a word and more is newer than less. A tilde, and `rc`,
/// is older than nothing at all.
pub(super) fn compare(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (Parts(one), Parts(other));
    loop {
        let (a, b) = (one.next(), other.next());
        let order = a.cmp(&b);
        if order != Ordering::Equal || a == Part::End {
            return order;
        }
    }
}

/// In the order of their age, the oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part<'a> {
    Before,
    End,
    Word(&'a str),
    /// By its length first: no number is too large.
    Number(usize, &'a str),
}

struct Parts<'a>(&'a str);

impl<'a> Parts<'a> {
    fn next(&mut self) -> Part<'a> {
        self.0 = self.0.trim_start_matches(|c: char| !c.is_ascii_alphanumeric() && c != '~');
        if let Some(rest) = self.0.strip_prefix('~') {
            self.0 = rest;
            return Part::Before;
        }
        let digits = self.take(|c| c.is_ascii_digit());
        if !digits.is_empty() {
            let digits = digits.trim_start_matches('0');
            return Part::Number(digits.len(), digits);
        }
        match self.take(|c| c.is_ascii_alphabetic()) {
            "" => Part::End,
            "rc" => Part::Before,
            word => Part::Word(word),
        }
    }

    fn take(&mut self, is_part: impl Fn(char) -> bool) -> &'a str {
        let end = self.0.find(|c| !is_part(c)).unwrap_or(self.0.len());
        let (part, rest) = self.0.split_at(end);
        self.0 = rest;
        part
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn releases_are_ordered_by_age() {
        for (older, newer) in [
            ("6.1.0-9-amd64", "6.1.0-13-amd64"),
            ("6.1.0-13-amd64", "6.5.0-0.deb12.4-amd64"),
            ("6.1.9", "6.1.10"),
            ("6.1", "6.1.1"),
            ("6.7.0-rc5-amd64", "6.7.0-rc6-amd64"),
            ("6.7.0-rc6-amd64", "6.7.0-amd64"),
            ("6.7-rc1", "6.7"),
            ("6.7.0-0.rc5.20231213gitabc.41.fc40.x86_64", "6.7.0-68.fc40.x86_64"),
            ("5.14.0-362.el9.x86_64", "5.14.0-362.8.1.el9_3.x86_64"),
            ("5.14.0-362.8.1.el9_3.x86_64", "5.14.0-362.13.1.el9_3.x86_64"),
            ("5.14.21-150500.55.7-default", "5.14.21-150500.55.39-default"),
            ("6.1.0-009", "6.1.0-10"),
            ("1.0~rc1", "1.0"),
            ("6.99999999999999999999998", "6.99999999999999999999999"),
        ] {
            assert_eq!(compare(older, newer), Ordering::Less, "{older} {newer}");
            assert_eq!(compare(newer, older), Ordering::Greater, "{newer} {older}");
        }
        assert_eq!(compare("6.01.0-1", "6.1.0_1"), Ordering::Equal);
    }

    #[test]
    fn an_update_keeps_the_flavour() {
        for (one, other) in [
            ("6.1.0-9-amd64", "6.1.0-13-amd64"),
            ("6.1.0-9-amd64", "6.5.0-0.deb12.4-amd64"),
            ("6.1.0-9-rt-amd64", "6.1.0-13-rt-amd64"),
            ("6.7.0-rc5-amd64", "6.7.0-amd64"),
            ("5.15.0-91-generic", "6.5.0-14-generic"),
            ("5.14.0-362.el9.x86_64", "5.14.0-427.13.1.el9_4.x86_64"),
            ("6.5.12-100.fc37.x86_64", "6.6.7-200.fc39.x86_64"),
            ("6.7.0-0.rc5.41.fc40.x86_64", "6.7.0-68.fc40.x86_64"),
            ("4.18.0-477.rt7.240.el8_8.x86_64", "4.18.0-513.rt7.295.el8_9.x86_64"),
            ("6.1.61-85.141.amzn2023.x86_64", "6.1.66-91.160.amzn2023.x86_64"),
            ("5.14.21-150400.24-default", "6.4.0-150600.21-default"),
            ("6.6.8-arch1-1", "6.6.9-arch2-1"),
            ("6.6.8-zen1-1-zen", "6.6.9-zen2-1-zen"),
            ("6.1.0-rpi7-rpi-v8", "6.1.0-rpi8-rpi-v8"),
            ("6.1.67-gentoo", "6.1.67-gentoo-r1"),
            ("6.5.11-7-pve", "6.5.13-1-pve"),
        ] {
            assert_eq!(flavour(one), flavour(other), "{one} {other}");
        }
    }

    #[test]
    fn another_kind_of_kernel_has_another_flavour() {
        for (one, other) in [
            ("6.1.0-13-amd64", "6.1.0-13-rt-amd64"),
            ("6.1.0-13-amd64", "6.1.0-13-cloud-amd64"),
            ("6.1.0-13-686", "6.1.0-13-686-pae"),
            ("5.15.0-91-generic", "5.15.0-91-lowlatency"),
            ("5.14.0-362.el9.x86_64", "5.14.0-362.el9.x86_64+debug"),
            ("3.10.0-514.el7.x86_64", "3.10.0-514.el7.x86_64.debug"),
            ("5.14.0-362.el9.aarch64", "5.14.0-362.el9.aarch64+64k"),
            ("4.18.0-513.el8.x86_64", "4.18.0-513.rt7.295.el8.x86_64"),
            ("4.18.0-513.el8.x86_64", "5.15.0-200.131.27.el8uek.x86_64"),
            ("6.4.0-1-default", "6.4.0-1-debug"),
            ("6.4.0-1-default", "6.4.0-1-rt"),
            ("6.6.8-arch1-1", "6.6.8-1-lts"),
            ("6.1.0-rpi7-rpi-v8", "6.1.0-rpi7-rpi-v7"),
        ] {
            assert_ne!(flavour(one), flavour(other), "{one} {other}");
        }
    }

    proptest! {
        #[test]
        fn the_order_is_one(a in "[0-9a-z.~+_-]{0,12}", b in "[0-9a-z.~+_-]{0,12}", c in "[0-9a-z.~+_-]{0,12}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b) != Ordering::Greater && compare(&b, &c) != Ordering::Greater {
                prop_assert_ne!(compare(&a, &c), Ordering::Greater);
            }
        }

        #[test]
        fn no_release_breaks_anything(release in "\\PC{0,40}") {
            flavour(&release);
            prop_assert_eq!(compare(&release, &release), Ordering::Equal);
        }
    }
}
