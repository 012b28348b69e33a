//! One connection: whose it is, TLS, and then in turn a rest in which nothing but a few hundred bytes are kept (`parked`)
//! and hyper for as long as there is something to say (`session`).

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, LINGER};
use super::listen::{Accepted, Stream};
use super::parked::{self, Waited};
use super::places::Place;
use super::proxy_protocol::{self, Told};
use super::serving::Current;
use super::session::{self, Protocol, Shared};
use super::tls::Tls;
use super::untaken::Untaken;
use super::watched::Held;
use crate::config;
use crate::policy::network::Networks;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Limit;
use crate::wire::context::ConnInfo;

/// What every connection needs to know.
pub struct Settings {
    /// TLS, when we end it; for TCP alone.
    pub tls: Option<Arc<Tls>>,
    /// Whether trusted peers begin with a PROXY line.
    pub proxy_protocol: bool,
    /// Who they are; a unix socket's peer is one of them.
    pub trusted_proxies: Networks,
    /// From the first byte of a head to its last; also for the TLS handshake and for a PROXY line.
    pub header_timeout: Duration,
    /// Between requests.
    pub idle_timeout: Duration,
    /// The largest head in bytes.
    pub max_header_size: usize,
    /// Header fields in a request.
    pub max_headers: usize,
    /// HTTP/2's limits.
    pub http2: config::Http2,
    /// Counts connections and the limits they meet.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the workers may end.
    pub closed: CancellationToken,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("connection::Settings")
    }
}

/// A connection, as the gateway sees it.
#[derive(Debug)]
pub struct Connection {
    /// The client's address and port, after a believed PROXY line; `None`: a unix socket.
    pub peer: Option<(IpAddr, u16)>,
    /// The same for `wire::context`.
    pub info: ConnInfo,
    /// What its worker serves requests with.
    pub current: Current,
    /// What its clocks read.
    pub activity: Activity,
    /// The answers of its streams, once it speaks HTTP/2.
    pub(super) untaken: OnceLock<Arc<Untaken>>,
}

/// Both ends of a connection; `None`: a unix socket.
struct Ends {
    peer: Option<(IpAddr, u16)>,
    local: Option<(IpAddr, u16)>,
}

/// Serves a connection to its end.
pub async fn serve(accepted: Accepted, current: Current, tasks: Tasks) {
    let settings = Arc::clone(&current.get().settings);
    let peer = accepted.socket.peer();
    let open = Open::new(settings.metrics.connections.clone(), accepted.place);
    let mut ends = Ends { peer, local: accepted.socket.local() };
    let Ok(mut stream) = Stream::from_socket(accepted.socket) else { return };
    // What comes by a unix socket comes from this machine: whoever listens in there needs no wire.
    let tls = settings.tls.clone().filter(|_| peer.is_some());
    if settings.proxy_protocol && peer.is_none_or(|(ip, _)| settings.trusted_proxies.contains(ip)) {
        let Some(told) = Box::pin(introduction(&mut stream, &settings, &tasks)).await else { return };
        ends = told.unwrap_or(ends);
    }
    let info = ConnInfo {
        peer: ends.peer.map(|(ip, _)| ip),
        peer_port: ends.peer.map_or(0, |(_, port)| port),
        local: ends.local.map(|(ip, _)| ip),
        local_port: ends.local.map_or(0, |(_, port)| port),
        tls: tls.is_some(),
    };
    let activity = Activity::new(Instant::now());
    let connection = Arc::new(Connection { peer: ends.peer, info, current, activity, untaken: OnceLock::new() });
    // Until hyper is done with it: an upgraded connection does something, whatever its clocks read.
    let _seat = open.place.seat(&connection);
    let shared = Shared { connection, settings, tasks };
    match tls {
        None => live(Held::new(stream, open), None, shared).await,
        Some(tls) => {
            // In a box, so that a connection without TLS has no room for one with it.
            let Some(stream) = Box::pin(handshake(&tls, stream, &shared)).await else { return };
            let agreed = match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => Some(Protocol::Http2),
                Some(_) => Some(Protocol::Http1),
                None => None,
            };
            Box::pin(live(Held::new(Box::new(stream), open), agreed, shared)).await;
        }
    }
}

/// What a trusted peer says of whom it speaks for; `Some(None)`: for itself, `None`: nothing that can be understood, and
/// whoever is behind it must not pass for it.
async fn introduction(stream: &mut Stream, settings: &Settings, tasks: &Tasks) -> Option<Option<Ends>> {
    let told = tokio::select! {
        biased;
        told = proxy_protocol::read(stream) => told,
        () = patience(settings, tasks) => None,
    };
    match told {
        Some(Told::Addresses { source, destination }) => {
            let end = |address: std::net::SocketAddr| Some((address.ip(), address.port()));
            Some(Some(Ends { peer: end(source), local: end(destination) }))
        }
        Some(Told::Own) => Some(None),
        None => {
            tracing::debug!("a trusted proxy sent no PROXY line");
            settings.metrics.limited(Limit::ProxyLine);
            None
        }
    }
}

/// `None`: it failed, or was an ACME authority's validation.
async fn handshake(tls: &Tls, stream: Stream, shared: &Shared) -> Option<tokio_rustls::server::TlsStream<Stream>> {
    tokio::select! {
        biased;
        done = tls.accept(stream) => done.inspect_err(|error| tracing::debug!(%error, "the TLS handshake failed")).ok().flatten(),
        () = patience(&shared.settings, &shared.tasks) => {
            tracing::debug!("the TLS handshake took too long");
            shared.settings.metrics.limited(Limit::HeaderTimeout);
            None
        }
        () = shared.connection.activity.asked_to_leave() => {
            shared.settings.metrics.limited(Limit::Room);
            None
        }
    }
}

/// `header_timeout`, or less when the process drains meanwhile.
async fn patience(settings: &Settings, tasks: &Tasks) {
    let drained = async {
        tasks.stopped().await;
        sleep(LINGER).await;
    };
    tokio::select! {
        () = sleep(settings.header_timeout) => {}
        () = drained => {}
    }
}

/// Waits, speaks, waits again.
async fn live<S>(mut held: Held<S>, mut agreed: Option<Protocol>, shared: Shared)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    loop {
        match parked::wait(&mut held, agreed, &shared).await {
            // In a box, which is given back when the connection rests again.
            Waited::Speak(protocol) => match Box::pin(session::run(held, protocol, &shared)).await {
                Some(back) => (held, agreed) = (back, Some(protocol)),
                None => return,
            },
            Waited::SlowHead => return Box::pin(session::too_slow(&mut held, &shared)).await,
            Waited::Gone => return,
        }
    }
}

/// An open connection's place, given back when its socket is gone, also after an upgrade.
#[derive(Debug)]
pub(super) struct Open {
    open: Gauge,
    place: Place,
}

impl Open {
    fn new(open: Gauge, place: Place) -> Self {
        open.inc();
        Self { open, place }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[std::io::IoSlice<'_>]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
