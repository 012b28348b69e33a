//! Heads as bytes: a request's is written, an answer's is read (RFC 9112, sections 2 to 5).

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{Version, request, response};
use hyper::ext::ReasonPhrase;

use super::framing::{Malformed, take};

/// The largest head of an answer, in bytes; a larger one is 502.
const MAX_HEAD: usize = 256 * 1024;

/// Fields in a head or a trailer section.
const MAX_FIELDS: usize = 100;

/// How every status line that we can read begins.
const BEGINNING: &[u8] = b"HTTP/1.";

/// Writes the head of a request. Without a body no transfer coding is announced. The types hold no byte that could end a
/// line.
pub(super) fn write_request(out: &mut Vec<u8>, head: &request::Parts, has_body: bool) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.uri.path_and_query().map_or("/", |target| target.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &head.headers {
        if has_body || *name != TRANSFER_ENCODING {
            write_field(out, name, value);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes one field line.
pub(super) fn write_field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The head of an answer, taken out of `buffer`; `None`: it is not complete yet. `seen` is where the last look ended; it
/// must be 0 for each new answer.
pub(super) fn read_answer(buffer: &mut BytesMut, seen: &mut usize) -> Result<Option<response::Parts>, Malformed> {
    // An empty line in front, which a client may skip, would be left over from something else.
    if !buffer.iter().zip(BEGINNING).all(|(byte, known)| byte == known) {
        return Err(Malformed::NotHttp);
    }
    let Some(end) = end_of_block(buffer, seen, MAX_HEAD)? else { return Ok(None) };
    *seen = 0;
    parse(&take(buffer, end)).map(Some)
}

/// Where the empty line ends that closes a block of lines; `None`: it has not come yet. Every line must end in CRLF: a
/// bare LF ends a line for some readers only.
pub(super) fn end_of_block(bytes: &[u8], seen: &mut usize, limit: usize) -> Result<Option<usize>, Malformed> {
    let start = *seen;
    for at in memchr::memchr_iter(b'\n', bytes.get(start..).unwrap_or_default()) {
        let end = start + at + 1;
        let lines = bytes.get(..end).unwrap_or_default();
        if !lines.ends_with(b"\r\n") {
            return Err(Malformed::LineEnd);
        }
        if lines.len() == 2 || lines.ends_with(b"\n\r\n") {
            return if end > limit { Err(Malformed::HeadTooLarge) } else { Ok(Some(end)) };
        }
    }
    *seen = bytes.len();
    if bytes.len() >= limit { Err(Malformed::HeadTooLarge) } else { Ok(None) }
}

/// Field lines up to the empty line that ends them.
pub(super) fn trailers(block: &Bytes) -> Result<HeaderMap, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(block, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) if length == block.len() => collect(block, fields),
        Ok(_) | Err(_) => Err(Malformed::Trailers),
    }
}

fn parse(head: &Bytes) -> Result<response::Parts, Malformed> {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut answer = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut answer, head, &mut fields);
    let (Ok(httparse::Status::Complete(length)), Some(code)) = (parsed, answer.code) else { return Err(Malformed::Head) };
    // Both must have found the same end.
    if length != head.len() {
        return Err(Malformed::Head);
    }
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = http::StatusCode::from_u16(code).map_err(|_| Malformed::Head)?;
    parts.version = if answer.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.headers = collect(head, answer.headers)?;
    if let Some(reason) = answer.reason.filter(|reason| parts.status.canonical_reason().unwrap_or_default() != *reason)
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        parts.extensions.insert(reason);
    }
    Ok(parts)
}

/// The fields, whose values share the bytes of `block`.
fn collect(block: &Bytes, fields: &[httparse::Header<'_>]) -> Result<HeaderMap, Malformed> {
    let mut headers = HeaderMap::with_capacity(fields.len() + 2);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed::Head)?;
        let value = HeaderValue::from_maybe_shared(block.slice_ref(field.value)).map_err(|_| Malformed::Head)?;
        headers.append(name, value);
    }
    Ok(headers)
}
