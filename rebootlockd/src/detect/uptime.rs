//! `uptime`: the machine has been up for too long.

use std::path::Path;
use std::time::Duration;

use super::Verdict;

const DAY: u64 = 24 * 60 * 60;

/// Compares the first number of `file`, the seconds since boot, with `max`.
pub(super) fn look(file: &Path, max: Duration) -> Verdict {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return Verdict::failed(format!("cannot read {}: {error}", file.display())),
    };
    let first = text.split_whitespace().next().unwrap_or_default();
    let up = first.parse().ok().and_then(|secs| Duration::try_from_secs_f64(secs).ok());
    match up {
        None => Verdict::failed(format!(
            "{} does not begin with a number of seconds: {:?}",
            file.display(),
            first.chars().take(40).collect::<String>()
        )),
        Some(up) if up > max => Verdict::wanted(format!("up for more than {}", spelled(max))),
        Some(_) => Verdict::Clear,
    }
}

fn spelled(length: Duration) -> String {
    match length.as_secs() {
        DAY => "a day".to_owned(),
        secs if secs % DAY == 0 => format!("{} days", secs / DAY),
        1 => "a second".to_owned(),
        secs => format!("{secs} seconds"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn up(text: &str, max: u64) -> Verdict {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        look(file.path(), Duration::from_secs(max))
    }

    #[test]
    fn longer_than_allowed_is_a_reason_that_does_not_change_with_the_time() {
        assert_eq!(up("2592000.00 1.2\n", 30 * DAY), Verdict::Clear);
        let reason = Verdict::wanted("up for more than 30 days");
        assert_eq!(up("2592000.01 1.2\n", 30 * DAY), reason);
        assert_eq!(up("9999999.99 1.2\n", 30 * DAY), reason);
        assert_eq!(up("61 0\n", 60), Verdict::wanted("up for more than 60 seconds"));
    }

    #[test]
    fn what_is_no_time_is_a_failure() {
        for text in ["", "soon", "-1 0", "NaN 0", "inf 0", "1e999"] {
            assert!(matches!(up(text, 1), Verdict::Failed { .. }), "{text}");
        }
        let missing = look(Path::new("/nonexistent/uptime"), Duration::ZERO);
        assert!(matches!(missing, Verdict::Failed { why } if why.contains("/nonexistent/uptime")));
    }

    #[test]
    fn the_kernels_own_file_is_understood() {
        let file = Path::new("/proc/uptime");
        assert!(matches!(look(file, Duration::ZERO), Verdict::Wanted { .. }));
        assert_eq!(look(file, Duration::MAX), Verdict::Clear);
    }
}
