//! A front that forwards everything, upstreams written by hand, and a client that writes bytes.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderName, Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use nullpass::config::{self, Encoding, IdentityHeaders, Preset, UpstreamTls, UpstreamUrl};
use nullpass::model::{Amr, Email, Fitness, Group, Identity, Slot, UserId};
use nullpass::proxy::{Ended, Error, Forward, ForwardContext, Proxy, Worker};
use nullpass::tasks::Tasks;
use nullpass::wire::body::Body;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An upstream at `address` with short limits.
pub(crate) fn upstream_at(address: SocketAddr) -> config::Upstream {
    config::Upstream {
        name: "app".to_owned(),
        urls: vec![UpstreamUrl::Tcp { tls: false, host: address.ip().to_string(), port: address.port() }],
        host: None,
        path: "/".to_owned(),
        strip_path: false,
        rewrite: true,
        max_connections: 64,
        pass_host: true,
        connect_timeout: Duration::from_secs(2),
        response_timeout: Duration::from_secs(5),
        stream_idle_timeout: Duration::from_secs(5),
        retries: 1,
        health_path: Some("/healthz".to_owned()),
        health_interval: None,
        tls: UpstreamTls::default(),
        preset: None,
        set_headers: vec![],
        remove_headers: vec![],
    }
}

/// What the front forwards with.
#[derive(Clone, Default)]
pub(crate) struct How {
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) max_body: Option<u64>,
    pub(crate) ended: Option<Ended>,
}

/// A running front.
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) tasks: Tasks,
}

pub(crate) fn ann() -> Arc<Identity> {
    Arc::new(Identity {
        user: UserId::new(),
        email: Email::parse("ann@example.com").unwrap(),
        display_name: None,
        groups: [Group::parse("staff").unwrap()].into(),
        attributes: [].into(),
        has_second_factor: false,
        session: None,
        amr: Amr::PASSWORD,
        auth_time: nullpass::clock::Timestamp::from_secs(1),
        fitness: Fitness::Full,
        slot: Slot::default(),
    })
}

pub(crate) fn proxy(upstream: config::Upstream, max_body: Option<u64>, tasks: &Tasks) -> Arc<Proxy> {
    Proxy::new(&[upstream], &identity(), &admins(), max_body, tasks.clone()).unwrap()
}

pub(crate) fn admins() -> Group {
    Group::parse("nullpass-admin").unwrap()
}

pub(crate) fn identity() -> IdentityHeaders {
    IdentityHeaders {
        preset: Preset::Forwarded,
        encoding: Encoding::Utf8,
        headers: vec![(HeaderName::from_static("x-tenant"), config::IdentityField::Attribute("tenant".to_owned()))],
        groups_separator: ",".to_owned(),
        forward_token: false,
        assertion: None,
    }
}

/// [`upstream_at`] several addresses.
pub(crate) fn upstream_at_all(addresses: &[SocketAddr]) -> config::Upstream {
    let urls = addresses.iter().map(|address| UpstreamUrl::Tcp { tls: false, host: address.ip().to_string(), port: address.port() });
    config::Upstream { urls: urls.collect(), ..upstream_at(addresses[0]) }
}

/// An address where nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// An upstream that answers every request with `name`, and counts its connections and requests.
pub(crate) async fn named(name: &'static str) -> (SocketAddr, Count, Count) {
    named_at(TcpListener::bind("127.0.0.1:0").await.unwrap(), name)
}

/// [`named`] where `listener` listens.
pub(crate) fn named_at(listener: TcpListener, name: &'static str) -> (SocketAddr, Count, Count) {
    let (connections, requests) = (Count::default(), Count::default());
    let counts = (connections.clone(), requests.clone());
    let address = upstream_on(listener, move |mut socket, _| {
        let (connections, requests) = counts.clone();
        async move {
            connections.add(1);
            while !head(&mut socket).await.is_empty() {
                requests.add(1);
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
                if socket.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    });
    (address, connections, requests)
}

/// Starts a front for one upstream.
pub(crate) async fn front(upstream: config::Upstream, how: How) -> Front {
    let tasks = Tasks::new();
    let proxy = proxy(upstream, how.max_body, &tasks);
    let address = serve(proxy.worker(), how, &tasks).await;
    Front { address, proxy, tasks }
}

/// Forwards what comes in with `worker`.
pub(crate) async fn serve(worker: Arc<Worker>, how: How, tasks: &Tasks) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let spawner = tasks.clone();
    drop(tasks.spawn(async move {
        loop {
            let (socket, peer) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            let (worker, how) = (Arc::clone(&worker), how.clone());
            drop(spawner.spawn(async move {
                let service = service_fn(move |request| {
                    let (worker, how) = (Arc::clone(&worker), how.clone());
                    async move { Ok::<_, Infallible>(forward(&worker, request, &how, peer.ip()).await.unwrap_or_else(refusal)) }
                });
                // How a connection ends is what its test looks at from the other side.
                let _ended = auto::Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(socket), service).await;
            }));
        }
    }));
    address
}

async fn forward(worker: &Worker, request: Request<Incoming>, how: &How, peer: IpAddr) -> Result<Response<Body>, Error> {
    let host = request.uri().authority().map(ToString::to_string);
    let host = host.or_else(|| request.headers().get("host").map(|host| host.to_str().unwrap().to_owned())).unwrap_or_default();
    let context = ForwardContext {
        request_id: "req-1",
        client: peer,
        peer_trusted: false,
        peer: Some(peer),
        scheme: "http",
        host_header: &host,
        port: 80,
    };
    let forward = Forward {
        upstream: worker.proxy().route(&host, request.uri().path()).unwrap(),
        context: &context,
        identity: how.identity.as_deref(),
        token: None,
        assertion: None,
        strip_authorization: false,
        private: false,
        strip_method_override: true,
        ended: how.ended.clone(),
        hold: None,
        prefix: "/_nullpass",
        own_cookie: |name| name.starts_with("nullpass"),
    };
    worker.forward(request, forward).await
}

fn refusal(error: Error) -> Response<Body> {
    Response::builder().status(error.status()).body(Body::full(format!("{error:?}"))).unwrap()
}

/// Starts an upstream that treats each connection as `serve` says; it is told how many there were before.
pub(crate) async fn upstream<F, S>(serve: S) -> SocketAddr
where
    S: Fn(TcpStream, usize) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    upstream_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), serve)
}

/// [`upstream`] where `listener` listens.
pub(crate) fn upstream_on<F, S>(listener: TcpListener, serve: S) -> SocketAddr
where
    S: Fn(TcpStream, usize) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let address = listener.local_addr().unwrap();
    let tasks = Tasks::new();
    let spawner = tasks.clone();
    drop(tasks.spawn(async move {
        for number in 0.. {
            let (socket, _) = listener.accept().await.unwrap();
            drop(spawner.spawn(serve(socket, number)));
        }
    }));
    address
}

/// An upstream that answers each request without a body with what it got, as text.
pub(crate) async fn echo_heads() -> SocketAddr {
    upstream(|mut socket, _| async move {
        loop {
            let head = head(&mut socket).await;
            if head.is_empty() {
                return;
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await
}

/// A counter that tests and upstreams share.
#[derive(Clone, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count, Ordering::SeqCst);
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Reads one byte after the other until `end`; less if the stream ends before.
pub(crate) async fn until(socket: &mut TcpStream, end: &[u8]) -> String {
    let mut got = Vec::new();
    while !got.ends_with(end) {
        match socket.read_u8().await {
            Ok(byte) => got.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(got).unwrap()
}

/// A message's head.
pub(crate) async fn head(socket: &mut TcpStream) -> String {
    until(socket, b"\r\n\r\n").await
}

/// A connection to the front that has sent `bytes`.
pub(crate) async fn send(front: &Front, bytes: impl AsRef<[u8]>) -> TcpStream {
    let mut socket = TcpStream::connect(front.address).await.unwrap();
    socket.write_all(bytes.as_ref()).await.unwrap();
    socket
}

/// Sends a request that asks to close the connection, and reads everything.
pub(crate) async fn ask(front: &Front, bytes: impl AsRef<[u8]>) -> String {
    let mut socket = send(front, bytes).await;
    let mut got = Vec::new();
    within(socket.read_to_end(&mut got)).await.unwrap();
    String::from_utf8(got).unwrap()
}

/// A GET that closes.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: app.example.com\r\nConnection: close\r\n\r\n")
}

/// Fails instead of hanging.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it hangs")
}

/// Waits until something is so.
pub(crate) async fn eventually(what: impl Fn() -> bool) {
    within(async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// An upstream that speaks TLS with this certificate and wants the same one from its client.
pub(crate) async fn tls_upstream(made: &rcgen::CertifiedKey<rcgen::KeyPair>) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    upstream(move |socket, _| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(socket).await else { return };
            let mut told = vec![0; 4096];
            if stream.read(&mut told).await.is_ok_and(|count| count > 0) {
                stream.write_all(OK).await.unwrap();
            }
        }
    })
    .await
}
