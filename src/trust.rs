//! Whom we trust when we connect by TLS, and who we are then: what upstreams and the database have in common.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config::CertificateFiles;

/// Why nothing can be verified, or nothing shown. Whoever gets it stops the start and never verifies less (requirement
/// CFG-3).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read, or does not hold what it should.
    #[error("{} can't be used: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// No file was named, and the system has none either.
    #[error("the system has no certificate authorities")]
    NoAuthorities,
}

/// The authorities in a PEM file, or those of the system when none is named; at least one.
pub fn authorities(file: Option<&Path>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| unusable(path, &error))?;
            }
        }
        None => {
            // The system's may hold some that rustls does not know what to do with.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(Error::NoAuthorities);
            }
        }
    }
    Ok(roots)
}

/// The chain and the key to show when the other side asks for a certificate.
pub fn own_certificate(files: &CertificateFiles) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unusable(&files.key, &error))?;
    Ok((chain, key))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let certificates = read().map_err(|error| unusable(path, &error))?;
    if certificates.is_empty() { Err(unusable(path, &"there is no certificate in it")) } else { Ok(certificates) }
}

fn unusable(path: &Path, cause: &dyn std::fmt::Display) -> Error {
    Error::File { path: path.to_owned(), cause: cause.to_string() }
}

/// Takes any host's certificate of these authorities; without authorities, any certificate. Whoever shows it must have
/// its key in either case. Only for settings that ask for it by name.
#[derive(Debug)]
pub struct AnyHost {
    authorities: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl AnyHost {
    /// Any host of `authorities`.
    pub const fn of(authorities: RootCertStore, provider: Arc<CryptoProvider>) -> Self {
        Self { authorities: Some(authorities), provider }
    }

    /// Any host at all: what passes is encrypted, but nobody knows for whom.
    pub const fn unverified(provider: Arc<CryptoProvider>) -> Self {
        Self { authorities: None, provider }
    }
}

impl ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(authorities) = &self.authorities {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, authorities, intermediates, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
