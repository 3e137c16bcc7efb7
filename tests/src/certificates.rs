//! New certificates for each test: of an authority, a server and a client, and some that must be
//! refused.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use wharf::net::{ClientCertificate, Credentials, ProtocolMin};

/// A folder of certificates. Dropping it removes the folder.
pub struct Certificates {
    folder: TempDir,
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

impl Certificates {
    /// Makes the certificates:
    ///
    /// - `ca.pem` of the authority;
    /// - `server.pem`, `server.key` for localhost;
    /// - `client.pem`, `client.key`;
    /// - `expired.pem`, `expired.key`;
    /// - `stranger.pem`, `stranger.key` of a client of another authority.
    #[must_use]
    pub fn new() -> Self {
        let certificates = Self { folder: tempfile::tempdir().expect("a folder") };
        let ours = certificates.authority("ca.pem");
        let theirs = certificates.authority("other-ca.pem");
        let server = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        certificates.issue("server", &server, ExtendedKeyUsagePurpose::ServerAuth, &ours, false);
        certificates.issue("expired", &server, ExtendedKeyUsagePurpose::ServerAuth, &ours, true);
        certificates.issue(
            "client",
            &["a client".to_owned()],
            ExtendedKeyUsagePurpose::ClientAuth,
            &ours,
            false,
        );
        certificates.issue(
            "stranger",
            &["a stranger".to_owned()],
            ExtendedKeyUsagePurpose::ClientAuth,
            &theirs,
            false,
        );
        certificates
    }

    /// The path of a file in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The server's credentials.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        Credentials {
            certificate_chain: self.path("server.pem"),
            private_key: self.path("server.key"),
            protocol_min: ProtocolMin::Tls12,
            alpn: Vec::new(),
            client_authority: None,
            client_certificate: ClientCertificate::Required,
        }
    }

    fn authority(&self, file: &str) -> Issuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, file);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(self.path(file), certificate.pem()).expect("it is kept");
        Issuer::new(params, key)
    }

    fn issue(
        &self,
        name: &str,
        names: &[String],
        usage: ExtendedKeyUsagePurpose,
        issuer: &Issuer<'_, KeyPair>,
        expired: bool,
    ) {
        let subject_names = if names[0].contains(' ') { Vec::new() } else { names.to_vec() };
        let mut params = CertificateParams::new(subject_names).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, names[0].clone());
        params.extended_key_usages.push(usage);
        if expired {
            params.not_before = OffsetDateTime::now_utc() - Duration::days(20);
            params.not_after = OffsetDateTime::now_utc() - Duration::days(10);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, issuer).expect("a certificate");
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).expect("it is kept");
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).expect("it is kept");
    }
}
