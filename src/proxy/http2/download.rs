//! An answer's body on its way from its stream to the client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame, SizeHint};

use super::super::cut::Cut;
use super::super::exchange::InFlight;
use super::super::response;
use super::exchange::Exchange;
use crate::wire::body::BodyError;

/// A body that hands its window back as the client takes it. Dropped before its end it resets the stream.
pub(in crate::proxy) struct Http2Download {
    /// `None`: the body has ended or was cut off.
    open: Option<Open>,
    /// Bytes that are left of a body of known length; `h2` minds that it is kept.
    left: Option<u64>,
    failed: Option<BodyError>,
}

struct Open {
    stream: RecvStream,
    exchange: Exchange,
    cut: Cut,
    /// Whether there is nothing left but trailers.
    data_ended: bool,
    _place: InFlight,
}

impl Http2Download {
    /// `length` is what `Content-Length` says.
    pub(in crate::proxy) fn new(stream: RecvStream, length: Option<u64>, exchange: Exchange, cut: Cut, place: InFlight) -> Self {
        Self { open: Some(Open { stream, exchange, cut, data_ended: false, _place: place }), left: length, failed: None }
    }

    /// Cuts the body off, but only when it is polled once more: hyper throws away what it has not written when a body
    /// fails, and what came before belongs to the client.
    fn fail(&mut self, error: BodyError, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.open = None;
        self.failed = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Open {
    /// The next piece; an error is the upstream's.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.exchange.traffic.did_read(data.len());
                    // The client takes the next piece only when it has room again. It fails for a stream that is over.
                    let _over = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(mut trailers)) => {
                response::clean_trailers(&mut trailers);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}

impl Body for Http2Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(open) = &mut this.open else {
            return Poll::Ready(None);
        };
        if open.cut.is_due() {
            return this.fail(BodyError::Ended, cx);
        }
        match open.poll_frame(cx) {
            Poll::Ready(None) => {
                this.open = None;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "an answer broke off");
                this.fail(BodyError::Gone, cx)
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(left), Some(data)) = (&mut this.left, frame.data_ref()) {
                    *left = left.saturating_sub(u64::try_from(data.len()).unwrap_or(u64::MAX));
                }
                // With a known length nobody polls again after the last byte.
                if frame.is_trailers() || open.stream.is_end_stream() {
                    this.open = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Pending => match open.cut.poll(cx, &mut open.exchange.alarm, &open.exchange.traffic) {
                Poll::Ready(error) => this.fail(error, cx),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.open.as_ref().is_none_or(|open| open.stream.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
