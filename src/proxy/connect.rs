//! Opening a connection to an endpoint.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::http2::Scheme;
use super::resolve::{Name, Origin, Resolver};
use super::stream::Stream;
use super::tls::{HTTP2, Tls};
use super::{Error, SetupError};
use crate::config::{self, UpstreamUrl};

/// Where an endpoint listens and how to get there.
#[derive(Debug)]
pub(super) struct Dialer {
    upstream: String,
    place: Place,
    tls: Option<Tls>,
    /// Whether HTTP/2 is spoken without asking.
    is_h2c: bool,
    limit: Duration,
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// Requests: TLS offers HTTP/2 and HTTP/1.1.
    Requests,
    /// An upgrade, which only HTTP/1.1 has: TLS offers nothing else.
    Upgrade,
}

#[derive(Debug)]
enum Place {
    Unix(PathBuf),
    Address(SocketAddr),
    Name { shown: String, name: Name },
}

/// A new connection.
#[derive(Debug)]
pub(super) struct Dialed {
    pub(super) stream: Stream,
    /// Whether HTTP/2 is spoken on it: as ALPN has settled, or as the URL says.
    pub(super) is_http2: bool,
    /// Which of a name's addresses it leads to; `None`: it is no name's.
    pub(super) origin: Option<Origin>,
}

impl Dialer {
    pub(super) fn new(config: &config::Upstream, url: &UpstreamUrl, resolver: &Resolver) -> Result<Self, SetupError> {
        let (place, tls) = match url {
            UpstreamUrl::Unix(path) | UpstreamUrl::UnixH2c(path) => (Place::Unix(path.clone()), None),
            UpstreamUrl::Tcp { host, port, .. } | UpstreamUrl::H2c { host, port } => {
                let place = match host.parse::<IpAddr>() {
                    Ok(ip) => Place::Address(SocketAddr::new(ip, *port)),
                    Err(_) => Place::Name { shown: format!("{host}:{port}"), name: Name::new(host, *port, resolver) },
                };
                (place, if url.is_tls() { Some(Tls::new(&config.name, host, &config.tls)?) } else { None })
            }
        };
        Ok(Self { upstream: config.name.clone(), place, tls, is_h2c: url.is_h2c(), limit: config.connect_timeout })
    }

    /// A new connection, TLS included.
    ///
    /// # Errors
    ///
    /// [`Error::TooSlow`] after `connect_timeout`, otherwise [`Error::Unreachable`].
    pub(super) async fn dial(&self, purpose: Purpose) -> Result<Dialed, Error> {
        match timeout(self.limit, self.open(purpose)).await {
            Ok(Ok(dialed)) => Ok(dialed),
            Ok(Err(error)) => {
                tracing::warn!(upstream = %self.upstream, endpoint = %self, %error, "no connection to the upstream");
                Err(if error.kind() == io::ErrorKind::TimedOut { Error::TooSlow } else { Error::Unreachable })
            }
            Err(_elapsed) => {
                tracing::warn!(upstream = %self.upstream, endpoint = %self, "the upstream did not connect in time");
                Err(Error::TooSlow)
            }
        }
    }

    /// Whether HTTP/2 is spoken without asking.
    pub(super) const fn is_h2c(&self) -> bool {
        self.is_h2c
    }

    /// Whether ALPN settles what is spoken.
    pub(super) const fn asks(&self) -> bool {
        self.tls.is_some()
    }

    /// HTTP/2's `:scheme`.
    pub(super) const fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::Https } else { Scheme::Http }
    }

    /// Whether a connection still leads where it should: its address may have left the name.
    pub(super) fn leads_there(&self, origin: Option<&Origin>) -> bool {
        match (&self.place, origin) {
            (Place::Name { name, .. }, Some(origin)) => name.still_has(origin),
            (Place::Unix(_) | Place::Address(_), _) | (Place::Name { .. }, None) => true,
        }
    }

    /// The name that has to be asked for again, if it is one.
    pub(super) const fn name(&self) -> Option<&Name> {
        match &self.place {
            Place::Name { name, .. } => Some(name),
            Place::Unix(_) | Place::Address(_) => None,
        }
    }

    async fn open(&self, purpose: Purpose) -> io::Result<Dialed> {
        let (stream, origin) = match &self.place {
            Place::Unix(path) => {
                let stream = Stream::unix(UnixStream::connect(path).await?);
                return Ok(Dialed { stream, is_http2: self.is_h2c, origin: None });
            }
            Place::Address(address) => (TcpStream::connect(address).await?, None),
            Place::Name { name, .. } => {
                let (stream, origin) = self.connect_to(name).await?;
                (stream, Some(origin))
            }
        };
        stream.set_nodelay(true)?;
        let (stream, is_http2) = match &self.tls {
            None => (Stream::tcp(stream), self.is_h2c),
            Some(tls) => {
                let stream = tls.connector(purpose).connect(tls.name.clone(), stream).await?;
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
                (Stream::tls(stream), is_http2)
            }
        };
        Ok(Dialed { stream, is_http2, origin })
    }

    async fn connect_to(&self, name: &Name) -> io::Result<(TcpStream, Origin)> {
        let (addresses, fresh) = name.addresses().await?;
        match self.first_of(name, &addresses).await {
            // Perhaps it has moved since it was asked.
            Err(_) if !fresh => self.first_of(name, &name.look_up().await?).await,
            tried => tried,
        }
    }

    /// The addresses in turn, each with its share of the time, so that one that swallows packets leaves some for the others.
    async fn first_of(&self, name: &Name, addresses: &[SocketAddr]) -> io::Result<(TcpStream, Origin)> {
        let share = self.limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok((stream, name.origin(*address))),
                Ok(Err(error)) => last = error,
                Err(elapsed) => last = io::Error::new(io::ErrorKind::TimedOut, elapsed),
            }
        }
        Err(last)
    }
}

/// Where to, for the log.
impl fmt::Display for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
            Place::Address(address) => write!(f, "{address}"),
            Place::Name { shown, .. } => f.write_str(shown),
        }
    }
}
