//! A `WebSocket` on a stream (RFC 8441).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Response, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::super::Error;
use super::super::stream::Traffic;
use super::exchange::{Exchange, Why, classify};
use super::head::{Scheme, fold_websocket};
use super::session::Slot;

/// The most that is copied into one frame.
const CHUNK: usize = 16 * 1024;

/// A stream that carries bytes both ways. Dropped before both sides have ended it is reset.
pub(in crate::proxy) struct Tunnel {
    incoming: RecvStream,
    outgoing: SendStream<Bytes>,
    /// What was received and not read yet.
    buffer: Bytes,
    pub(in crate::proxy) traffic: Arc<Traffic>,
    _slot: Slot,
}

/// How an upstream answers a handshake.
pub(in crate::proxy) enum Opened {
    /// It is open; the head may choose a subprotocol.
    Open(Box<(Response<()>, Tunnel)>),
    /// It is not; the answer is for the client.
    Refused(Box<(Response<RecvStream>, Exchange)>),
}

/// Asks for a `WebSocket`, for at most `limit`.
///
/// # Errors
///
/// [`Error::BadResponse`]: the upstream has not said that it knows extended CONNECT (RFC 8441, section 3), and there is no
/// other way to ask over HTTP/2.
pub(in crate::proxy) async fn open(
    mut slot: Slot,
    uri: &Uri,
    headers: HeaderMap,
    scheme: Scheme,
    limit: Duration,
) -> Result<Opened, Error> {
    if !slot.sender.is_extended_connect_protocol_enabled() {
        tracing::warn!("an upstream that is spoken to by h2c takes no WebSocket: it does not announce SETTINGS_ENABLE_CONNECT_PROTOCOL");
        return Err(Error::BadResponse);
    }
    let request = fold_websocket(uri, headers, scheme)?;
    let (response, outgoing) = slot.sender.send_request(request, false).map_err(|_| Error::BrokenOff)?;
    let answer = timeout(limit, response).await.map_err(|_elapsed| {
        slot.doubt();
        Error::TooSlow
    })?;
    let answer = answer.map_err(|error| match classify(&error, None) {
        Why::NotProcessed | Why::Silent => Error::BrokenOff,
        Why::Final(error) => error,
    })?;
    slot.answered();
    if answer.status() != StatusCode::OK {
        // Any other 2xx would be an open stream to the upstream and a closed one to an HTTP/1.1 client.
        return if answer.status().is_success() {
            Err(Error::BadResponse)
        } else {
            Ok(Opened::Refused(Box::new((answer, Exchange::new(slot)))))
        };
    }
    let (parts, incoming) = answer.into_parts();
    let tunnel = Tunnel { incoming, outgoing, buffer: Bytes::new(), traffic: Arc::default(), _slot: slot };
    Ok(Opened::Open(Box::new((Response::from_parts(parts, ()), tunnel))))
}

impl AsyncRead for Tunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.buffer.is_empty() {
            match ready!(this.incoming.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(data)) => this.buffer = data,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let count = this.buffer.len().min(buf.remaining());
        buf.put_slice(&this.buffer.split_to(count));
        this.traffic.did_read(count);
        // What was read makes room; it fails for a stream that is over.
        let _over = this.incoming.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.outgoing.reserve_capacity(bytes.len().min(CHUNK));
        while this.outgoing.capacity() == 0 {
            match ready!(this.outgoing.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let room = this.outgoing.capacity().min(CHUNK);
        let chunk = bytes.take(room).copy_to_bytes(bytes.len().min(room));
        let count = chunk.len();
        this.outgoing.send_data(chunk, false).map_err(io::Error::other)?;
        this.traffic.did_write(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task writes whatever was handed over.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.outgoing.send_data(Bytes::new(), true).is_ok() {
            return Poll::Ready(Ok(()));
        }
        // RFC 8441, section 5: a TCP reset is a RST_STREAM; one that said CANCEL or NO_ERROR has ended all the same.
        Poll::Ready(match ready!(this.outgoing.poll_reset(cx)) {
            Ok(Reason::NO_ERROR | Reason::CANCEL | Reason::STREAM_CLOSED) => Ok(()),
            Ok(reason) => Err(io::Error::other(reason.description())),
            Err(error) => Err(io::Error::other(error)),
        })
    }
}
