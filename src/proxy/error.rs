//! Why there is no answer, and whose fault that is.

use std::path::PathBuf;

use http::StatusCode;

/// Why a request got no answer from its upstream. The texts are for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// The upstream: nothing listens there, its name is unknown or its certificate is not trusted.
    #[error("the upstream can't be reached")]
    Unreachable,
    /// The upstream: it closed the connection before it had answered.
    #[error("the upstream broke off")]
    BrokenOff,
    /// The upstream: its answer is not HTTP, or an upgrade that nobody asked for.
    #[error("the upstream's answer is not valid")]
    BadResponse,
    /// The upstream: it did not connect or answer in time.
    #[error("the upstream is too slow")]
    TooSlow,
    /// Nobody's: all connections are in use and the queue is full or did not move.
    #[error("all connections to the upstream are in use")]
    Saturated,
    /// The upstream: all its endpoints are out of service, for their probes or requests failed; nothing is sent to it.
    #[error("all endpoints of the upstream are out of service")]
    TakenOut,
    /// The client: its body is larger than `limits.max_body`.
    #[error("the request's body is too large")]
    BodyTooLarge,
    /// The client: its path is not spelled with the prefix that has to be cut off.
    #[error("the path does not begin with the upstream's prefix as it is written")]
    BadPrefix,
    /// The client: a method or a framing that can't be forwarded.
    #[error("the request can't be forwarded")]
    BadRequest,
    /// The client: it went away while it was sending.
    #[error("the client went away")]
    ClientGone,
    /// The client: its session ended while it was waiting or sending.
    #[error("the session ended meanwhile")]
    SessionEnded,
}

impl Error {
    /// The status to answer with.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Unreachable | Self::BrokenOff | Self::BadResponse => StatusCode::BAD_GATEWAY,
            Self::TooSlow => StatusCode::GATEWAY_TIMEOUT,
            Self::Saturated | Self::TakenOut => StatusCode::SERVICE_UNAVAILABLE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SessionEnded => StatusCode::UNAUTHORIZED,
            Self::BadPrefix | Self::BadRequest | Self::ClientGone => StatusCode::BAD_REQUEST,
        }
    }
}

/// Why the upstreams can't be set up. Each names the upstream.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file can't be read or holds no usable PEM.
    #[error("upstream \"{upstream}\": {path}: {cause}")]
    File {
        /// The upstream's name.
        upstream: String,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// The TLS settings do not go together.
    #[error("upstream \"{upstream}\": TLS: {cause}")]
    Tls {
        /// The upstream's name.
        upstream: String,
        /// What is wrong.
        cause: String,
    },
}
