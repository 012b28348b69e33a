//! A request's body on its way into its stream.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body as _;

use super::super::stream::Traffic;
use super::super::upload::Upload;

/// Carries a body as fast as the other side's window allows. Done when it is through or nobody wants more of it; a body
/// that breaks off resets its stream.
pub(super) struct Pump {
    upload: Upload,
    stream: SendStream<Bytes>,
    /// What waits for room, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
    traffic: Arc<Traffic>,
    touched: bool,
}

impl Pump {
    pub(super) fn new(upload: Upload, stream: SendStream<Bytes>, traffic: Arc<Traffic>) -> Self {
        Self { upload, stream, waiting: None, traffic, touched: false }
    }

    /// The body, if nothing of it was taken yet.
    pub(super) fn into_untouched(self) -> Option<Upload> {
        (!self.touched).then_some(self.upload)
    }

    /// Ready when what waits was handed over; `false`: the stream takes no more.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.waiting.is_none() {
            return Poll::Ready(true);
        }
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(false),
            }
        }
        let Some((chunk, last)) = self.waiting.take() else { return Poll::Ready(true) };
        self.traffic.did_write(chunk.len());
        // More than the window is kept by `h2` and sent as it opens; the next chunk waits until that is gone.
        Poll::Ready(self.stream.send_data(chunk, last).is_ok() && !last)
    }
}

impl Future for Pump {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            // Also to be woken when the other side wants no more of it.
            if let Poll::Ready(_reset) = this.stream.poll_reset(cx) {
                return Poll::Ready(());
            }
            if !ready!(this.poll_waiting(cx)) {
                return Poll::Ready(());
            }
            let Some(frame) = ready!(Pin::new(&mut this.upload).poll_frame(cx)) else {
                // An error means that the stream is over, which its other half knows better.
                let _over = this.stream.send_data(Bytes::new(), true);
                return Poll::Ready(());
            };
            this.touched = true;
            let Ok(frame) = frame else {
                this.stream.send_reset(Reason::CANCEL);
                return Poll::Ready(());
            };
            match frame.into_data() {
                Ok(chunk) => {
                    let last = this.upload.is_end_stream();
                    // Reserving one byte is enough to be told of room, and takes none from other streams meanwhile.
                    if chunk.is_empty() {
                        if this.stream.send_data(chunk, last).is_err() || last {
                            return Poll::Ready(());
                        }
                    } else {
                        this.stream.reserve_capacity(1);
                        this.waiting = Some((chunk, last));
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        this.stream.reserve_capacity(0);
                        let _over = this.stream.send_trailers(trailers);
                        return Poll::Ready(());
                    }
                }
            }
        }
    }
}
