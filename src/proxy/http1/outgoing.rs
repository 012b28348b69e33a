//! A request on its way out: head and body, framed as the head says, in as few writes as can be.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http_body::Body;
use tokio::io::AsyncWrite;

use super::head;

/// Capacity in bytes that is kept for the next request's head.
const KEPT: usize = 2048;

/// What is being sent.
#[derive(Debug)]
pub(super) struct Outgoing<B> {
    /// The head, and the line that begins a chunk.
    lines: Vec<u8>,
    /// How much of `lines` is written.
    written: usize,
    data: Bytes,
    /// What is left of the line end after a chunk.
    line_end: &'static [u8],
    body: Option<B>,
    framing: Framing,
    /// Something was written that may wait in the stream (TLS).
    unflushed: bool,
    /// Why the rest of it is never sent.
    over: Option<Over>,
}

#[derive(Clone, Copy, Debug)]
enum Framing {
    /// So many bytes are left.
    Exact(u64),
    Chunked,
}

/// Why nothing more can be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Over {
    /// The body failed, or is longer or shorter than its head says, or the head does not say where it ends. What was not
    /// sent stays unsent: an end after a body that broke off would make it a whole one.
    Body,
    /// The stream takes no more. There may be an answer all the same.
    Stream,
}

impl Framing {
    /// As the head says; `None`: it does not say it, or says it twice.
    fn of(head: &Parts, has_body: bool) -> Option<Self> {
        let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
        let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
        match (has_body, lengths.next(), lengths.next(), codings.next(), codings.next()) {
            // A coding is not announced then.
            (false, None, None, _, _) => Some(Self::Exact(0)),
            (false, Some(length), None, None, None) => number(length).filter(|length| *length == 0).map(Self::Exact),
            (true, Some(length), None, None, None) => number(length).map(Self::Exact),
            (true, None, None, Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Some(Self::Chunked),
            _ => None,
        }
    }
}

impl<B> Default for Outgoing<B> {
    fn default() -> Self {
        let framing = Framing::Exact(0);
        Self { lines: Vec::new(), written: 0, data: Bytes::new(), line_end: b"", body: None, framing, unflushed: false, over: None }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Outgoing<B> {
    /// Takes a request. One with a body bears `Content-Length` or `Transfer-Encoding: chunked`, and not both; one without
    /// bears no length but 0. Nothing of any other is sent: its end would be for the other side to guess, and what comes
    /// after it the next request (RFC 9112, section 6.3).
    pub(super) fn begin(&mut self, head: &Parts, body: B) {
        let body = (!body.is_end_stream()).then_some(body);
        self.lines.clear();
        self.lines.shrink_to(KEPT);
        self.written = 0;
        head::write_request(&mut self.lines, head, body.is_some());
        let framing = Framing::of(head, body.is_some());
        self.over = if framing.is_none() { Some(Over::Body) } else { None };
        self.framing = framing.unwrap_or(Framing::Exact(0));
        self.body = body.filter(|_| framing.is_some());
    }

    /// Whether all of it has left.
    pub(super) fn is_done(&self) -> bool {
        self.over.is_none() && self.body.is_none() && self.is_written() && !self.unflushed
    }

    /// Sends what can be sent; ready when that was all, or all that can be sent.
    pub(super) fn poll<S: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, io: &mut S) -> Poll<Result<(), Over>> {
        if let Some(over) = self.over {
            return Poll::Ready(Err(over));
        }
        let polled = self.poll_rest(cx, io);
        if let Poll::Ready(Err(over)) = polled {
            self.over = Some(over);
            // A body that has failed may well say next that it is at its end.
            self.body = None;
        }
        polled
    }

    fn poll_rest<S: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, io: &mut S) -> Poll<Result<(), Over>> {
        loop {
            // Before the first write, so that a head and what there is of its body leave together.
            let waits = self.data.is_empty() && self.line_end.is_empty() && self.poll_body(cx)?.is_pending();
            while !self.is_written() {
                ready!(self.poll_write(cx, io)).map_err(|_| Over::Stream)?;
            }
            if self.body.is_none() || waits {
                if self.unflushed {
                    ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(|_| Over::Stream)?;
                    self.unflushed = false;
                }
                return if self.body.is_none() { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
        }
    }

    fn is_written(&self) -> bool {
        self.written == self.lines.len() && self.data.is_empty() && self.line_end.is_empty()
    }

    /// Ready when there is something to write, or the body is at its end.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Over> {
        let Some(body) = &mut self.body else { return Ok(Poll::Ready(())) };
        if self.written == self.lines.len() {
            self.lines.clear();
            self.written = 0;
        }
        let frame = match Pin::new(body).poll_frame(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(frame) => frame.transpose().map_err(|_| Over::Body)?,
        };
        let Some(frame) = frame else { return self.end(None).map(Poll::Ready) };
        match frame.into_data() {
            Err(frame) => self.end(frame.into_trailers().ok().as_ref())?,
            Ok(data) => {
                let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                match &mut self.framing {
                    Framing::Exact(left) => {
                        *left = left.checked_sub(length).ok_or(Over::Body)?;
                        if *left == 0 {
                            self.body = None;
                        }
                    }
                    // An empty chunk would be the last.
                    Framing::Chunked if length == 0 => {}
                    Framing::Chunked => {
                        self.lines.extend_from_slice(format!("{length:x}\r\n").as_bytes());
                        self.line_end = b"\r\n";
                    }
                }
                self.data = data;
            }
        }
        Ok(Poll::Ready(()))
    }

    fn end(&mut self, trailers: Option<&http::HeaderMap>) -> Result<(), Over> {
        self.body = None;
        match self.framing {
            Framing::Exact(0) => {}
            Framing::Exact(_) => return Err(Over::Body),
            Framing::Chunked => {
                self.lines.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    head::write_field(&mut self.lines, name, value);
                }
                self.lines.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    fn poll_write<S: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, io: &mut S) -> Poll<io::Result<()>> {
        let lines = self.lines.get(self.written..).unwrap_or_default();
        let io = Pin::new(io);
        // Most requests are a head alone, for which the kernel need not read a list of one.
        let count = if self.data.is_empty() && self.line_end.is_empty() {
            ready!(io.poll_write(cx, lines))?
        } else {
            ready!(io.poll_write_vectored(cx, &[IoSlice::new(lines), IoSlice::new(&self.data), IoSlice::new(self.line_end)]))?
        };
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.unflushed = true;
        let of_lines = count.min(lines.len());
        self.written += of_lines;
        let of_data = (count - of_lines).min(self.data.len());
        self.data.advance(of_data);
        let of_end = (count - of_lines - of_data).min(self.line_end.len());
        self.line_end = self.line_end.get(of_end..).unwrap_or_default();
        Poll::Ready(Ok(()))
    }
}

fn number(length: &HeaderValue) -> Option<u64> {
    // `parse` alone would take "+5".
    length.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}
