//! A request's body on its way to the upstream.

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};

use super::{Proxy, request};
use crate::wire::body::BodyError;

/// How long the body is held back for the upstream's `100 Continue` (RFC 9110, section 10.1.1, lets a client go on after
/// a while, because servers that know nothing of it never send one).
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// What hyper sends. Most requests have no body and cost nothing here.
pub(super) enum Upload {
    None,
    Stream(Box<UploadStream>),
}

/// A body that streams, with its limit.
pub(super) struct UploadStream {
    incoming: Incoming,
    proxy: Arc<Proxy>,
    left: u64,
    /// Holds the body back until it is done.
    gate: Option<Pin<Box<Sleep>>>,
    progress: Arc<Progress>,
}

/// How far a body has got, seen from outside.
#[derive(Debug, Default)]
pub(super) struct Progress {
    done: AtomicBool,
    too_large: AtomicBool,
    client_gone: AtomicBool,
    /// The upstream wants the body.
    wanted: AtomicBool,
    /// The upstream has answered.
    answered: AtomicBool,
}

impl Upload {
    /// `body`, of at most `limit` bytes, and how to watch it. With `expect` nothing is taken from the client before the
    /// upstream asks for it, has answered or has let a second pass.
    pub(super) fn new(body: Incoming, proxy: &Arc<Proxy>, limit: Option<u64>, expect: bool) -> (Self, Option<Arc<Progress>>) {
        if body.is_end_stream() {
            return (Self::None, None);
        }
        let progress = Arc::new(Progress::default());
        let stream = UploadStream {
            incoming: body,
            proxy: Arc::clone(proxy),
            left: limit.unwrap_or(u64::MAX),
            gate: expect.then(|| Box::pin(sleep(CONTINUE_WAIT))),
            progress: Arc::clone(&progress),
        };
        (Self::Stream(Box::new(stream)), Some(progress))
    }
}

impl Progress {
    /// Whether the last byte was handed over, or nobody wants more.
    pub(super) fn done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// Whether the body was cut because of its size.
    pub(super) fn too_large(&self) -> bool {
        self.too_large.load(Ordering::Relaxed)
    }

    /// Whether the body was cut because the client broke off.
    pub(super) fn client_gone(&self) -> bool {
        self.client_gone.load(Ordering::Relaxed)
    }

    /// The upstream has said `100 Continue`.
    pub(super) fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// The upstream has answered: a body that is still held back will not be sent.
    pub(super) fn answer(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }
}

impl UploadStream {
    /// Ready when the body may be taken from the client. What opens the gate early happens while the connection is
    /// driven, which polls this right after, so nobody needs to be woken.
    fn poll_gate(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(gate) = &mut self.gate {
            if !self.progress.wanted.load(Ordering::Relaxed) {
                if self.progress.answered.load(Ordering::Relaxed) {
                    return Poll::Pending;
                }
                ready!(gate.as_mut().poll(cx));
            }
            self.gate = None;
        }
        Poll::Ready(())
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = match self.get_mut() {
            Self::None => return Poll::Ready(None),
            Self::Stream(stream) => stream.as_mut(),
        };
        ready!(this.poll_gate(cx));
        let frame = match ready!(Pin::new(&mut this.incoming).poll_frame(cx)) {
            None => {
                this.progress.done.store(true, Ordering::Relaxed);
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                this.progress.client_gone.store(true, Ordering::Relaxed);
                return Poll::Ready(Some(Err(BodyError::Broken(error))));
            }
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            match this.left.checked_sub(u64::try_from(data.len()).unwrap_or(u64::MAX)) {
                Some(left) => this.left = left,
                None => {
                    this.progress.too_large.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(BodyError::TooLarge)));
                }
            }
        }
        if this.incoming.is_end_stream() {
            this.progress.done.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Some(Ok(match frame.into_trailers() {
            Ok(mut trailers) => {
                request::clean_trailers(&this.proxy.names, &mut trailers);
                Frame::trailers(trailers)
            }
            Err(data) => data,
        })))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::None => true,
            Self::Stream(stream) => stream.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::None => SizeHint::with_exact(0),
            Self::Stream(stream) => stream.incoming.size_hint(),
        }
    }
}

impl Drop for UploadStream {
    /// Nobody reads on: what there is to wait for is the answer.
    fn drop(&mut self) {
        self.progress.done.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("Upload::None"),
            Self::Stream(stream) => write!(f, "Upload::Stream({:?})", stream.progress),
        }
    }
}
