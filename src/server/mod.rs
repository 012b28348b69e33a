//! The listeners that people and programs reach, and the walk of a request from there.
//!
//! `listen` accepts (what `activation` inherits, or what it binds) and hands connections to `worker`s, each a thread with a
//! runtime of its own. `connection` is one of them: whose it is (`proxy_protocol`), `tls`, then in turn `parked`, where it
//! waits, and `session`, where hyper speaks HTTP on it, through the eyes of `watched` and by the clocks of `activity`.
//! `serving` is what a request is served with at this moment, which a reload swaps; `gateway` is its life; `caller` finds
//! out who asks; `admit` decides, also for `forward_auth`; `granted` is what those get who were let through; `answered`
//! counts and logs when the answer is through. `redirect` leads plain HTTP to TLS.

pub mod activation;
pub mod activity;
mod admit;
pub mod answered;
pub mod caller;
pub mod connection;
mod forward_auth;
#[cfg(any(test, fuzzing))]
mod fuzzing;
pub mod gateway;
mod granted;
pub mod hsts;
pub mod listen;
mod parked;
pub mod places;
pub mod proxy_protocol;
pub mod redirect;
mod residue;
mod seats;
pub mod serving;
mod session;
pub mod tls;
mod untaken;
mod watched;
pub mod worker;

pub use activation::Inherited;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use fuzzing::proxy_line as fuzz_proxy_line;
pub use gateway::Gateway;
pub use listen::Listener;
pub use places::Places;
pub use redirect::Redirect;
pub use serving::Everywhere;
pub use worker::Workers;

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address can't be listened on.
    #[error("can't listen on {address}: {source}")]
    Bind {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate or key can't be used.
    #[error("{path}: {problem}")]
    Certificate {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A thread could not be started.
    #[error("can't start a worker: {0}")]
    Worker(#[source] std::io::Error),
}
