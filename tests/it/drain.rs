//! The end of the process, as its clients see it: nothing that was asked goes unanswered.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use nullpass::tasks::Tasks;
use tokio::net::TcpStream;

use crate::support::{Connection, PATIENCE, Server};

const PUBLIC: &str = "[[rules]]\npath = \"/**\"\npolicy = \"public\"\n";

/// Asks on one connection until an answer says that it is the last; how many answers there were.
async fn ask_until_told(mut connection: Connection, path: &'static str) -> usize {
    let mut count = 0;
    loop {
        connection.write(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await;
        let answer = connection.answer(false).await.unwrap_or_else(|| panic!("request {count} was lost")).is(200);
        count += 1;
        if answer.field("connection") == "close" {
            connection.ended().await;
            return count;
        }
    }
}

#[tokio::test]
async fn no_request_is_lost_and_every_connection_is_told() {
    let mut server = Server::start(&format!("[server]\nlisten = [\"127.0.0.11:8080\"]\n{PUBLIC}")).await;
    let tasks = Tasks::new();
    let mut clients = Vec::new();
    for number in 0..20 {
        let connection = server.connect().await;
        clients.push(tasks.spawn(ask_until_told(connection, if number % 5 == 0 { "/slow" } else { "/a" })));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Those that have connected and say nothing yet, and one that says something at the last moment.
    let mut silent = server.connect().await;
    let mut late = server.connect().await;
    let running = server.take_running();
    let stopped = tasks.spawn(running.stop(std::future::pending()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = late.send("GET", "/a", &[], b"").await.is(200);
    assert_eq!(answer.field("connection"), "close");
    let mut answers = 0;
    for client in clients {
        answers += tokio::time::timeout(PATIENCE, client).await.unwrap().unwrap();
    }
    assert!(answers > 100, "{answers} answers are no load");
    silent.ended().await;
    tokio::time::timeout(PATIENCE, stopped).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "and nobody comes in any more");
}

#[tokio::test]
async fn who_rests_for_long_is_let_go_at_once() {
    let mut server = Server::start(PUBLIC).await;
    let mut resting = server.connect().await;
    resting.send("GET", "/a", &[], b"").await.is(200);
    server.metric_reaches("nullpass_connections_resting", 1.0).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let running = server.take_running();
    let stopped = Tasks::new().spawn(running.stop(std::future::pending()));
    assert!(resting.ended().await < Duration::from_secs(1));
    tokio::time::timeout(PATIENCE, stopped).await.unwrap().unwrap().unwrap();
}

// Its next request is on its way, and only an answer can tell it to go elsewhere.
#[tokio::test]
async fn who_asks_now_and_then_is_waited_for_and_told() {
    let mut server = Server::start(PUBLIC).await;
    let mut resting = server.connect().await;
    resting.send("GET", "/a", &[], b"").await.is(200);
    server.metric_reaches("nullpass_connections_resting", 1.0).await;
    let running = server.take_running();
    let stopped = Tasks::new().spawn(running.stop(std::future::pending()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let answer = resting.send("GET", "/b", &[], b"").await;
    assert_eq!((answer.status, answer.field("connection")), (200, "close"));
    tokio::time::timeout(PATIENCE, stopped).await.unwrap().unwrap().unwrap();
}

// The grace is two seconds here.
#[tokio::test]
async fn upgrades_and_streams_live_until_the_grace_is_over() {
    let mut server = Server::start(PUBLIC).await;
    server.upstream.answer(|request| {
        if request.one("upgrade").is_some() {
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec()
        } else {
            b"HTTP/1.1 200 OK\r\nX-Endless: 1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()
        }
    });
    let mut socket = server.connect().await;
    socket.send("GET", "/ws", &[("connection", "upgrade"), ("upgrade", "websocket")], b"").await.is(101);
    let mut stream = server.connect().await;
    stream.write(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(stream.read().await.starts_with(b"HTTP/1.1 200"));
    let began = tokio::time::Instant::now();
    let running = server.take_running();
    let stopped = Tasks::new().spawn(running.stop(std::future::pending()));
    while began.elapsed() < Duration::from_secs(1) {
        socket.write(b"hello").await;
        assert_eq!(socket.read().await, b"hello");
        assert!(!stream.read().await.is_empty());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    socket.ended().await;
    stream.ended().await;
    assert!(began.elapsed() < Duration::from_secs(4));
    tokio::time::timeout(PATIENCE, stopped).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn http2_says_goaway_and_answers_what_was_asked() {
    let mut server = Server::start(PUBLIC).await;
    let socket = TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
    let tasks = Tasks::new();
    let connection = tasks.spawn(connection);
    let ask = |sender: &mut h2::client::SendRequest<Bytes>| {
        let request = Request::get("http://a/slow").body(()).unwrap();
        sender.send_request(request, true).map(|(answer, _)| answer)
    };
    let answers: Vec<_> = (0..5).map(|_| ask(&mut sender).unwrap()).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let running = server.take_running();
    let stopped = tasks.spawn(running.stop(std::future::pending()));
    for answer in answers {
        assert_eq!(tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap().status(), 200);
    }
    // GOAWAY without an error: the client knows that it has to go elsewhere.
    tokio::time::timeout(PATIENCE, connection).await.unwrap().unwrap().unwrap();
    let refused = match ask(&mut sender) {
        Ok(answer) => answer.await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(refused.is_err());
    tokio::time::timeout(PATIENCE, stopped).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_second_signal_stops_at_once_also_while_it_still_accepts() {
    let mut server = Server::start(&format!("[server]\nlisten = [\"127.0.0.12:8080\"]\nshutdown_delay = \"30s\"\n{PUBLIC}")).await;
    let mut asking = server.connect().await;
    asking.write(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut resting = server.connect().await;
    resting.send("GET", "/a", &[], b"").await.is(200);
    let running = server.take_running();
    // On a thread of its own: what hangs here must not take the test's runtime along.
    let (said, heard) = tokio::sync::oneshot::channel();
    let handle = tokio::runtime::Handle::current();
    let stopping = std::thread::spawn(move || {
        let stopped = handle.block_on(running.stop(async { tokio::time::sleep(Duration::from_millis(200)).await }));
        let _nobody_waits = said.send(stopped.is_ok());
    });
    assert!(tokio::time::timeout(Duration::from_secs(5), heard).await.expect("an end").unwrap());
    stopping.join().unwrap();
    resting.ended().await;
    assert!(TcpStream::connect(server.address).await.is_err());
}

// An answer that is ready within one poll is no exception: it is made before the connection has noticed the signal.
#[tokio::test]
async fn an_answer_that_is_there_at_once_says_close_too() {
    let mut server = Server::start("[[rules]]\npath = \"/open/**\"\npolicy = \"public\"\n").await;
    let mut connections = Vec::new();
    for _ in 0..8 {
        connections.push(server.connect().await);
    }
    server.metric_reaches("nullpass_connections", 8.0).await;
    let running = server.take_running();
    let stopped = Tasks::new().spawn(running.stop(std::future::pending()));
    tokio::time::sleep(Duration::from_millis(200)).await;
    for mut connection in connections {
        let answer = connection.send("GET", "/private", &[("accept", "application/json")], b"").await.is(401);
        assert_eq!(answer.field("connection"), "close");
        connection.ended().await;
    }
    tokio::time::timeout(PATIENCE, stopped).await.unwrap().unwrap().unwrap();
}
