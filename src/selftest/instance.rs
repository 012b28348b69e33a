//! The instance that is tested: where it is, whether it may be, and one connection for each request.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

use super::answer::Answer;
use crate::trust;

/// How long a connection and an answer may take, each.
const PATIENCE: Duration = Duration::from_secs(10);

/// An instance that may be attacked.
#[derive(Clone)]
pub struct Instance {
    address: SocketAddr,
    host: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("address", &self.address).field("host", &self.host).finish_non_exhaustive()
    }
}

/// Why an instance can't be tested.
#[derive(Debug, Error)]
pub enum InstanceError {
    /// `--against` is no `http` or `https` address of a server alone.
    #[error("{0}: give the address of a server, such as http://127.0.0.1:8080 (no path: see --prefix)")]
    Address(String),
    /// The host has no address.
    #[error("{host} can't be resolved: {cause}")]
    Unresolved {
        /// As it was given.
        host: String,
        /// What the resolver says.
        cause: io::Error,
    },
    /// It is not on this machine, and nobody said that it may be attacked.
    #[error("{host} is {address}, not this machine: only what is yours may be tested, which --allow-host {host} says")]
    NotAllowed {
        /// As it was given.
        host: String,
        /// The first of its addresses that is not loopback.
        address: SocketAddr,
    },
    /// `--ca`, or this machine's certificates.
    #[error(transparent)]
    Authorities(#[from] trust::Error),
    /// No TLS can be spoken.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Nobody listens, or TLS does not come about.
    #[error("can't connect to {address}: {cause}")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
    /// It took the request and said nothing.
    #[error("{0} did not answer within 10 s")]
    Silent(SocketAddr),
}

impl Instance {
    /// The instance at `url`, which is resolved once, so that what was looked at is what is attacked. Only loopback addresses
    /// are, unless `allowed` names the host. `ca`: PEM certificates to trust in the place of this machine's.
    pub async fn find(url: &str, allowed: &[String], ca: Option<&Path>) -> Result<Self, InstanceError> {
        let wrong = || InstanceError::Address(url.to_owned());
        let parsed = Url::parse(url).map_err(|_| wrong())?;
        let alone = parsed.path() == "/" && parsed.query().is_none() && parsed.fragment().is_none();
        let nobody = parsed.username().is_empty() && parsed.password().is_none();
        let host = parsed.host_str().filter(|_| alone && nobody && matches!(parsed.scheme(), "http" | "https")).ok_or_else(wrong)?;
        let port = parsed.port_or_known_default().ok_or_else(wrong)?;
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let unresolved = |cause| InstanceError::Unresolved { host: host.to_owned(), cause };
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name, port)).await.map_err(unresolved)?.collect();
        let foreign = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback());
        if let Some(&address) = foreign
            && !allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
        {
            return Err(InstanceError::NotAllowed { host: host.to_owned(), address });
        }
        let address = *addresses.first().ok_or_else(|| unresolved(io::Error::other("it has no address")))?;
        let tls = if parsed.scheme() == "https" {
            let server = ServerName::try_from(name.to_owned()).map_err(|_| wrong())?;
            Some((connector(ca)?, server))
        } else {
            None
        };
        Ok(Self { address, host: host.to_owned(), tls })
    }

    /// What stands in `Host`, without a port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Sends these bytes on a connection of their own.
    pub async fn ask(&self, bytes: &[u8], to_head: bool) -> Result<Answer, InstanceError> {
        let unreachable = |cause| InstanceError::Unreachable { address: self.address, cause };
        let late = |_| unreachable(io::ErrorKind::TimedOut.into());
        let connect = async {
            let stream = TcpStream::connect(self.address).await?;
            Ok(match &self.tls {
                None => Box::new(stream) as Box<dyn Wire>,
                Some((tls, name)) => Box::new(tls.connect(name.clone(), stream).await?),
            })
        };
        let mut stream = tokio::time::timeout(PATIENCE, connect).await.map_err(late)?.map_err(unreachable)?;
        let exchange = async {
            // What is refused early may be refused while it is still being written; the answer says so.
            if stream.write_all(bytes).await.is_ok() {
                stream.flush().await.ok();
            }
            Answer::read(&mut stream, to_head).await
        };
        tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| InstanceError::Silent(self.address))
    }
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

fn connector(ca: Option<&Path>) -> Result<TlsConnector, InstanceError> {
    let roots = trust::authorities(ca)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let mut config = builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn find(url: &str, allowed: &[&str]) -> Result<Instance, InstanceError> {
        Instance::find(url, &allowed.iter().map(|&host| host.to_owned()).collect::<Vec<_>>(), None).await
    }

    #[tokio::test]
    async fn only_this_machine_is_tested_without_a_word() {
        for url in ["http://127.0.0.1:1", "http://127.9.9.9:1/", "http://[::1]:1", "http://[::ffff:127.0.0.1]:1", "http://2130706433:1"] {
            assert!(find(url, &[]).await.is_ok(), "{url}");
        }
        for url in ["http://192.0.2.1", "https://198.51.100.7:8443", "http://[2001:db8::1]", "http://0.0.0.0:1"] {
            assert!(matches!(find(url, &["example.com"]).await, Err(InstanceError::NotAllowed { .. })), "{url}");
        }
        assert_eq!(find("http://192.0.2.1", &["192.0.2.1"]).await.unwrap().host(), "192.0.2.1");
    }

    #[tokio::test]
    async fn what_is_no_server_is_refused() {
        for url in ["", "127.0.0.1:8080", "ftp://127.0.0.1", "http://127.0.0.1/x", "http://127.0.0.1?x", "http://u@127.0.0.1", "http://"] {
            assert!(matches!(find(url, &[]).await, Err(InstanceError::Address(_))), "{url}");
        }
        let missing = Instance::find("https://127.0.0.1", &[], Some(Path::new("/nonexistent"))).await;
        assert!(matches!(missing, Err(InstanceError::Authorities(_))));
    }
}
