//! One request in is at most one request out, and nobody reads another one into it.

use crate::support::{Connection, Server};

const PUBLIC: &str = "[[rules]]\npath = \"/public/**\"\npolicy = \"public\"\n";

/// What must never reach the application as a request of its own.
const SMUGGLED: &str = "GET /public/smuggled HTTP/1.1\r\nHost: app.example.com\r\nX-Forwarded-User: evil\r\n\r\n";

// Cross-cutting 2, HDR-4: whatever is framed in two ways is refused or framed in one.
#[tokio::test]
async fn nothing_is_smuggled() {
    let server = Server::start(PUBLIC).await;
    let post = |fields: &str, body: &str| format!("POST /public/a HTTP/1.1\r\nHost: app.example.com\r\n{fields}\r\n\r\n{body}");
    let inner = SMUGGLED.len();
    let zero = format!("0\r\n\r\n{SMUGGLED}");
    let corpus = [
        ("both framings", post("Content-Length: 5\r\nTransfer-Encoding: chunked", &zero)),
        ("both, the other way round", post("Transfer-Encoding: chunked\r\nContent-Length: 5", &zero)),
        ("two lengths", post(&format!("Content-Length: 0\r\nContent-Length: {inner}"), SMUGGLED)),
        ("two lengths in one line", post(&format!("Content-Length: 0, {inner}"), SMUGGLED)),
        ("a length with a sign", post("Content-Length: +0", SMUGGLED)),
        ("a negative length", post("Content-Length: -1", SMUGGLED)),
        ("a hexadecimal length", post("Content-Length: 0x0", SMUGGLED)),
        ("an endless length", post("Content-Length: 99999999999999999999", SMUGGLED)),
        ("an empty length", post("Content-Length: ", SMUGGLED)),
        ("xchunked", post("Transfer-Encoding: xchunked", &zero)),
        ("identity", post("Transfer-Encoding: identity", SMUGGLED)),
        ("chunked, then identity", post("Transfer-Encoding: chunked, identity", &zero)),
        ("identity, then chunked", post("Transfer-Encoding: identity, chunked", &zero)),
        ("two codings", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", &zero)),
        ("chunked twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", &zero)),
        ("a tab before", post("Transfer-Encoding:\tchunked\r\nContent-Length: 5", &zero)),
        ("a vertical tab", post("Transfer-Encoding: \u{b}chunked\r\nContent-Length: 5", &zero)),
        ("a blank before the colon", post("Transfer-Encoding : chunked\r\nContent-Length: 5", &zero)),
        ("an underscore", post("Transfer_Encoding: chunked\r\nContent-Length: 0", SMUGGLED)),
        (
            "a bare line feed",
            format!("POST /public/a HTTP/1.1\nHost: app.example.com\nContent-Length: 0\n\n{SMUGGLED}").replace("\r\n\r\n", "\r\n\r\n"),
        ),
        ("a bare line feed in a field", post("X: y\nTransfer-Encoding: chunked\r\nContent-Length: 0", SMUGGLED)),
        ("a bare carriage return", post("X: y\rTransfer-Encoding: chunked\r\nContent-Length: 0", SMUGGLED)),
        ("a folded line", post("Transfer-Encoding:\r\n chunked\r\nContent-Length: 5", &zero)),
        ("a folded value", post("X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 0", SMUGGLED)),
        ("a nul", post("X: y\u{0}\r\nContent-Length: 0", SMUGGLED)),
        ("a chunk's extension with a line feed", post("Transfer-Encoding: chunked", &format!("1;x\n=y\r\na\r\n{zero}"))),
        ("an endless chunk extension", post("Transfer-Encoding: chunked", &format!("1;{}\r\na\r\n{zero}", "x".repeat(40_000)))),
        ("a chunk size with a sign", post("Transfer-Encoding: chunked", &format!("+1\r\na\r\n{zero}"))),
        ("a chunk size with 0x", post("Transfer-Encoding: chunked", &format!("0x1\r\na\r\n{zero}"))),
        ("a chunk size too large", post("Transfer-Encoding: chunked", &format!("fffffffffffffffff\r\na\r\n{zero}"))),
        ("no line end after a chunk", post("Transfer-Encoding: chunked", &format!("1\r\naXX{zero}"))),
        ("a trailer that frames", post("Transfer-Encoding: chunked", &format!("0\r\nContent-Length: {inner}\r\n\r\n{SMUGGLED}"))),
        ("version 1.0 in chunks", post("Transfer-Encoding: chunked", &zero).replace("HTTP/1.1\r\nHost", "HTTP/1.0\r\nHost")),
        ("an unknown version", post("Content-Length: 0", SMUGGLED).replace("HTTP/1.1\r\nHost", "HTTP/1.2\r\nHost")),
        ("a blank in the target", post("Content-Length: 0", "").replace("/public/a", "/public/a HTTP/1.1\r\nX: /y")),
        ("a line end in the target", post("Content-Length: 0", "").replace("/public/a", "/public/a%0d%0aX:y")),
        (
            "an upgrade with a body",
            post(&format!("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: {inner}"), SMUGGLED).replace("POST", "GET"),
        ),
        (
            "an upgrade to h2c",
            post("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__", SMUGGLED)
                .replace("POST", "GET"),
        ),
        ("a GET with a body", post(&format!("Content-Length: {inner}"), SMUGGLED).replace("POST", "GET")),
        ("the length in Connection", post(&format!("Connection: Content-Length\r\nContent-Length: {inner}"), SMUGGLED)),
        ("the coding in Connection", post("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked", &zero)),
    ];
    for (what, bytes) in corpus {
        let mut connection = server.connect().await;
        connection.write(bytes.as_bytes()).await;
        let answer = tokio::time::timeout(std::time::Duration::from_millis(1500), connection.answer(false)).await;
        let status = answer.ok().flatten().map_or(0, |answer| answer.status);
        // Time for a request that was hidden in the first.
        let patience = std::time::Duration::from_millis(if is_pipelined(what) { 2000 } else { 50 });
        let second = tokio::time::timeout(patience, connection.answer(false)).await;
        assert!(is_pipelined(what) || !matches!(second, Ok(Some(_))), "{what}: a second answer");
        let seen = server.upstream.take();
        for request in &seen {
            assert!(request.all("content-length").len() + request.all("transfer-encoding").len() <= 1, "{what}: {}", request.head);
            assert!(request.one("x-forwarded-user").is_none(), "{what}: {}", request.head);
            assert!(!request.head.contains('\0') && !request.head.replace("\r\n", "").contains(['\r', '\n']), "{what}: {}", request.head);
            assert!(!request.target().contains("smuggled") || is_pipelined(what), "{what} ({status}): {}", request.head);
        }
        let expected = if is_pipelined(what) { 2 } else { 1 };
        assert!(seen.len() <= expected, "{what} ({status}): {seen:#?}");
        assert!(matches!(status, 0 | 200 | 400 | 401 | 411 | 413 | 431 | 501 | 505), "{what}: {status}");
    }
    server.get("/public/a", &[]).await.is(200);
}

/// Where the first request has no body by every reading, so that the second is an honest one of the same client.
fn is_pipelined(what: &str) -> bool {
    matches!(what, "an underscore" | "a trailer that frames" | "a bare line feed" | "an upgrade to h2c" | "the coding in Connection")
}

// Two honest requests in one packet are two, in order, each under its own rule.
#[tokio::test]
async fn pipelined_requests_are_decided_one_by_one() {
    let server = Server::start(PUBLIC).await;
    let mut connection = server.connect().await;
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: app.example.com\r\n\r\n");
    connection.write(format!("{}{}{}", request("/public/1"), request("/private"), request("/public/2")).as_bytes()).await;
    for status in [200, 401, 200] {
        connection.answer(false).await.unwrap().is(status);
    }
    let seen: Vec<String> = server.upstream.take().iter().map(|request| request.target().to_owned()).collect();
    assert_eq!(seen, ["/public/1", "/public/2"]);
}

// Both framings: the coding counts, the length goes, and the connection ends with the answer.
#[tokio::test]
async fn a_length_beside_a_coding_is_dropped_with_the_connection() {
    let server = Server::start(PUBLIC).await;
    let mut connection = server.connect().await;
    let head = "POST /public/a HTTP/1.1\r\nHost: app.example.com\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.write(format!("{head}2\r\nhi\r\n0\r\n\r\n{SMUGGLED}").as_bytes()).await;
    let answer = connection.answer(false).await.unwrap();
    if answer.status == 200 {
        let request = server.upstream.only();
        assert_eq!((request.one("content-length"), request.body.as_slice()), (None, &b"hi"[..]));
        connection.ended().await;
        assert!(server.upstream.take().is_empty(), "what came behind it is not answered");
    } else {
        answer.is(400);
    }
}

// The upgrade that was answered is a tunnel for this client alone: the next request has another connection.
#[tokio::test]
async fn a_refused_upgrade_leaves_nothing_behind() {
    let server = Server::start(PUBLIC).await;
    let mut connection = server.connect().await;
    let fields = [("connection", "upgrade"), ("upgrade", "websocket")];
    connection.send("GET", "/public/ws", &fields, b"").await.is(200);
    connection.send("GET", "/private", &[], b"").await.is(401);
    assert_eq!(server.upstream.take().len(), 1);
    // An answer that is more than one: the rest of it is nobody's answer.
    server.upstream.answer(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Poison: 1\r\n\r\npoison".to_vec()
    });
    let mut first = Connection::to(server.address).await;
    first.send("GET", "/public/1", &[], b"").await.is(200);
    server.upstream.answer(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright".to_vec());
    for _ in 0..3 {
        let mut second = Connection::to(server.address).await;
        let answer = second.send("GET", "/public/2", &[], b"").await;
        assert!(answer.field("x-poison").is_empty() && (answer.status != 200 || answer.text() == "right"), "{answer:?}");
    }
}

// Slow heads and heads without end are cut off.
#[tokio::test]
async fn heads_have_an_end() {
    let server =
        Server::start(&format!("[server]\nheader_timeout = \"1s\"\nmax_header_size = \"16KiB\"\nmax_headers = 50\n{PUBLIC}")).await;
    let mut slow = server.connect().await;
    slow.write(b"GET /public/a HTTP/1.1\r\nHost: app").await;
    assert!(slow.ended().await < std::time::Duration::from_secs(4));
    let mut large = server.connect().await;
    large.write(format!("GET /public/a HTTP/1.1\r\nHost: app.example.com\r\nX: {}\r\n\r\n", "x".repeat(20_000)).as_bytes()).await;
    assert!(large.answer(false).await.is_none_or(|answer| answer.status == 431));
    let mut many = server.connect().await;
    let fields = (0..60).map(|n| format!("X-{n}: 1\r\n")).collect::<Vec<_>>().concat();
    many.write(format!("GET /public/a HTTP/1.1\r\nHost: app.example.com\r\n{fields}\r\n").as_bytes()).await;
    assert!(many.answer(false).await.is_none_or(|answer| answer.status == 431));
    assert!(server.upstream.take().is_empty());
}
