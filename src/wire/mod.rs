//! HTTP plumbing that `web` and `proxy` share and that knows no use case.

pub mod body;
pub mod cache;
pub mod context;
pub mod cookie;
#[cfg(any(test, fuzzing))]
mod fuzzing;
pub mod header;
pub mod websocket;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use fuzzing::{cookie as fuzz_cookie, forwarded as fuzz_forwarded};
