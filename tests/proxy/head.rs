//! What an upstream is told.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::support::*;

const FORGED: &str = "X-Forwarded-User: root\r\nX_Forwarded_User: root\r\nx.forwarded.email: root\r\nREMOTE_USER: root\r\nRemote-Groups: root\r\n\
    X-Auth-Request-User: root\r\nX-authentik-username: root\r\nX_Tenant: root\r\nX-Nullpass-Assertion: root\r\nX-Forwarded-For: 6.6.6.6\r\n\
    X_Real_IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Original-URL: /root\r\nX-Forwarded-Prefix: /root\r\nX-HTTP-Method-Override: ROOT\r\nProxy: root\r\n";

// HDR-1, HDR-2, FWD-3, FWD-5
#[tokio::test]
async fn nothing_forged_reaches_the_upstream() {
    let upstream = echo_heads().await;
    let request = format!("GET / HTTP/1.1\r\nHost: app.example.com\r\n{FORGED}Connection: close\r\n\r\n");
    let nobody = ask(&front(upstream_at(upstream), How::default()).await, &request).await.to_lowercase();
    assert!(nobody.contains("x-forwarded-for: 127.0.0.1\r\n") && !nobody.contains("root") && !nobody.contains("6.6.6.6"), "{nobody}");
    assert!(!nobody.contains("x-forwarded-user"), "{nobody}");

    let somebody = ask(&front(upstream_at(upstream), How { identity: Some(ann()), ..How::default() }).await, &request).await.to_lowercase();
    assert!(!somebody.contains("root") && somebody.contains("x-forwarded-user: ann@example.com\r\n"), "{somebody}");
    assert!(somebody.contains("x-forwarded-groups: staff\r\n") && !somebody.contains("x-forwarded-name"), "{somebody}");
}

// HDR-3
#[tokio::test]
async fn connection_cant_name_away_who_asks() {
    let front = front(upstream_at(echo_heads().await), How { identity: Some(ann()), ..How::default() }).await;
    let told = ask(
        &front,
        "GET / HTTP/1.1\r\nHost: app.example.com\r\nX-Mine: 1\r\nConnection: close, X-Forwarded-User, x-forwarded-groups, X-Forwarded-For, Host, X-Request-Id, x-mine\r\n\r\n",
    )
    .await;
    for kept in [
        "x-forwarded-user: ann@example.com",
        "x-forwarded-groups: staff",
        "x-forwarded-for: 127.0.0.1",
        "host: app.example.com",
        "x-request-id: req-1",
    ] {
        assert!(told.contains(kept), "{kept}: {told}");
    }
    let (_, told) = told.split_once("\r\n\r\n").unwrap();
    assert!(!told.contains("x-mine") && !told.contains("connection:"), "{told}");
}

// HDR-1
#[tokio::test]
async fn trailers_cant_say_who_asks_either() {
    let upstream = upstream(|mut socket, _| async move {
        let got = until(&mut socket, b"\r\n0\r\n").await + &until(&mut socket, b"\r\n\r\n").await;
        socket.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{got}", got.len()).as_bytes()).await.unwrap();
    })
    .await;
    let front = front(upstream_at(upstream), How::default()).await;
    let told = ask(
        &front,
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum, X_Forwarded_User, x-forwarded-for\r\n\r\n\
         3\r\nabc\r\n0\r\nX-Sum: 7\r\nX_Forwarded_User: root\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
    )
    .await;
    assert!(told.contains("x-sum: 7\r\n") && !told.contains("root") && !told.contains("6.6.6.6"), "{told}");
}

// PATH-3
#[tokio::test]
async fn the_bytes_of_the_target_are_forwarded() {
    let front = front(upstream_at(echo_heads().await), How::default()).await;
    for target in ["/", "/a%2Fb%2e//c;x=1/?q=%zz&[a]=b?c", "/%ff/~!$&'()*+,;=:@"] {
        let told = ask(&front, get(target)).await;
        assert!(told.contains(&format!("\r\n\r\nGET {target} HTTP/1.1\r\n")), "{told}");
    }
    // Of the absolute form what an origin server is told; an empty path is `/`.
    for (target, expected) in
        [("http://app.example.com/a?b", "/a?b"), ("http://app.example.com?b=/../c", "/?b=/../c"), ("http://app.example.com", "/")]
    {
        let told = ask(&front, get(target)).await;
        assert!(told.contains(&format!("\r\n\r\nGET {expected} HTTP/1.1\r\n")), "{told}");
    }
}

// HDR-1
#[tokio::test]
async fn http2_becomes_http1() {
    let upstream = upstream(|mut socket, _| async move {
        let got = until(&mut socket, b"\r\n0\r\n").await + &until(&mut socket, b"\r\n\r\n").await;
        socket.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{got}", got.len()).as_bytes()).await.unwrap();
    })
    .await;
    let front = front(upstream_at(upstream), How { identity: Some(ann()), ..How::default() }).await;
    let socket = TcpStream::connect(front.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    drop(front.tasks.spawn(connection));
    let mut trailers = HeaderMap::new();
    trailers.insert("x_forwarded_user", "root".parse().unwrap());
    trailers.insert("x-sum", "7".parse().unwrap());
    let body = Full::new(Bytes::from("abc")).with_trailers(std::future::ready(Some(Ok(trailers))));
    let request = Request::post("http://app.example.com/a%2Fb?c")
        .header("x_forwarded_user", "root")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .header("trailer", "x-sum, x_forwarded_user")
        .body(body)
        .unwrap();
    let told = within(sender.send_request(request)).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let told = String::from_utf8(told.to_vec()).unwrap();
    assert!(told.starts_with("POST /a%2Fb?c HTTP/1.1\r\n"), "{told}");
    for kept in [
        "host: app.example.com\r\n",
        "cookie: a=1; b=2\r\n",
        "te: trailers\r\n",
        "transfer-encoding: chunked\r\n",
        "x-sum: 7\r\n",
        "x-forwarded-user: ann@",
    ] {
        assert!(told.contains(kept), "{kept}: {told}");
    }
    assert!(!told.contains("root"), "{told}");
}

#[tokio::test]
async fn trailers_and_informational_answers_come_back_as_they_should() {
    let upstream = upstream(|mut socket, _| async move {
        let _head = head(&mut socket).await;
        let answer = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 9\r\n\r\n";
        socket.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let front = front(upstream_at(upstream), How::default()).await;
    let got = ask(&front, "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, te\r\n\r\n").await;
    assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && got.ends_with("2\r\nok\r\n0\r\nx-sum: 9\r\n\r\n"), "{got}");
}

#[tokio::test]
async fn a_get_with_a_chunked_body_keeps_it() {
    let upstream = upstream(|mut socket, _| async move {
        let got = head(&mut socket).await + &until(&mut socket, b"0\r\n\r\n").await;
        socket.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{got}", got.len()).as_bytes()).await.unwrap();
    })
    .await;
    let front = front(upstream_at(upstream), How::default()).await;
    let told =
        ask(&front, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
    assert!(told.ends_with("3\r\nabc\r\n0\r\n\r\n"), "{told}");
}

/// Streams a body frame by frame where a test needs that.
#[tokio::test]
async fn a_body_of_unknown_length_is_chunked() {
    let upstream = upstream(|mut socket, _| async move {
        let got = head(&mut socket).await + &until(&mut socket, b"0\r\n\r\n").await;
        socket.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{got}", got.len()).as_bytes()).await.unwrap();
    })
    .await;
    let front = front(upstream_at(upstream), How::default()).await;
    let socket = TcpStream::connect(front.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    drop(front.tasks.spawn(connection));
    let frame = http_body::Frame::data(Bytes::from("abc"));
    let body = StreamBody::new(Once(Some(frame)));
    let told = within(sender.send_request(Request::put("http://a/").body(body).unwrap())).await.unwrap();
    let told = told.into_body().collect().await.unwrap().to_bytes();
    assert!(told.ends_with(b"3\r\nabc\r\n0\r\n\r\n"), "{told:?}");
}

struct Once(Option<http_body::Frame<Bytes>>);

impl futures_core::Stream for Once {
    type Item = Result<http_body::Frame<Bytes>, std::convert::Infallible>;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, _cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.take().map(Ok))
    }
}
