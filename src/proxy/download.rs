//! An answer's body on its way to the client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::Ended;
use super::alarm::after;
use super::counters::Gauge;
use super::pool::{Link, Pool};
use crate::wire::body::BodyError;

/// How often a stream that is silent asks whether its session has ended.
const CUT_OFF_TICK: Duration = Duration::from_secs(1);

/// A body that drives the connection it comes from, and gives it back when it has ended cleanly. Dropped before that it
/// closes the connection, so an upstream learns that its client went away.
pub(super) struct Download {
    incoming: Incoming,
    link: Option<Box<Link>>,
    pool: Arc<Pool>,
    ended: Option<Ended>,
    /// Since when nothing was carried, and how much had been then.
    silent: Option<(Instant, u64)>,
    next_look: Option<Instant>,
    gauge: Option<Gauge>,
    failed: Option<BodyError>,
}

impl Download {
    pub(super) fn new(incoming: Incoming, link: Box<Link>, pool: Arc<Pool>, ended: Option<Ended>, gauge: Gauge) -> Self {
        Self { incoming, link: Some(link), pool, ended, silent: None, next_look: None, gauge: Some(gauge), failed: None }
    }

    /// The body is complete: the connection can serve the next request, if it was left clean.
    fn finish(&mut self, cx: &mut Context<'_>) {
        self.gauge = None;
        if let Some(mut link) = self.link.take()
            && (link.is_idle() || (link.drive(cx) && link.is_idle()))
        {
            self.pool.put(link);
        }
    }

    /// Cuts the body off, but only when it is polled once more: hyper throws away what it has not written when a body
    /// fails, and what came before belongs to the client.
    fn fail(&mut self, error: BodyError, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.gauge = None;
        self.link = None;
        self.failed = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // What failed must not be asked again: hyper's next word would be a clean end.
        if self.failed.is_some() {
            return Poll::Pending;
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                self.finish(cx);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => self.fail(BodyError::Broken(error), cx),
            Poll::Ready(Some(Ok(frame))) => {
                // With a known length nobody polls again after the last byte.
                if self.incoming.is_end_stream() {
                    self.finish(cx);
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    /// Ready with what to cut the body off for.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let Some(link) = &mut self.link else {
            return Poll::Pending;
        };
        loop {
            let carried = link.traffic.total();
            let since = match self.silent {
                Some((since, before)) if before == carried => since,
                Some(_) | None => {
                    let now = Instant::now();
                    self.silent = Some((now, carried));
                    now
                }
            };
            let idle_at = after(since, self.pool.upstream.stream_idle_timeout);
            let look_at = self.ended.as_ref().map(|_| *self.next_look.get_or_insert_with(|| Instant::now() + CUT_OFF_TICK));
            if link.alarm.poll(cx, look_at.map_or(idle_at, |look_at| look_at.min(idle_at))).is_pending() {
                return Poll::Pending;
            }
            if self.ended.as_ref().is_some_and(|ended| ended()) {
                return Poll::Ready(BodyError::Ended);
            }
            if Instant::now() >= idle_at {
                return Poll::Ready(BodyError::Idle);
            }
            self.next_look = None;
        }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        // A stream that always has something ready never gets to wait for the alarm.
        if this.ended.as_ref().is_some_and(|ended| ended()) {
            return this.fail(BodyError::Ended, cx);
        }
        // Twice, for the first time may only have said that we want something.
        if let Poll::Ready(frame) = this.poll_incoming(cx) {
            return Poll::Ready(frame);
        }
        if let Some(link) = &mut this.link {
            link.drive(cx);
        }
        if let Poll::Ready(frame) = this.poll_incoming(cx) {
            return Poll::Ready(frame);
        }
        match this.poll_cut(cx) {
            Poll::Ready(error) => this.fail(error, cx),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
