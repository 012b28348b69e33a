//! The listeners that people and programs reach, and the walk of a request from there.
//!
//! `listen` accepts and hands connections to `worker`s, each a thread with a runtime of its own; `connection` speaks HTTP;
//! `serving` is what they serve with at this moment, which a reload swaps;
//! `gateway` is the life of a request; `caller` finds out who asks; `answered` counts and logs when the answer is through.

pub mod answered;
pub mod caller;
pub mod connection;
pub mod gateway;
pub mod listen;
pub mod serving;
pub mod tls;
pub mod worker;

pub use gateway::Gateway;
pub use listen::Listener;
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
