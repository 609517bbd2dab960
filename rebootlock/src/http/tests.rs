//! Real sockets on both sides.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use hyper::Method;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::*;

/// A web server that says the same to everybody, and remembers what it was asked.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    async fn says(answer: &'static str) -> Self {
        Self::start(answer, None).await
    }

    async fn start(answer: &'static str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream: Connection = match &tls {
                    None => Box::new(stream),
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => Box::new(stream),
                        Err(_) => continue,
                    },
                };
                if let Some(request) = read(&mut stream).await {
                    seen.lock().unwrap().push(request);
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                }
            }
        });
        Self { port, asked, _task: AbortOnDropHandle::new(task) }
    }

    fn url(&self, scheme: &str, path: &str) -> Uri {
        format!("{scheme}://127.0.0.1:{}{path}", self.port).parse().unwrap()
    }

    fn asked(&self) -> String {
        self.asked.lock().unwrap().concat()
    }
}

/// One request, head in lower case and body as it is.
async fn read(stream: &mut Connection) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .to_lowercase()
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(head + &String::from_utf8(body).unwrap())
}

fn file(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

const FINE: &str = "HTTP/1.1 200 OK\r\nX-Who: me\r\nContent-Length: 4\r\n\r\nfine";

#[tokio::test]
async fn a_request_arrives_as_it_was_made() {
    let server = Server::says(FINE).await;
    let request = Request::builder()
        .method(Method::PUT)
        .uri(server.url("http", "/a/b?c=d"))
        .header("x-thing", "1")
        .body(Bytes::from_static(b"the body"))
        .unwrap();
    let answer = send(request, &Access::default(), Some(10)).await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    assert_eq!(answer.headers()["x-who"], "me");
    assert_eq!(answer.body().as_ref(), b"fine");
    let asked = server.asked();
    assert!(asked.starts_with("PUT /a/b?c=d HTTP/1.1\r\n"), "{asked}");
    assert!(asked.ends_with("\r\n\r\nthe body"), "{asked}");
    let version = env!("CARGO_PKG_VERSION");
    for line in [
        "x-thing: 1".to_owned(),
        format!("host: 127.0.0.1:{}", server.port),
        format!("user-agent: rebootlock/{version}"),
        "accept: */*".to_owned(),
        "connection: close".to_owned(),
        "content-length: 8".to_owned(),
    ] {
        assert!(asked.contains(&format!("\r\n{line}\r\n")), "{line}: {asked}");
    }
    assert!(!asked.contains("authorization"), "{asked}");
    let answer = get(&server.url("http", ""), &Access::default(), None).await.unwrap();
    assert!(answer.body().is_empty());
    assert!(server.asked().contains("GET / HTTP/1.1\r\n"), "{}", server.asked());
}

#[tokio::test]
async fn credentials_are_read_anew_and_never_left_out() {
    let server = Server::says(FINE).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    let secret = |setting| SecretFile { setting, path: path.clone() };
    let basic =
        Credentials::Basic { username: "web".to_owned(), password: secret("password_file") };
    let ask = async |credentials: &Credentials| {
        let access = Access { credentials: credentials.clone(), ..Access::default() };
        get(&server.url("http", "/"), &access, None).await
    };
    let refused = |said: &str| {
        let said = said.replace("PATH", &path.display().to_string());
        Err::<(), _>(HttpError::Setup(said))
    };
    let missing = ask(&basic).await.unwrap_err();
    assert!(!missing.is_sent() && missing.to_string().starts_with("password_file "), "{missing}");
    for (text, credentials, said) in [
        ("a b\n", &basic, Ok("Basic d2ViOmEgYg==")),
        ("other\nline", &basic, Ok("Basic d2ViOm90aGVy")),
        ("\u{e9}", &basic, Ok("Basic d2ViOsOp")),
        (" t0ken \r\n", &Credentials::Bearer(secret("token_file")), Ok("Bearer t0ken")),
        ("\nx", &basic, Err("password_file PATH: its first line is empty")),
        (
            "t\u{7}",
            &Credentials::Bearer(secret("token_file")),
            Err("token_file PATH: its first line has characters that no token has"),
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let answered = ask(credentials).await.map(drop);
        match said {
            Ok(said) => {
                assert_eq!(answered, Ok(()));
                let asked = server.asked();
                assert!(asked.contains(&format!("\r\nauthorization: {said}\r\n")), "{asked}");
            }
            Err(said) => assert_eq!(answered, refused(said)),
        }
    }
}

#[tokio::test]
async fn answers_are_taken_as_they_are() {
    let moved = "HTTP/1.1 302 Found\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n";
    let server = Server::says(moved).await;
    let answer = get(&server.url("http", "/x"), &Access::default(), Some(10)).await.unwrap();
    assert_eq!(answer.status().as_u16(), 302);
    assert_eq!(server.asked().matches("GET").count(), 1);
    for (answer, sent, said) in [
        (FINE, true, "the answer is longer than 3 bytes"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", true, "the answer breaks off: "),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{", true, "the answer breaks"),
        ("HTTP/1.1 200", true, "no answer: connection closed before message completed"),
        ("", true, "no answer: connection closed before message completed"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", true, "no answer: invalid HTTP version parsed"),
    ] {
        let server = Server::says(answer).await;
        let error = get(&server.url("http", "/"), &Access::default(), Some(3)).await.unwrap_err();
        assert_eq!(error.is_sent(), sent, "{answer:?}: {error:?}");
        assert!(error.to_string().starts_with(said), "{answer:?}: {error}");
    }
}

#[tokio::test]
async fn what_cannot_be_reached_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (url, said) in [
        (format!("http://{free}/"), format!("cannot connect to {free}: ")),
        ("ftp://127.0.0.1/".to_owned(), "ftp://127.0.0.1/ is no address of a web".to_owned()),
        ("/path".to_owned(), "/path is no address of a web server".to_owned()),
    ] {
        let error = get(&url.parse().unwrap(), &Access::default(), None).await.unwrap_err();
        assert!(!error.is_sent() && error.to_string().starts_with(&said), "{url}: {error}");
    }
}

/// A server's certificate for 127.0.0.1, a client's, the authority of both, and another one.
struct Pki {
    dir: TempDir,
}

impl Pki {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            file(&dir, name, &ca.pem());
            ca
        };
        authority("other-ca.pem");
        let ca = authority("ca.pem");
        for (name, host) in [("server", "127.0.0.1"), ("client", "client")] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new([host.to_owned()]).unwrap();
            file(&dir, &format!("{name}.pem"), &params.signed_by(&key, &ca).unwrap().pem());
            file(&dir, &format!("{name}.key"), &key.serialize_pem());
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn acceptor(&self, wants_certificate: bool) -> TlsAcceptor {
        let certificate = |name| CertificateDer::from_pem_file(self.path(name)).unwrap();
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if wants_certificate {
            let mut roots = RootCertStore::empty();
            roots.add(certificate("ca.pem")).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::from_pem_file(self.path("server.key")).unwrap();
        let config = builder.with_single_cert(vec![certificate("server.pem")], key).unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    fn access(&self, ca: &str) -> Access {
        Access { ca_file: Some(self.path(ca)), ..Access::default() }
    }

    fn with_certificate(&self, cert: &str, key: &str) -> Access {
        let (cert_file, key_file) = (self.path(cert), self.path(key));
        let certificate = Some(ClientCertificate { cert_file, key_file });
        Access { certificate, ..self.access("ca.pem") }
    }
}

#[tokio::test]
async fn a_server_is_believed_only_with_a_certificate_of_the_authority_that_is_named() {
    let pki = Pki::new();
    let server = Server::start(FINE, Some(pki.acceptor(false))).await;
    let url = server.url("https", "/");
    let answer = get(&url, &pki.access("ca.pem"), Some(10)).await.unwrap();
    assert_eq!(answer.body().as_ref(), b"fine");
    let asked = server.asked();
    let name: Uri = format!("https://localhost:{}/", server.port).parse().unwrap();
    let missing = format!("ca_file {}: ", pki.path("missing.pem").display());
    let empty = format!("ca_file {}: no certificate is in it", pki.path("client.key").display());
    let port = server.port;
    for (url, ca, said) in [
        (&url, "other-ca.pem", format!("no TLS with 127.0.0.1:{port}: ")),
        (&name, "ca.pem", format!("no TLS with localhost:{port}: ")),
        (&url, "missing.pem", missing),
        (&url, "client.key", empty),
    ] {
        let error = get(url, &pki.access(ca), None).await.unwrap_err();
        assert!(!error.is_sent() && error.to_string().starts_with(&said), "{ca}: {error}");
    }
    assert_eq!(server.asked(), asked, "nothing is said to strangers");
}

#[tokio::test]
async fn our_certificate_is_shown_to_a_server_that_wants_it() {
    let pki = Pki::new();
    let server = Server::start(FINE, Some(pki.acceptor(true))).await;
    let url = server.url("https", "/");
    let ours = pki.with_certificate("client.pem", "client.key");
    assert_eq!(get(&url, &ours, Some(10)).await.unwrap().status().as_u16(), 200);
    // By TLS 1.3 a client knows only from the answer that it was turned away.
    assert!(get(&url, &pki.access("ca.pem"), Some(10)).await.unwrap_err().is_sent());
    let shown = |name: &str| pki.path(name).display().to_string();
    for (cert, key, said) in [
        ("client.key", "client.key", format!("cert_file {}: no cert", shown("client.key"))),
        ("client.pem", "client.pem", format!("key_file {}: ", shown("client.pem"))),
        ("client.pem", "server.key", format!("cert_file {} and its key: ", shown("client.pem"))),
    ] {
        let error = get(&url, &pki.with_certificate(cert, key), None).await.unwrap_err();
        assert!(error.to_string().starts_with(&said), "{error}");
    }
}

#[tokio::test]
async fn what_is_no_port_is_not_taken_for_the_usual_one() {
    for (url, is) in [
        ("http://h", Some(80)),
        ("https://h/x", Some(443)),
        ("http://h:/", Some(80)),
        ("http://h:65535/", Some(65535)),
        ("http://u:1@h:2/", Some(2)),
        ("https://u:1@[::1]/", Some(443)),
        ("http://[::1]:81/", Some(81)),
        ("http://h:65536/", None),
        ("http://[::1]:99999/", None),
        ("https://h:4294967739/", None),
    ] {
        let Ok(url) = url.parse::<Uri>() else { panic!("{url}") };
        assert_eq!(port(&url), is, "{url}");
        if is.is_none() {
            let error = get(&url, &Access::default(), None).await.unwrap_err();
            assert!(matches!(error, HttpError::Setup(_)), "{error:?}");
        }
    }
}
