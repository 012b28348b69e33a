//! Integration tests: the whole sidecar in one process, asked over its sockets. Every test names the requirement that it
//! holds; `docs/security.md` has the table.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that can't go on fails"
)]

mod away;
mod browser;
mod headers;
mod http2;
mod null_pass;
mod path;
mod programs;
mod property;
mod reload;
mod sessions;
mod sign_in;
mod smuggling;
mod start;
mod support;
mod tls;
