//! etcd servers on free ports.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// Servers that are killed when this is dropped.
pub struct Etcd {
    members: Vec<Child>,
    commands: Vec<Command>,
    /// All of them, by commas.
    pub endpoints: String,
    _dir: tempfile::TempDir,
}

impl Etcd {
    pub fn start() -> Self {
        Self::of_members(1)
    }

    /// A cluster, which elects a leader faster than it would by default.
    pub fn of_members(count: usize) -> Self {
        // There are many of these, and none has to outlive its test: no disk is waited for.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        // All held until all are known, else the kernel may give one twice.
        let sockets: Vec<_> =
            (0..2 * count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let urls: Vec<_> =
            sockets.iter().map(|s| format!("http://{}", s.local_addr().unwrap())).collect();
        drop(sockets);
        let (clients, peers) = urls.split_at(count);
        let names: Vec<_> =
            peers.iter().enumerate().map(|(n, peer)| format!("m{n}={peer}")).collect();
        let command = |n: usize| {
            let (client, peer) = (&clients[n], &peers[n]);
            let mut command = Command::new("etcd");
            command
                .args(["--data-dir", dir.path().join(format!("m{n}")).to_str().unwrap()])
                .args(["--name", &format!("m{n}")])
                .args(["--listen-client-urls", client, "--advertise-client-urls", client])
                .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
                .args(["--initial-cluster", &names.join(",")])
                .args(["--heartbeat-interval=50", "--election-timeout=500"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command
        };
        let mut commands: Vec<_> = (0..count).map(command).collect();
        let members = commands.iter_mut().map(spawn).collect();
        Self { members, commands, endpoints: clients.join(","), _dir: dir }
    }

    /// Whether it answers.
    pub fn is_up(&self) -> bool {
        self.endpoints.split(',').all(|endpoint| {
            let address = endpoint.trim_start_matches("http://");
            let Ok(mut stream) = TcpStream::connect(address) else { return false };
            let text = super::request("GET", "/health", "connection: close\r\n", "");
            let mut answer = String::new();
            stream.write_all(text.as_bytes()).is_ok()
                && stream.read_to_string(&mut answer).is_ok()
                && answer.contains("\"health\":\"true\"")
        })
    }

    pub fn kill(&mut self, member: usize) {
        self.members[member].kill().unwrap();
        self.members[member].wait().unwrap();
    }

    /// Again, after it was killed.
    pub fn restart(&mut self, member: usize) {
        self.members[member] = spawn(&mut self.commands[member]);
        let endpoint = self.endpoints.split(',').nth(member).unwrap().to_owned();
        super::until(
            || format!("{endpoint} answers"),
            || {
                let endpoint = format!("--endpoints={endpoint}");
                let mut asking = Command::new("etcdctl");
                asking.env("ETCDCTL_API", "3").args([&endpoint, "get", "x"]);
                asking.output().unwrap().status.success().then_some(())
            },
        );
    }

    pub fn signal(&self, member: usize, signal: Signal) {
        kill_process(Pid::from_child(&self.members[member]), signal).unwrap();
    }

    /// Runs `etcdctl` and gives what it prints.
    pub fn ctl(&self, args: &[&str]) -> String {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.endpoints))
            .args(args)
            .output()
            .expect("etcdctl (Debian: etcd-client)");
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

fn spawn(command: &mut Command) -> Child {
    command.spawn().expect("etcd (Debian: etcd-server)")
}
