//! From PEM files to a TLS configuration that is known to work, or an error that names the file.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{Error as TlsError, InconsistentKeys, RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::event::excerpt;
use crate::files;

/// Largest PEM file that is read, in bytes.
const PEM_MAX_BYTES: u64 = 4 << 20;

/// Bytes that are kept of what a library says of a file.
const CAUSE_MAX_BYTES: usize = 256;

/// The oldest protocol that a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProtocolMin {
    /// TLS 1.2 and 1.3.
    #[default]
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

/// Whether clients must show a certificate of the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCertificate {
    /// A client without a certificate gets no session.
    #[default]
    Required,
    /// A client without a certificate gets a session; a client with a bad one does not.
    Optional,
}

/// The certificate and key of a secure server, and what the server asks of its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// PEM file: the server's certificate first, then the certificates that lead to its root.
    pub certificate_chain: PathBuf,
    /// PEM file: the key of the first certificate.
    pub private_key: PathBuf,
    /// The oldest protocol that the server speaks.
    pub protocol_min: ProtocolMin,
    /// Application protocols, best first. Empty: none is negotiated.
    pub alpn: Vec<String>,
    /// PEM file of authorities whose clients are admitted. `None`: the server asks for no
    /// certificate.
    pub client_authority: Option<PathBuf>,
    /// What becomes of a client without a certificate, if there is an authority.
    pub client_certificate: ClientCertificate,
}

/// Why the credentials cannot be used. The operator has to mend all of these, and each names the
/// file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The file does not exist, may not be read, or has no PEM in it.
    #[error("{}: cannot read a PEM {what} from it: {cause}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The expected content.
        what: &'static str,
        /// The content or error found instead.
        cause: String,
    },
    /// The certificate cannot be used.
    #[error("{}: {cause}", .file.display())]
    BadCertificate {
        /// The file.
        file: PathBuf,
        /// The problem of the certificate.
        cause: String,
    },
    /// The certificate is not valid at this time.
    #[error("{}: the certificate is valid from {from} to {to}, and it is not that \
        time", .file.display())]
    OutOfTime {
        /// The file.
        file: PathBuf,
        /// First moment.
        from: String,
        /// Last moment.
        to: String,
    },
    /// The key and the certificate belong to different pairs.
    #[error("{}: the key does not belong to the first certificate in \
        {}", .key.display(), .chain.display())]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        chain: PathBuf,
    },
    /// The protocol name cannot be sent.
    #[error("ALPN protocol `{name}`: expected 1 to 255 bytes")]
    BadAlpn {
        /// The name.
        name: String,
    },
}

impl Credentials {
    /// Reads the files and checks that they work together and are valid now.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub(super) fn load(&self) -> Result<Arc<ServerConfig>, CredentialsError> {
        let chain = certificates(&self.certificate_chain)?;
        check_time(&self.certificate_chain, &chain[0])?;
        let key = private_key(&self.private_key)?;
        let provider = Arc::new(ring::default_provider());
        let certified =
            CertifiedKey::from_der(chain, key, &provider).map_err(|error| self.explain(&error))?;

        let versions: &[_] = match self.protocol_min {
            ProtocolMin::Tls12 => &[&TLS13, &TLS12],
            ProtocolMin::Tls13 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(|error| self.explain(&error))?;
        let builder = match &self.client_authority {
            None => builder.with_no_client_auth(),
            Some(file) => builder.with_client_cert_verifier(self.verifier(file, provider)?),
        };
        let resolver = tokio_rustls::rustls::sign::SingleCertAndKey::from(certified);
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = self.alpn()?;
        Ok(Arc::new(config))
    }

    fn alpn(&self) -> Result<Vec<Vec<u8>>, CredentialsError> {
        let check = |name: &String| match name.len() {
            1..=255 => Ok(name.as_bytes().to_vec()),
            _ => Err(CredentialsError::BadAlpn { name: name.clone() }),
        };
        self.alpn.iter().map(check).collect()
    }

    fn verifier(
        &self,
        file: &Path,
        provider: Arc<tokio_rustls::rustls::crypto::CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, CredentialsError> {
        let bad = |cause: String| CredentialsError::BadCertificate { file: file.into(), cause };
        let mut roots = RootCertStore::empty();
        for authority in certificates(file)? {
            check_time(file, &authority)?;
            roots.add(authority).map_err(|error| bad(error.to_string()))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = match self.client_certificate {
            ClientCertificate::Required => builder,
            ClientCertificate::Optional => builder.allow_unauthenticated(),
        };
        builder.build().map_err(|error| bad(error.to_string()))
    }

    fn explain(&self, error: &TlsError) -> CredentialsError {
        match error {
            TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                CredentialsError::Mismatch {
                    key: self.private_key.clone(),
                    chain: self.certificate_chain.clone(),
                }
            }
            TlsError::InvalidCertificate(_) => CredentialsError::BadCertificate {
                file: self.certificate_chain.clone(),
                cause: error.to_string(),
            },
            _ => CredentialsError::BadCertificate {
                file: self.private_key.clone(),
                cause: error.to_string(),
            },
        }
    }
}

/// Reads the certificates of a file, of which there must be at least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let pem =
        files::read(file, PEM_MAX_BYTES).map_err(|cause| unreadable(file, "certificate", cause))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| unreadable(file, "certificate", in_words(&error)))?;
    if found.is_empty() {
        return Err(unreadable(file, "certificate", "there is none in it"));
    }
    Ok(found)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, CredentialsError> {
    let pem =
        files::read(file, PEM_MAX_BYTES).map_err(|cause| unreadable(file, "private key", cause))?;
    if pem.windows(9).any(|window| window == b"ENCRYPTED") {
        let cause = "it is encrypted, which is not supported; decrypt it with `openssl pkey`";
        return Err(unreadable(file, "private key", cause));
    }
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|error| unreadable(file, "private key", in_words(&error)))
}

/// What is wrong with a PEM file, without the bytes of the file, which may be those of a key.
fn in_words(error: &PemError) -> String {
    match error {
        PemError::MissingSectionEnd { .. } => "a section does not end".to_owned(),
        PemError::IllegalSectionStart { .. } => "a section begins with a malformed line".to_owned(),
        error => excerpt(error, CAUSE_MAX_BYTES),
    }
}

fn check_time(file: &Path, certificate: &CertificateDer<'_>) -> Result<(), CredentialsError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| {
        CredentialsError::BadCertificate { file: file.into(), cause: error.to_string() }
    })?;
    let validity = parsed.validity();
    if validity.is_valid() {
        return Ok(());
    }
    let (from, to) = (validity.not_before.to_string(), validity.not_after.to_string());
    Err(CredentialsError::OutOfTime { file: file.into(), from, to })
}

fn unreadable(file: &Path, what: &'static str, cause: impl Display) -> CredentialsError {
    CredentialsError::Unreadable { file: file.into(), what, cause: cause.to_string() }
}
