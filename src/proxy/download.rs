//! An answer's body on its way to the client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::cut::Cut;
use super::exchange::InFlight;
use super::http1::Broken;
use super::pool::{Link, Pool};
use super::response;
use crate::wire::body::BodyError;

/// A body that drives the connection it comes from, and gives it back when it has ended cleanly. Dropped before that it
/// closes the connection, so an upstream learns that its client went away.
pub(super) struct Download {
    link: Option<Box<Link>>,
    pool: Arc<Pool>,
    cut: Cut,
    place: Option<InFlight>,
    failed: Option<BodyError>,
}

impl Download {
    pub(super) fn new(link: Box<Link>, pool: Arc<Pool>, cut: Cut, place: InFlight) -> Self {
        Self { link: Some(link), pool, cut, place: Some(place), failed: None }
    }

    /// The body is complete: the connection can serve the next request, if it was left clean.
    fn finish(&mut self) {
        self.place = None;
        if let Some(link) = self.link.take() {
            self.pool.put(link);
        }
    }

    /// Cuts the body off, but only when it is polled once more: hyper throws away what it has not written when a body
    /// fails, and what came before belongs to the client.
    fn fail(&mut self, error: BodyError, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.place = None;
        self.link = None;
        self.failed = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_link(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(link) = &mut self.link else {
            return Poll::Ready(None);
        };
        let polled = ready!(link.http.poll_body(cx));
        match polled {
            Some(Err(broken)) => {
                if let Broken::Malformed(error) = broken {
                    tracing::warn!(upstream = %self.pool.upstream.name, %error, "an answer's body is not valid HTTP");
                }
                self.fail(BodyError::Gone, cx)
            }
            // With a known length nobody polls again after the last byte.
            Some(Ok(frame)) => {
                if link.http.is_complete() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(match frame.into_trailers() {
                    Ok(mut trailers) => {
                        response::clean_trailers(&mut trailers);
                        Frame::trailers(trailers)
                    }
                    Err(data) => data,
                })))
            }
            None => {
                self.finish();
                Poll::Ready(None)
            }
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
        if this.cut.is_due() {
            return this.fail(BodyError::Ended, cx);
        }
        if let Poll::Ready(frame) = this.poll_link(cx) {
            return Poll::Ready(frame);
        }
        let Some(link) = &mut this.link else { return Poll::Pending };
        match this.cut.poll(cx, &mut link.alarm, &link.traffic) {
            Poll::Ready(error) => this.fail(error, cx),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.link.is_none() && self.failed.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.link.as_ref().map_or_else(|| SizeHint::with_exact(0), |link| link.http.size_hint())
    }
}
