//! The operators' listener.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::admin::{State, serve};
use crate::telemetry::Metrics;

/// An admin listener whose upstreams answer as `probe` says.
async fn operators(house: &House) -> (SocketAddr, Arc<AtomicBool>, Tasks) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let draining = Arc::new(AtomicBool::new(false));
    let state = State {
        auth: Arc::clone(&house.auth),
        clock: house.clock.clone(),
        metrics: Arc::new(Metrics::new()),
        draining: Arc::clone(&draining),
        probe: Box::new(|name| {
            Box::pin(async move {
                match name.as_str() {
                    "good" => Some(Ok(StatusCode::OK)),
                    "empty" => Some(Ok(StatusCode::NO_CONTENT)),
                    "ill" => Some(Ok(StatusCode::SERVICE_UNAVAILABLE)),
                    "odd" => Some(Ok(StatusCode::EARLY_HINTS)),
                    "away" => Some(Err(())),
                    _ => None,
                }
            })
        }),
        upstreams: Box::new(|| vec!["good".to_owned(), "ill".to_owned()]),
    };
    let tasks = Tasks::new();
    tasks.spawn(serve(listener, Arc::new(state), tasks.clone()));
    (address, draining, tasks)
}

async fn get(address: SocketAddr, method: &str, target: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    (status, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_health_and_metrics() {
    let house = House::new().await;
    let (address, draining, tasks) = operators(&house).await;
    for (method, target, status, contains) in [
        ("GET", "/healthz", 200, "ok"),
        ("HEAD", "/healthz", 200, "content-length: 3"),
        ("GET", "/readyz", 200, r#"{"status":"ok","checks":{"store":true,"keys":true,"draining":false}}"#),
        ("GET", "/readyz?upstreams", 503, r#""upstreams":{"good":"200","ill":"503"}"#),
        ("GET", "/metrics", 200, "nullpass_"),
        ("GET", "/metrics", 200, "# EOF"),
        ("GET", "/metrics", 200, "content-type: application/openmetrics-text"),
        ("GET", "/upstreams/good/health", 200, ""),
        ("GET", "/upstreams/empty/health", 204, ""),
        ("GET", "/upstreams/ill/health", 503, ""),
        ("GET", "/upstreams/odd/health", 502, ""),
        ("GET", "/upstreams/away/health", 502, ""),
        ("GET", "/upstreams/none/health", 404, ""),
        ("GET", "/", 404, ""),
        ("GET", "/command", 404, ""),
        ("POST", "/", 404, ""),
        ("POST", "/healthz", 405, "allow: GET, HEAD"),
        ("DELETE", "/upstreams/good/health", 405, "allow: GET, HEAD"),
    ] {
        let (found, answer) = get(address, method, target).await;
        assert_eq!(found, status, "{method} {target}: {answer}");
        assert!(answer.contains(contains), "{method} {target}: {answer}");
        assert!(answer.contains("cache-control: no-store"), "{method} {target}: {answer}");
    }
    draining.store(true, Ordering::SeqCst);
    let (status, answer) = get(address, "GET", "/readyz").await;
    assert_eq!(status, 503);
    assert!(answer.contains(r#""status":"unavailable","checks":{"store":true,"keys":true,"draining":true}"#), "{answer}");
    assert_eq!(get(address, "GET", "/healthz").await.0, 200);

    // An idle connection does not keep the listener from stopping.
    let _idle = TcpStream::connect(address).await.unwrap();
    tasks.stop();
    tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
