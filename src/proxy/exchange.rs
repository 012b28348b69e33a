//! One request and its answer: trying, sending, waiting.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{EXPECT, HOST, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};

use super::alarm::after;
use super::counters::{Gauge, Which};
use super::download::Download;
use super::pool::{Link, Pool};
use super::stream::Traffic;
use super::upload::{Progress, Upload};
use super::upstream::Upstream;
use super::{Ended, Error, Forward, Proxy, request, response, upgrade};
use crate::wire::body::Body;

/// How often a request that is being sent asks whether its session has ended.
const CUT_OFF_TICK: Duration = Duration::from_secs(1);

/// See [`super::Worker::forward`].
pub(super) async fn forward(
    proxy: &Arc<Proxy>,
    pool: &Arc<Pool>,
    request: Request<Incoming>,
    mut how: Forward<'_>,
) -> Result<Response<Body>, Error> {
    let upstream = &pool.upstream;
    if upstream.is_out() {
        return Err(Error::TakenOut);
    }
    let gauge = Gauge::new(&upstream.counters, Which::InFlight);
    let (mut parts, body) = request.into_parts();
    if parts.method == Method::CONNECT {
        return Err(Error::BadRequest);
    }
    if proxy.max_body.is_some_and(|limit| body.size_hint().lower() > limit) {
        return Err(Error::BodyTooLarge);
    }
    let protocol = request::wanted_upgrade(&parts, !body.is_end_stream());
    let client = protocol.is_some().then(|| parts.extensions.remove::<OnUpgrade>()).flatten();
    let protocol = protocol.filter(|_| client.is_some());
    let expects = parts.version == Version::HTTP_11 && parts.headers.contains_key(EXPECT);
    let is_grpc = request::is_grpc(&parts.headers);
    request::rewrite(&mut parts, proxy, upstream, &how, protocol.as_ref(), !body.is_end_stream())?;

    let (body, progress) = Upload::new(body, proxy, proxy.max_body, expects);
    let mut request = Request::from_parts(parts, body);
    if expects && let Some(progress) = &progress {
        let progress = Arc::clone(progress);
        hyper::ext::on_informational(&mut request, move |answer| {
            if answer.status() == StatusCode::CONTINUE {
                progress.want();
            }
        });
    }
    let wait = Wait {
        progress: progress.as_deref(),
        // gRPC and upgrades answer when they have something to say.
        answer: if is_grpc || protocol.is_some() { upstream.stream_idle_timeout } else { upstream.response_timeout },
        silence: upstream.stream_idle_timeout,
        ended: how.ended.as_ref(),
    };
    let (answer, link) = attempt(pool, request, &wait).await?;
    if let Some(progress) = &progress {
        progress.answer();
    }
    let ended = how.ended.take();
    let (mut parts, body) = answer.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let (Some(asked), Some(client)) = (&protocol, client) else {
            tracing::warn!(upstream = %upstream.name, "an upgrade that nobody asked for");
            return Err(Error::BadResponse);
        };
        if !is_one_of(parts.headers.get(UPGRADE), asked) {
            tracing::warn!(upstream = %upstream.name, "an upgrade to another protocol than was asked for");
            return Err(Error::BadResponse);
        }
        response::rewrite(&mut parts, upstream, &how);
        upgrade::join(client, link, upstream, ended, &proxy.tasks);
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    response::rewrite(&mut parts, upstream, &how);
    let body = if body.is_end_stream() {
        if link.is_idle() {
            pool.put(link);
        }
        Body::empty()
    } else {
        Body::stream(Download::new(body, link, Arc::clone(pool), ended, gauge))
    };
    Ok(Response::from_parts(parts, body))
}

/// Sends `request` until it is answered or may not be tried again: when no connection came about nothing was sent, so
/// any request may be; when a connection that had been used before closed without a word, it had probably been closing
/// already, and a request that changes nothing (RFC 9110, section 9.2.1) and has no body may be sent once more.
async fn attempt(pool: &Arc<Pool>, mut request: Request<Upload>, wait: &Wait<'_>) -> Result<(Response<Incoming>, Box<Link>), Error> {
    let upstream = &pool.upstream;
    let harmless = wait.progress.is_none() && matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let mut tries_left = upstream.retries;
    let mut retry = || {
        let again = tries_left > 0;
        if again {
            tries_left -= 1;
            upstream.counters.retries.fetch_add(1, Ordering::Relaxed);
        }
        again
    };
    let mut fresh = false;
    loop {
        let (link, used) = match pool.acquire(fresh).await {
            Ok(link) => link,
            Err(Error::Unreachable | Error::TooSlow) if retry() => continue,
            Err(error) => return Err(error),
        };
        let spare = (used && harmless && upstream.retries > 0).then(|| copy(&request));
        match send(link, request, wait).await {
            Ok(answered) => return Ok(answered),
            // It had closed while it was idle, before a byte of the request was written. There may be more like it.
            Err(Failure::NotSent(unsent)) if used || retry() => request = *unsent,
            Err(Failure::NotSent(_)) => return Err(Error::BrokenOff),
            Err(Failure::Silent) => match spare {
                Some(spare) if retry() => {
                    request = spare;
                    fresh = true;
                }
                Some(_) | None => return Err(Error::BrokenOff),
            },
            Err(Failure::Final(error)) => return Err(error),
        }
    }
}

fn copy(request: &Request<Upload>) -> Request<Upload> {
    let mut copy = Request::new(Upload::None);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
}

/// Why there is no answer, as far as it matters for trying again.
enum Failure {
    /// Nothing of the request was written.
    NotSent(Box<Request<Upload>>),
    /// The connection closed before a byte of an answer came.
    Silent,
    /// It is no use.
    Final(Error),
}

/// What a request waits for and how long.
struct Wait<'a> {
    progress: Option<&'a Progress>,
    /// From the request's last byte to the answer's head.
    answer: Duration,
    /// While the body is sent: without a byte either way.
    silence: Duration,
    ended: Option<&'a Ended>,
}

/// Sends a request and waits for the head of its answer, driving the connection.
async fn send(mut link: Box<Link>, request: Request<Upload>, wait: &Wait<'_>) -> Result<(Response<Incoming>, Box<Link>), Failure> {
    let read_before = link.traffic.read();
    let mut answer = pin!(link.sender.try_send_request(request));
    let mut clock = Stopwatch::default();
    let answered = poll_fn(|cx| {
        let alive = link.drive(cx);
        match answer.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Ok(Some(answer))),
            Poll::Pending if !alive => Poll::Ready(Ok(None)),
            Poll::Pending => clock.poll(cx, &mut link, wait).map(Err),
        }
    })
    .await
    .map_err(Failure::Final)?;
    let traffic = Arc::clone(&link.traffic);
    let (answered, link) = match answered {
        Some(answered) => (answered, Some(link)),
        None => {
            // The connection has ended without taking the request: dropped, it hands it back.
            drop(link);
            (answer.await, None)
        }
    };
    match (answered, link) {
        (Ok(answer), Some(link)) => Ok((answer, link)),
        (Ok(_), None) => Err(Failure::Final(Error::BrokenOff)),
        (Err(mut error), _) => Err(match error.take_message() {
            Some(request) => Failure::NotSent(Box::new(request)),
            None => classify(&error.into_error(), wait, &traffic, read_before),
        }),
    }
}

fn classify(error: &hyper::Error, wait: &Wait<'_>, traffic: &Traffic, read_before: u64) -> Failure {
    if wait.progress.is_some_and(Progress::too_large) {
        Failure::Final(Error::BodyTooLarge)
    } else if wait.progress.is_some_and(Progress::client_gone) {
        Failure::Final(Error::ClientGone)
    } else if error.is_parse() {
        tracing::warn!(%error, "an upstream's answer is not HTTP");
        Failure::Final(Error::BadResponse)
    } else if traffic.read() == read_before {
        Failure::Silent
    } else {
        Failure::Final(Error::BrokenOff)
    }
}

/// How long a request has waited, and for what.
#[derive(Default)]
struct Stopwatch {
    /// When the request was complete.
    sent: Option<Instant>,
    /// While it is not: since when nothing was carried, and how much had been then.
    silent: Option<(Instant, u64)>,
    next_look: Option<Instant>,
}

impl Stopwatch {
    /// Ready with why not to wait longer.
    fn poll(&mut self, cx: &mut Context<'_>, link: &mut Link, wait: &Wait<'_>) -> Poll<Error> {
        loop {
            let give_up = if wait.progress.is_none_or(Progress::done) {
                after(*self.sent.get_or_insert_with(Instant::now), wait.answer)
            } else {
                let carried = link.traffic.total();
                let since = match self.silent {
                    Some((since, before)) if before == carried => since,
                    Some(_) | None => {
                        let now = Instant::now();
                        self.silent = Some((now, carried));
                        now
                    }
                };
                after(since, wait.silence)
            };
            let look = wait
                .ended
                .filter(|_| wait.progress.is_some())
                .map(|ended| (ended, *self.next_look.get_or_insert_with(|| Instant::now() + CUT_OFF_TICK)));
            let at = look.map_or(give_up, |(_, look_at)| look_at.min(give_up));
            if link.alarm.poll(cx, at).is_pending() {
                return Poll::Pending;
            }
            if look.is_some_and(|(ended, _)| ended()) {
                return Poll::Ready(Error::ClientGone);
            }
            if Instant::now() >= give_up {
                return Poll::Ready(Error::TooSlow);
            }
            self.next_look = None;
        }
    }
}

/// Whether the protocol that was switched to is among those that were asked for.
fn is_one_of(got: Option<&HeaderValue>, asked: &HeaderValue) -> bool {
    let (Some(Ok(got)), Ok(asked)) = (got.map(HeaderValue::to_str), asked.to_str()) else {
        return false;
    };
    asked.split(',').any(|protocol| protocol.trim().eq_ignore_ascii_case(got.trim()))
}

/// Asks for the health path on a connection of its own, which the cap does not count: a busy upstream is not an ill one.
pub(super) async fn probe(upstream: &Upstream) -> Result<StatusCode, Error> {
    let stream = upstream.dialer.dial().await?;
    let (mut sender, connection) = handshake::<_, Body>(TokioIo::new(stream)).await.map_err(|_| Error::Unreachable)?;
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = upstream.health_path.as_deref().unwrap_or("/").parse().map_err(|_| Error::BadRequest)?;
    request.headers_mut().insert(HOST, upstream.own_host.clone());
    let mut answer = pin!(sender.send_request(request));
    let mut connection = pin!(connection);
    let mut ended = false;
    let answered = poll_fn(|cx| {
        if !ended {
            ended = connection.as_mut().poll(cx).is_ready();
        }
        match answer.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending if ended => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    match timeout(upstream.response_timeout, answered).await {
        Err(_elapsed) => Err(Error::TooSlow),
        Ok(Some(Ok(answer))) => Ok(answer.status()),
        Ok(Some(Err(error))) if error.is_parse() => Err(Error::BadResponse),
        Ok(Some(Err(_)) | None) => Err(Error::BrokenOff),
    }
}
