//! What a connection may cost: each limit has an answer and is counted.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Connection, PATIENCE, Server};

const PUBLIC: &str = "[[rules]]\npath = \"/**\"\npolicy = \"public\"\n";

async fn limited(server: &Server, limit: &str) -> f64 {
    server.metric(&format!("nullpass_limited_total{{limit=\"{limit}\"}}")).await
}

/// Waits until a limit was met so often, and fails if it was more often.
async fn counted(server: &Server, limit: &str, times: f64) {
    server.metric_reaches(&format!("nullpass_limited_total{{limit=\"{limit}\"}}"), times).await;
    assert_eq!(limited(server, limit).await, times);
}

/// The answer to these bytes, after which the connection ends.
async fn last_answer(server: &Server, bytes: &[u8]) -> u16 {
    let mut connection = server.connect().await;
    connection.write(bytes).await;
    let answer = connection.answer(false).await.expect("an answer");
    assert_eq!(answer.field("connection"), "close", "{answer:?}");
    connection.ended().await;
    answer.status
}

#[tokio::test]
async fn heads_are_limited_in_size_number_and_time() {
    let server =
        Server::start(&format!("[server]\nheader_timeout = \"700ms\"\nmax_header_size = \"16KiB\"\nmax_headers = 50\n{PUBLIC}")).await;
    // Far more than is read before the answer: it must arrive all the same.
    for size in [20_000, 400_000] {
        let large = format!("GET /a HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(size));
        assert_eq!(last_answer(&server, large.as_bytes()).await, 431);
    }
    // Nor does it help that the connection has read much at once before.
    let mut connection = server.connect().await;
    let almost = "x".repeat(15_000);
    connection.send("GET", "/a", &[("x", &almost)], b"").await.is(200);
    assert_eq!(server.upstream.only().target(), "/a");
    let answer = connection.send("GET", "/a", &[("x", &almost), ("y", &almost[..3_000])], b"").await.is(431);
    assert_eq!(answer.field("connection"), "close");
    connection.ended().await;
    let many = format!("GET /a HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(60));
    assert_eq!(last_answer(&server, many.as_bytes()).await, 431);
    counted(&server, "header", 4.0).await;
    for malformed in ["GET /a HTTP/1.1\r\nHost : a\r\n\r\n", "GET /a HTTP/9.9\r\n\r\n", "\0\r\n\r\n"] {
        let mut connection = server.connect().await;
        connection.write(malformed.as_bytes()).await;
        connection.answer(false).await.unwrap().is(400);
        connection.ended().await;
    }
    for slow in ["G", "P", "GET /a HTTP/1.1\r\nHost: a"] {
        assert_eq!(last_answer(&server, slow.as_bytes()).await, 408, "{slow}");
    }
    // Nor is a head quicker for coming in small pieces.
    let mut dripping = server.connect().await;
    let drip = async {
        loop {
            dripping.write(b"G").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let _for_a_while = tokio::time::timeout(Duration::from_secs(2), drip).await;
    assert_eq!(dripping.answer(false).await.map(|answer| answer.status), Some(408));
    counted(&server, "header_timeout", 4.0).await;
    assert!(server.upstream.take().is_empty());
}

// hyper reads bodies by more at a time than a head may have: into one buffer, whose size is no limit for heads.
#[tokio::test]
async fn a_head_in_pieces_is_held_against_the_limit() {
    const PIECE: usize = 4000;
    let server = Server::start(&format!("[server]\nmax_header_size = \"16KiB\"\n{PUBLIC}")).await;
    let chunked =
        format!("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n0\r\n\r\n", 90_000, "b".repeat(90_000));
    for (before, count) in [("nothing", 0.0), ("a body", 1.0), ("a chunked body", 2.0)] {
        let mut connection = server.connect().await;
        match before {
            "a body" => drop(connection.send("POST", "/a", &[], "b".repeat(90_000).as_bytes()).await.is(200)),
            "a chunked body" => {
                connection.write(chunked.as_bytes()).await;
                connection.answer(false).await.unwrap().is(200);
                // What came last is told from a head's first bytes only with the next one.
                connection.send("GET", "/a", &[], b"").await.is(200);
            }
            _ => {}
        }
        // Below the limit, and in as many pieces.
        connection.write(b"GET /a HTTP/1.1\r\nHost: a\r\nX: ").await;
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            connection.write(&[b'x'; PIECE]).await;
        }
        connection.write(b"\r\n\r\n").await;
        connection.answer(false).await.unwrap().is(200);
        // Never complete, and not even half of what is read of a body at a time.
        connection.write(b"GET /a HTTP/1.1\r\nHost: a\r\nX: ").await;
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            connection.write(&[b'x'; PIECE]).await;
        }
        let answer = connection.answer(false).await.expect("an answer").is(431);
        assert_eq!(answer.field("connection"), "close", "after {before}");
        connection.ended().await;
        counted(&server, "header", count + 1.0).await;
    }
}

#[tokio::test]
async fn a_target_alone_can_be_too_long() {
    let server = Server::start(&format!("[server]\nmax_header_size = \"200KiB\"\n{PUBLIC}")).await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(70_000));
    assert_eq!(last_answer(&server, long.as_bytes()).await, 414);
    counted(&server, "header", 1.0).await;
}

#[tokio::test]
async fn bodies_are_limited() {
    let server = Server::start(&format!("[limits]\nmax_body = \"1KiB\"\n{PUBLIC}")).await;
    server.send("POST", "/a", &[], &[b'x'; 1024]).await.is(200);
    server.send("POST", "/a", &[], &[b'x'; 1025]).await.is(413);
    counted(&server, "body", 1.0).await;
}

// Beyond the limit connections wait, and are served when there is room. Whoever waits for an answer makes none: who does
// nothing does, see `greedy`.
#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let server = Server::start(&format!("[server]\nmax_connections = 2\n{PUBLIC}")).await;
    let upload = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf";
    let mut first = server.connect().await;
    first.write(upload).await;
    let mut second = server.connect().await;
    second.write(upload).await;
    server.metric_reaches("nullpass_upstream_in_flight{name=\"app\"}", 2.0).await;
    let mut third = server.connect().await;
    third.write(b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(tokio::time::timeout(Duration::from_millis(500), third.answer(false)).await.is_err());
    assert!(limited(&server, "connections").await >= 1.0);
    drop(first);
    third.answer(false).await.unwrap().is(200);
    second.write(b"half").await;
    second.answer(false).await.unwrap().is(200);
    assert_eq!(limited(&server, "room").await, 0.0);
}

// H2-1: a head of many small fields is no cheaper in HTTP/2.
#[tokio::test]
async fn http2_counts_fields() {
    let server = Server::start(&format!("[server]\nmax_headers = 50\n{PUBLIC}")).await;
    let socket = TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
    drop(nullpass::tasks::Tasks::new().spawn(connection));
    for (count, expected) in [(20, 200), (60, 431), (20, 200)] {
        let mut request = Request::builder().uri("http://a/b");
        for number in 0..count {
            request = request.header(format!("x-{number}"), "1");
        }
        let (answer, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
        assert_eq!(tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap().status(), expected);
    }
    counted(&server, "header", 1.0).await;
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// `GET http://a/slow`, in HPACK without a table of its own.
fn head() -> Vec<u8> {
    [&[0x82, 0x86, 0x41, 1, b'a', 0x44, 5][..], b"/slow"].concat()
}

/// The error code of the GOAWAY that a connection ends with, however much was sent before.
fn goaway(mut bytes: &[u8]) -> Option<u32> {
    let mut found = None;
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let length = usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap();
        if head[3] == 7 && rest.len() >= 8 {
            found = Some(u32::from_be_bytes(rest[4..8].try_into().unwrap()));
        }
        bytes = rest.get(length..).unwrap_or_default();
    }
    found
}

// H2-1 (CVE-2023-44487): requests that have begun upstream and are taken back count by the second.
#[tokio::test]
async fn resets_of_running_requests_are_counted() {
    let server = Server::start(&format!("[server]\nhttp2 = {{ max_streams = 8, max_resets = 20 }}\n{PUBLIC}")).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket.write_all(PREFACE).await.unwrap();
    let (mut reader, mut writer) = socket.into_split();
    let reading = async {
        let mut all = Vec::new();
        let _reset_or_end = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut all)).await.expect("the end of the connection");
        all
    };
    let writing = async {
        for number in 0..60 {
            let stream = number * 2 + 1;
            writer.write_all(&frame(1, 0x4 | 0x1, stream, &head())).await?;
            // Long enough for the request to be on its way.
            tokio::time::sleep(Duration::from_millis(4)).await;
            writer.write_all(&frame(3, 0, stream, &8_u32.to_be_bytes())).await?;
        }
        std::future::pending::<()>().await;
        Ok::<_, std::io::Error>(())
    };
    let all = tokio::select! {
        all = reading => all,
        Err(_) = writing => Vec::new(),
    };
    assert!(all.is_empty() || goaway(&all) == Some(0xb), "{all:?}");
    counted(&server, "http2_resets", 1.0).await;
    // A few are everybody's right, and others are not harmed.
    let socket = TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
    drop(nullpass::tasks::Tasks::new().spawn(connection));
    for _ in 0..10 {
        sender = sender.ready().await.unwrap();
        let (answer, _) = sender.send_request(Request::get("http://a/slow").body(()).unwrap(), true).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        drop(answer);
    }
    let (answer, _) = sender.ready().await.unwrap().send_request(Request::get("http://a/b").body(()).unwrap(), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    counted(&server, "http2_resets", 1.0).await;
}

// H2-1 (CVE-2019-9512, CVE-2019-9515): pings and settings that nobody reads the answers of.
#[tokio::test]
async fn floods_of_small_frames_end_the_connection() {
    let server = Server::start(PUBLIC).await;
    for flood in [frame(6, 0, 0, &[0; 8]), frame(4, 0, 0, &[])] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(PREFACE).await.unwrap();
        let many = flood.repeat(1000);
        let mut written = 0;
        // Nothing of what comes back is read.
        let flooding = async {
            while written < 64 << 20 {
                socket.write_all(&many).await?;
                written += many.len();
            }
            Ok::<_, std::io::Error>(())
        };
        let ended = tokio::time::timeout(Duration::from_secs(3), flooding).await;
        // Either it was ended, or it is not read any more while its answers wait.
        assert!(!matches!(ended, Ok(Ok(()))), "{written} bytes of small frames were taken");
    }
    server.get("/a", &[]).await.is(200);
    assert!(Connection::to(server.address).await.send("GET", "/a", &[], b"").await.status == 200);
}

/// Waits until no connection is left.
async fn all_gone(server: &Server) {
    for _ in 0..300 {
        if server.metric("nullpass_connections").await == 0.0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} connections are left", server.metric("nullpass_connections").await);
}

// A body for ourselves may take as long as a head, also when a byte comes now and then.
#[tokio::test]
async fn slow_bodies_for_our_own_routes_are_given_up() {
    let server = Server::start("[server]\nheader_timeout = \"700ms\"\n").await;
    for framing in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
        let mut connection = server.connect().await;
        let head = format!("POST /_auth/api/auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{framing}\r\n\r\n");
        connection.write(head.as_bytes()).await;
        let drip = async {
            loop {
                connection.write(if framing.starts_with('C') { b"{" } else { b"1\r\n{\r\n" }).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let _for_a_while = tokio::time::timeout(Duration::from_millis(1200), drip).await;
        assert_eq!(connection.answer(false).await.unwrap().is(408).code(), "body_timeout");
        connection.ended().await;
    }
    counted(&server, "header_timeout", 2.0).await;
}

// A client that never reads must not keep a connection to the application from everybody else.
#[tokio::test]
async fn who_never_reads_is_cut_off() {
    let server = Server::start(&format!("[server]\nidle_timeout = \"4s\"\nheader_timeout = \"1s\"\n{PUBLIC}")).await;
    let mut large = b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n".to_vec();
    large.resize(large.len() + 50_000_000, b'x');
    server.upstream.answer(move |_| large.clone());
    let mut stuck = server.connect().await;
    stuck.write(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await;
    // Slow is not stuck: whoever takes a little now and then goes on.
    let mut slow = server.connect().await;
    slow.write(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut read = 0;
    // Longer than it takes to see that the other one is stuck: the time-out, and five seconds between two looks.
    for _ in 0..60 {
        for _ in 0..30 {
            read += slow.read().await.len();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(read > 1_000_000, "{read}");
    assert!(!slow.read().await.is_empty());
    counted(&server, "idle_timeout", 1.0).await;
    drop(slow);
    all_gone(&server).await;
    server.metric_reaches("nullpass_upstream_connections{name=\"app\"}", 0.0).await;
    drop(stuck);
}

// H2-1 (CVE-2019-9517): a stream whose window stays shut keeps no upstream connection, however well the connection is kept alive.
#[tokio::test]
async fn who_never_opens_a_streams_window_is_cut_off() {
    let server = Server::start(&format!("[server]\nidle_timeout = \"3s\"\nheader_timeout = \"5s\"\n{PUBLIC}")).await;
    let mut large = b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n".to_vec();
    large.resize(large.len() + 5_000_000, b'x');
    server.upstream.answer(move |_| large.clone());
    let socket = TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) = h2::client::Builder::new().initial_window_size(16_384).handshake::<_, Bytes>(socket).await.unwrap();
    drop(nullpass::tasks::Tasks::new().spawn(connection));
    let ask = |sender: &mut h2::client::SendRequest<Bytes>| {
        sender.send_request(Request::get("http://a/large").body(()).unwrap(), true).unwrap().0
    };
    let stuck = ask(&mut sender).await.unwrap();
    // Slow is not stuck: whoever takes a little now and then goes on, on the same connection.
    let mut slow = ask(&mut sender).await.unwrap().into_body();
    let mut read = 0;
    for _ in 0..200 {
        let data = slow.data().await.expect("more of it").unwrap();
        read += data.len();
        slow.flow_control().release_capacity(data.len()).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(read > 100_000, "{read}");
    counted(&server, "idle_timeout", 1.0).await;
    server.metric_reaches("nullpass_upstream_connections{name=\"app\"}", 1.0).await;
    // Nothing is left but the stream that takes nothing: then the connection goes.
    drop(slow);
    all_gone(&server).await;
    drop(stuck);
}

// H2-1: one whose answers nobody takes is not read on, and goes like any other that asks for nothing.
#[tokio::test]
async fn a_flood_that_takes_no_answers_ends() {
    let server = Server::start(&format!("[server]\nidle_timeout = \"1s\"\nheader_timeout = \"1s\"\n{PUBLIC}")).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket.write_all(PREFACE).await.unwrap();
    let many = frame(6, 0, 0, &[0; 8]).repeat(1000);
    let flooding = async { while socket.write_all(&many).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, flooding).await.expect("the end of the connection");
    all_gone(&server).await;
}
