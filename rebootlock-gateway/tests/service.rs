//! The process around the protocol: start, stop, sockets, TLS, limits, and nonsense.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustix::process::Signal;
use support::{Answer, Fleet, Gateway, PROTOCOL, file, params, request};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const PRE: &str = "/v1/pre-reboot";

#[test]
fn a_port_that_is_taken_ends_it_with_1_and_a_bad_setting_with_2() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let fleet = Fleet::new("");
    let end = |flags: &[&str]| {
        let mut command = fleet.command(&[]);
        command.args(flags);
        let output = command.stderr(Stdio::piped()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = end(&["--listen", &address]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("cannot listen on {address}: ")), "{said}");
    let (code, said) = end(&["--listen", "0.0.0.0:0"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("can be reached from other machines"), "{said}");
    assert_eq!(end(&["--bogus"]).0, Some(64));
    fleet.configure("[gateway]\ncredentials_file = \"/nonexistent\"\n");
    assert_eq!(end(&[]).0, Some(2));
}

#[test]
fn health_is_the_process_and_readiness_the_store() {
    let fleet = Fleet::new("[gateway]\nanswer_within_secs = 1\n[store]\ntimeout_secs = 1\n");
    let gw = fleet.start();
    gw.get("/healthz").is_granted();
    gw.get("/readyz").is_granted();
    gw.post("/healthz", "", "").is(405, "method_not_allowed");
    let store = rusqlite::Connection::open(fleet.store()).unwrap();
    store.execute_batch("ALTER TABLE entry RENAME TO elsewhere").unwrap();
    // What was seen is told for a second.
    gw.until(503, |gw| gw.get("/readyz")).is(503, "store_unavailable");
    gw.pre_reboot("a").is(503, "store_failed");
    gw.get("/healthz").is_granted();
    assert!(gw.get("/metrics").body.contains("rebootlock_gateway_store_up 0\n"));
    store.execute_batch("ALTER TABLE elsewhere RENAME TO entry").unwrap();
    gw.until(200, |gw| gw.get("/readyz")).is_granted();
    gw.pre_reboot("a").is_granted();
}

#[test]
fn stopping_answers_what_is_held_and_takes_nothing_new() {
    let fleet = Fleet::new("");
    let gw = fleet.start();
    gw.pre_reboot("a").is_granted();
    let mut held = gw.connect();
    let headers = format!("{PROTOCOL}prefer: wait=60\r\n");
    held.write_all(request("POST", PRE, &headers, &params("b", "default")).as_bytes()).unwrap();
    support::until(|| "b waits".to_owned(), || fleet.document("queue/b"));
    gw.signal(Signal::TERM);
    Answer::read(&mut held, false).expect("an answer").is_full();
    assert_eq!(gw.ended(), Some(0));
    // It is remembered all the same.
    assert!(fleet.document("queue/b").unwrap().contains("\"lease\":"));
}

#[test]
fn who_is_held_asks_again_after_a_reload_if_it_may_still() {
    let fleet = Fleet::new("");
    let credentials = |name: &str| {
        let hash = rebootlock_gateway::auth::token_digest(&format!("{name}-token"));
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        file(
            &fleet,
            "credentials.toml",
            &format!("[[client]]\nname = {name:?}\ntoken_sha256 = {hash:?}\n"),
        )
    };
    let path = credentials("old");
    fleet.configure(&format!("[gateway]\ncredentials_file = {path:?}\n"));
    let gw = fleet.start();
    let headers =
        |name: &str, more: &str| format!("{PROTOCOL}authorization: Bearer {name}-token\r\n{more}");
    gw.post(PRE, &headers("old", ""), &params("a", "default")).is_granted();
    let mut held = gw.connect();
    let asked =
        request("POST", PRE, &headers("old", "prefer: wait=60\r\n"), &params("b", "default"));
    held.write_all(asked.as_bytes()).unwrap();
    support::until(|| "b waits".to_owned(), || fleet.document("queue/b"));
    credentials("new");
    gw.signal(Signal::HUP);
    Answer::read(&mut held, false).expect("an answer").is_full();
    gw.post(PRE, &headers("old", ""), &params("b", "default")).is(401, "unauthorized");
    gw.post(PRE, &headers("new", ""), &params("b", "default")).is_full();
}

#[test]
fn one_address_has_its_share_of_requests() {
    let fleet = Fleet::new("[gateway]\nrequests_per_minute = 5\n");
    let gw = fleet.start();
    for _ in 0..5 {
        gw.pre_reboot("a").is_granted();
    }
    let refused = gw.pre_reboot("a");
    refused.is(429, "rate_limited");
    assert!(refused.head.contains("retry-after: "), "{refused:?}");
    gw.get("/healthz").is_granted();
}

#[test]
fn more_connections_than_allowed_wait() {
    let fleet = Fleet::new("[gateway]\nmax_connections = 2\n");
    let gw = fleet.start();
    let (one, _two) = (gw.connect(), gw.connect());
    let mut third = gw.connect();
    third.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    third.write_all(request("GET", "/healthz", "", "").as_bytes()).unwrap();
    assert!(Answer::read(&mut third, false).is_none(), "no answer yet");
    drop(one);
    third.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    Answer::read(&mut third, false).expect("an answer").is_granted();
}

#[test]
fn sockets_of_systemd_are_used() {
    use std::os::unix::process::CommandExt as _;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let fleet = Fleet::new("");
    // A shell puts the socket where systemd would, and says for whom it is.
    let gateway = fleet.command(&[]);
    let words: Vec<_> = gateway.get_args().map(|word| word.to_str().unwrap().to_owned()).collect();
    let mut command = std::process::Command::new("/bin/sh");
    command
        .args(["-c", "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\""])
        .arg(support::BINARY)
        .args(words)
        .env_clear()
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(socket)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    let gw = Gateway::start(command);
    assert_eq!(gw.address, address);
    gw.get("/healthz").is_granted();
}

#[test]
fn sockets_of_systemd_that_cannot_be_used_end_it_with_2() {
    use std::os::fd::OwnedFd;
    use std::os::unix::process::CommandExt as _;
    let fleet = Fleet::new("");
    let end = |socket: OwnedFd| {
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\""])
            .args([support::BINARY, "serve", "--config", fleet.config().to_str().unwrap()])
            .args(["--endpoint", &format!("sqlite:{}", fleet.store().display())])
            .env_clear()
            .stdin(Stdio::from(socket))
            .process_group(0)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = end(TcpListener::bind("0.0.0.0:0").unwrap().into());
    assert!(said.contains("can be reached from other machines"), "{said}");
    assert_eq!(code, Some(2), "{said}");
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = std::net::TcpStream::connect(there.local_addr().unwrap()).unwrap();
    let (code, said) = end(connected.into());
    assert!(said.contains("does not listen"), "{said}");
    assert_eq!(code, Some(2), "{said}");
}

#[test]
fn nobody_is_told_to_listen_where_systemd_does_not() {
    use std::os::unix::process::CommandExt as _;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let fleet = Fleet::new("[gateway]\nlisten = \"0.0.0.0:9090\"\nplain_http = true\n");
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\""])
        .args([support::BINARY, "serve", "--config", fleet.config().to_str().unwrap()])
        .args(["--endpoint", &format!("sqlite:{}", fleet.store().display())])
        .env_clear()
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(socket)))
        .process_group(0)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("nobody could reach 0.0.0.0:9090 of [gateway] listen"), "{said}");
}

struct Pki {
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().unwrap();
        Self { authority: CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    fn leaf(&self, common: &str, names: &[&str]) -> (String, String) {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.authority).unwrap();
        (leaf.pem(), key.serialize_pem())
    }

    fn client(&self, shown: Option<&(String, String)>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match shown {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain.as_bytes());
                let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        })
    }
}

/// One request over TLS: the answer, and the server's certificate. `None` if there is no conversation.
fn over_tls(gw: &Gateway, client: &Arc<ClientConfig>, text: &str) -> Option<(Answer, Vec<u8>)> {
    let name = ServerName::try_from("gw.example").unwrap();
    let connection = ClientConnection::new(client.clone(), name).unwrap();
    let mut stream = StreamOwned::new(connection, gw.connect());
    stream.write_all(text.as_bytes()).ok()?;
    let answer = Answer::read(&mut stream, false)?;
    let certificate = stream.conn.peer_certificates()?.first()?.to_vec();
    Some((answer, certificate))
}

fn with_tls(fleet: &Fleet, pki: &Pki) -> Gateway {
    let (chain, key) = pki.leaf("gw", &["gw.example"]);
    let (cert_file, key_file) = (file(fleet, "gw.pem", &chain), file(fleet, "gw.key", &key));
    fleet.configure(&format!(
        "[gateway]\ntls_cert_file = {cert_file:?}\ntls_key_file = {key_file:?}\n"
    ));
    fleet.start()
}

#[test]
fn what_is_no_http_is_told_over_tls_too_in_however_many_pieces() {
    let pki = Pki::new();
    let fleet = Fleet::new("");
    let gw = with_tls(&fleet, &pki);
    let client = pki.client(None);
    // Each piece is a record of its own.
    let say = |pieces: &[&str]| {
        let name = ServerName::try_from("gw.example").unwrap();
        let connection = ClientConnection::new(client.clone(), name).unwrap();
        let mut stream = StreamOwned::new(connection, gw.connect());
        for piece in pieces {
            stream.write_all(piece.as_bytes()).unwrap();
            stream.flush().unwrap();
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    };
    for pieces in
        [&["CONNECT /_goSRPC_/ HTTP/1.0\n\n"][..], &["CON", "NECT /", "_SRPC_/ HTTP/1.0\n\n"]]
    {
        let answer = say(pieces);
        assert!(answer.starts_with("HTTP/1.0 404 Not Found\r\n"), "{pieces:?}: {answer}");
    }
    let answer = say(&["G", "ET /healthz HTTP/1.1\r\nhost: gw\r\n", "connection: close\r\n\r\n"]);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let answer = say(&["CONNECT ", "gw:443 HTTP/1.1\r\nhost: gw:443\r\nconnection: close\r\n\r\n"]);
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[test]
fn who_speaks_without_tls_is_told() {
    let pki = Pki::new();
    let fleet = Fleet::new("");
    let gw = with_tls(&fleet, &pki);
    for asked in [request("POST", PRE, PROTOCOL, &params("a", "default")), "G".to_owned()] {
        let mut plain = gw.connect();
        plain.write_all(asked.as_bytes()).unwrap();
        let mut answer = String::new();
        plain.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.0 400 Bad Request\r\n"), "{answer}");
        assert!(answer.ends_with("Client sent an HTTP request to an HTTPS server.\n"), "{answer}");
    }
    assert!(fleet.document("holders/a").is_none());
    let (granted, _) =
        over_tls(&gw, &pki.client(None), &request("GET", "/healthz", "", "")).unwrap();
    granted.is_granted();
}

#[test]
fn certificates_are_read_again_and_speak_for_their_names() {
    let pki = Pki::new();
    let fleet = Fleet::new("");
    let (chain, key) = pki.leaf("gw", &["gw.example"]);
    let cert_file = file(&fleet, "gw.pem", &chain);
    let key_file = file(&fleet, "gw.key", &key);
    let ca_file = file(&fleet, "ca.pem", &pki.authority.pem());
    let config = |certificates: &str| {
        fleet.configure(&format!(
            "[gateway]\ntls_cert_file = {cert_file:?}\ntls_key_file = {key_file:?}\n\
             client_ca_file = {ca_file:?}\nclient_certificates = {certificates:?}\n\
             client_name_is_id = true\n[[group]]\nname = \"default\"\nslots = 9\n"
        ));
    };
    config("required");
    let gw = fleet.start();
    let ask = |id: &str| request("POST", PRE, PROTOCOL, &params(id, "default"));
    let machine = pki.client(Some(&pki.leaf("a", &["b.example"])));
    let stranger = pki.client(Some(&Pki::new().leaf("a", &[])));
    let nobody = pki.client(None);
    let (granted, before) = over_tls(&gw, &machine, &ask("a")).unwrap();
    granted.is_granted();
    over_tls(&gw, &machine, &ask("b.example")).unwrap().0.is_granted();
    over_tls(&gw, &machine, &ask("c")).unwrap().0.is(403, "forbidden");
    assert!(over_tls(&gw, &nobody, &ask("a")).is_none());
    assert!(over_tls(&gw, &stranger, &ask("a")).is_none());

    config("optional");
    let (chain, key) = pki.leaf("gw", &["gw.example"]);
    file(&fleet, "gw.pem", &chain);
    file(&fleet, "gw.key", &key);
    gw.signal(Signal::HUP);
    gw.logged("configuration read again");
    let (refused, after) = over_tls(&gw, &nobody, &ask("a")).unwrap();
    refused.is(401, "unauthorized");
    assert_ne!(before, after, "the new certificate");
    // Without a signal too, and half a renewal changes nothing.
    let (chain, key) = pki.leaf("gw", &["gw.example"]);
    file(&fleet, "gw.pem", &chain);
    gw.logged("cannot be used; the old one stays in force");
    assert_eq!(over_tls(&gw, &machine, &ask("a")).unwrap().1, after);
    file(&fleet, "gw.key", &key);
    gw.logged("was read again");
    assert_ne!(over_tls(&gw, &machine, &ask("a")).unwrap().1, after);
}

/// A connection that stays.
struct Kept(StreamOwned<ClientConnection, std::net::TcpStream>);

impl Kept {
    fn new(gw: &Gateway, client: &Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from("gw.example").unwrap();
        Self(StreamOwned::new(ClientConnection::new(client.clone(), name).unwrap(), gw.connect()))
    }

    fn ask(&mut self, text: &str) -> Option<Answer> {
        self.0.write_all(text.as_bytes()).ok()?;
        Answer::read(&mut self.0, false)
    }
}

#[test]
fn a_connection_ends_with_the_authority_that_vouched_for_it() {
    let (pki, other) = (Pki::new(), Pki::new());
    let fleet = Fleet::new("");
    let (chain, key) = pki.leaf("gw", &["gw.example"]);
    let cert_file = file(&fleet, "gw.pem", &chain);
    let key_file = file(&fleet, "gw.key", &key);
    let ca_file = file(&fleet, "ca.pem", &pki.authority.pem());
    fleet.configure(&format!(
        "[gateway]\ntls_cert_file = {cert_file:?}\ntls_key_file = {key_file:?}\n\
         client_ca_file = {ca_file:?}\n"
    ));
    let gw = fleet.start();
    let machine = pki.client(Some(&pki.leaf("a", &[])));
    let ask = |path: &str, id: &str| request("POST", path, PROTOCOL, &params(id, "default"));
    let mut kept = Kept::new(&gw, &machine);
    kept.ask(&ask(PRE, "a")).unwrap().is_granted();
    // Read again, and all as before: it goes on.
    gw.signal(Signal::HUP);
    gw.logged("configuration read again");
    kept.ask(&ask(PRE, "a")).unwrap().is_granted();
    let mut quiet = Kept::new(&gw, &machine);
    quiet.ask(&request("GET", "/healthz", "", "")).unwrap().is_granted();

    file(&fleet, "ca.pem", &other.authority.pem());
    gw.logged("the certificate has changed and was read again");
    for mut old in [kept, quiet] {
        let answer = old.ask(&ask("/v1/steady-state", "a"));
        assert!(answer.as_ref().is_none_or(|answer| answer.status == 503), "{answer:?}");
    }
    assert!(fleet.document("holders/a").is_some(), "its slot is as it was");
    assert!(over_tls(&gw, &machine, &ask(PRE, "a")).is_none());
}

#[test]
fn a_certificate_that_nobody_listed_frees_nobodys_slot() {
    let pki = Pki::new();
    let fleet = Fleet::new("");
    let (chain, key) = pki.leaf("gw", &["gw.example"]);
    let cert_file = file(&fleet, "gw.pem", &chain);
    let key_file = file(&fleet, "gw.key", &key);
    let ca_file = file(&fleet, "ca.pem", &pki.authority.pem());
    let (token, line) = rebootlock_gateway::auth::new_token();
    let client = format!("[[client]]\nname = \"db-1\"\nids = [\"db-1\"]\n{line}\n");
    let credentials = file(&fleet, "credentials.toml", &client);
    fleet.configure(&format!(
        "[gateway]\ntls_cert_file = {cert_file:?}\ntls_key_file = {key_file:?}\n\
         client_ca_file = {ca_file:?}\nclient_certificates = \"optional\"\n\
         anonymous_machines = true\ncredentials_file = {credentials:?}\n"
    ));
    let gw = fleet.start();
    let ask = |path: &str, headers: &str| {
        request("POST", path, &format!("{PROTOCOL}{headers}"), &params("db-1", "default"))
    };
    let own = format!("authorization: Bearer {token}\r\n");
    let (nobody, m2) = (pki.client(None), pki.client(Some(&pki.leaf("m2", &[]))));
    over_tls(&gw, &nobody, &ask(PRE, &own)).unwrap().0.is_granted();
    for client in [&nobody, &m2] {
        for path in [PRE, "/v1/steady-state"] {
            over_tls(&gw, client, &ask(path, "")).unwrap().0.is(403, "forbidden");
        }
    }
    over_tls(&gw, &m2, &ask("/v1/steady-state", &own)).unwrap().0.is_granted();
}
