//! Zincati on this machine, if it is there: whether it asks where it is meant to.

use std::collections::BTreeMap;
use std::path::Path;

use rebootlock::http::{self, Uri};
use serde::Deserialize;

use super::Finding;

/// Of two files of one name the one in the later folder counts.
const FOLDERS: [&str; 3] =
    ["/usr/lib/zincati/config.d", "/run/zincati/config.d", "/etc/zincati/config.d"];

/// The part of its configuration that says whom it asks.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    updates: Updates,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Updates {
    strategy: Option<String>,
    fleet_lock: FleetLock,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FleetLock {
    base_url: Option<String>,
}

pub(super) fn check() -> Vec<Finding> {
    let mut files = BTreeMap::new();
    for folder in FOLDERS {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "toml")
                && let Some(name) = path.file_name()
            {
                files.insert(name.to_owned(), path);
            }
        }
    }
    judge(files.values().map(|path| (path.as_path(), std::fs::read_to_string(path))))
}

fn judge<'a>(files: impl Iterator<Item = (&'a Path, std::io::Result<String>)>) -> Vec<Finding> {
    let about = "Zincati";
    let (mut findings, mut strategy, mut base) = (Vec::new(), None, None);
    for (path, text) in files {
        let read = text.map_err(|error| error.to_string()).and_then(|text| {
            toml::from_str::<File>(&text).map_err(|error| error.message().to_owned())
        });
        match read {
            Ok(file) => {
                strategy = file.updates.strategy.or(strategy);
                base = file.updates.fleet_lock.base_url.or(base);
            }
            Err(problem) => findings.push(Finding::warn(
                about,
                format!("{} cannot be read: {problem}", path.display()),
                "mend it; what it says of updates.fleet_lock was not looked at",
            )),
        }
    }
    if strategy.as_deref() == Some("fleet_lock") {
        findings.push(asks(about, base.as_deref()));
    }
    findings
}

/// It takes `v1/pre-reboot` relative to its base, as browsers take links.
fn asks(about: &str, base: Option<&str>) -> Finding {
    let Some(base) = base else {
        return Finding::fail(
            about,
            "its strategy is fleet_lock, and it is told no updates.fleet_lock.base_url",
            "set it to the address of the gateway, with a slash at the end",
        );
    };
    let url = base.parse::<Uri>().ok().filter(|url| http::port(url).is_some());
    let Some(url) = url else {
        let found = format!("its base_url {base:?} is no web address");
        return Finding::fail(about, found, "write it as https://HOST:PORT/");
    };
    let path = url.path();
    if path.ends_with('/') {
        return Finding::ok(about, format!("asks at {}v1/pre-reboot", shown(&url)));
    }
    let kept = &path[..=path.rfind('/').unwrap_or_default()];
    Finding::fail(
        about,
        format!("its base_url has no slash at the end, so it asks at {kept}v1/pre-reboot"),
        format!("put a slash behind {path}, if the server is there"),
    )
}

/// Without a password.
fn shown(url: &Uri) -> String {
    let host = url.host().unwrap_or_default();
    let port = url.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme_str().unwrap_or_default(), url.path())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn lines(texts: &[&str]) -> String {
        let texts = texts.iter().map(|text| (Path::new("x.toml"), Ok((*text).to_owned())));
        judge(texts).iter().map(|finding| finding.line(false)).collect()
    }

    fn asking(base: &str) -> String {
        let strategy = "[updates]\nstrategy = \"fleet_lock\"\n";
        lines(&[strategy, &format!("[updates.fleet_lock]\nbase_url = \"{base}\"\n")])
    }

    #[test]
    fn a_path_without_a_slash_at_its_end_is_lost_and_that_is_said() {
        for (base, said) in [
            (
                "https://web:SECRET@gw.example:9090/",
                "ok    Zincati: asks at https://gw.example:9090/v1",
            ),
            // There is no path to lose.
            ("http://gw.example:9090", "ok    Zincati: asks at http://gw.example:9090/v1/pre"),
            ("http://gw/fleet/", "ok    Zincati: asks at http://gw/fleet/v1/pre-reboot"),
            (
                "http://gw/fleet",
                "FAIL  Zincati: its base_url has no slash at the end, so it asks at /v1/",
            ),
            ("http://gw/a/b", "so it asks at /a/v1/pre-reboot\n      put a slash behind /a/b"),
            ("", "is no web address"),
        ] {
            let found = asking(base);
            assert!(found.contains(said) && !found.contains("SECRET"), "{base}: {found}");
        }
    }

    #[test]
    fn who_does_not_ask_a_server_is_none_of_our_business() {
        assert_eq!(lines(&[]), "");
        assert_eq!(lines(&["[updates]\nstrategy = \"immediate\"\n", "[identity]\nx = 1\n"]), "");
        assert!(lines(&["[updates]\nstrategy = \"fleet_lock\"\n"]).contains("told no updates"));
        let later = "[updates]\nstrategy = \"fleet_lock\"\n";
        assert_eq!(lines(&[later, "[updates]\nstrategy = \"periodic\"\n"]), "");
        assert!(lines(&["[updates"]).starts_with("warn  Zincati: x.toml cannot be read: "));
    }
}
