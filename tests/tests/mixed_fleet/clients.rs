//! Machines that are no agents: each says to the gateway what a stock client of its protocol says.

use anyhow::{Context, Result, ensure};
use rebootlock_tests::fleet::SOON;
use rebootlock_tests::gateway::Gateway;
use rebootlock_tests::within;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The status and the JSON of the answer to a POST.
async fn post(gateway: &Gateway, path: &str, head: &str, body: &Value) -> Result<(u16, Value)> {
    let talk = async {
        let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: gateway\r\n{head}connection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        anyhow::Ok((status, serde_json::from_str(body).with_context(|| answer.clone())?))
    };
    within(path, SOON, talk).await?.with_context(|| format!("POST {path}"))
}

/// What an operator does at the gateway, who signs in for that with the token of a role.
pub(crate) async fn operates(
    gateway: &Gateway,
    role: &str,
    path: &str,
    body: Value,
) -> Result<u16> {
    let token = std::fs::read_to_string(gateway.token_file(role))?;
    let head =
        format!("authorization: Bearer {}\r\ncontent-type: application/json\r\n", token.trim_end());
    Ok(post(gateway, &format!("/api/v1{path}"), &head, &body).await?.0)
}

/// What somebody is told who does the same without signing in.
pub(crate) async fn meddles(gateway: &Gateway, path: &str, body: Value) -> Result<u16> {
    let head = "content-type: application/json\r\n";
    Ok(post(gateway, &format!("/api/v1{path}"), head, &body).await?.0)
}

/// A client of the gateway that wants to reboot once.
pub(crate) trait Client {
    /// What the lock knows it as.
    fn id(&self) -> &str;

    /// Asks whether it may go down. `Err` is the refusal.
    async fn ask(&self, gateway: &Gateway) -> Result<Result<(), String>>;

    /// Says, once it is up again, what its protocol has for that.
    async fn is_back(&self, gateway: &Gateway) -> Result<()>;
}

/// Zincati.
pub(crate) struct FleetLock(pub(crate) &'static str);

impl FleetLock {
    async fn call(&self, gateway: &Gateway, call: &str) -> Result<Result<(), String>> {
        let body = json!({"client_params": {"id": self.0, "group": "default"}});
        let path = format!("/v1/{call}");
        let (status, answer) = post(gateway, &path, "fleet-lock-protocol: true\r\n", &body).await?;
        Ok(if status == 200 { Ok(()) } else { Err(format!("{status} {answer}")) })
    }
}

impl Client for FleetLock {
    fn id(&self) -> &str {
        self.0
    }

    async fn ask(&self, gateway: &Gateway) -> Result<Result<(), String>> {
        self.call(gateway, "pre-reboot").await
    }

    async fn is_back(&self, gateway: &Gateway) -> Result<()> {
        self.call(gateway, "steady-state").await?.map_err(anyhow::Error::msg)
    }
}

/// goahead_client, between its two questions.
pub(crate) struct Goahead {
    fqdn: &'static str,
    request_id: String,
}

impl Goahead {
    /// Asks for the first time, which takes nothing.
    pub(crate) async fn announced(gateway: &Gateway, fqdn: &'static str) -> Result<Self> {
        let body = json!({"fqdn": fqdn, "uptime": "5h"});
        let (_, answer) = post(gateway, "/v1/request/restart/os", "", &body).await?;
        ensure!(answer["go_ahead"] == false, "{answer}");
        let id = answer["request_id"].as_str().with_context(|| answer.to_string())?;
        Ok(Self { fqdn, request_id: id.to_owned() })
    }
}

impl Client for Goahead {
    fn id(&self) -> &str {
        self.fqdn
    }

    async fn ask(&self, gateway: &Gateway) -> Result<Result<(), String>> {
        let body = json!({"fqdn": self.fqdn, "uptime": "5h1m", "request_id": self.request_id});
        let (status, answer) = post(gateway, "/v1/request/restart/os", "", &body).await?;
        ensure!(status == 200 && answer["requesting_fqdn"] == self.fqdn, "{answer}");
        Ok(if answer["go_ahead"] == true { Ok(()) } else { Err(answer.to_string()) })
    }

    async fn is_back(&self, gateway: &Gateway) -> Result<()> {
        let body = json!({"fqdn": self.fqdn, "uptime": "10s"});
        let (status, answer) = post(gateway, "/v1/inquire/restart/", "", &body).await?;
        ensure!(status == 200 && answer["go_ahead"] == false, "{answer}");
        Ok(())
    }
}

/// What subd runs; the machine is called by the address that it asks from.
pub(crate) struct Disruption;

impl Disruption {
    async fn told(&self, gateway: &Gateway, operation: &str) -> Result<String> {
        let tags = json!({
            "DisruptionManagerGroupIdentifier": "",
            "DisruptionManagerGroupMaximumDisrupting": "1",
        });
        let body = json!({"MDB": {"Hostname": self.id(), "Tags": tags}, "Request": operation});
        let (status, answer) = post(gateway, "/api/v1/request", "", &body).await?;
        ensure!(status == 200, "{status} {answer}");
        Ok(answer["Response"].as_str().with_context(|| answer.to_string())?.to_owned())
    }
}

impl Client for Disruption {
    fn id(&self) -> &str {
        "127.0.0.1"
    }

    async fn ask(&self, gateway: &Gateway) -> Result<Result<(), String>> {
        let word = self.told(gateway, "request").await?;
        Ok(if word == "permitted" { Ok(()) } else { Err(word) })
    }

    async fn is_back(&self, gateway: &Gateway) -> Result<()> {
        let word = self.told(gateway, "cancel").await?;
        ensure!(word == "denied", "{word}");
        Ok(())
    }
}
