//! Upstreams that fail, and what is tried again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use nullpass::config::{CertificateFiles, UpstreamTls, UpstreamUrl};
use nullpass::proxy::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::sleep;

use super::support::*;

/// The answer's status line and what the front says was wrong.
async fn refused(front: &Front, request: impl AsRef<[u8]>) -> (String, String) {
    let answer = ask(front, request).await;
    let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
    (status, answer.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned())
}

fn expected(status: &str, error: Error) -> (String, String) {
    (status.to_owned(), format!("{error:?}"))
}

#[tokio::test]
async fn each_failure_has_its_name() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(refused(&front(upstream_at(gone), How::default()).await, get("/")).await, expected("502", Error::Unreachable));

    for (said, error) in
        [("", Error::BrokenOff), ("HTTP/1.1 200 OK\r\nContent-", Error::BrokenOff), ("SSH-2.0-server\r\n", Error::BadResponse)]
    {
        let upstream = upstream(move |mut socket, _| async move {
            let _head = head(&mut socket).await;
            socket.write_all(said.as_bytes()).await.unwrap();
        })
        .await;
        assert_eq!(refused(&front(upstream_at(upstream), How::default()).await, get("/")).await, expected("502", error), "{said}");
    }

    let silent = upstream(|mut socket, _| async move {
        let mut all = Vec::new();
        let _closed = socket.read_to_end(&mut all).await;
    })
    .await;
    let mut config = upstream_at(silent);
    config.response_timeout = Duration::from_millis(200);
    assert_eq!(refused(&front(config, How::default()).await, get("/")).await, expected("504", Error::TooSlow));
}

#[tokio::test]
async fn the_time_to_answer_begins_when_the_request_is_complete() {
    let upstream = upstream(|mut socket, _| async move {
        let _all = until(&mut socket, b"end").await;
        sleep(Duration::from_millis(200)).await;
        socket.write_all(OK).await.unwrap();
    })
    .await;
    let mut config = upstream_at(upstream);
    config.response_timeout = Duration::from_millis(600);
    let front = front(config, How::default()).await;
    let mut socket = send(&front, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc").await;
    // Longer than it may take to answer, but never that long without a byte.
    for byte in [b"e", b"n", b"d"] {
        sleep(Duration::from_millis(300)).await;
        socket.write_all(byte).await.unwrap();
    }
    assert!(within(head(&mut socket)).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_seen_to_break_off() {
    let upstream = upstream(|mut socket, _| async move {
        let _head = head(&mut socket).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n").await.unwrap();
    })
    .await;
    let answer = ask(&front(upstream_at(upstream), How::default()).await, get("/")).await;
    assert!(answer.contains("2\r\nok\r\n") && !answer.contains("0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_request_waits_for_a_connection_and_then_gives_up() {
    let upstream = upstream(|mut socket, _| async move {
        loop {
            if head(&mut socket).await.is_empty() {
                return;
            }
            sleep(Duration::from_millis(400)).await;
            socket.write_all(OK).await.unwrap();
        }
    })
    .await;
    let mut config = upstream_at(upstream);
    config.max_connections = 1;
    config.connect_timeout = Duration::from_millis(600);
    let front = front(config, How::default()).await;
    let answers = tokio::join!(ask(&front, get("/")), ask(&front, get("/")), ask(&front, get("/")));
    let statuses = [answers.0, answers.1, answers.2].map(|answer| answer.split(' ').nth(1).unwrap().to_owned());
    assert_eq!(statuses.iter().filter(|status| *status == "200").count(), 2, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| *status == "503").count(), 1, "{statuses:?}");
    let counters = &front.proxy.counters().upstreams()[0];
    assert_eq!((counters.saturated.load(Ordering::Relaxed), counters.open.load(Ordering::Relaxed)), (1, 1));
}

#[tokio::test]
async fn a_crowd_shares_a_few_connections_of_two_workers() {
    let most = Count::default();
    let count = most.clone();
    let upstream = upstream(move |mut socket, number| {
        let count = count.clone();
        async move {
            count.add(1);
            // Some close after each answer, some keep the connection.
            for _ in 0..=number % 4 {
                if head(&mut socket).await.is_empty() {
                    return;
                }
                socket.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    let mut config = upstream_at(upstream);
    config.max_connections = 4;
    config.connect_timeout = Duration::from_secs(15);
    let front = front(config, How::default()).await;
    let address = serve(front.proxy.worker(), How::default(), &front.tasks).await;
    let other = Arc::new(Front { address, proxy: Arc::clone(&front.proxy), tasks: front.tasks.clone() });
    let front = Arc::new(front);
    let asking: Vec<_> = (0..200)
        .map(|number| {
            let front = Arc::clone(if number % 2 == 0 { &front } else { &other });
            let tasks = front.tasks.clone();
            tasks.spawn(async move { refused(&front, get("/")).await })
        })
        .collect();
    for answer in asking {
        assert_eq!(answer.await.unwrap(), ("200".to_owned(), "ok".to_owned()));
    }
    let counters = &front.proxy.counters().upstreams()[0];
    assert!(counters.open.load(Ordering::Relaxed) <= 4 && counters.in_flight.load(Ordering::Relaxed) == 0);
    assert!(most.get() >= 50, "{}", most.get());
}

#[tokio::test]
async fn an_idle_connection_of_another_worker_makes_room() {
    let mut config = upstream_at(echo_heads().await);
    config.max_connections = 1;
    let front = front(config, How::default()).await;
    assert!(ask(&front, get("/")).await.starts_with("HTTP/1.1 200"));
    let address = serve(front.proxy.worker(), How::default(), &front.tasks).await;
    let other = Front { address, proxy: Arc::clone(&front.proxy), tasks: front.tasks.clone() };
    assert!(ask(&other, get("/")).await.starts_with("HTTP/1.1 200"));
}

/// A connection that is used once, then closed as soon as the next request has been read.
async fn closes_on_the_second(seen: Count) -> std::net::SocketAddr {
    upstream(move |mut socket, number| {
        let seen = seen.clone();
        async move {
            let _head = head(&mut socket).await;
            seen.add(1);
            socket.write_all(OK).await.unwrap();
            if !head(&mut socket).await.is_empty() {
                seen.add(1);
                if number > 0 {
                    socket.write_all(OK).await.unwrap();
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn only_harmless_requests_are_sent_twice() {
    for (request, status, times) in [
        (get("/"), "200", 3),
        (get("/").replace("GET", "HEAD"), "200", 3),
        (get("/").replace("GET", "DELETE"), "502", 2),
        (get("/").replace("GET", "POST"), "502", 2),
        (get("/").replace("\r\n\r\n", "\r\nContent-Length: 1\r\n\r\nx"), "502", 2),
    ] {
        let seen = Count::default();
        let front = front(upstream_at(closes_on_the_second(seen.clone()).await), How::default()).await;
        assert_eq!(refused(&front, get("/")).await.0, "200");
        assert_eq!(refused(&front, &request).await.0, status, "{request}");
        assert_eq!(seen.get(), times, "{request}");
    }
}

#[tokio::test]
async fn a_fresh_connection_that_closes_is_not_tried_again_nor_is_anything_without_retries() {
    let seen = Count::default();
    let count = seen.clone();
    let closing = upstream(move |mut socket, _| {
        let count = count.clone();
        async move {
            let _head = head(&mut socket).await;
            count.add(1);
        }
    })
    .await;
    assert_eq!(refused(&front(upstream_at(closing), How::default()).await, get("/")).await.0, "502");
    assert_eq!(seen.get(), 1);

    let seen = Count::default();
    let mut config = upstream_at(closes_on_the_second(seen.clone()).await);
    config.retries = 0;
    let front = front(config, How::default()).await;
    assert_eq!(refused(&front, get("/")).await.0, "200");
    assert_eq!(refused(&front, get("/")).await.0, "502");
    assert_eq!(seen.get(), 2);
}

#[tokio::test]
async fn a_connection_that_closed_while_idle_costs_no_request_whatever_its_method() {
    let upstream = upstream(|mut socket, _| async move {
        let _head = head(&mut socket).await;
        let mut body = [0; 3];
        socket.read_exact(&mut body).await.unwrap();
        socket.write_all(OK).await.unwrap();
    })
    .await;
    let mut config = upstream_at(upstream);
    config.retries = 0;
    let front = front(config, How::default()).await;
    for _ in 0..3 {
        let request = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(refused(&front, request).await.0, "200");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_unix_socket_is_an_upstream_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut config = upstream_at("127.0.0.1:1".parse().unwrap());
    config.urls = vec![UpstreamUrl::Unix(path)];
    config.pass_host = false;
    let front = front(config, How::default()).await;
    drop(front.tasks.spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut told = vec![0; 4096];
        let length = socket.read(&mut told).await.unwrap();
        assert!(String::from_utf8_lossy(&told[..length]).contains("host: localhost\r\n"));
        socket.write_all(OK).await.unwrap();
    }));
    assert_eq!(refused(&front, get("/")).await, ("200".to_owned(), "ok".to_owned()));
}

#[tokio::test]
async fn an_upstream_must_prove_its_name_and_we_ours() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["app.internal".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["app.internal".to_owned()]).unwrap();
    let other_ca = folder.path().join("other.pem");
    std::fs::write(&other_ca, other.cert.pem()).unwrap();

    let address = tls_upstream(&made).await;
    let good = UpstreamTls {
        ca: Some(cert.clone()),
        client: Some(CertificateFiles { cert, key }),
        server_name: Some("app.internal".to_owned()),
        insecure: false,
    };
    for (tls, status) in [
        (good.clone(), "200"),
        (UpstreamTls { server_name: None, ..good.clone() }, "502"),
        (UpstreamTls { server_name: Some("evil.internal".to_owned()), ..good.clone() }, "502"),
        (UpstreamTls { ca: Some(other_ca), ..good.clone() }, "502"),
        (UpstreamTls { client: None, ..good.clone() }, "502"),
        (UpstreamTls { ca: None, server_name: None, insecure: true, ..good.clone() }, "200"),
    ] {
        let mut config = upstream_at(address);
        config.urls = vec![UpstreamUrl::Tcp { tls: true, host: "127.0.0.1".to_owned(), port: address.port() }];
        config.tls = tls.clone();
        assert_eq!(refused(&front(config, How::default()).await, get("/")).await.0, status, "{tls:?}");
    }
}

#[tokio::test]
async fn a_probe_asks_the_health_path() {
    let upstream = upstream(|mut socket, number| async move {
        let told = head(&mut socket).await;
        assert!(told.starts_with("GET /healthz HTTP/1.1\r\n"), "{told}");
        let status = if number == 0 { "204 No Content" } else { "503 Service Unavailable" };
        socket.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await.unwrap();
    })
    .await;
    let proxy = proxy(upstream_at(upstream), None, &nullpass::tasks::Tasks::new());
    let index = proxy.route("a", "/").unwrap();
    assert_eq!(within(proxy.probe(index)).await, Ok(StatusCode::NO_CONTENT));
    assert_eq!(within(proxy.probe(index)).await, Ok(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(proxy.names().map(|(_, name)| name).collect::<Vec<_>>(), ["app"]);
}
