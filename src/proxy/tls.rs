//! TLS towards upstreams.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use super::SetupError;
use super::connect::Purpose;
use crate::config::{CertificateFiles, UpstreamTls};

/// HTTP/2's name in ALPN (RFC 9113, section 3.2).
pub(super) const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// TLS towards one upstream: how to verify it, who we are, and the name it must have.
#[derive(Clone)]
pub(super) struct Tls {
    requests: TlsConnector,
    upgrades: TlsConnector,
    pub(super) name: ServerName<'static>,
}

impl Tls {
    /// For the upstream called `upstream` at `host`. All files are read now: a file that can't be read must stop the
    /// start, never weaken the verification (requirement CFG-3).
    pub(super) fn new(upstream: &str, host: &str, settings: &UpstreamTls) -> Result<Self, SetupError> {
        let wrong = |cause: String| SetupError::Tls { upstream: upstream.to_owned(), cause };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(error.to_string()))?;
        let builder = if settings.insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        } else {
            builder.with_root_certificates(roots(upstream, settings.ca.as_deref())?)
        };
        let mut config = match &settings.client {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let (chain, key) = client_certificate(upstream, files)?;
                builder.with_client_auth_cert(chain, key).map_err(|error| wrong(error.to_string()))?
            }
        };
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        let requests = TlsConnector::from(Arc::new(config.clone()));
        config.alpn_protocols = vec![HTTP1.to_vec()];
        let upgrades = TlsConnector::from(Arc::new(config));
        let name = settings.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned()).map_err(|error| wrong(error.to_string()))?;
        Ok(Self { requests, upgrades, name })
    }

    /// What to connect with: it decides which protocols are offered.
    pub(super) const fn connector(&self, purpose: Purpose) -> &TlsConnector {
        match purpose {
            Purpose::Requests => &self.requests,
            Purpose::Upgrade => &self.upgrades,
        }
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({:?})", self.name)
    }
}

fn roots(upstream: &str, ca: Option<&Path>) -> Result<RootCertStore, SetupError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        for certificate in certificates(upstream, path)? {
            roots.add(certificate).map_err(|error| unusable(upstream, path, &error))?;
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let cause = "the system has no certificate authorities; name some with tls.ca".to_owned();
            return Err(SetupError::Tls { upstream: upstream.to_owned(), cause });
        }
    }
    Ok(roots)
}

fn certificates(upstream: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let certificates = read().map_err(|error| unusable(upstream, path, &error))?;
    if certificates.is_empty() {
        return Err(unusable(upstream, path, &"there is no certificate in it"));
    }
    Ok(certificates)
}

fn client_certificate(
    upstream: &str,
    files: &CertificateFiles,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), SetupError> {
    let chain = certificates(upstream, &files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unusable(upstream, &files.key, &error))?;
    Ok((chain, key))
}

fn unusable(upstream: &str, path: &Path, cause: &dyn std::fmt::Display) -> SetupError {
    SetupError::File { upstream: upstream.to_owned(), path: path.to_owned(), cause: cause.to_string() }
}

/// `tls.insecure`: any certificate will do, but whoever shows it must have its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
