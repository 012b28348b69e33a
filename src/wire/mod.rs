//! HTTP plumbing that `web` and `proxy` share and that knows no use case.

pub mod body;
pub mod cache;
pub mod context;
pub mod cookie;
pub mod header;
pub mod websocket;
