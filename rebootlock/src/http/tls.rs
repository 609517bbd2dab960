//! TLS for clients, out of files.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::ClientCertificate;

pub(super) fn config(
    ca_file: Option<&Path>,
    certificate: Option<&ClientCertificate>,
) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots(ca_file)?);
    let Some(ClientCertificate { cert_file, key_file }) = certificate else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates("cert_file", cert_file)?;
    let key = PrivateKeyDer::from_pem_file(key_file)
        .map_err(|error| format!("key_file {}: {error}", key_file.display()))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| format!("cert_file {} and its key: {error}", cert_file.display()))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            for certificate in certificates("ca_file", path)? {
                let added = roots.add(certificate);
                added.map_err(|error| format!("ca_file {}: {error}", path.display()))?;
            }
        }
        None => {
            // Some of a machine's authorities are often odd; what counts is whether ours is there.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("this machine trusts no certificate authority; name a ca_file".into());
            }
        }
    }
    Ok(roots)
}

fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let fault = |problem: String| format!("{setting} {}: {problem}", path.display());
    let read = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>());
    let certificates = read.map_err(|error| fault(error.to_string()))?;
    if certificates.is_empty() {
        return Err(fault("no certificate is in it".to_owned()));
    }
    Ok(certificates)
}
