//! Upgrades.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::*;

const UPGRADE: &str =
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";

async fn echo() -> std::net::SocketAddr {
    upstream(|mut socket, _| async move {
        let told = head(&mut socket).await;
        assert!(told.contains("connection: upgrade\r\n") && told.contains("upgrade: websocket\r\n"), "{told}");
        // The first bytes of the new protocol come in the same segment.
        socket
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\nhello",
            )
            .await
            .unwrap();
        let (mut reader, mut writer) = socket.split();
        let _ended = tokio::io::copy(&mut reader, &mut writer).await;
    })
    .await
}

#[tokio::test]
async fn bytes_go_both_ways_after_an_upgrade() {
    let front = front(upstream_at(echo().await), How { identity: Some(ann()), ..How::default() }).await;
    let mut socket = send(&front, UPGRADE).await;
    let answer = within(head(&mut socket)).await;
    assert!(
        answer.starts_with("HTTP/1.1 101") && answer.contains("upgrade: websocket\r\n") && answer.contains("sec-websocket-accept: y"),
        "{answer}"
    );
    assert_eq!(within(until(&mut socket, b"hello")).await, "hello");
    for word in ["one", "two"] {
        socket.write_all(word.as_bytes()).await.unwrap();
        assert_eq!(within(until(&mut socket, word.as_bytes())).await, word);
    }
    let counters = &front.proxy.counters().upstreams()[0];
    assert_eq!(counters.upgrades.load(Ordering::Relaxed), 1);
    drop(socket);
    eventually(|| counters.upgrades.load(Ordering::Relaxed) == 0 && counters.open.load(Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn an_upgrade_ends_with_its_session_or_when_silent() {
    let over = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&over);
    let by_session =
        front(upstream_at(echo().await), How { ended: Some(Arc::new(move || flag.load(Ordering::SeqCst))), ..How::default() }).await;
    let mut config = upstream_at(echo().await);
    config.stream_idle_timeout = Duration::from_millis(300);
    let by_silence = front(config, How::default()).await;
    for front in [by_session, by_silence] {
        let mut socket = send(&front, UPGRADE).await;
        let _hello = within(until(&mut socket, b"hello")).await;
        over.store(true, Ordering::SeqCst);
        let ended = tokio::time::timeout(Duration::from_secs(2), socket.read_u8()).await;
        assert!(matches!(ended, Ok(Err(_))), "{ended:?}");
    }
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for_is_a_bad_answer() {
    let upstream = upstream(|mut socket, number| async move {
        let told = head(&mut socket).await;
        assert_eq!(told.contains("\r\nupgrade:"), number == 2, "{told}");
        let protocol = if number == 2 { "other" } else { "websocket" };
        socket
            .write_all(format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut rest = Vec::new();
        let _closed = socket.read_to_end(&mut rest).await;
    })
    .await;
    let front = front(upstream_at(upstream), How::default()).await;
    let tunnel = UPGRADE.replace("websocket\r\n", "h2c\r\n");
    for request in [get("/"), tunnel, UPGRADE.to_owned()] {
        let mut socket = send(&front, request).await;
        assert!(within(head(&mut socket)).await.starts_with("HTTP/1.1 502"));
    }
}
