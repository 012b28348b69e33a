//! TLS by rustls: certificates from PEM files, chosen by the name that the client asks for.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::Error;
use crate::config::{CertificateFiles, ServerTls};

/// A rustls configuration: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN, session tickets.
pub fn server_config(tls: &ServerTls) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certificates = Certificates::load(&tls.certificates, &provider)?;
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Certificate { path: "tls".into(), problem: error.to_string() })?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if let Ok(tickets) = aws_lc_rs::Ticketer::new() {
        config.ticketer = tickets;
    }
    Ok(Arc::new(config))
}

/// The certificates: the one that names the host, else the first.
#[derive(Debug)]
struct Certificates {
    all: Vec<Arc<CertifiedKey>>,
}

impl Certificates {
    fn load(files: &[CertificateFiles], provider: &rustls::crypto::CryptoProvider) -> Result<Self, Error> {
        let mut all = Vec::with_capacity(files.len());
        for file in files {
            all.push(Arc::new(read(file, provider)?));
        }
        Ok(Self { all })
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fits = |key: &&Arc<CertifiedKey>| hello.server_name().is_some_and(|name| names(key, name));
        self.all.iter().find(fits).or_else(|| self.all.first()).map(Arc::clone)
    }
}

/// Whether a certificate is good for a name, as a client would check it.
fn names(key: &CertifiedKey, name: &str) -> bool {
    let Some(leaf) = key.cert.first() else { return false };
    let Ok(name) = rustls::pki_types::ServerName::try_from(name) else { return false };
    rustls::server::ParsedCertificate::try_from(leaf).is_ok_and(|leaf| rustls::client::verify_server_name(&leaf, &name).is_ok())
}

fn read(files: &CertificateFiles, provider: &rustls::crypto::CryptoProvider) -> Result<CertifiedKey, Error> {
    let problem = |path: &Path, problem: String| Error::Certificate { path: path.to_owned(), problem };
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| problem(&files.cert, error.to_string()))?;
    if chain.is_empty() {
        return Err(problem(&files.cert, "holds no certificate".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| problem(&files.key, error.to_string()))?;
    let certified = CertifiedKey::from_der(chain, key, provider)
        .map_err(|error| problem(&files.key, format!("does not fit the certificate: {error}")))?;
    Ok(certified)
}
