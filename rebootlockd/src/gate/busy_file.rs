//! `type = "busy-file"`: open if none of the files is there.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rebootlock::config::gate::{BusyFileGate, Glob};
use tokio::sync::Semaphore;

use super::Verdict;

/// Looks at files elsewhere, because a file system may hang; then no second one looks behind it.
#[derive(Debug, Clone)]
pub(super) struct Look(Arc<Semaphore>);

impl Default for Look {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Look {
    pub(super) async fn ask(&self, gate: &BusyFileGate) -> Verdict {
        let Ok(permit) = self.0.clone().acquire_owned().await else {
            return Verdict::unknown("an earlier look at the files did not end");
        };
        let gate = gate.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let verdict = judge(&gate, SystemTime::now());
            drop(permit);
            verdict
        });
        looked.await.unwrap_or_else(|error| Verdict::unknown(error.to_string()))
    }
}

fn judge(gate: &BusyFileGate, now: SystemTime) -> Verdict {
    for path in &gate.paths {
        match find(path, &Counted { now, max_age: gate.max_age }) {
            Ok(None) => {}
            Ok(Some(found)) => return Verdict::closed(format!("{} is there", found.display())),
            Err((at, error)) => {
                return Verdict::unknown(format!("cannot look at {}: {error}", at.display()));
            }
        }
    }
    Verdict::Open
}

struct Counted {
    now: SystemTime,
    max_age: Option<Duration>,
}

type Found = Result<Option<PathBuf>, (PathBuf, io::Error)>;

/// The first file that fits and counts. Links are not followed: many programs use dangling ones as
/// locks.
fn find(pattern: &str, counted: &Counted) -> Found {
    let parts: Vec<_> = pattern.split('/').filter(|part| !part.is_empty()).collect();
    descend(PathBuf::from("/"), &parts, false, counted)
}

/// `searched`: the folder was found by a pattern, so that it may be none.
fn descend(at: PathBuf, parts: &[&str], searched: bool, counted: &Counted) -> Found {
    let absent = |error: &io::Error| {
        error.kind() == ErrorKind::NotFound
            || (searched && error.kind() == ErrorKind::NotADirectory)
    };
    let [part, rest @ ..] = parts else {
        return match counts(&at, counted) {
            Ok(true) => Ok(Some(at)),
            Ok(false) => Ok(None),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err((at, error)),
        };
    };
    if !Glob::is_one(part) {
        return descend(at.join(part), rest, searched, counted);
    }
    let broken = |problem| (at.clone(), io::Error::other(problem));
    let glob = Glob::new(part).map_err(broken)?;
    let entries = match fs::read_dir(&at) {
        Ok(entries) => entries,
        Err(error) if absent(&error) => return Ok(None),
        Err(error) => return Err((at, error)),
    };
    for entry in entries {
        let name = entry.map_err(|error| (at.clone(), error))?.file_name();
        if glob.matches(&name.to_string_lossy())
            && let Some(found) = descend(at.join(name), rest, true, counted)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn counts(path: &Path, counted: &Counted) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(path)?;
    let Some(max_age) = counted.max_age else { return Ok(true) };
    // One from the future is young.
    let age = counted.now.duration_since(metadata.modified()?).unwrap_or_default();
    Ok(age <= max_age)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn why(paths: &[&str], max_age: Option<u64>, now: SystemTime) -> Option<String> {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let gate = BusyFileGate { paths, max_age: max_age.map(Duration::from_secs) };
        judge(&gate, now).why().map(str::to_owned)
    }

    #[test]
    fn a_file_that_fits_closes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        let now = SystemTime::now();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/x.lock"), "").unwrap();
        fs::write(dir.path().join("a/.hidden.lock"), "").unwrap();
        std::os::unix::fs::symlink("/nonexistent", dir.path().join("dangling")).unwrap();
        let said = |path: &str| why(&[&format!("{root}/{path}")], None, now);
        let there = |path: &str| Some(format!("{root}/{path} is there"));
        for (pattern, found) in [
            ("a/b/x.lock", there("a/b/x.lock")),
            ("a//b/x.lock", there("a/b/x.lock")),
            ("a", there("a")),
            ("*/b/*.lock", there("a/b/x.lock")),
            ("a/?/[x-z].lock", there("a/b/x.lock")),
            ("a/.*.lock", there("a/.hidden.lock")),
            ("dangling", there("dangling")),
            ("d*", there("dangling")),
            ("a/*.lock", None),
            ("a/b/y.lock", None),
            ("missing/*/x", None),
            // Found by a pattern, and not a folder.
            ("a/b/*/x", None),
            ("a/b/*/*", None),
        ] {
            assert_eq!(said(pattern), found, "{pattern}");
        }
        let both = [format!("{root}/no"), format!("{root}/a/b/x.lock")];
        assert_eq!(why(&[&both[0], &both[1]], None, now), there("a/b/x.lock"));
    }

    #[test]
    fn what_cannot_be_looked_at_closes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let file = file.to_str().unwrap();
        for below in ["x", "*"] {
            let said = why(&[&format!("{file}/{below}")], None, SystemTime::now()).unwrap();
            assert!(
                said.starts_with("cannot look at ") && said.contains("(os error 20)"),
                "{said}"
            );
        }
        let long = format!("/{}", "x".repeat(300));
        assert!(why(&[&long], None, SystemTime::now()).unwrap().contains("cannot look at"));
    }

    #[test]
    fn an_old_file_does_not_count_if_there_is_an_age() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("busy");
        fs::write(&path, "").unwrap();
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        let path = path.to_str().unwrap();
        let after = |secs| written + Duration::from_secs(secs);
        assert!(why(&[path], Some(60), after(60)).is_some());
        assert!(why(&[path], Some(60), after(61)).is_none());
        assert!(why(&[path], None, after(61)).is_some());
        // The clock was set back since.
        assert!(why(&[path], Some(60), written - Duration::from_secs(900)).is_some());
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_not_followed_by_another() {
        let look = Look::default();
        let gate = BusyFileGate { paths: vec!["/nonexistent".to_owned()], max_age: None };
        assert_eq!(look.ask(&gate).await, Verdict::Open);
        let hanging = look.0.clone().acquire_owned().await.unwrap();
        let second = tokio::time::timeout(Duration::from_millis(20), look.ask(&gate)).await;
        assert!(second.is_err());
        drop(hanging);
        assert_eq!(look.ask(&gate).await, Verdict::Open);
    }
}
