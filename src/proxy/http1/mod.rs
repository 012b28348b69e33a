//! HTTP/1.1 to an upstream, driven by the task that asks.
//!
//! A library's client is a task of its own that others talk to through channels, because it can't know who drives it. Here
//! one task sends a request and reads its answer, so there is nothing to hand over and nobody to wake; and while it waits
//! it holds no buffer. What is read from bytes alone is apart from what does I/O: `framing` and `head` are functions of
//! what has come, `outgoing` of what is to go.
//!
//! Whoever is behind us is trusted with the identities that it is told, and with nothing else: an application that is
//! broken, or that lets its users say what it answers, must not be able to mix up the answers of two people. So an answer
//! that two readers could understand differently is refused (502), where the RFC lets a client guess too, and what comes
//! after an answer is never read as the beginning of the next: such a connection is not used again. In the order in which
//! they are noticed:
//!
//! - what does not begin with `HTTP/1.0` or `HTTP/1.1`, such as an empty line or what is left of another answer;
//! - a line that ends in a bare LF, a bare CR or a NUL, a folded line, blanks before the colon, a name that is no token
//!   (RFC 9112, sections 2.2 and 5): some readers see one field there, others two;
//! - more than 256 KiB or 100 fields of a head, or 16 interim answers, so that nobody can fill the memory or buy time;
//! - a length that is not one number of digits alone, or differs from another one (RFC 9112, section 6.3);
//! - a transfer coding beside a length, other than `chunked`, said twice, or in HTTP/1.0 (section 6.1);
//! - in a chunked body a size that is not 1 to 16 hexadecimal digits, a line without CRLF, control characters in
//!   extensions, more than 16 KiB of them, or of trailers, and trailers that a head could not hold (section 7.1);
//! - an end of the connection before the end that was announced (section 8): the client's answer is cut off too.
//!
//! A connection is not used again after an answer that ends with it or says `Connection: close`, in HTTP/1.0 without
//! `keep-alive`, after a 204 that announces a body, when the request has not left completely, and when a byte comes that
//! nobody asked for. One thing is left that no client of HTTP/1.1 can know: what a broken application says *later*, when
//! another request is already on its way (the body of an answer to HEAD, more bytes than its length).
//!
//! A request goes out only if its head says where it ends, once; what breaks off is never ended properly.

mod buffer;
mod framing;
mod head;
mod outgoing;

use std::fmt;
use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, StatusCode, Version, request, response};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::task::coop::poll_proceed;

use crate::wire::header;
use framing::{Decoder, Length, Piece};
use outgoing::{Outgoing, Over};

pub(super) use framing::Malformed;

/// Interim answers before the final one. Nobody sends more than two.
const MAX_INTERIM: u8 = 16;

/// How much of a body is handed over, in bytes, before others have their turn. Who sends and takes as fast as we can read would
/// otherwise keep a worker for milliseconds, in which nobody else's request goes on; tokio's budget counts reads, which are large here.
const TURN: usize = 256 * 1024;

/// A connection that speaks HTTP/1.1 as a client, one request after the other. `B` is what requests bear.
pub(super) struct Http1<S, B> {
    io: S,
    /// What was read and not yet understood.
    read: BytesMut,
    /// How much to read at a time.
    size: usize,
    outgoing: Outgoing<B>,
    method: Method,
    state: State,
    /// How much of the body was handed over without waiting, in bytes.
    turn: usize,
    /// Neither side has said that the connection ends with this answer.
    keep: bool,
}

enum State {
    /// No request was sent since the last answer ended.
    Idle,
    Head {
        /// How much of `read` was looked at.
        seen: usize,
        interim: u8,
    },
    Body(Decoder),
    /// Something is wrong, or it was the last answer.
    Ended,
}

/// Why there is no head of an answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The other side closed before it had sent a byte.
    Silent,
    /// It closed in the middle of the head.
    BrokenOff,
    /// It sent what is not HTTP.
    Malformed(Malformed),
    /// The request's body failed, or is not as long as its head says.
    Body,
}

/// Why a body ends before its end.
#[derive(Debug)]
pub(super) enum Broken {
    /// The other side closed.
    Off,
    /// It sent what is not HTTP.
    Malformed(Malformed),
}

impl<S: AsyncRead + AsyncWrite + Unpin, B: Body<Data = Bytes> + Unpin> Http1<S, B> {
    /// A connection on which nothing was said yet.
    pub(super) fn new(io: S) -> Self {
        Self {
            io,
            read: BytesMut::new(),
            size: buffer::SMALL,
            outgoing: Outgoing::default(),
            method: Method::GET,
            state: State::Idle,
            turn: 0,
            keep: true,
        }
    }

    /// Whether the connection may be used (again): nothing was asked or the answer and its request ended cleanly, and
    /// nothing came after it.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle) && self.read.is_empty()
    }

    /// Whether an idle connection is still good: the other side has neither closed it nor said anything. Costs no system
    /// call, for the socket knows whether there is something to read.
    ///
    /// Pending only when the task has done so much already that it has to let others go first (tokio's budget): the
    /// socket would say then that there is nothing to read whatever has come, and a stale answer would be the next one's.
    pub(super) fn poll_quiet(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        drop(ready!(poll_proceed(cx)));
        let mut byte = [0];
        let quiet = self.is_idle() && Pin::new(&mut self.io).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending();
        if !quiet {
            self.state = State::Ended;
        }
        Poll::Ready(quiet)
    }

    /// Takes the next request; nothing is sent before it is polled. A body that is not at its end bears a
    /// `Content-Length` or `Transfer-Encoding: chunked` in `head`.
    pub(super) fn begin(&mut self, head: &request::Parts, body: B) {
        self.method.clone_from(&head.method);
        self.size = buffer::SMALL;
        self.turn = 0;
        self.outgoing.begin(head, body);
        self.state = State::Head { seen: 0, interim: 0 };
    }

    /// Sends the request and waits for the head of its answer. `interim` is told the status of each interim answer.
    pub(super) fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        mut interim: impl FnMut(StatusCode),
    ) -> Poll<Result<response::Parts, NoAnswer>> {
        let answer = ready!(self.poll_final(cx, &mut interim));
        if answer.is_err() {
            self.end();
        }
        Poll::Ready(answer)
    }

    fn poll_final(&mut self, cx: &mut Context<'_>, interim: &mut impl FnMut(StatusCode)) -> Poll<Result<response::Parts, NoAnswer>> {
        loop {
            // An answer may come before the request's body has gone, and then counts.
            let sending = self.poll_send(cx);
            let State::Head { seen, interim: so_far } = &mut self.state else { return Poll::Ready(Err(NoAnswer::BrokenOff)) };
            if !self.read.is_empty()
                && let Some(head) = head::read_answer(&mut self.read, seen).map_err(NoAnswer::Malformed)?
            {
                if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
                    *so_far += 1;
                    if *so_far > MAX_INTERIM {
                        return Poll::Ready(Err(NoAnswer::Malformed(Malformed::TooManyInterim)));
                    }
                    interim(head.status);
                    continue;
                }
                let length = Length::of(&self.method, head.status, head.version, &head.headers).map_err(NoAnswer::Malformed)?;
                self.keep = keeps(&head) && length != Length::UntilClose && head.status != StatusCode::SWITCHING_PROTOCOLS;
                self.state = State::Body(Decoder::new(length));
                self.settle();
                return Poll::Ready(Ok(head));
            }
            let silent = *so_far == 0 && self.read.is_empty();
            if let Poll::Ready(Err(error)) = sending {
                return Poll::Ready(Err(error));
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(if silent { NoAnswer::Silent } else { NoAnswer::BrokenOff })),
                Ok(_) => {}
            }
        }
    }

    /// The rest of the body, if all of it has come with the head.
    pub(super) fn take_whole(&mut self) -> Option<Bytes> {
        let State::Body(Decoder::Exact(left)) = &self.state else { return None };
        let count = usize::try_from(*left).ok().filter(|count| *count <= self.read.len())?;
        let body = framing::take(&mut self.read, count);
        self.state = State::Body(Decoder::Done);
        self.settle();
        Some(body)
    }

    /// The next of the answer's body; `None`: it is complete. What is left of the request goes on being sent. Pending also when
    /// it is the others' turn; the task is woken then.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.turn >= TURN {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = self.poll_piece(cx);
        match &polled {
            Poll::Ready(Some(Err(_))) => self.end(),
            Poll::Ready(Some(Ok(frame))) => {
                self.turn += frame.data_ref().map_or(0, Bytes::len);
                self.settle();
            }
            Poll::Ready(None) => self.settle(),
            Poll::Pending => self.turn = 0,
        }
        polled
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        // Who breaks off a request, or sends more than is allowed, gets no more of the answer.
        if let Poll::Ready(Err(_)) = self.poll_send(cx) {
            return Poll::Ready(Some(Err(Broken::Off)));
        }
        loop {
            let decoder = match &mut self.state {
                State::Body(decoder) => decoder,
                State::Idle => return Poll::Ready(None),
                State::Head { .. } | State::Ended => return Poll::Ready(Some(Err(Broken::Off))),
            };
            match decoder.next(&mut self.read).map_err(Broken::Malformed)? {
                Piece::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Piece::Trailers(trailers) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Piece::End => return Poll::Ready(None),
                Piece::More => {}
            }
            let read = ready!(self.poll_fill(cx));
            let State::Body(decoder) = &mut self.state else { return Poll::Ready(Some(Err(Broken::Off))) };
            match read {
                Ok(0) => {
                    decoder.close().map_err(Broken::Malformed)?;
                    return Poll::Ready(None);
                }
                Ok(_) => {}
                Err(_) => return Poll::Ready(Some(Err(Broken::Off))),
            }
        }
    }

    /// Whether the answer's body is complete.
    pub(super) fn is_complete(&self) -> bool {
        match &self.state {
            State::Idle => true,
            State::Body(decoder) => decoder.is_done(),
            State::Head { .. } | State::Ended => false,
        }
    }

    /// How much of the answer's body is to come.
    pub(super) fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Idle => SizeHint::with_exact(0),
            State::Body(decoder) => decoder.left().map_or_else(SizeHint::default, SizeHint::with_exact),
            State::Head { .. } | State::Ended => SizeHint::default(),
        }
    }

    /// The stream, and what was read too far, after an upgrade.
    pub(super) fn into_upgraded(self) -> (S, Bytes) {
        (self.io, self.read.freeze())
    }

    /// Sends on. Ready with an error when no more of the request can be sent, though an answer may still come.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NoAnswer>> {
        if self.outgoing.is_done() {
            return Poll::Ready(Ok(()));
        }
        match ready!(self.outgoing.poll(cx, &mut self.io)) {
            Ok(()) => Poll::Ready(Ok(())),
            // Reading will tell what happened: an upstream that answers early (413, say) and closes makes our next write
            // fail while its answer waits to be read.
            Err(Over::Stream) => Poll::Pending,
            Err(Over::Body) => Poll::Ready(Err(NoAnswer::Body)),
        }
    }

    /// Reads once; ready with the number of bytes, 0 at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        buffer::make_room(&mut self.read, self.size);
        let room = self.read.capacity() - self.read.len();
        let polled = pin!(self.io.read_buf(&mut self.read)).poll(cx);
        match &polled {
            Poll::Pending => buffer::give_back(&mut self.read),
            Poll::Ready(Ok(count)) if *count == room => self.size = buffer::LARGE,
            Poll::Ready(_) => {}
        }
        polled
    }

    /// After a step: if the answer is over, the connection is idle or has ended.
    fn settle(&mut self) {
        if let State::Body(decoder) = &self.state
            && decoder.is_done()
        {
            // Bytes that nobody asked for could be somebody's answer; whose, nobody knows.
            let clean = self.keep && self.outgoing.is_done() && self.read.is_empty();
            self.state = if clean { State::Idle } else { State::Body(Decoder::Done) };
            buffer::give_back(&mut self.read);
        }
    }

    fn end(&mut self) {
        self.state = State::Ended;
        self.keep = false;
    }
}

/// Whether the connection outlives this answer (RFC 9112, section 9.3).
fn keeps(head: &response::Parts) -> bool {
    // A 204 has neither a length nor a coding (RFC 9110, section 8.6; RFC 9112, section 6.1). Who says that it has may send
    // what they announce, and perhaps when the next answer is awaited.
    if head.status == StatusCode::NO_CONTENT
        && (head.headers.contains_key(TRANSFER_ENCODING) || head.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0"))
    {
        return false;
    }
    let mut options = header::list_members(&head.headers, &CONNECTION);
    if head.version == Version::HTTP_11 {
        !options.any(|option| option.eq_ignore_ascii_case("close"))
    } else {
        options.any(|option| option.eq_ignore_ascii_case("keep-alive"))
    }
}

impl<S, B> fmt::Debug for Http1<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1").field("keep", &self.keep).finish_non_exhaustive()
    }
}

#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
#[cfg(test)]
mod tests;
