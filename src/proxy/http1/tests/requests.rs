//! How a request is sent, and what holds when it is not sent to its end.

use std::collections::VecDeque;

use http_body_util::StreamBody;

use super::*;

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
