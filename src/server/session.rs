//! hyper on a connection, from the first byte of a request until the connection ends or rests.
//!
//! hyper's own header timer also runs while a keep-alive connection waits for its next request, so it stays off; see
//! `activity` for the clocks. When an HTTP/1.1 connection rests, hyper is told that the stream has ended, and goes.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};

use super::activity::{InFlight, Look};
use super::answered::Answered;
use super::connection::{Connection, Settings};
use super::parked::GOODBYE;
use super::serving::Serving;
use super::untaken::Untaken;
use super::watched::{Held, Slot, Watched};
use crate::tasks::Tasks;
use crate::telemetry::metrics::Limit;

/// How soon a connection is looked at for the first time.
const FIRST_LOOK: Duration = Duration::from_millis(250);

/// How long, and for how many bytes, a client is heard out whose request was refused before it was read: closing at once
/// would reset the connection, and the answer could be lost (RFC 9112, section 9.6).
const HEAR_OUT: Duration = Duration::from_secs(1);
const HEAR_OUT_BYTES: usize = 1 << 20;

/// The answer to a head that does not end (RFC 9110, section 15.5.9).
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// The answer to a head that is too large and does not end (RFC 6585, section 5).
const TOO_LARGE: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// The most that hyper reads of a body at a time, in bytes, as large as the pieces of an answer. It begins with 8 KiB and takes
/// more when that was filled.
const READ: usize = 128 * 1024;

/// HTTP/2's last frame: GOAWAY for every stream, `ENHANCE_YOUR_CALM` (RFC 9113, sections 6.8 and 7).
const CALM_DOWN: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0xb];

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// What a connection has beside its socket.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) connection: Arc<Connection>,
    pub(super) settings: Arc<Settings>,
    pub(super) tasks: Tasks,
}

/// How hyper's part ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The connection rests.
    Resting,
    /// It is over.
    Over,
    /// The grace is over.
    Cut,
    /// A head took too long.
    SlowHead,
    /// A head is larger than it may be, and does not end.
    LargeHead,
    /// Too many streams were taken back.
    Flooded,
}

/// Speaks until the connection rests, and then gives it back, or until it ends.
pub(super) async fn run<S>(held: Held<S>, protocol: Protocol, shared: &Shared) -> Option<Held<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = &shared.connection.activity;
    activity.taken_over(protocol == Protocol::Http2);
    let slot = Slot::new();
    let measured = (protocol == Protocol::Http1).then_some(shared.settings.max_header_size);
    let io = TokioIo::new(Watched::new(held, measured, &shared.connection, &slot));
    let end = match protocol {
        Protocol::Http1 => speak_http1(io, shared).await,
        Protocol::Http2 => speak_http2(io, shared).await,
    };
    // Not there: it was upgraded and belongs to somebody else.
    let mut held = slot.take()?;
    match end {
        End::Resting => return Some(held),
        End::SlowHead => too_slow(&mut held, shared).await,
        End::LargeHead => {
            shared.settings.metrics.limited(Limit::Header);
            refuse(&mut held, shared, TOO_LARGE).await;
        }
        End::Flooded => {
            shared.settings.metrics.limited(Limit::Http2Resets);
            if !activity.write_stuck() {
                let _told_or_not = timeout(HEAR_OUT, held.stream.write_all(&CALM_DOWN)).await;
            }
        }
        // hyper did not end it itself.
        End::Over if activity.has_let_go() => {
            let _said_or_not = timeout(GOODBYE, held.stream.shutdown()).await;
        }
        End::Over if !activity.all_read() && !activity.has_ended() => hear_out(&mut held.stream).await,
        End::Over | End::Cut => {}
    }
    None
}

/// Tells a client that its head took too long, and ends the connection.
pub(super) async fn too_slow<S: AsyncRead + AsyncWrite + Unpin>(held: &mut Held<S>, shared: &Shared) {
    shared.settings.metrics.limited(Limit::HeaderTimeout);
    refuse(held, shared, TOO_SLOW).await;
}

/// Answers a head that is not complete, and ends the connection.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(held: &mut Held<S>, shared: &Shared, answer: &[u8]) {
    // Nothing may be written into an answer that the client has not taken yet.
    if !shared.connection.activity.write_stuck() {
        let told = timeout(HEAR_OUT, held.stream.write_all(answer)).await;
        if matches!(told, Ok(Ok(()))) {
            hear_out(&mut held.stream).await;
        }
    }
}

/// Ends our side and reads on for a while what nobody wants, so that the answer arrives.
async fn hear_out<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let heard = async {
        stream.shutdown().await?;
        let (mut bytes, mut total) = ([0; 4096], 0);
        while total < HEAR_OUT_BYTES {
            match stream.read(&mut bytes).await? {
                0 => break,
                count => total += count,
            }
        }
        Ok::<_, std::io::Error>(())
    };
    let _heard_or_not = timeout(HEAR_OUT, heard).await;
}

async fn speak_http1<S>(io: TokioIo<Watched<S>>, shared: &Shared) -> End
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Shared { connection, settings, tasks } = shared;
    let activity = &connection.activity;
    let service = service_fn(|request: Request<Incoming>| {
        let serving = connection.current.get();
        let in_flight = InFlight::begin(connection, request.body().size_hint().exact());
        let is_too_large = is_head_larger_than(&request, settings.max_header_size);
        if is_too_large {
            settings.metrics.limited(Limit::Header);
        }
        async move {
            let connection = in_flight.connection();
            let mut response = if is_too_large {
                serving.gateway.head_too_large(connection, &request)
            } else {
                serving.gateway.handle(&serving.upstreams, connection, request).await
            };
            if is_too_large || ((connection.activity.closing() || tasks.stopping()) && response.status() != StatusCode::SWITCHING_PROTOCOLS)
            {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                connection.activity.upgrade();
            }
            in_flight.hand_over();
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(settings.max_header_size.max(READ))
        .max_headers(settings.max_headers);
    let mut serving = pin!(builder.serve_connection(io, service).with_upgrades());
    let mut alarm = pin!(sleep(FIRST_LOOK.min(settings.idle_timeout).min(settings.header_timeout)));
    // First the signal to drain, then the one that it is over.
    let mut signal = pin!(tasks.stopped());
    let mut leave = pin!(activity.asked_to_leave());
    let (mut draining, mut leaving) = (false, false);
    loop {
        tokio::select! {
            biased;
            ended = serving.as_mut() => return match ended {
                Ok(()) if activity.has_let_go() && !draining && !leaving => End::Resting,
                Ok(()) => End::Over,
                Err(_) if activity.is_head_too_large() => End::LargeHead,
                Err(error) => {
                    tracing::debug!(%error, "a connection ended with an error");
                    if error.is_parse_too_large() {
                        settings.metrics.limited(Limit::Header);
                    }
                    End::Over
                }
            },
            () = signal.as_mut() => {
                if draining {
                    return End::Cut;
                }
                draining = true;
                activity.close();
                signal.set(tasks.cut_off());
                alarm.as_mut().reset(Instant::now());
            }
            () = leave.as_mut() => {
                settings.metrics.limited(Limit::Room);
                return End::Cut;
            }
            () = alarm.as_mut() => match activity.look(settings, draining, Instant::now()) {
                Look::Again(at) => alarm.as_mut().reset(at),
                Look::SlowHead => return End::SlowHead,
                Look::Stuck => return stuck(settings),
                Look::Resting if !activity.is_released() => {
                    leaving = activity.idle_for(Instant::now()) >= settings.idle_timeout;
                    activity.release();
                    alarm.as_mut().reset(Instant::now() + settings.header_timeout);
                }
                Look::Idle if !leaving => {
                    leaving = true;
                    if !draining {
                        settings.metrics.limited(Limit::IdleTimeout);
                    }
                    serving.as_mut().graceful_shutdown();
                    alarm.as_mut().reset(Instant::now() + settings.header_timeout);
                }
                // A second time means that the client does not even read our goodbye.
                Look::Resting | Look::Idle => return End::Cut,
            },
        }
    }
}

async fn speak_http2<S>(io: TokioIo<Watched<S>>, shared: &Shared) -> End
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Shared { connection, settings, tasks } = shared;
    let activity = &connection.activity;
    let untaken = connection.untaken.get_or_init(|| Arc::new(Untaken::new(Instant::now())));
    let service = service_fn(|request: Request<Incoming>| {
        let (serving, settings) = (connection.current.get(), Arc::clone(settings));
        let in_flight = InFlight::begin(connection, Some(0));
        async move {
            let response = answer_http2(&serving, in_flight.connection(), &settings, request).await;
            in_flight.hand_over();
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = http2::Builder::new(OnTasks(tasks.clone()));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.http2.max_streams)
        .max_pending_accept_reset_streams(settings.http2.max_resets as usize)
        .max_local_error_reset_streams(settings.http2.max_resets as usize)
        .max_header_list_size(u32::try_from(settings.max_header_size).unwrap_or(u32::MAX))
        .enable_connect_protocol()
        .keep_alive_interval(settings.idle_timeout)
        .keep_alive_timeout(settings.header_timeout);
    let mut serving = pin!(builder.serve_connection(io, service));
    let mut alarm = pin!(sleep(settings.header_timeout.min(settings.idle_timeout)));
    let mut signal = pin!(tasks.stopped());
    let mut flooded = pin!(activity.flooded(settings.http2.max_resets));
    let mut leave = pin!(activity.asked_to_leave());
    let (mut draining, mut leaving, mut making_room) = (false, false, false);
    loop {
        tokio::select! {
            biased;
            () = flooded.as_mut() => return End::Flooded,
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended with an error");
                    if is_flood(&error) {
                        settings.metrics.limited(Limit::Http2Flood);
                    }
                }
                return End::Over;
            }
            () = signal.as_mut() => {
                if draining {
                    return End::Cut;
                }
                draining = true;
                // GOAWAY, a ping to learn what is under way, GOAWAY again; what came before is answered.
                serving.as_mut().graceful_shutdown();
                signal.set(tasks.cut_off());
                alarm.as_mut().reset(Instant::now());
            }
            () = leave.as_mut(), if !making_room => {
                making_room = true;
                settings.metrics.limited(Limit::Room);
                // A word first: its client may be about to open a stream, and learns that it has to do so elsewhere.
                serving.as_mut().graceful_shutdown();
                alarm.as_mut().reset(Instant::now() + GOODBYE);
            }
            () = alarm.as_mut() => {
                let now = Instant::now();
                if making_room && !activity.busy() {
                    return End::Cut;
                }
                let (cut, waiting) = untaken.cut(settings.idle_timeout, now);
                for _ in 0..cut {
                    settings.metrics.limited(Limit::IdleTimeout);
                }
                // Whoever takes nothing of anything is like one that does not read its socket.
                if waiting > 0 && waiting >= activity.in_flight() {
                    return End::Cut;
                }
                match activity.look(settings, draining, now) {
                    Look::Again(at) => alarm.as_mut().reset(at),
                    Look::Stuck => return stuck(settings),
                    Look::Idle | Look::Resting | Look::SlowHead if !leaving => {
                        leaving = true;
                        if !draining {
                            settings.metrics.limited(Limit::IdleTimeout);
                            serving.as_mut().graceful_shutdown();
                        }
                        alarm.as_mut().reset(Instant::now() + settings.header_timeout);
                    }
                    Look::Idle | Look::Resting | Look::SlowHead => return End::Cut,
                }
            }
        }
    }
}

/// Its client takes nothing of an answer.
fn stuck(settings: &Settings) -> End {
    settings.metrics.limited(Limit::IdleTimeout);
    End::Cut
}

async fn answer_http2(
    serving: &Serving,
    connection: &Arc<Connection>,
    settings: &Settings,
    request: Request<Incoming>,
) -> Response<Answered> {
    // HTTP/1.1's parser counts by itself; HTTP/2's counts bytes alone.
    if request.headers().len() > settings.max_headers {
        settings.metrics.limited(Limit::Header);
        return serving.gateway.head_too_large(connection, &request);
    }
    serving.gateway.handle(&serving.upstreams, connection, request).await
}

/// hyper holds a head that comes bit by bit against its limit, but not one that comes at once.
fn is_head_larger_than(request: &Request<Incoming>, limit: usize) -> bool {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    fields.fold(target, |sum, field| sum + field) > limit
}

/// Whether h2 itself ended the connection because its client asked for too much (RFC 9113, section 10.5).
fn is_flood(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
        }
        source = cause.source();
    }
    false
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
