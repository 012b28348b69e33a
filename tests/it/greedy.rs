//! Slow and greedy clients and applications, by HTTP/1.1 and HTTP/2: each costs a bounded amount, is got rid of, and the
//! others are served meanwhile. What is limited on one connection stands in `limits`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use nullpass::tasks::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::support::{Connection, PATIENCE, Server};

const PUBLIC: &str = "[[rules]]\npath = \"/**\"\npolicy = \"public\"\n";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
const ROOM: &str = "nullpass_limited_total{limit=\"room\"}";

fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    drop(Tasks::new().spawn(task));
}

/// An application of which each connection is served so.
async fn application<F, S>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> S + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            spawn(serve(socket));
        }
    });
    address
}

/// Reads a head.
async fn head(socket: &mut TcpStream) -> bool {
    let mut all = Vec::new();
    let mut bytes = [0; 4096];
    while !all.ends_with(b"\r\n\r\n") {
        match socket.read(&mut bytes).await {
            Ok(0) | Err(_) => return false,
            Ok(count) => all.extend_from_slice(&bytes[..count]),
        }
    }
    true
}

/// A configuration with the application that answers everybody at `/` and another one under `/greedy`.
fn beside(server: &str, greedy: SocketAddr, more: &str) -> String {
    format!(
        "{server}[[upstreams]]\nname = \"app\"\nurl = \"{{upstream}}\"\n\
         [[upstreams]]\nname = \"greedy\"\npath = \"/greedy\"\nurl = \"http://{greedy}\"\n{more}\n{PUBLIC}"
    )
}

type Sender = h2::client::SendRequest<Bytes>;

async fn http2(server: &Server) -> Sender {
    let socket = TcpStream::connect(server.address).await.unwrap();
    let (sender, connection) = h2::client::Builder::new().initial_window_size(16_384).handshake(socket).await.unwrap();
    spawn(async move { drop(connection.await) });
    sender
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://app.example.com{path}")).body(()).unwrap()
}

/// The others notice nothing: on connections of their own, new and old ones.
async fn others_are_served(server: &Server, old: &mut Connection, old_http2: &mut Sender) {
    let served = async {
        server.get("/others", &[]).await.is(200);
        old.send("GET", "/others", &[], b"").await.is(200);
        let (answer, _) = old_http2.send_request(get("/others"), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    };
    timeout(PATIENCE, served).await.expect("the others are served");
}

/// Waits until no request and no connection to this upstream is left.
async fn let_go(server: &Server, upstream: &str) {
    let mut left = (f64::NAN, f64::NAN);
    for _ in 0..200 {
        left = (
            server.metric(&format!("nullpass_upstream_in_flight{{name=\"{upstream}\"}}")).await,
            server.metric(&format!("nullpass_upstream_connections{{name=\"{upstream}\"}}")).await,
        );
        if left == (0.0, 0.0) {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{left:?} requests and connections are left");
}

// Slowloris, HTTP/2: a head whose continuations never end, however slowly they come, and one that just stops.
#[tokio::test]
async fn a_head_that_drips_over_http2_ends() {
    let server = Server::start(&format!("[server]\nheader_timeout = \"700ms\"\nidle_timeout = \"1s\"\n{PUBLIC}")).await;
    for drips in [true, false] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(PREFACE).await.unwrap();
        // HEADERS without END_HEADERS, in the middle of a field `a` whose value is to have 16,252 bytes.
        socket.write_all(&[0, 0, 15, 1, 1, 0, 0, 0, 1]).await.unwrap();
        socket.write_all(&[0x82, 0x86, 0x41, 1, b'a', 0x44, 2, b'/', b'a', 0x40, 1, b'a', 0x7f, 0x81, 0x7d]).await.unwrap();
        let (mut reader, mut writer) = socket.into_split();
        let dripping = async {
            // CONTINUATION frames of one byte.
            while !drips || writer.write_all(&[0, 0, 1, 9, 0, 0, 0, 0, 1, b'x']).await.is_ok() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let mut all = Vec::new();
        let ended = async {
            tokio::select! {
                _ = reader.read_to_end(&mut all) => {}
                () = dripping => {}
            }
        };
        timeout(PATIENCE, ended).await.expect("the end of the connection");
        // Too many of them are a flood; nothing for too long is nothing.
        let limit = if drips { "http2_flood" } else { "idle_timeout" };
        server.metric_reaches(&format!("nullpass_limited_total{{limit=\"{limit}\"}}"), 1.0).await;
        server.get("/others", &[]).await.is(200);
    }
}

// Slowloris in a body, HTTP/2: one for ourselves may take as long as a head.
#[tokio::test]
async fn a_body_for_our_own_routes_that_drips_over_http2_is_given_up() {
    let server = Server::start("[server]\nheader_timeout = \"700ms\"\n").await;
    let mut sender = http2(&server).await;
    let request = Request::post("http://app.example.com/_auth/api/auth/login").header("content-type", "application/json").body(()).unwrap();
    let (answer, mut body) = sender.send_request(request, false).unwrap();
    let dripping = async {
        while body.send_data(Bytes::from_static(b"{"), false).is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! {
        answer = timeout(PATIENCE, answer) => answer.expect("an answer").unwrap(),
        () = dripping => unreachable!(),
    };
    assert_eq!(answer.status(), 408);
    server.metric_reaches("nullpass_limited_total{limit=\"header_timeout\"}", 1.0).await;
}

// Slowloris in a body for the application: who goes no further keeps its connections from nobody for longer than the
// application itself may take to answer.
#[tokio::test]
async fn uploads_that_stop_let_go_of_the_application() {
    // It reads until there is nothing more to read.
    let greedy = application(async |mut socket| drop(tokio::io::copy(&mut socket, &mut tokio::io::sink()).await)).await;
    let more = "max_connections = 3\nresponse_timeout = \"1s\"\n";
    let server = Server::start(&beside("", greedy, more)).await;
    let (mut old, mut old_http2) = (server.connect().await, http2(&server).await);
    let mut stopped = Vec::new();
    for framing in ["Content-Length: 1000\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let mut connection = server.connect().await;
        connection.write(format!("POST /greedy/a HTTP/1.1\r\nHost: a\r\n{framing}").as_bytes()).await;
        stopped.push(connection);
    }
    let mut sender = http2(&server).await;
    let (answer, mut body) = sender.send_request(Request::post("http://a/greedy/a").body(()).unwrap(), false).unwrap();
    body.send_data(Bytes::from_static(b"half"), false).unwrap();
    server.metric_reaches("nullpass_upstream_in_flight{name=\"greedy\"}", 3.0).await;
    others_are_served(&server, &mut old, &mut old_http2).await;
    for mut connection in stopped {
        connection.answer(false).await.unwrap().is(504);
    }
    assert_eq!(timeout(PATIENCE, answer).await.expect("an answer").unwrap().status(), 504);
    let_go(&server, "greedy").await;
}

// Connections that only sit there, in every way there is, make room for those who ask for something; whoever waits for an
// answer stays.
#[tokio::test]
async fn who_does_nothing_makes_room() {
    let slow = application(async |mut socket| {
        if head(&mut socket).await {
            sleep(Duration::from_secs(3)).await;
            let _gone = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow").await;
        }
    });
    let server = Server::start(&beside("[server]\nmax_connections = 9\n", slow.await, "")).await;
    // Silent, rested, in the middle of a head, and two that speak HTTP/2.
    let silent = [server.connect().await, server.connect().await];
    let mut rested = [server.connect().await, server.connect().await];
    for connection in &mut rested {
        connection.send("GET", "/a", &[], b"").await.is(200);
    }
    let mut begun = [server.connect().await, server.connect().await];
    for connection in &mut begun {
        connection.write(b"GET /a HTTP/1.1\r\nHost").await;
    }
    let mut sender = http2(&server).await;
    assert_eq!(sender.send_request(get("/a"), true).unwrap().0.await.unwrap().status(), 200);
    let preface = TcpStream::connect(server.address).await.unwrap();
    sleep(Duration::from_millis(1100)).await;
    let mut waiting = server.connect().await;
    waiting.write(b"GET /greedy/slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.metric_reaches("nullpass_upstream_in_flight{name=\"greedy\"}", 1.0).await;
    // Eight do nothing, and eight come.
    let mut came = Vec::new();
    for _ in 0..8 {
        let mut connection = server.connect().await;
        connection.send("GET", "/others", &[], b"").await.is(200);
        came.push(connection);
    }
    assert_eq!(server.metric(ROOM).await, 8.0);
    for mut connection in silent.into_iter().chain(rested).chain(begun) {
        connection.ended().await;
    }
    let gone = async {
        let mut sender = sender;
        while let Ok(ready) = sender.ready().await {
            sender = ready;
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the end of the HTTP/2 connection");
    drop(preface);
    assert_eq!(waiting.answer(false).await.unwrap().is(200).text(), "slow");
}

// An application that takes requests and never answers: each costs its own time and no more, whoever asks, and the other
// application's people notice nothing.
#[tokio::test]
async fn an_application_that_never_answers_holds_up_nobody_else() {
    let stuck = application(async |mut socket| drop(tokio::io::copy(&mut socket, &mut tokio::io::sink()).await)).await;
    let more = "max_connections = 4\nresponse_timeout = \"1s\"\nconnect_timeout = \"1s\"\n";
    let server = Server::start(&beside("", stuck, more)).await;
    let (mut old, mut old_http2) = (server.connect().await, http2(&server).await);
    let mut asked = Vec::new();
    for _ in 0..6 {
        let mut connection = server.connect().await;
        connection.write(b"GET /greedy/a HTTP/1.1\r\nHost: a\r\n\r\n").await;
        asked.push(connection);
    }
    let mut sender = http2(&server).await;
    let streams: Vec<_> = (0..6).map(|_| sender.send_request(get("/greedy/a"), true).unwrap().0).collect();
    server.metric_reaches("nullpass_upstream_in_flight{name=\"greedy\"}", 4.0).await;
    others_are_served(&server, &mut old, &mut old_http2).await;
    let mut statuses = Vec::new();
    for mut connection in asked {
        let answer = connection.answer(false).await.unwrap();
        assert!(answer.status == 504 || !answer.field("retry-after").is_empty(), "{answer:?}");
        statuses.push(answer.status);
    }
    for stream in streams {
        statuses.push(timeout(PATIENCE, stream).await.expect("an answer").unwrap().status().as_u16());
    }
    // Those that had a connection are told that it is too slow, those that waited for one that there is none.
    assert!(statuses.iter().all(|status| matches!(status, 503 | 504)), "{statuses:?}");
    assert!(statuses.iter().filter(|status| **status == 504).count() >= 4, "{statuses:?}");
    let_go(&server, "greedy").await;
}

// One that sends for ever, to clients that take nothing of it: what is on the way is bounded, and when they go it ends.
#[tokio::test]
async fn an_application_that_sends_for_ever_fills_no_memory() {
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let endless = application(move |mut socket| {
        let sent = Arc::clone(&counter);
        async move {
            if !head(&mut socket).await {
                return;
            }
            let _gone = socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            let chunk = [b"10000\r\n".as_slice(), b"x".repeat(65_536).as_slice(), b"\r\n"].concat();
            while socket.write_all(&chunk).await.is_ok() {
                sent.fetch_add(65_536, Ordering::Relaxed);
            }
        }
    });
    let server = Server::start(&beside("", endless.await, "")).await;
    let (mut old, mut old_http2) = (server.connect().await, http2(&server).await);
    let mut one = server.connect().await;
    one.write(b"GET /greedy/a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut sender = http2(&server).await;
    let two = sender.send_request(get("/greedy/a"), true).unwrap().0.await.unwrap();
    // It goes on until everything between it and them is full, and then not a byte further.
    let mut before = u64::MAX;
    for _ in 0..100 {
        let now = sent.load(Ordering::Relaxed);
        if now == before && now > 0 {
            break;
        }
        before = now;
        sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(sent.load(Ordering::Relaxed), before, "it never stopped");
    // The kernel's buffers of three sockets each, and little of ours.
    assert!(before < 64 << 20, "{before}");
    others_are_served(&server, &mut old, &mut old_http2).await;
    drop((one, two));
    let_go(&server, "greedy").await;
}

// One that resets in the middle: the answer is cut off visibly, in HTTP/2 the stream alone, and nothing is left.
#[tokio::test]
async fn an_application_that_resets_in_the_middle_cuts_its_own_answer() {
    let resets = application(async |mut socket| {
        if head(&mut socket).await {
            let _gone = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf").await;
            // So that the half has been read.
            sleep(Duration::from_millis(300)).await;
            socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
        }
    });
    let server = Server::start(&beside("", resets.await, "")).await;
    let (mut old, mut old_http2) = (server.connect().await, http2(&server).await);
    let mut one = server.connect().await;
    one.write(b"GET /greedy/a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(one.answer(false).await.is_none(), "an end before the length that was announced");
    let mut sender = http2(&server).await;
    let mut body = sender.send_request(get("/greedy/a"), true).unwrap().0.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "half");
    assert!(timeout(PATIENCE, body.data()).await.expect("the end of the stream").unwrap().unwrap_err().is_reset());
    // On the same connection others go on.
    assert_eq!(sender.send_request(get("/others"), true).unwrap().0.await.unwrap().status(), 200);
    others_are_served(&server, &mut old, &mut old_http2).await;
    let_go(&server, "greedy").await;
}
