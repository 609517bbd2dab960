//! Real etcd servers on free loopback ports, each in a temporary directory of its own.

pub mod history;
mod network;
mod versions;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub use self::network::Cut;
use self::network::Link;
pub use self::versions::{Version, system, versions};
use crate::pki::Pki;
use crate::process::wait_until_still;

/// Longest time until a server that was started answers.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// What kind of etcd to start.
#[derive(Debug, Clone)]
pub struct EtcdSetup {
    version: Version,
    members: usize,
    tls: Option<Tls>,
    proxied: bool,
    slower_sync: Option<Duration>,
    flags: Vec<String>,
}

#[derive(Debug, Clone)]
struct Tls {
    pki: Arc<Pki>,
    client_certificates: bool,
}

impl EtcdSetup {
    /// One member of `version`, without TLS.
    pub fn new(version: &Version) -> Self {
        Self {
            version: version.clone(),
            members: 1,
            tls: None,
            proxied: false,
            slower_sync: None,
            flags: Vec::new(),
        }
    }

    /// So many members, which elect a leader faster than they would by default.
    #[must_use]
    pub fn members(mut self, members: usize) -> Self {
        self.members = members;
        self.flag("--heartbeat-interval=50").flag("--election-timeout=500")
    }

    /// Clients use TLS; with `client_certificates` they must show one too.
    #[must_use]
    pub fn tls(mut self, pki: &Arc<Pki>, client_certificates: bool) -> Self {
        self.tls = Some(Tls { pki: pki.clone(), client_certificates });
        self
    }

    /// Members reach each other through proxies, and clients may: see [`EtcdCluster::cut_off`].
    #[must_use]
    pub fn behind_proxies(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// Each `fdatasync` takes so much longer, as on a slower disk. This needs strace, which stops at
    /// no other system call.
    #[must_use]
    pub fn slower_sync(mut self, by: Duration) -> Self {
        self.slower_sync = Some(by);
        self
    }

    /// What to start, without the flags of etcd.
    fn command(&self) -> Vec<String> {
        let mut command = Vec::new();
        if let Some(by) = self.slower_sync {
            let inject = format!("inject=fdatasync:delay_exit={}", by.as_micros());
            // -D: etcd is our own child, and strace one of its.
            let strace = ["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"];
            command.extend(strace.map(str::to_owned));
            command.extend([
                "-e".to_owned(),
                "trace=fdatasync".to_owned(),
                "-e".to_owned(),
                inject,
            ]);
        }
        command.push(self.version.etcd().display().to_string());
        command
    }

    /// One more flag for each member.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// Starts it, and waits until it answers.
    pub async fn start(self) -> Result<EtcdCluster> {
        // Between the kernel's naming a free port and etcd's taking it, somebody else may.
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_start().await {
                Err(error)
                    if tries < 4 && format!("{error:?}").contains("address already in use") => {}
                done => return done,
            }
        }
    }

    async fn try_start(&self) -> Result<EtcdCluster> {
        let dir = tempfile::tempdir()?;
        let ports = free_ports(self.members * 2)?;
        let peers: Vec<_> =
            ports[self.members..].iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let mut links = Vec::new();
        for n in (0..self.members).filter(|_| self.proxied) {
            links.push(Link::start(ports[self.members + n], ports[n]).await?);
        }
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let advertised: Vec<_> = match self.proxied {
            true => links.iter().map(|link| link.peers.endpoint()).collect(),
            false => peers.clone(),
        };
        let initial: Vec<_> =
            advertised.iter().enumerate().map(|(n, peer)| format!("member-{n}={peer}")).collect();
        let mut members = Vec::new();
        for (n, peer) in peers.iter().enumerate() {
            let name = format!("member-{n}");
            let endpoint = format!("{scheme}://127.0.0.1:{}", ports[n]);
            let mut command = self.command();
            command.extend([
                format!("--name={name}"),
                format!("--data-dir={}", dir.path().join(&name).display()),
                format!("--listen-client-urls={endpoint}"),
                format!("--advertise-client-urls={endpoint}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={}", advertised[n]),
                format!("--initial-cluster={}", initial.join(",")),
                "--logger=zap".to_owned(),
                "--log-level=warn".to_owned(),
            ]);
            if self.version.is_at_least(3, 5) {
                // Tests need not survive a power cut.
                command.push("--unsafe-no-fsync".to_owned());
            }
            if let Some(tls) = &self.tls {
                command.push(format!("--cert-file={}", tls.pki.server_cert().display()));
                command.push(format!("--key-file={}", tls.pki.server_key().display()));
                if tls.client_certificates {
                    command.push("--client-cert-auth".to_owned());
                    command.push(format!("--trusted-ca-file={}", tls.pki.ca().display()));
                }
            }
            command.extend(self.flags.iter().cloned());
            let log = dir.path().join(format!("{name}.log"));
            let mut member = EtcdServer { command, endpoint, log, child: None };
            member.spawn()?;
            members.push(member);
        }
        let mut cluster =
            EtcdCluster { members, setup: self.clone(), root_password: None, links, _dir: dir };
        cluster.wait_ready().await?;
        Ok(cluster)
    }
}

fn free_ports(count: usize) -> Result<Vec<u16>> {
    // All held until all are known, else the kernel may give one twice.
    let held: Vec<_> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
    Ok(held.iter().map(|socket| Ok(socket.local_addr()?.port())).collect::<std::io::Result<_>>()?)
}

/// A cluster of one or more members. Dropped, it is killed.
#[derive(Debug)]
pub struct EtcdCluster {
    /// Its members.
    pub members: Vec<EtcdServer>,
    setup: EtcdSetup,
    root_password: Option<String>,
    links: Vec<Link>,
    _dir: TempDir,
}

impl EtcdCluster {
    /// The URL of each member.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.endpoint.clone()).collect()
    }

    /// Waits until each running member answers.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        for n in 0..self.members.len() {
            if self.members[n].child.is_none() {
                continue;
            }
            loop {
                self.members[n].check_running()?;
                let endpoint = self.members[n].endpoint.clone();
                match self.etcdctl_at(&endpoint, &["endpoint", "health"]).await {
                    Ok(_) => break,
                    Err(error) if Instant::now() > deadline => {
                        let log = self.members[n].log();
                        return Err(error.context(format!("etcd is not ready; its log:\n{log}")));
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        }
        Ok(())
    }

    /// Runs `etcdctl` on all endpoints, as root if access control is on, and returns what it prints.
    pub async fn etcdctl(&self, args: &[&str]) -> Result<String> {
        self.etcdctl_at(&self.endpoints().join(","), args).await
    }

    async fn etcdctl_at(&self, endpoints: &str, args: &[&str]) -> Result<String> {
        let mut command = tokio::process::Command::new(self.setup.version.etcdctl());
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={endpoints}"));
        if let Some(tls) = &self.setup.tls {
            command.arg(format!("--cacert={}", tls.pki.ca().display()));
            if tls.client_certificates {
                command.arg(format!("--cert={}", tls.pki.client_cert().display()));
                command.arg(format!("--key={}", tls.pki.client_key().display()));
            }
        }
        if let Some(password) = &self.root_password {
            command.arg(format!("--user=root:{password}"));
        }
        let output = command.args(args).stdin(Stdio::null()).kill_on_drop(true).output().await;
        let output = output.context("cannot run etcdctl")?;
        let [out, err] =
            [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
        ensure!(output.status.success(), "etcdctl {}: {err}{out}", args.join(" "));
        Ok(out)
    }

    /// The newest revision of the store.
    pub async fn revision(&self) -> Result<u64> {
        let json = self.etcdctl(&["get", "no such key", "--write-out=json"]).await?;
        let answer: serde_json::Value = serde_json::from_str(&json)?;
        answer["header"]["revision"].as_u64().with_context(|| format!("no revision in {json}"))
    }

    /// Forgets everything before the newest revision.
    pub async fn compact(&self) -> Result<()> {
        let revision = self.revision().await?;
        match self.etcdctl(&["compact", "--physical", &revision.to_string()]).await {
            // It asks again when it gets no answer, and then hears that it has been done.
            Err(error) if !format!("{error:?}").contains("has been compacted") => Err(error),
            _ => Ok(()),
        }
    }

    /// Switches access control on: from now on `root` has this password, and others nothing.
    pub async fn enable_auth(&mut self, root_password: &str) -> Result<()> {
        self.etcdctl(&["user", "add", &format!("root:{root_password}")]).await?;
        self.etcdctl(&["user", "grant-role", "root", "root"]).await?;
        self.etcdctl(&["auth", "enable"]).await?;
        self.root_password = Some(root_password.to_owned());
        Ok(())
    }

    /// A user who may read and write the keys that begin with `prefix`.
    pub async fn add_user(&self, user: &str, password: &str, prefix: &str) -> Result<()> {
        self.etcdctl(&["user", "add", &format!("{user}:{password}")]).await?;
        self.etcdctl(&["role", "add", user]).await?;
        self.etcdctl(&["role", "grant-permission", user, "--prefix=true", "readwrite", prefix])
            .await?;
        self.etcdctl(&["user", "grant-role", user, user]).await.map(drop)
    }

    /// Which member leads.
    pub async fn leader(&self) -> Result<usize> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            for (n, member) in self.members.iter().enumerate() {
                let args = ["endpoint", "status", "--write-out=json"];
                if let Ok(json) = self.etcdctl_at(&member.endpoint, &args).await {
                    let answer: serde_json::Value = serde_json::from_str(&json)?;
                    let status = &answer[0]["Status"];
                    if status["leader"] == status["header"]["member_id"] {
                        return Ok(n);
                    }
                }
            }
            ensure!(Instant::now() < deadline, "no member leads");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// One member, as a process.
#[derive(Debug)]
pub struct EtcdServer {
    command: Vec<String>,
    endpoint: String,
    log: PathBuf,
    child: Option<Child>,
}

impl EtcdServer {
    /// Its URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Its port for clients.
    pub fn port(&self) -> u16 {
        self.endpoint.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(0)
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Starts it, again if it ran before: same port, same data. It may take a while to answer.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.endpoint);
        // While it was away its port was anybody's, if only for a connection to somewhere else.
        let deadline = Instant::now() + READY_WITHIN;
        while TcpListener::bind(("127.0.0.1", self.port())).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let (program, args) = self.command.split_first().context("no command")?;
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        self.child = Some(child);
        Ok(())
    }

    /// Ends it in good order (SIGTERM), and waits until it has.
    pub async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        self.wait_exit().await
    }

    /// Ends it at once (SIGKILL).
    pub async fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait_exit().await
    }

    /// Stops it in its tracks (SIGSTOP): it still holds its connections, and answers nothing.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let pid = self.child.as_ref().map(Child::id).context("it does not run")?;
        wait_until_still(pid).with_context(|| self.endpoint.to_string())
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        // Not yet waited for, so the number is still its own.
        let child =
            self.child.as_ref().with_context(|| format!("{} does not run", self.endpoint))?;
        let pid = Pid::from_raw(child.id().try_into()?).context("a child's id is never zero")?;
        Ok(kill_process(pid, signal)?)
    }

    async fn wait_exit(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let deadline = Instant::now() + Duration::from_secs(20);
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                self.child = Some(child);
                bail!("{} does not end; its log:\n{}", self.endpoint, self.log());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn check_running(&mut self) -> Result<()> {
        let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
        match ended {
            Some(status) => bail!("etcd ended by itself: {status}; its log:\n{}", self.log()),
            None => Ok(()),
        }
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // SIGKILL reaches a frozen process too.
            let _ = child.kill();
            let _ = child.wait();
            if std::thread::panicking() {
                let log = self.log();
                let tail: Vec<_> = log.lines().rev().take(20).collect();
                eprintln!("the end of the log of {}:", self.endpoint);
                tail.iter().rev().for_each(|line| eprintln!("  {line}"));
            }
        }
    }
}

/// The build directory, where fetched servers are kept.
fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from)
}
