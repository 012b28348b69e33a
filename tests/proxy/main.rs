//! Forwarding, seen from both ends of real sockets: what an upstream gets byte for byte, and what a client gets back.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on says so by panicking"
)]

mod endpoints;
mod failure;
mod faults;
mod head;
mod http2;
mod moving;
mod stream;
mod support;
mod upgrade;
