//! A real Prometheus on a free loopback port, with its data in a temporary folder.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::process::Process;

/// Longest time until it listens.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Longest time one request may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// It ends when this is dropped.
#[derive(Debug)]
pub struct Prometheus {
    /// As a process, to freeze or kill.
    pub process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts the one of the machine's package, with `config` as its configuration.
    pub async fn start(config: &str) -> Result<Self> {
        Self::start_in(tempfile::tempdir()?, config).await
    }

    /// Starts one that scrapes nothing and evaluates `rules`, the rules of one group as YAML,
    /// every second.
    pub async fn alerting(rules: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("rules.yml");
        std::fs::write(&file, format!("groups:\n- name: test\n  interval: 1s\n  rules:\n{rules}"))?;
        Self::start_in(folder, &format!("rule_files: [{}]\n", file.display())).await
    }

    async fn start_in(folder: TempDir, config: &str) -> Result<Self> {
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config)?;
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            // It takes a free port, and says which.
            .arg("--web.listen-address=127.0.0.1:0");
        let process = Process::spawn("prometheus", command)
            .context("no Prometheus: `make setup` installs it (Debian: prometheus)")?;
        let line = process.wait_line("msg=\"Listening on\"", READY_WITHIN).await?;
        let address = line.rsplit("address=").next().context("no address in its log")?;
        let address = address.trim().parse().with_context(|| format!("no address in {line:?}"))?;
        process.wait_line("Server is ready", READY_WITHIN).await?;
        Ok(Self { process, address, _folder: folder })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same, as gates want it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The `data` of its answer to a request of its API, such as `/api/v1/alerts`.
    pub async fn api(&self, path: &str) -> Result<Value> {
        let body = http_get(self.address, path).await?;
        let mut answer: Value = serde_json::from_str(&body)
            .with_context(|| format!("Prometheus answers {path} with {body:?}"))?;
        ensure!(answer["status"] == "success", "Prometheus answers {path} with {body}");
        Ok(answer["data"].take())
    }

    /// What an expression is worth now: labels and value of each series.
    pub async fn query(&self, expression: &str) -> Result<Vec<(Value, String)>> {
        let expression: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let data = self.api(&format!("/api/v1/query?query={expression}")).await?;
        let series = data["result"].as_array().context("no result")?;
        let value = |one: &Value| {
            let value = one["value"][1].as_str().unwrap_or_default().to_owned();
            (one["metric"].clone(), value)
        };
        Ok(series.iter().map(value).collect())
    }
}

/// The body of the answer to a GET.
pub async fn http_get(address: SocketAddr, path: &str) -> Result<String> {
    let talk = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        anyhow::Ok(body.to_owned())
    };
    let path_of = || format!("GET http://{address}{path}");
    tokio::time::timeout(ANSWER_WITHIN, talk).await.with_context(path_of)?.with_context(path_of)
}
