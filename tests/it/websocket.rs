//! `WebSocket` over HTTP/2 (RFC 8441): the upgrade that it means, under the rules of the upgrade.

use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use tokio::net::TcpStream;

use crate::support::{Captured, PATIENCE, Server, websocket_accept};

const TOML: &str = "[server]\nallowed_hosts = [\"app.example.com\"]\n[[rules]]\npath = \"/public/**\"\npolicy = \"public\"\n[[rules]]\npath = \"/get/**\"\nmethods = [\"GET\"]\npolicy = \"public\"\n[[rules]]\npath = \"/get/**\"\npolicy = \"deny\"\n";

async fn client(server: &Server) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(TcpStream::connect(server.address).await.unwrap()).await.unwrap();
    drop(nullpass::tasks::Tasks::new().spawn(connection));
    // Until the settings have come nobody knows that the server takes it.
    tokio::time::timeout(PATIENCE, async {
        while !sender.is_extended_connect_protocol_enabled() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("SETTINGS_ENABLE_CONNECT_PROTOCOL");
    sender
}

fn connect(path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let request =
        Request::builder().method("CONNECT").uri(format!("http://app.example.com{path}")).extension(Protocol::from_static("websocket"));
    let request = request.header("sec-websocket-version", "13");
    fields.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(()).unwrap()
}

async fn open(server: &Server, request: Request<()>) -> (Response<RecvStream>, SendStream<Bytes>) {
    let (answer, stream) = client(server).await.send_request(request, false).unwrap();
    (tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time").unwrap(), stream)
}

async fn status(server: &Server, request: Request<()>) -> u16 {
    open(server, request).await.0.status().as_u16()
}

/// The next bytes that are not none; an end may be said by an empty frame.
async fn next(answer: &mut Response<RecvStream>) -> Option<Result<Bytes, h2::Error>> {
    loop {
        let data = tokio::time::timeout(PATIENCE, answer.body_mut().data()).await.expect("it hangs");
        if !data.as_ref().is_some_and(|data| data.as_ref().is_ok_and(Bytes::is_empty)) {
            return data;
        }
    }
}

/// Accepts every handshake, and says back what comes.
fn accepts(server: &Server) {
    server.upstream.answer(|request: &Captured| {
        let key = request.one("sec-websocket-key").unwrap();
        let accept = websocket_accept(&key);
        format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: chat\r\nSec-WebSocket-Accept: {accept}\r\n\r\n").into_bytes()
    });
}

// HDR-1, SES-3: a fresh handshake for the upstream, ours stripped, and the end with the session.
#[tokio::test]
async fn it_is_the_upgrade_that_it_means() {
    let server = Server::start(TOML).await;
    accepts(&server);
    let (_, token) = server.signed_in("ada@example.com").await;
    let bearer = format!("Bearer {token}");
    let fields = [
        ("authorization", &*bearer),
        ("x-forwarded-user", "evil"),
        ("x_forwarded_groups", "evil"),
        ("sec-websocket-key", "evil"),
        ("sec-websocket-protocol", "chat, other"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("origin", "http://app.example.com"),
    ];
    let (mut answer, mut stream) = open(&server, connect("/chat?room=1", &fields)).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    for name in ["sec-websocket-accept", "connection", "upgrade"] {
        assert!(!answer.headers().contains_key(name), "{name}");
    }
    let seen = server.upstream.only();
    assert!(seen.head.starts_with("GET /chat?room=1 HTTP/1.1\r\n"), "{}", seen.head);
    assert!(!seen.head.contains("evil") && !seen.head.contains(&token), "{}", seen.head);
    assert_eq!(
        ["connection", "upgrade", "sec-websocket-version", "host", "x-forwarded-user"].map(|name| seen.one(name).unwrap()),
        ["upgrade", "websocket", "13", "app.example.com", "ada@example.com"]
    );
    assert_eq!(seen.one("sec-websocket-extensions").as_deref(), Some("permessage-deflate"));
    assert_eq!(seen.one("sec-websocket-key").unwrap().len(), 24);
    for word in ["one", "two"] {
        stream.send_data(word.into(), false).unwrap();
        assert_eq!(next(&mut answer).await.unwrap().unwrap(), word);
    }
    server.api("POST", "/auth/logout", Some(&token), &serde_json::Value::Null).await.is(200);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(2), next(&mut answer)).await.expect("it goes on");
    assert!(ended.is_none_or(|ended| ended.is_err()));
}

// What comes behind an upgrade is no head, however much it is and however small its pieces.
#[tokio::test]
async fn an_upgrade_carries_more_than_a_head_may_have() {
    let server = Server::start(&format!("[server]\nmax_header_size = \"16KiB\"\n{}", TOML.replace("[server]\n", ""))).await;
    accepts(&server);
    let mut connection = server.connect().await;
    let fields = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    connection.send("GET", "/public/chat", &fields, b"").await.is(101);
    for nth in 0..60 {
        let piece = [b'a' + nth % 26; 1000];
        connection.write(&piece).await;
        let mut back = Vec::new();
        while back.len() < piece.len() {
            let more = connection.read().await;
            assert!(!more.is_empty(), "the connection ended after {nth} pieces");
            back.extend_from_slice(&more);
        }
        assert_eq!(back, piece);
    }
}

// HOST-1, and as with an upgrade, the cookie counts for nothing when another site's page opens it.
#[tokio::test]
async fn the_rules_are_those_of_the_upgrade() {
    let server = Server::start(TOML).await;
    accepts(&server);
    let (_, _) = server.signed_in("ada@example.com").await;
    let cookie = format!("nullpass={}", server.log_in_by_cookie("ada@example.com").await);
    assert_eq!(status(&server, connect("/chat", &[])).await, 401);
    assert_eq!(status(&server, connect("/chat", &[("cookie", "nullpass=x")])).await, 401);
    let foreign = [("cookie", &*cookie), ("origin", "https://evil.example")];
    assert_eq!(status(&server, connect("/chat", &foreign)).await, 403);
    assert_eq!(status(&server, connect("/chat", &[("cookie", &cookie), ("sec-fetch-site", "cross-site")])).await, 403);
    assert!(server.upstream.take().is_empty());
    assert_eq!(status(&server, connect("/chat", &[("cookie", &cookie), ("origin", "http://app.example.com")])).await, 200);
    assert_eq!(status(&server, connect("/get/chat", &[])).await, 200, "for the rules it is a GET");
    server.upstream.take();
    for path in ["/public/%2e%2e/private", "/public/../private"] {
        assert_eq!(status(&server, connect(path, &[])).await, 400, "{path}");
    }
    // HOST-1
    assert_eq!(status(&server, connect("/public/x", &[("host", "other.example.com")])).await, 400);
    let other = Request::builder().method("CONNECT").uri("http://other.example.com/public/x").extension(Protocol::from_static("websocket"));
    assert_eq!(status(&server, other.body(()).unwrap()).await, 421);
    // Nothing of ours is a stream, and a 2xx would say that one is open.
    for path in ["/_auth/login", "/_auth/api/auth/me"] {
        assert_eq!(status(&server, connect(path, &[("cookie", &cookie)])).await, 405, "{path}");
    }
    assert!(server.upstream.take().is_empty());
}

// TOK-2: an API token reaches as far as it does with the upgrade, which is a GET.
#[tokio::test]
async fn an_api_token_reaches_as_far_as_its_scope() {
    let server = Server::start(TOML).await;
    accepts(&server);
    let (_, session) = server.signed_in("ada@example.com").await;
    for (paths, method, status_expected) in
        [("/chat/**", "GET", 200), ("/chat/**", "CONNECT", 403), ("/chat/**", "POST", 403), ("/other/**", "GET", 403)]
    {
        let body = serde_json::json!({ "name": "t", "paths": [paths], "methods": [method], "currentPassword": crate::support::PASSWORD });
        let made = server.api("POST", "/auth/tokens", Some(&session), &body).await.is(201).json();
        let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
        assert_eq!(status(&server, connect("/chat/a", &[("authorization", &bearer)])).await, status_expected, "{paths} {method}");
        server.upstream.take();
    }
}

// FWD-2: to the client any 2xx would say that a stream is open.
#[tokio::test]
async fn a_question_of_another_proxy_is_no_stream() {
    let server =
        Server::start("[server]\ntrusted_proxies = [\"127.0.0.1\"]\n[[rules]]\npath = \"/public/**\"\npolicy = \"public\"\n").await;
    let question = [
        ("x-forwarded-method", "GET"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "app.example.com"),
        ("x-forwarded-uri", "/public/a"),
    ];
    server.get("/_auth/forward-auth", &question).await.is(200);
    assert_eq!(status(&server, connect("/_auth/forward-auth", &question)).await, 405);
    assert_eq!(status(&server, connect("/_auth/forward-auth/public/a", &[])).await, 405);
}

#[tokio::test]
async fn other_connects_are_refused() {
    let server = Server::start(TOML).await;
    let tunnel = Request::builder().method("CONNECT").uri("app.example.com:443").body(()).unwrap();
    assert_eq!(status(&server, tunnel).await, 405);
    let other = Request::builder().method("CONNECT").uri("http://app.example.com/public/x").extension(Protocol::from_static("connect-udp"));
    assert_eq!(status(&server, other.body(()).unwrap()).await, 501);
    assert!(server.upstream.take().is_empty());
}

// Only a handshake that the upstream has answered rightly is an open stream to the client.
#[tokio::test]
async fn what_the_upstream_says_is_not_taken_for_an_open_stream() {
    let server = Server::start(TOML).await;
    let wrong: [(&str, u16); 6] = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 502),
        ("HTTP/1.1 204 No Content\r\n\r\n", 502),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n", 502),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 502),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n", 502),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", 404),
    ];
    for (reply, expected) in wrong {
        server.upstream.answer(move |_| reply.as_bytes().to_vec());
        // What is sent before the answer reaches nobody.
        let (answer, mut stream) = client(&server).await.send_request(connect("/public/x", &[]), false).unwrap();
        stream.send_data("GET /private HTTP/1.1\r\nHost: a\r\n\r\n".into(), false).unwrap();
        let answer = tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time").unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{reply}");
        let seen = server.upstream.take();
        assert!(seen.len() == 1 && !String::from_utf8_lossy(&seen[0].raw).contains("/private"), "{seen:#?}");
    }
}

#[tokio::test]
async fn either_side_ends_it() {
    let server = Server::start(TOML).await;
    accepts(&server);
    let (mut answer, mut stream) = open(&server, connect("/public/x", &[])).await;
    stream.send_data("last".into(), true).unwrap();
    assert_eq!(next(&mut answer).await.unwrap().unwrap(), "last");
    assert!(next(&mut answer).await.is_none(), "the upstream has closed as well");
    let mut server = server;
    let (mut answer, _stream) = open(&server, connect("/public/x", &[])).await;
    let ended = tokio::join!(server.end(), async { next(&mut answer).await }).1;
    assert!(ended.is_none_or(|ended| ended.is_err()), "the end of the process");
}

// Its answer is through, but its connection is not idle.
#[tokio::test]
async fn it_keeps_its_connection() {
    let toml = format!("[server]\nidle_timeout = \"1s\"\nheader_timeout = \"1s\"\n{}", TOML.split_once('\n').unwrap().1);
    let server = Server::start(&toml).await;
    accepts(&server);
    let (mut answer, mut stream) = open(&server, connect("/public/x", &[])).await;
    assert_eq!(answer.status(), 200);
    for _ in 0..4 {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        stream.send_data("still there?".into(), false).unwrap();
        assert_eq!(next(&mut answer).await.unwrap().unwrap(), "still there?");
    }
}
