//! The socket as hyper sees it: it notes when bytes come, gives back first what was read to find out the protocol, tells
//! hyper that the stream has ended when hyper is to leave, and comes back to us when hyper is done.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;
use super::connection::{Connection, Open};
use super::residue::Residue;

/// What tells the protocols apart: HTTP/2's connection preface (RFC 9113, section 3.4).
pub(super) const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection's stream between two hypers: with what was read of it already, and its place under `max_connections`.
#[derive(Debug)]
pub(super) struct Held<S> {
    pub(super) stream: S,
    ahead: [u8; PREFACE.len()],
    filled: u8,
    _open: Open,
}

impl<S> Held<S> {
    pub(super) const fn new(stream: S, open: Open) -> Self {
        Self { stream, ahead: [0; PREFACE.len()], filled: 0, _open: open }
    }

    /// What was read and not handed on.
    pub(super) fn ahead(&self) -> &[u8] {
        self.ahead.get(..usize::from(self.filled)).unwrap_or_default()
    }
}

impl<S: AsyncRead + Unpin> Held<S> {
    /// Reads on, at most as far as the preface is long; 0: the end.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let Some(room) = self.ahead.get_mut(usize::from(self.filled)..).filter(|room| !room.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        let mut buf = ReadBuf::new(room);
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        let count = buf.filled().len();
        self.filled += u8::try_from(count).unwrap_or(0);
        Poll::Ready(Ok(count))
    }
}

/// Where the stream is when hyper has dropped it. After an upgrade it comes here when the upgrade is over, and nobody
/// waits for it.
#[derive(Debug)]
pub(super) struct Slot<S>(Arc<Mutex<Option<Held<S>>>>);

impl<S> Slot<S> {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// The stream, if hyper has dropped it.
    pub(super) fn take(&self) -> Option<Held<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// See above.
pub(super) struct Watched<S> {
    /// Always there until it is dropped.
    held: Option<Held<S>>,
    connection: Arc<Connection>,
    http1: Option<Measured>,
    slot: Slot<S>,
}

/// What is measured of HTTP/1.1.
struct Measured {
    residue: Residue,
    /// Bytes of the head that is not complete; `None`: where it began can't be told, and hyper's buffer is the limit.
    head: Option<usize>,
    /// The most that they may be.
    max_header_size: usize,
}

impl Measured {
    const fn new(max_header_size: usize) -> Self {
        Self { residue: Residue::new(), head: Some(0), max_header_size }
    }

    /// Whether hyper has as much of a head as it may, and wants more. It reads bodies by more at a time, into the same buffer.
    fn is_head_too_large(&mut self, activity: &Activity) -> bool {
        if !activity.has_begun_a_head() {
            // Behind what is unread, a request that came with the one before it, a head may have begun that was not seen.
            self.head = (!activity.busy() && activity.all_read() && !activity.is_upgraded()).then_some(0);
        }
        self.head.is_some_and(|head| head >= self.max_header_size)
    }

    /// Takes note of bytes that hyper is given.
    fn read(&mut self, bytes: &[u8], activity: &Activity) {
        self.residue.read(bytes, activity.busy(), activity.all_read());
        self.head = self.head.map(|head| head.saturating_add(bytes.len()));
    }
}

impl<S> Watched<S> {
    /// `http1`: the largest head in bytes, for HTTP/1.1 alone.
    pub(super) fn new(held: Held<S>, http1: Option<usize>, connection: &Arc<Connection>, slot: &Slot<S>) -> Self {
        let slot = Slot(Arc::clone(&slot.0));
        Self { held: Some(held), connection: Arc::clone(connection), http1: http1.map(Measured::new), slot }
    }

    fn stream(&mut self) -> std::io::Result<Pin<&mut S>>
    where
        S: Unpin,
    {
        self.held.as_mut().map(|held| Pin::new(&mut held.stream)).ok_or_else(|| std::io::ErrorKind::NotConnected.into())
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        *self.slot.0.lock().unwrap_or_else(PoisonError::into_inner) = self.held.take();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        let Some(held) = this.held.as_mut() else { return Poll::Ready(Err(std::io::ErrorKind::NotConnected.into())) };
        let activity = &this.connection.activity;
        if activity.has_let_go() {
            return Poll::Ready(Ok(()));
        }
        if let Some(measured) = &mut this.http1
            && measured.is_head_too_large(activity)
        {
            activity.head_is_too_large();
            return Poll::Ready(Err(std::io::ErrorKind::InvalidData.into()));
        }
        let before = buf.filled().len();
        if held.filled > 0 {
            let count = held.ahead().len().min(buf.remaining());
            buf.put_slice(held.ahead().get(..count).unwrap_or_default());
            held.ahead.copy_within(count.., 0);
            held.filled -= u8::try_from(count).unwrap_or(held.filled);
        }
        let read = if buf.remaining() > 0 || buf.filled().len() == before {
            Pin::new(&mut held.stream).poll_read(cx, buf)
        } else {
            Poll::Ready(Ok(()))
        };
        let bytes = buf.filled().get(before..).unwrap_or_default();
        if !bytes.is_empty() {
            if let Some(measured) = &mut this.http1 {
                measured.read(bytes, activity);
                activity.note_residue(&measured.residue);
            }
            activity.received();
            // An error, if that is what came behind them, comes again.
            return Poll::Ready(Ok(()));
        }
        match read {
            // The end of the stream ends the connection.
            Poll::Ready(Ok(())) => {
                activity.end();
                activity.received();
            }
            Poll::Pending if activity.lets_go() => return Poll::Ready(Ok(())),
            Poll::Ready(Err(_)) | Poll::Pending => {}
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let wrote = self.stream()?.poll_write(cx, buf);
        self.connection.activity.wrote(wrote.is_ready());
        wrote
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let flushed = self.stream()?.poll_flush(cx);
        // TLS takes bytes before the socket does: what is through shows here alone. hyper asks when it has none left itself.
        self.connection.activity.wrote(flushed.is_ready());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.connection.activity.has_let_go() {
            return Poll::Ready(Ok(()));
        }
        self.stream()?.poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.stream.is_write_vectored())
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[std::io::IoSlice<'_>]) -> Poll<std::io::Result<usize>> {
        let wrote = self.stream()?.poll_write_vectored(cx, bufs);
        self.connection.activity.wrote(wrote.is_ready());
        wrote
    }
}
