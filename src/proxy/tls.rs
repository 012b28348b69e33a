//! TLS towards upstreams.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::SetupError;
use super::connect::Purpose;
use crate::config::UpstreamTls;
use crate::trust::{self, AnyHost};

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
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyHost::unverified(provider)))
        } else {
            builder.with_root_certificates(trust::authorities(settings.ca.as_deref()).map_err(|error| untrusted(upstream, error))?)
        };
        let mut config = match &settings.client {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let (chain, key) = trust::own_certificate(files).map_err(|error| untrusted(upstream, error))?;
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

fn untrusted(upstream: &str, error: trust::Error) -> SetupError {
    let upstream = upstream.to_owned();
    match error {
        trust::Error::File { path, cause } => SetupError::File { upstream, path, cause },
        error @ trust::Error::NoAuthorities => SetupError::Tls { upstream, cause: format!("{error}; name some with tls.ca") },
    }
}
