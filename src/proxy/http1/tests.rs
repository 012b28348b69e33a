use std::collections::VecDeque;
use std::task::Waker;

use http_body_util::{BodyExt as _, Full, StreamBody};
use proptest::prelude::*;

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

#[test]
fn a_body_ends_where_it_should_and_the_connection_goes_on_if_it_may() {
    for (method, bytes, body, goes_on) in [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "abc", true),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\ncontent-length: 3\r\n\r\nabc", "abc", true),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", true),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n01;x=y\r\nc\r\n0\r\n\r\n", "abc", true),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3  \r\nabc\r\n000\r\nX-Sum: 9\r\n\r\n", "abc", true),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", "", true),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", "", true),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", "", true),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "", true),
        ("HEAD", "HTTP/1.1 200 OK\r\n\r\n", "", true),
        (
            "GET",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
            "a",
            true,
        ),
        ("GET", "HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: Keep-Alive\r\n\r\nabc", "abc", true),
        ("GET", "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", "abc", false),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: x, Close\r\n\r\nabc", "abc", false),
        ("GET", "HTTP/1.1 200 OK\r\n\r\nabc", "abc", false),
        ("GET", "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\nabc", "abc", false),
        // What comes after an answer is nobody's.
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n\r\n", "abc", false),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n\r\n", "", false),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nabcdefg", "", false),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nHTTP/1.1 ", "a", false),
        // What a 204 must not announce may come later.
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "", true),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "", false),
        ("GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", "", false),
        // A protocol that was switched to is no HTTP any more.
        ("GET", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "", false),
    ] {
        for closes in [false, true] {
            let mut client = client(&[bytes.as_bytes()], closes);
            let seen = answer(&mut client, method);
            if !closes && bytes.ends_with("\r\n\r\nabc") && !bytes.contains("Length") {
                assert_eq!(seen, Ok(None), "{bytes:?}");
                continue;
            }
            assert_eq!(seen.unwrap().unwrap().body, body.as_bytes(), "{bytes:?}");
            assert_eq!(client.is_idle(), goes_on, "{bytes:?}");
            assert!(client.is_complete(), "{bytes:?}");
            let mut cx = Context::from_waker(Waker::noop());
            assert_eq!(client.poll_quiet(&mut cx), Poll::Ready(goes_on && !closes), "{bytes:?}");
        }
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    for (bytes, why) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Malformed::Coding),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Malformed::Coding),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Malformed::Coding),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n", Malformed::Coding),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Malformed::Coding),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", Malformed::Length),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc", Malformed::Length),
        ("HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc", Malformed::Length),
        ("HTTP/1.1 200 OK\r\nContent-Length: -0\r\n\r\n", Malformed::Length),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0x3\r\n\r\nabc", Malformed::Length),
        ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nabc", Malformed::Length),
        ("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n", Malformed::Length),
        ("HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", Malformed::LineEnd),
        ("HTTP/1.1 200 OK\r\nA: b\nContent-Length: 3\r\n\r\nabc", Malformed::LineEnd),
        ("HTTP/1.1 200 OK\r\nA: b\rContent-Length: 3\r\n\r\nabc", Malformed::Head),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Malformed::Head),
        ("HTTP/1.1 200 OK\r\n A: b\r\n\r\n", Malformed::Head),
        ("HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\nabc", Malformed::Head),
        ("HTTP/1.1 200 OK\r\n: b\r\n\r\n", Malformed::Head),
        ("HTTP/1.1 200 OK\r\nA\r\n\r\n", Malformed::Head),
        ("HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n", Malformed::Head),
        ("HTTP/1.1 200 O\0K\r\n\r\n", Malformed::Head),
        ("HTTP/1.1 2000 OK\r\n\r\n", Malformed::Head),
        ("HTTP/1.1 20 OK\r\n\r\n", Malformed::Head),
        ("HTTP/1.2 200 OK\r\n\r\n", Malformed::Head),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", Malformed::NotHttp),
        ("HTTP/2 200\r\n\r\n", Malformed::NotHttp),
        ("ICY 200 OK\r\n\r\n", Malformed::NotHttp),
        ("SSH-2.0-x\r\n", Malformed::NotHttp),
    ] {
        for method in ["GET", "HEAD"] {
            assert_eq!(read(method, bytes), Err(format!("{:?}", NoAnswer::Malformed(why))), "{bytes:?}");
        }
    }
    for body in [
        "x",
        ";\r\n",
        "\r\nab",
        "-1\r\n",
        "+1\r\na",
        "0x1\r\na",
        " 1\r\na\r\n0\r\n\r\n",
        "1\na\r\n0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1\r\na\n0\r\n\r\n",
        "1\r\na\r0\r\n\r\n",
        "1 2\r\na",
        "1;a\0\r\na",
        "1;a\rb\r\na",
        "11111111111111111\r\na",
    ] {
        let bytes = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        assert_eq!(read("GET", &bytes), Err(format!("{:?}", Broken::Malformed(Malformed::Chunk))), "{body:?}");
    }
    for trailers in ["A: b\n\r\n", "A\r\n\r\n", " a: b\r\n\r\n", "A : b\r\n\r\n"] {
        let bytes = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{trailers}");
        assert_eq!(read("GET", &bytes), Err(format!("{:?}", Broken::Malformed(Malformed::Trailers))), "{trailers:?}");
    }
}

#[test]
fn an_end_that_comes_too_soon_is_no_end() {
    let silent = |bytes: &str| read("GET", bytes).unwrap_err();
    assert_eq!(silent(""), "Silent");
    assert_eq!(silent("HTTP/1.1 200 OK\r\nContent-Le"), "BrokenOff");
    assert_eq!(silent("HTTP/1.1 100 Continue\r\n\r\n"), "BrokenOff");
    for bytes in ["Content-Length: 3\r\n\r\nab", "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", "Transfer-Encoding: chunked\r\n\r\n0\r\n"]
    {
        let cut_off = format!("{:?}", Broken::Malformed(Malformed::CutOff));
        assert_eq!(silent(&format!("HTTP/1.1 200 OK\r\n{bytes}")), cut_off, "{bytes}");
    }
}

#[test]
fn everything_has_a_limit() {
    let large = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(256 * 1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(101));
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(17);
    for (bytes, why) in [(large, Malformed::HeadTooLarge), (many, Malformed::Head), (interim, Malformed::TooManyInterim)] {
        assert_eq!(read("GET", &bytes), Err(format!("{:?}", NoAnswer::Malformed(why))));
    }
    let line = format!("1;{}\r\na\r\n0\r\n\r\n", "a".repeat(5000));
    let extensions = format!("1;{}\r\na\r\n", "a".repeat(4000)).repeat(5);
    let trailers = format!("0\r\nA: {}\r\n\r\n", "a".repeat(17_000));
    for (body, why) in [(line, Malformed::Chunk), (extensions, Malformed::Chunk), (trailers, Malformed::Trailers)] {
        let bytes = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        assert_eq!(read("GET", &bytes), Err(format!("{:?}", Broken::Malformed(why))));
    }
}

#[test]
fn a_body_may_have_any_number_of_lines_that_are_filled_up() {
    let body = format!("{}0     \r\n\r\n", "1     \r\na\r\n".repeat(5000));
    let bytes = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    assert_eq!(read("GET", &bytes).unwrap().unwrap().body, vec![b'a'; 5000]);
}

#[test]
fn one_connection_serves_many_and_notices_what_it_was_not_asked() {
    let mut cx = Context::from_waker(Waker::noop());
    let mut client = client(&[], false);
    for number in 0..3 {
        assert_eq!(client.poll_quiet(&mut cx), Poll::Ready(true));
        client.io.says.push_back(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}").into());
        assert_eq!(answer(&mut client, "GET").unwrap().unwrap().body, number.to_string().as_bytes());
    }
    client.io.says.push_back(b"HTTP/1.1 200 OK\r\n\r\n".to_vec());
    assert_eq!(client.poll_quiet(&mut cx), Poll::Ready(false));
    assert!(!client.is_idle());
}

#[test]
fn a_small_answer_can_be_taken_whole() {
    let mut cx = Context::from_waker(Waker::noop());
    for (bytes, whole) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", Some("abc")),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", None),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\n\r\nabc", None),
    ] {
        let mut client = client(&[bytes.as_bytes()], false);
        client.begin(&request("GET /"), Full::default());
        assert!(client.poll_answer(&mut cx, |_| {}).is_ready());
        assert_eq!(client.take_whole().as_deref(), whole.map(str::as_bytes), "{bytes:?}");
        assert_eq!(client.is_idle(), whole.is_some(), "{bytes:?}");
    }
}

#[test]
fn requests_are_framed_as_their_head_says() {
    let trailers = || http::HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), http::HeaderValue::from_static("9"))]);
    let frames = |data: &[&'static str], with_trailers: bool| {
        let frames = data.iter().map(|data| Ok::<_, io::Error>(Frame::data(Bytes::from_static(data.as_bytes()))));
        let frames: Vec<_> = frames.chain(with_trailers.then(|| Ok(Frame::trailers(trailers())))).collect();
        StreamBody::new(Frames(frames.into()))
    };
    for (head, data, with_trailers, expected) in [
        (
            "POST /a?b\nhost: h\ncontent-length: 3",
            vec!["a", "", "bc"],
            false,
            Some("POST /a?b HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc"),
        ),
        ("POST /\ncontent-length: 3", vec!["abc"], true, Some("POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc")),
        (
            "POST /\ntransfer-encoding: chunked",
            vec!["abcdefghijklmnop", "", "q"],
            false,
            Some("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n10\r\nabcdefghijklmnop\r\n1\r\nq\r\n0\r\n\r\n"),
        ),
        (
            "POST /\ntransfer-encoding: chunked",
            vec![],
            true,
            Some("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-sum: 9\r\n\r\n"),
        ),
        ("POST /\ncontent-length: 3", vec!["ab"], false, None),
        ("POST /\ncontent-length: 3", vec!["ab", "cd"], false, None),
    ] {
        for takes in [0, 1, 5] {
            let mut cx = Context::from_waker(Waker::noop());
            let mut client = Http1::new(Peer { takes, ..Peer::default() });
            client.begin(&request(head), frames(&data, with_trailers));
            match (client.poll_answer(&mut cx, |_| {}), expected) {
                (Poll::Pending, Some(expected)) => {
                    assert_eq!(String::from_utf8_lossy(&client.io.told), expected);
                    assert!(client.outgoing.is_done());
                }
                (Poll::Ready(Err(NoAnswer::Body)), None) => assert!(!client.is_idle()),
                (other, _) => panic!("{head} {other:?}"),
            }
        }
    }
    // No body: a coding is not announced.
    let mut cx = Context::from_waker(Waker::noop());
    let mut client = client(&[], false);
    client.begin(&request("POST /\ntransfer-encoding: chunked\nx: y"), Full::default());
    assert!(client.poll_answer(&mut cx, |_| {}).is_pending());
    assert_eq!(client.io.told, b"POST / HTTP/1.1\r\nx: y\r\n\r\n");
}

#[test]
fn an_answer_may_come_before_the_requests_end() {
    let mut cx = Context::from_waker(Waker::noop());
    let body = StreamBody::new(Frames([Ok(Frame::data(Bytes::from_static(b"a")))].into()).waiting());
    let mut client =
        Http1::new(Peer { says: [b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno".to_vec()].into(), ..Peer::default() });
    client.begin(&request("POST /\ncontent-length: 10"), body);
    assert!(matches!(client.poll_answer(&mut cx, |_| {}), Poll::Ready(Ok(head)) if head.status == 413));
    assert_eq!(client.take_whole().unwrap(), "no");
    // The rest of that request would be read as the next.
    assert!(client.is_complete() && !client.is_idle());
}

// A body that has failed says next that it is at its end: as a last chunk that would make half a request a whole one.
#[test]
fn what_breaks_off_stays_broken_off() {
    let interim = || b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
    for says in [vec![], vec![interim()], vec![interim().repeat(2)], vec![b"HTTP/1.1 200 OK\r\n\r\n".to_vec()]] {
        for (head, failure) in [
            ("POST /\ntransfer-encoding: chunked", Err(io::ErrorKind::ConnectionReset.into())),
            ("POST /\ncontent-length: 3", Ok(Frame::data(Bytes::from_static(b"bcd")))),
        ] {
            let mut cx = Context::from_waker(Waker::noop());
            let frames = [Ok(Frame::data(Bytes::from_static(b"a"))), failure];
            let mut client = Http1::new(Peer { says: says.clone().into(), ..Peer::default() });
            // What was read before the body failed.
            assert!(client.poll_fill(&mut cx).is_ready() != says.is_empty());
            client.begin(&request(head), StreamBody::new(Frames(frames.into())));
            for _ in 0..3 {
                let _whatever = client.poll_answer(&mut cx, |_| {});
                let _whatever = client.poll_body(&mut cx);
            }
            assert!(!client.io.told.ends_with(b"0\r\n\r\n") && !client.io.told.ends_with(b"bcd"), "{head} {says:?}");
            assert!(!client.is_idle() && !client.outgoing.is_done());
        }
    }
}

#[test]
fn a_request_whose_end_its_head_does_not_say_is_not_sent() {
    for (head, body) in [
        ("POST /", "a"),
        ("POST /\ncontent-length: 1\ntransfer-encoding: chunked", "a"),
        ("POST /\ntransfer-encoding: gzip", "a"),
        ("POST /\ncontent-length: 1\ncontent-length: 1", "a"),
        ("POST /\ncontent-length: +1", "a"),
        ("POST /\ncontent-length: x", "a"),
        // Its body was used up by a try before.
        ("POST /\ncontent-length: 1", ""),
    ] {
        let mut cx = Context::from_waker(Waker::noop());
        let mut client = client(&[], false);
        client.begin(&request(head), Full::new(Bytes::from_static(body.as_bytes())));
        assert!(matches!(client.poll_answer(&mut cx, |_| {}), Poll::Ready(Err(NoAnswer::Body))), "{head:?}");
        assert!(client.io.told.is_empty() && !client.is_idle(), "{head:?}");
    }
}

#[test]
fn an_answer_counts_though_the_rest_of_the_request_was_not_taken() {
    let mut cx = Context::from_waker(Waker::noop());
    let says = [b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno".to_vec()].into();
    let mut client = Http1::new(Peer { says, closes: true, takes: 30, breaks_after: Some(50), ..Peer::default() });
    client.begin(&request("POST /\ncontent-length: 100"), Full::new(Bytes::from_static(&[b'a'; 100])));
    assert!(matches!(client.poll_answer(&mut cx, |_| {}), Poll::Ready(Ok(head)) if head.status == 413));
    assert_eq!(client.take_whole().unwrap(), "no");
    assert!(client.is_complete() && !client.is_idle());
}

// The budget of a task that has done much makes its sockets look empty.
#[tokio::test]
async fn what_waits_to_be_read_is_seen_by_a_task_that_is_out_of_budget() {
    let (near, mut far) = tokio::net::UnixStream::pair().unwrap();
    let mut client: Http1<_, Full<Bytes>> = Http1::new(near);
    tokio::io::AsyncWriteExt::write_all(&mut far, b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
    client.io.readable().await.unwrap();
    let mut exhausted = false;
    let quiet = std::future::poll_fn(|cx| {
        if !std::mem::replace(&mut exhausted, true) {
            while let Poll::Ready(spent) = poll_proceed(cx) {
                spent.made_progress();
            }
        }
        client.poll_quiet(cx)
    })
    .await;
    assert!(exhausted && !quiet);
}

/// Frames that are there at once, and then the end or silence.
struct Frames(VecDeque<Result<Frame<Bytes>, io::Error>>);

impl Frames {
    fn waiting(self) -> Waiting {
        Waiting(self)
    }
}

impl futures_core::Stream for Frames {
    type Item = Result<Frame<Bytes>, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.pop_front())
    }
}

struct Waiting(Frames);

impl futures_core::Stream for Waiting {
    type Item = Result<Frame<Bytes>, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.0.pop_front().map_or(Poll::Pending, |frame| Poll::Ready(Some(frame)))
    }
}

/// What hyper makes of the same bytes.
fn hypers(method: &str, bytes: &[u8]) -> Result<Seen, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(hyper_util::rt::TokioIo::new(ours)).await.unwrap();
        let request = http::Request::builder().method(method).uri("/").header("host", "a").body(Full::default()).unwrap();
        let ask = async {
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|error| error.to_string())?;
            let trailers = body.trailers().map(fields).unwrap_or_default();
            Ok(Seen { status: head.status.as_u16(), fields: fields(&head.headers), body: body.to_bytes().to_vec(), trailers })
        };
        let say = async {
            let mut request = [0; 1024];
            let _asked = theirs.read(&mut request).await;
            let _said = tokio::io::AsyncWriteExt::write_all(&mut theirs, bytes).await;
            drop(theirs);
        };
        tokio::select! {
            biased;
            (seen, ()) = async { tokio::join!(ask, say) } => seen,
            () = async { let _ended = connection.await; std::future::pending::<()>().await } => unreachable!(),
        }
    })
}

/// Something like an answer: right, nearly right, and cut up.
fn answers() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        4 => Just("HTTP/1.1 200 OK\r\n".to_owned()),
        1 => Just("HTTP/1.0 200 OK\r\n".to_owned()),
        1 => (100_u16..600).prop_map(|status| format!("HTTP/1.1 {status} x\r\n")),
        1 => Just("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n".to_owned()),
    ];
    let field = prop_oneof![
        2 => (0_usize..8).prop_map(|length| format!("Content-Length: {length}\r\n")),
        2 => Just("Transfer-Encoding: chunked\r\n".to_owned()),
        1 => Just("Connection: keep-alive\r\n".to_owned()),
        1 => Just("Connection: close\r\n".to_owned()),
        1 => "[a-zA-Z-]{1,5}: ?[ -~]{0,6} ?\r\n",
        1 => Just("A: b\n".to_owned()),
        1 => Just(" folded\r\n".to_owned()),
    ];
    let body = prop_oneof![
        "[a-z]{0,8}",
        proptest::collection::vec("[a-f]{1,12}", 0..3).prop_map(|chunks| {
            let chunks: Vec<String> = chunks.iter().map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect();
            format!("{}0\r\n\r\n", chunks.concat())
        }),
        "[0-3a][ ;x]{0,2}\r?\n[a-d]{0,3}\r?\n0\r?\n(X: y\r\n)?\r?\n",
    ];
    let spoil = proptest::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>()));
    (line, proptest::collection::vec(field, 0..3), body, spoil).prop_map(|(line, fields, body, spoil)| {
        let mut bytes = format!("{line}{}\r\n{body}", fields.concat()).into_bytes();
        if let Some((at, byte)) = spoil {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_must_hold_for_any_bytes_holds_for_nearly_right_ones(bytes in answers(), seed in any::<u8>()) {
        fuzzing::answer(&[&[seed], bytes.as_slice()].concat());
    }

    #[test]
    fn what_we_take_for_an_answer_hyper_does_too(bytes in answers(), method in prop_oneof![Just("GET"), Just("HEAD")]) {
        let ours = answer(&mut client(&[&bytes], true), method);
        if let Ok(Some(seen)) = ours
            && seen.status != 101
        {
            prop_assert_eq!(hypers(method, &bytes), Ok(seen));
        }
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_are_cut(bytes in answers(), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts.into_iter().chain([bytes.len()]) {
            if cut > from {
                pieces.push(&bytes[from..cut]);
            }
            from = cut;
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        let whole = answer(&mut client(&[&bytes], true), "GET");
        for pieces in [pieces, single] {
            let mut client = client(&pieces, true);
            let cut = answer(&mut client, "GET");
            prop_assert_eq!(&cut, &whole);
            if whole.is_err() {
                prop_assert!(!client.is_idle());
            }
        }
    }

    #[test]
    fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), chunked in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'1'), Just(b';')], 0..60)) {
        let _any = answer(&mut client(&[&bytes], true), "GET");
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _any = answer(&mut client(&[head, &chunked], true), "GET");
    }
}
