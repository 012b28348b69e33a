//! Where an answer's body ends (RFC 9112, sections 6 and 7), from bytes alone: nothing here reads a socket.
//!
//! What two readers could end at two places is refused, also where the RFC lets a client guess: whatever comes after a
//! body would be taken for the next person's answer.

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Version};

use super::head;

/// Longest line that begins a chunk, in bytes, with its extensions.
const MAX_CHUNK_LINE: usize = 4096;

/// Blanks after a chunk's size that are no extension: some servers fill the line up to a fixed width.
const PADDING: usize = 16;

/// Bytes of chunk extensions in one body: nobody uses them, and each costs a reader more than its sender.
const MAX_EXTENSIONS: usize = 16 * 1024;

/// Largest trailer section in bytes.
const MAX_TRAILERS: usize = 16 * 1024;

/// Pieces up to this size in bytes are copied out of the read buffer, so that they don't hold all of it in memory.
const COPIED: usize = 4096;

/// Why an answer can't be read. The texts are for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(in crate::proxy) enum Malformed {
    #[error("it does not begin with HTTP/1.0 or HTTP/1.1")]
    NotHttp,
    #[error("a line does not end in CRLF")]
    LineEnd,
    #[error("a status line or field is malformed")]
    Head,
    #[error("the head is too large")]
    HeadTooLarge,
    #[error("there are too many interim answers")]
    TooManyInterim,
    #[error("the Content-Length is not one number")]
    Length,
    #[error("the Transfer-Encoding is not chunked alone")]
    Coding,
    #[error("a chunk is malformed")]
    Chunk,
    #[error("the trailers are malformed")]
    Trailers,
    #[error("it ends before its body does")]
    CutOff,
}

/// How an answer's body ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Length {
    /// There is none.
    Empty,
    /// After so many bytes.
    Exact(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

impl Length {
    /// Of the final answer to a request by `method` (RFC 9112, section 6.3). Stricter than that section: a length beside a
    /// transfer coding, and any coding but `chunked` alone, is refused.
    pub(super) fn of(method: &Method, status: StatusCode, version: Version, headers: &HeaderMap) -> Result<Self, Malformed> {
        let length = content_length(headers)?;
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        let framed = match (codings.next(), codings.next(), length) {
            (None, _, None) => Self::UntilClose,
            (None, _, Some(length)) => Self::Exact(length),
            (Some(only), None, None) if version == Version::HTTP_11 && only.as_bytes().eq_ignore_ascii_case(b"chunked") => Self::Chunked,
            (Some(_), _, _) => return Err(Malformed::Coding),
        };
        let bodiless = *method == Method::HEAD
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || framed == Self::Exact(0);
        Ok(if bodiless { Self::Empty } else { framed })
    }
}

/// The one length that is said, however often.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut found = None;
    for line in headers.get_all(CONTENT_LENGTH) {
        // `parse` alone would take "+5".
        let digits = line.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let length: u64 = digits.and_then(|digits| digits.parse().ok()).ok_or(Malformed::Length)?;
        if found.is_some_and(|other| other != length) {
            return Err(Malformed::Length);
        }
        found = Some(length);
    }
    Ok(found)
}

/// Reads a body.
#[derive(Debug)]
pub(super) enum Decoder {
    /// So many bytes are left.
    Exact(u64),
    Chunked(Chunked),
    UntilClose,
    Done,
}

/// What comes next in a body.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    /// That was all.
    End,
    /// Nothing before more bytes come.
    More,
}

/// How far a chunked body has got.
#[derive(Debug)]
pub(super) struct Chunked {
    state: ChunkState,
    extensions: usize,
    /// Bytes of the trailers that were looked at.
    seen: usize,
}

#[derive(Clone, Copy, Debug)]
enum ChunkState {
    Size,
    /// So many bytes are left.
    Data(u64),
    /// The CRLF after them.
    DataEnd,
    Trailers,
}

impl Decoder {
    pub(super) fn new(length: Length) -> Self {
        match length {
            Length::Empty => Self::Done,
            Length::Exact(length) => Self::Exact(length),
            Length::Chunked => Self::Chunked(Chunked { state: ChunkState::Size, extensions: 0, seen: 0 }),
            Length::UntilClose => Self::UntilClose,
        }
    }

    /// Whether the body is complete.
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// How many bytes are to come, if that is known.
    pub(super) fn left(&self) -> Option<u64> {
        match self {
            Self::Exact(left) => Some(*left),
            Self::Done => Some(0),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// The next piece, taken out of `buffer`.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, Malformed> {
        let piece = match self {
            Self::Done => Piece::End,
            Self::UntilClose if buffer.is_empty() => Piece::More,
            Self::UntilClose => Piece::Data(take(buffer, buffer.len())),
            Self::Exact(_) if buffer.is_empty() => Piece::More,
            Self::Exact(left) => {
                let data = take_up_to(buffer, left);
                if *left == 0 {
                    *self = Self::Done;
                }
                Piece::Data(data)
            }
            Self::Chunked(chunked) => {
                let piece = chunked.next(buffer)?;
                if matches!(piece, Piece::Trailers(_) | Piece::End) {
                    *self = Self::Done;
                }
                piece
            }
        };
        Ok(piece)
    }

    /// The connection has ended.
    pub(super) fn close(&mut self) -> Result<(), Malformed> {
        match self {
            Self::Done | Self::UntilClose => {
                *self = Self::Done;
                Ok(())
            }
            Self::Exact(_) | Self::Chunked(_) => Err(Malformed::CutOff),
        }
    }
}

impl Chunked {
    fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, Malformed> {
        loop {
            match &mut self.state {
                ChunkState::Size => {
                    let Some((size, extensions, length)) = chunk_line(buffer)? else { return Ok(Piece::More) };
                    self.extensions += extensions;
                    if self.extensions > MAX_EXTENSIONS {
                        return Err(Malformed::Chunk);
                    }
                    buffer.advance(length);
                    self.state = if size == 0 { ChunkState::Trailers } else { ChunkState::Data(size) };
                }
                ChunkState::Data(_) if buffer.is_empty() => return Ok(Piece::More),
                ChunkState::Data(left) => {
                    let data = take_up_to(buffer, left);
                    if *left == 0 {
                        self.state = ChunkState::DataEnd;
                    }
                    return Ok(Piece::Data(data));
                }
                ChunkState::DataEnd => {
                    match buffer.get(..2) {
                        Some(b"\r\n") => buffer.advance(2),
                        None if buffer.first().is_none_or(|byte| *byte == b'\r') => return Ok(Piece::More),
                        Some(_) | None => return Err(Malformed::Chunk),
                    }
                    self.state = ChunkState::Size;
                }
                ChunkState::Trailers => {
                    let Some(end) = head::end_of_block(buffer, &mut self.seen, MAX_TRAILERS).map_err(|_| Malformed::Trailers)? else {
                        return Ok(Piece::More);
                    };
                    let trailers = head::trailers(&take(buffer, end))?;
                    return Ok(if trailers.is_empty() { Piece::End } else { Piece::Trailers(trailers) });
                }
            }
        }
    }
}

/// A chunk's size, the bytes of its extensions and those of the whole line; `None`: there is no whole line yet.
fn chunk_line(buffer: &[u8]) -> Result<Option<(u64, usize, usize)>, Malformed> {
    let Some(end) = memchr::memchr(b'\n', buffer.get(..MAX_CHUNK_LINE).unwrap_or(buffer)) else {
        // What can't become a size is not waited for.
        let hopeless = buffer.len() >= MAX_CHUNK_LINE || buffer.first().is_some_and(|byte| !byte.is_ascii_hexdigit());
        return if hopeless { Err(Malformed::Chunk) } else { Ok(None) };
    };
    let line = buffer.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Malformed::Chunk)?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extensions) = line.split_at_checked(digits).ok_or(Malformed::Chunk)?;
    let is_text = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    let after_blanks = extensions.trim_ascii_start();
    let known = matches!(after_blanks.first(), None | Some(b';'));
    if !(1..=16).contains(&digits) || !known || !extensions.iter().all(is_text) {
        return Err(Malformed::Chunk);
    }
    let size = str::from_utf8(size).ok().and_then(|size| u64::from_str_radix(size, 16).ok()).ok_or(Malformed::Chunk)?;
    let is_padding = after_blanks.is_empty() && extensions.len() <= PADDING;
    Ok(Some((size, if is_padding { 0 } else { extensions.len() }, end + 1)))
}

/// At most `left` bytes, which are then taken off it.
fn take_up_to(buffer: &mut BytesMut, left: &mut u64) -> Bytes {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left = left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
    take(buffer, count)
}

/// The first `count` bytes, of which there must be so many.
pub(super) fn take(buffer: &mut BytesMut, count: usize) -> Bytes {
    if count > COPIED {
        return buffer.split_to(count).freeze();
    }
    let copy = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
    buffer.advance(count);
    copy
}
