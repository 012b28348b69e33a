//! Answers over HTTP/2 of which the client takes nothing. hyper asks for more of a body only while the stream's window is
//! open, so a client that never opens it would keep the upstream's connection from everybody else for as long as it likes
//! (RFC 9113, section 10.5). What counts is that it asks for a next piece. An HTTP/1.1 client that does so is seen at its socket: see `activity`.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use crate::wire::body::{Body, BodyError};

/// The largest piece that is handed on at once, in bytes: HTTP/2's default frame. The larger the pieces, the longer a slow
/// client may seem to take nothing.
const PIECE: usize = 16 * 1024;

/// The bodies of a connection's streams, as far as they come from somewhere.
#[derive(Debug)]
pub(super) struct Untaken {
    began: Instant,
    bodies: Mutex<Vec<Weak<Watched>>>,
}

/// A body, and since when nobody has asked for more of it.
struct Watched {
    /// Milliseconds since the connection was accepted, plus one; 0: it is asked, and waits for its upstream.
    since: AtomicU64,
    /// `None`: it was cut off.
    body: Mutex<Option<Body>>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

impl Untaken {
    /// For a connection that was accepted then.
    pub(super) const fn new(began: Instant) -> Self {
        Self { began, bodies: Mutex::new(Vec::new()) }
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.duration_since(self.began).as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// The body to hand to hyper instead; what is in memory already is left as it is.
    pub(super) fn watch(self: &Arc<Self>, body: Body) -> Body {
        if !matches!(body, Body::Stream(_) | Body::Incoming(_)) {
            return body;
        }
        let watched = Arc::new(Watched { since: AtomicU64::new(self.millis(Instant::now())), body: Mutex::new(Some(body)) });
        let mut bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        bodies.retain(|body| body.strong_count() > 0);
        bodies.push(Arc::downgrade(&watched));
        drop(bodies);
        Body::stream(Taken { watched, of: Arc::clone(self), rest: Bytes::new() })
    }

    /// Cuts off every body of which nothing was taken for `limit`, and lets go of its upstream. Returns how many that were
    /// now, and how many are cut off and still there because their clients have not noticed.
    pub(super) fn cut(&self, limit: Duration, now: Instant) -> (usize, usize) {
        let bodies: Vec<_> = {
            let mut bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
            bodies.retain(|body| body.strong_count() > 0);
            bodies.iter().filter_map(Weak::upgrade).collect()
        };
        let (mut cut, mut there) = (0, 0);
        let latest = self.millis(now).saturating_sub(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        for watched in bodies {
            let since = watched.since.load(Ordering::Relaxed);
            let mut body = watched.body.lock().unwrap_or_else(PoisonError::into_inner);
            if since != 0 && since <= latest && body.take().is_some() {
                cut += 1;
            }
            there += usize::from(body.is_none());
        }
        (cut, there)
    }
}

/// See [`Untaken::watch`].
struct Taken {
    watched: Arc<Watched>,
    of: Arc<Untaken>,
    /// Of the last piece, what was too much for one.
    rest: Bytes,
}

impl Taken {
    /// As much of a piece as may go at once.
    fn some_of(&mut self, mut piece: Bytes) -> Frame<Bytes> {
        let some = piece.split_to(piece.len().min(PIECE));
        self.rest = piece;
        Frame::data(some)
    }

    fn body(&self) -> std::sync::MutexGuard<'_, Option<Body>> {
        self.watched.body.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpBody for Taken {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match this.body().as_mut() {
            None => return Poll::Ready(Some(Err(BodyError::Idle))),
            Some(_) if !this.rest.is_empty() => Poll::Ready(None),
            Some(body) => Pin::new(body).poll_frame(cx),
        };
        let since = if polled.is_ready() { this.of.millis(Instant::now()) } else { 0 };
        this.watched.since.store(since, Ordering::Relaxed);
        if !this.rest.is_empty() {
            let rest = std::mem::take(&mut this.rest);
            return Poll::Ready(Some(Ok(this.some_of(rest))));
        }
        polled.map(|frame| {
            Some(frame?.map(|frame| match frame.into_data() {
                Ok(data) if data.len() > PIECE => this.some_of(data),
                Ok(data) => Frame::data(data),
                Err(other) => other,
            }))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body().as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body().as_ref().map_or_else(SizeHint::default, Body::size_hint);
        let rest = self.rest.len() as u64;
        match hint.exact() {
            Some(exact) => hint.set_exact(exact + rest),
            None => hint.set_lower(hint.lower() + rest),
        }
        hint
    }
}
