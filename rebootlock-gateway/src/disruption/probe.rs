//! Asking a machine's service whether it is ready: soon at first, then less and less often.

use std::time::Duration;

use axum::http::Uri;
use axum::http::header::LOCATION;
use rebootlock::http::{self, Access};
use tokio::time::timeout;

/// One question, with all redirections, takes no longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// More redirections are followed by nobody.
const MOST_REDIRECTIONS: usize = 10;

/// The pauses between questions while `time` is left: from a thousandth of it, each a quarter longer,
/// to a sixty-fourth of it, and never longer than five minutes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pauses {
    next: Duration,
    longest: Duration,
}

impl Pauses {
    /// None is shorter.
    const SHORTEST: Duration = Duration::from_millis(50);

    pub(super) fn of(time: Duration) -> Self {
        let longest = (time / 64).min(Duration::from_secs(300)).max(Self::SHORTEST);
        Self { next: (time / 1024).max(Self::SHORTEST), longest }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.next.min(self.longest);
        self.next = pause * 5 / 4;
        Some(pause)
    }
}

/// Asks once. Ready is who answers 200, and only it.
///
/// # Errors
/// Why it is not known to be ready.
pub(super) async fn ask(url: &str, hosts: Option<&[String]>) -> Result<(), String> {
    let asked = timeout(ANSWER_WITHIN, follow(url, hosts)).await;
    asked.unwrap_or_else(|_| Err(format!("{url}: no answer within {} s", ANSWER_WITHIN.as_secs())))
}

async fn follow(url: &str, hosts: Option<&[String]>) -> Result<(), String> {
    let mut url: Uri = url.parse().map_err(|error| format!("{url:?} is no address: {error}"))?;
    for _ in 0..=MOST_REDIRECTIONS {
        if !may_ask(&url, hosts) {
            return Err(format!("{url}: its host is not in disruption_ready_hosts"));
        }
        let answer = http::get(&url, &Access::default(), None).await;
        let answer = answer.map_err(|error| format!("{url}: {error}"))?;
        let status = answer.status();
        let elsewhere = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        url = match (status.as_u16(), elsewhere) {
            (200, _) => return Ok(()),
            (301 | 302 | 303 | 307 | 308, Some(location)) => resolve(&url, location)?,
            (other, _) => return Err(format!("{url}: status {other}")),
        };
    }
    Err(format!("{url}: more than {MOST_REDIRECTIONS} redirections"))
}

/// Whether the settings let the gateway ask there.
fn may_ask(url: &Uri, hosts: Option<&[String]>) -> bool {
    let Some(hosts) = hosts else { return true };
    let host = http::host(url).to_ascii_lowercase();
    hosts.iter().any(|known| match known.strip_prefix("*.") {
        Some(domain) => host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')),
        None => *known == host,
    })
}

/// Where `location` is, seen from `url`.
fn resolve(url: &Uri, location: &str) -> Result<Uri, String> {
    let wrong = || format!("{url} redirects to {location:?}, which is no address");
    let scheme = url.scheme_str().unwrap_or("http");
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let whole = if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = url.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    whole.parse().map_err(|_| wrong())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_by_a_quarter_to_a_limit() {
        let millis =
            |pauses: Pauses, n| -> Vec<_> { pauses.take(n).map(|p| p.as_millis()).collect() };
        let quarter_hour = Pauses::of(Duration::from_secs(900));
        assert_eq!(millis(quarter_hour, 3), [878, 1098, 1373]);
        assert_eq!(quarter_hour.last_of(30).as_millis(), 14_062);
        assert_eq!(millis(Pauses::of(Duration::from_secs(64)), 4), [62, 78, 97, 122]);
        assert_eq!(Pauses::of(Duration::from_secs(64)).last_of(30).as_millis(), 1000);
        assert_eq!(Pauses::of(Duration::from_secs(864_000)).last_of(60).as_secs(), 300);
        assert_eq!(millis(Pauses::of(Duration::ZERO), 2), [50, 50]);
    }

    impl Pauses {
        fn last_of(self, n: usize) -> Duration {
            self.take(n).last().unwrap()
        }
    }

    #[test]
    fn only_hosts_that_are_named_are_asked() {
        let hosts = ["*.example".to_owned(), "10.0.0.5".to_owned(), "::1".to_owned()];
        for (url, may) in [
            ("http://web-3.EXAMPLE:1234/ready", true),
            ("https://10.0.0.5/", true),
            ("http://[::1]:80/", true),
            ("http://example/", false),
            ("http://badexample/", false),
            ("http://10.0.0.5.evil/", false),
            ("http://169.254.169.254/latest", false),
        ] {
            assert_eq!(may_ask(&url.parse().unwrap(), Some(&hosts)), may, "{url}");
            assert!(may_ask(&url.parse().unwrap(), None));
        }
    }

    #[test]
    fn redirections_are_seen_from_where_they_are() {
        let url = "http://h:1/a/b?q".parse().unwrap();
        for (location, whole) in [
            ("https://x/y", "https://x/y"),
            ("//x/y", "http://x/y"),
            ("/y", "http://h:1/y"),
            ("y", "http://h:1/a/y"),
        ] {
            assert_eq!(resolve(&url, location).unwrap().to_string(), whole);
        }
        assert!(resolve(&url, "http://a b/").is_err());
    }
}
