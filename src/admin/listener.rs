//! The second listener: `/healthz`, `/readyz`, `/metrics` and `/upstreams/NAME/health`. It answers anybody who reaches
//! it, so nothing here is a secret or names a person.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_core::future::BoxFuture;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::auth::Auth;
use crate::clock::Clock;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

/// Connections at a time. Probes and scrapers need a handful.
const MAX_CONNECTIONS: usize = 64;

/// How long a client may take to send a request's head, and how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the store may take to say that it works.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// The format that `Metrics::render` writes (`OpenMetrics` 1.0).
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Asks the upstream of a name for its health. `None`: there is none of that name. `Err`: it can't be reached.
pub type Probe = Box<dyn Fn(String) -> BoxFuture<'static, Option<Result<StatusCode, ()>>> + Send + Sync>;

/// The names of the upstreams that there are now.
pub type Names = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// What the answers are made from.
pub struct State {
    /// For the store and the keys.
    pub auth: Arc<Auth>,
    /// The time.
    pub clock: Clock,
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// Set when the server begins to drain: `/readyz` then says no.
    pub draining: Arc<AtomicBool>,
    /// Asks an upstream.
    pub probe: Probe,
    /// The upstreams' names, for `/readyz?upstreams`.
    pub upstreams: Names,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("draining", &self.draining).finish_non_exhaustive()
    }
}

/// Answers on `listener` until `tasks` is asked to stop; then connections end after the answer they are at.
pub async fn serve(listener: TcpListener, state: Arc<State>, tasks: Tasks) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = tasks.stopped() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the admin listener could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Beyond the bound the connection is closed at once: a probe sees that, and tries again.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (state, stop) = (Arc::clone(&state), tasks.stopped());
        tasks.spawn(async move {
            let service = service_fn(move |request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(answer(&state, &request).await) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(16 << 10);
            let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection to the admin listener broke");
            }
            drop(place);
        });
    }
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    Alive,
    Ready { upstreams: bool },
    Metrics,
    Upstream(String),
}

impl Route {
    fn of(path: &str, query: Option<&str>) -> Option<Self> {
        match path {
            "/healthz" => Some(Self::Alive),
            "/readyz" => {
                let query = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
                Some(Self::Ready { upstreams: query.into_iter().any(|(key, _)| key == "upstreams") })
            }
            "/metrics" => Some(Self::Metrics),
            _ => {
                let name = path.strip_prefix("/upstreams/")?.strip_suffix("/health")?;
                if name.is_empty() || name.contains('/') {
                    return None;
                }
                percent_decode_str(name).decode_utf8().ok().map(|name| Self::Upstream(name.into_owned()))
            }
        }
    }
}

async fn answer<B>(state: &State, request: &Request<B>) -> Response<Full<Bytes>> {
    let Some(route) = Route::of(request.uri().path(), request.uri().query()) else {
        return reply(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "not found\n");
    };
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", "GET or HEAD only\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match route {
        Route::Alive => reply(StatusCode::OK, "text/plain; charset=utf-8", "ok\n"),
        Route::Ready { upstreams } => ready(state, upstreams).await,
        Route::Metrics => reply(StatusCode::OK, METRICS_TYPE, state.metrics.render()),
        Route::Upstream(name) => upstream(state, name).await,
    }
}

/// The body of `/readyz`.
#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    checks: Checks,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstreams: Option<BTreeMap<String, String>>,
}

#[derive(Serialize)]
struct Checks {
    store: bool,
    keys: bool,
    draining: bool,
}

/// Ready is who can decide about requests and wants more of them. Upstreams count only when they are asked for: an
/// application that is down is its own probe's business, and taking the sidecar away as well would hide its 502.
async fn ready(state: &State, with_upstreams: bool) -> Response<Full<Bytes>> {
    let checks = Checks {
        // Who knows already need not wait for the answer that does not come; it is asked every second anyway.
        store: !state.auth.live().is_store_away() && state.auth.check_store(STORE_PATIENCE).await,
        keys: state.auth.jwks().get("keys").and_then(serde_json::Value::as_array).is_some_and(|keys| !keys.is_empty()),
        draining: state.draining.load(Ordering::SeqCst),
    };
    let mut good = checks.store && checks.keys && !checks.draining;
    let mut upstreams = None;
    if with_upstreams {
        let mut found = BTreeMap::new();
        for name in (state.upstreams)() {
            let health = (state.probe)(name.clone()).await;
            good &= matches!(health, Some(Ok(status)) if status.is_success() || status.is_redirection());
            let text = match health {
                Some(Ok(status)) => status.as_str().to_owned(),
                Some(Err(())) => "unreachable".to_owned(),
                None => "unknown".to_owned(),
            };
            found.insert(name.clone(), text);
        }
        upstreams = Some(found);
    }
    let (status, word) = if good { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unavailable") };
    match serde_json::to_vec(&Readiness { status: word, checks, upstreams }) {
        Ok(body) => reply(status, "application/json", body),
        Err(_) => reply(StatusCode::SERVICE_UNAVAILABLE, "application/json", "{}"),
    }
}

/// The application's own answer, status for status: it listens on loopback, where an orchestrator's probe can't reach.
async fn upstream(state: &State, name: String) -> Response<Full<Bytes>> {
    let (status, text) = match (state.probe)(name).await {
        None => (StatusCode::NOT_FOUND, "there is no upstream of this name\n"),
        Some(Err(())) => (StatusCode::BAD_GATEWAY, "the upstream can't be reached\n"),
        // An interim response is no answer.
        Some(Ok(status)) if status.is_informational() => (StatusCode::BAD_GATEWAY, "the upstream gave no final answer\n"),
        Some(Ok(status)) if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED => (status, ""),
        Some(Ok(status)) => (status, "as the upstream's own probe says\n"),
    };
    reply(status, "text/plain; charset=utf-8", text)
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    const FIXED: [(HeaderName, &str); 2] = [(CACHE_CONTROL, "no-store"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in FIXED {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        assert_eq!(Route::of("/healthz", None), Some(Route::Alive));
        assert_eq!(Route::of("/readyz", None), Some(Route::Ready { upstreams: false }));
        assert_eq!(Route::of("/readyz", Some("upstreams")), Some(Route::Ready { upstreams: true }));
        assert_eq!(Route::of("/readyz", Some("a=1&upstreams=1")), Some(Route::Ready { upstreams: true }));
        assert_eq!(Route::of("/readyz", Some("noupstreams")), Some(Route::Ready { upstreams: false }));
        assert_eq!(Route::of("/metrics", None), Some(Route::Metrics));
        assert_eq!(Route::of("/upstreams/app/health", None), Some(Route::Upstream("app".to_owned())));
        assert_eq!(Route::of("/upstreams/my%20app/health", None), Some(Route::Upstream("my app".to_owned())));
        for unknown in
            ["/", "", "/healthz/", "/upstreams//health", "/upstreams/health", "/upstreams/a/b/health", "/upstreams/%ff/health", "/command"]
        {
            assert_eq!(Route::of(unknown, None), None, "{unknown}");
        }
    }
}
