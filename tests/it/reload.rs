//! Reloading: another configuration holds from the next request on, connections stay, and what is wrong changes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nullpass::config::{Access, Config, Rate, UpstreamTls, UpstreamUrl};
use nullpass::tasks::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Connection, Server, Upstream};

const PUBLIC: &str = "
[[rules]]
path = \"/public/**\"
policy = \"public\"
";

#[tokio::test]
async fn rules_change_between_two_requests_of_a_connection() {
    let server = Server::start(PUBLIC).await;
    let mut connection = server.connect().await;
    connection.send("GET", "/public/a", &[], b"").await.is(200);
    let waiting = server.reload(|config| config.rules[0].access = Access::Authenticated).await.unwrap();
    assert!(waiting.is_empty(), "{waiting:?}");
    connection.send("GET", "/public/a", &[], b"").await.is(401);
    server.reload(|_| {}).await.unwrap();
    connection.send("GET", "/public/a", &[], b"").await.is(200);
}

#[tokio::test]
async fn upstreams_and_texts_change_and_sessions_stay() {
    let server = Server::start("").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    assert_eq!(server.status(&token).await, 200);
    server.upstream.take();
    let other = Upstream::start().await;
    let url = format!("http://{}", other.address).parse::<url::Url>().unwrap();
    server
        .reload(|config| {
            config.upstreams[0].name = "other".to_owned();
            config.upstreams[0].urls = vec![UpstreamUrl::Tcp { tls: false, host: "127.0.0.1".to_owned(), port: url.port().unwrap() }];
            config.ui.name = "The Door".to_owned();
        })
        .await
        .unwrap();
    assert_eq!(server.status(&token).await, 200);
    assert!(server.upstream.take().is_empty());
    assert_eq!(other.only().target(), "/private");
    assert!(server.get("/_auth/login", &[]).await.is(200).text().contains("The Door"));
    let metrics = Connection::to(server.admin_address()).await.send("GET", "/metrics", &[], b"").await.text();
    assert!(metrics.contains("nullpass_reloads{name=\"done\"} 1"), "{metrics}");
    assert!(metrics.contains("nullpass_upstream_connections{name=\"other\"}"), "{metrics}");
    assert!(!metrics.contains("nullpass_upstream_connections{name=\"app\"}"), "{metrics}");
    assert!(metrics.contains("nullpass_requests_total{upstream=\"app\",class=\"2xx\",decision=\"allow\"} 1"), "{metrics}");
    assert!(metrics.contains("nullpass_requests_total{upstream=\"other\",class=\"2xx\",decision=\"allow\"} 1"), "{metrics}");
}

// CFG-3: an authority that can't be read does not become "none".
#[tokio::test]
async fn what_is_wrong_changes_nothing() {
    let server = Server::start(PUBLIC).await;
    let refused = server
        .reload(|config| {
            config.rules[0].access = Access::Deny;
            config.upstreams[0].urls = vec![UpstreamUrl::Tcp { tls: true, host: "localhost".to_owned(), port: 1 }];
            config.upstreams[0].tls = UpstreamTls { ca: Some("/nowhere/ca.pem".into()), ..UpstreamTls::default() };
        })
        .await;
    assert!(refused.unwrap_err().to_string().contains("/nowhere/ca.pem"));
    server.get("/public/a", &[]).await.is(200);
    let metrics = Connection::to(server.admin_address()).await.send("GET", "/metrics", &[], b"").await.text();
    assert!(metrics.contains("nullpass_reloads{name=\"refused\"} 1"), "{metrics}");
}

#[tokio::test]
async fn what_waits_for_a_restart_is_named() {
    let server = Server::start(PUBLIC).await;
    let waiting = server
        .reload(|config| {
            config.server.prefix = "/_sso".to_owned();
            config.tokens.ttl = Duration::from_secs(60);
        })
        .await;
    assert_eq!(waiting.unwrap(), ["server.prefix", "tokens"]);
    server.get("/_auth/login", &[]).await.is(200);
}

#[tokio::test]
async fn limits_change_and_those_that_do_not_go_on_counting() {
    let server = Server::start(PUBLIC).await;
    let rate = |count| Some(Rate { count, per: Duration::from_secs(3600) });
    server.reload(|config| config.limits.requests_per_ip = rate(3)).await.unwrap();
    for _ in 0..3 {
        server.get("/public/a", &[]).await.is(200);
    }
    server.get("/public/a", &[]).await.is(429);
    // The same rate: what was taken stays taken.
    server
        .reload(|config| {
            config.limits.requests_per_ip = rate(3);
            config.limits.max_body = Some(4);
        })
        .await
        .unwrap();
    server.get("/public/a", &[]).await.is(429);
    server
        .reload(|config| {
            config.limits.requests_per_ip = rate(100);
            config.limits.max_body = Some(4);
        })
        .await
        .unwrap();
    server.send("POST", "/public/a", &[], b"12345").await.is(413);
    server.send("POST", "/public/a", &[], b"1234").await.is(200);
}

#[tokio::test]
async fn fewer_connections_are_taken_when_the_bound_falls() {
    let server = Server::start(PUBLIC).await;
    let mut first = server.connect().await;
    first.send("GET", "/public/a", &[], b"").await.is(200);
    server.reload(|config| config.server.max_connections = 1).await.unwrap();
    // The listener was waiting with a place in its hand: one more gets in.
    let mut second = server.connect().await;
    second.send("GET", "/public/b", &[], b"").await.is(200);
    // The next one waits in the kernel's queue until both have gone.
    let mut third = server.connect().await;
    third.write(b"GET /public/c HTTP/1.1\r\nHost: app.example.com\r\n\r\n").await;
    drop(first);
    assert!(tokio::time::timeout(Duration::from_millis(300), third.answer(false)).await.is_err());
    drop(second);
    third.answer(false).await.unwrap().is(200);
}

/// Ten thousand requests over eight connections while the configuration changes twenty times: none is lost, and none is
/// answered by anything but one of the two configurations.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_across_twenty_reloads() {
    let server = Arc::new(Server::start(PUBLIC).await);
    let (answered, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let tasks = Tasks::new();
    for _ in 0..8 {
        let (server, answered) = (Arc::clone(&server), Arc::clone(&answered));
        tasks.spawn(async move {
            let mut connection = server.connect().await;
            for _ in 0..1250 {
                let answer = connection.send("GET", "/public/a", &[], b"").await.is(200);
                assert!(matches!(answer.field("connection"), "" | "keep-alive"), "{:?}", answer.fields);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let changing = {
        let (server, done) = (Arc::clone(&server), Arc::clone(&done));
        tasks.spawn(async move {
            let mut reloads = 0;
            while reloads < 20 || !done.load(Ordering::Relaxed) {
                server
                    .reload(|config| {
                        // Another upstream in name and settings each time, and another order of rules.
                        config.upstreams[0].name = format!("app{reloads}");
                        config.upstreams[0].max_connections = 512 + reloads;
                        config.server.max_headers = 200 + reloads;
                        config.rules.push(config.rules[0].clone());
                    })
                    .await
                    .unwrap();
                reloads += 1;
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            reloads
        })
    };
    while answered.load(Ordering::Relaxed) < 10_000 && tasks.len() > 1 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    done.store(true, Ordering::Relaxed);
    assert!(changing.await.unwrap() >= 20);
    tasks.wait().await;
    assert_eq!(answered.load(Ordering::Relaxed), 10_000);
}

// A certificate that can't be read is as good a reason as any other, whatever is right beside it; and the other way round.
#[tokio::test]
async fn tls_and_the_rest_change_together_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    for name in ["a", "b"] {
        let made = rcgen::generate_simple_self_signed([format!("{name}.test")]).unwrap();
        std::fs::write(path.join(format!("{name}.crt")), made.cert.pem()).unwrap();
        std::fs::write(path.join(format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
    }
    let (text, socket) = (path.display(), path.join("http.sock"));
    let listen = format!("[server]\nlisten = [\"127.0.0.1:0\", \"unix:{}\"]\n", socket.display());
    let server = Server::start(&format!("{listen}[server.tls]\ncert = \"{text}/a.crt\"\nkey = \"{text}/a.key\"\n{PUBLIC}")).await;
    let names = || server.tls().not_after().into_keys().collect::<Vec<_>>();
    let status = || async {
        let mut stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
        stream.write_all(b"GET /public/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer[9..12].to_owned()
    };
    let certificate = |name: &str| {
        let (cert, key) = (path.join(format!("{name}.crt")), path.join(format!("{name}.key")));
        move |config: &mut Config| {
            let pair = &mut config.server.tls.as_mut().unwrap().certificates[0];
            (pair.cert, pair.key) = (cert, key);
        }
    };
    let (good, bad) = (certificate("b"), certificate("nowhere"));
    server
        .reload(|config| {
            bad(config);
            config.rules[0].access = Access::Deny;
        })
        .await
        .unwrap_err();
    assert_eq!((names(), status().await), (vec!["a.test".to_owned()], "200".to_owned()));
    server
        .reload(|config| {
            good(config);
            config.rules[0].access = Access::Deny;
            config.upstreams[0].urls = vec![UpstreamUrl::Tcp { tls: true, host: "localhost".to_owned(), port: 1 }];
            config.upstreams[0].tls = UpstreamTls { ca: Some("/nowhere/ca.pem".into()), ..UpstreamTls::default() };
        })
        .await
        .unwrap_err();
    assert_eq!((names(), status().await), (vec!["a.test".to_owned()], "200".to_owned()));
    let good = certificate("b");
    server
        .reload(|config| {
            good(config);
            config.rules[0].access = Access::Deny;
        })
        .await
        .unwrap();
    assert_eq!((names(), status().await), (vec!["b.test".to_owned()], "403".to_owned()));
}

// The identity that a session has ready is of no use where more is asked for since.
#[tokio::test]
async fn what_a_reload_demands_counts_for_open_sessions_and_streams() {
    let server = Server::start("").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let socket = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
    drop(Tasks::new().spawn(connection));
    let ask = |sender: &mut h2::client::SendRequest<bytes::Bytes>| {
        let request = http::Request::get("http://app.example.com/private").header("authorization", format!("Bearer {token}"));
        sender.send_request(request.body(()).unwrap(), true).unwrap().0
    };
    assert_eq!(ask(&mut sender).await.unwrap().status(), 200);
    server.reload(|config| config.two_factor.always_required = true).await.unwrap();
    assert_ne!(ask(&mut sender).await.unwrap().status(), 200);
    assert_ne!(server.status(&token).await, 200);
    server.reload(|config| config.default_policy = Access::Deny).await.unwrap();
    assert_eq!(ask(&mut sender).await.unwrap().status(), 403);
    server.reload(|_| {}).await.unwrap();
    assert_eq!(ask(&mut sender).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_bound_that_goes_down_and_up_holds() {
    let server = Server::start(&format!("[server]\nmax_connections = 2\n{PUBLIC}")).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut connection = server.connect().await;
        connection.send("GET", "/public/a", &[], b"").await.is(200);
        open.push(connection);
    }
    for _ in 0..3 {
        server.reload(|config| config.server.max_connections = 1).await.unwrap();
        server.reload(|_| {}).await.unwrap();
    }
    let mut third = server.connect().await;
    third.write(b"GET /public/c HTTP/1.1\r\nHost: app.example.com\r\n\r\n").await;
    assert!(tokio::time::timeout(Duration::from_millis(300), third.answer(false)).await.is_err(), "two are open and two may be");
    open.pop();
    third.answer(false).await.unwrap().is(200);
}
