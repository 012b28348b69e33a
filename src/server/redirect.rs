//! `server.tls.http_redirect`: a plain listener that leads to https and does nothing else. It reads a head, refuses what
//! the gateway would refuse, answers and closes; no request's body, cookie or credential is looked at.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Error;
use super::activity::LINGER;
use crate::clock::Clock;
use crate::config;
use crate::policy::path;
use crate::tasks::Tasks;
use crate::wire::context::{self, ConnInfo, Context};

/// Connections at a time: none lasts longer than its head.
const CONNECTIONS: usize = 1024;

/// How long to wait when accepting fails because the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bound listener.
#[derive(Debug)]
pub struct Redirect {
    listener: TcpListener,
    leads: Arc<Leads>,
}

/// Where requests are led, and what they may be.
#[derive(Debug)]
struct Leads {
    context: context::Settings,
    clock: Clock,
    header_timeout: Duration,
    max_header_size: usize,
    max_headers: usize,
    /// Where whoever asks for no allowed host is led, without a slash at the end.
    origin: String,
    /// The port of an https URL that is made from a request's host.
    port: u16,
}

impl Redirect {
    /// Binds the address; `None`: there is none. `https` is the first TCP address that TLS is spoken at, where browsers
    /// come to when `public_url` does not say it.
    pub async fn bind(server: &config::Server, https: Option<SocketAddr>, clock: Clock) -> Result<Option<Self>, Error> {
        let Some(address) = server.tls.as_ref().and_then(|tls| tls.http_redirect) else { return Ok(None) };
        let https = https.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 443)));
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|source| Error::Bind { address: format!("{address} (server.tls.http_redirect)"), source })?;
        let port = server.public_url.as_ref().and_then(url::Url::port_or_known_default).unwrap_or(https.port());
        let origin = match &server.public_url {
            Some(url) => url.as_str().trim_end_matches('/').to_owned(),
            None if https.ip().is_unspecified() => format!("https://localhost:{port}"),
            None => format!("https://{https}"),
        };
        if server.public_url.is_none() && server.allowed_hosts.is_empty() {
            tracing::warn!(origin, "server.tls.http_redirect leads here, since neither server.public_url nor server.allowed_hosts is set");
        }
        let leads = Leads {
            context: context::Settings::from(server),
            clock,
            header_timeout: server.header_timeout,
            max_header_size: server.max_header_size,
            max_headers: server.max_headers,
            origin,
            port,
        };
        Ok(Some(Self { listener, leads: Arc::new(leads) }))
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Accepts until `tasks` stop.
    pub async fn run(self, tasks: Tasks) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut stopped = std::pin::pin!(tasks.stopped());
        loop {
            // The place first: beyond them the kernel's queue holds the others back.
            let accepted = async {
                let place = Arc::clone(&places).acquire_owned().await.map_err(std::io::Error::other)?;
                self.listener.accept().await.map(|(stream, peer)| (stream, peer, place))
            };
            let accepted = tokio::select! {
                biased;
                () = stopped.as_mut() => return,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, peer, place)) => {
                    tasks.spawn(serve(stream, peer, place, Arc::clone(&self.leads), tasks.stopped()));
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
    leads: Arc<Leads>,
    stopped: impl Future<Output = ()> + Send,
) {
    let Ok(local) = stream.local_addr() else { return };
    let connection = ConnInfo {
        peer: Some(peer.ip().to_canonical()),
        peer_port: peer.port(),
        local: Some(local.ip().to_canonical()),
        local_port: local.port(),
        tls: false,
    };
    let service = service_fn(|request| {
        let answer = leads.answer(request, &connection);
        async move { Ok::<_, Infallible>(answer) }
    });
    let serving = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(leads.header_timeout)
        .max_buf_size(leads.max_header_size.max(8192))
        .max_headers(leads.max_headers)
        .serve_connection(TokioIo::new(stream), service);
    // Nothing is lost with a client that says nothing, and the end of the process waits for this.
    let drained = async {
        stopped.await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        // The second half is for a client that does not read its answer.
        served = tokio::time::timeout(leads.header_timeout * 2, serving) => if let Ok(Err(error)) = served {
            tracing::debug!(%error, "a connection to the redirect ended with an error");
        },
        () = drained => {}
    }
    drop(place);
}

impl Leads {
    fn answer(&self, request: Request<Incoming>, connection: &ConnInfo) -> Response<Full<Bytes>> {
        let (head, _) = request.into_parts();
        let context = match context::read(&head, connection, &self.context, self.clock.now()) {
            Ok(context) => context,
            Err(error) => return refuse(error.status(), &error.to_string()),
        };
        let Some(target) = head.uri.path_and_query().filter(|_| head.method != Method::CONNECT) else {
            return refuse(StatusCode::BAD_REQUEST, "this listener only redirects");
        };
        // `OPTIONS *` included: it has no path to lead to.
        if let Err(error) = path::read(target.path()) {
            return refuse(StatusCode::BAD_REQUEST, &error.to_string());
        }
        match HeaderValue::from_bytes(self.location(&context, target).as_bytes()) {
            // 308 keeps method and body (RFC 9110, section 15.4.9).
            Ok(location) => {
                let mut answer = Response::new(Full::default());
                *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
                answer.headers_mut().insert(LOCATION, location);
                answer
            }
            Err(_) => refuse(StatusCode::BAD_REQUEST, "the request target can't be led to"),
        }
    }

    /// The https URL with the very bytes of path and query. Its host is the request's only where `allowed_hosts` names
    /// it, which `context` has checked; otherwise that of `public_url` (requirement FWD-4).
    fn location(&self, context: &Context, target: &PathAndQuery) -> String {
        let host = context.host.as_str();
        match self.port {
            _ if self.context.allowed_hosts.is_empty() => format!("{}{target}", self.origin),
            443 => format!("https://{host}{target}"),
            port => format!("https://{host}:{port}{target}"),
        }
    }
}

fn refuse(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(format!("{why}\n")));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
