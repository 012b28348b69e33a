//! PROXY lines: believed from trusted peers, demanded of them, and refused from all others.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::support::{Connection, Server};

const RULES: &str = "[[rules]]\npath = \"/**\"\npolicy = \"public\"\n";
const TRUSTING: &str = "[server]\nproxy_protocol = true\ntrusted_proxies = [\"127.0.0.0/8\", \"192.0.2.50\"]\nheader_timeout = \"1s\"\n";

fn get(fields: &str) -> Vec<u8> {
    format!("GET /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
}

/// Version 2, TCP over IPv4, from 192.0.2.7:4000, with a TLV behind the addresses.
fn version_2(command: u8) -> Vec<u8> {
    let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 0x0f, 0xa0, 0x01, 0xbb, 4, 0, 1, 0];
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x20 | command, 0x11, 0, 16], &addresses].concat()
}

async fn ask(server: &Server, line: &[u8], fields: &str) -> Option<String> {
    let mut connection = server.connect().await;
    connection.write(&[line, &get(fields)].concat()).await;
    let answer = connection.answer(false).await?;
    assert_eq!(answer.status, 200);
    Some(server.upstream.only().one("x-forwarded-for").unwrap())
}

// NP-9, FWD-3: the address in the line is the peer, and what it sends is believed only if that peer is trusted.
#[tokio::test]
async fn the_line_names_the_peer() {
    let server = Server::start(&format!("{TRUSTING}{RULES}")).await;
    let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 443\r\n";
    assert_eq!(ask(&server, line, "").await.unwrap(), "192.0.2.7");
    assert_eq!(ask(&server, line, "X-Forwarded-For: 203.0.113.9\r\n").await.unwrap(), "192.0.2.7");
    assert_eq!(ask(&server, &version_2(1), "X-Forwarded-For: 203.0.113.9\r\n").await.unwrap(), "192.0.2.7");
    assert_eq!(ask(&server, b"PROXY TCP6 2001:db8::7 2001:db8::1 4000 443\r\n", "").await.unwrap(), "2001:db8::7");
    // The line's peer is itself a proxy that is trusted.
    let inner = b"PROXY TCP4 192.0.2.50 198.51.100.1 4000 443\r\n";
    assert_eq!(ask(&server, inner, "X-Forwarded-For: 203.0.113.9\r\n").await.unwrap(), "203.0.113.9, 192.0.2.50");
    // The proxy speaks for itself.
    for own in [b"PROXY UNKNOWN\r\n".to_vec(), version_2(0)] {
        assert_eq!(ask(&server, &own, "").await.unwrap(), "127.0.0.1");
    }
}

#[tokio::test]
async fn a_trusted_peer_must_send_it() {
    let server = Server::start(&format!("{TRUSTING}{RULES}")).await;
    let too_long = [b"PROXY UNKNOWN ", &[b'x'; 100][..], b"\r\n"].concat();
    let twice = b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\nPROXY TCP4 192.0.2.8 198.51.100.1 1 2\r\n";
    for bad in [&b""[..], b"PROXY TCP4 192.0.2.7 1\r\n", b"PROXY TCP4 a b 1 2\r\n", b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0", &too_long] {
        let mut connection = server.connect().await;
        connection.write(&[bad, &get("")].concat()).await;
        assert!(connection.answer(false).await.is_none(), "{bad:?}");
    }
    // A second line is no HTTP.
    let mut connection = server.connect().await;
    connection.write(&[&twice[..], &get("")].concat()).await;
    assert_eq!(connection.answer(false).await.map(|answer| answer.status), Some(400));
    // One that does not end in time.
    let mut slow = server.connect().await;
    slow.write(b"PROXY TCP4 192.0").await;
    assert!(slow.ended().await < Duration::from_secs(4));
    assert!(server.upstream.take().is_empty());
    server.metric_reaches("nullpass_limited_total{limit=\"proxy_line\"}", 6.0).await;
    // In pieces it is as good as whole.
    let mut pieces = server.connect().await;
    for piece in b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 443\r\n".chunks(5) {
        pieces.write(piece).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    pieces.send("GET", "/a", &[], b"").await.is(200);
}

// NP-9: anybody could name any address.
#[tokio::test]
async fn nobody_else_is_believed() {
    let lines = [b"PROXY TCP4 10.0.0.1 198.51.100.1 4000 443\r\n".to_vec(), version_2(1)];
    for toml in ["[server]\nproxy_protocol = true\ntrusted_proxies = [\"192.0.2.50\"]\n", ""] {
        let server = Server::start(&format!("{toml}{RULES}")).await;
        for line in &lines {
            let mut connection = server.connect().await;
            connection.write(&[&line[..], &get("")].concat()).await;
            assert!(connection.answer(false).await.is_none_or(|answer| answer.status == 400));
            connection.ended().await;
        }
        assert!(server.upstream.take().is_empty());
        assert_eq!(ask(&server, b"", "").await.unwrap(), "127.0.0.1", "who sends none is served as who it is");
    }
}

// A unix socket's peer is this machine's own: it is believed, and has to say.
#[tokio::test]
async fn it_comes_before_tls_and_over_unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let listen = format!("listen = [\"127.0.0.1:8080\", \"unix:{}\"]\n", path.display());
    let server = Server::start(&format!("{}{listen}{RULES}", TRUSTING.replace("header_timeout", "idle_timeout"))).await;
    let ask = async |line: &[u8]| {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(&[line, &get("Connection: close\r\n")].concat()).await.unwrap();
        let mut answer = Vec::new();
        let _end = stream.read_to_end(&mut answer).await;
        answer
    };
    assert!(ask(b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 443\r\n").await.starts_with(b"HTTP/1.1 200 "));
    assert_eq!(server.upstream.only().one("x-forwarded-for").as_deref(), Some("192.0.2.7"));
    assert_eq!(ask(b"").await, b"");
    assert!(server.upstream.take().is_empty());
    drop(server);

    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    std::fs::write(folder.path().join("a.crt"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("a.key"), made.signing_key.serialize_pem()).unwrap();
    let tls = format!("[server.tls]\ncert = \"{0}/a.crt\"\nkey = \"{0}/a.key\"\n", folder.path().display());
    let server = Server::start(&format!("{TRUSTING}{tls}{RULES}")).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&version_2(1)).await.unwrap();
    let answer = over_tls(stream, &made.cert.pem()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let seen = server.upstream.only();
    assert_eq!((seen.one("x-forwarded-for").as_deref(), seen.one("x-forwarded-proto").as_deref()), (Some("192.0.2.7"), Some("https")));
    // TLS without a line before it is cut off.
    let mut connection = Connection::to(server.address).await;
    connection.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on").await;
    connection.ended().await;
}

async fn over_tls(stream: TcpStream, trusted: &str) -> String {
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("a.test").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await.unwrap();
    stream.write_all(&get("Connection: close\r\n")).await.unwrap();
    let mut answer = String::new();
    let _end = stream.read_to_string(&mut answer).await;
    answer
}

// The line is told from what follows to the byte, and an address in IPv6's clothes is the one that rules and limits know.
#[tokio::test]
async fn tls_follows_a_line_that_comes_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    std::fs::write(folder.path().join("crt"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("key"), made.signing_key.serialize_pem()).unwrap();
    let path = folder.path().display();
    let server = Server::start(&format!("{TRUSTING}[server.tls]\ncert = \"{path}/crt\"\nkey = \"{path}/key\"\n{RULES}")).await;
    let mapped = b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 4000 443\r\n";
    for line in [&b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 443\r\n"[..], mapped, &version_2(1)] {
        for cut in [1, 14, line.len() - 1] {
            let mut socket = TcpStream::connect(server.address).await.unwrap();
            socket.set_nodelay(true).unwrap();
            socket.write_all(&line[..cut]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            socket.write_all(&line[cut..]).await.unwrap();
            let answer = over_tls(socket, &made.cert.pem()).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            assert_eq!(server.upstream.only().one("x-forwarded-for").unwrap(), "192.0.2.7");
        }
    }
}
