//! Forwarding, seen from both ends of real sockets: what an upstream gets byte for byte, and what a client gets back.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on says so by panicking")]

mod failure;
mod head;
mod stream;
mod support;
mod upgrade;
