//! Connections that rest: hyper leaves them and comes back, and nothing that was sent is lost over it.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use crate::support::{Connection, PATIENCE, Server};

const PUBLIC: &str = "[[rules]]\npath = \"/**\"\npolicy = \"public\"\n";

/// Longer than hyper waits.
const A_REST: Duration = Duration::from_millis(600);

async fn rests(server: &Server) {
    server.metric_reaches("nullpass_connections_resting", 1.0).await;
}

#[tokio::test]
async fn a_connection_goes_on_after_a_rest() {
    let server = Server::start(PUBLIC).await;
    let mut connection = server.connect().await;
    for round in 0..4 {
        connection.send("GET", &format!("/a{round}"), &[], b"").await.is(200);
        rests(&server).await;
        connection.send("POST", "/b", &[], b"a body that ends\r\n\r\n").await.is(200);
        assert_eq!(server.metric("nullpass_connections_resting").await, 0.0);
        rests(&server).await;
    }
    let seen: Vec<_> = server.upstream.take().iter().map(|request| (request.target().to_owned(), request.body.len())).collect();
    let expected: Vec<_> = (0..4).flat_map(|round| [(format!("/a{round}"), 0), ("/b".to_owned(), 20)]).collect();
    assert_eq!(seen, expected);
    // An upgrade still takes the socket away from hyper.
    server.upstream.answer(|_| b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec());
    connection.send("GET", "/ws", &[("connection", "upgrade"), ("upgrade", "websocket")], b"").await.is(101);
    for _ in 0..2 {
        connection.write(b"hello").await;
        assert_eq!(connection.read().await, b"hello");
        tokio::time::sleep(A_REST).await;
    }
    drop(connection);
    for _ in 0..100 {
        if server.metric("nullpass_connections").await == 0.0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the connection is still counted");
}

#[tokio::test]
async fn nothing_is_lost_however_it_comes() {
    let server = Server::start(PUBLIC).await;
    // Behind an answered request: the beginning of the next, which hyper has read already.
    for head in [
        &b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
        b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n\r\n\r\n",
        b"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    ] {
        let mut connection = server.connect().await;
        connection.write(&[head, b"GET /2 HTTP/1.1\r\nHo"].concat()).await;
        connection.answer(false).await.unwrap().is(200);
        tokio::time::sleep(A_REST).await;
        connection.write(b"st: a\r\n\r\n").await;
        connection.answer(false).await.unwrap().is(200);
        let seen: Vec<_> = server.upstream.take().iter().map(|request| request.target().to_owned()).collect();
        assert_eq!(seen, ["/1", "/2"], "{}", String::from_utf8_lossy(head));
    }
    // The first bytes one by one, with rests between them.
    let mut connection = server.connect().await;
    for _ in 0..2 {
        for byte in b"PO" {
            connection.write(&[*byte]).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        connection.write(b"ST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n").await;
        tokio::time::sleep(A_REST).await;
        connection.write(b"ok").await;
        connection.answer(false).await.unwrap().is(200);
        rests(&server).await;
    }
    assert!(server.upstream.take().iter().all(|request| request.target() == "/3" && request.body == b"ok"));
}

// A body that nobody read must never be taken for a request.
#[tokio::test]
async fn an_unread_body_is_no_request() {
    let server = Server::start("[[rules]]\npath = \"/public/**\"\npolicy = \"public\"\n").await;
    for framing in ["Content-Length: 60", "Transfer-Encoding: chunked"] {
        let mut connection = server.connect().await;
        connection.write(format!("POST /private HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n").as_bytes()).await;
        connection.answer(false).await.unwrap().is(401);
        tokio::time::sleep(A_REST).await;
        connection.write(b"GET /public/smuggled HTTP/1.1\r\nHost: a\r\n\r\n").await;
        connection.write(b"GET /public/smuggled HTTP/1.1\r\nHost: a\r\n\r\n").await;
        connection.ended().await;
        assert!(server.upstream.take().is_empty(), "{framing}");
    }
}

/// A server that ends TLS, and a client's connection to it.
async fn over_tls(folder: &std::path::Path) -> (Server, TlsStream<TcpStream>) {
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    std::fs::write(folder.join("a.crt"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("a.key"), made.signing_key.serialize_pem()).unwrap();
    let path = folder.display();
    let server = Server::start(&format!("[server.tls]\ncert = \"{path}/a.crt\"\nkey = \"{path}/a.key\"\n{PUBLIC}")).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let socket = TcpSocket::new_v4().unwrap();
    // So that who does not read is felt soon.
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let stream = socket.connect(server.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(ServerName::try_from("a.test").unwrap(), stream).await.unwrap();
    (server, stream)
}

#[tokio::test]
async fn tls_rests_too() {
    let folder = tempfile::tempdir().unwrap();
    let (server, mut stream) = over_tls(folder.path()).await;
    for round in 0..3 {
        stream.write_all(format!("GET /{round} HTTP/1.1\r\nHost: a.test\r\n\r\n").as_bytes()).await.unwrap();
        let mut bytes = [0; 2048];
        let count = stream.read(&mut bytes).await.unwrap();
        assert!(bytes[..count].starts_with(b"HTTP/1.1 200 ") && bytes[..count].ends_with(b"ok"));
        rests(&server).await;
    }
    assert_eq!(server.upstream.take().len(), 3);
}

#[tokio::test]
async fn resting_and_silent_connections_end() {
    let server = Server::start(&format!("[server]\nidle_timeout = \"1s\"\nheader_timeout = \"700ms\"\n{PUBLIC}")).await;
    let mut silent = server.connect().await;
    let mut resting = server.connect().await;
    resting.send("GET", "/a", &[], b"").await.is(200);
    assert!(resting.ended().await > Duration::from_millis(500));
    silent.ended().await;
    server.metric_reaches("nullpass_limited_total{limit=\"idle_timeout\"}", 1.0).await;
    server.metric_reaches("nullpass_limited_total{limit=\"header_timeout\"}", 1.0).await;
    // A head that stops after a rest has as long as any other.
    let mut connection = server.connect().await;
    connection.send("GET", "/a", &[], b"").await.is(200);
    rests(&server).await;
    connection.write(b"GET /b HTT").await;
    assert_eq!(connection.answer(false).await.unwrap().status, 408);
}

// HTTP/2 after HTTP/1.1 on one connection would be read differently by a proxy in front.
#[tokio::test]
async fn a_connection_keeps_its_protocol() {
    let server = Server::start(PUBLIC).await;
    let mut connection: Connection = server.connect().await;
    connection.send("GET", "/a", &[], b"").await.is(200);
    rests(&server).await;
    connection.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").await;
    assert!(connection.answer(false).await.is_none_or(|answer| answer.status == 400));
    connection.ended().await;
}

/// Reads until so many bytes have come that end like this.
async fn read_until(stream: &mut TlsStream<TcpStream>, count: usize, end: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    let reading = async {
        let mut bytes = vec![0; 65536];
        while all.len() < count || !all.ends_with(end) {
            let count = stream.read(&mut bytes).await.unwrap();
            assert_ne!(count, 0, "the connection ended");
            all.extend_from_slice(&bytes[..count]);
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the answers");
    all
}

// What rustls has decrypted already makes no socket readable: it must be served all the same.
#[tokio::test]
async fn what_tls_has_in_its_buffers_is_served_behind_a_rest() {
    let folder = tempfile::tempdir().unwrap();
    let (server, mut stream) = over_tls(folder.path()).await;
    let request = |number: usize, more: &str| format!("GET /{number} HTTP/1.1\r\nHost: a.test\r\n{more}\r\n");
    let long = format!("X: {}\r\n", "x".repeat(15_000));
    for round in 0..3 {
        // In one record, in several at once, and longer than a record can be.
        let texts = match round {
            0 => vec![(0..5).map(|number| request(number, "")).collect::<String>()],
            1 => (0..5).map(|number| request(number, "")).collect(),
            _ => vec![(0..5).map(|number| request(number, &long)).collect::<String>()],
        };
        for text in &texts {
            stream.write_all(text.as_bytes()).await.unwrap();
        }
        stream.flush().await.unwrap();
        let mut answers = 0;
        let mut all = Vec::new();
        while answers < 5 {
            all.extend(read_until(&mut stream, 1, b"ok").await);
            answers = all.windows(13).filter(|window| window == b"HTTP/1.1 200 ").count();
        }
        assert_eq!(server.upstream.take().len(), 5);
        rests(&server).await;
    }
}

// Once its answer is through, a client that was slow to read rests like any other.
#[tokio::test]
async fn a_slow_reader_rests_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let (server, mut stream) = over_tls(folder.path()).await;
    let mut large = b"HTTP/1.1 200 OK\r\nContent-Length: 6000000\r\n\r\n".to_vec();
    large.resize(large.len() + 6_000_000, b'x');
    server.upstream.answer(move |_| large.clone());
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    tokio::time::sleep(A_REST).await;
    read_until(&mut stream, 6_000_050, b"x").await;
    rests(&server).await;
}

// RFC 9110, section 10.1.1: a body that waits for its 100 is whole behind a rest, and one that is not wanted is no request.
#[tokio::test]
async fn continue_is_asked_for_behind_a_rest() {
    let server = Server::start("[[rules]]\npath = \"/public/**\"\npolicy = \"public\"\n").await;
    let mut connection = server.connect().await;
    connection.send("GET", "/public/a", &[], b"").await.is(200);
    for _ in 0..2 {
        rests(&server).await;
        server.upstream.take();
        connection.write(b"PUT /public/b HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\nExpect: 100-continue\r\n\r\n").await;
        tokio::time::sleep(A_REST).await;
        connection.write(b"body\r\n\r\n").await;
        connection.answer(false).await.unwrap().is(200);
        assert_eq!(server.upstream.only().body, b"body\r\n\r\n");
    }
    rests(&server).await;
    server.upstream.take();
    let smuggled = b"GET /public/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let head = format!("PUT /private HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n", smuggled.len());
    connection.write(head.as_bytes()).await;
    connection.answer(false).await.unwrap().is(401);
    tokio::time::sleep(A_REST).await;
    connection.write(smuggled).await;
    connection.ended().await;
    assert!(server.upstream.take().is_empty());
}
