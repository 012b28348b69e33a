//! Several addresses of one upstream, from the configuration to the wire and the metrics.

use crate::support::{Answer, Connection, Server};

fn rules(urls: &str) -> String {
    format!("[[upstreams]]\nurls = [{urls}]\n[[rules]]\npath = \"/**\"\npolicy = \"public\"\n")
}

/// An address where nobody listens.
fn nobody() -> String {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    format!("\"http://{address}\"")
}

async fn admin(server: &Server, path: &str) -> Answer {
    Connection::to(server.admin_address()).await.send("GET", path, &[], b"").await
}

async fn metric(server: &Server, name: &str) -> f64 {
    let text = admin(server, "/metrics").await.is(200).text();
    let line = text.lines().find(|line| line.starts_with(&format!("nullpass_{name}{{name=\"app\"}} "))).expect("the metric");
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn one_address_that_is_gone_is_not_noticed_outside() {
    let server = Server::start(&rules(&format!("{}, \"{{upstream}}\"", nobody()))).await;
    for _ in 0..50 {
        server.get("/", &[]).await.is(200);
    }
    assert_eq!(server.upstream.take().len(), 50);
    assert!(metric(&server, "upstream_ejections").await > 0.5);
    assert!(metric(&server, "upstream_retries").await > 4.5);
    assert!(metric(&server, "upstream_up").await > 0.5);
    assert_eq!(admin(&server, "/readyz?upstreams").await.is(200).json()["upstreams"]["app"], "200");
}

#[tokio::test]
async fn without_any_the_answer_says_when_to_come_back() {
    let server = Server::start(&rules(&format!("{}, {}", nobody(), nobody()))).await;
    for _ in 0..5 {
        server.get("/", &[]).await.is(502);
    }
    let answer = server.get("/", &[]).await.is(503);
    assert!(answer.field("retry-after").parse::<u32>().unwrap() > 0);
    assert!(metric(&server, "upstream_up").await < 0.5 && metric(&server, "upstream_endpoints").await < 0.5);
    admin(&server, "/upstreams/app/health").await.is(502);
    admin(&server, "/readyz?upstreams").await.is(503);
    admin(&server, "/readyz").await.is(200);
}
