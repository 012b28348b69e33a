//! Bodies, both ways.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;

use super::support::*;

const LARGE: usize = 64 << 20;
/// More than all buffers between the two ends hold together, far less than the whole.
const BUFFERED: usize = 24 << 20;

#[tokio::test]
async fn a_slow_reader_holds_the_upstream_back() {
    let written = Count::default();
    let count = written.clone();
    let upstream = upstream(move |mut socket, _| {
        let count = count.clone();
        async move {
            let _head = head(&mut socket).await;
            socket.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n").as_bytes()).await.unwrap();
            let chunk = vec![b'x'; 64 << 10];
            for _ in 0..LARGE / chunk.len() {
                socket.write_all(&chunk).await.unwrap();
                count.add(chunk.len());
            }
        }
    })
    .await;
    let front = front(upstream_at(upstream), How::default()).await;
    let mut socket = send(&front, get("/")).await;
    let _head = head(&mut socket).await;
    sleep(Duration::from_millis(500)).await;
    assert!(written.get() > 0 && written.get() < BUFFERED, "{} bytes", written.get());
    let mut rest = Vec::new();
    within(socket.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest.len(), LARGE);
}

#[tokio::test]
async fn a_slow_upstream_holds_the_client_back() {
    let go = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&go);
    let upstream = upstream(move |mut socket, _| {
        let gate = Arc::clone(&gate);
        async move {
            let _head = head(&mut socket).await;
            while !gate.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(5)).await;
            }
            let mut left = LARGE;
            let mut buffer = vec![0; 64 << 10];
            while left > 0 {
                left -= socket.read(&mut buffer).await.unwrap();
            }
            socket.write_all(OK).await.unwrap();
        }
    })
    .await;
    let front = front(upstream_at(upstream), How::default()).await;
    let socket = send(&front, format!("PUT / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {LARGE}\r\n\r\n")).await;
    let (mut reader, mut writer) = socket.into_split();
    let written = Count::default();
    let count = written.clone();
    drop(front.tasks.spawn(async move {
        let chunk = vec![b'x'; 64 << 10];
        for _ in 0..LARGE / chunk.len() {
            writer.write_all(&chunk).await.unwrap();
            count.add(chunk.len());
        }
        // Half-closed would look like a client that has gone.
        std::future::pending::<()>().await;
        drop(writer);
    }));
    sleep(Duration::from_millis(500)).await;
    assert!(written.get() > 0 && written.get() < BUFFERED, "{} bytes", written.get());
    go.store(true, Ordering::SeqCst);
    let mut got = String::new();
    within(reader.read_to_string(&mut got)).await.unwrap();
    assert!(got.starts_with("HTTP/1.1 200") && written.get() == LARGE, "{got}");
}

#[tokio::test]
async fn an_event_arrives_before_the_next_one_is_made() {
    let upstream = upstream(|mut socket, _| async move {
        let _head = head(&mut socket).await;
        socket
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
            .await
            .unwrap();
        // The second follows only a word of the client's, by another request.
        std::future::pending::<()>().await;
    })
    .await;
    let front = front(upstream_at(upstream), How::default()).await;
    let mut socket = send(&front, get("/")).await;
    let got = within(until(&mut socket, b"data: 1\n\n")).await;
    assert!(got.ends_with("data: 1\n\n"));
}

#[tokio::test]
async fn connections_are_used_again() {
    let connections = Count::default();
    let count = connections.clone();
    let upstream = upstream(move |mut socket, _| {
        count.add(1);
        async move {
            for answer in [
                OK,
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                b"HTTP/1.1 204 No Content\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                OK,
            ] {
                let _head = head(&mut socket).await;
                socket.write_all(answer).await.unwrap();
            }
        }
    })
    .await;
    let front = front(upstream_at(upstream), How::default()).await;
    for _ in 0..5 {
        assert!(ask(&front, get("/")).await.starts_with("HTTP/1.1 20"));
    }
    assert_eq!(connections.get(), 1);
    assert_eq!(front.proxy.counters().upstreams()[0].in_flight.load(Ordering::Relaxed), 0);
    // Idle for a few seconds, it is closed.
    eventually(|| front.proxy.counters().upstreams()[0].open.load(Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_upstream_connection_along() {
    let ended = Count::default();
    let count = ended.clone();
    let upstream = upstream(move |mut socket, number| {
        let count = count.clone();
        async move {
            let _head = head(&mut socket).await;
            if number == 0 {
                socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome").await.unwrap();
            }
            let mut rest = Vec::new();
            let _closed = socket.read_to_end(&mut rest).await;
            count.add(1);
        }
    })
    .await;
    let front = front(upstream_at(upstream), How::default()).await;
    let mut socket = send(&front, get("/")).await;
    let _head = within(until(&mut socket, b"some")).await;
    drop(socket);
    eventually(|| ended.get() == 1).await;
    // Before the answer's head as well.
    let socket = send(&front, get("/")).await;
    eventually(|| front.proxy.counters().upstreams()[0].open.load(Ordering::Relaxed) == 1).await;
    drop(socket);
    eventually(|| ended.get() == 2).await;
}

#[tokio::test]
async fn a_body_waits_for_the_upstreams_continue() {
    let upstream = upstream(|mut socket, _| async move {
        let head_ = head(&mut socket).await;
        assert!(head_.contains("expect: 100-continue\r\n"), "{head_}");
        socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut body = [0; 3];
        socket.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"abc");
        socket.write_all(OK).await.unwrap();
    })
    .await;
    let front = front(upstream_at(upstream), How::default()).await;
    let started = tokio::time::Instant::now();
    let mut socket =
        send(&front, "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").await;
    assert_eq!(within(head(&mut socket)).await, "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(started.elapsed() < Duration::from_millis(900), "it waited for the second to pass");
    socket.write_all(b"abc").await.unwrap();
    assert!(within(head(&mut socket)).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_refusal_comes_without_a_continue_and_silence_counts_as_one() {
    let upstream = upstream(|mut socket, number| async move {
        let _head = head(&mut socket).await;
        if number == 0 {
            socket.write_all(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
            std::future::pending::<()>().await;
        }
        // Knows nothing of 100.
        let mut body = [0; 3];
        socket.read_exact(&mut body).await.unwrap();
        socket.write_all(OK).await.unwrap();
    })
    .await;
    let front = front(upstream_at(upstream), How::default()).await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    let mut refused = send(&front, request).await;
    assert!(within(head(&mut refused)).await.starts_with("HTTP/1.1 417"));
    let mut socket = send(&front, request).await;
    assert_eq!(within(head(&mut socket)).await, "HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(b"abc").await.unwrap();
    assert!(within(head(&mut socket)).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn an_answer_before_the_bodys_end_is_delivered() {
    let upstream = upstream(|mut socket, _| async move {
        let _head = head(&mut socket).await;
        socket.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").await.unwrap();
        // Closed with the body unread: the next write there fails.
    })
    .await;
    let front = front(upstream_at(upstream), How::default()).await;
    let mut socket = send(&front, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegin").await;
    assert!(within(until(&mut socket, b"\r\n\r\nno")).await.starts_with("HTTP/1.1 403"));
}

#[tokio::test]
async fn a_stream_ends_with_its_session() {
    let upstream = upstream(|mut socket, _| async move {
        let _head = head(&mut socket).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let over = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&over);
    let front = front(upstream_at(upstream), How { ended: Some(Arc::new(move || flag.load(Ordering::SeqCst))), ..How::default() }).await;
    let mut socket = send(&front, get("/")).await;
    let _begin = within(until(&mut socket, b"ok\r\n")).await;
    over.store(true, Ordering::SeqCst);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(2), socket.read_to_end(&mut rest)).await;
    assert!(ended.is_ok() && !rest.ends_with(b"0\r\n\r\n"), "{ended:?} {rest:?}");
}

#[tokio::test]
async fn a_silent_stream_is_cut() {
    let upstream = upstream(|mut socket, _| async move {
        let _head = head(&mut socket).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let mut config = upstream_at(upstream);
    config.stream_idle_timeout = Duration::from_millis(200);
    let front = front(config, How::default()).await;
    assert!(ask(&front, get("/")).await.ends_with("\r\n\r\nok"));
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused() {
    let upstream = upstream(|mut socket, _| async move {
        let mut all = Vec::new();
        let _closed = socket.read_to_end(&mut all).await;
    })
    .await;
    let front = front(upstream_at(upstream), How { max_body: Some(10), ..How::default() }).await;
    for request in [
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 11\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n6\r\nabcdef\r\n0\r\n\r\n",
    ] {
        let mut socket = send(&front, request).await;
        assert!(within(head(&mut socket)).await.starts_with("HTTP/1.1 413"));
    }
}

/// Nothing has come of the answer yet: whoever waits for it with a session that has ended gets none.
#[tokio::test]
async fn a_request_that_waits_ends_with_its_session() {
    let asked = Count::default();
    let count = asked.clone();
    let upstream = upstream(move |mut socket, _| {
        let count = count.clone();
        async move {
            let _head = head(&mut socket).await;
            count.add(1);
            let _gone = socket.read(&mut [0]).await;
        }
    })
    .await;
    let over = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&over);
    let front = front(upstream_at(upstream), How { ended: Some(Arc::new(move || flag.load(Ordering::SeqCst))), ..How::default() }).await;
    let mut socket = send(&front, get("/slow")).await;
    eventually(|| asked.get() == 1).await;
    over.store(true, Ordering::SeqCst);
    let text = tokio::time::timeout(Duration::from_secs(3), head(&mut socket)).await.expect("it goes on");
    assert!(text.starts_with("HTTP/1.1 401"), "{text}");
}
