//! `file`: a file is there.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::Verdict;

/// Names of packages shown; the rest is counted.
const SHOWN: usize = 10;
/// Longest name shown.
const LONGEST: usize = 80;
/// So much of the list of packages is read.
const READ: u64 = 256 * 1024;

/// Whether one of `paths` is there. The same file under two names counts once.
pub(super) fn look(paths: &[PathBuf]) -> Verdict {
    let mut seen = HashSet::new();
    let mut reasons = Vec::new();
    for path in paths {
        match std::fs::metadata(path) {
            Ok(found) => {
                if seen.insert((found.dev(), found.ino())) {
                    reasons.push(reason(path));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Verdict::failed(format!("cannot look at {}: {error}", path.display()));
            }
        }
    }
    if reasons.is_empty() { Verdict::Clear } else { Verdict::wanted(reasons.join("; ")) }
}

/// Where the packages that want the reboot are listed, beside the file.
pub(super) fn packages_file(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".pkgs");
    PathBuf::from(name)
}

fn reason(path: &Path) -> String {
    let packages = packages(&packages_file(path));
    let there = format!("{} is there", path.display());
    match packages.split_at_checked(SHOWN) {
        _ if packages.is_empty() => there,
        Some((shown, rest)) if !rest.is_empty() => {
            format!("{there}, because of {} and {} more", shown.join(", "), rest.len())
        }
        _ => format!("{there}, because of {}", packages.join(", ")),
    }
}

/// Each once, in their order. The list is a courtesy: without it the file alone is the reason.
fn packages(path: &Path) -> Vec<String> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(READ).read_to_end(&mut bytes));
    if read.is_err() {
        return Vec::new();
    }
    let mut known = HashSet::new();
    String::from_utf8_lossy(&bytes)
        .lines()
        .map(|line| line.trim().chars().filter(|c| !c.is_control()).take(LONGEST).collect())
        .filter(|name: &String| !name.is_empty() && known.insert(name.clone()))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_that_is_there_is_a_reason_and_one_that_is_not_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reboot-required");
        assert_eq!(look(std::slice::from_ref(&path)), Verdict::Clear);
        std::fs::write(&path, "").unwrap();
        let there = format!("{} is there", path.display());
        assert_eq!(look(&[path]), Verdict::wanted(there));
    }

    #[test]
    fn packages_are_named_once_and_only_the_first_ten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reboot-required");
        std::fs::write(&path, "").unwrap();
        let list = packages_file(&path);
        std::fs::write(&list, "libc6\n\n linux-base \nlibc6\nbad\u{7}\u{1b}name\n").unwrap();
        let there = format!("{} is there, because of", path.display());
        let few = Verdict::wanted(format!("{there} libc6, linux-base, badname"));
        assert_eq!(look(std::slice::from_ref(&path)), few);
        let many: Vec<_> = (0..22).map(|number| format!("p{number}")).collect();
        std::fs::write(&list, many.join("\n")).unwrap();
        let many = Verdict::wanted(format!("{there} {} and 12 more", many[..10].join(", ")));
        assert_eq!(look(std::slice::from_ref(&path)), many);
        // Not text, and no file at all: the reason stays.
        std::fs::write(&list, b"\xff\xfe\n").unwrap();
        assert!(matches!(look(std::slice::from_ref(&path)), Verdict::Wanted { .. }));
        std::fs::remove_file(&list).unwrap();
        std::fs::create_dir(&list).unwrap();
        assert_eq!(
            look(std::slice::from_ref(&path)),
            Verdict::wanted(format!("{} is there", path.display()))
        );
    }

    #[test]
    fn the_same_file_by_two_names_is_one_reason() {
        let folder = tempfile::tempdir().unwrap();
        let (run, var_run) = (folder.path().join("run"), folder.path().join("var-run"));
        std::fs::create_dir(&run).unwrap();
        symlink(&run, &var_run).unwrap();
        std::fs::write(run.join("r"), "").unwrap();
        let there = format!("{} is there", run.join("r").display());
        assert_eq!(look(&[run.join("r"), var_run.join("r")]), Verdict::wanted(there));
        std::fs::write(folder.path().join("other"), "").unwrap();
        let Verdict::Wanted { reason } = look(&[run.join("r"), folder.path().join("other")]) else {
            panic!("both are there");
        };
        assert_eq!(reason.matches("is there").count(), 2);
    }

    #[test]
    fn links_are_followed_and_one_that_leads_nowhere_is_no_reason() {
        let folder = tempfile::tempdir().unwrap();
        let (link, target) = (folder.path().join("link"), folder.path().join("target"));
        symlink(&target, &link).unwrap();
        assert_eq!(look(std::slice::from_ref(&link)), Verdict::Clear);
        std::fs::write(target, "").unwrap();
        assert!(matches!(look(&[link]), Verdict::Wanted { .. }));
    }

    #[test]
    fn what_cannot_be_looked_at_has_failed_even_beside_a_file_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let (below, looped) = (file.join("below"), folder.path().join("loop"));
        symlink(&looped, &looped).unwrap();
        for bad in [below, looped] {
            let Verdict::Failed { why } = look(&[file.clone(), bad.clone()]) else {
                panic!("{} cannot be looked at", bad.display());
            };
            assert!(why.starts_with(&format!("cannot look at {}: ", bad.display())), "{why}");
        }
    }
}
