//! HTTP/2: its limits, and the same rules as for HTTP/1.1.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{PATIENCE, Server};

const TOML: &str = "[server]\nhttp2 = { max_streams = 8, max_resets = 20 }\nmax_header_size = \"16KiB\"\n[[rules]]\npath = \"/public/**\"\npolicy = \"public\"\n";

/// Connections that the HTTP/2 library ended because their clients asked too much of it.
const FLOODS: &str = "nullpass_limited_total{limit=\"http2_flood\"}";

async fn client(server: &Server) -> h2::client::SendRequest<Bytes> {
    let socket = TcpStream::connect(server.address).await.unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    drop(nullpass::tasks::Tasks::new().spawn(connection));
    sender
}

fn request(path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let request = Request::builder().uri(format!("http://app.example.com{path}"));
    fields.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(()).unwrap()
}

async fn status(sender: &mut h2::client::SendRequest<Bytes>, request: Request<()>) -> Result<u16, h2::Error> {
    let (answer, _) = sender.send_request(request, true)?;
    Ok(tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time")?.status().as_u16())
}

// HDR-1, HDR-4, HOST-1: the rules are those of HTTP/1.1.
#[tokio::test]
async fn the_rules_are_the_same() {
    let server = Server::start(TOML).await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let bearer = format!("Bearer {token}");
    let mut sender = client(&server).await;
    assert_eq!(status(&mut sender, request("/private", &[])).await.unwrap(), 401);
    let forged = [
        ("authorization", &*bearer),
        ("x_forwarded_user", "evil"),
        ("x-forwarded-groups", "evil"),
        ("remote.user", "evil"),
        ("x-real-ip", "evil"),
    ];
    assert_eq!(status(&mut sender, request("/private", &forged)).await.unwrap(), 200);
    let seen = server.upstream.only();
    assert!(!seen.head.contains("evil"), "{}", seen.head);
    assert_eq!((seen.one("x-forwarded-user").as_deref(), seen.one("host").as_deref()), (Some("ada@example.com"), Some("app.example.com")));
    // A cookie may come in pieces; two that differ are still two.
    let good = format!("nullpass={token}");
    assert_eq!(status(&mut sender, request("/private", &[("cookie", "a=b"), ("cookie", &good)])).await.unwrap(), 200);
    assert_eq!(server.upstream.only().one("cookie").as_deref(), Some("a=b"));
    assert_eq!(status(&mut sender, request("/private", &[("cookie", &good), ("cookie", "nullpass=other")])).await.unwrap(), 401);
    assert_eq!(status(&mut sender, request("/private", &[("host", "other.example.com")])).await.unwrap(), 400);
    assert_eq!(status(&mut sender, request("/public/%2e%2e/private", &[])).await.unwrap(), 400);
    assert_eq!(status(&mut sender, request("/private", &[("authorization", &bearer), ("authorization", &bearer)])).await.unwrap(), 400);
    assert!(server.upstream.take().is_empty());
    // SES-3 on the same connection.
    assert_eq!(status(&mut sender, request("/private", &[("authorization", &bearer)])).await.unwrap(), 200);
    server.api("POST", "/auth/logout", Some(&token), &serde_json::Value::Null).await.is(200);
    assert_eq!(status(&mut sender, request("/private", &[("authorization", &bearer)])).await.unwrap(), 401);
}

// H2-1: so many streams at a time, and so much of a head.
#[tokio::test]
async fn streams_and_heads_are_limited() {
    let server = Server::start(TOML).await;
    let mut sender = client(&server).await;
    assert_eq!(status(&mut sender, request("/public/a", &[])).await.unwrap(), 200);
    assert_eq!(sender.current_max_send_streams(), 8);
    let large = "x".repeat(12_000);
    let refused = status(&mut sender, request("/public/a", &[("x-a", &large), ("x-b", &large)])).await;
    assert!(refused.as_ref().map_or(true, |status| *status == 431), "{refused:?}");
    server.upstream.take();
    assert_eq!(status(&mut client(&server).await, request("/public/a", &[])).await.unwrap(), 200, "and others are not harmed");
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET http://a/private`, in HPACK without a table of its own.
fn head() -> Vec<u8> {
    [&[0x82, 0x86, 0x41, 1, b'a', 0x44, 8][..], b"/private"].concat()
}

/// Writes until the other side has had enough; how many bytes it took.
async fn flood(server: &Server, mut more: impl FnMut() -> Vec<u8>, at_most: usize) -> Option<usize> {
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket.write_all(PREFACE).await.unwrap();
    let (mut reader, mut writer) = socket.into_split();
    let ended = async {
        let mut bytes = [0; 4096];
        while matches!(reader.read(&mut bytes).await, Ok(1..)) {}
    };
    let written = async {
        let mut written = 0;
        while written < at_most {
            let bytes = more();
            if writer.write_all(&bytes).await.is_err() {
                return Some(written);
            }
            written += bytes.len();
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        None
    };
    tokio::select! {
        biased;
        () = ended => Some(0),
        written = written => written,
    }
}

/// The same with requests, each on a stream of its own and with the frame after it that `then` makes for the stream.
async fn flood_of_requests(server: &Server, then: impl Fn(u32) -> Vec<u8>) -> Option<usize> {
    let mut stream = 1;
    let requests = || {
        let mut bytes = Vec::new();
        for _ in 0..200 {
            bytes.extend(frame(1, 0x4 | 0x1, stream, &head()));
            bytes.extend(then(stream));
            stream += 2;
        }
        bytes
    };
    flood(server, requests, 4 << 20).await
}

// H2-1: requests that are taken back at once end the connection.
#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let server = Server::start(TOML).await;
    let reset = |stream| frame(3, 0, stream, &8_u32.to_be_bytes());
    assert!(flood_of_requests(&server, reset).await.is_some(), "two hundred thousand resets were taken");
    server.metric_reaches(FLOODS, 1.0).await;
    server.get("/public/a", &[]).await.is(200);
}

// H2-1: a head that never ends does.
#[tokio::test]
async fn endless_continuations_end_the_connection() {
    let server = Server::start(TOML).await;
    let mut first = true;
    let continuations = || {
        if std::mem::take(&mut first) {
            return frame(1, 0, 1, &head());
        }
        frame(9, 0, 1, &[&[0x40, 1, b'a', 0x7f, 0x81, 0x7d][..], &[b'x'; 16_000]].concat())
    };
    assert!(flood(&server, continuations, 32 << 20).await.is_some(), "a head of 32 MiB was taken");
    let mut first = true;
    let empty = || if std::mem::take(&mut first) { frame(1, 0, 1, &head()) } else { frame(9, 0, 1, &[]).repeat(100) };
    assert!(flood(&server, empty, 4 << 20).await.is_some(), "half a million empty frames were taken");
    server.metric_reaches(FLOODS, 1.0).await;
    server.get("/public/a", &[]).await.is(200);
}

// H2-1 (CVE-2025-8671): requests that a client makes us take back, by a frame that is an error on their stream alone.
#[tokio::test]
async fn resets_that_a_client_provokes_end_the_connection() {
    let server = Server::start(TOML).await;
    // A window that grows by nothing (RFC 9113, section 6.9).
    let provocation = |stream| frame(8, 0, stream, &0_u32.to_be_bytes());
    assert!(flood_of_requests(&server, provocation).await.is_some(), "a hundred thousand provoked resets were taken");
    server.get("/public/a", &[]).await.is(200);
}

// H2-1 (CVE-2016-1544, "HPACK bomb"): a few bytes that stand for megabytes of fields.
#[tokio::test]
async fn a_head_is_as_large_as_what_it_stands_for() {
    let server = Server::start(TOML).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket.write_all(PREFACE).await.unwrap();
    // A field of 3,900 bytes into the table (RFC 7541, section 6.2.1), and then one byte for each time that it is meant.
    let stored = [&head()[..], &[0x40, 1, b'x', 0x7f, 0xbd, 0x1d], &[b'a'; 3900]].concat();
    let mut bytes = frame(1, 0x1, 1, &stored);
    let many = vec![0xbe; 16_000];
    bytes.extend(frame(9, 0, 1, &many));
    bytes.extend(frame(9, 0x4, 1, &many));
    let _refused = socket.write_all(&bytes).await;
    // 120 MiB of fields: refused, as a stream or with the connection.
    let mut said = [0; 4096];
    let mut all = Vec::new();
    let refused = async {
        loop {
            match socket.read(&mut said).await {
                Ok(count @ 1..) => all.extend_from_slice(&said[..count]),
                _ => return,
            }
            let mut rest = all.as_slice();
            while let Some((head, after)) = rest.split_first_chunk::<9>() {
                let length = usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap();
                // An answer (431), RST_STREAM or GOAWAY.
                if matches!(head[3], 1 | 3 | 7) {
                    return;
                }
                rest = after.get(length..).unwrap_or_default();
            }
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("a refusal");
    assert!(server.upstream.take().is_empty());
    server.get("/public/a", &[]).await.is(200);
}

// RFC 9110, section 9.3.2: over HTTP/1.1 hyper leaves the body of an answer to HEAD out by itself; over HTTP/2 it would be
// a protocol error that fails the client's request.
#[tokio::test]
async fn a_refused_head_has_a_length_and_no_body() {
    let server = Server::start(TOML).await;
    let mut sender = client(&server).await;
    for (path, expected) in [("/private", 401), ("/public/%2e%2e/private", 400), ("/_auth/api/health", 200)] {
        let mut request = request(path, &[]);
        *request.method_mut() = http::Method::HEAD;
        let (answer, _) = sender.send_request(request, true).unwrap();
        let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
        assert_eq!(answer.status().as_u16(), expected);
        assert_ne!(answer.headers()["content-length"], "0");
        assert!(answer.into_body().data().await.is_none());
    }
}
