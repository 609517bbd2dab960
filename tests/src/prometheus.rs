//! A real Prometheus on a free loopback port, with alerts that fire at once.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::process::Command;

use crate::eventually;
use crate::process::Process;

/// Longest time until one that was started takes connections.
const START: Duration = Duration::from_secs(30);

/// A Prometheus that scrapes nothing. Dropped, it is killed.
#[derive(Debug)]
pub struct Prometheus {
    /// As a process, to freeze or kill.
    pub process: Process,
    url: String,
    _dir: TempDir,
}

impl Prometheus {
    /// Starts one that evaluates `rules`, the rules of one group as YAML, every second.
    pub async fn start(rules: &str) -> Result<Self> {
        // Between the kernel's naming a free port and Prometheus' taking it, somebody else may.
        let mut tries = 0;
        loop {
            tries += 1;
            match Self::try_start(rules).await {
                Err(_) if tries < 4 => {}
                done => return done,
            }
        }
    }

    async fn try_start(rules: &str) -> Result<Self> {
        let dir = TempDir::with_prefix("prometheus-")?;
        let path = |name: &str| dir.path().join(name);
        let config = format!("rule_files: [{}]\n", path("rules.yml").display());
        std::fs::write(path("prometheus.yml"), config)?;
        let rules = format!("groups:\n- name: test\n  interval: 1s\n  rules:\n{rules}");
        std::fs::write(path("rules.yml"), rules)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", path("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", path("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .current_dir(dir.path());
        let mut process = Process::spawn("prometheus", command)
            .context("is Debian's package prometheus installed")?;
        eventually("Prometheus takes connections", START, async || {
            if !process.is_running() {
                return Err("it has ended".to_owned());
            }
            let stream = tokio::net::TcpStream::connect(address).await;
            stream.map(drop).map_err(|error| error.to_string())
        })
        .await?;
        Ok(Self { process, url: format!("http://{address}"), _dir: dir })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }
}
