//! The one response body type, and reading a request body whole.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Response;
use http::header::CONTENT_LENGTH;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// A response's body. An enum, because most are empty or whole in memory and should cost no allocation.
#[derive(Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// Bytes in memory that were not sent yet.
    Full(Bytes),
    /// What a peer sends, as it comes.
    Incoming(Incoming),
    /// Anything else that streams.
    Stream(Pin<Box<dyn HttpBody<Data = Bytes, Error = BodyError> + Send>>),
}

/// Why a body ended before its end. The peer sees its connection or stream cut, never these words.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The other side broke off.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// The other side broke off, or sent what is not HTTP.
    #[error("the connection broke")]
    Gone,
    /// The session of the person who receives it ended.
    #[error("the session ended")]
    Ended,
    /// Not a byte came for too long.
    #[error("nothing came for too long")]
    Idle,
    /// There was more of it than the limit allows.
    #[error("the body is larger than allowed")]
    TooLarge,
}

/// Why [`read_limited`] has no bytes to give.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The body is larger than the limit (413).
    #[error("the body is larger than allowed")]
    TooLarge,
    /// The peer broke off or sent what is not HTTP.
    #[error("the body broke off")]
    Broken,
    /// It did not arrive in time (408).
    #[error("the body took too long")]
    TooSlow,
}

impl Body {
    /// No bytes.
    pub const fn empty() -> Self {
        Self::Empty
    }

    /// These bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }

    /// A body that streams.
    pub fn stream(body: impl HttpBody<Data = Bytes, Error = BodyError> + Send + 'static) -> Self {
        Self::Stream(Box::pin(body))
    }
}

/// Makes the answer to a HEAD of what would be the answer to a GET: the length stays, the body does not (RFC 9110, section
/// 9.3.2). Over HTTP/1.1 hyper leaves such a body out by itself; over HTTP/2 it would send it, which is a protocol error.
pub fn keep_head_only(response: &mut Response<Body>) {
    if let Body::Full(bytes) = std::mem::take(response.body_mut()) {
        response.headers_mut().insert(CONTENT_LENGTH, bytes.len().into());
    }
}

impl From<Incoming> for Body {
    fn from(body: Incoming) -> Self {
        if body.is_end_stream() { Self::Empty } else { Self::Incoming(body) }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("Body::Empty"),
            Self::Full(bytes) => write!(f, "Body::Full({} bytes)", bytes.len()),
            Self::Incoming(_) => f.write_str("Body::Incoming"),
            Self::Stream(_) => f.write_str("Body::Stream"),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Incoming(incoming) => Pin::new(incoming).poll_frame(cx).map_err(BodyError::from),
            Self::Stream(stream) => stream.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Incoming(incoming) => incoming.is_end_stream(),
            Self::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            Self::Incoming(incoming) => incoming.size_hint(),
            Self::Stream(stream) => stream.size_hint(),
        }
    }
}

/// The whole of a request's body, if it has at most `limit` bytes. A declared length above the limit is refused
/// before anything is read, so that a client that waits for `100 Continue` sends nothing. Trailers are dropped. All of it
/// must be there after `patience`: a client that sends a byte now and then would keep its connection for ever.
pub async fn read_limited(body: Incoming, limit: usize, patience: Duration) -> Result<Bytes, ReadError> {
    tokio::time::timeout(patience, read_all(body, limit)).await.unwrap_or(Err(ReadError::TooSlow))
}

async fn read_all(mut body: Incoming, limit: usize) -> Result<Bytes, ReadError> {
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if declared > limit {
        return Err(ReadError::TooLarge);
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| ReadError::Broken)?.into_data() else {
            continue;
        };
        if data.len() > limit.saturating_sub(first.len()).saturating_sub(rest.len()) {
            return Err(ReadError::TooLarge);
        }
        // Nearly always there is one frame, which then need not be copied.
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_body_is_one_frame() {
        let mut body = Body::full("abc");
        assert_eq!(body.size_hint().exact(), Some(3));
        assert!(!body.is_end_stream());
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
    }

    #[test]
    fn a_head_keeps_the_length_of_what_it_leaves_out() {
        let mut whole = Response::new(Body::full("abc"));
        keep_head_only(&mut whole);
        assert_eq!(whole.headers().get(CONTENT_LENGTH).unwrap(), "3");
        assert!(whole.body().is_end_stream());
        // What an upstream said about itself stays as it is.
        let mut passed = Response::new(Body::empty());
        passed.headers_mut().insert(CONTENT_LENGTH, 5.into());
        keep_head_only(&mut passed);
        assert_eq!(passed.headers().get(CONTENT_LENGTH).unwrap(), "5");
    }

    #[test]
    fn no_bytes_are_an_empty_body() {
        assert!(Body::full("").is_end_stream());
        assert_eq!(Body::empty().size_hint().exact(), Some(0));
    }
}
