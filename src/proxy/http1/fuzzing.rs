//! What must hold for any bytes that an upstream may say: for the fuzzer, and for the tests that replay its corpus.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::Empty;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Http1;

/// An answer that was read to its end.
#[derive(PartialEq, Debug)]
struct Whole {
    status: u16,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
}

/// What became of a request.
#[derive(PartialEq, Debug)]
enum Outcome {
    /// An answer, and whether the connection could serve another request.
    Whole(Box<Whole>, bool),
    /// Not all of it has come.
    Waits,
    /// Refused, or cut off.
    Broken,
}

/// An upstream that says what it is told to say, and then closes or waits.
#[derive(Default)]
pub(super) struct Peer {
    /// None of these is empty, which would be its end.
    pub(super) says: VecDeque<Vec<u8>>,
    /// Whether it closes when it has said everything; otherwise it waits.
    pub(super) closes: bool,
    /// What it was told.
    pub(super) told: Vec<u8>,
    /// How much it takes at a time; 0: all.
    pub(super) takes: usize,
    /// How much it takes before its side is closed.
    pub(super) breaks_after: Option<usize>,
}

impl AsyncRead for Peer {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(piece) = self.says.front_mut() else {
            return if self.closes { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        let rest = piece.split_off(piece.len().min(buf.remaining()));
        buf.put_slice(piece);
        *piece = rest;
        if piece.is_empty() {
            self.says.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.breaks_after.is_some_and(|most| self.told.len() >= most) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = if self.takes == 0 { buf.len() } else { buf.len().min(self.takes) };
        self.told.extend(buf.iter().take(count));
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_write(cx, &bufs.iter().flat_map(|buf| buf.to_vec()).collect::<Vec<u8>>())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Reads the answer to a GET or a HEAD, once in one piece, once cut up and once byte by byte: it must be the same each
/// time, and what a reader that believes everything makes of it. The first byte of `data` says how it is cut, and whether
/// it answers a HEAD; the rest is what the upstream says.
///
/// # Panics
///
/// If something that must hold does not.
pub fn answer(data: &[u8]) {
    let Some((seed, bytes)) = data.split_first() else { return };
    let is_head = seed & 1 == 1;
    for closes in [false, true] {
        let pieces_of = |size| bytes.chunks(size).map(<[u8]>::to_vec).collect();
        let (whole, left) = read(is_head, pieces_of(bytes.len().max(1)), closes);
        for pieces in [cut(*seed, bytes), pieces_of(1)] {
            assert_eq!(read(is_head, pieces, closes).0, whole, "it matters how the bytes are cut");
        }
        if let Outcome::Whole(whole, reusable) = whole {
            let used = bytes.len() - left;
            assert_eq!(believe(is_head, bytes), Some((whole.status, whole.body, used)), "another reader reads another answer");
            assert!(!reusable || left == 0 && !closes, "what is left over would be somebody's answer");
        }
    }
}

/// Pieces of 1 to 64 bytes.
fn cut(seed: u8, bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut state, mut rest, mut pieces) = (u32::from(seed) | 0x0100, bytes, Vec::new());
    while !rest.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let length = 1 + usize::from((state >> 24) as u8) % 64;
        let (piece, more) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        pieces.push(piece.to_vec());
        rest = more;
    }
    pieces
}

/// What becomes of it, and how many bytes were not used.
fn read(is_head: bool, pieces: Vec<Vec<u8>>, closes: bool) -> (Outcome, usize) {
    let mut client = Http1::new(Peer { says: pieces.into(), closes, ..Peer::default() });
    let outcome = outcome(&mut client, is_head);
    // A head that is read to its end, or the largest read of a body.
    assert!(client.read.capacity() <= 1 << 20, "it holds too much");
    let unread: usize = client.io.says.iter().map(Vec::len).sum();
    (outcome, client.read.len() + unread)
}

fn outcome(client: &mut Http1<Peer, Empty<Bytes>>, is_head: bool) -> Outcome {
    let mut cx = Context::from_waker(Waker::noop());
    let (mut request, ()) = http::Request::new(()).into_parts();
    request.method = if is_head { http::Method::HEAD } else { http::Method::GET };
    client.begin(&request, Empty::new());
    let head = match client.poll_answer(&mut cx, |_| {}) {
        Poll::Pending => return Outcome::Waits,
        Poll::Ready(Err(_)) => return Outcome::Broken,
        Poll::Ready(Ok(head)) => head,
    };
    let (mut body, mut trailers) = (Vec::new(), Vec::new());
    loop {
        let frame = match client.poll_body(&mut cx) {
            Poll::Pending => return Outcome::Waits,
            Poll::Ready(None) => break,
            Poll::Ready(Some(Err(_))) => return Outcome::Broken,
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        match frame.into_data() {
            Ok(data) => body.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().map(|fields| list(&fields)).unwrap_or_default(),
        }
    }
    assert!(client.is_complete());
    let left = client.read.len();
    let idle = client.is_idle();
    let reusable = idle && client.io.says.is_empty() && client.poll_quiet(&mut cx) == Poll::Ready(true);
    assert!(!idle || left == 0);
    Outcome::Whole(Box::new(Whole { status: head.status.as_u16(), fields: list(&head.headers), body, trailers }), reusable)
}

fn list(fields: &http::HeaderMap) -> Vec<(String, Vec<u8>)> {
    fields.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

/// A reader that is as simple and as credulous as can be: the status, the body and the bytes used of the final answer.
fn believe(is_head: bool, bytes: &[u8]) -> Option<(u16, Vec<u8>, usize)> {
    let mut rest = bytes;
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 200];
        let mut head = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(length) = head.parse(rest).ok()? else { return None };
        let status = head.code?;
        rest = rest.get(length..)?;
        let value = |name: &str| head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value);
        if status / 100 == 1 && status != 101 {
            continue;
        }
        let body = if is_head || matches!(status, 101 | 204 | 304) {
            Vec::new()
        } else if value("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked")) {
            chunks(&mut rest)?
        } else if let Some(length) = value("content-length") {
            let (body, more) = rest.split_at_checked(str::from_utf8(length).ok()?.parse().ok()?)?;
            rest = more;
            body.to_vec()
        } else {
            std::mem::take(&mut rest).to_vec()
        };
        return Some((status, body, bytes.len() - rest.len()));
    }
}

fn chunks(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let httparse::Status::Complete((length, size)) = httparse::parse_chunk_size(rest).ok()? else { return None };
        let after = rest.get(length..)?;
        let (chunk, after) = after.split_at_checked(usize::try_from(size).ok()?)?;
        if size == 0 {
            let mut fields = [httparse::EMPTY_HEADER; 200];
            let httparse::Status::Complete((length, _)) = httparse::parse_headers(after, &mut fields).ok()? else { return None };
            *rest = after.get(length..)?;
            return Some(body);
        }
        body.extend_from_slice(chunk);
        *rest = after.strip_prefix(b"\r\n")?;
    }
}
