//! Figures in a file, for the node exporter's textfile collector.

use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Format, Metrics};

/// Shortest time between two writes, however much happens.
const SHORTEST: Duration = Duration::from_secs(5);

/// Longest time between two writes, even if nothing happens: the file's age says whether the agent
/// lives.
const LONGEST: Duration = Duration::from_secs(60);

/// Keeps the file up to date, for ever. It is left where it is in the end: its age tells the rest.
pub(super) async fn keep(metrics: Metrics, path: PathBuf) {
    let mut last: Option<io::ErrorKind> = None;
    loop {
        let (text, file) = (metrics.text(Format::Prometheus), path.clone());
        // On a disk that hangs this task waits, and nothing else does.
        let written = tokio::task::spawn_blocking(move || write(&file, &text)).await;
        match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => {
                if last.take().is_some() {
                    tracing::info!(path = %path.display(), "metrics are written again");
                }
            }
            Err(error) => {
                if last.replace(error.kind()) != Some(error.kind()) {
                    tracing::error!(
                        path = %path.display(), %error,
                        "cannot write the metrics; tried again, until metrics.textfile is changed"
                    );
                }
            }
        }
        let now = Instant::now();
        sleep_until(now + SHORTEST).await;
        // Nothing new until then: it is written all the same.
        let _ = timeout_at(now + LONGEST, metrics.changed()).await;
    }
}

/// Puts `text` in the place of the file in one step: whoever reads sees the old or the new.
fn write(path: &Path, text: &str) -> io::Result<()> {
    // The collector reads `*.prom` only.
    let mut name = OsString::from(path);
    name.push(".new");
    let new = PathBuf::from(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Others may be allowed to write in this folder: a link they lay here is not followed.
    let mut file = OpenOptions::new().write(true).create_new(true).open(&new)?;
    let written = (|| {
        file.write_all(text.as_bytes())?;
        // The collector runs as another user, whatever our umask.
        file.set_permissions(Permissions::from_mode(0o644))?;
        fs::rename(&new, path)
    })();
    if written.is_err() {
        // What is left of it is removed before the next try too.
        let _ = fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_file_is_replaced_whole_and_readable_by_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rebootlock.prom");
        for text in ["a 1\n", "a 2\nb 1\n"] {
            write(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_laid_in_its_way_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, victim) = (folder.path().join("a.prom"), folder.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, folder.path().join("a.prom.new")).unwrap();
        write(&path, "a 1\n").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(fs::read_to_string(&path).unwrap(), "a 1\n");
    }

    #[test]
    fn a_folder_that_is_missing_is_an_error_and_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        assert!(write(&folder.path().join("no/a.prom"), "a 1\n").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_file_is_written_at_once_and_renewed_even_if_nothing_happens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.prom");
        let metrics = Metrics::new(rebootlock::record::UnixTime(7));
        let task = tokio::spawn(keep(metrics.clone(), path.clone()));
        let appears = || async {
            while !path.exists() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let text = fs::read_to_string(&path).unwrap();
            fs::remove_file(&path).unwrap();
            text
        };
        let started = Instant::now();
        assert!(appears().await.contains("\nrebootlock_start_timestamp_seconds 7\n"));
        let first = started.elapsed();
        appears().await;
        let second = started.elapsed();
        metrics.reboot_ordered();
        assert!(appears().await.contains("\nrebootlock_reboots_ordered_total 1\n"));
        let third = started.elapsed();
        assert!(first < SHORTEST, "{first:?}");
        assert!(second - first > SHORTEST && second <= first + LONGEST, "{second:?}");
        assert!(third - second >= SHORTEST - Duration::from_secs(1), "{third:?}");
        assert!(third - second <= SHORTEST + Duration::from_secs(1), "{third:?}");
        task.abort();
    }
}
