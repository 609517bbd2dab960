//! TLS of the listeners: certificates out of files that are read again when they change.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rebootlock::config::{ClientCertificates, TlsSettings};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;
use x509_parser::extensions::GeneralName;

use crate::auth::CertificateNames;

/// How often the files are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read, or holds something else.
    #[error("{setting} {path}: {problem}")]
    File {
        /// Which setting names it.
        setting: &'static str,
        /// Where it is.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Certificate and key that do not go together.
    #[error("tls_cert_file {path} and its key: {problem}")]
    Pair {
        /// Where the certificate is.
        path: String,
        /// What is wrong.
        problem: String,
    },
}

/// What new connections are secured with.
#[derive(Debug)]
pub struct Tls {
    now: RwLock<Now>,
}

#[derive(Debug)]
struct Now {
    settings: TlsSettings,
    config: Arc<ServerConfig>,
    stamp: Stamp,
    replaced: CancellationToken,
}

/// Which state of the files was read.
type Stamp = Vec<Option<(u64, i64, i64, u64)>>;

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn load(settings: TlsSettings) -> Result<Self, TlsError> {
        Ok(Self { now: RwLock::new(Now::load(settings)?) })
    }

    /// For the next connection, and what ends it: others may be vouched for from then on.
    pub fn acceptor(&self) -> (TlsAcceptor, CancellationToken) {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        (TlsAcceptor::from(now.config.clone()), now.replaced.clone())
    }

    /// Reads the files again, and other ones if the settings name others. Where anything is another than
    /// it was, connections from before end.
    ///
    /// # Errors
    /// [`TlsError`] names the file. What was read before stays in force.
    pub fn reload(&self, settings: TlsSettings) -> Result<(), TlsError> {
        let new = Now::load(settings)?;
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        if (&new.settings, &new.stamp) != (&now.settings, &now.stamp) {
            let before = std::mem::replace(&mut *now, new);
            drop(now);
            before.replaced.cancel();
        }
        Ok(())
    }

    /// Reads the files again whenever they change; for ever.
    pub async fn follow(&self) {
        let mut refused = None;
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            let (settings, read) = {
                let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
                (now.settings.clone(), now.stamp.clone())
            };
            let found = stamp(&settings);
            if found == read || refused.as_ref() == Some(&found) {
                continue;
            }
            match self.reload(settings) {
                Ok(()) => {
                    refused = None;
                    tracing::info!("the certificate has changed and was read again");
                }
                Err(error) => {
                    // A renewal may write one file after the other: once both are there it is fine.
                    refused = Some(found);
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the certificate has changed and cannot be used; the old one stays in force"
                    );
                }
            }
        }
    }
}

impl Now {
    fn load(settings: TlsSettings) -> Result<Self, TlsError> {
        let stamp = stamp(&settings);
        let config = Arc::new(config(&settings)?);
        Ok(Self { settings, config, stamp, replaced: CancellationToken::new() })
    }
}

fn stamp(settings: &TlsSettings) -> Stamp {
    let files =
        [Some(&settings.cert_file), Some(&settings.key_file), settings.client_ca_file.as_ref()];
    let stamp = |path: &std::path::PathBuf| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.ino(), found.mtime(), found.mtime_nsec(), found.size()))
    };
    files.into_iter().flatten().map(stamp).collect()
}

fn config(settings: &TlsSettings) -> Result<ServerConfig, TlsError> {
    let chain = certificates("tls_cert_file", &settings.cert_file)?;
    let key = PrivateKeyDer::from_pem_file(&settings.key_file).map_err(|error| TlsError::File {
        setting: "tls_key_file",
        path: settings.key_file.display().to_string(),
        problem: error.to_string(),
    })?;
    let pair = |error: tokio_rustls::rustls::Error| TlsError::Pair {
        path: settings.cert_file.display().to_string(),
        problem: error.to_string(),
    };
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(pair)?;
    let builder = match &settings.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let fault = |problem: String| TlsError::File {
                setting: "client_ca_file",
                path: path.display().to_string(),
                problem,
            };
            let mut roots = RootCertStore::empty();
            for certificate in certificates("client_ca_file", path)? {
                roots.add(certificate).map_err(|error| fault(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = match settings.client_certificates {
                ClientCertificates::Required => verifier,
                ClientCertificates::Optional => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(
                verifier.build().map_err(|error| fault(error.to_string()))?,
            )
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(
    setting: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault =
        |problem: String| TlsError::File { setting, path: path.display().to_string(), problem };
    let read = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>());
    let certificates = read.map_err(|error| fault(error.to_string()))?;
    if certificates.is_empty() {
        return Err(fault("no certificate is in it".to_owned()));
    }
    Ok(certificates)
}

/// The names in a certificate: its common names and the DNS names among the alternative ones.
pub fn names(certificate: &CertificateDer<'_>) -> CertificateNames {
    let mut names = BTreeSet::new();
    // The handshake has read it; what this parser does not understand names nobody.
    if let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) {
        let common = parsed.subject().iter_common_name();
        names.extend(common.filter_map(|name| name.as_str().ok().map(ToOwned::to_owned)));
        if let Ok(Some(others)) = parsed.subject_alternative_name() {
            names.extend(others.value.general_names.iter().filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            }));
        }
    }
    Arc::new(names)
}
