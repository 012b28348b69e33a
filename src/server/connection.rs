//! One connection: TLS, HTTP/1.1 or HTTP/2, and the clocks that end it when its client stalls.
//!
//! hyper's own header timer also runs while a keep-alive connection waits for its next request, so it stays off: an I/O
//! wrapper notes when the first byte of a head came, and idle time and slow heads are measured apart.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Executor, Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::listen::{Accepted, Stream};
use super::serving::Current;
use crate::config;
use crate::tasks::Tasks;
use crate::wire::context::ConnInfo;

/// What every connection needs to know.
pub struct Settings {
    /// TLS, when we end it; for TCP alone.
    pub tls: Option<TlsAcceptor>,
    /// From the first byte of a head to its last; also for the TLS handshake.
    pub header_timeout: Duration,
    /// Between requests.
    pub idle_timeout: Duration,
    /// The largest head in bytes.
    pub max_header_size: usize,
    /// Header fields in a request.
    pub max_headers: usize,
    /// HTTP/2's limits.
    pub http2: config::Http2,
    /// Counts open connections.
    pub open: Gauge,
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
    /// The client's address and port; `None`: a unix socket.
    pub peer: Option<(IpAddr, u16)>,
    /// The same for `wire::context`.
    pub info: ConnInfo,
    /// What its worker serves requests with.
    pub current: Current,
    /// What its clocks read.
    pub activity: Activity,
}

/// Serves a connection to its end.
pub async fn serve(accepted: Accepted, current: Current, tasks: Tasks) {
    let settings = Arc::clone(&current.get().settings);
    let peer = accepted.socket.peer();
    let open = Open::new(settings.open.clone(), accepted.permit);
    let Ok(stream) = Stream::from_socket(accepted.socket) else { return };
    // What comes by a unix socket comes from this machine: whoever listens in there needs no wire.
    let tls = settings.tls.as_ref().filter(|_| peer.is_some());
    let local = stream.local_address();
    let info = ConnInfo {
        peer: peer.map(|(ip, _)| ip),
        peer_port: peer.map_or(0, |(_, port)| port),
        local: local.map(|(ip, _)| ip),
        local_port: local.map_or(0, |(_, port)| port),
        tls: tls.is_some(),
    };
    let connection = Arc::new(Connection { peer, info, current, activity: Activity::new(Instant::now()) });
    match tls {
        None => speak(stream, open, connection, &settings, tasks).await,
        Some(acceptor) => match tokio::time::timeout(settings.header_timeout, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => speak(stream, open, connection, &settings, tasks).await,
            Ok(Err(error)) => tracing::debug!(%error, "the TLS handshake failed"),
            Err(_) => tracing::debug!("the TLS handshake took too long"),
        },
    }
}

async fn speak<S>(stream: S, open: Open, connection: Arc<Connection>, settings: &Settings, tasks: Tasks)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new(OnTasks(tasks.clone()));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(settings.max_header_size.max(8192))
        .max_headers(settings.max_headers);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.http2.max_streams)
        .max_pending_accept_reset_streams(settings.http2.max_resets as usize)
        .max_local_error_reset_streams(settings.http2.max_resets as usize)
        .max_header_list_size(u32::try_from(settings.max_header_size).unwrap_or(u32::MAX))
        .keep_alive_interval(settings.idle_timeout)
        .keep_alive_timeout(settings.header_timeout);
    let io = Watched { io: TokioIo::new(stream), connection: Arc::clone(&connection), _open: open };
    let service = service_fn(|request| {
        let (serving, connection) = (connection.current.get(), Arc::clone(&connection));
        connection.activity.head_is_complete(request.version() == http::Version::HTTP_2);
        async move { Ok::<_, Infallible>(serving.gateway.handle(&serving.upstreams, &connection, request).await) }
    });
    let mut serving = pin!(builder.serve_connection_with_upgrades(io, service));
    let mut alarm = pin!(tokio::time::sleep(settings.header_timeout.min(settings.idle_timeout)));
    let mut stopped = pin!(tasks.stopped());
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended with an error");
                }
                return;
            }
            () = stopped.as_mut(), if !stopping => {
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
            () = alarm.as_mut() => match connection.activity.look(settings, Instant::now()) {
                Look::Again(at) => alarm.as_mut().reset(at),
                // A second time means that the client does not even read our goodbye.
                Look::Idle if !stopping => {
                    stopping = true;
                    serving.as_mut().graceful_shutdown();
                    alarm.as_mut().reset(Instant::now() + settings.header_timeout);
                }
                Look::Idle | Look::SlowHead => return,
            },
        }
    }
}

/// What the alarm finds.
enum Look {
    /// Nothing: look again then.
    Again(Instant),
    /// No request for `idle_timeout`.
    Idle,
    /// A head that takes longer than `header_timeout`.
    SlowHead,
}

/// The state of a connection's clocks. Times are milliseconds since it was accepted, plus one; 0: none.
#[derive(Debug)]
pub struct Activity {
    accepted: Instant,
    in_flight: AtomicU32,
    head_began: AtomicU64,
    idle_since: AtomicU64,
    http2: AtomicBool,
}

impl Activity {
    fn new(accepted: Instant) -> Self {
        Self {
            accepted,
            in_flight: AtomicU32::new(0),
            // Nothing has come yet: a client that connects and stays silent is as slow as one that sends slowly.
            head_began: AtomicU64::new(1),
            idle_since: AtomicU64::new(1),
            http2: AtomicBool::new(false),
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.duration_since(self.accepted).as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// A byte came.
    fn received(&self) {
        if self.in_flight.load(Ordering::Relaxed) == 0
            && self.head_began.load(Ordering::Relaxed) == 0
            && !self.http2.load(Ordering::Relaxed)
        {
            self.head_began.store(self.millis(Instant::now()), Ordering::Relaxed);
        }
    }

    fn head_is_complete(&self, http2: bool) {
        self.http2.store(http2, Ordering::Relaxed);
        self.head_began.store(0, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// An answer is through, or was given up.
    pub fn answered(&self) {
        self.idle_since.store(self.millis(Instant::now()), Ordering::Relaxed);
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    fn look(&self, settings: &Settings, now: Instant) -> Look {
        let patience = settings.header_timeout.min(settings.idle_timeout);
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return Look::Again(now + patience);
        }
        let since = |at: u64| Duration::from_millis(self.millis(now).saturating_sub(at));
        let head_began = self.head_began.load(Ordering::Relaxed);
        if head_began != 0 {
            let waited = since(head_began);
            if waited >= settings.header_timeout {
                return Look::SlowHead;
            }
            return Look::Again(now + settings.header_timeout.saturating_sub(waited).max(Duration::from_millis(10)));
        }
        let idle = since(self.idle_since.load(Ordering::Relaxed));
        if idle >= settings.idle_timeout {
            return Look::Idle;
        }
        // A head may begin at any time, so never sleep longer than a head may take.
        Look::Again(now + settings.idle_timeout.saturating_sub(idle).min(settings.header_timeout).max(Duration::from_millis(10)))
    }
}

/// An open connection's place, given back when its socket is gone, also after an upgrade.
#[derive(Debug)]
struct Open {
    open: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Open {
    fn new(open: Gauge, permit: OwnedSemaphorePermit) -> Self {
        open.inc();
        Self { open, _permit: permit }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// The socket, telling [`Activity`] when bytes come.
struct Watched<S> {
    io: TokioIo<S>,
    connection: Arc<Connection>,
    _open: Open,
}

impl<S: AsyncRead + Unpin> Read for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<std::io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        // The end of the stream counts as well: it ends the connection anyway.
        if matches!(read, Poll::Ready(Ok(()))) {
            self.connection.activity.received();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> Write for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[std::io::IoSlice<'_>]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

/// Spawns what HTTP/2 needs on the worker's runtime, counted.
#[derive(Clone, Debug)]
struct OnTasks(Tasks);

impl<F> Executor<F> for OnTasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
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
