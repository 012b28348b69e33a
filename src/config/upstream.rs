//! `[[upstreams]]`: where they listen and how they are spoken to.

use std::path::PathBuf;
use std::time::Duration;

use super::{CertificateFiles, Preset};

/// One `[[upstreams]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// The name in logs, metrics and assertions.
    pub name: String,
    /// Where it listens: at least one, none twice. Requests are balanced between several.
    pub urls: Vec<UpstreamUrl>,
    /// The host it serves, lower case: exact or `*.example.com`; `None`: any.
    pub host: Option<String>,
    /// The path prefix it serves, in whole segments; `/`: all.
    pub path: String,
    /// Whether the prefix is cut off before forwarding.
    pub strip_path: bool,
    /// Whether the prefix is put back into `Location` and `Set-Cookie` paths.
    pub rewrite: bool,
    /// Connections across all workers.
    pub max_connections: usize,
    /// Whether the client's `Host` is forwarded; otherwise the upstream's own.
    pub pass_host: bool,
    /// To connect, TLS included.
    pub connect_timeout: Duration,
    /// From the request's last byte to the response's first.
    pub response_timeout: Duration,
    /// A stream or upgrade without a byte either way.
    pub stream_idle_timeout: Duration,
    /// Further tries where that is safe.
    pub retries: u32,
    /// The probe that `/upstreams/NAME/health` passes through.
    pub health_path: Option<String>,
    /// How often the probe is made by ourselves; two failures in a row take the upstream out until one succeeds.
    /// `None`: never.
    pub health_interval: Option<Duration>,
    /// TLS towards it.
    pub tls: UpstreamTls,
    /// What the identity headers are called for it; `None`: as `[identity]` says.
    pub preset: Option<Preset>,
    /// Header fields that are set on each request.
    pub set_headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// Header fields that are removed from each request.
    pub remove_headers: Vec<http::HeaderName>,
}

/// Where an upstream listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamUrl {
    /// `http://` or `https://` with a host and a port.
    Tcp {
        /// Whether TLS is spoken.
        tls: bool,
        /// A name or an address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// `unix:/path.sock`, plain HTTP.
    Unix(PathBuf),
    /// `h2c://` with a host and a port: HTTP/2 without TLS, by prior knowledge (RFC 9113, section 3.3).
    H2c {
        /// A name or an address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// `unix+h2c:/path.sock`: the same on a socket.
    UnixH2c(PathBuf),
}

impl UpstreamUrl {
    /// Whether TLS is spoken.
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp { tls: true, .. })
    }

    /// Whether HTTP/2 is spoken without asking.
    pub const fn is_h2c(&self) -> bool {
        matches!(self, Self::H2c { .. } | Self::UnixH2c(_))
    }
}

/// `tls` of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct UpstreamTls {
    /// The authorities to trust instead of the system's, as a PEM file.
    pub ca: Option<PathBuf>,
    /// Our certificate and key.
    pub client: Option<CertificateFiles>,
    /// The name to verify, if not the URL's host.
    pub server_name: Option<String>,
    /// Whether any certificate will do.
    pub insecure: bool,
}
