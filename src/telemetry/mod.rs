//! What operators see of a running nullpass: logs, one access line a request, and metrics.

pub mod access;
pub mod log;
pub mod metrics;

pub use access::{AccessLog, Line};
pub use metrics::Metrics;
