//! `[server]`: the listeners, their limits and their TLS.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket's path.
    Unix(PathBuf),
}

/// `[server]`: the listeners that people and programs reach.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Where to listen; at least one.
    pub listen: Vec<Listen>,
    /// What browsers see: scheme, host and port, without a path. `None`: taken from `listen` and `tls`.
    pub public_url: Option<url::Url>,
    /// The prefix of nullpass's own routes: `/` and one or more plain segments, no slash at the end.
    pub prefix: String,
    /// Worker threads; 0: as many as the cgroup has CPUs, at most 4.
    pub workers: usize,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether they, and whoever comes by a unix socket, begin a connection with a PROXY line.
    pub proxy_protocol: bool,
    /// The largest head of a request in bytes.
    pub max_header_size: usize,
    /// From the first byte of a request's head to its last.
    pub header_timeout: Duration,
    /// A keep-alive connection between requests.
    pub idle_timeout: Duration,
    /// Hosts that are served, lower case, exact or `*.example.com`; empty: any.
    pub allowed_hosts: Vec<String>,
    /// After SIGTERM: how long to go on accepting while `/readyz` already says no.
    pub shutdown_delay: Duration,
    /// After that: how long requests in flight may take.
    pub shutdown_grace: Duration,
    /// Connections from clients at a time.
    pub max_connections: usize,
    /// Header fields in a request.
    pub max_headers: usize,
    /// Limits of HTTP/2 connections.
    pub http2: Http2,
    /// TLS; `None`: plain HTTP.
    pub tls: Option<ServerTls>,
    /// Allows plain HTTP on an address that others can reach.
    pub danger_plain_http: bool,
    /// The `max-age` of `Strict-Transport-Security` (RFC 6797), sent when `public_url` is https; `None`: never.
    pub hsts: Option<Duration>,
}

impl Server {
    /// Whether browsers reach us by https, which decides the cookie's name and its `Secure`.
    pub fn is_https(&self) -> bool {
        self.public_url.as_ref().map_or(self.tls.is_some(), |url| url.scheme() == "https")
    }
}

/// `[server] http2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// Concurrent streams on a connection.
    pub max_streams: u32,
    /// Resets by the client that a connection survives before it is closed (CVE-2023-44487).
    pub max_resets: u32,
}

/// `[server.tls]`: certificates from files, by ACME, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// The certificates, the first of which is the default; empty only with `acme`.
    pub certificates: Vec<CertificateFiles>,
    /// A certificate that is ordered and renewed by ourselves.
    pub acme: Option<Acme>,
    /// Who must show a certificate of their own; `None`: nobody is asked.
    pub client: Option<ClientCertificates>,
    /// Where to redirect plain HTTP to https.
    pub http_redirect: Option<SocketAddr>,
}

/// `[server.tls] acme` (RFC 8555, proven by RFC 8737's TLS-ALPN-01).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// The names of the certificate, lower case, no wildcard; at least one.
    pub domains: Vec<String>,
    /// `mailto:` and an address, for the authority's warnings.
    pub contact: Option<String>,
    /// Where account key and certificate are kept, relative to the data folder unless absolute.
    pub cache: PathBuf,
    /// The authority's directory.
    pub directory: url::Url,
    /// The authorities to trust for the directory's own TLS instead of the system's, as a PEM file.
    pub directory_ca: Option<PathBuf>,
}

/// `client_ca` and `client_cert`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// The authorities that must have signed them, as a PEM file.
    pub ca: PathBuf,
    /// Whether a client without one is refused; one that is wrong always is.
    pub required: bool,
}

/// A certificate chain and its key as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}
