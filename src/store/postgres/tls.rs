//! TLS towards the database, by the same library and provider as everywhere else.

use std::sync::Arc;

use rustls::ClientConfig;

use crate::config::{PostgresTls, SslMode};
use crate::store::Error;
use crate::trust::{self, AnyHost};

/// What `sslnegotiation=direct` demands in ALPN.
const ALPN: &[u8] = b"postgresql";

/// What the settings demand. All files are read now: one that can't be read stops the start, and never weakens the
/// verification (requirement CFG-3).
pub(super) fn client(settings: &PostgresTls) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Tls(error.to_string()))?;
    let builder = match settings.mode {
        SslMode::VerifyFull => builder.with_root_certificates(authorities(settings)?),
        SslMode::VerifyCa => builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyHost::of(authorities(settings)?, provider))),
        SslMode::Disable | SslMode::Prefer | SslMode::Require => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyHost::unverified(provider)))
        }
    };
    let mut config = match &settings.client {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let (chain, key) = trust::own_certificate(files).map_err(|error| Error::Tls(error.to_string()))?;
            let unusable = |error| Error::Tls(format!("{} can't be used: {error}", files.cert.display()));
            builder.with_client_auth_cert(chain, key).map_err(unusable)?
        }
    };
    if settings.direct {
        config.alpn_protocols = vec![ALPN.to_vec()];
    }
    Ok(config)
}

fn authorities(settings: &PostgresTls) -> Result<rustls::RootCertStore, Error> {
    trust::authorities(settings.roots.as_deref()).map_err(|error| match error {
        trust::Error::File { .. } => Error::Tls(error.to_string()),
        trust::Error::NoAuthorities => Error::Tls(format!("{error}; name the database's with sslrootcert")),
    })
}
