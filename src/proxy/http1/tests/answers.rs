//! How an answer is read, and which is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use super::*;

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

// A body of which there is always more lets others go, and is not forgotten.
#[test]
fn a_large_body_is_handed_over_in_turns() {
    struct Woken(AtomicUsize);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let woken = Arc::new(Woken(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    let length = 3 * TURN;
    let body = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
    let mut client = client(&[body.as_bytes()], false);
    client.begin(&request("GET /"), Full::default());
    assert!(matches!(client.poll_answer(&mut cx, |_| {}), Poll::Ready(Ok(_))));
    let (mut turns, mut in_turn, mut all) = (0, 0, 0);
    while !client.is_complete() {
        match client.poll_body(&mut cx) {
            Poll::Ready(frame) => in_turn += frame.unwrap().unwrap().into_data().unwrap().len(),
            Poll::Pending => {
                assert!(in_turn < TURN + buffer::LARGE, "{in_turn}");
                turns += 1;
                assert_eq!(woken.0.load(Ordering::Relaxed), turns);
                in_turn = 0;
                continue;
            }
        }
        all = all.max(in_turn);
    }
    assert!(turns >= 2 && all >= TURN, "{turns} turns of at most {all}");
}
