//! A connection to an upstream that says what a test has it say.

mod answers;
mod anything;
mod requests;

use std::task::Waker;

use http_body_util::Full;

use super::fuzzing::Peer;
use super::*;

type Client = Http1<Peer, Full<Bytes>>;

/// What became of a request.
#[derive(Clone, PartialEq, Debug, Default)]
struct Seen {
    status: u16,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
}

fn request(text: &str) -> request::Parts {
    let mut lines = text.lines();
    let mut words = lines.next().unwrap().split(' ');
    let mut request = http::Request::builder().method(words.next().unwrap()).uri(words.next().unwrap());
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    request.body(()).unwrap().into_parts().0
}

fn fields(headers: &http::HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

fn client(pieces: &[&[u8]], closes: bool) -> Client {
    Http1::new(Peer { says: pieces.iter().map(|piece| piece.to_vec()).collect(), closes, ..Peer::default() })
}

/// Reads one answer to its end; `Ok(None)`: it is not complete.
fn answer(client: &mut Client, method: &str) -> Result<Option<Seen>, String> {
    let mut cx = Context::from_waker(Waker::noop());
    client.begin(&request(&format!("{method} /")), Full::default());
    let head = match client.poll_answer(&mut cx, |_| {}) {
        Poll::Pending => return Ok(None),
        Poll::Ready(head) => head.map_err(|error| format!("{error:?}"))?,
    };
    let mut seen = Seen { status: head.status.as_u16(), fields: fields(&head.headers), ..Seen::default() };
    loop {
        match client.poll_body(&mut cx) {
            Poll::Pending => return Ok(None),
            Poll::Ready(None) => return Ok(Some(seen)),
            Poll::Ready(Some(frame)) => match frame.map_err(|error| format!("{error:?}"))?.into_data() {
                Ok(data) => seen.body.extend_from_slice(&data),
                Err(frame) => seen.trailers = fields(&frame.into_trailers().unwrap()),
            },
        }
    }
}

fn read(method: &str, bytes: &str) -> Result<Option<Seen>, String> {
    answer(&mut client(&[bytes.as_bytes()], true), method)
}
