//! HTTP/2 behind: streams on shared connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use nullpass::config::{self, UpstreamUrl};
use nullpass::tasks::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use super::support::*;

type Respond = SendResponse<Bytes>;

fn h2c(address: std::net::SocketAddr) -> config::Upstream {
    let mut config = upstream_at(address);
    config.urls = vec![UpstreamUrl::H2c { host: address.ip().to_string(), port: address.port() }];
    config
}

/// An upstream that speaks HTTP/2 and treats each request as `serve` says, which is told how many connections and requests
/// there were before.
async fn speaking<F, S>(builder: Builder, connections: Count, serve: S) -> std::net::SocketAddr
where
    S: Fn(Request<RecvStream>, Respond, usize) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let requests = Count::default();
    upstream(move |socket, _| {
        connections.add(1);
        socket.set_nodelay(true).unwrap();
        let (builder, serve, requests) = (builder.clone(), serve.clone(), requests.clone());
        async move { talk(socket, builder, requests, serve).await }
    })
    .await
}

async fn talk<T, F, S>(socket: T, builder: Builder, requests: Count, serve: S)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    S: Fn(Request<RecvStream>, Respond, usize) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let Ok(mut connection) = builder.handshake(socket).await else { return };
    let tasks = Tasks::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let number = requests.get();
        requests.add(1);
        drop(tasks.spawn(serve(request, respond, number)));
    }
}

/// Reads a body to its end and gives what was read back.
async fn whole(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut got = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        let _over = body.flow_control().release_capacity(data.len());
        got.extend_from_slice(&data);
    }
    Ok(got)
}

/// Answers with the request's head as text, its body behind, and its trailers as trailers.
async fn echo(request: Request<RecvStream>, mut respond: Respond, _number: usize) {
    let (head, mut body) = request.into_parts();
    let mut text = format!("{} {}\n", head.method, head.uri);
    for (name, value) in &head.headers {
        text = format!("{text}{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    let Ok(body_bytes) = whole(&mut body).await else { return };
    let trailers = body.trailers().await.unwrap();
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data([text.as_bytes(), b"\n", &body_bytes].concat().into(), trailers.is_none()).unwrap();
    if let Some(trailers) = trailers {
        stream.send_trailers(trailers).unwrap();
    }
}

fn ok(mut respond: Respond) {
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data("ok".into(), true).unwrap();
}

/// A client that speaks HTTP/2 to the front.
async fn client(front: &Front) -> h2::client::SendRequest<Bytes> {
    let socket = TcpStream::connect(front.address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    drop(front.tasks.spawn(connection));
    sender
}

fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let request = Request::builder().method(method).uri(format!("http://app.example.com{path}"));
    fields.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(()).unwrap()
}

async fn answer(front: &Front, request: Request<()>) -> (u16, String, Option<HeaderMap>) {
    let (answer, _) = client(front).await.send_request(request, true).unwrap();
    let answer = within(answer).await.unwrap();
    let status = answer.status().as_u16();
    let mut body = answer.into_body();
    let text = String::from_utf8(within(whole(&mut body)).await.unwrap()).unwrap();
    (status, text, body.trailers().await.unwrap())
}

/// Nothing is in flight, and nothing is open but what may be kept.
async fn is_quiet(front: &Front) {
    let counters = &front.proxy.counters().upstreams()[0];
    eventually(|| counters.in_flight.load(Ordering::Relaxed) == 0 && counters.upgrades.load(Ordering::Relaxed) == 0).await;
}

/// Whether, with all that it still holds for requests gone, the connections go as well.
async fn all_close(front: &Front) {
    is_quiet(front).await;
    front.tasks.stop();
    let counters = &front.proxy.counters().upstreams()[0];
    eventually(|| counters.open.load(Ordering::Relaxed) == 0).await;
}

// HDR-1: over HTTP/2 as well, from both kinds of clients, in the head and in trailers.
#[tokio::test]
async fn heads_are_those_of_http_1() {
    let front = front(h2c(speaking(Builder::new(), Count::default(), echo).await), How { identity: Some(ann()), ..How::default() }).await;
    let forged = "X-Forwarded-User: evil\r\nX_Forwarded_User: evil\r\nRemote.User: evil\r\nX-Real-IP: 6.6.6.6\r\nX-Tenant: evil\r\n";
    let text = ask(&front, format!("GET /a%2Fb?c=d HTTP/1.1\r\nHost: app.example.com\r\nTE: trailers\r\nKeep-Alive: 5\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n{forged}\r\n")).await;
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("GET http://app.example.com/a%2Fb?c=d\n"), "{text}");
    let (_, told) = text.split_once("\r\n\r\n").unwrap();
    for gone in ["evil", "6.6.6.6", "\nhost:", "\nconnection:", "x-hop", "\nkeep-alive:", "transfer-encoding"] {
        assert!(!told.contains(gone), "{gone}: {told}");
    }
    assert!(text.contains("te: trailers\n") && text.contains("x-forwarded-user: ann@example.com\n"), "{text}");
    let fields = [
        ("x-forwarded-user", "evil"),
        ("x_forwarded_groups", "evil"),
        ("x-tenant", "evil"),
        ("cookie", "a=b"),
        ("cookie", "c=d"),
        ("te", "trailers"),
    ];
    let (status, text, _) = answer(&front, request("GET", "/x", &fields)).await;
    assert_eq!(status, 200);
    assert!(
        !text.contains("evil") && text.contains("cookie: a=b; c=d\n") && text.contains("x-forwarded-user: ann@example.com\n"),
        "{text}"
    );
    all_close(&front).await;
}

// HDR-1: a pseudo-header field can't be made out of anything that a client sends.
#[tokio::test]
async fn pseudo_header_fields_are_ours() {
    let front = front(h2c(speaking(Builder::new(), Count::default(), echo).await), How::default()).await;
    for line in [":authority: evil", ":path: /evil", ":scheme: evil", ":method: DELETE"] {
        let text = ask(&front, format!("GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{line}\r\n\r\n")).await;
        assert!(text.starts_with("HTTP/1.1 400"), "{line}: {text}");
    }
    let text = ask(&front, "GET http://a.example/b HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").await;
    assert!(text.contains("GET http://a.example/b\n"), "{text}");
}

// HDR-1: in trailers too.
#[tokio::test]
async fn bodies_and_trailers_go_both_ways() {
    let front = front(h2c(speaking(Builder::new(), Count::default(), echo).await), How::default()).await;
    // HTTP/1.1 in front, in chunks, with trailers.
    let text = ask(
        &front,
        "POST /a HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: x-sum, x-forwarded-user\r\nTransfer-Encoding: chunked\r\nConnection: close, te\r\n\r\n\
         3\r\nabc\r\n0\r\nx-sum: 1\r\nx-forwarded-user: evil\r\n\r\n",
    )
    .await;
    assert!(text.contains("\nabc") && !text.contains("evil") && !text.contains("transfer-encoding: chunked\n"), "{text}");
    let text = ask(&front, "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc").await;
    assert!(text.contains("content-length: 3\n") && text.contains("\n\nabc"), "{text}");
    // HTTP/2 in front.
    let (answer, mut stream) = client(&front).await.send_request(request("POST", "/b", &[("te", "trailers")]), false).unwrap();
    stream.send_data(Bytes::from(vec![b'x'; 40_000]), false).unwrap();
    let sent = [("x-sum", "2"), ("x-forwarded-user", "evil"), ("content-length", "9"), ("set-cookie", "nullpass=evil")];
    stream.send_trailers(sent.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap>()).unwrap();
    let answer = within(answer).await.unwrap();
    let mut body = answer.into_body();
    assert!(within(whole(&mut body)).await.unwrap().ends_with(&b"x".repeat(40_000)));
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!((trailers.len(), trailers["x-sum"].to_str().unwrap()), (1, "2"));
    all_close(&front).await;
}

#[tokio::test]
async fn large_bodies_stream_through_small_windows() {
    let front = front(h2c(speaking(Builder::new(), Count::default(), echo).await), How::default()).await;
    let sent: Vec<u8> = (0..3_000_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    let mut socket =
        send(&front, format!("PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", sent.len())).await;
    socket.write_all(&sent).await.unwrap();
    let mut got = Vec::new();
    within(socket.read_to_end(&mut got)).await.unwrap();
    assert!(got.len() > sent.len());
    let text = String::from_utf8_lossy(&got[..200]);
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}

#[tokio::test]
async fn answers_without_a_body() {
    let address = speaking(Builder::new(), Count::default(), |request, mut respond, _| async move {
        let answer = match request.uri().path() {
            "/204" => Response::builder().status(204),
            "/304" => Response::builder().status(304).header("content-length", "7"),
            _ => Response::builder().header("content-length", "5"),
        };
        respond.send_response(answer.body(()).unwrap(), true).unwrap();
    })
    .await;
    let front = front(h2c(address), How::default()).await;
    for (method, path, status) in [("GET", "/204", 204), ("GET", "/304", 304), ("HEAD", "/", 200)] {
        let text = ask(&front, format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")) && text.ends_with("\r\n\r\n"), "{text}");
        assert_eq!(answer(&front, request(method, path, &[])).await.0, status);
    }
    let text = ask(&front, "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(text.contains("content-length: 5"), "{text}");
    all_close(&front).await;
}

#[tokio::test]
async fn one_connection_carries_many_requests_and_a_second_the_rest() {
    let connections = Count::default();
    let mut builder = Builder::new();
    builder.max_concurrent_streams(4);
    let gate = Arc::new(tokio::sync::Notify::new());
    let opened = Count::default();
    let (waiting, seen) = (Arc::clone(&gate), opened.clone());
    let address = speaking(builder, connections.clone(), move |_, respond, _| {
        let (gate, seen) = (Arc::clone(&waiting), seen.clone());
        async move {
            let notified = gate.notified();
            seen.add(1);
            notified.await;
            ok(respond);
        }
    })
    .await;
    let front = front(h2c(address), How::default()).await;
    let mut sender = client(&front).await;
    let answers: Vec<_> = (0..4).map(|_| sender.send_request(request("GET", "/", &[]), true).unwrap().0).collect();
    eventually(|| opened.get() == 4).await;
    assert_eq!(connections.get(), 1);
    let fifth = sender.send_request(request("GET", "/", &[]), true).unwrap().0;
    eventually(|| opened.get() == 5).await;
    assert_eq!(connections.get(), 2);
    gate.notify_waiters();
    for answer in answers.into_iter().chain([fifth]) {
        assert_eq!(within(answer).await.unwrap().status(), 200);
    }
    all_close(&front).await;
}

// The cap counts connections; beyond it requests wait for a stream, and not for ever.
#[tokio::test]
async fn the_cap_on_connections_holds_and_a_freed_stream_is_used() {
    let connections = Count::default();
    let mut builder = Builder::new();
    builder.max_concurrent_streams(1);
    let address = speaking(builder, connections.clone(), |request, respond, _| async move {
        if request.uri().path() == "/slow" {
            tokio::time::sleep(Duration::from_millis(300)).await;
        } else if request.uri().path() == "/never" {
            std::future::pending::<()>().await;
        }
        ok(respond);
    })
    .await;
    let mut config = h2c(address);
    config.max_connections = 1;
    config.connect_timeout = Duration::from_secs(1);
    let front = front(config, How::default()).await;
    let mut sender = client(&front).await;
    let answers: Vec<_> = ["/slow", "/", "/"].map(|path| sender.send_request(request("GET", path, &[]), true).unwrap().0).into();
    for answer in answers {
        assert_eq!(within(answer).await.unwrap().status(), 200);
    }
    let stuck = sender.send_request(request("GET", "/never", &[]), true).unwrap();
    let refused: Vec<_> = (0..3).map(|_| sender.send_request(request("GET", "/", &[]), true).unwrap().0).collect();
    for answer in refused {
        assert_eq!(within(answer).await.unwrap().status(), 503);
    }
    assert_eq!(connections.get(), 1);
    drop(stuck);
    assert_eq!(answer(&front, request("GET", "/", &[])).await.0, 200);
    all_close(&front).await;
}

#[tokio::test]
async fn what_was_not_processed_is_sent_again() {
    // REFUSED_STREAM, then a GOAWAY below the stream: both say so.
    let address = speaking(Builder::new(), Count::default(), |request, mut respond, number| async move {
        if number == 0 {
            respond.send_reset(Reason::REFUSED_STREAM);
        } else {
            echo(request, respond, number).await;
        }
    })
    .await;
    let front = front(h2c(address), How::default()).await;
    assert_eq!(answer(&front, request("DELETE", "/a", &[])).await.0, 200, "whatever the method");
    assert_eq!(front.proxy.counters().upstreams()[0].retries.load(Ordering::Relaxed), 1);
    all_close(&front).await;
}

#[tokio::test]
async fn a_body_that_was_begun_is_not_sent_again() {
    let requests = Count::default();
    let seen = requests.clone();
    let address = speaking(Builder::new(), Count::default(), move |mut request, mut respond, _| {
        seen.add(1);
        async move {
            let _first = request.body_mut().data().await;
            respond.send_reset(Reason::REFUSED_STREAM);
        }
    })
    .await;
    let front = front(h2c(address), How::default()).await;
    let text = ask(&front, "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc").await;
    assert!(text.starts_with("HTTP/1.1 502") && requests.get() == 1, "{text}");
    all_close(&front).await;
}

#[tokio::test]
async fn a_goaway_loses_nothing() {
    let connections = Count::default();
    let count = connections.clone();
    let address = upstream(move |socket, number| {
        count.add(1);
        async move {
            let mut connection = h2::server::handshake(socket).await.unwrap();
            let (_, respond) = connection.accept().await.unwrap().unwrap();
            if number == 0 {
                // The first connection says goodbye with a request in flight, and answers it later.
                connection.graceful_shutdown();
                drop(Tasks::new().spawn(async move {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    ok(respond);
                }));
            } else {
                ok(respond);
            }
            while let Some(Ok((_, respond))) = connection.accept().await {
                ok(respond);
            }
        }
    })
    .await;
    let front = front(h2c(address), How::default()).await;
    let mut sender = client(&front).await;
    let early = sender.send_request(request("POST", "/", &[]), true).unwrap().0;
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..3 {
        assert_eq!(within(sender.send_request(request("POST", "/", &[]), true).unwrap().0).await.unwrap().status(), 200);
    }
    assert_eq!(within(early).await.unwrap().status(), 200);
    assert_eq!(connections.get(), 2);
    all_close(&front).await;
}

#[tokio::test]
async fn a_connection_that_broke_is_replaced() {
    // Each connection answers one request and closes without a word.
    let address = upstream(|socket, _| async move {
        let mut connection = h2::server::handshake(socket).await.unwrap();
        let (_, respond) = connection.accept().await.unwrap().unwrap();
        ok(respond);
        let _more = tokio::time::timeout(Duration::from_millis(50), connection.accept()).await;
    })
    .await;
    let front = front(h2c(address), How::default()).await;
    for _ in 0..3 {
        assert_eq!(answer(&front, request("POST", "/", &[])).await.0, 200);
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    all_close(&front).await;
}

#[tokio::test]
async fn a_client_that_goes_away_resets_its_stream_alone() {
    let resets = Count::default();
    let seen = resets.clone();
    let address = speaking(Builder::new(), Count::default(), move |request, mut respond, _| {
        let seen = seen.clone();
        async move {
            if request.uri().path() == "/ok" {
                return ok(respond);
            }
            if request.uri().path() == "/body" {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data("x".into(), false).unwrap();
                let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
                assert_eq!(reason.unwrap(), Reason::CANCEL);
            } else {
                let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                assert_eq!(reason.unwrap(), Reason::CANCEL);
            }
            seen.add(1);
        }
    })
    .await;
    let connections = front(h2c(address), How::default()).await;
    let front = connections;
    // Before the answer, in its body, and in the request's.
    let mut socket = send(&front, "GET /body HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let _head = within(until(&mut socket, b"1\r\nx\r\n")).await;
    drop(socket);
    eventually(|| resets.get() == 1).await;
    let (waiting, _) = client(&front).await.send_request(request("GET", "/wait", &[]), true).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(waiting);
    eventually(|| resets.get() == 2).await;
    let socket = send(&front, "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(socket);
    eventually(|| resets.get() == 3).await;
    assert_eq!(answer(&front, request("GET", "/ok", &[])).await.0, 200);
    assert_eq!(front.proxy.counters().upstreams()[0].open.load(Ordering::Relaxed), 1);
    all_close(&front).await;
}

#[tokio::test]
async fn a_stream_ends_with_its_session_or_when_silent() {
    let address = speaking(Builder::new(), Count::default(), |_, mut respond, _| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.send_data("x".into(), false).unwrap();
        let _reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
    })
    .await;
    let over = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&over);
    let by_session = front(h2c(address), How { ended: Some(Arc::new(move || flag.load(Ordering::SeqCst))), ..How::default() }).await;
    let mut config = h2c(address);
    config.stream_idle_timeout = Duration::from_millis(300);
    let by_silence = front(config, How::default()).await;
    for front in [by_session, by_silence] {
        // Also one that sends while it receives, as gRPC does.
        for has_body in [false, true] {
            over.store(false, Ordering::SeqCst);
            let (answer, sending) = client(&front).await.send_request(request("POST", "/", &[]), !has_body).unwrap();
            let mut body = within(answer).await.unwrap().into_body();
            assert_eq!(within(body.data()).await.unwrap().unwrap(), "x");
            over.store(true, Ordering::SeqCst);
            let ended = tokio::time::timeout(Duration::from_secs(2), body.data()).await.expect("it goes on");
            assert!(ended.unwrap().is_err());
            drop(sending);
        }
        all_close(&front).await;
    }
}

#[tokio::test]
async fn an_upload_ends_with_its_session() {
    let address = speaking(Builder::new(), Count::default(), |mut request, respond, _| async move {
        while let Some(Ok(_)) = request.body_mut().data().await {}
        drop(respond);
    })
    .await;
    let over = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&over);
    let front = front(h2c(address), How { ended: Some(Arc::new(move || flag.load(Ordering::SeqCst))), ..How::default() }).await;
    let mut socket = send(&front, "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    over.store(true, Ordering::SeqCst);
    let text = tokio::time::timeout(Duration::from_secs(2), head(&mut socket)).await.expect("it goes on");
    assert!(text.starts_with("HTTP/1.1 401"), "{text}");
    all_close(&front).await;
}

#[tokio::test]
async fn slow_answers_time_out_and_grpc_may_take_its_time() {
    let address = speaking(Builder::new(), Count::default(), |_, respond, _| async move {
        tokio::time::sleep(Duration::from_millis(700)).await;
        ok(respond);
    })
    .await;
    let mut config = h2c(address);
    config.response_timeout = Duration::from_millis(200);
    let front = front(config, How::default()).await;
    assert_eq!(answer(&front, request("GET", "/", &[])).await.0, 504);
    assert_eq!(answer(&front, request("POST", "/", &[("content-type", "application/grpc")])).await.0, 200);
    all_close(&front).await;
}

#[tokio::test]
async fn bodies_are_limited() {
    let front = front(h2c(speaking(Builder::new(), Count::default(), echo).await), How { max_body: Some(10), ..How::default() }).await;
    let text = ask(
        &front,
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n14\r\n01234567890123456789\r\n0\r\n\r\n",
    )
    .await;
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    let text = ask(&front, "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nConnection: close\r\n\r\n0123456789").await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    all_close(&front).await;
}

#[tokio::test]
async fn early_answers_and_continue() {
    let address = speaking(Builder::new(), Count::default(), |mut request, mut respond, _| async move {
        if request.uri().path() == "/early" {
            let mut stream = respond.send_response(Response::builder().status(413).body(()).unwrap(), false).unwrap();
            stream.send_data("no".into(), true).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            respond.send_reset(Reason::NO_ERROR);
        } else {
            let none = tokio::time::timeout(Duration::from_millis(300), request.body_mut().data()).await;
            assert!(none.is_err(), "the body came before it was asked for");
            respond.send_informational(Response::builder().status(100).body(()).unwrap()).unwrap();
            echo(request, respond, 0).await;
        }
    })
    .await;
    let front = front(h2c(address), How::default()).await;
    let mut socket = send(&front, "POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc").await;
    let text = within(head(&mut socket)).await;
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    let mut socket = send(&front, "POST /ask HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n").await;
    assert!(within(head(&mut socket)).await.starts_with("HTTP/1.1 100"));
    socket.write_all(b"abc").await.unwrap();
    assert!(within(until(&mut socket, b"\n\nabc")).await.contains("HTTP/1.1 200"));
    drop(socket);
    all_close(&front).await;
}

// Bytes go either way at any time, also when the client reads nothing for a while.
#[tokio::test]
async fn both_directions_are_independent() {
    let address = speaking(Builder::new(), Count::default(), |mut request, mut respond, _| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        // More than any window, which nobody reads yet.
        stream.send_data(vec![b'x'; 8 << 20].into(), false).unwrap();
        let got = whole(request.body_mut()).await.unwrap();
        stream.send_data(format!("got {}", got.len()).into(), true).unwrap();
    })
    .await;
    let front = front(h2c(address), How::default()).await;
    let (answer, mut stream) = client(&front).await.send_request(request("POST", "/", &[]), false).unwrap();
    let mut body = within(answer).await.unwrap().into_body();
    let mut sent = 0;
    within(async {
        while sent < 1 << 20 {
            stream.reserve_capacity(16_384);
            let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
            stream.send_data(vec![b'y'; room].into(), false).unwrap();
            sent += room;
        }
    })
    .await;
    stream.send_data(Bytes::new(), true).unwrap();
    let got = within(whole(&mut body)).await.unwrap();
    assert!(got.ends_with(format!("got {sent}").as_bytes()));
    all_close(&front).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_nobody_else() {
    let address = speaking(Builder::new(), Count::default(), |request, mut respond, _| async move {
        if request.uri().path() == "/ok" {
            return ok(respond);
        }
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.send_data(vec![b'x'; 8 << 20].into(), false).unwrap();
        let _reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
    })
    .await;
    let front = front(h2c(address), How::default()).await;
    let mut stuck = Vec::new();
    for _ in 0..40 {
        let mut socket = send(&front, "GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(within(head(&mut socket)).await.starts_with("HTTP/1.1 200"));
        stuck.push(socket);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(answer(&front, request("GET", "/ok", &[])).await.0, 200);
    assert_eq!(front.proxy.counters().upstreams()[0].open.load(Ordering::Relaxed), 1);
    drop(stuck);
    all_close(&front).await;
}

#[tokio::test]
async fn what_is_not_http_2_is_unreachable() {
    let front = front(h2c(echo_heads().await), How::default()).await;
    assert_eq!(answer(&front, request("GET", "/", &[])).await.0, 502);
    all_close(&front).await;
}

#[tokio::test]
async fn broken_answers_are_cut_or_refused() {
    let address = speaking(Builder::new(), Count::default(), |request, mut respond, _| async move {
        match request.uri().path() {
            "/reset" => respond.send_reset(Reason::INTERNAL_ERROR),
            "/large" => {
                let large = "x".repeat(16_000);
                let answer = (0..6).fold(Response::builder(), |answer, at| answer.header(format!("x-{at}"), &large));
                let _sent = respond.send_response(answer.body(()).unwrap(), true);
            }
            _ => {
                let answer = Response::builder().header("content-length", "10").body(()).unwrap();
                let mut stream = respond.send_response(answer, false).unwrap();
                stream.send_data("abc".into(), false).unwrap();
                // What is not written yet would go with it.
                tokio::time::sleep(Duration::from_millis(50)).await;
                stream.send_reset(Reason::NO_ERROR);
            }
        }
    })
    .await;
    let front = front(h2c(address), How::default()).await;
    for path in ["/reset", "/large"] {
        assert_eq!(answer(&front, request("GET", path, &[])).await.0, 502, "{path}");
    }
    let (answer, _) = client(&front).await.send_request(request("GET", "/half", &[]), true).unwrap();
    let half = match within(answer).await {
        Ok(answer) => within(whole(&mut answer.into_body())).await.is_err(),
        Err(_) => true,
    };
    assert!(half, "half an answer looks like a whole one");
    all_close(&front).await;
}

#[tokio::test]
async fn a_unix_socket_speaks_it_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let tasks = Tasks::new();
    drop(tasks.spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            drop(Tasks::new().spawn(talk(socket, Builder::new(), Count::default(), echo)));
        }
    }));
    let mut config = upstream_at("127.0.0.1:1".parse().unwrap());
    config.urls = vec![UpstreamUrl::UnixH2c(path)];
    let front = front(config, How::default()).await;
    let (status, text, _) = answer(&front, request("GET", "/a", &[])).await;
    assert!(status == 200 && text.contains("GET http://app.example.com/a\n"), "{text}");
    assert_eq!(within(front.proxy.probe(front.proxy.route("a", "/").unwrap())).await.unwrap(), 200);
    all_close(&front).await;
}

/// An upstream that speaks by TLS whichever of `protocols` ALPN settles on.
async fn tls_speaking(made: &rcgen::CertifiedKey<rcgen::KeyPair>, protocols: &[&[u8]], connections: Count) -> std::net::SocketAddr {
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = Tasks::new();
    let spawner = tasks.clone();
    drop(tasks.spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (acceptor, connections) = (acceptor.clone(), connections.clone());
            drop(spawner.spawn(async move {
                let Ok(mut stream) = acceptor.accept(socket).await else { return };
                connections.add(1);
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    return talk(stream, Builder::new(), Count::default(), echo).await;
                }
                let mut bytes = vec![0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                    let told = String::from_utf8_lossy(&bytes[..count]).into_owned();
                    let reply = if told.contains("upgrade: websocket") {
                        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n"
                    } else {
                        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nold\n"
                    };
                    if stream.write_all(reply.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }));
        }
    }));
    address
}

#[tokio::test]
async fn alpn_settles_what_is_spoken() {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    for (protocols, new) in [(&[&b"h2"[..], b"http/1.1"][..], true), (&[&b"http/1.1"[..]][..], false), (&[][..], false)] {
        let connections = Count::default();
        let address = tls_speaking(&made, protocols, connections.clone()).await;
        let mut config = upstream_at(address);
        config.urls = vec![UpstreamUrl::Tcp { tls: true, host: "127.0.0.1".to_owned(), port: address.port() }];
        config.tls.insecure = true;
        let front = front(config, How::default()).await;
        let mut sender = client(&front).await;
        let answers: Vec<_> = (0..5).map(|_| sender.send_request(request("GET", "/a", &[]), true).unwrap().0).collect();
        for answer in answers {
            let mut body = within(answer).await.unwrap().into_body();
            let text = String::from_utf8(within(whole(&mut body)).await.unwrap()).unwrap();
            assert_eq!(text.starts_with("GET https://app.example.com/a\n"), new, "{text}");
        }
        // A burst shares the one connection of HTTP/2.
        assert!(!new || connections.get() == 1, "{}", connections.get());
        let probed = within(front.proxy.probe(front.proxy.route("a", "/").unwrap())).await;
        assert_eq!(probed.unwrap(), 200);
        // An upgrade goes over HTTP/1.1 wherever that is spoken.
        if !protocols.is_empty() {
            let mut socket =
                send(&front, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n")
                    .await;
            assert!(within(head(&mut socket)).await.starts_with("HTTP/1.1 101"));
        }
        all_close(&front).await;
    }
}

/// Opens a stream for a `WebSocket` and says back whatever it hears.
async fn echo_tunnel(request: Request<RecvStream>, mut respond: Respond, _number: usize) {
    assert_eq!(request.method(), "CONNECT");
    assert_eq!(request.extensions().get::<h2::ext::Protocol>().unwrap().as_str(), "websocket");
    assert!(!request.headers().contains_key("sec-websocket-key") && !request.headers().contains_key("upgrade"));
    if request.uri().path() == "/no" {
        let mut stream = respond.send_response(Response::builder().status(403).body(()).unwrap(), false).unwrap();
        stream.send_data("no".into(), true).unwrap();
        return;
    }
    let answer = Response::builder().header("sec-websocket-protocol", "chat").body(()).unwrap();
    let mut stream = respond.send_response(answer, false).unwrap();
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        let _over = body.flow_control().release_capacity(data.len());
        stream.send_data(data, false).unwrap();
    }
    let _over = stream.send_data(Bytes::new(), true);
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

// RFC 8441 behind: the handshake of HTTP/1.1 is answered as RFC 6455 wants it.
#[tokio::test]
async fn a_websocket_goes_on_over_http_2() {
    let mut builder = Builder::new();
    builder.enable_connect_protocol();
    let over = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&over);
    let how = How { ended: Some(Arc::new(move || flag.load(Ordering::SeqCst))), ..How::default() };
    let front = front(h2c(speaking(builder, Count::default(), echo_tunnel).await), how).await;
    let mut socket = send(&front, UPGRADE).await;
    let text = within(head(&mut socket)).await;
    assert!(text.starts_with("HTTP/1.1 101") && text.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{text}");
    assert!(text.contains("sec-websocket-protocol: chat") && text.contains("upgrade: websocket"), "{text}");
    let large = vec![b'z'; 300_000];
    let (mut reader, mut writer) = socket.into_split();
    let mut back = vec![0; large.len()];
    let (wrote, read) = within(async { tokio::join!(writer.write_all(&large), reader.read_exact(&mut back)) }).await;
    assert!(wrote.is_ok() && read.is_ok() && back == large);
    let counters = &front.proxy.counters().upstreams()[0];
    assert_eq!(counters.upgrades.load(Ordering::Relaxed), 1);
    over.store(true, Ordering::SeqCst);
    let ended = tokio::time::timeout(Duration::from_secs(2), reader.read_u8()).await;
    assert!(matches!(ended, Ok(Err(_))), "{ended:?}");
    over.store(false, Ordering::SeqCst);
    let mut socket = send(&front, UPGRADE.replace("/ws", "/no")).await;
    let text = within(until(&mut socket, b"no\r\n0\r\n\r\n")).await;
    assert!(text.starts_with("HTTP/1.1 403"), "{text}");
    let mut socket = send(&front, UPGRADE.replace("dGhlIHNhbXBsZSBub25jZQ==", "x")).await;
    assert!(within(head(&mut socket)).await.starts_with("HTTP/1.1 400"));
    drop(socket);
    all_close(&front).await;
}

#[tokio::test]
async fn an_upstream_without_extended_connect_takes_no_websocket() {
    let front = front(h2c(speaking(Builder::new(), Count::default(), echo).await), How::default()).await;
    let mut socket = send(&front, UPGRADE).await;
    assert!(within(head(&mut socket)).await.starts_with("HTTP/1.1 502"));
    // Any other upgrade may be ignored (RFC 9110, section 7.8).
    let mut socket = send(&front, UPGRADE.replace("websocket", "other")).await;
    assert!(within(head(&mut socket)).await.starts_with("HTTP/1.1 200"));
    drop(socket);
    all_close(&front).await;
}

// An answer that is overdue casts doubt on its connection: the next request goes by another, and a PING without an answer
// closes the first.
#[tokio::test]
async fn a_dead_connection_is_found_and_replaced() {
    let address = upstream(|socket, number| async move {
        let mut connection = h2::server::handshake(socket).await.unwrap();
        if number == 0 {
            // It reads one request and then nothing any more.
            let request = connection.accept().await;
            std::future::pending::<()>().await;
            drop(request);
        }
        while let Some(Ok((_, respond))) = connection.accept().await {
            ok(respond);
        }
    })
    .await;
    let mut config = h2c(address);
    config.response_timeout = Duration::from_millis(200);
    let front = front(config, How::default()).await;
    assert_eq!(answer(&front, request("GET", "/", &[])).await.0, 504);
    assert_eq!(answer(&front, request("GET", "/", &[])).await.0, 200);
    let counters = &front.proxy.counters().upstreams()[0];
    assert_eq!(counters.open.load(Ordering::Relaxed), 2);
    eventually(|| counters.open.load(Ordering::Relaxed) == 1).await;
    all_close(&front).await;
}
