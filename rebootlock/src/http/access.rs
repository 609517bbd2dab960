//! Whom to trust, and who we say we are.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::header::HeaderValue;
use tokio_rustls::rustls::ClientConfig;

use super::{HttpError, tls};

/// How a server is talked to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// PEM file with the authorities to trust instead of the machine's.
    pub ca_file: Option<PathBuf>,
    /// What shows the server who we are while TLS is set up.
    pub certificate: Option<ClientCertificate>,
    /// What shows it with each request.
    pub credentials: Credentials,
}

/// Our certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// PEM file with it.
    pub cert_file: PathBuf,
    /// PEM file with its key.
    pub key_file: PathBuf,
}

/// What goes into the header `Authorization`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing.
    #[default]
    None,
    /// A name and a password (RFC 7617).
    Basic {
        /// The name, without a colon.
        username: String,
        /// The password.
        password: SecretFile,
    },
    /// A token (RFC 6750).
    Bearer(SecretFile),
}

/// A file whose first line is a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    /// The setting that names it, for messages.
    pub setting: &'static str,
    /// Where it is.
    pub path: PathBuf,
}

impl Access {
    /// The header's value, read from its file now.
    ///
    /// # Errors
    /// [`HttpError::Setup`] names the file.
    pub async fn authorization(&self) -> Result<Option<HeaderValue>, HttpError> {
        if self.credentials == Credentials::None {
            return Ok(None);
        }
        let credentials = self.credentials.clone();
        elsewhere(move || credentials.header()).await
    }

    /// How TLS is set up, with its files read now.
    ///
    /// # Errors
    /// [`HttpError::Setup`] names the file.
    pub async fn tls(&self) -> Result<Arc<ClientConfig>, HttpError> {
        let (ca_file, certificate) = (self.ca_file.clone(), self.certificate.clone());
        elsewhere(move || tls::config(ca_file.as_deref(), certificate.as_ref())).await.map(Arc::new)
    }
}

async fn elsewhere<T: Send + 'static>(
    reading: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, HttpError> {
    let read = tokio::task::spawn_blocking(reading).await;
    read.unwrap_or_else(|error| Err(error.to_string())).map_err(HttpError::Setup)
}

impl Credentials {
    fn header(&self) -> Result<Option<HeaderValue>, String> {
        let (text, file) = match self {
            Self::None => return Ok(None),
            Self::Basic { username, password } => {
                let pair = format!("{username}:{}", password.read()?);
                (format!("Basic {}", BASE64_STANDARD.encode(pair)), password)
            }
            Self::Bearer(token) => (format!("Bearer {}", token.read()?.trim()), token),
        };
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| file.fault("its first line has characters that no token has"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl SecretFile {
    /// Editors end a line with what is not part of the secret.
    fn read(&self) -> Result<String, String> {
        let text =
            std::fs::read_to_string(&self.path).map_err(|error| self.fault(&error.to_string()))?;
        let secret = text.lines().next().unwrap_or_default();
        if secret.trim().is_empty() {
            return Err(self.fault("its first line is empty"));
        }
        Ok(secret.to_owned())
    }

    fn fault(&self, problem: &str) -> String {
        format!("{} {}: {problem}", self.setting, self.path.display())
    }
}
