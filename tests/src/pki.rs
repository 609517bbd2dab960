//! Certificates for TLS tests, as PEM files in a directory of their own.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;

/// An authority, what it has signed, and another authority that has signed none of it.
#[derive(Debug)]
pub struct Pki {
    dir: TempDir,
}

impl Pki {
    /// Makes keys and certificates for servers on this machine and their clients.
    pub fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let ca = authority(dir.path(), "ca")?;
        authority(dir.path(), "other-ca")?;
        for (name, usage) in [
            ("server", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let names = ["127.0.0.1", "::1", "localhost"].map(str::to_owned);
            let mut params = CertificateParams::new(names)?;
            params.distinguished_name.push(DnType::CommonName, name);
            params.use_authority_key_identifier_extension = true;
            params.key_usages.push(KeyUsagePurpose::DigitalSignature);
            // etcd's JSON gateway is a client of its own server, with the server's certificate.
            params.extended_key_usages.push(usage);
            if name == "server" {
                params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
            }
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &ca)?;
            write(dir.path(), name, &certificate.pem(), &key)?;
        }
        Ok(Self { dir })
    }

    /// The authority that signed the certificates.
    pub fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// An authority that signed none of them.
    pub fn other_ca(&self) -> PathBuf {
        self.file("other-ca.pem")
    }

    /// For `127.0.0.1`, `::1` and `localhost`.
    pub fn server_cert(&self) -> PathBuf {
        self.file("server.pem")
    }

    /// Its key.
    pub fn server_key(&self) -> PathBuf {
        self.file("server.key")
    }

    /// For a client with the common name `client`.
    pub fn client_cert(&self) -> PathBuf {
        self.file("client.pem")
    }

    /// Its key.
    pub fn client_key(&self) -> PathBuf {
        self.file("client.key")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn authority(dir: &Path, name: &str) -> Result<Issuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    write(dir, name, &certificate.pem(), &key)?;
    Ok(Issuer::new(params, key))
}

fn write(dir: &Path, name: &str, certificate: &str, key: &KeyPair) -> Result<()> {
    std::fs::write(dir.join(format!("{name}.pem")), certificate)?;
    Ok(std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem())?)
}
