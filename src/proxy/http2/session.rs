//! One HTTP/2 connection to an upstream, and the task that drives it.

use std::fmt;
use std::future::{Future as _, pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, PingPong};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::super::Error;
use super::super::connect::Dialed;
use super::super::resolve::Origin;
use super::super::stream::{Stream, Traffic};
use super::super::upstream::Permit;
use crate::tasks::Tasks;

/// Streams at a time on one connection, if the peer allows as many. It bounds what one connection's end takes along.
const MAX_STREAMS: usize = 100;

/// Bytes of one answer that may be on their way to us before its client has taken them. An upstream is near: 256 KiB at
/// a round trip of a millisecond are two gigabits a second.
const STREAM_WINDOW: u32 = 256 * 1024;

/// The same for all answers of a connection: with less than the sum, clients that stop reading would stop all the others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 100;

/// The largest frame that we take: fewer and larger ones cost less.
const MAX_FRAME: u32 = 64 * 1024;

/// The largest head of an answer, as RFC 9113, section 6.5.2, counts it.
const MAX_HEADER_LIST: u32 = 64 * 1024;

/// How often a connection is looked at.
const TICK: Duration = Duration::from_secs(1);

/// Ticks after which a connection without streams is closed. Unlike with HTTP/1.1 nothing is lost when the other side is
/// quicker: its GOAWAY says which streams it has not looked at.
const IDLE_TICKS: u32 = 60;

/// Ticks of silence, with streams open, after which a PING asks whether anybody is there.
const SILENT_TICKS: u32 = 20;

/// The same for every further PING of the same silence. gRPC's servers close a connection after three pings within five
/// minutes each in which they had nothing to say (`too_many_pings`).
const SILENT_TICKS_AGAIN: u32 = 310;

/// How long the answer to a PING may take.
const PONG_WAIT: Duration = Duration::from_secs(10);

/// A connection, as its streams share it.
pub(super) struct Session {
    /// `None`: it takes no new streams.
    sender: Mutex<Option<SendRequest<Bytes>>>,
    streams: AtomicUsize,
    /// Whether a request was ever answered on it.
    has_answered: AtomicBool,
    /// Whether an answer is overdue and a PING has not come back since: until it does, new requests go elsewhere.
    in_doubt: AtomicBool,
    doubted: Notify,
    traffic: Arc<Traffic>,
    freed: Arc<Notify>,
    /// Which of a name's addresses it leads to.
    pub(super) origin: Option<Origin>,
}

/// A stream's place on a connection.
pub(in crate::proxy) struct Slot {
    session: Arc<Session>,
    pub(super) sender: SendRequest<Bytes>,
}

/// Begins to speak on `stream`, and waits until the other side has said its settings: then it is known that it speaks
/// HTTP/2 at all, and how many streams it takes. `permit` is held for as long as the connection is open.
pub(super) async fn establish(
    dialed: Dialed,
    permit: Permit,
    freed: Arc<Notify>,
    limit: Duration,
    tasks: &Tasks,
) -> Result<Arc<Session>, Error> {
    let Dialed { stream, origin, .. } = dialed;
    let traffic = stream.traffic();
    let greeted = async {
        let (sender, mut connection) = builder().handshake::<_, Bytes>(stream).await?;
        let Some(mut pings) = connection.ping_pong() else { return Ok(None) };
        {
            // Settings are the first thing that anybody sends (RFC 9113, section 3.4), so they come before the answer.
            let mut pong = pin!(pings.ping(Ping::opaque()));
            poll_fn(|cx| match pin!(&mut connection).poll(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => Poll::Ready(Err(h2::Reason::NO_ERROR.into())),
                Poll::Pending => pong.as_mut().poll(cx).map_ok(|_pong| ()),
            })
            .await?;
        }
        Ok::<_, h2::Error>(Some((sender, connection, pings)))
    };
    let (sender, connection, pings) = match timeout(limit, greeted).await {
        Ok(Ok(Some(greeted))) => greeted,
        Ok(Ok(None)) => return Err(Error::Unreachable),
        Ok(Err(error)) => {
            tracing::warn!(%error, "an upstream does not speak HTTP/2");
            return Err(Error::Unreachable);
        }
        Err(_elapsed) => {
            tracing::warn!("an upstream did not answer the beginning of HTTP/2 in time");
            return Err(Error::TooSlow);
        }
    };
    let session = Arc::new(Session {
        sender: Mutex::new(Some(sender)),
        streams: AtomicUsize::new(0),
        has_answered: AtomicBool::new(false),
        in_doubt: AtomicBool::new(false),
        doubted: Notify::new(),
        traffic,
        freed,
        origin,
    });
    drop(tasks.spawn(drive(connection, pings, Arc::clone(&session), tasks.clone(), permit)));
    Ok(session)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADER_LIST)
        .initial_max_send_streams(MAX_STREAMS)
        .enable_push(false);
    builder
}

async fn drive(connection: Connection<Stream, Bytes>, pings: PingPong, session: Arc<Session>, tasks: Tasks, permit: Permit) {
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => {
            if let Err(error) = ended {
                tracing::debug!(%error, "an HTTP/2 connection to an upstream ended");
            }
        }
        () = watch(pings, &session, &tasks) => {
            tracing::warn!("an upstream does not answer a PING any more: its connection is given up");
        }
    }
    session.retire();
    drop(permit);
    session.freed.notify_waiters();
}

/// Resolves when nobody is at the other end any more.
async fn watch(mut pings: PingPong, session: &Session, tasks: &Tasks) {
    let mut stopped = pin!(tasks.stopped());
    let (mut stopping, mut pinged) = (false, false);
    let (mut idle, mut silent) = (0_u32, 0_u32);
    let mut heard = session.traffic.read();
    loop {
        let doubted = tokio::select! {
            () = sleep(TICK) => false,
            () = session.doubted.notified() => true,
            () = stopped.as_mut(), if !stopping => {
                stopping = true;
                session.retire();
                false
            }
        };
        let streams = session.streams.load(Ordering::Acquire);
        let now_heard = session.traffic.read();
        if std::mem::replace(&mut heard, now_heard) != now_heard {
            (silent, pinged) = (0, false);
        } else if streams > 0 {
            silent += 1;
        }
        idle = if streams > 0 { 0 } else { idle + 1 };
        if idle >= IDLE_TICKS {
            session.close_if_idle();
        }
        if doubted || silent >= if pinged { SILENT_TICKS_AGAIN } else { SILENT_TICKS } {
            match timeout(PONG_WAIT, pings.ping(Ping::opaque())).await {
                Ok(Ok(_pong)) => {}
                // The connection has ended, as its driver is about to learn.
                Ok(Err(_)) => return pending().await,
                Err(_elapsed) => return,
            }
            (silent, pinged, heard) = (0, true, session.traffic.read());
            session.in_doubt.store(false, Ordering::Release);
            session.freed.notify_waiters();
        }
    }
}

impl Session {
    /// Room for a stream, if there is some.
    pub(super) fn lease(self: &Arc<Self>) -> Option<Slot> {
        if self.in_doubt.load(Ordering::Acquire) {
            return None;
        }
        let mut sender = self.sender();
        let mut own = sender.as_ref()?.clone();
        // It fails at once when the connection has failed or a GOAWAY has come.
        if !matches!(own.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))) {
            *sender = None;
            return None;
        }
        // The peer may lower or raise its limit at any time.
        if self.streams.load(Ordering::Acquire) >= own.current_max_send_streams().min(MAX_STREAMS) {
            return None;
        }
        self.streams.fetch_add(1, Ordering::AcqRel);
        Some(Slot { session: Arc::clone(self), sender: own })
    }

    /// Whether it takes new streams.
    pub(super) fn is_open(&self) -> bool {
        self.sender().is_some()
    }

    /// Takes no new streams; without its last one the connection says goodbye (GOAWAY) and closes.
    pub(super) fn retire(&self) {
        *self.sender() = None;
    }

    /// The same if it has no streams now; `false`: it has, or was retired before.
    pub(super) fn close_if_idle(&self) -> bool {
        let mut sender = self.sender();
        self.streams.load(Ordering::Acquire) == 0 && sender.take().is_some()
    }

    fn sender(&self) -> MutexGuard<'_, Option<SendRequest<Bytes>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Whether the connection has answered a request before.
    pub(in crate::proxy) fn was_used(&self) -> bool {
        self.session.has_answered.load(Ordering::Relaxed)
    }

    /// Notes that an answer came.
    pub(super) fn answered(&self) {
        self.session.has_answered.store(true, Ordering::Relaxed);
    }

    /// Notes that an answer did not come in time: is there still anybody?
    pub(super) fn doubt(&self) {
        self.session.in_doubt.store(true, Ordering::Release);
        self.session.doubted.notify_one();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.session.streams.fetch_sub(1, Ordering::AcqRel);
        self.session.freed.notify_one();
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&self.session).finish()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("streams", &self.streams).field("open", &self.is_open()).finish_non_exhaustive()
    }
}
