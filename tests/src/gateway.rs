//! The real gateway, with credentials that let its clients use the store behind it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rebootlock::store::{GatewayOptions, GatewayStore};
use tempfile::TempDir;
use tokio::process::Command;

use crate::binaries;
use crate::process::{Process, Signal};

/// Longest time until it listens, or has ended.
const SOON: Duration = Duration::from_secs(20);

/// Who may do what: tokens called `operator-token` and so on, as their SHA-256.
const CREDENTIALS: &str = r#"
[[client]]
name = "olga"
role = "operator"
token_sha256 = "0850123315d21ab90f4f7236408a52ef6dbd6a02a6550e5c10dc73f4d993680e"
[[client]]
name = "vera"
role = "viewer"
token_sha256 = "d036bd6d01a1cae081d39a2f8dab751dc042de814fd60df31fcb553170950f29"
[[client]]
name = "machine-a"
role = "agent"
ids = ["a"]
groups = ["default", "lb"]
token_sha256 = "eb47b9ce4840a5b3ea138b8691253b78035b9289d9014409067e9844c272ef99"
"#;

/// A gateway on a port of its own. Dropped, it is killed.
#[derive(Debug)]
pub struct Gateway {
    dir: TempDir,
    endpoint: String,
    flags: Vec<String>,
    port: u16,
    scheme: &'static str,
    process: Process,
}

impl Gateway {
    /// A gateway in front of the store at `endpoint`, with these lines below `[gateway]` and these
    /// flags.
    pub async fn start(endpoint: &str, config: &str, flags: &[&str]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let credentials = dir.path().join("credentials.toml");
        std::fs::write(&credentials, CREDENTIALS)?;
        for role in ["operator", "viewer", "agent", "wrong"] {
            std::fs::write(dir.path().join(role), format!("{role}-token\n"))?;
        }
        let text = format!("[gateway]\ncredentials_file = {credentials:?}\n{config}\n");
        std::fs::write(dir.path().join("rebootlock.toml"), text)?;
        let scheme = if config.contains("tls_cert_file") { "https" } else { "http" };
        let flags: Vec<_> = flags.iter().map(ToString::to_string).collect();
        let process = spawn(dir.path(), endpoint, &flags, 0)?;
        let endpoint = endpoint.to_owned();
        let mut gateway = Self { dir, endpoint, flags, port: 0, scheme, process };
        gateway.port = gateway.listening().await?;
        Ok(gateway)
    }

    async fn listening(&self) -> Result<u16> {
        let line = self.process.wait_line("\"message\":\"listening\"", SOON).await?;
        let line: serde_json::Value = serde_json::from_str(&line)?;
        let address = line["address"].as_str().context("no address is logged")?;
        Ok(address.parse::<std::net::SocketAddr>()?.port())
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The file with the token of a role.
    pub fn token_file(&self, role: &str) -> PathBuf {
        self.dir.path().join(role)
    }

    /// How to reach it at `urls` with the token of a role.
    pub fn options(&self, role: &str, urls: &[String]) -> GatewayOptions {
        GatewayOptions {
            endpoints: urls.to_vec(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            username: None,
            password_file: None,
            token_file: Some(self.token_file(role)),
            timeout: Duration::from_secs(5),
        }
    }

    /// A store behind it, with the rights of a role.
    pub fn store(&self, role: &str) -> Result<GatewayStore> {
        Ok(GatewayStore::new(&self.options(role, &[self.url()]))?)
    }

    /// Stops it as systemd would, and waits until it has.
    pub async fn stop(&mut self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait_exit(SOON).await?;
        anyhow::ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    /// Kills it as a power cut would.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.kill().await
    }

    /// Starts it again where it was.
    pub async fn again(&mut self) -> Result<()> {
        self.process = spawn(self.dir.path(), &self.endpoint, &self.flags, self.port)?;
        self.listening().await.map(drop)
    }
}

fn spawn(dir: &Path, endpoint: &str, flags: &[String], port: u16) -> Result<Process> {
    let mut command = Command::new(binaries::path("rebootlock-gateway")?);
    command.env_clear();
    command.args(["serve", "--log-format", "json", "--endpoint", endpoint, "--listen"]);
    command.arg(format!("127.0.0.1:{port}"));
    command.arg("--config").arg(dir.join("rebootlock.toml")).args(flags);
    Process::spawn("rebootlock-gateway", command)
}
