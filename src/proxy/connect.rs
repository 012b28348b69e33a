//! Opening a connection to an upstream.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::stream::Stream;
use super::tls::Tls;
use super::{Error, SetupError};
use crate::config::{self, UpstreamUrl};

/// Where an upstream listens and how to get there.
#[derive(Debug)]
pub(super) struct Dialer {
    upstream: String,
    url: UpstreamUrl,
    tls: Option<Tls>,
    limit: Duration,
}

impl Dialer {
    pub(super) fn new(config: &config::Upstream) -> Result<Self, SetupError> {
        let tls = match &config.url {
            UpstreamUrl::Tcp { tls: true, host, .. } => Some(Tls::new(&config.name, host, &config.tls)?),
            UpstreamUrl::Tcp { tls: false, .. } | UpstreamUrl::Unix(_) => None,
        };
        Ok(Self { upstream: config.name.clone(), url: config.url.clone(), tls, limit: config.connect_timeout })
    }

    /// A new connection, TLS included.
    ///
    /// # Errors
    ///
    /// [`Error::TooSlow`] after `connect_timeout`, otherwise [`Error::Unreachable`].
    pub(super) async fn dial(&self) -> Result<Stream, Error> {
        match timeout(self.limit, self.open()).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                tracing::warn!(upstream = %self.upstream, %error, "no connection to the upstream");
                Err(if error.kind() == io::ErrorKind::TimedOut { Error::TooSlow } else { Error::Unreachable })
            }
            Err(_elapsed) => {
                tracing::warn!(upstream = %self.upstream, "the upstream did not connect in time");
                Err(Error::TooSlow)
            }
        }
    }

    async fn open(&self) -> io::Result<Stream> {
        let (host, port) = match &self.url {
            UpstreamUrl::Unix(path) => return UnixStream::connect(path).await.map(Stream::unix),
            UpstreamUrl::Tcp { host, port, .. } => (host.as_str(), *port),
        };
        // Looked up anew each time: a name may move, and an address needs no look-up.
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
        let stream = self.first_of(&addresses).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Stream::tcp(stream)),
            Some(tls) => tls.connector.connect(tls.name.clone(), stream).await.map(Stream::tls),
        }
    }

    /// The addresses in turn, each with its share of the time, so that one that swallows packets leaves some for the others.
    async fn first_of(&self, addresses: &[SocketAddr]) -> io::Result<TcpStream> {
        let share = self.limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(elapsed) => last = io::Error::new(io::ErrorKind::TimedOut, elapsed),
            }
        }
        Err(last)
    }
}
