//! Plain HTTP led to https, and the promise that browsers come by https only.

use std::path::Path;
use std::time::Duration;

use crate::support::{Answer, Connection, Server};

/// `[server.tls]` with a redirect, and whatever `server` says.
fn section(folder: &Path, server: &str) -> String {
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    std::fs::write(folder.join("crt"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("key"), made.signing_key.serialize_pem()).unwrap();
    let path = folder.display();
    format!("[server]\n{server}\n[server.tls]\ncert = \"{path}/crt\"\nkey = \"{path}/key\"\nhttp_redirect = \"127.0.0.1:0\"\n")
}

/// The answer to bytes on a connection of their own, which must be closed after it.
async fn answer(server: &Server, request: &str) -> Answer {
    let mut connection = Connection::to(server.redirect_address()).await;
    connection.write(request.as_bytes()).await;
    let answer = connection.answer(request.starts_with("HEAD")).await.unwrap_or_default();
    connection.ended().await;
    answer
}

// FWD-4
#[tokio::test]
async fn every_method_is_led_to_the_public_url_with_the_very_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&section(folder.path(), "public_url = \"https://app.example.com\"")).await;
    for target in ["/", "/a/b?x=1&y=%2F", "/%41%c3%a9?q=a//b?c", "//evil.test/", "/a;b=c?", "/\u{e9}"] {
        for method in ["GET", "HEAD", "POST", "PROPFIND"] {
            // Whatever the Host says.
            let found = answer(&server, &format!("{method} {target} HTTP/1.1\r\nHost: evil.test\r\n\r\n")).await.is(308);
            assert_eq!(found.field("location"), format!("https://app.example.com{target}"), "{method}");
        }
    }
    let absolute = answer(&server, "GET http://evil.test/x HTTP/1.1\r\nHost: evil.test\r\n\r\n").await.is(308);
    assert_eq!(absolute.field("location"), "https://app.example.com/x");
    assert_eq!(answer(&server, "GET / HTTP/1.0\r\n\r\n").await.is(308).field("location"), "https://app.example.com/");
    // A forwarding header of a stranger counts for nothing.
    let forwarded = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Host: evil.test\r\nX-Forwarded-Proto: https\r\n\r\n";
    assert_eq!(answer(&server, forwarded).await.is(308).field("location"), "https://app.example.com/");
}

// FWD-4
#[tokio::test]
async fn a_host_is_led_to_itself_only_where_it_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    for (public, port) in [("", None), ("public_url = \"https://app.example.com:8443\"\n", Some(8443))] {
        let server = Server::start(&section(folder.path(), &format!("{public}allowed_hosts = [\"*.example.com\"]"))).await;
        let port = port.unwrap_or_else(|| server.address.port());
        let found = answer(&server, "GET /x HTTP/1.1\r\nHost: B.example.com:80\r\n\r\n").await.is(308);
        assert_eq!(found.field("location"), format!("https://b.example.com:{port}/x"));
        let found = answer(&server, "GET /x HTTP/1.1\r\nHost: evil.test\r\n\r\n").await.is(421);
        assert_eq!(found.field("location"), "");
    }
    // Neither is set: to what is listened on, and never to the Host.
    let server = Server::start(&section(folder.path(), "")).await;
    let found = answer(&server, "GET /x HTTP/1.1\r\nHost: evil.test\r\n\r\n").await.is(308);
    assert_eq!(found.field("location"), format!("https://{}/x", server.address));
}

#[tokio::test]
async fn what_is_malformed_leads_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let limits = "public_url = \"https://app.example.com\"\nheader_timeout = \"300ms\"\nmax_headers = 16\n";
    let server = Server::start(&section(folder.path(), limits)).await;
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a%0d%0aX:y HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        "nonsense\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ] {
        let found = answer(&server, request).await;
        assert!(found.status == 400 && found.field("location").is_empty(), "{request:?}: {found:?}");
    }
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X-A: b\r\n".repeat(20));
    answer(&server, &many).await.is(431);
    // A head that does not end, and nothing at all: cut off in time. Neither holds up anybody else.
    for slow in ["GET / HTTP/1.1\r\nHost:", ""] {
        let mut connection = Connection::to(server.redirect_address()).await;
        connection.write(slow.as_bytes()).await;
        connection.ended().await;
    }
    answer(&server, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.is(308);
}

#[tokio::test]
async fn browsers_are_told_to_come_by_https_when_that_is_what_is_public() {
    let own = "/_auth/api/health";
    let rule = "\n[[rules]]\npath = \"/**\"\npolicy = \"public\"\n";
    let server = Server::start(&format!("[server]\npublic_url = \"https://app.example.com\"\n{rule}")).await;
    for path in [own, "/anything", "/a/../b", "/_auth/nowhere"] {
        let found = server.get(path, &[]).await;
        assert_eq!(found.all("strict-transport-security"), ["max-age=31536000"], "{path} {}", found.status);
    }
    let short = Server::start("[server]\npublic_url = \"https://app.example.com\"\nhsts = \"1d\"\n").await;
    assert_eq!(short.get(own, &[]).await.field("strict-transport-security"), "max-age=86400");
    for quiet in
        ["[server]\npublic_url = \"https://app.example.com\"\nhsts = \"\"\n", "[server]\npublic_url = \"http://app.example.com\"\n", ""]
    {
        let server = Server::start(quiet).await;
        assert!(server.get(own, &[]).await.all("strict-transport-security").is_empty(), "{quiet}");
    }
}

#[tokio::test]
async fn who_says_nothing_does_not_hold_up_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(&section(folder.path(), "header_timeout = \"30s\"")).await;
    let mut silent = Connection::to(server.redirect_address()).await;
    let mut slow = Connection::to(server.redirect_address()).await;
    slow.write(b"GET / HT").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    tokio::time::timeout(Duration::from_secs(8), server.end()).await.expect("an end within the grace");
    silent.ended().await;
    slow.ended().await;
}
